"""A small world for the CTR tests: users with a taste for categories, items of different quality, a log, a store."""

from __future__ import annotations

import msgspec
import numpy as np
from sqlalchemy import Engine

from fusion.features.impressions import impressions_of
from fusion.features.interest_vectors import InterestVectors
from fusion.features.labels import LabelRule
from fusion.features.log import Array, Log
from fusion.features.samples import Batch, Samples, fit_samples, make_samples
from fusion.features.spec import FeatureSpec
from fusion.features.tasks import NAME, Task
from fusion.models.protocol import CtrModel
from fusion.tables import vectors
from fusion.training.checkpoint import Epoch
from fusion.training.train import TrainConfig, train
from interest.store.sql import insert_new, item_row, user_row
from interest.store.tables import behaviors, items, partitions, users
from interest.types import Item, User

RULE = LabelRule.parse("value>=4")
TASKS = (Task(NAME, RULE),)
DAY = 86_400.0
CATEGORIES = ("Action", "Comedy", "Drama", "Horror")
Row = tuple[int, int, float, float | None]  # user, item, at, value; in the user's order of arrival
WIDTH = 16  # of one text vector


def log_of(rows: list[Row], user_count: int, item_count: int) -> Log:
    """A log from rows, which are put in (user, arrival) order."""
    own = sorted(rows, key=lambda row: row[0])
    user = np.array([row[0] for row in own], np.int32)
    starts = np.searchsorted(user, np.arange(user_count + 1)).astype(np.int64)
    return Log(
        users=[f"u{i}" for i in range(user_count)],
        items=[f"i{i}" for i in range(item_count)],
        actions=["rate"],
        starts=starts,
        user=user,
        item=np.array([row[1] for row in own], np.int32),
        action=np.zeros(len(own), np.int32),
        seq=np.arange(len(own)) - starts[user],
        at=np.array([row[2] for row in own], np.float64),
        value=np.array([row[3] for row in own], np.float32),
    )


