"""The law of the incremental user side: whatever happens between requests, it scores as the whole log read anew."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from fusion.encoders.recipe import Recipe
from fusion.encoders.split_llm import recipe_of
from fusion.serving.live import LiveScorer
from fusion.serving.score import Scorer
from fusion.training.artifact import Artifact
from streams.store.engine import open_store
from streams.store.heads import read_head
from tests.support import live_world as live
from tests.support.ctr_world import DAY
from tests.support.tiny_llm import save_llm

CLOSE = 1e-5
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
    st.tuples(st.just("score"), user),
    st.tuples(st.just("forget"), user),
    st.tuples(st.just("item"), item, st.sampled_from([None, *live.CATEGORIES]), st.sampled_from(["1990", "1996"])),
    st.tuples(st.just("profile"), user, st.sampled_from("FM")),
    st.tuples(st.just("partition"), user, st.integers(0, 99)),
    st.tuples(st.just("rewrite"), user, st.integers(0, 99)),
    st.tuples(st.just("restart"), st.sampled_from([0, 1])),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def artifacts(folder: Path) -> dict[str, Artifact]:
    engine = open_store(f"sqlite:///{folder / 'template.db'}")
    log = live.world(engine)
    engine.dispose()
    llm = save_llm(folder / "llm")
    recipe: Recipe = recipe_of(llm, 2)
    spec = live.spec_of(log)
    return {name: live.artifact_of(log, spec, config) for name, config in live.configs(llm, recipe).items()}


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


@pytest.mark.parametrize("kind", ["din", "srp4ctr", "bahe"])
def test_a_side_carried_forward_scores_as_one_built_anew(
    folder: Path, artifacts: dict[str, Artifact], kind: str
) -> None:
    """After every step of any history of the store, with any memory: late behaviours, catalogue, forgets, restarts."""
    artifact = artifacts[kind]

    @given(st.lists(event, min_size=1, max_size=12), st.data())
    @settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
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
                asked = str(what[1]) if what[0] in ("append", "score", "forget", "partition", "rewrite") else "u5"
                compare(engine, artifact, scorer, asked)
            for one in ("u5", data.draw(user)):
                compare(engine, artifact, scorer, one)
        finally:
            engine.dispose()
            for file in folder.glob(f"{kind}.db*"):
                file.unlink()

    holds()
