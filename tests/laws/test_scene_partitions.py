"""Laws of scenes kept apart: a user's partitions of a scene, and what is said of them, are those of a log without the
other scenes; only the numbers are of all that the user did."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, select

from fusion.features.interest_vectors import read_interest_vectors, read_newest_vectors
from fusion.tables import vectors
from interest.errors import StoreError
from interest.review.report import trials_of
from interest.review.specificity import identify
from interest.review.texts import read_texts, versions_of
from interest.store.sql import behaviors_inside, insert_new, item_row, partition_of
from interest.store.tables import behaviors, interests, items, partitions
from interest.types import Behavior, Item, Partition
from interest.write.backfill import learn
from streams.store.open_rows import read_last_of_scenes, still_open
from streams.store.tables import policies as stored_policies
from streams.ubsp.ingest import Ingest, Position
from streams.ubsp.policy import Policy, Scenes, token_cost
from streams.ubsp.restore import restore_users
from streams.ubsp.scenes import UserScenes, fold_scenes, scene_of
from tests.support.partitioning import apart, content, empty, events, policies, run

Inside = tuple[str, float, float, str, list[Behavior]]  # user, opened, closed, reason, behaviours


def heads(engine: Engine) -> list[Partition]:
    with engine.connect() as connection:
        query = select(partitions).order_by(partitions.c.user_id, partitions.c.index)
        return [partition_of(row) for row in connection.execute(query).mappings()]


def inside(engine: Engine) -> dict[str | None, list[Inside]]:
    """What the partitions hold, by scene; of each user in order."""
    found: dict[str | None, list[Inside]] = defaultdict(list)
    with engine.connect() as connection:
        for head in heads(engine):
            rows = [one for _, one in behaviors_inside(connection, head)]
            assert len(rows) == head.size
            found[head.scene].append((head.user_id, head.opened_at, head.closed_at, str(head.reason), rows))
    return found


@given(events, policies, st.lists(st.integers(0, 40), max_size=3), st.sampled_from([0, 1 << 20]), st.booleans())
@settings(deadline=None, max_examples=40)
def test_each_scene_is_partitioned_as_a_log_of_its_own(
    log: list[Behavior], policy: Policy, ends: list[int], memory: int, swept: bool
) -> None:
    together = empty()
    run(together, log, apart(policy), [end for end in ends if end <= len(log)], memory=memory)
    watermark = max((one.at for one in log), default=0.0)
    if swept:
        Ingest(together, apart(policy)).sweep(watermark)
    found = inside(together)
    for scene in {scene_of(one) for one in log} | set(found):
        alone = empty()
        run(alone, [one for one in log if scene_of(one) == scene], policy, [], memory=1 << 20)
        if swept:
            Ingest(alone, policy).sweep(watermark)
        assert found[scene] == inside(alone)[None]


@given(events, policies)
@settings(deadline=None, max_examples=40)
def test_partitions_are_numbered_as_they_are_opened_and_follow_their_own_scene(
    log: list[Behavior], policy: Policy
) -> None:
    engine = empty()
    run(engine, log, apart(policy), [], memory=1 << 20)
    newest: dict[tuple[str, str | None], int] = {}
    first: dict[str, int] = defaultdict(lambda: -1)
    for head in heads(engine):
        assert head.first_seq > first[head.user_id]
        first[head.user_id] = head.first_seq
        assert head.before == newest.get((head.user_id, head.scene))
        newest[head.user_id, head.scene] = head.index
    all_heads = heads(engine)
    with engine.connect() as connection:  # what is in no partition is open: each row is one or the other
        for user in {one.user_id for one in log}:
            mine = [head for head in all_heads if head.user_id == user]
            closed = [seq for head in mine for seq, _ in behaviors_inside(connection, head)]
            rows = select(behaviors.c.seq).where(behaviors.c.user_id == user)
            left = connection.scalars(rows.where(still_open(read_last_of_scenes(connection, user)))).all()
            assert sorted([*closed, *left]) == list(connection.scalars(rows))


@given(events, policies)
@settings(deadline=None, max_examples=40)
def test_restored_scenes_are_those_in_memory(log: list[Behavior], policy: Policy) -> None:
    engine = empty()
    ingest = Ingest(engine, apart(policy))
    folded = ingest.fold(log)
    held = dict(ingest._young)
    ingest.commit(folded, "log", Position(), len(log), rejected=0)
    with engine.connect() as connection:
        assert restore_users(connection, sorted(held), ingest.policy, {}) == held


def test_a_store_is_of_one_kind_and_joined_stores_are_what_they_were() -> None:
    log = [Behavior(user_id="u", item_id=str(at), action="play", at=float(at), scene="home") for at in range(6)]
    stores = {scenes: empty() for scenes in Scenes}
    for scenes, engine in stores.items():
        run(engine, log, Policy(count=2, scenes=scenes), [], memory=1 << 20)
    with pytest.raises(StoreError, match=r"--partition 2 --dedupe auto, not by --partition 2 --dedupe auto --scenes"):
        Ingest(stores[Scenes.JOINED], Policy(count=2, scenes=Scenes.APART))
    with pytest.raises(StoreError, match=r"--scenes apart, not by --partition 2.* INTERESTREAM_INGEST_SCENES=apart"):
        Ingest(stores[Scenes.APART], Policy(count=2))
    joined = stores[Scenes.JOINED]
    with joined.connect() as connection:
        assert "scenes" not in connection.scalars(select(stored_policies.c.policy)).one()
    assert [row[-3:] for row in content(joined)[1]] == [(None, None, None)] * 3
    assert [row[-3:] for row in content(stores[Scenes.APART])[1]] == [("home", None, 2), ("home", 0, 2), ("home", 1, 2)]


@given(events, policies)
@settings(deadline=None, max_examples=30)
def test_no_moment_sees_a_partition_that_another_scene_s_behaviours_had_not_closed(
    log: list[Behavior], policy: Policy
) -> None:
    log = sorted(log, key=lambda one: one.at)
    engine = empty()
    run(engine, log, apart(policy), [], memory=1 << 20)
    closed: dict[str, dict[int, int]] = defaultdict(dict)  # of each user: index, and the first that may see it
    users: dict[str, UserScenes] = {}
    chosen = Ingest(engine, apart(policy)).policy
    for one in log:
        before = users.get(one.user_id) or UserScenes(one.user_id)
        users[one.user_id], _, ended = fold_scenes(before, one, chosen, token_cost(one, None))
        for partition in ended:
            own = partition.last_seq == before.next_seq  # it closed itself
            closed[one.user_id][partition.index] = before.next_seq + own
    names = sorted(users)
    which: dict[str, Any] = {"generation": 0, "prompt_version": "p", "encoder": "e"}
    with engine.begin() as connection:
        rows = [
            {**which, "user_id": user, "index": index, "summary": bytes(4), "shift": None}
            for user in names
            for index in closed[user]
        ]
        if rows:
            connection.execute(insert(vectors), rows)
        held = read_interest_vectors(connection, names, **which)
        for number, user in enumerate(names):
            mine = slice(held.starts[number], held.starts[number + 1])
            for seq in range(users[user].next_seq + 1):
                expected = {index for index, first in closed[user].items() if first <= seq}
                seen = held.last_seq[mine] < seq
                assert set(held.index[mine][seen].tolist()) == expected
                newest = read_newest_vectors(connection, user, before=seq, most=3, **which)
                assert newest.index.tolist() == held.index[mine][seen].tolist()[-3:]


def texts(engine: Engine) -> dict[tuple[str, int], Any]:
    learn(engine, None)
    with engine.connect() as connection:
        return {(row["user_id"], row["index"]): row for row in connection.execute(select(interests)).mappings()}


def test_texts_of_a_scene_are_those_of_its_log_and_say_the_scene() -> None:
    rng = np.random.default_rng(3)
    log = [
        Behavior(
            user_id=f"u{rng.integers(3)}", item_id=str(rng.integers(12)), action="rate", at=float(at),
            value=float(rng.integers(1, 6)), scene=(None, "home", "shop")[rng.integers(3)],
        )
        for at in range(300)
    ]  # fmt: skip
    catalogue = [
        Item(item_id=str(n), title=f"Film {'ABCDEFGHIJKL'[n]}", categories=(("Drama", "Comedy", "War")[n % 3],))
        for n in range(12)
    ]
    together = filled(log, catalogue, Policy(count=8, scenes=Scenes.APART))
    said = texts(together)
    assert len(said) > 20
    with together.connect() as connection:
        (version,) = versions_of(connection, None, None)
        read = read_texts(connection, *version, len(said))
    in_scene = {(one.work.partition.scene, one.interest.user_id, one.ordinal): one.interest.summary for one in read}
    of_scene_alone = identify(trials_of(read, lambda one: f"In the scene {one.work.partition.scene} they rated films."))
    assert of_scene_alone is not None
    assert of_scene_alone.accuracy == pytest.approx(of_scene_alone.chance)
    for scene in ("", "home", "shop"):
        only = [one for one in log if scene_of(one) == scene]
        alone = texts(filled(only, catalogue, Policy(count=8)))
        ordered: dict[str, list[int]] = defaultdict(list)
        for head in heads(together):
            if head.scene == scene:
                ordered[head.user_id].append(head.index)
        of_scene = {
            (user, place): said[user, index] for user, own in ordered.items() for place, index in enumerate(own)
        }
        assert of_scene.keys() == alone.keys()
        for (user, place), row in of_scene.items():  # `review` looks for a text's next by these numbers
            assert in_scene[scene, user, place] == row["summary"]
        for key, row in of_scene.items():
            start = f'In the scene "{scene}", t' if scene else "T"
            for name in ("summary", "shift"):
                assert row[name] == alone[key][name].replace("T", start, 1)
            assert (row["at"], row["claims"], bool(row["shift"])) == (
                alone[key]["at"],
                alone[key]["claims"],
                key[1] > 0,
            )


def filled(log: list[Behavior], catalogue: list[Item], policy: Policy) -> Engine:
    engine = empty()
    with engine.begin() as connection:
        insert_new(connection, items, [item_row(item) for item in catalogue])
    run(engine, log, policy, [], memory=1 << 20)
    return engine
