"""Random logs of a few users, and which of their rows a sample may see, by the definition."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from fusion.features.log import Log
from tests.support.ctr_world import DAY

USERS, ITEMS = 4, 8
# days apart, hours apart and equal times; arrival is not in order of time
TIMES = st.one_of(st.integers(0, 30).map(lambda day: day * DAY), st.integers(0, 300).map(lambda hour: hour * 3600.0))
ROWS = st.lists(
    st.tuples(
        st.integers(0, USERS - 1),
        st.integers(0, ITEMS - 1),
        TIMES,
        st.one_of(st.none(), st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0])),
    ),
    min_size=2,
    max_size=60,
)


def visible(log: Log, row: int) -> np.ndarray:
    """The rows that the sample of `row` may see, by the definition."""
    first = log.starts[log.user[row]]
    earlier = np.arange(first, row)
    return earlier[log.at[earlier] <= log.at[row]]
