"""Several tasks at once: every one is learnt, measured and kept; a row without a task's label teaches it nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from sqlalchemy import Engine

from fusion.features.collate import BatchIndices
from fusion.features.dataset import Dataset
from fusion.features.splits import TEST
from fusion.features.tasks import parse_tasks
from fusion.models.protocol import ModelConfig
from fusion.models.registry import build
from fusion.models.srp4ctr.model import Srp4Ctr
from fusion.training.artifact import Metrics, load_artifact
from fusion.training.balance import Balancer
from fusion.training.checkpoint import Epoch
from fusion.training.experiment import run
from fusion.training.train import predict
from interest.errors import InputError
from tests.support.ctr_world import TASKS, fill, random_rows
from tests.support.small_models import DIN, QUICK, SRP4CTR
from tests.support.task_world import tasks_dataset

MODELS = {
    "din": msgspec.structs.replace(DIN, dense_path=True, dropout=0.0),
    "srp4ctr": msgspec.structs.replace(SRP4CTR, dense_path=True),
}
FAST = msgspec.structs.replace(QUICK, epochs=2)


@pytest.fixture
def data(store: Engine) -> Dataset:
    fill(store, random_rows(3))
    with store.connect() as connection:
        return tasks_dataset(connection)


def trained(data: Dataset, folder: Path, balance: str, config: ModelConfig = MODELS["din"]) -> Metrics:
    settings = msgspec.structs.replace(FAST, balance=balance)
    return run(data, config, settings, split="global", folder=folder)


@pytest.mark.parametrize("name", MODELS)
def test_every_task_is_measured_and_the_artifact_scores_them_all(data: Dataset, tmp_path: Path, name: str) -> None:
    measured = trained(data, tmp_path / name, "gdod", MODELS[name])
    for part in ("valid", "test"):
        held = measured[part]
        assert held["auc"] == held["like/auc"]
        assert 0.6 < held["like/auc"] <= 1.0
        assert 0.5 < held["love/auc"] <= 1.0
        assert 0 < held["stars/mae"] <= held["stars/rmse"] < 1.3  # the values' own deviation is 1.4
        assert held["love/rows"] < held["like/rows"] == held["stars/rows"]
        assert "like/gauc" in held
        assert "stars/cold_items_rmse" in held
    assert measured["training"]["steps"] > 0
    kept = load_artifact(tmp_path / name)
    scores = predict(kept.model, data.samples, data.of(TEST))
    assert scores.shape == (len(data.of(TEST)), 3)
    assert ((scores[:, :2] > 0) & (scores[:, :2] < 1)).all()
    assert abs(scores[:, 2].mean() - np.nanmean(data.targets[data.of(TEST), 2])) < 1  # type: ignore[index]
    assert [task.name for task in kept.spec.tasks] == ["like", "love", "stars"]
    assert kept.metrics["training"] == measured["training"]


@pytest.mark.parametrize("name", MODELS)
def test_a_row_without_a_tasks_label_teaches_that_task_nothing(data: Dataset, name: str) -> None:
    torch.manual_seed(0)
    model = build(data.spec, MODELS[name])
    model.eval()
    if isinstance(model, Srp4Ctr):
        model.value = None
    rows = np.arange(40)
    batch = model.collator.collate(data.samples, BatchIndices(rows, np.ones(40, np.int64)))
    targets = torch.from_numpy(data.targets[rows])  # type: ignore[index]
    none = targets.clone()
    none[:, 1] = float("nan")
    losses = model.loss(batch, none).ctr
    assert losses[1] == 0
    assert (losses[[0, 2]] == model.loss(batch, targets).ctr[[0, 2]]).all()
    losses.sum().backward()
    tower: torch.nn.Module = model.tower.each[1]  # type: ignore[attr-defined]
    assert all(weight.grad is None or not weight.grad.any() for weight in tower.parameters())
    other: torch.nn.Module = model.tower.each[0]  # type: ignore[attr-defined]
    assert any(weight.grad is not None and weight.grad.any() for weight in other.parameters())


def test_the_value_is_asked_of_no_row_of_which_the_main_task_says_nothing(data: Dataset) -> None:
    torch.manual_seed(0)
    model = build(data.spec, MODELS["srp4ctr"])
    rows = np.arange(40)
    batch = model.collator.collate(data.samples, BatchIndices(rows, np.ones(40, np.int64)))
    targets = torch.from_numpy(data.targets[rows])  # type: ignore[index]
    asked = model.loss(batch, targets).extra
    targets[:20, 0] = float("nan")
    assert 0 < model.loss(batch, targets).extra < asked
    targets[:, 0] = float("nan")
    assert model.loss(batch, targets).extra == 0


@pytest.mark.parametrize("name", MODELS)
def test_a_task_and_its_contrary_pull_apart_what_they_share_and_only_that_is_balanced(store: Engine, name: str) -> None:
    fill(store, random_rows(3))
    with store.connect() as connection:
        data = tasks_dataset(connection, parse_tasks(["like=value>=4", "dislike=value<4"]))
    torch.manual_seed(0)
    model = build(data.spec, MODELS[name])
    model.eval()
    if isinstance(model, Srp4Ctr):
        model.value = None
    parts: list[torch.nn.Module] = [model.tower, model.dense_path]  # type: ignore[attr-defined, list-item]
    for part in parts:  # with the same towers the gradients of what is read are as contrary as the tasks
        part.each[1].load_state_dict(part.each[0].state_dict())  # type: ignore[union-attr, index, operator]
    rows = np.arange(60)
    batch = model.collator.collate(data.samples, BatchIndices(rows, np.ones(60, np.int64)))
    targets = torch.from_numpy(data.targets[rows])  # type: ignore[index]
    model.loss(batch, targets).ctr.sum().backward()
    own = [weight for part in parts for weight in part.parameters()]
    plain = [weight.grad for weight in own]
    balancer = Balancer("pcgrad")
    assert balancer.gradients(model, list(model.loss(batch, targets).ctr.unbind())).conflict
    assert balancer.gram[0, 1] < -0.5 * balancer.gram.diagonal().prod().sqrt()
    for weight, wanted in zip(own, plain, strict=True):
        torch.testing.assert_close(weight.grad, wanted)


def test_one_task_by_another_name_has_the_same_weights_and_spec_as_a_label(store: Engine, tmp_path: Path) -> None:
    fill(store, random_rows(3))
    made = []
    for number, tasks in enumerate((parse_tasks(["ctr=value>=4"]), TASKS)):
        with store.connect() as connection:
            data = tasks_dataset(connection, tasks)
        run(data, DIN, FAST, split="global", folder=tmp_path / str(number))
        made.append(load_artifact(tmp_path / str(number)))
    assert made[0].spec == made[1].spec
    assert made[0].config.training == FAST
    ours, theirs = (one.model.state_dict() for one in made)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (tmp_path / "0" / "spec.json").read_bytes() == (tmp_path / "1" / "spec.json").read_bytes()


@pytest.mark.parametrize("balance", ["gdod", "pcgrad"])
def test_an_interrupted_balanced_run_ends_with_the_same_weights_and_counts(
    data: Dataset, tmp_path: Path, balance: str
) -> None:
    class Stopped(Exception):
        pass

    def stop(_: Epoch) -> None:
        raise Stopped

    settings = msgspec.structs.replace(FAST, balance=balance)
    whole = run(data, MODELS["din"], settings, split="global", folder=tmp_path / "whole")
    with pytest.raises(Stopped):
        run(data, MODELS["din"], settings, split="global", folder=tmp_path / "cut", report=stop)
    again = run(data, MODELS["din"], settings, split="global", folder=tmp_path / "cut")
    assert again["training"] == whole["training"]
    ours, theirs = (load_artifact(tmp_path / name).model.state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_weights_and_balancers_change_what_is_learnt_and_a_plain_sum_counts_nothing(
    data: Dataset, tmp_path: Path
) -> None:
    told = {name: trained(data, tmp_path / name, name) for name in ("sum", "gdod-pure", "mgda")}
    assert "training" not in told["sum"]
    assert told["gdod-pure"]["training"]["zero_share"] <= 1
    losses = [held["valid"]["like/log_loss"] for held in told.values()]
    assert len(set(losses)) == 3


def test_a_task_without_enough_labels_is_told_by_its_name(store: Engine) -> None:
    fill(store, random_rows(3))
    with store.connect() as connection:
        with pytest.raises(InputError, match=r"--task none: value>=9: all .* samples are negative"):
            tasks_dataset(connection, parse_tasks(["like=value>=4", "none=value>=9"]))
        with pytest.raises(InputError, match=r"task rare, .*samples"):
            tasks_dataset(connection, parse_tasks(["like=value>=4", "rare=value if value<0"]))
