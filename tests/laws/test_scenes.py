"""Laws of scenes: the offer's scene moves that offer's score alone, folds away, and a log without scenes has none."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
import torch
from sqlalchemy import Engine, update

from fusion.encoders.split_llm import recipe_of
from fusion.features.collate import BatchIndices
from fusion.features.dataset import slices_of
from fusion.features.keys.spec import KeyChoice
from fusion.features.keys.vectors import Layout
from fusion.features.log import Log, read_log
from fusion.features.samples import Samples
from fusion.features.scenes import offered_rows, scene_names, scene_slices
from fusion.features.spec import FeatureSpec, fit_spec
from fusion.features.tasks import parse_tasks
from fusion.models.din import Din, DinConfig
from fusion.models.srp4ctr.model import Srp4Ctr
from fusion.serving.live import LiveScorer
from fusion.serving.score import Scorer
from fusion.training.artifact import Artifact
from fusion.training.train import predict
from interest.store.tables import behaviors
from streams.store.engine import open_store
from streams.store.heads import read_head
from tests.support import live_world as live
from tests.support.bahe_world import shaken
from tests.support.ctr_world import DAY, RULE, TASKS, Row, catalogue, log_of, profiles, random_rows, samples_of, spec_of
from tests.support.tiny_llm import save_llm

CLOSE = 1e-5
NOW = 230 * DAY
OFFERED = [f"i{n}" for n in range(8)] + ["never seen"]
SCENES = ("home", "search")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    opened = open_store(f"sqlite:///{tmp_path_factory.mktemp('scenes') / 'store.db'}")
    live.world(opened)
    with opened.begin() as connection:
        for number, scene in enumerate(SCENES):
            connection.execute(update(behaviors).where(behaviors.c.seq % 3 == number).values(scene=scene))
    yield opened
    opened.dispose()


@pytest.fixture(scope="module")
def artifacts(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    with engine.connect() as connection:
        log = read_log(connection)
    spec = live.spec_of(log)
    assert spec.offers_scenes
    llm = save_llm(tmp_path_factory.mktemp("llm") / "llm")
    made = {name: live.artifact_of(log, spec, config) for name, config in live.configs(llm, recipe_of(llm, 2)).items()}
    keyed, _ = live.fit(log, keys=KeyChoice(("release_year",)))
    return made | {name: live.artifact_of(log, keyed, config) for name, config in live.configs_with_keys().items()}


def scened(log: Log) -> Log:
    return dataclasses.replace(log, scenes=list(SCENES), scene=(np.arange(log.size) % 3 - 1).astype(np.int32))


def offers_of(spec: FeatureSpec, log: Log, rows: np.ndarray) -> Samples:
    """Each event as an offer in its own scene."""
    told = offered_rows(spec, scene_names(log, rows))
    return dataclasses.replace(samples_of(spec, log, rows), scene=told)


def logits(scores: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(scores) - np.log1p(-scores))


@pytest.mark.parametrize("kind", ["din", "srp4ctr", "bahe", "kv", "din keys", "srp4ctr keys"])
def test_live_scores_are_those_of_the_whole_log_in_every_scene(
    engine: Engine, artifacts: dict[str, Artifact], kind: str
) -> None:
    artifact = artifacts[kind]
    scorer, found = LiveScorer(artifact, read_head), {}
    with engine.connect() as connection:
        for scene in (*SCENES, None, "new"):
            pairs = [("u5", item) for item in OFFERED]
            live_scores = scorer.score(connection, "u5", OFFERED, NOW, scene)
            anew = Scorer(artifact).scores(connection, pairs, NOW, [scene] * len(pairs))
            np.testing.assert_allclose(live_scores.values, anew.values, atol=CLOSE)
            assert live_scores.unknown_scene == (scene == "new")
            held = scorer.score_held("u5", OFFERED, 1e9, scene)
            assert held is not None
            np.testing.assert_allclose(held.values, anew.values, atol=CLOSE)
            found[scene] = anew.values
        mixed = Scorer(artifact).scores(connection, pairs[:2], NOW, ["home", "search"]).values
    np.testing.assert_allclose(mixed, [found["home"][0], found["search"][1]], atol=CLOSE)
    np.testing.assert_allclose(found[None], found["new"], atol=CLOSE)
    for one, other in (("home", "search"), ("home", None)):
        assert np.abs(logits(found[one]) - logits(found[other])).max() > 100 * CLOSE


def test_a_side_serves_offers_of_all_scenes(engine: Engine, artifacts: dict[str, Artifact]) -> None:
    scorer = LiveScorer(artifacts["srp4ctr"], read_head)
    with engine.connect() as connection:
        for scene in (*SCENES, None):
            scorer.score(connection, "u4", OFFERED, NOW, scene)
    states = scorer._states
    assert states is not None
    assert (states.made, states.taken) == (1, 2)


def test_a_folded_score_is_the_unfolded_one_and_packing_changes_no_scene() -> None:
    log = scened(log_of(random_rows(1), 30, 40))
    spec = spec_of(log, history=live.HISTORY)
    model = Srp4Ctr(spec, msgspec.structs.replace(live.SRP4CTR, interest=False)).eval()
    shaken(model)
    samples = offers_of(spec, log, np.arange(log.size))
    rows = np.array([30, 31, 32, 60])
    windows = model.collator.collate(samples, BatchIndices(rows, np.array([3, 1])))
    with torch.no_grad():
        state = model.encode_user(windows.users, windows.items)
        np.testing.assert_allclose(
            model(windows).numpy(), model.score(state, windows.candidates, windows.items).numpy(), atol=CLOSE
        )
    assert windows.candidates.scene is not None
    assert samples.scene is not None
    told = windows.candidates.scene.flatten()[windows.candidates.slot]
    assert told.tolist() == samples.scene[rows].tolist()


def test_the_scene_of_an_offer_moves_its_own_score_and_those_of_later_offers_only() -> None:
    log = scened(log_of(random_rows(1), 30, 40))
    spec = spec_of(log)
    torch.manual_seed(0)
    model = Din(spec, DinConfig())
    shaken(model)
    changed = log.scene.copy()
    changed[30] = (changed[30] + 2) % 3 - 1
    other = dataclasses.replace(log, scene=changed)
    rows = np.arange(25, 50)  # one user's
    before, after = (predict(model, offers_of(spec, one, rows), np.arange(25)) for one in (log, other))
    moved = np.abs(before - after) > 1e-9
    assert not moved[:5].any()
    assert moved[5]


def test_scenes_that_would_be_shown_alike_have_slices_of_their_own() -> None:
    log = log_of(random_rows(1), 30, 40)
    names = ["a/b", "a|b", "a|b (2)", "c"]
    log = dataclasses.replace(log, scenes=names, scene=(np.arange(log.size) % 4).astype(np.int32))
    every = np.arange(log.size)
    told = scene_slices(log, every, items=every, users=every)
    of_scenes = {name: mask for name, mask in told.items() if name.startswith("scene_")}
    wanted = {"scene_a|b (3)": 0, "scene_a|b": 1, "scene_a|b (2)": 2, "scene_c": 3}
    assert of_scenes.keys() == wanted.keys()
    for name, number in wanted.items():
        assert (of_scenes[name] == (log.scene == number)).all()


@pytest.mark.parametrize("scene", [None, "home"])
def test_a_log_of_one_scene_or_none_is_read_as_before_there_were_any(scene: str | None) -> None:
    log = log_of(random_rows(1), 30, 40)
    if scene is not None:
        log = dataclasses.replace(log, scenes=[scene], scene=np.zeros(log.size, np.int32))
    spec = spec_of(log)
    assert "scene_offered" not in msgspec.to_builtins(spec)
    assert not [name for name in Din(spec, DinConfig()).state_dict() if "scene" in name]
    samples = samples_of(spec, log, np.arange(5))
    assert samples.scene is None
    assert not [
        name for name in slices_of(log, np.arange(9), items=np.arange(9), users=np.arange(9)) if "scene" in name
    ]


def test_a_spec_of_before_reads_no_scene_of_an_offer() -> None:
    log = scened(log_of(random_rows(1), 30, 40))
    old = msgspec.to_builtins(spec_of(log))
    del old["scene_offered"]
    spec = msgspec.convert(old, FeatureSpec)
    assert spec.scenes.texts == SCENES
    assert not spec.offers_scenes
    assert samples_of(spec, log, np.arange(5)).scene is None


def test_a_task_that_asks_for_the_scene_is_not_told_it() -> None:
    log = scened(log_of(random_rows(1), 30, 40))
    tasks = parse_tasks(["like=value>=4", "here=scene=home"])
    every, (book, people) = np.ones(log.size, bool), (catalogue(40), profiles(30))
    spec = fit_spec(
        log, RULE.labels(log), every, book, people, tasks=tasks, history=5, min_history=0, keys=KeyChoice(())
    )
    assert not spec.offers_scenes
    assert spec.keys is not None
    assert spec.keys.kinds[-1] == "scene"  # of the past it may be read
    assert Layout(spec).slots[-1] == 0
    assert fit_spec(log, RULE.labels(log), every, book, people, tasks=TASKS, history=5, min_history=0).offers_scenes


def test_who_is_new_in_a_scene_but_known_in_another_is_a_slice() -> None:
    rows: list[Row] = [
        (0, 0, 1.0, 5.0),
        (0, 1, 2.0, 5.0),
        (0, 1, 3.0, 5.0),
        (1, 2, 4.0, 5.0),
        (1, 0, 5.0, 5.0),
        (2, 0, 6.0, 5.0),
    ]
    log = dataclasses.replace(log_of(rows, 3, 3), scenes=["a", "b"], scene=np.array([0, 1, 0, 1, 1, 0], np.int32))
    training = np.array([0, 1, 3])
    slices = slices_of(log, np.array([2, 4, 5]), items=training, users=training)
    assert slices["scene_a"].tolist() == [True, False, True]
    assert slices["scene_b"].tolist() == [False, True, False]
    assert slices["new_in_scene_items"].tolist() == [True, True, False]  # item 0 is known in a, item 1 in b
    assert slices["new_in_scene_users"].tolist() == [False, False, False]  # user 2 is known nowhere
    later = slices_of(log, np.array([5]), items=training, users=np.array([0, 1, 3, 4]))
    assert not later["new_in_scene_users"].any()
