"""Untrained artifacts of every model over a small store, and what may happen to that store between two requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from sqlalchemy import Connection, Engine, delete, func, select, update

from fusion.encoders.item_text import ITEM_TEMPLATE
from fusion.encoders.recipe import Recipe
from fusion.features.counts import ItemHistory, ItemStatistics, event_columns
from fusion.features.keys.spec import KeyChoice
from fusion.features.log import Log
from fusion.features.match.features import PARTS, MatchSpec
from fusion.features.match.item_vectors import read_item_vectors
from fusion.features.match.space import Space
from fusion.features.samples import fit_samples
from fusion.features.spec import Column, FeatureSpec
from fusion.interests.item_vectors import encode_items, texts_without_vectors
from fusion.models.din import DinConfig
from fusion.models.kv.model import KvConfig
from fusion.models.protocol import ModelConfig
from fusion.models.registry import build, kind_of
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import Srp4CtrConfig
from fusion.tables import vectors
from fusion.training.artifact import Artifact, ArtifactConfig
from fusion.training.train import TrainConfig
from interest.store import counters
from interest.store.sql import insert_new, item_row, upsert, user_row, writing
from interest.store.tables import behaviors, items, partitions, users
from interest.types import Item, User
from streams.store.tables import offsets
from streams.store.users import user_tables
from tests.support.bahe_world import config_of, shaken
from tests.support.ctr_world import DAY, TASKS, catalogue, fill, interest_vectors_of, profiles, random_rows

USERS, ITEMS, HISTORY = 6, 30, 6
CATEGORIES = ("Action", "Comedy", "Drama", "Horror", "Western")
WIDTH = 16


def world(store: Engine) -> Log:
    """A store of six users with 3 to 120 behaviours each, some on items that the catalogue lacks."""
    sizes = (3, 4, 20, 60, 75, 120)
    rows = random_rows(2, USERS, ITEMS, 120)
    kept = [row for n in range(USERS) for row in [r for r in rows if r[0] == n][: sizes[n]]]
    with writing(store) as connection:
        progress = {"offset": 1, "watermark": 229 * DAY, "accepted": 1, "late": 0, "duplicates": 0, "rejected": 0}
        insert_new(connection, offsets, [{"source": "log:a", "partition": 0} | progress])
    log = fill(store, kept, USERS, ITEMS, interests=True)
    encode(store, most=20)
    return log


def spec_of(log: Log) -> FeatureSpec:
    return fit(log)[0]


def fit(log: Log, store: Engine | None = None, keys: KeyChoice | None = None) -> tuple[FeatureSpec, Space | None]:
    """The spec, and with a store, from which items' vectors are read, a space: of a model with match scalars.

    keys: that are read of the users; a few only, so that there are more than are read.
    """
    every, train = np.arange(log.size), np.arange(log.size) % 7 != 3
    match = text = None
    if store is not None:
        match = MatchSpec(parts=PARTS, encoder=TextEncoder.id, template=ITEM_TEMPLATE)
        with store.connect() as connection:
            text = read_item_vectors(connection, match, log.items, catalogue(ITEMS))
    samples = fit_samples(
        log, every, train, catalogue(ITEMS), profiles(USERS),
        tasks=TASKS, history=HISTORY, min_history=1, interest_vectors=interest_vectors_of(log), partitions=3,
        match=match, item_text=text, keys=keys,
    )  # fmt: skip
    gender = (Column("gender", ("F", "M")),)
    spec = msgspec.structs.replace(samples.spec, prompt_version="p1", encoder="e1", user_columns=gender)
    if spec.keys is not None:
        few = msgspec.structs.replace(spec.keys, recent=2, back=4, frequent=3, window=40)
        spec = msgspec.structs.replace(spec, keys=few)
    return spec, None if samples.match is None else samples.match.space


class TextEncoder:
    """Vectors of texts that follow from what they say alone."""

    id = "hashed"

    def __call__(self, texts: list[str], /) -> np.ndarray:
        made = np.stack([np.random.default_rng(list(text.encode())).normal(size=WIDTH) for text in texts])
        return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)


def encode(engine: Engine, most: int | None = None) -> None:
    """Encode the texts of items that have no vector yet, as `fuse` does: all of them, or some."""
    with engine.connect() as connection:
        texts = texts_without_vectors(connection, TextEncoder.id, ITEM_TEMPLATE)
    encode_items(
        engine, TextEncoder(), texts[:most],
        written=lambda connection: counters.increment(connection, counters.ITEM_VECTORS),
    )  # fmt: skip


ENCODER = FgBertConfig(positions=HISTORY + 4, width=16, dropout=0.0)
SRP4CTR = Srp4CtrConfig(
    encoder=ENCODER, pack=5, queries=2, hidden=(16,), dropout=0.0, lifelong=True, interest=True, dense_path=True
)


def configs(llm: Path, recipe: Recipe) -> dict[str, ModelConfig]:
    return {
        "din": DinConfig(width=8, attention=8, hidden=(16,), dropout=0.0, interest=True, dense_path=True),
        "srp4ctr": SRP4CTR,
        "bahe": config_of(llm, recipe, sequences=("recent", "liked", "disliked"), interest=True),
    }


def configs_with_keys() -> dict[str, ModelConfig]:
    return {
        "kv": KvConfig(width=8, hidden=(16,), dropout=0.0, interest=True, dense_path=True),
        "din keys": DinConfig(width=8, attention=8, hidden=(16,), dropout=0.0, keys=True),
        "srp4ctr keys": msgspec.structs.replace(SRP4CTR, keys=True),
    }


def artifact_of(log: Log, spec: FeatureSpec, config: ModelConfig, space: Space | None = None) -> Artifact:
    """A model with weights of some size, so that no law holds because everything is zero."""
    torch.manual_seed(0)
    model = build(spec, config)
    shaken(model)  # type: ignore[arg-type]
    model.eval()
    own: ArtifactConfig[Any] = ArtifactConfig(
        kind=kind_of(config).name, model=config, training=TrainConfig(), split="global", versions={}
    )
    history = ItemHistory(log, event_columns(log, spec.label.labels(log), spec.scale)).snapshot()
    number = {item: i for i, item in enumerate(log.items)}
    rows = np.array([number[item] for item in spec.items])
    statistics = ItemStatistics(history.total[rows], history.recent[rows], history.first_at[rows])
    return Artifact("a" * 16, model, spec, statistics, own, {}, space)


def newest_of(connection: Connection, user_id: str) -> int:
    seq = connection.scalar(select(func.max(behaviors.c.seq)).where(behaviors.c.user_id == user_id))
    return -1 if seq is None else seq


def append(engine: Engine, user_id: str, rows: list[tuple[str, float, float | None, str | None]]) -> None:
    """Behaviours (item, at, value, scene) as ingest appends them, whatever their times."""
    with writing(engine) as connection:
        first = newest_of(connection, user_id) + 1
        insert_new(
            connection,
            behaviors,
            [
                {
                    "user_id": user_id, "seq": first + i, "item_id": item, "action": "rate",
                    "at": at, "value": value, "scene": scene,
                }
                for i, (item, at, value, scene) in enumerate(rows)
            ],
        )  # fmt: skip


def append_many(engine: Engine, user_id: str, seed: int) -> None:
    """More behaviours than are looked at one by one."""
    rng = np.random.default_rng(seed)
    rows = zip(rng.integers(0, ITEMS, 260).tolist(), rng.uniform(0, 229 * DAY, 260).tolist(), strict=True)
    append(engine, user_id, [(f"i{item}", at, float(rng.integers(1, 6)), None) for item, at in rows])


def forget(engine: Engine, user_id: str) -> None:
    with writing(engine) as connection:
        counters.increment(connection, counters.FORGETS)
        for table in user_tables():
            connection.execute(delete(table).where(table.c.user_id == user_id))


def change_item(engine: Engine, item_id: str, category: str | None, year: str) -> None:
    """Another category, title and year, or the item's removal."""
    with writing(engine) as connection:
        if category is None:
            connection.execute(delete(items).where(items.c.item_id == item_id))
        else:
            changed = Item(
                item_id=item_id, title=f"{category} {year}", categories=(category,), attributes={"release_year": year}
            )
            upsert(connection, items, [item_row(changed)])
        counters.increment(connection, counters.ITEMS)