def catalogue(item_count: int) -> dict[str, Item]:
    """Every item but the last of ten: the catalogue of a real shop has holes."""
    return {
        f"i{i}": Item(
            item_id=f"i{i}",
            title=f"Item {i}",
            categories=tuple({CATEGORIES[i % 4], CATEGORIES[(i // 4) % 4]}) if i % 5 else (),
            attributes={"release_year": str(1990 + i % 7)},
        )
        for i in range(item_count)
        if i % 10 != 9
    }


def profiles(user_count: int) -> dict[str, User]:
    return {f"u{i}": User(user_id=f"u{i}", attributes={"gender": "FM"[i % 2]}) for i in range(0, user_count, 2)}


def random_rows(seed: int, user_count: int = 30, item_count: int = 40, each: int = 25) -> list[Row]:
    """Ratings that follow the user's taste and the item's quality, over 200 days."""
    rng = np.random.default_rng(seed)
    taste, quality = rng.normal(size=(user_count, 4)), rng.normal(size=item_count)
    rows: list[Row] = []
    for user in range(user_count):
        start = rng.uniform(0, 150 * DAY)
        for at in np.sort(start + rng.uniform(0, 50 * DAY, each)):
            item = int(rng.integers(item_count))
            liking = taste[user, item % 4] + quality[item] + rng.normal(scale=0.3)
            rows.append((user, item, float(np.floor(at)), float(np.clip(np.round(3.4 + liking), 1, 5))))
    return rows


def spec_of(log: Log, history: int = 10, **changes: object) -> FeatureSpec:
    every, train = np.arange(log.size), np.ones(log.size, bool)
    book, people = catalogue(len(log.items)), profiles(len(log.users))
    spec = fit_samples(log, every, train, book, people, tasks=TASKS, history=history, min_history=2).spec
    return msgspec.structs.replace(spec, **changes)


def samples_of(
    spec: FeatureSpec,
    log: Log,
    rows: np.ndarray,
    interest_vectors: InterestVectors | None = None,
) -> Samples:
    impressions, past = impressions_of(log, rows)
    book, people = catalogue(len(log.items)), profiles(len(log.users))
    return make_samples(
        spec, log, impressions, past,
        items=log.items, catalogue=book, profiles=people, interest_vectors=interest_vectors,
    )  # fmt: skip


def interest_vectors_of(log: Log, each: int = 5, seed: int = 0) -> InterestVectors:
    """A partition with random vectors for every `each` events of a user."""
    rng = np.random.default_rng(seed)
    ends = [(u, k, (k + 1) * each - 1) for u in range(len(log.users)) for k in range(_size(log, u) // each)]
    owner = np.array([u for u, _, _ in ends], np.int64)
    return InterestVectors(
        starts=np.searchsorted(owner, np.arange(len(log.users) + 1)).astype(np.int64),
        index=np.array([k for _, k, _ in ends], np.int64),
        last_seq=np.array([last for _, _, last in ends], np.int64),
        closed_at=np.array([log.at[log.starts[u] : log.starts[u] + last + 1][-each:].max() for u, _, last in ends]),
        vectors=rng.normal(size=(len(ends), 2 * WIDTH)).astype(np.float16),
    )


def meaning(batch: Batch) -> list[np.ndarray]:
    """What a batch says, whatever order its distinct items and partitions have."""
    target, history = batch.target.numpy(), batch.history.numpy()
    item = [part.numpy() for part in (batch.item_row, batch.item_categories, batch.item_attributes)]
    events = [part.numpy() for part in (batch.value, batch.label, batch.action, batch.gap)]
    there = batch.partitions.numpy() >= 0
    vectors_ = batch.interest_vectors.numpy()
    interests = vectors_[batch.partitions.numpy()] * there[..., None] if len(vectors_) else np.zeros(0)
    own = [batch.profile.numpy(), batch.dense.numpy(), there, interests]
    return [*(part[target] for part in item), *(part[history] for part in item), *events, *own]


def fill(store: Engine, rows: list[Row], user_count: int = 30, item_count: int = 40, *, interests: bool = False) -> Log:
    """Put a log into the store, with catalogue and profiles, and with partitions and random vectors if asked."""
    log = log_of(rows, user_count, item_count)
    with store.begin() as connection:
        insert_new(connection, behaviors, [_behavior_row(log, i) for i in range(log.size)])
        insert_new(connection, items, [item_row(item) for item in catalogue(item_count).values()])
        insert_new(connection, users, [user_row(user) for user in profiles(user_count).values()])
        if interests:
            held = interest_vectors_of(log)
            for user in range(user_count):
                for q in range(held.starts[user], held.starts[user + 1]):
                    key = {"user_id": log.users[user], "generation": 0, "index": int(held.index[q])}
                    header = {
                        "first_seq": int(held.last_seq[q]) - 4,
                        "last_seq": int(held.last_seq[q]),
                    }
                    closed = float(held.closed_at[q])
                    insert_new(
                        connection,
                        partitions,
                        [key | header | {"opened_at": closed, "closed_at": closed, "reason": "count"}],
                    )
                    summary, shift = np.split(held.vectors[q], 2)
                    texts = {
                        "summary": summary.tobytes(),
                        "shift": shift.tobytes() if held.index[q] else None,
                    }
                    insert_new(connection, vectors, [key | {"prompt_version": "p1", "encoder": "e1"} | texts])
    return log


def _behavior_row(log: Log, i: int) -> dict[str, object]:
    value = float(log.value[i])
    return {
        "user_id": log.users[log.user[i]],
        "seq": int(log.seq[i]),
        "item_id": log.items[log.item[i]],
        "action": "rate",
        "at": float(log.at[i]),
        "value": None if np.isnan(value) else value,
    }


def _size(log: Log, user: int) -> int:
    return int(log.starts[user + 1] - log.starts[user])


class _ReachedError(Exception):
    pass


def train_until(
    auc: float, model: CtrModel, samples: Samples, labels: Array, parts: tuple[Array, Array], config: TrainConfig
) -> int | None:
    """Train until the validation AUC is above `auc`; return after how many epochs, None where it never is."""
    epochs = list[Epoch]()

    def report(epoch: Epoch) -> None:
        epochs.append(epoch)
        if epoch.auc > auc:
            raise _ReachedError

    try:
        train(model, samples, labels, parts, config, report=report)
    except _ReachedError:
        return len(epochs)
    return None
