"""BAHE: the laws of a CTR model, what it reads, what is trained and what is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from fusion.bank.index import with_bank
from fusion.bank.mmap_file import BankFile
from fusion.encoders.recipe import Recipe
from fusion.encoders.split_llm import upper_weights
from fusion.features.impressions import impressions_at
from fusion.features.samples import Samples, make_samples
from fusion.models.bahe.collate import BaheBatch, named_sequences
from fusion.models.bahe.model import Bahe
from fusion.training import metrics
from fusion.training.train import TrainConfig, predict, train
from interest.errors import InputError
from tests.support.bahe_world import (
    CLOSE,
    FORMS,
    LOG,
    THREE,
    M,
    Made,
    alone,
    config_of,
    fresh,
    logits,
    shaken,
)
from tests.support.ctr_world import (
    DAY,
    RULE,
    Row,
    catalogue,
    interest_vectors_of,
    log_of,
    profiles,
    random_rows,
    samples_of,
    spec_of,
    train_until,
)
from tests.support.tiny_llm import WIDTH


@pytest.fixture(scope="module")
def made(llm: Path, recipe: Recipe) -> Made:
    return Made(llm, recipe)


def moved(file: BankFile, by: float) -> BankFile:
    return BankFile(file.keys, file.vectors + np.float16(by))


@pytest.fixture(params=list(FORMS))
def trained(request: pytest.FixtureRequest, llm: Path, recipe: Recipe, made: Made) -> tuple[Bahe, Samples]:
    spec = spec_of(LOG, partitions=3, text_width=32)
    model = fresh(spec, config_of(llm, recipe, **FORMS[request.param]))
    shaken(model)
    samples = samples_of(spec, LOG, np.arange(LOG.size), interest_vectors_of(LOG))
    samples = with_bank(samples, recipe, made)
    return model.eval(), samples


def test_a_row_alone_scores_as_in_a_batch(trained: tuple[Bahe, Samples]) -> None:
    model, samples = trained
    rows = np.array([0, 1, 7, 24, 25, 130, 299])  # no history, a short one, full ones
    single = [logits(model, samples, alone(rows[i : i + 1]))[0] for i in range(len(rows))]
    np.testing.assert_allclose(logits(model, samples, alone(rows)), single, atol=CLOSE)
    np.testing.assert_allclose(predict(model, samples, rows), 1 / (1 + np.exp(-np.array(single))), atol=CLOSE)
    assert len(np.unique(np.round(single, 5))) == len(rows)


def test_more_padding_changes_nothing(trained: tuple[Bahe, Samples]) -> None:
    model, samples = trained
    batch = model.collator.collate(samples, alone(np.array([0, 2, 3, 30])))
    pad = torch.nn.functional.pad
    vectors = batch.vectors.clone()
    vectors[0] = 3.0  # the padding's vector may be anything
    wider = dataclasses.replace(
        batch,
        vectors=vectors,
        history=pad(batch.history, (0, 4)),
        feedback=pad(batch.feedback, (0, 4)),
        partitions=pad(batch.partitions, (0, 2), value=-1)[:, :3],
    )
    with torch.no_grad():
        np.testing.assert_allclose(model(wider).numpy(), model(batch).numpy(), atol=CLOSE)


def offers(samples: Samples, offered: np.ndarray, made: Made, recipe: Recipe, user: int = 3) -> Samples:
    impressions, past = impressions_at(LOG, np.full(len(offered), user), offered, float(LOG.at.max()) + 1)
    own = make_samples(
        samples.spec, LOG, impressions, past,
        items=LOG.items, catalogue=catalogue(40), profiles=profiles(12), interest_vectors=interest_vectors_of(LOG),
    )  # fmt: skip
    return with_bank(own, recipe, made)


def test_folded_is_unfolded_and_the_order_of_candidates_only_permutes(
    trained: tuple[Bahe, Samples], made: Made, recipe: Recipe
) -> None:
    model, samples = trained
    own, every = offers(samples, np.arange(40), made, recipe), np.arange(40)
    assert [part.sizes.tolist() for part in model.collator.score_batches(own, every)] == [[40]]
    folded = predict(model, own, every)
    np.testing.assert_allclose(folded, 1 / (1 + np.exp(-logits(model, own, alone(every)))), atol=CLOSE)
    assert len(np.unique(folded.round(7))) > 30
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_allclose(predict(model, offers(samples, order, made, recipe), every), folded[order], atol=CLOSE)


def test_nothing_of_the_future_changes_a_score(trained: tuple[Bahe, Samples], made: Made, recipe: Recipe) -> None:
    model, samples = trained
    rows = np.array([3, 12, 20]) + 25 * 4  # of user 4
    rng = np.random.default_rng(0)
    for row in rows:
        later = (LOG.user == 4) & (LOG.seq >= LOG.seq[row])
        item = np.where(later, rng.integers(0, 40, LOG.size), LOG.item).astype(np.int32)
        item[row] = LOG.item[row]  # what is offered at the moment itself
        changed = dataclasses.replace(
            LOG, item=item, value=np.where(later, rng.integers(1, 6, LOG.size), LOG.value).astype(np.float32)
        )
        other = samples_of(samples.spec, changed, np.arange(LOG.size), interest_vectors_of(LOG))
        other.dense[:] = samples.dense  # other users' later counts are another law's
        other = with_bank(other, recipe, made)
        one = alone(np.array([row]))
        np.testing.assert_allclose(logits(model, other, one), logits(model, samples, one), atol=CLOSE)


def test_sequences_do_not_see_each_other(llm: Path, recipe: Recipe, made: Made) -> None:
    """Feature parallel: whatever one sequence reads, the others' vectors stay the same to the last bit."""
    spec = spec_of(LOG)
    model = fresh(spec, config_of(llm, recipe, sequences=THREE)).eval()
    samples = samples_of(spec, LOG, np.arange(LOG.size))
    samples = with_bank(samples, recipe, made)
    batch = model.collator.collate(samples, alone(np.array([24, 49])))
    with torch.no_grad():
        users = model.encode_users(batch)
        for n in range(3):
            history = batch.history.clone()
            history[n] = history[n].flip(1)
            changed = model.encode_users(dataclasses.replace(batch, history=history))
            others = [other for other in range(3) if other != n]
            for before, after in zip(users, changed, strict=True):
                assert torch.equal(after[:, others], before[:, others])
            assert not torch.equal(changed.pooled[:, n], users.pooled[:, n])
            assert not torch.equal(changed.keys[:, n], users.keys[:, n])
        single = fresh(spec, config_of(llm, recipe, sequences=("liked",))).eval()
        for head, of_three in zip(single.heads, model.heads, strict=True):  # a head for three draws more numbers
            head.matching.load_state_dict(of_three.matching.state_dict())
        own = single.collator.collate(samples, alone(np.array([24, 49])))
        for alone_, together in zip(single.encode_users(own), users, strict=True):
            torch.testing.assert_close(alone_[:, 0], together[:, 1])


