"""Rows that hold vectors, compared to rounding.

What one user's vector is, is the same whoever else is in its batch; its last bits are not everywhere: a processor may
add the products of a larger batch up in another order. Processors with AVX-512 have been seen to agree to the bit.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np


def assert_alike(one: Any, other: Any) -> None:
    """The same in all but the last bits of vectors, which are float32, or float64 where that is what they are."""
    if isinstance(one, msgspec.Struct):
        assert type(one) is type(other)
        assert_alike(msgspec.structs.asdict(one), msgspec.structs.asdict(other))
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_alike(value, other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_alike(mine, theirs)
    elif isinstance(one, bytes) and isinstance(other, bytes) and one != other:
        assert len(one) == len(other)
        assert any(_close(one, other, kind) for kind in ("<f4", "<f8") if not len(one) % int(kind[2]))
    else:
        assert one == other


def _close(one: bytes, other: bytes, kind: str) -> bool:
    mine, theirs = np.frombuffer(one, kind), np.frombuffer(other, kind)
    return bool(np.isfinite(mine).all() and np.allclose(mine, theirs, rtol=1e-4, atol=1e-5))
