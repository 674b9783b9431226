"""Rows of vectors for the texts of a log: what a model that reads texts takes instead of embeddings of ids.

Made by `fusion.bank.index.with_bank`; this file knows no bank, so that samples can hold one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fusion.features.log import Array


@dataclass(frozen=True, slots=True)
class BankIndex:
    """Which vector stands for every event of a log of N events and for every one of I items."""

    vectors: Array  # (K, d) float16, a memory map
    event: Array  # (N + 1,) int64, into the K; the last is the padding event
    item: Array  # (I + 1,) int64; -1 where nothing is known. Row 0 is padding, item i is row i + 1
    # by sequence name: the entries of the past that belong to it, found once per log
    sequences: dict[str, Array] = field(default_factory=dict, repr=False, compare=False)
