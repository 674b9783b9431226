"""The dense path: fitted first, and the whole model is the path alone until the rest of it has learnt something."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from sqlalchemy import Engine

from fusion.features.dataset import read_dataset
from fusion.models.protocol import ModelConfig
from fusion.models.registry import build
from fusion.training import metrics
from fusion.training.artifact import artifact_id
from fusion.training.checkpoint import Epoch
from fusion.training.dense_path import DenseSchedule, fit_dense_path
from fusion.training.experiment import run
from fusion.training.train import predict, suited_epochs
from tests.support.ctr_world import fill, random_rows
from tests.support.small_models import DATA, DIN, QUICK, SRP4CTR

MODELS = [msgspec.structs.replace(own, dense_path=True) for own in (DIN, SRP4CTR)]
IDS = ["din", "srp4ctr"]


@pytest.mark.parametrize("config", MODELS, ids=IDS)
def test_after_the_fit_the_model_scores_as_the_path_alone(store: Engine, config: ModelConfig) -> None:
    fill(store, random_rows(3))
    with store.connect() as connection:
        data = read_dataset(connection, DATA)
    torch.manual_seed(0)
    model = build(data.spec, config)
    parts = (data.of(0), data.of(1))
    told = np.where(np.arange(data.samples.dense.shape[1]) == 0, 4.0 * data.labels[:, None], data.samples.dense)
    schedule = DenseSchedule(QUICK.dense_epochs, QUICK.batch_size, QUICK.seed)
    longer = schedule._replace(epochs=40)
    tasks = data.spec.tasks
    assert fit_dense_path(model, tasks, told.astype(np.float32), data.labels, parts, longer) > 0.95  # it reads it
    shown = fit_dense_path(model, tasks, data.samples.dense, data.labels, parts, schedule)
    assert metrics.auc(data.labels[data.of(1)], predict(model, data.samples, data.of(1))) == pytest.approx(shown)


@pytest.mark.parametrize("config", MODELS, ids=IDS)
def test_an_interrupted_run_with_a_dense_path_ends_as_the_uninterrupted_one(
    store: Engine, tmp_path: Path, config: ModelConfig
) -> None:
    fill(store, random_rows(3))
    with store.connect() as connection:
        data = read_dataset(connection, DATA)
    told: list[str] = []

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(data, config, QUICK, split="global", folder=tmp_path / "stopped", report=stop, say=told.append)
    assert len(told) == 1
    assert told[0].startswith("the dense features alone: validation AUC 0.")
    run(data, config, QUICK, split="global", folder=tmp_path / "stopped", say=told.append)
    assert len(told) == 1  # it is in the checkpoint
    run(data, config, QUICK, split="global", folder=tmp_path / "straight")
    assert artifact_id(tmp_path / "stopped") == artifact_id(tmp_path / "straight")


def test_a_short_log_is_learnt_in_one_pass_and_a_long_one_in_as_many_as_the_model_takes() -> None:
    assert [suited_epochs(4, rows) for rows in (0, 5_000, 80_000, 260_000, 800_000, 10**8)] == [1, 1, 1, 2, 4, 4]