def test_sequences_are_the_newest_of_their_kind(llm: Path, recipe: Recipe, made: Made) -> None:
    spec = spec_of(LOG)
    samples = samples_of(spec, LOG, np.arange(LOG.size))
    samples = with_bank(samples, recipe, made)
    model = Bahe(spec, config_of(llm, recipe, sequences=(*THREE, "action:rate")))
    assert samples.bank_index is not None
    for row in (0, 3, 24, 60, 299):
        batch = model.collator.collate(samples, alone(np.array([row])))
        before = np.arange(LOG.starts[LOG.user[row]], row)
        liked = before[LOG.value[before] >= 4]
        for n, wanted in enumerate((before, liked, np.setdiff1d(before, liked), before)):
            seen = batch.history[n, 0][batch.history[n, 0] > 0].long()
            expected = samples.bank_index.vectors[samples.bank_index.event[wanted[-M:]]]
            np.testing.assert_array_equal(batch.vectors[seen].numpy(), expected)
    assert named_sequences(spec, ["recent", "actions", "recent"]) == ("recent", "action:rate")
    for wrong in ("loved", "action:buy", "scenes"):
        with pytest.raises(InputError, match="--sequences"):
            named_sequences(spec, [wrong])


def test_scenes_are_sequences(llm: Path, recipe: Recipe, made: Made) -> None:
    scene = np.arange(LOG.size, dtype=np.int32) % 3 - 1
    log = dataclasses.replace(LOG, scenes=["home", "search"], scene=scene)
    spec = spec_of(log)
    names = named_sequences(spec, ["scenes"])
    assert names == ("scene:home", "scene:search")
    samples = samples_of(spec, log, np.arange(log.size))
    samples = with_bank(samples, recipe, made)
    model = Bahe(spec, config_of(llm, recipe, sequences=names))
    batch = model.collator.collate(samples, alone(np.array([24])))
    assert samples.bank_index is not None
    for n in range(2):
        wanted = np.flatnonzero(scene[:24] == n)[-M:]
        seen = batch.history[n, 0][batch.history[n, 0] > 0].long()
        np.testing.assert_array_equal(
            batch.vectors[seen].numpy(), samples.bank_index.vectors[samples.bank_index.event[wanted]]
        )


def test_unknown_ids_score_finite(trained: tuple[Bahe, Samples], made: Made, recipe: Recipe) -> None:
    model, samples = trained
    strange = log_of([(0, 39, 1e9, None), (0, 60, 2e9, 9e9), (1, 61, -1e9, -9e9)], 50, 70)
    own = samples_of(samples.spec, strange, np.arange(3), interest_vectors_of(strange))
    own = with_bank(own, recipe, made)
    scores = predict(model, own, np.arange(3))
    assert np.isfinite(scores).all()
    assert ((scores > 0) & (scores < 1)).all()


