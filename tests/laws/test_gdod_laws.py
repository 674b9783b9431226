"""Laws of balanced gradients: GDOD opposes no task, knows no order and no ties, and one task keeps its own gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fusion.training.balance import FIXED, NAMES, Balance, Balancer, gram_of, weights_by
from fusion.training.gdod import shared_weights

ROUNDING = 1e-6
CONFLICT = torch.tensor([[1.0, 0.1, 0.0], [-0.9, 0.3, 0.2], [-0.3, -1.0, -0.4]], dtype=torch.float64)
LONG_AND_SHORT = torch.tensor(  # torchjd's MGDA had a cosine of -.8 here, at such lengths
    [[1.0, 0.1, 0.0], [-0.9, 0.3, 0.2], [0.3, 1.0, -0.4], [0.2, -0.5, 1.0]], dtype=torch.float64
)
LENGTHS = [-1.7, -1.7, 1.9, 0.9, 0.0]
numbers = st.floats(-3, 3, allow_nan=False, width=32)


@st.composite
def gradients(draw: st.DrawFn, least: int = 1) -> torch.Tensor:
    """(T, P) gradients of tasks, some alike, opposed, tied in length or zero."""
    tasks, size = draw(st.integers(least, 5)), draw(st.integers(1, 6))
    rows = [draw(st.lists(numbers, min_size=size, max_size=size)) for _ in range(tasks)]
    for place in range(1, tasks):
        kind = draw(st.sampled_from(["own", "own", "same", "opposed", "zero"]))
        if kind != "own":
            rows[place] = [{"same": 1.0, "opposed": -1.0, "zero": 0.0}[kind] * number for number in rows[place - 1]]
    return torch.tensor(rows, dtype=torch.float64)


def update(own: torch.Tensor, name: Balance = "gdod-pure") -> torch.Tensor:
    return Balancer(name).weights(own @ own.T)[0] @ own


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ((2.0, 0.0), (-0.5, 3**0.5 / 2), (0.12596, 1.03349)),
        ((2.0, 0.0), (0.5, 3**0.5 / 2), (2.56741, 0.31292)),
    ],
)
def test_the_papers_construction_is_reproduced(
    one: tuple[float, float], other: tuple[float, float], wanted: tuple[float, float]
) -> None:
    np.testing.assert_allclose(update(torch.tensor([one, other], dtype=torch.float64)), wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["gdod-pure", "gdod"])
@given(own=gradients())
def test_no_task_is_opposed(name: Balance, own: torch.Tensor) -> None:
    made = update(own, name)
    assert (own @ made >= -ROUNDING * (1 + float(own.norm()) ** 2)).all()


@pytest.mark.parametrize("name", ["gdod", "mgda", "upgrad", "dualproj"])
@given(own=gradients(), lengths=st.lists(st.floats(-2.5, 2.5), min_size=5, max_size=5))
@example(own=CONFLICT, lengths=[0.0, 0.0, -2.0, 0.0, 0.0])
@example(own=LONG_AND_SHORT, lengths=LENGTHS)
def test_no_task_is_opposed_however_much_lengths_differ(name: Balance, own: torch.Tensor, lengths: list[float]) -> None:
    """By the cosine: a short gradient's product with the update says little beside a long one's."""
    rows = own[own.norm(dim=1) > 1e-3]
    unit = rows / rows.norm(dim=1, keepdim=True)
    own = unit * 10.0 ** torch.tensor(lengths, dtype=torch.float64)[: len(unit), None]
    weights, seen = Balancer(name).weights(own @ own.T)
    made = weights @ own
    if not seen.zero:  # what is nothing has no direction
        assert (unit @ made >= -0.01 * float(made.norm())).all()


def test_mgda_and_upgrad_are_what_they_are_defined_as() -> None:
    """Of two gradients: UPGrad projects each on what does not oppose the other, MGDA takes the hull's shortest."""
    own = torch.tensor([[2.0, 0.0], [-0.5, 3**0.5 / 2]], dtype=torch.float64)
    one, other = own
    projected = one - (one @ other) / (other @ other) * other + other - (one @ other) / (one @ one) * one
    np.testing.assert_allclose(update(own, "upgrad"), projected, atol=1e-6)
    between = torch.linspace(0, 1, 100_001, dtype=torch.float64)[:, None]
    hull = between * one + (1 - between) * other
    np.testing.assert_allclose(update(own, "mgda"), 2 * hull[hull.norm(dim=1).argmin()], atol=1e-4)


