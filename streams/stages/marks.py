"""How far one Kafka partition has been worked off when messages are finished in any order. Pure."""

from __future__ import annotations


class Marks:
    """The messages of one Kafka partition that are in hand, and the offset that may be committed.

    Holds only what is in hand: messages that were finished before an older one are known by not being there.
    """

    __slots__ = ("_in_hand", "position")

    def __init__(self, start: int) -> None:
        self.position = start  # the offset to read next; grows over gaps (control records) too
        self._in_hand: dict[int, None] = {}  # in order of offset: Kafka hands messages out so

    def __len__(self) -> int:
        """Messages in hand."""
        return len(self._in_hand)

    def take(self, offset: int) -> None:
        """A message was handed out; its offset is greater than all before."""
        if offset < self.position:
            raise ValueError(f"offset {offset} was handed out already: the next one is {self.position}")
        self._in_hand[offset] = None
        self.position = offset + 1

    def skip_to(self, position: int) -> None:
        """Nothing that is ours lies before `position`."""
        self.position = max(self.position, position)

    def acknowledge(self, offset: int) -> bool:
        """The message's effect is stored. False if it is not in hand (any more)."""
        return self._in_hand.pop(offset, self) is None

    @property
    def low(self) -> int:
        """The low-water mark: everything before it is done with, so it may be committed."""
        return next(iter(self._in_hand), self.position)

    @property
    def ahead(self) -> int:
        """How far reading is ahead of the low-water mark: what a crash would have to go through again, at most."""
        return self.position - self.low
