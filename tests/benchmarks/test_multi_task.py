"""benchmarks/multi_task.py: gains are over each task alone, the peer is chosen on validation, a planted task is one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from benchmarks import multi_task
from benchmarks.tasks.data import alone, with_planted
from fusion.features.tasks import parse_tasks
from tests.support.ctr_world import fill, random_rows
from tests.support.task_world import tasks_dataset

CHOSEN = argparse.Namespace(
    users=None,
    model="din",
    log="ml-small",
    splits="user",
    tasks="2",
    seeds=2,
    only="*",
    quick=False,
    epochs=4,
    report=True,
    save=None,
)


def keep(folder: Path, name: str, valid: tuple[float, float], test: tuple[float, float]) -> None:
    parts = {"valid": valid, "test": test}
    line = {part: dict(zip(("like", "love"), own, strict=True)) for part, own in parts.items()}
    (folder / f"ml-small-user-2-{name}.json").write_text(json.dumps(line))


def test_the_peer_is_the_best_on_validation_and_gains_are_over_the_tasks_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cosines = {"natural": {"conflicting": ["like, love"]}, "planted": False}
    (tmp_path / "ml-small-user-2-cosines.json").write_text(json.dumps(cosines))
    for seed in range(2):
        for task in ("like", "love"):
            keep(tmp_path, f"alone-{task}-s{seed}", (0.8, 0.8), (0.8, 0.5))
        keep(tmp_path, f"sum-s{seed}", (0.8, 0.8), (0.8, 0.5))
        keep(tmp_path, f"gdod-s{seed}", (0.8, 0.8), (0.82, 0.5 + 0.01 * seed))
        keep(tmp_path, f"pcgrad-s{seed}", (0.8, 0.82), (0.8, 0.51))
        keep(tmp_path, f"mgda-s{seed}", (0.8, 0.81), (0.9, 0.6))  # better on test, which nobody has seen
    multi_task.run_all(CHOSEN, tmp_path / "work", tmp_path, ("sum", "gdod", "pcgrad", "mgda"))
    told = json.loads(capsys.readouterr().out)
    gain = told["mean_gain"]
    assert gain["best_peer_name"] == "pcgrad"
    assert gain["best_peer"] == pytest.approx(0.01)
    assert gain["gdod"] == pytest.approx((0.0125 + (0.025 + 0.02) / 2) / 2, abs=1e-5)
    assert gain["standard_error"] == pytest.approx(0.01 / 2, abs=1e-5)  # two gains, .01 apart
    assert told["worst_task"]["gdod"] == pytest.approx(0.005, abs=1e-5)


def test_a_planted_task_contradicts_another_in_some_categories_and_alone_is_the_same_samples(
    store: Engine,
) -> None:
    fill(store, random_rows(3))
    with store.connect() as connection:
        data = tasks_dataset(connection, parse_tasks(["like=value>=4", "planted=value>=4"]))
    planted = with_planted(data)
    assert planted.targets is not None
    like, turned = planted.targets.T
    category = data.samples.items.categories[1:, 0][data.log.item[data.rows]]
    by_category = {int(one): set((like == turned)[category == one].tolist()) for one in np.unique(category)}
    assert sorted(map(len, by_category.values())) == [1] * len(by_category)
    assert {True} in by_category.values()
    assert 0.75 <= (like != turned).mean() < 1
    single = alone(planted, 1)
    np.testing.assert_array_equal(single.labels, turned)
    for ours, theirs in zip(single.samples.content, planted.samples.content, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [task.name for task in single.spec.tasks] == ["planted"]
