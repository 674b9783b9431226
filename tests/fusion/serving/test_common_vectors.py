"""Users' vectors in the common space, in the store: what models read, as of each partition, whatever comes later."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest
from sqlalchemy import Engine, delete, func, select, update

from fusion.interests.pooled_rows import History, unrepresented
from fusion.serving.common_space import CommonSpace, common_space
from fusion.serving.score import current_samples
from fusion.serving.user_vectors import represent, view_of, write_fused
from fusion.tables import representations
from fusion.training.artifact import Artifact
from interest.store.sql import read_items, writing
from interest.store.tables import partitions
from tests.support.ctr_world import DAY
from tests.support.live_world import ITEMS, append_many, artifact_of, close_partition, encode, fit, world
from tests.support.rounding import assert_alike
from tests.support.small_models import DIN


@pytest.fixture
def artifact(store: Engine) -> Artifact:
    log = world(store)
    spec, space = fit(log, store)
    return artifact_of(log, spec, msgspec.structs.replace(DIN, interest=True), space)


def dump(engine: Engine) -> dict[tuple[str, int], tuple[bytes, bytes | None, bytes | None]]:
    """By user and partition: UIF's vector, the common space's, its sums."""
    with engine.connect() as connection:
        rows = connection.execute(select(representations)).mappings().all()
    return {(row["user_id"], row["index"]): (row["vector"], row["common"], row["common_sums"]) for row in rows}


def test_its_product_with_an_exported_item_is_the_match_scalar_that_models_read(
    store: Engine, artifact: Artifact
) -> None:
    user = "u5"
    close_partition(store, user, 1)  # nothing is open: the newest partition is the whole past
    represent(store, artifact)
    found = dump(store)
    common = found[max(key for key in found if key[0] == user)][1]
    spec = artifact.spec
    with store.connect() as connection:
        exported = dict(
            pair
            for ids, vectors in CommonSpace(artifact).every_item(connection)
            for pair in zip(ids, vectors, strict=True)
        )
        assert exported.keys() == read_items(connection).keys()
        pairs = [(user, item) for item in exported]
        samples = current_samples(connection, spec, artifact.statistics, pairs, 500 * DAY, space=artifact.space)
    column = spec.dense.index("place_taste")
    taste = samples.dense[:, column] * spec.dense_std[column] + spec.dense_mean[column]
    products = np.stack(list(exported.values())) @ np.frombuffer(common or b"", "<f4")
    np.testing.assert_allclose(products, taste, atol=1e-5)
    assert len(exported) > ITEMS / 2
    assert np.ptp(taste) > 0.01


def test_partition_by_partition_in_any_order_gives_what_all_at_once_gives(store: Engine, artifact: Artifact) -> None:
    append_many(store, "u4", 3)
    close_partition(store, "u4", 4)
    represent(store, artifact)
    whole, common = dump(store), common_space(artifact)
    assert all(row[1] is not None for row in whole.values())
    with writing(store) as connection:
        connection.execute(delete(representations))
        keys = list(whole)
        random.Random(1).shuffle(keys)
        for user, index in keys:
            write_fused(connection, artifact, common, {History(user, 0): index})
    assert_alike(dump(store), whole)
    with writing(store) as connection:  # one more goes on from the sums of the one before, which it must not read again
        connection.execute(delete(representations).where(representations.c.user_id == "u4"))
        for index in sorted(index for user, index in whole if user == "u4"):
            write_fused(connection, artifact, common, {History("u4", 0): index})
    assert_alike(dump(store), whole)


def test_a_partition_that_ends_after_one_opened_later_has_seen_what_came_between(
    store: Engine, artifact: Artifact
) -> None:
    append_many(store, "u4", 3)
    close_partition(store, "u4", 4)
    mine = partitions.c.user_id == "u4"
    with writing(store) as connection:  # as where scenes are kept apart
        last = connection.scalar(select(func.max(partitions.c.last_seq)).where(mine))
        connection.execute(update(partitions).where(mine).values(scene="home"))
        connection.execute(update(partitions).where(mine, partitions.c.index == 0).values(last_seq=last))
    represent(store, artifact)
    whole, common = dump(store), common_space(artifact)
    indexes = sorted(index for user, index in whole if user == "u4")
    assert whole["u4", 0][1:] == whole["u4", indexes[-1]][1:]
    with writing(store) as connection:
        connection.execute(delete(representations).where(representations.c.user_id == "u4"))
        for index in reversed(indexes):
            write_fused(connection, artifact, common, {History("u4", 0): index})
    assert_alike(dump(store), whole)


def test_a_later_event_changes_no_earlier_vector(store: Engine, artifact: Artifact) -> None:
    represent(store, artifact)
    before = dump(store)
    append_many(store, "u4", 5)
    represent(store, artifact)
    assert dump(store) == before
    close_partition(store, "u4", 6)
    represent(store, artifact)
    after = dump(store)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 1


def test_what_an_earlier_version_left_without_one_is_found(store: Engine, artifact: Artifact) -> None:
    represent(store, artifact)
    whole, view = dump(store), view_of(artifact)
    with writing(store) as connection:
        own = representations.c.user_id == "u3"
        connection.execute(update(representations).where(own).values(common=None, common_sums=None))
        assert unrepresented(connection, view, artifact.id, ["u3", "u4"]) == {}
        behind = unrepresented(connection, view, artifact.id, ["u3", "u4"], common=True)
        assert behind == {History("u3", 0): 0}
        write_fused(connection, artifact, common_space(artifact), behind)
    assert_alike(dump(store), whole)


def test_items_whose_texts_come_later_count_when_all_is_added_up_again(store: Engine, artifact: Artifact) -> None:
    represent(store, artifact)
    before = dump(store)
    encode(store)
    assert dump(store) == before
    represent(store, artifact)
    after = dump(store)
    assert after.keys() == before.keys()
    assert [row[0] for row in after.values()] == [row[0] for row in before.values()]
    assert after != before
