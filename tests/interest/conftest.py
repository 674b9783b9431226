"""A small world of films: one user's partition, the one before it, and their catalogue."""

from __future__ import annotations

import pytest

from interest.check.evidence import Evidence
from interest.facts.counts import Facts
from tests.support.films import facts


@pytest.fixture
def march() -> Facts:
    """Eleven ratings, mean 3.6: dramas often, thrillers low, comedies high; one horror film."""
    rated = [
        ("2", 3),
        ("3", 2),
        ("5", 5),
        ("4", 5),
        ("6", 4),
        ("8", 4),
        ("9", 2),
        ("10", 2),
        ("7", 4),
        ("1", 4),
        ("4", 5),
    ]
    return facts(*rated, first_seq=50)


@pytest.fixture
def february() -> Facts:
    """The partition before: mostly thrillers and action."""
    return facts(("2", 4), ("3", 4), ("9", 5), ("10", 5), ("9", 4), ("10", 4), ("9", 3), ("2", 4), ("3", 3), ("9", 3))


@pytest.fixture
def evidence(march: Facts) -> Evidence:
    return Evidence(march, categories=("Action", "Animation", "Comedy", "Western"))


@pytest.fixture
def shift_evidence(february: Facts, march: Facts) -> Evidence:
    return Evidence(march, before=february, categories=("Action", "Animation", "Comedy", "Western"))
