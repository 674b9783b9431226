"""What reading keys costs at any length of the past: scoring in the service's way, and rows a second in training."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from sqlalchemy import Engine

from benchmarks.history.logs import Source, planted
from benchmarks.history.models import FORMS, Form, labels_of, samples_of
from fusion.features.collate import BatchIndices
from fusion.features.counts import ItemHistory, ItemStatistics, event_columns
from fusion.features.splits import TRAIN
from fusion.models.registry import build, kind_of
from fusion.serving.live import LiveScorer
from fusion.training.artifact import Artifact, ArtifactConfig, versions
from fusion.training.train import TrainConfig
from interest.store.sql import insert_new, item_row
from interest.store.tables import behaviors, items
from streams.store.engine import open_store
from streams.store.heads import read_head

ITEMS = 500
CANDIDATES = 100
ROUNDS = 40
MODELS = ("kv", "srp4ctr+keys")
BATCH = 256
STEPS = 8


def costs(sizes: Sequence[int]) -> dict[str, Any]:
    out: dict[str, Any] = {"candidates": CANDIDATES, "distinct_items": ITEMS}
    with tempfile.TemporaryDirectory() as folder:
        engine = open_store(f"sqlite:///{Path(folder) / 'store.db'}")
        source = _few(planted(2, 2_000, 100))
        _fill(engine, source, sizes)
        for name in MODELS:
            out[name] = _scoring(engine, source, FORMS[name], sizes)
        engine.dispose()
    whole = [size for size in (1_000, 50_000) if size in sizes]
    if len(whole) == 2:
        timed = out["kv"]["score_us"]
        out["flat_50000_over_1000"] = round(timed["50000"] / timed["1000"], 3)
    out["train_rows_per_s"] = {str(size): _training(size) for size in sizes}
    return out


def _few(source: Source) -> Source:
    """The log on the first 500 items only."""
    return dataclasses.replace(source, log=dataclasses.replace(source.log, item=source.log.item % ITEMS))


def _fill(engine: Engine, source: Source, sizes: Sequence[int]) -> None:
    rng = np.random.default_rng(0)
    with engine.begin() as connection:
        insert_new(connection, items, [item_row(item) for item in source.catalogue.values()])
        for size in sizes:
            insert_new(connection, behaviors, [_row(f"n{size}", seq, size, rng) for seq in range(size)])


def _row(user: str, seq: int, size: int, rng: np.random.Generator) -> dict[str, object]:
    at = 900 * 86_400.0 * min(seq / size, 1.0)
    value = float(rng.integers(1, 6))
    return {
        "user_id": user, "seq": seq, "item_id": f"i{rng.integers(ITEMS)}", "action": "rate", "at": at, "value": value,
    }  # fmt: skip


def _artifact(source: Source, form: Form) -> Artifact:
    """An untrained model: what it costs does not depend on its weights."""
    spec, log = samples_of(source, form).spec, source.log
    torch.manual_seed(0)
    model = build(spec, form.config)
    model.eval()
    found = ItemHistory(log, event_columns(log, spec.label.labels(log), spec.scale)).snapshot()
    number = {item: i for i, item in enumerate(log.items)}
    order = np.array([number[item] for item in spec.items])
    statistics = ItemStatistics(found.total[order], found.recent[order], found.first_at[order])
    own: ArtifactConfig[Any] = ArtifactConfig(
        kind=kind_of(form.config).name, model=form.config, training=TrainConfig(), split="global", versions=versions()
    )
    return Artifact("c" * 16, model, spec, statistics, own, {})


def _scoring(engine: Engine, source: Source, form: Form, sizes: Sequence[int]) -> dict[str, Any]:
    """Medians over rounds in which all sizes have their turn, so that a slow second meets all alike."""
    scorer = LiveScorer(_artifact(source, form), read_head)
    offered = [f"i{n}" for n in range(CANDIDATES)]
    rng = np.random.default_rng(1)
    again: dict[int, list[float]] = {size: [] for size in sizes}
    news: dict[int, list[float]] = {size: [] for size in sizes}
    first: dict[int, float] = {}
    with engine.connect() as connection:
        for size in sizes:
            first[size] = _timed(scorer, connection, size, offered)
        connection.rollback()
        for _ in range(ROUNDS):
            for size in sizes:
                with engine.begin() as writing:
                    head = read_head(writing, f"n{size}")
                    insert_new(writing, behaviors, [_row(f"n{size}", head.newest + 1, size, rng)])
                news[size].append(_timed(scorer, connection, size, offered))
                again[size].append(_timed(scorer, connection, size, offered))
                connection.rollback()
    assert scorer.counts().full_reads == {}
    return {
        "score_us": {str(size): round(median(own), 1) for size, own in again.items()},
        "score_with_a_new_behavior_us": {str(size): round(median(own), 1) for size, own in news.items()},
        "first_score_us": {str(size): round(own, 1) for size, own in first.items()},
    }


def _timed(scorer: LiveScorer, connection: Any, size: int, offered: list[str]) -> float:
    began = time.perf_counter()
    scorer.score(connection, f"n{size}", offered)
    return (time.perf_counter() - began) * 1e6


def _training(size: int) -> float:
    """kv's rows a second: samples gathered, a forward and a backward pass, of users with `size` behaviours."""
    source = _few(planted(max(2, 2_000 // size), size, min(100, size // 4)))
    samples = samples_of(source, FORMS["kv"])
    rows = np.flatnonzero(source.part == TRAIN)
    torch.manual_seed(0)
    model = build(samples.spec, FORMS["kv"].config)
    labels = torch.from_numpy(labels_of(source).astype(np.float32))
    rng, spent = np.random.default_rng(0), []
    for _ in range(STEPS):
        chosen = rng.choice(rows, BATCH)
        began = time.perf_counter()
        batch = model.collator.collate(samples, BatchIndices(chosen, np.ones(BATCH, np.int64)))
        model.loss(batch, labels[chosen]).ctr.backward()
        spent.append(time.perf_counter() - began)
    return round(BATCH / median(spent), 1)
