"""Release years of items as vectors: near years are alike, and one more number is the year itself.

A year becomes the angles of a few slow clocks, so that the product of two vectors falls smoothly with the years between
them: 1 for the same year, .98 for two years apart, .87 for five, .54 for ten, next to nothing from eighteen on. Items
without a year have zeros. Knows nothing of the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fusion.features.log import Array
from interest.facts.counts import readable_title
from interest.types import Item

PERIODS = (40.0, 80.0, 160.0)  # years of a clock's round: quicker ones would call twenty years apart alike
ANGLES = 2 * len(PERIODS)
WIDTH = ANGLES + 1
MIDDLE, SPAN = 2000.0, 50.0  # the number is 0 in 2000 as without a year, -1 in 1950
EARLIEST, LATEST = 1000, 2200  # what else a catalogue has in a column of that name is not a year


def year_of(item: Item | None) -> int | None:
    """The release year: a column with `year` in its name, or a title such as "Heat (1995)"."""
    year = None if item is None else readable_title(item)[1]
    return year if year is not None and EARLIEST <= year <= LATEST else None


def year_vectors(items: Sequence[str], catalogue: Mapping[str, Item]) -> Array:
    """(I, 7) float32: ANGLES numbers of length 1, then the year as a number; zeros where an item has no year."""
    years = np.array([year_of(catalogue.get(item)) or 0 for item in items], np.float64)
    angles = 2 * np.pi * years[:, None] / np.array(PERIODS)  # (I, 3)
    unit = np.hstack([np.cos(angles), np.sin(angles)]) / np.sqrt(len(PERIODS))
    vectors = np.hstack([unit, (years[:, None] - MIDDLE) / SPAN])
    return np.asarray(vectors * (years > 0)[:, None], np.float32)


def share_with_year(catalogue: Mapping[str, Item]) -> float:
    """The share of the catalogue's items that have a year, 0 to 1."""
    return sum(year_of(item) is not None for item in catalogue.values()) / max(len(catalogue), 1)
