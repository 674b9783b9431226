"""The registry of models: every row can be built, trained by its command, and read back by its name."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fusion.features.samples import Batch
from fusion.models.protocol import ModelConfig
from fusion.models.registry import KINDS, build, kind_of
from fusion.training.artifact import ArtifactConfig, read_config
from fusion.training.out_folder import BY_CLASS
from fusion.training.train import TrainConfig, _with_unknown
from streams.cli import app
from tests.support.ctr_world import log_of, random_rows, samples_of, spec_of
from tests.support.small_models import DIN, SRP4CTR

LOG = log_of(random_rows(2, user_count=6), 6, 40)


@pytest.mark.parametrize("name", KINDS)
def test_a_model_is_trained_by_its_command(name: str) -> None:
    kind = KINDS[name]
    assert kind.name == name == BY_CLASS[kind.model.__name__]
    result = CliRunner().invoke(app, [*kind.command.split(), "--help"])
    assert result.exit_code == 0, result.output
    assert "--out" in result.output


@pytest.mark.parametrize("config", [DIN, SRP4CTR], ids=lambda config: type(config).__name__)
def test_a_config_in_an_artifact_is_read_as_its_kinds(config: ModelConfig) -> None:
    kind = kind_of(config)
    record = ArtifactConfig(kind=kind.name, model=config, training=TrainConfig(), split="global", versions={})
    assert read_config(msgspec.json.encode(record)).model == config
    assert type(build(spec_of(LOG), config)) is kind.model


def test_showing_items_as_unknown_leaves_the_batch_as_it_was() -> None:
    samples = samples_of(spec_of(LOG), LOG, np.arange(40))
    batch: Batch = samples.batch(np.arange(40))
    before = batch.item_row.clone()
    torch.manual_seed(0)
    shown = _with_unknown(batch, 0.5)
    assert torch.equal(batch.item_row, before)
    changed = shown.item_row != before
    assert 0 < int(changed.sum()) < len(before)
    assert (shown.item_row[changed] == 1).all()
    assert shown.item_row[0] == 0  # padding stays
