"""User behaviour streaming partition (LIBER, UBSP), as a pure function of a user's cache and the next behaviour.

The cache holds what the rules need and no behaviours: those are rows of the store already. Everything is decided by
the user's own behaviours in order of arrival, so any chunking, any crash and any transport gives the same partitions.
"""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Iterable

import msgspec

from interest.types import Behavior, Partition, Reason
from streams.ubsp.policy import Dedupe, Policy, period

# What makes an event itself and no other, by the policy's rule (Dedupe). Kept as the 8 bytes of its hash in this
# process, many in one string: a tenth of a tuple's memory, looked up at memchr's speed, wrong once in 10^17 events.
Identity = bytes
IDENTITY_BYTES = 8
_packed = struct.Struct("=q").pack


class Verdict(enum.Enum):
    ACCEPTED = "accepted"
    LATE = "late"  # accepted, but older than the newest closed partition's end
    DUPLICATE = "duplicate"  # dropped


ACCEPTED, LATE, DUPLICATE = Verdict  # reading an enum's member costs as much as the rest of the fold
EVENT_ID, ROW, NONE, TIME = Dedupe.EVENT_ID, Dedupe.ROW, Dedupe.NONE, Dedupe.TIME


class Cache(msgspec.Struct, frozen=True, gc=False):
    """A user's open, short-term cache: the behaviours since the newest closed partition."""

    user_id: str
    index: int = 0  # the index the open partition will have
    first_seq: int = 0  # the sequence number of its first behaviour
    open: bytes = b""  # identities of its behaviours, in order of arrival
    closed: bytes = b""  # identities of the newest closed partition's behaviours
    opened_at: float = math.inf  # least event time in the open cache
    last_at: float = -math.inf  # greatest event time in the open cache
    end: float = -math.inf  # greatest event time of any closed partition
    tokens: int = 0  # estimated tokens in the open cache

    @property
    def next_seq(self) -> int:
        return self.first_seq + len(self.open) // IDENTITY_BYTES


def identity(behavior: Behavior, rule: Dedupe) -> Identity:
    """The identity of a behaviour; `fold` has the same, written out."""
    row = (behavior.item_id, behavior.action, behavior.at, behavior.value, behavior.scene)
    if rule is ROW:
        return _packed(hash(row))
    if rule is TIME:
        return _packed(hash(behavior.event_id or row[:3]))
    return _packed(hash(behavior.event_id or row))


def contains(identities: bytes, key: Identity) -> bool:
    """Whether `key` is one of them."""
    place = identities.find(key)
    while place > 0 and place % IDENTITY_BYTES:  # across two identities
        place = identities.find(key, place + 1)
    return place >= 0


def fold(
    cache: Cache, behavior: Behavior, policy: Policy, tokens: int = 0
) -> tuple[Cache, Verdict, tuple[Partition, ...]]:
    """Add one behaviour; return the cache, what became of the behaviour, and the partitions it closed.

    At most two close at once: the one the behaviour no longer belongs to and, with a count of 1, its own.
    `tokens` is the estimated cost of the behaviour's line in a prompt; only a token policy reads it.
    """
    at, event_id, rule = behavior.at, behavior.event_id, policy.dedupe
    opened, last_at, end = cache.open, cache.last_at, cache.end
    if rule is TIME:
        key = _packed(hash(event_id or (behavior.item_id, behavior.action, at)))
    elif rule is ROW:
        key = _packed(hash((behavior.item_id, behavior.action, at, behavior.value, behavior.scene)))
    else:
        key = _packed(hash(event_id or (behavior.item_id, behavior.action, at, behavior.value, behavior.scene)))
    # what has no event_id and is newer than all before it cannot be among them
    if (event_id if rule is EVENT_ID else rule is not NONE and (event_id or at <= last_at or at <= end)) and (
        (opened.find(key) >= 0 and contains(opened, key))
        or (cache.closed.find(key) >= 0 and contains(cache.closed, key))
    ):
        return cache, DUPLICATE, ()
    verdict = LATE if at < end else ACCEPTED
    closed: tuple[Partition, ...] = ()
    if opened:
        reason = _ends_before(cache, at, policy, tokens)
        if reason is not None:
            cache, partition = close(cache, reason)
            closed = (partition,)
            opened, last_at, end = cache.open, cache.last_at, cache.end
    cache = Cache(
        cache.user_id,
        cache.index,
        cache.first_seq,
        opened + key,
        cache.closed,
        at if at < cache.opened_at else cache.opened_at,
        at if at > last_at else last_at,
        end,
        cache.tokens + tokens,
    )
    if policy.count is not None and len(opened) >= (policy.count - 1) * IDENTITY_BYTES:
        cache, partition = close(cache, Reason.COUNT)
        closed = (*closed, partition)
    return cache, verdict, closed


def sweep(cache: Cache, watermark: float, policy: Policy) -> tuple[Cache, Partition | None]:
    """Close a cache whose gap or calendar span has passed by `watermark` (event time), without a behaviour to do it.

    The partition is the one the user's next behaviour would have closed, with the same reason.
    """
    if cache.open:
        reason = _ends_before(cache, watermark, policy, 0)
        if reason is not None:
            return close(cache, reason)
    return cache, None


def close(cache: Cache, reason: Reason) -> tuple[Cache, Partition]:
    """Close the open cache as a partition; the cache after it is empty and remembers the partition's identities."""
    partition = Partition(
        user_id=cache.user_id,
        index=cache.index,
        first_seq=cache.first_seq,
        last_seq=cache.next_seq - 1,
        opened_at=cache.opened_at,
        closed_at=cache.last_at,
        reason=reason,
    )
    after = Cache(
        cache.user_id,
        index=cache.index + 1,
        first_seq=cache.next_seq,
        closed=cache.open,
        end=max(cache.end, cache.last_at),
    )
    return after, partition


def restore(
    user_id: str,
    newest: Partition | None,
    end: float,
    rows: Iterable[tuple[Identity, float, int]],
) -> Cache:
    """The cache a store's rows stand for: what folding the user's whole past would have left.

    `rows` are (identity, event time, tokens) in order of arrival from `newest.first_seq` on (from 0 without one);
    `end` is the greatest closed_at of the user's partitions.
    """
    size = newest.size if newest else 0
    known = list(rows)
    opened = known[size:]
    return Cache(
        user_id,
        index=newest.index + 1 if newest else 0,
        first_seq=newest.last_seq + 1 if newest else 0,
        open=b"".join([key for key, _, _ in opened]),
        closed=b"".join([key for key, _, _ in known[:size]]),
        opened_at=min((at for _, at, _ in opened), default=math.inf),
        last_at=max((at for _, at, _ in opened), default=-math.inf),
        end=end,
        tokens=sum(tokens for _, _, tokens in opened),
    )


def _ends_before(cache: Cache, at: float, policy: Policy, tokens: int) -> Reason | None:
    clock = cache.last_at if cache.last_at > cache.end else cache.end  # the greatest event time seen of this user
    # where both have passed, the one that passed first is the reason: a sweep in between would have named that one
    gone = policy.gap_s is not None and at - clock > policy.gap_s
    if policy.span is not None and at > clock:
        now = period(clock, policy.span)
        if period(at, policy.span) > now and not (gone and period(clock + (policy.gap_s or 0.0), policy.span) == now):
            return Reason.SPAN
    if gone:
        return Reason.GAP
    if policy.tokens is not None and cache.tokens + tokens > policy.tokens:
        return Reason.TOKENS
    return None
