"""Centroids of what was liked and what was not: of a partition's own behaviours, by what the user usually gave."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sqlalchemy import Engine, select

from fusion.encoders.item_text import ITEM_TEMPLATE, catalogue_text
from fusion.interests.centroids import partitions_at, read_centroids, write_centroids
from fusion.interests.item_vectors import encode_items, texts_without_vectors
from fusion.tables import centroids
from interest.store import counters
from interest.store.sql import insert_new, item_row, upsert, writing
from interest.store.tables import behaviors, items, partitions
from interest.types import Behavior, Item
from streams.resolve.centroids import CentroidPass
from streams.store.forget import forget
from streams.ubsp.ingest import Ingest, Position
from streams.ubsp.policy import Policy, Scenes
from tests.support.hashed_encoder import HashedEncoder

Event = tuple[str, str, float | None]  # item, action, value
FILMS = {name: Item(item_id=name, title=f"Film {name}") for name in "abcdef"}
PARTITIONS: list[list[Event]] = [
    [("a", "rate", 4.0), ("b", "rate", 2.0), ("c", "rate", 3.0)],  # usual 3
    [("a", "rate", 3.0), ("d", "rate", 5.0), ("gone", "rate", 5.0)],  # usual 3.67: the 3 is below it now
    [("e", "play", None), ("f", "watch", 90.0), ("a", "watch", 10.0), ("b", "rate", 4.0)],  # each action by itself
    [("no text", "rate", 1.0)],
]
LIKED = ["ac", "d", "efb", ""]
DISLIKED = ["b", "a", "a", ""]


def append(engine: Engine, user: str, chunks: list[list[Event]], *, closed: bool = True) -> None:
    """Behaviours, a partition for each chunk, after what there is of the user."""
    with writing(engine) as connection:
        seq = len(connection.execute(select(behaviors.c.seq).where(behaviors.c.user_id == user)).all())
        index = len(connection.execute(select(partitions.c.index).where(partitions.c.user_id == user)).all())
        for chunk in chunks:
            rows = [
                {
                    "user_id": user,
                    "seq": seq + i,
                    "item_id": item,
                    "action": action,
                    "at": float(seq + i),
                    "value": value,
                }
                for i, (item, action, value) in enumerate(chunk)
            ]
            insert_new(connection, behaviors, rows)
            if closed:
                header = {"user_id": user, "generation": 0, "index": index, "reason": "count"}
                span = {"first_seq": seq, "last_seq": seq + len(chunk) - 1, "opened_at": 0.0, "closed_at": float(seq)}
                insert_new(connection, partitions, [header | span])
            seq, index = seq + len(chunk), index + 1


def encode(engine: Engine) -> None:
    encoder = HashedEncoder()
    with engine.connect() as connection:
        texts = texts_without_vectors(connection, encoder.id, ITEM_TEMPLATE)
    encode_items(engine, encoder, texts, written=lambda one: counters.increment(one, counters.ITEM_VECTORS))


def find(engine: Engine, template: str = ITEM_TEMPLATE) -> int:
    """How many partitions a pass finds the centroids of, as `fuse` runs it."""
    work = CentroidPass(engine, HashedEncoder().id, template)
    total = work.count()
    assert sum(iter(work.step, 0)) == total
    return total


def dump(engine: Engine) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(select(centroids).order_by(*centroids.primary_key))]


def mean(names: str) -> bytes | None:
    """Of the films' vectors as they are stored."""
    if not names:
        return None
    vectors = HashedEncoder()([catalogue_text(ITEM_TEMPLATE, FILMS[name]) for name in names]).astype("<f2")
    return vectors.astype(np.float64).mean(axis=0).astype("<f2").tobytes()


@pytest.fixture
def world(store: Engine) -> Engine:
    with writing(store) as connection:
        insert_new(connection, items, [item_row(item) for item in (*FILMS.values(), Item(item_id="no text"))])
        counters.increment(connection, counters.ITEMS)
    append(store, "ann", PARTITIONS)
    append(store, "bob", PARTITIONS[::-1])
    encode(store)
    return store


