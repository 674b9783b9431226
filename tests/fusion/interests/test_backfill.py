"""Fusing: the store's interests become vectors and pooled representations, once, in any order of arrival."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, delete, select

from fusion.encoders.sentence import open_encoder
from fusion.interests import backfill as fusing
from fusion.interests.backfill import catch_up, count_waiting, fuse
from fusion.interests.pool import partition_vector, pool
from fusion.interests.pooled_rows import VectorSource, pooled_id, users_behind
from fusion.tables import representations, vectors
from interest.store.sql import insert_new, writing
from interest.store.tables import interests
from tests.support.hashed_encoder import HashedEncoder


class Killed(BaseException):
    """Stands for the process ending."""


def interest(user_id: str, index: int, version: str = "v1", summary: str | None = None) -> dict[str, object]:
    return {
        "user_id": user_id,
        "generation": 0,
        "index": index,
        "prompt_version": version,
        "summary": f"{user_id} likes {index}" if summary is None else summary,
        "summary_source": "llm",
        "summary_outcome": "ok",
        "shift": f"{user_id} moved to {index}" if index else "",
        "shift_source": "llm",
        "shift_outcome": "ok",
        "evidence": "[]",
        "claims": 0,
        "supported": 0,
        "model": "m",
        "at": float(index),
    }


def write(engine: Engine, *rows: dict[str, object]) -> None:
    with writing(engine) as connection:
        insert_new(connection, interests, rows)


def dump(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    with engine.connect() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
            for table in (vectors, representations)
        }


EVERY = [interest(user, index) for user in ("ann", "bob") for index in range(5)]


def test_every_interest_gets_vectors_and_every_partition_a_representation(store):
    write(store, *EVERY)
    encoder = HashedEncoder()
    done: list[int] = []
    assert count_waiting(store, encoder.id) == 10
    fused = fuse(store, encoder, advance=done.append)
    assert (fused.encoded, fused.pooled, sum(done)) == (10, 10, 10)
    assert fused.artifacts == ("pooled:hashed:v1",)
    assert count_waiting(store, encoder.id) == 0
    with store.connect() as connection:
        found = connection.execute(select(vectors).where(vectors.c.user_id == "ann").order_by(vectors.c.index)).all()
        query = select(representations.c.vector).where(representations.c.user_id == "ann")
        pooled = connection.scalars(query.order_by(representations.c.index)).all()
    assert found[0].shift is None
    parts = [
        partition_vector(*(np.frombuffer(blob, "<f2").astype(np.float32) if blob else None for blob in row[-2:]))
        for row in found
    ]
    for index, blob in enumerate(pooled):
        expected = pool(np.stack(parts), np.arange(5), index)
        assert np.frombuffer(blob, "<f4").tobytes() == expected.tobytes()


def test_a_second_run_does_nothing(store):
    write(store, *EVERY)
    fuse(store, HashedEncoder())
    before, encoder = dump(store), HashedEncoder()
    fused = fuse(store, encoder)
    assert (fused.encoded, fused.pooled, encoder.seen) == (0, 0, [])
    assert dump(store) == before


@pytest.mark.parametrize("order", [range(10), range(9, -1, -1), [3, 9, 0, 5, 1, 7, 2, 8, 4, 6]])
def test_one_by_one_in_any_order_ends_as_all_at_once(store, order, monkeypatch):
    write(store, *EVERY)
    fuse(store, HashedEncoder())
    whole = dump(store)
    with writing(store) as connection:
        for table in (interests, vectors, representations):
            connection.execute(delete(table))
    for number in order:
        write(store, EVERY[number])
        fuse(store, HashedEncoder())
    assert dump(store) == whole


def test_whoever_lacks_a_pool_is_found_without_reading_the_vectors(store):
    write(store, *EVERY, interest("cat", 0, "v2"))
    fuse(store, HashedEncoder())
    whole, view = dump(store), VectorSource("hashed", "v1")
    with writing(store) as connection:
        assert users_behind(connection, view, pooled_id("hashed", "v1")) == []
        assert users_behind(connection, view, pooled_id("hashed", "v1", 2.0)) == ["ann", "bob"]
        connection.execute(delete(representations).where(representations.c.user_id == "bob"))
        assert users_behind(connection, view, pooled_id("hashed", "v1")) == ["bob"]
    assert catch_up(store, "hashed") == (5, ("pooled:hashed:v1", "pooled:hashed:v2"))
    assert dump(store) == whole


def test_a_text_replaced_while_it_was_encoded_gets_no_vectors_of_the_old_one(store):
    write(store, interest("ann", 0), interest("bob", 0))

    class Slow(HashedEncoder):
        def __call__(self, texts: list[str]) -> np.ndarray:
            if not self.seen:
                with writing(store) as connection:
                    connection.execute(interests.update().where(interests.c.user_id == "ann").values(summary="New."))
            return super().__call__(texts)

    assert fuse(store, Slow()).pooled == 1
    assert {row[0] for rows in dump(store).values() for row in rows} == {"bob"}
    second = HashedEncoder()
    assert fuse(store, second).encoded == 1
    assert second.seen == ["New."]


def test_a_new_partition_adds_rows_and_changes_none(store):
    write(store, *EVERY)
    fuse(store, HashedEncoder())
    before = dump(store)
    write(store, interest("ann", 5))
    encoder = HashedEncoder()
    fused = fuse(store, encoder)
    assert (fused.encoded, fused.pooled) == (1, 1)
    assert encoder.seen == ["ann likes 5", "ann moved to 5"]
    after = dump(store)
    for table, rows in before.items():
        assert set(rows) < set(after[table])


@pytest.mark.parametrize("lives", range(5))
def test_stopped_in_any_chunk_and_run_again(store, monkeypatch, lives):
    write(store, *EVERY)
    fuse(store, HashedEncoder())
    whole = dump(store)
    with writing(store) as connection:
        for table in (vectors, representations):
            connection.execute(delete(table))
    monkeypatch.setattr(fusing, "CHUNK", 2)
    monkeypatch.setattr(fusing, "USERS", 1)

    class Mortal(HashedEncoder):
        calls = 0

        def __call__(self, texts: list[str]) -> np.ndarray:
            self.calls += 1
            if self.calls > lives:
                raise Killed
            return super().__call__(texts)

    with pytest.raises(Killed):
        fuse(store, Mortal())
    second = HashedEncoder()
    assert fuse(store, second).encoded == 10 - 2 * lives
    assert dump(store) == whole


CHILD = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from tests.support.hashed_encoder import HashedEncoder
from fusion.interests import backfill as fusing
from streams.store.engine import open_store
fusing.CHUNK = 2
class Mortal(HashedEncoder):
    calls = 0
    def __call__(self, texts):
        self.calls += 1
        if self.calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(texts)
fusing.fuse(open_store(sys.argv[1]), Mortal())
"""


