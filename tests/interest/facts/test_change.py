"""Change beyond chance: Fisher's exact test against scipy's, and how often it errs where nothing has changed."""

from __future__ import annotations

import random

import pytest
from scipy.stats import fisher_exact

from interest.facts.change import ALPHA, changed, fisher
from interest.facts.counts import Facts, facts_of
from interest.types import Behavior, Item

NAMES = ("Drama", "Comedy", "Thriller", "War", "Western", "Crime")


def drawn(draw: random.Random, weights: list[float], size: int = 50) -> Facts:
    names = draw.choices(NAMES, weights, k=size)
    catalogue = {str(at): Item(item_id=str(at), categories=(name,)) for at, name in enumerate(names)}
    rows = [(at, Behavior(user_id="u", item_id=str(at), action="view", at=float(at))) for at in range(size)]
    return facts_of(rows, catalogue)


@pytest.mark.parametrize(
    ("first", "of_first", "second", "of_second"),
    [(8, 50, 20, 50), (0, 10, 9, 30), (3, 7, 3, 7), (0, 5, 0, 9), (900, 9_000, 1_100, 9_000)],
)
def test_the_test_is_fishers(first: int, of_first: int, second: int, of_second: int) -> None:
    table = [[first, of_first - first], [second, of_second - second]]
    assert fisher(first, of_first, second, of_second) == pytest.approx(float(fisher_exact(table).pvalue), rel=1e-6)


def test_what_did_not_change_is_seldom_called_changed_and_what_did_mostly() -> None:
    draw = random.Random(3)
    same = [bool(changed(drawn(draw, [6, 5, 4, 3, 2, 1]), drawn(draw, [6, 5, 4, 3, 2, 1]))) for _ in range(200)]
    assert sum(same) / 200 <= ALPHA
    moved = [changed(drawn(draw, [6, 5, 4, 3, 2, 1]), drawn(draw, [1, 5, 4, 3, 2, 9])) for _ in range(100)]
    assert sum("Crime" in each.grew for each in moved) > 80
    assert not any("Crime" in each.fell or "Drama" in each.grew for each in moved)
