"""The recency-weighted pool: its formula, and that it never sees the future."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fusion.interests.pool import partition_vector, pool, window

UNIT = st.floats(-1, 1, width=16)


@st.composite
def histories(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float]:
    """Vectors (n, 3), their ascending partition indexes (gaps included), a half-life."""
    indexes = np.array(sorted(draw(st.sets(st.integers(0, 60), min_size=1, max_size=20))))
    vectors = draw(arrays.arrays(np.float32, (len(indexes), 3), elements=UNIT))
    return vectors, indexes, draw(st.sampled_from([0.1, 0.5, 1.0, 4.0, 100.0]))


@given(histories())
def test_it_is_the_recursion(history):
    """s_k = 2^(-1/h) s_(k-1) + v_k, one step a partition whether it has a vector or not; u_k is s_k at length 1."""
    vectors, indexes, half_life = history
    at_index = dict(zip(indexes.tolist(), vectors, strict=True))
    total = np.zeros(3)
    for index in range(int(indexes[-1]) + 1):
        total = 2 ** (-1 / half_life) * total + at_index.get(index, 0)
        if index in at_index and np.linalg.norm(total) > 0.01:  # near zero, the weights left out would show
            expected = total / np.linalg.norm(total)
            assert np.allclose(pool(vectors, indexes, index, half_life), expected, atol=1e-3)


@given(histories(), st.data())
def test_later_partitions_change_nothing(history, data):
    vectors, indexes, half_life = history
    at = data.draw(st.sampled_from(indexes.tolist()))
    changed = np.where((indexes > at)[:, None], np.float32(9), vectors)
    known = indexes <= at
    alone = pool(vectors[known], indexes[known], at, half_life)
    assert pool(vectors, indexes, at, half_life).tobytes() == alone.tobytes()
    assert pool(changed, indexes, at, half_life).tobytes() == alone.tobytes()


@given(histories(), st.data())
def test_what_is_read_is_bounded_by_the_window(history, data):
    """Adding partitions one by one, reading only the window, gives the same bytes as having them all."""
    vectors, indexes, half_life = history
    at = data.draw(st.sampled_from(indexes.tolist()))
    near = (indexes <= at) & (indexes > at - window(half_life))
    assert pool(vectors[near], indexes[near], at, half_life).tobytes() == (
        pool(vectors, indexes, at, half_life).tobytes()
    )


@given(histories())
def test_length_is_one_or_zero(history):
    vectors, indexes, half_life = history
    length = float(np.linalg.norm(pool(vectors, indexes, int(indexes[-1]), half_life)))
    assert length == pytest.approx(1, abs=1e-5) or length == 0


def test_a_half_life_halves():
    east, north = np.eye(2, dtype=np.float32)
    vectors, indexes = np.stack([east, north]), np.array([0, 4])
    pooled = pool(vectors, indexes, 4, half_life=4.0)
    assert pooled[0] / pooled[1] == pytest.approx(0.5)
    assert pool(vectors, np.array([0, 8]), 8, half_life=4.0)[0] == pytest.approx(1 / np.sqrt(17))


def test_a_partition_is_the_mean_of_its_texts():
    summary, shift = np.float32([1, 0]), np.float32([0, 1])
    assert partition_vector(summary, shift).tolist() == [0.5, 0.5]
    assert partition_vector(summary, None).tolist() == [1, 0]


@pytest.mark.parametrize("half_life", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_half_life(half_life):
    with pytest.raises(ValueError, match="positive number of partitions"):
        window(half_life)
