"""The tower reads what is shared and what is mapped as it reads the same inputs written out."""

from __future__ import annotations

import pytest
import torch

from fusion.models.tower import Input, Mapped, Shared, Tower

ROWS, ITEM, STATE, DENSE = 7, 4, 3, 2


def inputs(groups: int) -> list[Input]:
    item, dense = torch.randn(ROWS, ITEM), torch.randn(ROWS, DENSE)
    shared = Shared(torch.randn(groups, STATE), torch.randint(groups, (ROWS,)))
    return [item, shared, Mapped(item, torch.randn(5, ITEM), torch.randn(5)), dense]


def written_out(some: list[Input]) -> list[Input]:
    return [one if isinstance(one, torch.Tensor) else one.expanded() for one in some]


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("parts", [[0, 1, 2, 3], [0, 2, 3], [0, 1, 3], [2, 0], [0, 3, 2, 2, 1, 1]])
def test_an_input_counts_as_if_it_were_written_out(groups: int, parts: list[int]) -> None:
    torch.manual_seed(0)
    every = inputs(groups)
    some = [every[part] for part in parts]
    width = sum(one.shape[1] for one in written_out(some) if isinstance(one, torch.Tensor))
    tower = Tower(width, DENSE, (6, 5), dropout=0.0).eval()
    torch.testing.assert_close(tower.read(some), tower.read(written_out(some)))
