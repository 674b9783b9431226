"""Standardise: its statistics are those of the rows it was trained on, and rows have no company in scoring."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fusion.models.bahe.standardise import BOUND, Standardise
from fusion.training.train import _copy, _follow, _load


def batches(count: int, rows: int = 40) -> list[torch.Tensor]:
    """Of vectors that all point nearly the same way, as an LLM's do."""
    torch.manual_seed(0)
    return [torch.randn(rows, 2, 3) * torch.tensor([0.01, 0.3, 5.0]) + 300.0 for _ in range(count)]


def test_at_first_the_statistics_are_those_of_all_rows_so_far() -> None:
    own, seen = Standardise(2, 3).train(), batches(20)
    for batch in seen:
        own(batch)
    every = torch.cat(seen)
    torch.testing.assert_close(own.mean, every.mean(dim=0))
    torch.testing.assert_close(own.variance, every.var(dim=0, correction=0), rtol=1e-3, atol=1e-7)
    made = own.eval()(every)
    torch.testing.assert_close(made.mean(dim=0), torch.zeros(2, 3), atol=2e-2, rtol=0)
    torch.testing.assert_close(made.std(dim=0), torch.ones(2, 3), atol=2e-2, rtol=0)


def test_later_they_follow_what_is_new() -> None:
    own = Standardise(2, 3).train()
    for batch in batches(200):
        own(batch)
    for batch in batches(300):
        own(batch + 7.0)
    torch.testing.assert_close(own.mean, torch.full((2, 3), 307.0), atol=1.0, rtol=0)
    assert (own.variance[:, 0] < 0.3).all()  # that they moved, by 7, is forgotten too


def test_scoring_learns_nothing_and_a_row_scores_as_alone() -> None:
    own, (first, second) = Standardise(2, 3).train(), batches(2)
    own(first)
    before = _copy(own)
    made = own.eval()(second)
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    for row in range(3):
        assert torch.equal(own(second[row : row + 1])[0], made[row])


def test_a_row_counts_as_often_as_it_is_said_to_be_there() -> None:
    own, other, (batch,) = Standardise(2, 3).train(), Standardise(2, 3).train(), batches(1)
    there = torch.rand(40, 2) < 0.5
    own(torch.where(there[..., None], batch, torch.full_like(batch, 1e6)), there)
    other(batch, there)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in own.state_dict().items())
    torch.testing.assert_close(own.mean[1], batch[there[:, 1], 1].mean(dim=0))
    before = _copy(own)
    own(batch, torch.zeros(40, 2, dtype=torch.bool))
    assert torch.equal(own.mean, before["mean"])
    assert torch.equal(own.variance, before["variance"])
    times = torch.randint(0, 4, (40,))
    one, many = Standardise(2, 3).train(), Standardise(2, 3).train()
    one(batch, times)
    many(batch.repeat_interleave(times, dim=0))
    torch.testing.assert_close(one.mean, many.mean)
    torch.testing.assert_close(one.variance, many.variance)


def test_a_sequence_that_comes_late_has_its_own_beginning() -> None:
    """It is standardised at once by what it is, not by what stands for it before; the others are as without it."""
    own, other = Standardise(2, 3).train(), Standardise(1, 3).train()
    there = torch.ones(40, 2, dtype=torch.bool)
    for number, batch in enumerate(batches(60)):
        there[:, 1] = number >= 45
        made = own(batch, there)
        torch.testing.assert_close(other(batch[:, :1])[:, 0], made[:, 0])
        if number >= 45:
            torch.testing.assert_close(made[:, 1].mean(dim=0), torch.zeros(3), atol=0.5, rtol=0)
            torch.testing.assert_close(made[:, 1].std(dim=0), torch.ones(3), atol=0.3, rtol=0)
    every = torch.cat(batches(60)[45:])[:, 1]
    torch.testing.assert_close(own.mean[1], every.mean(dim=0))
    torch.testing.assert_close(own.variance[1], every.var(dim=0, correction=0), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_what_never_moves_is_nothing_and_what_is_unlike_all_is_bounded(rows: int) -> None:
    own = Standardise(3).train()
    assert own(torch.full((rows, 3), 5.0)).abs().max() == 0
    assert own.eval()(torch.full((1, 3), 1e9)).max() == BOUND


def test_no_gradient_flows_through_the_statistics_and_averaged_weights_have_them_too() -> None:
    own, (batch,) = Standardise(2, 3).train(), batches(1)
    x = batch.clone().requires_grad_()
    own(x).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (own.variance + 1e-6).rsqrt().expand_as(x))
    model = nn.Sequential(own, nn.Linear(3, 1))
    average = _copy(model)
    own.mean.add_(2.0)
    _follow(average, model, 0.5)
    _load(model, average)
    torch.testing.assert_close(own.mean, batch.mean(dim=0) + 1.0)


def test_a_deviation_is_of_the_rows_that_are_there_and_scoring_learns_none() -> None:
    own, (first, second) = Standardise(3).train(), [batch[:, 0] for batch in batches(2)]
    there = torch.rand(40) < 0.5
    made = own.deviation(first, there)
    torch.testing.assert_close(made, first[there].std(dim=0, correction=0), rtol=1e-3, atol=1e-4)
    assert torch.equal(own.eval().deviation(second, there), made)