def test_they_are_means_of_what_was_liked_and_of_what_was_not(world: Engine) -> None:
    assert find(world) == 8
    with world.connect() as connection:
        found = [read_centroids(connection, ("ann", 0, index)) for index in range(4)]
    assert [one and (one.encoder, one.liked, one.disliked) for one in found] == [
        ("hashed", mean(liked), mean(disliked)) for liked, disliked in zip(LIKED, DISLIKED, strict=True)
    ]
    assert find(world) == 0


def test_one_by_one_in_any_order_gives_the_bytes_of_all_at_once(world: Engine) -> None:
    find(world)
    whole = dump(world)
    with writing(world) as connection:
        connection.execute(centroids.delete())
        keys = [(user, 0, index) for user in ("ann", "bob") for index in range(4)]
        random.Random(1).shuffle(keys)
        for key in keys:
            assert write_centroids(connection, "hashed", ITEM_TEMPLATE, partitions_at(connection, [key])) == 1
    assert dump(world) == whole


def test_what_comes_later_changes_none(world: Engine) -> None:
    find(world)
    before = dump(world)
    append(world, "ann", [[("a", "rate", 1.0)] * 9], closed=False)
    append(world, "bob", [[("f", "rate", 1.0)]])
    with writing(world) as connection:  # everything is found again
        counters.increment(connection, counters.ITEMS)
    assert find(world) == 9
    assert [row for row in dump(world) if row[:3] != ("bob", 0, 4)] == before


def test_a_changed_item_is_seen_by_the_next_pass_and_only_then(world: Engine) -> None:
    find(world)
    before = dump(world)
    with writing(world) as connection:
        upsert(connection, items, [item_row(Item(item_id="d", title="Another film"))])
        counters.increment(connection, counters.ITEMS)
    assert dump(world) == before
    encode(world)
    assert find(world) == 8
    changed = [new[:3] for old, new in zip(before, dump(world), strict=True) if old != new]
    assert changed == [("ann", 0, 1), ("bob", 0, 2)]


def test_a_pass_that_was_stopped_goes_on_and_one_after_a_change_begins_again(world: Engine) -> None:
    append(world, "cat", PARTITIONS * 20)
    first = CentroidPass(world, "hashed", ITEM_TEMPLATE)
    assert first.step() == 64
    CentroidPass(world, "hashed", ITEM_TEMPLATE)  # stopped before its first step
    assert find(world) == 88  # no pass has come to its end: all of them
    append(world, "dan", PARTITIONS)
    assert find(world) == 4


def test_another_template_s_are_garbage_and_a_forgotten_user_s_go(world: Engine) -> None:
    find(world)
    other = CentroidPass(world, "hashed", "{title}")
    assert other.told == "; 8 by another template removed"
    assert dump(world) == []
    assert find(world, "{title}") == 8
    assert forget(world, "ann")["centroids"] == 4
    assert {row[0] for row in dump(world)} == {"bob"}


def test_where_scenes_are_kept_apart_a_partition_s_centroids_are_of_its_scene_alone(store: Engine) -> None:
    events = [("a", 4.0, "home"), ("b", 90.0, "shop"), ("c", 2.0, "home"), ("d", 10.0, "shop"), ("e", 3.0, "home")]
    with writing(store) as connection:
        insert_new(connection, items, [item_row(film) for film in FILMS.values()])
    log = [
        Behavior(user_id="u", item_id=item, action="rate", at=float(at), value=value, scene=scene)
        for at, (item, value, scene) in enumerate(events)
    ]
    ingest = Ingest(store, Policy(count=2, scenes=Scenes.APART))
    ingest.commit(ingest.fold(log), "log", Position(), len(log), rejected=0)
    encode(store)
    assert find(store) == 2
    with store.connect() as connection:
        found = [read_centroids(connection, ("u", 0, index)) for index in (0, 1)]
    assert [one and one[1:] for one in found] == [
        (mean("a"), mean("c")),
        (mean("b"), mean("d")),
    ]  # 4 of 4 and 2; 90 of 90 and 10
