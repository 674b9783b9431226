"""The behaviour log as arrays: every event stored once, each user's events together and in order of arrival.

Decides how the store's rows become numbers. Knows nothing of labels, splits, features or models.
One million behaviours take about 40 bytes each; strings are kept once, in dictionaries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Select, collate, func, select

from interest.errors import StoreError
from interest.store.tables import behaviors

Array = npt.NDArray[Any]
READ_AT_ONCE = 20_000  # rows per fetch: 1M rows in 3 s, and the fetched tuples stay under 10 MB
USERS_AT_ONCE = 500  # below every driver's limit on parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """N behaviours of U users on I items, in (user, seq) order. Row i of every (N,) array is the same event."""

    users: list[str]  # (U,) ids
    items: list[str]  # (I,) ids
    actions: list[str]
    starts: Array  # (U + 1,) int64: the rows of user u are starts[u]..starts[u + 1] - 1
    user: Array  # (N,) int32, into `users`
    item: Array  # (N,) int32, into `items`
    action: Array  # (N,) int32, into `actions`
    seq: Array  # (N,) int64, the store's own numbers
    at: Array  # (N,) float64, event time, UTC seconds
    value: Array  # (N,) float32, NaN where the event has none
    scenes: list[str] = field(default_factory=list)
    scene: Array = field(default_factory=lambda: np.empty(0, np.int32))  # (N,) int32 into `scenes`, -1 none; or empty
    offer: Array = field(default_factory=lambda: np.empty(0, bool))  # (N,) bool: an offer, no behaviour; empty: none is

    @property
    def size(self) -> int:
        return len(self.item)

    @property
    def content(self) -> tuple[Array, ...]:
        """What happened, without the names."""
        held = (self.starts, self.item, self.action, self.at, self.value, self.scene)
        return (*held, self.offer) if len(self.offer) else held

    @property
    def behaved(self) -> Array:
        """(B,) int64: the rows that are behaviours."""
        return np.flatnonzero(~self.offer) if len(self.offer) else np.arange(self.size)

    def rank(self) -> Array:
        """(N + 1,) int64: how many behaviours lie before each row, and in all."""
        if not len(self.offer):
            return np.arange(self.size + 1)
        return np.concatenate([[0], np.cumsum(~self.offer)])

    def position(self) -> Array:
        """How many behaviours of its user lie before every event: (N,) int64."""
        rank = self.rank()
        return np.asarray(rank[:-1] - rank[self.starts[self.user]])


def read_log(
    connection: Connection, users: Sequence[str] | None = None, advance: Callable[[int], None] | None = None
) -> Log:
    """Read the whole log, or only `users` (who keep the given order; one without events is kept, empty)."""
    columns: list[list[Array]] = [[] for _ in range(7)]
    index: tuple[dict[str, int], dict[str, int], dict[str, int]] = (
        {user: i for i, user in enumerate(users or ())},
        {},
        {},
    )
    scenes: dict[str | None, int] = {None: -1}
    for rows in _chunks(connection, users):
        user, seq, item, action, at, value, scene = zip(*rows, strict=True)
        for column, (texts, numbers) in enumerate(zip((user, item, action), index, strict=True)):
            columns[column].append(np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int32))
        columns[3].append(np.array(seq, np.int64))
        columns[4].append(np.array(at, np.float64))
        columns[5].append(np.array(value, np.float32))  # None becomes NaN
        columns[6].append(np.array([scenes.setdefault(text, len(scenes) - 1) for text in scene], np.int32))
        if advance:
            advance(len(rows))
    dtypes = (np.int32, np.int32, np.int32, np.int64, np.float64, np.float32, np.int32)
    user_, item_, action_, seq_, at_, value_, scene_ = (
        np.concatenate(parts) if parts else np.empty(0, dtype) for parts, dtype in zip(columns, dtypes, strict=True)
    )
    if users is not None and len(user_):  # chunks of users arrive sorted by id, not in the order asked for
        order = np.lexsort((seq_, user_))
        unordered = (user_, item_, action_, seq_, at_, value_, scene_)
        user_, item_, action_, seq_, at_, value_, scene_ = (a[order] for a in unordered)
    return Log(
        users=list(index[0]),
        items=list(index[1]),
        actions=list(index[2]),
        starts=np.searchsorted(user_, np.arange(len(index[0]) + 1)).astype(np.int64),
        user=user_,
        item=item_,
        action=action_,
        seq=seq_,
        at=at_,
        value=value_,
        scenes=[text for text in scenes if text is not None],
        scene=scene_,
    )


def read_after(connection: Connection, user_id: str, after: int) -> Iterator[Log]:
    """One user's behaviours with greater sequence numbers than `after`, in pieces, each a log of that user alone."""
    query = _select().where(behaviors.c.user_id == user_id, behaviors.c.seq > after).order_by(behaviors.c.seq)
    for rows in _pages(connection, query):
        _, seq, item, action, at, value, scene = zip(*rows, strict=True)
        items, actions, scenes = (list(dict.fromkeys(texts)) for texts in (item, action, filter(None, scene)))
        place = [{text: i for i, text in enumerate(texts)} for texts in (items, actions, scenes)]
        yield Log(
            users=[user_id],
            items=items,
            actions=actions,
            starts=np.array([0, len(rows)], np.int64),
            user=np.zeros(len(rows), np.int32),
            item=np.array([place[0][text] for text in item], np.int32),
            action=np.array([place[1][text] for text in action], np.int32),
            seq=np.array(seq, np.int64),
            at=np.array(at, np.float64),
            value=np.array(value, np.float32),
            scenes=scenes,
            scene=np.array([place[2].get(text, -1) for text in scene], np.int32),
        )


def newest_time(connection: Connection) -> float:
    """The greatest event time of the store, UTC seconds."""
    at: float | None = connection.execute(select(func.max(behaviors.c.at))).scalar()
    if at is None:
        raise StoreError("the store holds no behaviours; run `interestream replay LOG` first")
    return at


def newest_of(connection: Connection, user_id: str, at: float | None) -> tuple[int, float | None]:
    """Sequence number and event time of a user's newest behaviour, of those not after `at`; -1, None: there is none."""
    query = select(behaviors.c.seq, behaviors.c.at).where(behaviors.c.user_id == user_id)
    if at is not None:
        query = query.where(behaviors.c.at <= at)
    found = connection.execute(query.order_by(behaviors.c.seq.desc()).limit(1)).first()
    return (-1, None) if found is None else (int(found.seq), float(found.at))


def _chunks(connection: Connection, users: Sequence[str] | None) -> Iterable[Sequence[Any]]:
    # the order of bytes on every database, so that ties in time break alike
    by_user: Any = collate(behaviors.c.user_id, "C") if connection.dialect.name == "postgresql" else behaviors.c.user_id
    query = _select().order_by(by_user, behaviors.c.seq)
    queries = [query]
    if users is not None:
        spans = range(0, len(users), USERS_AT_ONCE)
        queries = [query.where(behaviors.c.user_id.in_(users[i : i + USERS_AT_ONCE])) for i in spans]
    for each in queries:
        yield from _pages(connection, each)


def _pages(connection: Connection, query: Select[Any]) -> Iterator[Sequence[Any]]:
    # the option is the query's, not the connection's: on PostgreSQL that would make a cursor of whatever comes next
    with connection.execute(query.execution_options(yield_per=READ_AT_ONCE)) as result:
        yield from result.partitions()


def _select() -> Select[Any]:
    return select(*(behaviors.c[name] for name in ("user_id", "seq", "item_id", "action", "at", "value", "scene")))
