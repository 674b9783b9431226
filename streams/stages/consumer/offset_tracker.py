"""How far one Kafka partition has been worked off when messages are finished in any order. Pure."""

from __future__ import annotations

import itertools

MAX_METADATA = 3_500  # Kafka keeps 4,096 bytes of text with a commit (offset.metadata.max.bytes)


class OffsetTracker:
    """The messages of one Kafka partition that are in flight, and what may be committed.

    A commit is the low-water mark with a text that tells which messages beyond it are not done with, so that a worker
    that stops and starts repeats none. Holds only what is in flight: whatever else lies before `position` is done with.
    """

    __slots__ = ("_in_flight", "_unfinished", "_until", "position")

    def __init__(self, start: int, metadata: str = "") -> None:
        """`start` and `metadata` are those of the last commit."""
        self.position = start  # the offset to read next; grows over gaps (control records) too
        self._in_flight: dict[int, None] = {}  # in order of offset: Kafka hands messages out so
        self._until, self._unfinished = _parse(start, metadata)

    def __len__(self) -> int:
        """Messages in flight."""
        return len(self._in_flight)

    def take(self, offset: int) -> bool:
        """A message is handed out; its offset is greater than all before. False: it is done with already."""
        if offset < self.position:
            raise ValueError(f"offset {offset} was handed out already: the next one is {self.position}")
        self.position = offset + 1
        if offset < self._until and offset not in self._unfinished:
            return False
        self._unfinished.discard(offset)
        self._in_flight[offset] = None
        return True

    def skip_to(self, position: int) -> None:
        """Nothing that is ours lies before `position`."""
        self.position = max(self.position, position)

    def acknowledge(self, offset: int) -> bool:
        """The message's effect is stored. False if it is not in flight (any more)."""
        return self._in_flight.pop(offset, self) is None

    @property
    def low(self) -> int:
        """The low-water mark: everything before it is done with, so it may be committed."""
        return next(iter(self._in_flight), self.position)

    @property
    def ahead(self) -> int:
        """How far reading is ahead of the low-water mark."""
        return self.position - self.low

    def metadata(self) -> str:
        """The commit's text: an offset, and how far beyond the low-water mark those before it lie that are not done.

        As many as the text has room for; what is finished beyond them would be repeated.
        """
        low, until = self.low, max(self.position, self._until)
        open_now = list(
            itertools.chain(self._in_flight, sorted(one for one in self._unfinished if one >= self.position))
        )
        told: list[str] = []
        size = 0
        for offset in open_now:
            told.append(str(offset - low))
            size += len(told[-1]) + 1
            if size > MAX_METADATA - 30:
                until = offset + 1
                break
        return f"{until} {','.join(told)}".rstrip() if until > low else ""


def _parse(start: int, metadata: str) -> tuple[int, set[int]]:
    """The offset up to which a commit's text tells what is done, and what is not. Any other text tells nothing."""
    until, _, told = metadata.partition(" ")
    try:
        return int(until), {start + int(one) for one in told.split(",") if one}
    except ValueError:
        return start, set()