@given(gradients(), st.randoms())
def test_the_order_of_tasks_changes_nothing(own: torch.Tensor, random: object) -> None:
    order = list(range(len(own)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled, gap = own[order], _gap(own @ own.T)
    if gap > 1e-6:  # nearer than that, whether two eigenvalues are alike is a matter of rounding
        np.testing.assert_allclose(update(shuffled), update(own), atol=1e-4 * (1 + float(own.norm())) / min(1.0, gap))


def test_tasks_of_one_length_and_no_common_direction_are_a_tie_that_no_basis_decides() -> None:
    """Orthogonal gradients of one length: every basis is as good, and their sum opposes none of them."""
    own = torch.eye(4, dtype=torch.float64) * 2
    np.testing.assert_allclose(update(own), own.sum(dim=0), atol=1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cagrad"])
@given(own=gradients().filter(lambda own: bool(own[0].any())))
def test_one_task_has_its_plain_gradient_by_every_balancer(name: Balance, own: torch.Tensor) -> None:
    alone = own[:1]
    np.testing.assert_allclose(update(alone, name), alone[0], atol=1e-3 * float(alone.norm()))


@pytest.mark.parametrize("name", ["gdod", "gdod-lengths"])
@given(own=gradients(least=2))
@example(own=torch.tensor([[1e-4], [-2.0]], dtype=torch.float64))  # one is lost beside the other in a solver's rounding
def test_what_is_taken_where_nothing_is_shared_opposes_no_task_either(name: Balance, own: torch.Tensor) -> None:
    fallback = weights_by(name)[1]
    assert fallback is not None
    own = own[own.any(dim=1)]
    if len(own):
        made = fallback(own @ own.T, torch.ones(len(own), dtype=torch.float64)) @ own
        assert (own @ made >= -1e-5 * float(own.norm()) ** 2).all()


@given(st.floats(-0.9, 0.9), st.floats(0.01, 100))
def test_of_one_length_neither_of_two_tasks_is_left_out(cosine: float, longer: float) -> None:
    own = torch.tensor([[1.0, 0.0], [cosine * longer, (1 - cosine**2) ** 0.5 * longer]], dtype=torch.float64)
    pure, unit = ((own @ update(own, name)) / own.norm(dim=1) for name in ("gdod-pure", "gdod"))
    assert (unit > 0).all()
    assert abs(float(unit[0] - unit[1])) < ROUNDING * float(unit.sum())
    assert (pure > -ROUNDING).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cagrad"])
def test_the_length_of_gradients_decides_nothing(name: Balance) -> None:
    """Those of a model that has nearly learnt are short; who then takes them for zero opposes tasks."""
    own = torch.tensor([[1.0, 0.2, 0.0], [-0.9, 0.3, 0.1], [0.1, 0.1, -1.0]], dtype=torch.float64)
    torch.manual_seed(0)
    long = update(own, name)
    torch.manual_seed(0)
    np.testing.assert_allclose(update(own * 1e-5, name), long * 1e-5, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cagrad"])
def test_a_task_without_a_gradient_changes_nothing(name: Balance) -> None:
    """A batch that has none of a task's labels: the others learn from it as if there were no such task."""
    own = torch.tensor([[1.0, 0.2, 0.0], [-0.9, 0.3, 0.1]], dtype=torch.float64)
    more = torch.cat([own[:1], torch.zeros(1, 3, dtype=torch.float64), own[1:]])
    torch.manual_seed(0)
    wanted = update(own, name)
    torch.manual_seed(0)
    torch.testing.assert_close(update(more, name), wanted)
    assert wanted.any() or name == "gdod-pure"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("cagrad", *FIXED)])
def test_a_task_of_little_weight_says_little(name: Balance) -> None:
    """Towards the update of the other task alone, as its weight falls; and no task of GDOD's is opposed."""
    own = torch.tensor([[1.0, 0.5], [0.2, 1.5]], dtype=torch.float64)
    cosines = []
    for weight in (1.0, 0.1, 0.01):
        weighted = own * torch.tensor([[1.0], [weight]], dtype=torch.float64)
        made = Balancer(name, preference=(1.0, weight)).weights(weighted @ weighted.T)[0] @ weighted
        cosines.append(float(torch.cosine_similarity(made, own[0], dim=0)))
        assert (own @ made >= -ROUNDING).all()
    assert cosines[-1] > 0.999
    assert cosines[0] < cosines[-1]


def test_gradients_that_cancel_but_for_rounding_share_nothing() -> None:
    """In float32, in which models learn: what is left of them is not a direction that both want."""
    torch.manual_seed(0)
    one, other = torch.randn(2, 4000)
    gram = gram_of([[one, -1.3 * one, other]], 3)
    weights, seen = Balancer("gdod").weights(gram)
    assert seen.zero
    assert float((weights @ gram @ weights).sqrt()) > 0.1 * float(gram.diagonal().sqrt().mean())


def test_zero_gradients_are_a_zero_update() -> None:
    assert not shared_weights(torch.zeros(3, 3)).any()


def _gap(gram: torch.Tensor) -> float:
    """The least distance of eigenvalues that are not alike, as a share of the greatest."""
    values = torch.linalg.eigvalsh(gram)
    if float(values[-1]) <= 0:
        return 1.0
    gaps = (torch.diff(values) / values[-1]).tolist()
    return min((gap for gap in gaps if gap > 1e-9), default=1.0)
