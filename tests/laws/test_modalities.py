"""Laws of item modalities: folded and carried-forward scores are those read anew, and a missing vector is survived.

And BAHE learns them at any scale of an LLM's vectors, which are no more of length 1 than its layers' inputs are.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import Engine

from fusion.bank.index import with_bank
from fusion.encoders.item_text import ITEM_TEMPLATE
from fusion.encoders.split_llm import recipe_of
from fusion.features.log import Log, read_log
from fusion.features.modalities import MISSING, Modality, fit_modalities, read_modalities
from fusion.features.samples import Samples, fit_samples
from fusion.features.spec import FeatureSpec, item_table
from fusion.interests.item_modalities import bring
from fusion.models.bahe.model import BaheConfig
from fusion.models.din import Din, DinConfig
from fusion.serving.live import LiveScorer
from fusion.serving.score import Scorer
from fusion.training import metrics
from fusion.training.artifact import Artifact, load_artifact, save_artifact
from fusion.training.train import TrainConfig, predict, train
from interest.errors import ArtifactError, InputError, StoreError
from interest.types import Item
from streams.store.heads import read_head
from tests.support import live_world as live
from tests.support.bahe_world import Made, alone, config_of, fresh, shaken
from tests.support.ctr_world import DAY, TASKS, catalogue, log_of, random_rows, samples_of, spec_of
from tests.support.tiny_llm import save_llm

CLOSE = 1e-5
NOW = 230 * DAY
Pictured = tuple[Samples, BaheConfig, np.ndarray, np.ndarray]  # with labels (B,), and places in the past (B,)
OFFERED = [f"i{n}" for n in range(live.ITEMS)] + ["never seen"]
SOURCES = (Modality(name="image"), Modality(name="text", encoder=live.TextEncoder.id, template=ITEM_TEMPLATE))


def give(engine: Engine, items: list[str], seed: int, width: int = 5) -> None:
    """Pictures of these items."""
    vectors = np.random.default_rng(seed).normal(size=(len(items), width))
    bring(engine, "image", width, [(items, vectors)])


@pytest.fixture
def engine(store: Engine) -> Engine:
    live.world(store)
    give(store, [f"i{n}" for n in range(0, live.ITEMS, 2)], 0)
    return store


def read(engine: Engine) -> tuple[Log, FeatureSpec]:
    """The log, and a spec with both modalities, which half of the items have."""
    with engine.connect() as connection:
        log, spec = read_log(connection), live.spec_of(read_log(connection))
        raw = read_modalities(connection, SOURCES, log.items, catalogue(live.ITEMS))
    fitted = fit_modalities(SOURCES, raw, np.ones(len(log.items), bool))
    assert [one.width for one in fitted] == [5, live.WIDTH]
    return log, msgspec.structs.replace(spec, modalities=fitted)


def artifact(engine: Engine, kind: str, tmp_path: Path) -> Artifact:
    log, spec = read(engine)
    llm = save_llm(tmp_path / "llm")
    return live.artifact_of(log, spec, live.configs(llm, recipe_of(llm, 2))[kind])


def agree(engine: Engine, made: Artifact, scorer: LiveScorer) -> np.ndarray:
    with engine.connect() as connection:
        found = scorer.score(connection, "u5", OFFERED, NOW)
        anew = Scorer(made).scores(connection, [("u5", item) for item in OFFERED], NOW)
    np.testing.assert_allclose(found.values, anew.values, atol=CLOSE)
    assert np.isfinite(anew.values).all()
    return np.log(anew.values) - np.log1p(-anew.values)


@pytest.mark.parametrize("kind", ["din", "srp4ctr", "bahe"])
def test_a_side_carried_forward_knows_vectors_that_come_and_change(engine: Engine, kind: str, tmp_path: Path) -> None:
    """Pictures come, and change; texts are encoded later; an item comes late, without anything and then with it."""
    made = artifact(engine, kind, tmp_path)
    scorer = LiveScorer(made, read_head)
    first = agree(engine, made, scorer)
    give(engine, ["i1", "i3", "never seen"], 1)
    second = agree(engine, made, scorer)
    assert np.abs(second - first).max() > CLOSE
    give(engine, ["i2"], 2)
    third = agree(engine, made, scorer)
    assert np.abs(third - second)[2] > CLOSE
    live.append(engine, "u5", [("unlisted", 229 * DAY, 5.0, None)])
    live.encode(engine)
    fourth = agree(engine, made, scorer)
    assert np.abs(fourth - third).max() > CLOSE
    give(engine, ["unlisted"], 3)
    assert np.abs(agree(engine, made, scorer) - fourth).max() > CLOSE / 10


def test_an_item_without_a_vector_is_marked_and_padding_is_zero(engine: Engine) -> None:
    _, spec = read(engine)
    with engine.connect() as connection:
        raw = read_modalities(connection, spec.item_modalities, ["i0", "i1", "nowhere"], catalogue(live.ITEMS))
    table = item_table(spec, ["i0", "i1", "nowhere"], catalogue(live.ITEMS), vectors=raw)
    assert table.vectors is not None
    assert table.vectors[:, 0].tolist() == [-1.0, 1.0, 0.0, 0.0]
    assert (table.vectors[2:, 1:6] == MISSING).all()
    model = Din(spec, DinConfig()).eval()
    assert model.modalities is not None
    with torch.no_grad():
        model.modalities.missing.add_(1.0)
        out = model.modalities(torch.from_numpy(table.vectors))
    assert (out[0] == 0).all()
    assert (out[3] == 2).all()  # both are missing


def test_a_model_that_was_trained_with_vectors_scores_without_any_and_drops_some_in_training() -> None:
    log = log_of(random_rows(1), 30, 40)
    spec = spec_of(log, modalities=(Modality(name="image", width=3, mean=(0.0,) * 3),))
    samples = samples_of(spec, log, np.arange(20))  # nothing is known of any item's look
    model = Din(spec, DinConfig(dropout=0.0))
    shaken(model)
    batch = samples.batch(np.arange(20))
    assert batch.item_vectors is not None
    seen = dataclasses.replace(batch, item_vectors=torch.ones_like(batch.item_vectors))
    with torch.no_grad():
        model.eval()
        assert np.isfinite(model(batch).numpy()).all()
        assert torch.equal(model(seen), model(seen))
        model.train()
        torch.manual_seed(0)
        drawn = [model.modalities(seen.item_vectors) for _ in range(2)]  # type: ignore[misc]
    assert not torch.equal(*drawn)


def test_other_widths_are_refused_in_the_store_and_in_an_artifact(engine: Engine) -> None:
    with pytest.raises(InputError, match="4 wide, and the store's of that name 5; give those of another"):
        give(engine, ["i1"], 0, width=4)
    _, spec = read(engine)
    narrow = msgspec.structs.replace(spec.item_modalities[0], width=4, mean=(0.0,) * 4)
    with engine.connect() as connection, pytest.raises(StoreError, match="5 wide, and 4 were learnt; train again"):
        read_modalities(connection, [narrow], ["i0"], {})
    with pytest.raises(InputError, match="none of the 2 items of the training part has a vector"):
        fit_modalities([Modality(name="sound")], [np.full((2, 3), np.nan)], np.ones(2, bool))


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Pictured:
    """What people like is told by a picture alone. Texts' vectors deviate by 4.3 in a dimension, as SmolLM2's do.

    Users meet 200 of the items, and in the last fifth of their past only others.
    """
    rng = np.random.default_rng(0)
    users, each, items, old = 60, 80, 500, 200
    place = np.tile(np.arange(each), users)
    item = np.where(place < 64, rng.integers(0, old, users * each), rng.integers(old, items, users * each))
    pictures = rng.normal(size=(items, 16)).astype(np.float32)
    liked = rng.random(users * each) < 1 / (1 + np.exp(-2.5 * pictures[item, 0]))
    log = log_of(
        [(n // each, int(item[n]), float(DAY * place[n]), 5.0 if liked[n] else 1.0) for n in range(users * each)],
        users,
        items,
    )
    book = {name: Item(item_id=name, title=f"thing {rng.integers(10**6)}") for name in log.items}
    rows = np.flatnonzero(place >= 5)
    samples = fit_samples(
        log, rows, place < 64, book, {}, tasks=TASKS, history=10, min_history=5,
        modalities=(Modality(name="image"),), modality_vectors=[pictures],
    )  # fmt: skip
    llm = save_llm(tmp_path_factory.mktemp("pictured") / "llm")
    recipe = recipe_of(llm, 2)
    read = with_bank(samples, recipe, Made(llm, recipe))
    assert read.bank_index is not None
    vectors = read.bank_index.vectors.astype(np.float32)
    vectors = (vectors * (4.3 / np.median(vectors.std(axis=0)))).astype(np.float16)
    read = dataclasses.replace(read, bank_index=dataclasses.replace(read.bank_index, vectors=vectors))
    return read, config_of(llm, recipe, width=32, hidden=(32,)), liked[rows].astype(np.int8), place[rows]


def test_bahe_learns_what_pictures_tell_of_new_items(pictured: Pictured) -> None:
    samples, config, labels, place = pictured
    model = fresh(samples.spec, config)
    settings = TrainConfig(epochs=4, batch_size=128, pretrained_rate=0.1, unknown=0.0, patience=9, dense_epochs=0)
    parts = np.flatnonzero(place < 56), np.flatnonzero((place >= 56) & (place < 64))
    train(model, samples, labels, parts, settings)
    new = np.flatnonzero(place >= 64)
    assert metrics.auc(labels[new], predict(model, samples, new)) > 0.8  # .87; added in no units of the texts' .72


def test_a_modality_weighs_as_much_beside_long_texts_as_beside_short_ones(pictured: Pictured) -> None:
    samples, config, *_ = pictured
    batch = fresh(samples.spec, config).collator.collate(samples, alone(np.arange(40)))
    added = []
    for times in (1.0, 8.0):
        model = fresh(samples.spec, config)  # in training: it has the scale from its first batch on
        texts = dataclasses.replace(batch, vectors=batch.vectors * times)
        assert model.modalities is not None
        with torch.no_grad():
            for weight in model.modalities.projections.parameters():
                weight.fill_(0.1)
            torch.manual_seed(0)
            added.append((model._vectors(texts) - texts.vectors) / times)
    assert added[0].std() > 1
    torch.testing.assert_close(added[0], added[1])


def test_bahe_with_modalities_of_another_version_is_refused(engine: Engine, tmp_path: Path) -> None:
    """Before texts' deviations were a part of it."""
    made, folder = artifact(engine, "bahe", tmp_path), tmp_path / "old"
    save_artifact(folder, made.model, made.spec, made.statistics, made.config, {}, space=made.space)
    load_artifact(folder)
    held = load_file(folder / "model.safetensors")
    save_file({name: one for name, one in held.items() if "spread" not in name}, folder / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"another version: its weights do not fit .*train again into a new folder"):
        load_artifact(folder)


def test_a_spec_without_modalities_is_what_it_was(tmp_path: Path) -> None:
    log = log_of(random_rows(1), 30, 40)
    spec = spec_of(log)
    assert "modalities" not in msgspec.to_builtins(spec)
    assert item_table(spec, log.items, dict[str, Item]()).vectors is None
    assert not [name for name in Din(spec, DinConfig()).state_dict() if "modal" in name]
    llm = save_llm(tmp_path)
    assert not [name for name in fresh(spec, config_of(llm, recipe_of(llm, 2))).state_dict() if "spread" in name]
