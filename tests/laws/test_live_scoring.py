"""The law of the incremental user side: whatever happens between requests, it scores as the whole log read anew."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from fusion.encoders.recipe import Recipe
from fusion.encoders.split_llm import recipe_of
from fusion.features.keys.spec import KeyChoice
from fusion.features.tasks import with_scales
from fusion.serving.live import LiveScorer
from fusion.serving.score import Scorer
from fusion.training.artifact import Artifact
from streams.store.engine import open_store
from streams.store.heads import read_head
from tests.support import live_world as live
from tests.support.ctr_world import DAY
from tests.support.task_world import TASKS
from tests.support.tiny_llm import save_llm

CLOSE = 1e-5
WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)  # which would take minutes
NOW = 230 * DAY  # after everything in the log
OFFERED = [f"i{n}" for n in range(live.ITEMS)] + ["never seen"]

user = st.sampled_from([f"u{n}" for n in range(live.USERS)] + ["new"])
item = st.sampled_from([f"i{n}" for n in range(live.ITEMS)] + ["unlisted"])
behavior = st.tuples(
    item,
    st.integers(0, 229 * 24).map(lambda hour: hour * 3600.0),  # late ones too
    st.one_of(st.none(), st.sampled_from([1.0, 3.0, 5.0])),
    st.none(),
)
event = st.one_of(
    st.tuples(st.just("append"), user, st.lists(behavior, min_size=1, max_size=80)),
    st.tuples(st.just("many"), user, st.integers(0, 99)),
    st.tuples(st.just("score"), user),
    st.tuples(st.just("forget"), user),
    st.tuples(st.just("item"), item, st.sampled_from([None, *live.CATEGORIES]), st.sampled_from(["1990", "1996"])),
    st.tuples(st.just("profile"), user, st.sampled_from("FM")),
    st.tuples(st.just("partition"), user, st.integers(0, 99)),
    st.tuples(st.just("rewrite"), user, st.integers(0, 99)),
    st.tuples(st.just("encode"), st.sampled_from([1, 5, None])),
    st.tuples(st.just("restart"), st.sampled_from([0, 1])),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def artifacts(folder: Path) -> dict[str, Artifact]:
    engine = open_store(f"sqlite:///{folder / 'template.db'}")
    log = live.world(engine)
    llm = save_llm(folder / "llm")
    recipe: Recipe = recipe_of(llm, 2)
    plain, (spec, space) = live.spec_of(log), live.fit(log, engine)
    configs = live.configs(llm, recipe)
    made = {name: live.artifact_of(log, spec, config, space) for name, config in configs.items()}
    several = msgspec.structs.replace(spec, tasks=with_scales(TASKS, log, np.ones(log.size, bool)))
    tasks = {f"{name} tasks": live.artifact_of(log, several, config, space) for name, config in configs.items()}
    keyed, space = live.fit(log, engine, KeyChoice(("release_year",)))
    for name, config in live.configs_with_keys().items():
        made[name] = live.artifact_of(log, keyed, config, space)
        tasks[f"{name} tasks"] = live.artifact_of(
            log, msgspec.structs.replace(keyed, tasks=several.tasks), config, space
        )
    engine.dispose()
    return made | tasks | {"plain": live.artifact_of(log, plain, configs["din"])}


@pytest.fixture
def engine(folder: Path, artifacts: dict[str, Artifact], tmp_path: Path) -> Iterator[Engine]:
    shutil.copy(folder / "template.db", tmp_path / "store.db")
    opened = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    yield opened
    opened.dispose()


def happens(engine: Engine, what: tuple[object, ...]) -> None:
    kind, *rest = what
    does = {
        "append": live.append,
        "many": live.append_many,
        "encode": live.encode,
        "forget": live.forget,
        "item": live.change_item,
        "profile": live.change_profile,
        "partition": live.close_partition,
        "rewrite": live.rewrite_interest,
    }
    if kind in does:
        does[str(kind)](engine, *rest)  # type: ignore[operator]


def compare(engine: Engine, artifact: Artifact, scorer: LiveScorer, user_id: str) -> None:
    with engine.connect() as connection:
        found = scorer.score(connection, user_id, OFFERED, NOW)
        anew = Scorer(artifact).scores(connection, [(user_id, item) for item in OFFERED], NOW)
    np.testing.assert_allclose(found.values, anew.values, atol=CLOSE)
    assert found.unknown_user == anew.unknown_user.any()
    np.testing.assert_array_equal(found.unknown_item, anew.unknown_item)


@pytest.mark.parametrize(
    ("kind", "examples"),
    [("din", 4), ("srp4ctr", 3), ("bahe", 2), ("plain", 1), ("kv", 4), ("din keys", 2), ("srp4ctr keys", 2)],
)
def test_a_side_carried_forward_scores_as_one_built_anew(
    folder: Path, artifacts: dict[str, Artifact], kind: str, examples: int
) -> None:
    """After every step of any history of the store, with any memory: late behaviours, catalogue, forgets, restarts."""
    artifact = artifacts[kind]

    @given(st.lists(event, min_size=1, max_size=6), st.data())
    @settings(max_examples=examples, phases=WITHOUT_SHRINKING, suppress_health_check=[HealthCheck.too_slow])
    def holds(events: list[tuple[object, ...]], data: st.DataObject) -> None:
        shutil.copy(folder / "template.db", folder / f"{kind}.db")
        engine = open_store(f"sqlite:///{folder / f'{kind}.db'}")
        scorer = LiveScorer(artifact, read_head, memory_mb=1)
        try:
            compare(engine, artifact, scorer, "u5")
            for what in events:
                if what[0] == "restart":
                    scorer = LiveScorer(artifact, read_head, memory_mb=int(str(what[1])))  # 0: nothing is held
                happens(engine, what)
                asked = (
                    str(what[1]) if what[0] in ("append", "many", "score", "forget", "partition", "rewrite") else "u5"
                )
                compare(engine, artifact, scorer, asked)
            for one in ("u5", data.draw(user)):
                compare(engine, artifact, scorer, one)
        finally:
            engine.dispose()
            for file in folder.glob(f"{kind}.db*"):
                file.unlink()

    holds()


@pytest.mark.parametrize("kind", ["din", "srp4ctr", "bahe", "kv"])
def test_what_was_read_once_is_not_read_again(engine: Engine, artifacts: dict[str, Artifact], kind: str) -> None:
    scorer = LiveScorer(artifacts[kind], read_head)
    compare(engine, artifacts[kind], scorer, "u5")
    assert scorer.counts().read == 120
    compare(engine, artifacts[kind], scorer, "u5")
    live.append(engine, "u5", [("i3", 5 * DAY, 5.0, None), ("i4", 229 * DAY, 1.0, None)])
    compare(engine, artifacts[kind], scorer, "u5")
    counted = scorer.counts()
    assert (counted.requests, counted.hits, counted.built, counted.read) == (3, 2, 1, 122)
    assert counted.full_reads == {}


def test_what_was_said_of_a_side_that_changed(engine: Engine, artifacts: dict[str, Artifact]) -> None:
    artifact = artifacts["srp4ctr"]
    scorer = LiveScorer(artifact, read_head)
    compare(engine, artifact, scorer, "u5")
    live.change_item(engine, "i2", "Western", "1996")  # one that this user knows
    compare(engine, artifact, scorer, "u5")
    assert scorer.counts().outdated == {"catalogue": 1}
    live.change_item(engine, "a new item", "Western", "1996")
    compare(engine, artifact, scorer, "u5")
    assert scorer.counts().outdated == {"catalogue": 1}
    live.forget(engine, "u4")
    compare(engine, artifact, scorer, "u5")
    assert scorer.counts().outdated == {"catalogue": 1, "forget": 1}
    assert scorer.counts().built == 3


@pytest.mark.parametrize("kind", ["din", "srp4ctr", "bahe"])
def test_more_behaviours_than_the_match_looks_at_and_vectors_that_come_later(
    engine: Engine, artifacts: dict[str, Artifact], kind: str
) -> None:
    """By sums and a window that moves, without a full read; texts that are encoded later are found, and other texts."""
    artifact = artifacts[kind]
    scorer = LiveScorer(artifact, read_head)
    with engine.connect() as connection:
        before = scorer.score(connection, "u5", OFFERED, NOW).values
    for seed in range(2):
        live.append_many(engine, "u5", seed)
        compare(engine, artifact, scorer, "u5")
    live.encode(engine)
    compare(engine, artifact, scorer, "u5")
    live.change_item(engine, "i2", "Western", "1996")
    live.encode(engine)
    compare(engine, artifact, scorer, "u5")
    counted = scorer.counts()
    assert (counted.built, counted.outdated, counted.full_reads) == (3, {"catalogue": 2}, {})
    with engine.connect() as connection:
        assert np.abs(scorer.score(connection, "u5", OFFERED, NOW).values - before).max() > 100 * CLOSE


def test_memory_is_bounded_and_what_is_let_go_is_counted(engine: Engine, artifacts: dict[str, Artifact]) -> None:
    scorer = LiveScorer(artifacts["srp4ctr"], read_head, memory_mb=0)
    for user_id in ("u5", "u4", "u5"):
        compare(engine, artifacts["srp4ctr"], scorer, user_id)
    counted = scorer.counts()
    assert (counted.users, counted.bytes, counted.evicted, counted.hits) == (0, 0, 3, 0)


@pytest.mark.parametrize("kind", ["din", "srp4ctr"])
def test_a_moment_in_the_past_and_parts_that_a_side_lacks_are_read_anew(
    engine: Engine, artifacts: dict[str, Artifact], kind: str
) -> None:
    artifact = artifacts[kind]
    scorer = LiveScorer(artifact, read_head)
    with engine.connect() as connection:
        past = scorer.score(connection, "u5", OFFERED, 100 * DAY)
        pairs = [("u5", item) for item in OFFERED]
        anew = Scorer(artifact, as_of_request=True).scores(connection, pairs, 100 * DAY)
        np.testing.assert_array_equal(past.values, anew.values)
        assert scorer.counts().full_reads == {"past": 1}
        newer = dataclasses.replace(artifact, spec=msgspec.structs.replace(artifact.spec, layout=99))
        other = LiveScorer(newer, read_head)
        found = other.score(connection, "u5", OFFERED, NOW)
        np.testing.assert_allclose(found.values, scorer.score(connection, "u5", OFFERED, NOW).values, atol=CLOSE)
        assert other.counts().full_reads == {"features": 1}


def test_many_threads_on_one_user_while_behaviours_come_in(engine: Engine, artifacts: dict[str, Artifact]) -> None:
    """Every answer knows at least what was committed before it was asked for, and the last is that of a full read."""
    artifact = artifacts["srp4ctr"]
    scorer = LiveScorer(artifact, read_head)
    committed = [119]

    def ask(number: int) -> bool:
        if number % 5 == 0:
            with lock:
                live.append(engine, "u5", [(f"i{number % 30}", 229 * DAY, 4.0, None)])
                committed[0] += 1
        before = committed[0]
        with engine.connect() as connection:
            return scorer.score(connection, "u5", OFFERED, NOW).newest >= before

    lock = threading.Lock()
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(40)))
    compare(engine, artifact, scorer, "u5")
    assert scorer.counts().outdated == {}


@pytest.mark.parametrize("kind", ["din", "srp4ctr", "bahe", "kv"])
def test_several_tasks_score_alike_carried_forward_and_read_anew(
    engine: Engine, artifacts: dict[str, Artifact], kind: str
) -> None:
    artifact = artifacts[f"{kind} tasks"]
    scorer, blend = LiveScorer(artifact, read_head), "like*0.7 + 0.3*love"
    pairs = [("u5", item) for item in OFFERED]
    with engine.connect() as connection:
        for _ in range(2):
            found = scorer.score(connection, "u5", OFFERED)
            anew = Scorer(artifact).scores(connection, pairs, found.at)
            mixed = Scorer(artifact, blend=blend).scores(connection, pairs, found.at)
            assert found.tasks is not None
            assert anew.tasks is not None
            assert list(found.tasks) == ["like", "love", "stars"]
            for name, values in found.tasks.items():
                np.testing.assert_allclose(values, anew.tasks[name], atol=CLOSE * 10)
                assert np.unique(values).size > 20
            np.testing.assert_array_equal(found.values, found.tasks["like"])
            np.testing.assert_allclose(mixed.values, 0.7 * anew.tasks["like"] + 0.3 * anew.tasks["love"], atol=1e-9)
            live.append(engine, "u5", [("i3", 229 * DAY, 5.0, None)])