def change_profile(engine: Engine, user_id: str, gender: str) -> None:
    with writing(engine) as connection:
        upsert(connection, users, [user_row(User(user_id=user_id, attributes={"gender": gender}))])


def close_partition(engine: Engine, user_id: str, seed: int) -> None:
    """A partition over what is open, with random vectors."""
    rng = np.random.default_rng(seed)
    with writing(engine) as connection:
        newest = newest_of(connection, user_id)
        own = (partitions.c.user_id == user_id, partitions.c.generation == 0)
        index, last = connection.execute(
            select(func.max(partitions.c.index), func.max(partitions.c.last_seq)).where(*own)
        ).one()
        index, last = (-1, -1) if index is None else (index, last)
        if newest <= last:
            return
        closed = connection.scalar(
            select(func.max(behaviors.c.at)).where(behaviors.c.user_id == user_id, behaviors.c.seq > last)
        )
        key = {"user_id": user_id, "generation": 0, "index": index + 1}
        header = {"first_seq": last + 1, "last_seq": newest, "opened_at": closed, "closed_at": closed}
        insert_new(connection, partitions, [key | header | {"reason": "count"}])
        _vectors(connection, key, rng)


def rewrite_interest(engine: Engine, user_id: str, seed: int) -> None:
    """Other vectors for the newest partition."""
    with writing(engine) as connection:
        index = connection.scalar(select(func.max(vectors.c.index)).where(vectors.c.user_id == user_id))
        if index is not None:
            key = {"user_id": user_id, "generation": 0, "index": index}
            _vectors(connection, key, np.random.default_rng(seed))


def _vectors(connection: Connection, key: dict[str, Any], rng: np.random.Generator) -> None:
    made = rng.normal(size=(2, WIDTH)).astype(np.float16)
    texts = {"summary": made[0].tobytes(), "shift": made[1].tobytes()}
    upsert(connection, vectors, [key | {"prompt_version": "p1", "encoder": "e1"} | texts])


def touch(engine: Engine, user_id: str) -> None:
    """Nothing changes."""
    with writing(engine) as connection:
        connection.execute(update(behaviors).where(behaviors.c.user_id == user_id).values(scene=behaviors.c.scene))