def test_killed_for_good_and_run_again(store):
    write(store, *EVERY)
    url, here = store.url.render_as_string(), str(Path(__file__).parents[3])
    child = subprocess.run([sys.executable, "-c", CHILD, url, here], check=False)
    assert child.returncode == -signal.SIGKILL
    assert count_waiting(store, "hashed") == 6
    second = HashedEncoder()
    fused = fuse(store, second)
    assert (fused.encoded, fused.pooled) == (6, 6)  # vectors and pools of a chunk are one transaction
    assert not set(second.seen) & {f"ann likes {index}" for index in range(4)}


def test_a_partition_without_an_interest_counts_as_time_only(store):
    write(store, interest("ann", 0), interest("ann", 3, summary=""), interest("ann", 4))
    fused = fuse(store, HashedEncoder(), half_life=1.0)
    assert (fused.encoded, fused.pooled) == (2, 2)
    first, second = HashedEncoder()(["ann likes 0"]), HashedEncoder()(["ann likes 4", "ann moved to 4"]).mean(axis=0)
    total = second + first[0] / 2**4
    with store.connect() as connection:
        query = select(representations.c.vector).order_by(representations.c.index)
        _, newest = connection.scalars(query).all()
    assert np.allclose(np.frombuffer(newest, "<f4"), total / np.linalg.norm(total), atol=1e-3)


def test_versions_of_the_prompt_stay_apart(store):
    write(store, *EVERY, interest("ann", 0, "v2"))
    assert count_waiting(store, "hashed", "v2") == 1
    assert fuse(store, HashedEncoder(), "v2").artifacts == ("pooled:hashed:v2",)
    fused = fuse(store, HashedEncoder(), half_life=2)
    assert fused.artifacts == ("pooled:hashed:v1:half-life=2", "pooled:hashed:v2:half-life=2")
    assert pooled_id("hashed", "v1") == "pooled:hashed:v1"
    with store.connect() as connection:
        assert len(connection.execute(select(representations)).all()) == 1 + 10 + 1


def test_equal_texts_are_encoded_once(store):
    write(store, *(interest(f"u{number}", 0, summary="Likes drama.") for number in range(20)))
    encoder = HashedEncoder()
    fused = fuse(store, encoder)
    assert (fused.encoded, fused.texts, encoder.seen) == (20, 1, ["Likes drama."])


def test_a_user_forgotten_meanwhile_stays_forgotten(store):
    write(store, *EVERY)

    class Slow(HashedEncoder):
        def __call__(self, texts: list[str]) -> np.ndarray:
            with writing(store) as connection:
                connection.execute(delete(interests).where(interests.c.user_id == "ann"))
            return super().__call__(texts)

    fuse(store, Slow())
    assert {row[0] for rows in dump(store).values() for row in rows} == {"bob"}


@pytest.mark.model
def test_with_the_real_encoder(store, encoder_folder):
    write(store, interest("ann", 0, summary="Likes war films."), interest("ann", 1, summary="Likes cooking shows."))
    fused = fuse(store, open_encoder(encoder_folder, device="cpu"))
    assert fused.artifacts == ("pooled:all-minilm-l6-v2@53aa51172d14:v1",)
    with store.connect() as connection:
        (newest,) = connection.scalars(select(representations.c.vector).where(representations.c.index == 1))
    vector = np.frombuffer(newest, "<f4")
    assert vector.shape == (384,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
