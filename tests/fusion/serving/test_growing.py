"""Rows put behind an array are those of one concatenation, and rows that were read before stay as they were."""

from __future__ import annotations

import numpy as np

from fusion.serving.growing import Growing


def test_it_holds_what_a_concatenation_holds() -> None:
    rng, growing = np.random.default_rng(0), Growing(np.zeros((3, 2), np.float32)[1:])
    whole, buffers = growing.rows.copy(), set()
    for size in [0, *rng.integers(0, 4, 200)]:
        before = growing.rows
        kept, new = before.copy(), rng.normal(size=(size, 2)).astype(np.float32)
        whole = np.concatenate([whole, new])
        np.testing.assert_array_equal(growing.append(new), whole)
        np.testing.assert_array_equal(before, kept)
        if len(whole) > 2:
            growing.rows[-1] = whole[-1] = 7.0
        buffers.add(growing.nbytes)
    assert growing.rows.dtype == np.float32
    assert growing.nbytes < 1.3 * growing.rows.nbytes
    assert len(buffers) < 40  # as often were the rows copied