@pytest.mark.parametrize("form", ["causal", "three", "lora"])
def test_two_hundred_rows_can_be_learnt_by_heart(form: str, llm: Path, recipe: Recipe, made: Made) -> None:
    log = log_of(random_rows(2, each=7), 30, 40)
    spec = spec_of(log)
    samples, labels = samples_of(spec, log, np.arange(log.size)), RULE.labels(log)
    samples = with_bank(samples, recipe, made)
    model = fresh(spec, config_of(llm, recipe, width=16, hidden=(64,), **FORMS[form]))
    everything = np.arange(log.size)
    config = TrainConfig(epochs=35, batch_size=20, lr=5e-3, unknown=0.0, average=0.9, patience=35)
    assert train_until(0.99, model, samples, labels, (everything, everything), config)


@pytest.mark.parametrize("common", [0.0, 100.0])
def test_the_history_is_read(common: float, llm: Path, recipe: Recipe, made: Made) -> None:
    """What decides is in the behaviours' texts alone: some users rate everything high, the others everything low.

    Also where all vectors point nearly the same way, a hundred times as far as they differ.
    """
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for user in range(60):
        seen = enumerate(rng.integers(0, 8, 9).tolist())
        rows += [(user, item, (user * 10.0 + step) * DAY, 5.0 if user % 3 else 1.0) for step, item in seen]
    log = log_of(rows, 60, 8)
    spec, last = spec_of(log), np.flatnonzero(np.arange(log.size) % 9 == 8)
    samples, labels = samples_of(spec, log, np.arange(log.size)), RULE.labels(log)
    samples.dense[:] = 0.0
    samples = with_bank(samples, recipe, lambda texts: moved(made(texts), common))
    model = fresh(spec, config_of(llm, recipe, history=9))
    config = TrainConfig(epochs=30, batch_size=20, lr=3e-3, unknown=0.0, average=0.9, patience=30)
    train(model, samples, labels, (last, last), config)
    assert metrics.auc(labels[last], predict(model, samples, last)) > 0.95
    batch = model.collator.collate(samples, alone(last))
    with torch.no_grad():
        blind = model(dataclasses.replace(batch, history=batch.history * 0, visible=batch.visible * 0)).numpy()
    assert metrics.auc(labels[last], blind) < 0.75  # without them only the items are left


@pytest.mark.parametrize("form", ["causal", "lora"])
def test_high_trains_and_low_does_not(form: str, llm: Path, recipe: Recipe, made: Made) -> None:
    spec = spec_of(LOG)
    samples, labels = samples_of(spec, LOG, np.arange(LOG.size)), RULE.labels(LOG)
    samples = with_bank(samples, recipe, made)
    assert samples.bank_index is not None
    bank = samples.bank_index.vectors.copy()
    model = fresh(spec, config_of(llm, recipe, **FORMS[form]))
    before = {name: value.clone() for name, value in model.high.state_dict().items()}
    held = {name: value.clone() for name, value in model.high.named_buffers()}
    config = TrainConfig(epochs=1, batch_size=50, average=0.0)
    train(model, samples, labels, (np.arange(200), np.arange(200, 300)), config)
    changed = [name for name, value in model.high.state_dict().items() if not torch.equal(value, before[name])]
    assert sorted([*changed, "sink"]) == sorted(before)
    assert all(torch.equal(value, held[name]) for name, value in model.high.named_buffers())
    np.testing.assert_array_equal(samples.bank_index.vectors, bank)
    assert not any(
        "embed" in name for name, _ in model.named_parameters()
    )  # the lower layers are not a part of the model
    frozen = fresh(spec, config_of(llm, recipe))
    train(
        frozen,
        samples,
        labels,
        (np.arange(200), np.arange(200, 300)),
        msgspec.structs.replace(config, pretrained_rate=0.0),
    )
    for name, value in upper_weights(llm, 2).items():
        assert torch.equal(frozen.high.state_dict()[name], value)


def test_vectors_are_attached_before_anything_is_read(llm: Path, recipe: Recipe) -> None:
    spec = spec_of(LOG)
    model = Bahe(spec, config_of(llm, recipe))
    with pytest.raises(ValueError, match=r"hand them to fusion\.bank\.index\.with_bank"):
        model.collator.collate(samples_of(spec, LOG, np.arange(3)), alone(np.arange(3)))
    assert model.unknown.shape == (WIDTH,)
    assert isinstance(model.collator.score_batches(samples_of(spec, LOG, np.arange(3)), np.arange(3)), Iterator)
    assert BaheBatch.__slots__[0] == "item_row"
