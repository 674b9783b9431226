"""Balanced gradients on a model of one shared vector and a number of each task's own."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from fusion.training.balance import CAUTION, FIXED, Balancer, balance_named, gram_of
from interest.errors import InputError


class Two(nn.Module):
    """Task i's loss is the product of the shared vector with its direction, and with its own number."""

    def __init__(self, directions: Tensor) -> None:
        super().__init__()
        self.directions = directions
        self.shared = nn.Parameter(torch.zeros(directions.shape[1]))
        self.own = nn.ParameterList(nn.Parameter(torch.ones(1)) for _ in directions)
        self.unused = nn.Parameter(torch.ones(1))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def losses(self) -> list[Tensor]:
        pairs = enumerate(zip(self.directions, self.own, strict=True), 1)
        return [direction @ self.shared + number * own.sum() for number, (direction, own) in pairs]


def after(name: str, directions: list[list[float]], step: int = 0) -> tuple[Two, Balancer]:
    model, balancer = Two(torch.tensor(directions)), Balancer(balance_named(name))
    balancer.gradients(model, model.losses(), step)
    return model, balancer


def test_a_sum_is_what_one_backward_pass_gives_and_own_parameters_are_left_alone() -> None:
    directions = [[2.0, 0.0], [-0.5, 3**0.5 / 2]]
    plain = Two(torch.tensor(directions))
    torch.stack(plain.losses()).sum().backward()
    for name in ("sum", "gdod", "mgda", "pcgrad"):
        model, balancer = after(name, directions)
        assert [own.grad.item() for own in model.own if own.grad is not None] == [1.0, 2.0]
        assert model.unused.grad is None
        assert model.frozen.grad is None
        assert (balancer.steps, balancer.conflicts, balancer.zeros) == (1, 1, 0)
        assert model.shared.grad is not None
        assert plain.shared.grad is not None
        assert torch.allclose(model.shared.grad, plain.shared.grad) == (name == "sum")
    shared = after("gdod-pure", directions)[0].shared.grad
    torch.testing.assert_close(shared, torch.tensor([0.12596, 1.03349]), atol=1e-5, rtol=0)


def test_a_step_in_which_nothing_is_shared_is_counted_and_gdod_takes_what_opposes_no_task() -> None:
    """Three tasks, two of them apart: no eigenvector of their Gram matrix has one sign."""
    directions = [[1.0, 0.1, 0.0], [-0.9, 0.3, 0.2], [0.3, 1.0, -0.4]]
    pure, counted = after("gdod-pure", directions)
    assert pure.shared.grad is not None
    assert not pure.shared.grad.any()
    assert (counted.steps, counted.conflicts, counted.zeros) == (1, 1, 1)
    ours, counted = after("gdod", directions)
    assert ours.shared.grad is not None
    assert counted.zeros == 1
    assert (torch.tensor(directions) @ ours.shared.grad > -1e-5).all()
    assert ours.shared.grad.norm() > 0.5
    counted.reset()
    assert (counted.steps, counted.conflicts, counted.zeros) == (0, 0, 0)


def test_what_is_drawn_at_random_follows_from_the_step_alone() -> None:
    """Of three tasks in conflict PCGrad's result depends on an order that it draws."""
    directions = [[1.0, 0.1, 0.0], [-0.9, 0.3, 0.2], [-0.3, -1.0, -0.4]]
    torch.manual_seed(5)
    drawn = torch.rand(3)
    made = {}
    for number in range(12):
        torch.manual_seed(5)
        model, _ = after("pcgrad", directions, number % 6)
        assert torch.equal(torch.rand(3), drawn)  # dropout's numbers are left alone
        assert model.shared.grad is not None
        made.setdefault(number % 6, []).append(model.shared.grad)
    assert all(torch.equal(*each) for each in made.values())
    assert any(not torch.equal(made[0][0], each[0]) for each in made.values())


def test_a_gram_matrix_leaves_out_what_a_task_does_not_reach() -> None:
    one, other = torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])
    gram = gram_of([[one, None, 2 * one], [None, other, other]], 3)
    assert gram.tolist() == [[5.0, 0.0, 10.0], [0.0, 9.0, 9.0], [10.0, 9.0, 29.0]]
    assert gram_of([], 2).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_cagrad_is_the_step_near_the_mean_that_helps_the_worst_task_most() -> None:
    """CAGrad (Liu et al., NeurIPS 2021, equation 3), by torchjd on cvxpy: no direction as near is better."""
    directions = torch.tensor([[2.0, 0.0], [-0.5, 3**0.5 / 2]])
    mean = directions.mean(dim=0)
    made = after("cagrad", directions.tolist())[0].shared.grad
    assert made is not None
    made = made / 2  # of two tasks, on the scale of a sum
    assert float((made - mean).norm() / mean.norm()) == pytest.approx(CAUTION, abs=1e-3)
    angles = torch.linspace(0, 2 * torch.pi, 721)
    ring = mean + CAUTION * mean.norm() * torch.stack([angles.cos(), angles.sin()], dim=1)  # (n, 2)
    assert float((directions @ made).min()) == pytest.approx(float((ring @ directions.T).amin(dim=1).max()), abs=1e-3)


def test_a_balancer_whose_package_is_missing_says_which_extra_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchjd._mixins.find_spec", lambda name: None if name == "cvxpy" else find_spec(name))
    with pytest.raises(InputError, match=r"^--balance cagrad needs .* pip install 'interestream\[cagrad\]'$"):
        balance_named("cagrad")


@pytest.mark.parametrize("name", FIXED)
def test_weights_are_refused_where_they_would_change_nothing(name: str) -> None:
    assert balance_named(name, [0.5, 0.5]) == name
    with pytest.raises(InputError, match=f"--balance {name} gives tasks shares of its own.*leave out @WEIGHT"):
        balance_named(name, [1.0, 0.5])


def test_a_balancer_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(InputError, match="--balance nash: no such way; give one of sum, gdod, gdod-pure"):
        balance_named("nash")
