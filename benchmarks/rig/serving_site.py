"""The store and the untrained artifacts of benchmarks/serving.py: what a request costs does not depend on weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sqlalchemy import Connection, Engine

from fusion.bank.mmap_file import BankFile
from fusion.bank.vectors import fill as fill_bank
from fusion.encoders.item_text import ITEM_TEMPLATE
from fusion.encoders.split_llm import architecture, open_lower_layers, recipe_of
from fusion.features.counts import ItemHistory, ItemStatistics, event_columns
from fusion.features.keys.spec import KeyChoice
from fusion.features.log import read_log
from fusion.features.match.features import MatchSpec
from fusion.features.match.item_vectors import read_item_vectors
from fusion.features.samples import fit_samples
from fusion.features.tasks import Task
from fusion.interests.item_vectors import encode_items, texts_without_vectors
from fusion.models.bahe.model import BaheConfig
from fusion.models.din import DinConfig
from fusion.models.kv.model import KvConfig
from fusion.models.protocol import ModelConfig
from fusion.models.registry import build, kind_of
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import Srp4CtrConfig
from fusion.serving.bahe_cache import LackingTextError
from fusion.serving.live import LiveScorer
from fusion.training.artifact import ArtifactConfig, load_artifact, save_artifact, versions
from fusion.training.train import TrainConfig
from interest.store.sql import insert_new, item_row, read_items, read_users, writing
from interest.store.tables import items
from interest.types import Behavior, Item
from streams.store.heads import read_head
from streams.ubsp.ingest import Ingest
from streams.ubsp.policy import Policy

HISTORY, ITEMS, CANDIDATES, DAY = 50, 4000, 1000, 86_400.0
LONG, SHORT, COLD = "long", "short", [f"cold{n}" for n in range(40)]
OFFERED = [str(i) for i in np.random.default_rng(1).permutation(ITEMS)[:CANDIDATES]]
CATEGORIES = [f"category {n}" for n in range(18)]
MODELS = ("srp4ctr", "din", "kv", "bahe")


def config_of(name: str, llm: Path) -> ModelConfig:
    """llm: a checkpoint, of which BAHE reads the lower half's vectors and runs the upper half."""
    if name == "srp4ctr":
        return Srp4CtrConfig(encoder=FgBertConfig(positions=HISTORY), pack=1, lifelong=True)
    if name == "din":
        return DinConfig()
    if name == "kv":
        return KvConfig()
    return BaheConfig(recipe=recipe_of(llm, None), folder=str(llm), architecture=architecture(llm), history=HISTORY)


class RandomTexts:
    """Vectors as wide as a small text encoder's, which depend on the text alone."""

    id = "random"

    def __call__(self, texts: list[str], /) -> np.ndarray:
        made = np.stack([np.random.default_rng(list(text.encode())).normal(size=384) for text in texts])
        return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)


def fill(engine: Engine) -> None:
    """The users' behaviours through the fold, as ingest writes them, and a catalogue."""
    rng = np.random.default_rng(0)
    book = [
        Item(item_id=str(i), title=f"Item {i}", categories=tuple(rng.choice(CATEGORIES, 2).tolist()))
        for i in range(ITEMS)
    ]
    with writing(engine) as connection:
        insert_new(connection, items, [item_row(item) for item in book])
    ingest = Ingest(engine, Policy(count=50))
    rows: list[Behavior] = []
    for user, many in ((LONG, 50_000), (SHORT, 50), *((cold, 100) for cold in COLD)):
        at = np.sort(rng.uniform(0, 800 * DAY, many))
        rows += [
            Behavior(user_id=user, item_id=str(item), action="rate", at=float(when), value=float(value))
            for item, when, value in zip(
                rng.integers(0, ITEMS, many).tolist(), at.tolist(), rng.integers(1, 6, many).tolist(), strict=True
            )
        ]
    position = ingest.position("log:benchmark")
    ingest.commit(ingest.fold(rows), "log:benchmark", position, len(rows), rejected=0)


def make_artifact(engine: Engine, config: ModelConfig, folder: Path, *, match: bool = False) -> None:
    """An untrained model with the spec and the statistics of the store's log. match: with match scalars."""
    told = (
        MatchSpec(parts=("text", "places", "support"), encoder=RandomTexts.id, template=ITEM_TEMPLATE)
        if match
        else None
    )
    with engine.connect() as connection:
        log, catalogue, profiles = read_log(connection), read_items(connection), read_users(connection)
        lacking = texts_without_vectors(connection, RandomTexts.id, ITEM_TEMPLATE) if match else []
    encode_items(engine, RandomTexts(), lacking)
    text = None
    if told is not None:
        with engine.connect() as connection:
            text = read_item_vectors(connection, told, log.items, catalogue)
    samples = fit_samples(
        log, np.arange(0, log.size, 25), np.ones(log.size, bool), catalogue, profiles,
        tasks=(Task.parse("value>=4"),), history=HISTORY, min_history=5, match=told, item_text=text,
        keys=KeyChoice() if isinstance(config, KvConfig) else None,
    )  # fmt: skip
    spec, space = samples.spec, None if samples.match is None else samples.match.space
    torch.manual_seed(0)
    found = ItemHistory(log, event_columns(log, spec.label.labels(log), spec.scale)).snapshot()
    number = {item: i for i, item in enumerate(log.items)}
    order = np.array([number[item] for item in spec.items])
    statistics = ItemStatistics(found.total[order], found.recent[order], found.first_at[order])
    own: ArtifactConfig[Any] = ArtifactConfig(
        kind=kind_of(config).name, model=config, training=TrainConfig(), split="global", versions=versions()
    )
    save_artifact(folder, build(spec, config), spec, statistics, own, {}, space=space)
    if isinstance(config, BaheConfig):
        _fill_bank(engine, folder, config)


def _fill_bank(engine: Engine, folder: Path, config: BaheConfig) -> None:
    """The vectors of all texts that the requests will read, as `interestream bank` makes them."""
    asked: dict[str, None] = {}

    def collect(_connection: Connection | None, texts: Sequence[str]) -> BankFile:
        asked.update(dict.fromkeys(texts))
        raise LackingTextError

    scorer = LiveScorer(load_artifact(folder), read_head)
    scorer._texts = collect  # type: ignore[assignment]  # what a request wants to read
    for user in (LONG, SHORT, *COLD):
        with engine.connect() as connection:
            try:
                scorer.score(connection, user, OFFERED)
            except LackingTextError:
                continue
    fill_bank(engine, open_lower_layers(Path(config.folder), config.recipe), list(asked))
