"""SRP4CTR in training: it learns, takes over what was pre-trained, resumes, comes back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from sqlalchemy import Engine, update

from fusion.features.collate import BatchIndices
from fusion.features.dataset import DatasetConfig, read_dataset, read_labelled
from fusion.features.spec import FIRST
from fusion.models.protocol import Loss, summed_loss
from fusion.models.srp4ctr.model import Srp4Ctr, ablations
from fusion.serving.score import Scorer
from fusion.training.artifact import artifact_id, load_artifact
from fusion.training.checkpoint import NAME as CHECKPOINT
from fusion.training.experiment import run
from fusion.training.pretrain import PretrainConfig
from fusion.training.pretrained import adopt, encoder_for, load_pretrained, take_over
from fusion.training.pretrained import run as run_pretraining
from fusion.training.train import TrainConfig, train
from interest.store.sql import insert_new
from interest.store.tables import behaviors, items
from tests.support.ctr_world import RULE, TASKS, fill, log_of, random_rows, samples_of, spec_of, train_until
from tests.support.small_models import DATA, ENCODER, QUICK, SRP4CTR


@pytest.mark.parametrize("form", ["full", "no-cross", "no-querying", "mp"])
def test_two_hundred_rows_can_be_learnt_by_heart(form: str) -> None:
    log = log_of(random_rows(2, each=7), 30, 40)
    spec = spec_of(log)
    samples, labels = samples_of(spec, log, np.arange(log.size)), RULE.labels(log)
    model = Srp4Ctr(spec, ablations(ENCODER, pack=5, dropout=0.0)[form])
    everything = np.arange(log.size)
    config = TrainConfig(epochs=40, batch_size=40, lr=5e-3, unknown=0.0, average=0.9, patience=40, embedding_decay=0.0)
    assert train_until(0.99, model, samples, labels, (everything, everything), config)


def test_an_interrupted_run_goes_on_and_ends_as_the_uninterrupted_one(store: Engine, tmp_path: Path) -> None:
    """Dropout and hidden items are on: what is drawn after the interruption is what would have been drawn."""
    fill(store, random_rows(4))
    with store.connect() as connection:
        data = read_dataset(connection, DATA)
    own = msgspec.structs.replace(SRP4CTR, dropout=0.3)

    class StopError(Exception):
        pass

    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done > len(data.of(0)) + 200:
            raise StopError

    with pytest.raises(StopError):
        run(data, own, QUICK, split="global", folder=tmp_path / "stopped", advance=advance)
    assert (tmp_path / "stopped" / CHECKPOINT).exists()
    again = run(data, own, QUICK, split="global", folder=tmp_path / "stopped")
    straight = run(data, own, QUICK, split="global", folder=tmp_path / "straight")
    assert artifact_id(tmp_path / "stopped") == artifact_id(tmp_path / "straight")
    assert again == straight


def test_the_second_task_is_taught_the_users_own_value_and_never_reads_it(store: Engine) -> None:
    fill(store, random_rows(4))
    with store.connect() as connection:
        data = read_dataset(connection, DATA)
    samples, given = data.samples, data.samples.value_bucket
    assert given is not None
    assert np.array_equal(
        given - FIRST, np.searchsorted(data.spec.value_edges, data.log.value[data.rows], side="right")
    )
    torch.manual_seed(0)
    model = Srp4Ctr(data.spec, msgspec.structs.replace(SRP4CTR, value_task=0.5)).eval()
    chosen = BatchIndices(np.arange(40), np.ones(40, np.int64))

    labels = torch.from_numpy(data.labels[:40].astype(np.float32))

    def learnt(values: np.ndarray) -> Loss:
        taught = dataclasses.replace(samples, value_bucket=values)
        return model.loss(model.collator.collate(taught, chosen), labels)

    ctr, loss = learnt(given)
    again, other = learnt(given[::-1].copy())
    assert torch.equal(ctr, again)
    assert torch.equal(ctr, summed_loss(model(model.collator.collate(samples, chosen)), labels))
    assert not torch.equal(loss, other)
    assert learnt(given * 0).extra.item() == 0  # nobody knows: nothing to learn
    (teaches,) = torch.autograd.grad(loss, [model.encoder.item.weight])
    assert teaches.abs().sum() > 0
    one = dataclasses.replace(samples, value_bucket=np.where(np.arange(len(given)) == 3, given, 0))
    batch = model.collator.collate(one, chosen)
    per_row = torch.log_softmax(model.value(model._read(batch).hidden), dim=1)
    assert torch.allclose(model.loss(batch, labels).extra, -0.5 * per_row[3, given[3]])


@pytest.fixture
def pretrained(store: Engine, tmp_path: Path) -> Path:
    fill(store, random_rows(6), interests=True)
    with store.connect() as connection:
        read = read_labelled(connection, DATA)
    run_pretraining(read, ENCODER, PretrainConfig(epochs=2, batch_size=8), split="global", folder=tmp_path / "fgbert")
    return tmp_path / "fgbert"


def test_pretrained_weights_are_taken_over_and_may_be_frozen_or_slowed(
    store: Engine, pretrained: Path, tmp_path: Path
) -> None:
    held = load_pretrained(pretrained)
    with store.connect() as connection:
        data = read_dataset(connection, DATA)
    assert encoder_for(held, data, split="global", positions=14) == ENCODER
    moved = {}
    for rate in (0.0, 0.1, 1.0):
        model = Srp4Ctr(data.spec, SRP4CTR)
        take_over(model, data.spec, held)
        for name, weight in model.encoder.state_dict().items():
            assert torch.equal(weight, held.weights[name])
        layer = model.cross[0]
        assert torch.equal(layer.query.weight, model.encoder.layers[0].query.weight)
        config = msgspec.structs.replace(QUICK, epochs=1, pretrained_rate=rate, average=0.0)
        train(model, data.samples, data.labels, (data.of(0), data.of(1)), config)
        own = model.encoder.state_dict()
        moved[rate] = sum(float((own[name] - held.weights[name]).abs().sum()) for name in own)
        assert not torch.equal(layer.query.weight, model.encoder.layers[0].query.weight)
    assert moved[0.0] == 0
    assert 0 < moved[0.1] < moved[1.0] / 2


def test_longer_histories_than_in_pre_training_begin_as_its_oldest_position(store: Engine, pretrained: Path) -> None:
    held = load_pretrained(pretrained)
    with store.connect() as connection:
        data = read_dataset(connection, DATA)
    encoder = encoder_for(held, data, split="global", positions=20)
    assert encoder.positions == 20
    model = Srp4Ctr(data.spec, msgspec.structs.replace(SRP4CTR, encoder=encoder))
    take_over(model, data.spec, held)
    position, trained = model.encoder.position.weight, held.weights["position.weight"]
    assert torch.equal(position[-len(trained) :], trained)
    assert torch.equal(position[:6], trained[:1].expand(6, -1))


def test_a_store_that_has_grown_takes_over_what_it_shares(pretrained: Path) -> None:
    held = load_pretrained(pretrained)
    old = held.spec
    spec = msgspec.structs.replace(
        old,
        items=("new", *reversed(old.items[: old.trained_items])),
        trained_items=old.trained_items + 1,
        item_columns=(*old.item_columns, msgspec.structs.replace(old.item_columns[0], name="studio")),
    )
    model = Srp4Ctr(spec, SRP4CTR)
    adopt(model.encoder, spec, held)
    item = model.encoder.item.weight
    assert torch.equal(item[2], held.weights["item.weight"][1])  # the new one starts as unknown
    assert torch.equal(item[3:], held.weights["item.weight"][2:].flip(0))
    assert torch.equal(model.encoder.attributes[0].weight, held.weights["attributes.0.weight"])
    assert model.encoder.attributes[1].weight.abs().max() == 0


def test_an_artifact_comes_back_and_keeps_user_states_until_the_user_acts(
    store: Engine, pretrained: Path, tmp_path: Path
) -> None:
    with store.connect() as connection:
        data = read_dataset(connection, DatasetConfig(tasks=TASKS, history=10, interest=True))
    held = load_pretrained(pretrained)
    config = msgspec.structs.replace(SRP4CTR, interest=True, pretrained=held.id)
    run(data, config, QUICK, split="global", folder=tmp_path / "srp", prepare=lambda m: take_over(m, data.spec, held))
    loaded = load_artifact(tmp_path / "srp")
    assert loaded.config.kind == "srp4ctr"
    assert loaded.config.model == config
    now = float(data.log.at.max()) + 86_400
    pairs = [("u1", f"i{i}") for i in range(20)] + [("u2", "i1"), ("nobody", "i3"), ("u1", "stranger")]
    with store.connect() as connection:
        scorer = Scorer(loaded)
        first = scorer(connection, pairs, now)
        states = scorer.states
        assert states is not None
        assert (states.made, states.taken) == (3, 0)
        np.testing.assert_allclose(scorer(connection, pairs, now), first, atol=1e-5)
        assert (states.made, states.taken) == (3, 3)
        single = [Scorer(loaded)(connection, [pair], now)[0] for pair in pairs]
        np.testing.assert_allclose(single, first, atol=1e-5)
    with store.begin() as connection:
        event = {"user_id": "u1", "seq": 25, "item_id": "i4", "action": "rate", "at": now, "value": 1.0}
        insert_new(connection, behaviors, [event])
    with store.connect() as connection:
        after = scorer(connection, pairs, now)
        np.testing.assert_allclose(after, Scorer(loaded)(connection, pairs, now), atol=1e-5)
    assert (states.made, states.taken) == (4, 5)
    assert np.abs(after[:20] - first[:20]).min() > 0
    np.testing.assert_allclose(after[20:22], first[20:22], atol=1e-5)


def test_states_above_the_limit_are_dropped(store: Engine, tmp_path: Path) -> None:
    fill(store, random_rows(6))
    with store.connect() as connection:
        data = read_dataset(connection, DATA)
    run(data, SRP4CTR, msgspec.structs.replace(QUICK, epochs=1), split="global", folder=tmp_path)
    scorer = Scorer(load_artifact(tmp_path))
    assert scorer.states is not None
    scorer.states._limit = 2
    with store.connect() as connection:
        for users in (["u1", "u2", "u3"], ["u3", "u2"], ["u1"]):
            scorer(connection, [(user, "i1") for user in users], 1e9)
    assert (scorer.states.made, scorer.states.taken) == (4, 2)


def test_a_state_is_made_again_when_the_catalogue_or_what_happened_has_changed(store: Engine, tmp_path: Path) -> None:
    """Not only the newest behaviour counts: a shop edits its items, and who was forgotten may come back."""
    log = fill(store, random_rows(6))
    with store.connect() as connection:
        data = read_dataset(connection, DATA)
    run(data, SRP4CTR, msgspec.structs.replace(QUICK, epochs=1), split="global", folder=tmp_path)
    scorer, loaded = Scorer(load_artifact(tmp_path)), load_artifact(tmp_path)
    pairs = [(user, f"i{i}") for user in ("u1", "u2") for i in range(5)]

    def scored() -> np.ndarray:
        with store.connect() as connection:
            held = scorer(connection, pairs, 1e9)
            np.testing.assert_allclose(held, Scorer(loaded)(connection, pairs, 1e9), atol=1e-6)
        return held

    first = scored()
    others = {f"i{item}" for item in set(log.item[log.user == 1].tolist())} - {f"i{i}" for i in range(5)}
    with store.begin() as connection:
        connection.execute(update(items).where(items.c.item_id.in_(others)).values(categories='["Horror"]'))
    changed = scored()
    assert np.abs(changed - first).max() > 0
    with store.begin() as connection:  # forgotten, and back with as many behaviours of the same times and values
        own = behaviors.c.user_id == "u2"
        connection.execute(update(behaviors).where(own, behaviors.c.item_id != "i7").values(item_id="i7"))
    assert np.abs(scored()[5:] - changed[5:]).max() > 0
