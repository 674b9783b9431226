"""BAHE goes on from an artifact with the same tasks, with one more, and with one less."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import Engine

from fusion.encoders.recipe import Recipe
from fusion.features.dataset import Dataset, DatasetConfig
from fusion.features.refresh import read_new
from fusion.features.tasks import Task, parse_tasks
from fusion.models.bahe.model import Bahe, BaheConfig
from fusion.serving.score import Scorer
from fusion.training.artifact import Artifact, load_artifact
from fusion.training.bahe import begin_with, begin_with_llm, continued, newest, with_bank_vectors
from fusion.training.experiment import run
from fusion.training.train import TrainConfig
from interest.errors import InputError
from interest.store.sql import insert_new
from interest.store.tables import behaviors
from tests.support.bahe_world import config_of, quiet, ready
from tests.support.ctr_world import fill, random_rows

ONCE = TrainConfig(epochs=1, batch_size=64)
LIKE, LOVE, STARS = "like=value>=4", "love=value>=5@0.5", "stars=value"


@pytest.fixture
def day(store: Engine, llm: Path, recipe: Recipe, tmp_path: Path) -> Artifact:
    """A model of a rating of at least 4, of at least 5, and of which; and 300 behaviours that it has not seen."""
    end = fill(store, random_rows(6, each=15)).at.max()
    dataset = ready(store, recipe, llm, tmp_path / "banks", DatasetConfig(tasks=parse_tasks((LIKE, LOVE, STARS))))
    config = config_of(llm, recipe, until=newest(dataset))
    run(
        dataset, config, ONCE, split="global", folder=tmp_path / "day1",
        prepare=lambda model: begin_with_llm(model, config),
    )  # fmt: skip
    rng = np.random.default_rng(1)
    rows = [
        {
            "user_id": f"u{n % 30}", "seq": 15 + n // 30, "item_id": f"i{rng.integers(40)}", "action": "rate",
            "at": float(end) + 60.0 * (n + 1), "value": float(rng.integers(1, 6)),
        }
        for n in range(300)
    ]  # fmt: skip
    with store.begin() as connection:
        insert_new(connection, behaviors, rows)
    return load_artifact(tmp_path / "day1")


def begun(last: Artifact, dataset: Dataset, config: BaheConfig) -> Bahe:
    torch.manual_seed(1)
    model = Bahe(dataset.spec, config)
    begin_with(model, config, last)
    return model


def new(store: Engine, last: Artifact, *tasks: str) -> Dataset:
    with store.connect() as connection:
        return read_new(connection, last.spec, last.config.model.until, tasks=parse_tasks(tasks) if tasks else ())


def test_tasks_that_are_there_keep_their_towers_and_a_new_one_has_a_fresh_one(
    day: Artifact, store: Engine, llm: Path, recipe: Recipe, tmp_path: Path
) -> None:
    held = day.model.state_dict()
    for tasks, places in (
        ((), (0, 1, 2)),
        ((STARS, LIKE, "dislike=value<=2", LOVE), (2, 0, None, 1)),
        (("like=value>=4", "stars=value"), (0, 2)),
        (("like=value>=4",), (0,)),
    ):
        dataset = new(store, day, *tasks)
        assert [task.name for task in dataset.spec.tasks] == [one.split("=")[0] for one in tasks or (LIKE, LOVE, STARS)]
        dataset = with_bank_vectors(dataset, store, recipe, llm, tmp_path / "banks", quiet)  # type: ignore[arg-type]
        model = begun(day, dataset, continued(day, dataset))
        for name, value in model.state_dict().items():
            if ".tower." not in name:
                assert torch.equal(value, held[name])
                continue
            head, _, own = name.partition(".tower.")
            number, own = (int(own[5]), own[7:]) if len(places) > 1 else (0, own)
            before = held[f"{head}.tower.each.{places[number] or 0}.{own}"]
            assert torch.equal(value, before) == (places[number] is not None) or not value.any()


def test_a_run_with_another_task_ends_in_an_artifact_that_scores_it_and_goes_on_without(
    day: Artifact, store: Engine, llm: Path, recipe: Recipe, tmp_path: Path
) -> None:
    dataset = new(store, day, LIKE, "stars=value", "dislike=value<=2")
    assert dataset.spec.tasks[1].scale == day.spec.tasks[2].scale  # the number's tower goes on from what it has learnt
    dataset = with_bank_vectors(dataset, store, recipe, llm, tmp_path / "banks", quiet)  # type: ignore[arg-type]
    config = continued(day, dataset)
    run(
        dataset, config, ONCE, split="global", folder=tmp_path / "day2",
        prepare=lambda model: begin_with(model, config, day),
    )  # fmt: skip
    second = load_artifact(tmp_path / "day2")
    assert second.config.model.continued_from == day.id
    with store.connect() as connection:
        made = Scorer(second)(connection, [("u1", "i1"), ("u2", "i3")], 1e9)
    assert np.isfinite(made).all()
    assert [task.name for task in second.spec.tasks] == ["like", "stars", "dislike"]


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        (("love=value>=5", "like=value>=4"), "--task love: value>=5: it would be the main task.*is value>=4, by which"),
        ((LIKE, "stars=log(value)"), "has learnt value by this name; give a new task a name of its own"),
        (
            ("fine=value>=4",),
            "--task fine: value>=4: the main task .* this rule and the name like; write --task like='v",
        ),
        (("like=value>=3",), "value>=3: it would be the main task"),
        (("like=value>=4", "never=value>=6"), "task never: too little is new.*of both classes are needed"),
    ],
)
def test_tasks_that_a_model_cannot_go_on_with_are_told(
    day: Artifact, store: Engine, tasks: tuple[str, ...], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        new(store, day, *tasks)


def test_a_task_without_a_name_is_known_by_its_rule(day: Artifact, store: Engine) -> None:
    with store.connect() as connection:
        one = read_new(connection, day.spec, day.config.model.until, tasks=(Task.parse("value>=4"),))
        assert one.targets is None
        with pytest.raises(InputError, match="it would be the main task"):
            read_new(connection, day.spec, day.config.model.until, tasks=(Task.parse("value>=3"),))
