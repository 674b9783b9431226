"""The models of benchmarks/long_history.py, and one run of one of them: from samples to the test part's scores."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.history.logs import Source
from fusion.features.keys.spec import KeyChoice
from fusion.features.samples import Samples, fit_samples
from fusion.features.splits import TEST, TRAIN, VALID
from fusion.features.tasks import Task
from fusion.models.din import DinConfig
from fusion.models.kv.model import KvConfig
from fusion.models.protocol import ModelConfig
from fusion.models.registry import build
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import Srp4CtrConfig
from fusion.training.train import TrainConfig, predict, train

LABEL = "value>=4"
PACK = 15
WIDTH = 32  # of the encoder, half of the command's, for two slow cores


class Form(NamedTuple):
    history: int
    config: ModelConfig
    keys: bool = False


def _srp4ctr(**more: Any) -> Srp4CtrConfig:
    encoder = FgBertConfig(positions=50 + PACK - 1, width=WIDTH)
    return Srp4CtrConfig(encoder=encoder, pack=PACK, lifelong=True, value_task=0.5, dense_path=True, **more)


FORMS = {
    "din-50": Form(50, DinConfig(dense_path=True)),
    "din-200": Form(200, DinConfig(dense_path=True)),
    "srp4ctr": Form(50, _srp4ctr()),
    "kv": Form(1, KvConfig(dense_path=True), keys=True),
    "srp4ctr+keys": Form(50, _srp4ctr(keys=True), keys=True),
    "din-50+keys": Form(50, DinConfig(dense_path=True, keys=True), keys=True),
}


def samples_of(source: Source, form: Form) -> Samples:
    return fit_samples(
        source.log, source.rows, source.train, source.catalogue, {},
        tasks=(Task.parse(LABEL),), history=form.history, min_history=5,
        keys=KeyChoice(source.attributes) if form.keys else None,
    )  # fmt: skip


def labels_of(source: Source) -> Any:
    return (source.log.value[source.rows] >= 4).astype(np.int8)


def learn(source: Source, name: str, seed: int, epochs: int, batch_size: int) -> dict[str, Any]:
    """Scores of the test part, of the epoch that was best on validation, and how long it took."""
    form = FORMS[name]
    began = time.perf_counter()
    samples = samples_of(source, form)
    ready = time.perf_counter()
    torch.manual_seed(seed)
    model = build(samples.spec, form.config)
    own = TrainConfig(epochs=epochs, batch_size=batch_size, seed=seed)
    training, validation, test = (np.flatnonzero(source.part == part) for part in (TRAIN, VALID, TEST))
    told = train(model, samples, labels_of(source), (training, validation), own)
    done = time.perf_counter()
    scores = predict(model, samples, test)
    return {
        "valid": [round(epoch.auc, 5) for epoch in told], "scores": scores,
        "samples_s": ready - began, "train_s": done - ready, "predict_s": time.perf_counter() - done,
    }  # fmt: skip
