"""Kafka's own partitioner: the partition a key belongs to, as every Kafka client in every language computes it."""

from __future__ import annotations

from kafka.partitioner import murmur2

REMEMBERED = 1_000_000  # keys: 100 MB; a hash in Python costs 3 µs, a look-up 0.05


def partition_of(key: str, count: int) -> int:
    """The partition of a key among `count`."""
    return int((murmur2(key.encode()) & 0x7FFFFFFF) % count)


class Partitioner(dict[str, int]):
    """`partitioner[key]` is the key's partition among `count`; computed once a key."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def __missing__(self, key: str) -> int:
        if len(self) >= REMEMBERED:
            self.clear()
        self[key] = partition = partition_of(key, self.count)
        return partition
