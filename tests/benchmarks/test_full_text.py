"""The full-text baseline of benchmarks/bahe_auc.py: one pass a user is exact, kept states change nothing, no leaks."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
import torch
from sqlalchemy import Engine

from benchmarks.bahe_auc import samples_a_window
from benchmarks.ml1m import bahe as ml1m
from benchmarks.text import systems
from benchmarks.text.cost import bahe, days, full_text, shape_of
from benchmarks.text.full_text import FullText, TokenStates, by_user, joined, sum_of, token_states, tokenise
from benchmarks.text.sample import EVENTS, choose, parts, read_sample
from benchmarks.text.systems import Setting
from fusion.bank.index import texts_of
from fusion.encoders.split_llm import LowerLayers, _mean_of_text, open_lower_layers, pool, recipe_of
from fusion.features.collate import BatchIndices
from fusion.features.log import Log
from fusion.features.samples import Samples
from fusion.features.splits import TEST, TRAIN, VALID
from fusion.training.bahe import begin_with_llm
from fusion.training.train import TrainConfig, predict, train
from interest.errors import ArtifactError
from tests.support.bahe_world import alone, config_of, shaken
from tests.support.ctr_world import fill, log_of, random_rows, samples_of, spec_of
from tests.support.tiny_llm import WIDTH, save_llm

CLOSE = 1e-5  # float32 sums in another order
USERS, EACH = 6, 14
LOG = log_of(random_rows(3, user_count=USERS, each=EACH), USERS, 40)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llm(tmp_path_factory.mktemp("llm") / "tiny", max_position_embeddings=4096)


@pytest.fixture(scope="module")
def lower(llm: Path) -> LowerLayers:
    return open_lower_layers(llm, recipe_of(llm, 2))


def samples_from(log: Log) -> Samples:
    return samples_of(spec_of(LOG), log, np.arange(log.size))


def lines_of(samples: Samples, lower: LowerLayers, user: int) -> list[str]:
    found, starts = texts_of(samples, lower.recipe.template), samples.named.log.starts
    return [found.texts[text] for text in found.event[starts[user] : starts[user + 1]]]


def exact(samples: Samples, lower: LowerLayers) -> TokenStates:
    """The states in float32, made at once."""
    read = [tokenise(lower, lines_of(samples, lower, user)) for user in range(USERS)]
    found = texts_of(samples, lower.recipe.template)
    ids = lower.tokens([found.texts[text] if text >= 0 else "?" for text in found.item[1:]])
    return TokenStates(
        [states_of(lower, ids) for ids, _ in read], [ends for _, ends in read], [states_of(lower, one) for one in ids]
    )


def states_of(lower: LowerLayers, ids: list[int]) -> np.ndarray:
    return np.asarray(lower.states(torch.tensor(ids)[None])[0].numpy())


def model_of(llm: Path, samples: Samples, tokens: TokenStates, **changes: object) -> FullText:
    config = config_of(llm, recipe_of(llm, 2), history=EACH, **changes)
    torch.manual_seed(0)
    model = FullText(samples.spec, config, tokens)
    begin_with_llm(model, config)
    shaken(model)
    return model.eval()


@torch.no_grad()
def logits(model: FullText, samples: Samples, chosen: BatchIndices) -> np.ndarray:
    return np.asarray(model(model.collator.collate(samples, chosen)).numpy())


def every_user(samples: Samples) -> BatchIndices:
    return joined(by_user(samples, np.arange(len(samples))))


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_one_pass_over_a_user_is_every_moment_read_by_itself(pooling: str, llm: Path, lower: LowerLayers) -> None:
    """By itself: the lines before the moment alone, tokenised, through the lower and the upper layers, and pooled."""
    samples = samples_from(LOG)
    model = model_of(llm, samples, exact(samples, lower), pooling=pooling)
    shared = logits(model, samples, every_user(samples))
    np.testing.assert_allclose(shared, logits(model, samples, alone(np.arange(LOG.size))), atol=CLOSE)
    found = texts_of(samples, lower.recipe.template)
    for row in (1, 2, EACH - 1, EACH + 5):
        position, user = row % EACH, row // EACH
        ids, _ = tokenise(lower, lines_of(samples, lower, user)[:position])
        item = found.item[LOG.item[row] + 1]
        offered = lower.tokens([found.texts[item] if item >= 0 else "?"])[0]
        batch = model.collator.collate(samples, alone(np.array([row])))
        with torch.no_grad():
            read = [lower.states(torch.tensor(own)[None]) for own in (ids, offered)]
            made = [pool(model.high.states(own), torch.tensor([own.shape[1]]), pooling) for own in read]
            means = [own[0].mean(dim=0, keepdim=True) for own in read]  # the tiny LLM has no further sinks
            ends = np.cumsum(
                [0, *(len(tokenise(lower, [line])[0]) for line in lines_of(samples, lower, user)[:position])]
            )
            own = torch.stack([read[0][0, a:b].mean(dim=0) for a, b in pairwise(ends)])
            keys = model.keys_of(own, torch.ones(len(own)), torch.ones(len(own)))
            keys = torch.nn.functional.pad(keys, (0, 0, 0, 0, EACH - position, 0))[None, None]
            past = LOG.value[row - position : row]
            outcome = np.array([samples.events.value[row - position : row] * 4 + 2 + (past >= 4)])
            outcome = torch.from_numpy(np.pad(outcome, ((0, 0), (EACH - position, 0))).astype(np.int32))[None]
            users = model.users_of(torch.cat([made[0], means[0]], dim=1)[:, None], keys, outcome)
            item = model.items_of(made[1], means[1], torch.ones(1), torch.zeros(1).long())
            single = model.score(users, item, None, batch)
        np.testing.assert_allclose(single.numpy(), shared[row], atol=CLOSE)
    assert len(np.unique(shared)) == len(shared)


def test_kept_states_are_those_computed_and_change_nothing(llm: Path, lower: LowerLayers, tmp_path: Path) -> None:
    samples, made = samples_from(dataclasses.replace(LOG, item=LOG.item // 10 * 10)), []  # items of the catalogue
    tokens = token_states(samples, lower, tmp_path, EACH, made.append)
    again = token_states(samples, lower, tmp_path, EACH, lambda _: pytest.fail("computed twice"))
    whole = exact(samples, lower)
    for kept, second, computed in zip(tokens.user, again.user, whole.user, strict=True):
        np.testing.assert_array_equal(kept, second)
        np.testing.assert_allclose(kept, computed, rtol=1e-3, atol=1e-4)  # float16
    assert sum(made) == sum(map(len, tokens.user)) + sum(map(len, tokens.item))
    every = every_user(samples)
    same = [logits(model_of(llm, samples, own), samples, every) for own in (tokens, again, whole)]
    np.testing.assert_array_equal(same[0], same[1])
    np.testing.assert_allclose(same[0], same[2], atol=1e-2)


def test_what_comes_later_changes_no_score(llm: Path, lower: LowerLayers) -> None:
    samples = samples_from(LOG)
    model, every = model_of(llm, samples, exact(samples, lower)), every_user(samples)
    before, rng = logits(model, samples, every), np.random.default_rng(0)
    row = EACH + 7
    later = (LOG.user == 1) & (LOG.seq >= LOG.seq[row])
    item = np.where(later, rng.integers(0, 40, LOG.size), LOG.item).astype(np.int32)
    item[row] = LOG.item[row]  # what is offered stays, how it was rated does not
    other = samples_from(dataclasses.replace(LOG, item=item, value=np.where(later, 6 - LOG.value, LOG.value)))
    other.dense[:] = samples.dense  # other users' later counts are another law's
    after = logits(model_of(llm, other, exact(other, lower)), other, every)
    np.testing.assert_allclose(after[: row + 1], before[: row + 1], atol=CLOSE)
    assert np.abs(after[row + 1 : 2 * EACH] - before[row + 1 : 2 * EACH]).max() > 100 * CLOSE


def test_it_trains_what_bahe_trains_and_whole_users_at_once(llm: Path, lower: LowerLayers) -> None:
    samples = samples_from(LOG)
    model = model_of(llm, samples, exact(samples, lower))
    labels, rows = (LOG.value >= 4).astype(np.int8), np.arange(LOG.size)
    plan = [shares[0] for shares in model.collator.epoch(samples, rows, 2 * EACH, np.random.default_rng(0), 1)]
    assert [chosen.sizes.tolist() for chosen in plan] == [[EACH, EACH]] * 3
    assert sorted(np.concatenate([chosen.rows for chosen in plan])) == rows.tolist()
    before = model.high.layers[0].mlp.up_proj.weight.detach().clone()
    config = TrainConfig(epochs=40, batch_size=2 * EACH, lr=5e-3, average=0.5, unknown=0.0, patience=40)
    epochs = train(model, samples, labels, (rows, rows), config)
    assert not torch.equal(before, model.high.layers[0].mlp.up_proj.weight)
    assert max(epoch.auc for epoch in epochs) > 0.95
    assert predict(model, samples, rows).shape == (LOG.size,)


def test_a_token_over_the_end_of_a_line_is_refused(lower: LowerLayers) -> None:
    class Greedy:
        def _tokenizer(self, text: str, **_: object) -> dict[str, object]:
            return {"input_ids": [0, 1], "offset_mapping": [(0, 4), (4, len(text))]}

    assert tokenise(lower, ["ab", "é"])[1].tolist() == [0, 3, 6]  # bytes: é has two
    with pytest.raises(ValueError, match="end of a line"):
        tokenise(Greedy(), ["ab", "cd"])  # type: ignore[arg-type]


def test_the_sample_is_the_beginning_of_some_users_and_the_same_each_time() -> None:
    sizes = {1: EVENTS - 1, 2: EVENTS, 3: EVENTS + 30, 4: 90, 5: 60}
    rows = pd.DataFrame([{"user_id": user, "seq": seq} for user, size in sizes.items() for seq in range(size)])
    kept = choose(rows, 3)
    assert set(kept["user_id"]) < {2, 3, 4, 5}
    assert (kept.groupby("user_id")["seq"].agg(["size", "max"]) == [EVENTS, EVENTS - 1]).all(axis=None)
    pd.testing.assert_frame_equal(kept, choose(rows.sample(frac=1, random_state=1).sort_index(), 3))
    assert set(kept["user_id"]) <= set(choose(rows, 4)["user_id"])


def test_nobody_trains_on_what_is_after_his_test_and_cold_items_are_counted_in_training(store: Engine) -> None:
    fill(store, random_rows(2, user_count=12), 12)
    dataset = read_sample(store)
    log = dataset.log
    assert np.array_equal(parts(log)[dataset.rows], dataset.part)
    for user in range(len(log.users)):
        own = dataset.part[log.user[dataset.rows] == user]
        assert (np.diff(own) >= 0).all()
        assert set(own) == {TRAIN, VALID, TEST}
    trained = log.item[dataset.rows[dataset.of(TRAIN)]]
    times = np.array([(trained == item).sum() for item in log.item[dataset.rows]])
    assert np.array_equal(dataset.slices["cold"], times < 5)
    assert np.array_equal(dataset.slices["unseen"], times == 0)
    assert np.array_equal(dataset.slices["warm"], ~dataset.slices["cold"])


@pytest.mark.parametrize("system", systems.SYSTEMS)
def test_every_system_is_trained_and_tested_on_the_sample(
    system: str, llm: Path, store: Engine, tmp_path: Path
) -> None:
    """With and without the lifelong counts, which both are there for the next run."""
    fill(store, random_rows(2, user_count=12), 12)
    told: list[str] = []
    world = systems.World(read_sample(store), store, llm, tmp_path, lambda name, _value: told.append(name))
    counts = world.counts.copy()
    training = TrainConfig(epochs=1, batch_size=32)
    cut = 0 if system == systems.DIN else 2
    setting = Setting(system=system, users=12, llm="tiny", cut=cut, counts=False, training=training)
    line, scores = systems.execute(setting, 0, world)
    assert 0 <= line["test"]["auc"] <= 1
    assert len(scores["test"]) == len(world.dataset.of(TEST))
    assert not world.dataset.samples.dense.any()
    assert bool(told) == (system != systems.DIN)
    systems.execute(msgspec.structs.replace(setting, counts=True), 0, world)
    assert np.array_equal(world.dataset.samples.dense, counts)


def test_an_epoch_of_the_sample_has_several_moments_in_a_window(store: Engine) -> None:
    fill(store, random_rows(2, user_count=12), 12)
    assert 1 < samples_a_window(read_sample(store)) <= systems.TOGETHER


def test_the_estimate_counts_the_weights_of_a_real_layer(llm: Path, lower: LowerLayers) -> None:
    own = {"hidden_size": WIDTH, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
    shape = shape_of(own | {"num_hidden_layers": 4}, 2, 20.0, 15.0)
    held = sum(weight.numel() for weight in lower._layers[0].parameters() if weight.dim() > 1)
    assert shape.layer == held
    assert full_text(shape) > full_text(shape, 10) > full_text(shape, 10, kept=True) > bahe(shape) > bahe(shape, 16)
    assert days(8 * 312e12 * 0.5 * 86_400, 1, utilisation=0.5) == pytest.approx(1.0)


def test_sinks_are_no_part_of_what_was_read_as_in_the_bank() -> None:
    states = np.random.default_rng(0).normal(size=(7, WIDTH)).astype(np.float32)
    total, count = sum_of(states)
    np.testing.assert_allclose(total, states.sum(axis=0), rtol=1e-6)
    assert count == 7
    states[2] *= 100
    total, count = sum_of(states)
    np.testing.assert_allclose(total, np.delete(states, 2, axis=0).sum(axis=0), rtol=1e-5)
    assert count == 6
    bank = _mean_of_text(torch.from_numpy(states)[None], torch.tensor([7]))
    np.testing.assert_allclose(total / count, bank[0].numpy(), rtol=1e-5)
    tokens = TokenStates([np.concatenate([states, states[:2]])], [np.array([0, 7, 9])], [states])
    np.testing.assert_allclose(tokens.mean_of(0, 1), total / count, rtol=1e-6)
    np.testing.assert_allclose(tokens.mean_of(0, 2), (total + states[:2].sum(axis=0)) / 8, rtol=1e-5)
    assert not tokens.mean_of(0, 0).any()
    np.testing.assert_allclose(tokens.text[0], total / count, rtol=1e-6)


def test_states_that_float16_cannot_hold_are_refused(
    llm: Path, lower: LowerLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = lower.states
    monkeypatch.setattr(lower, "states", lambda ids: plain(ids) * 1e6)
    with pytest.raises(ArtifactError, match="float16"):
        token_states(samples_from(LOG), lower, tmp_path, EACH)
    assert not list(tmp_path.glob("*.npy"))


def test_a_kept_line_is_of_the_model_that_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name changes with every setting, with a default of the model and with how the systems compute."""
    own = {system: Setting(system=system, users=3, llm="x", cut=2) for system in systems.SYSTEMS}
    before = {system: setting.digest for system, setting in own.items()}
    assert len(set(before.values())) == len(own)
    plain = systems.model_config
    with monkeypatch.context() as patch:  # as if a default of the model were another
        patch.setattr(systems, "model_config", lambda setting: msgspec.structs.replace(plain(setting), dropout=0.4))
        assert all(setting.digest != before[system] for system, setting in own.items())
    assert {system: setting.digest for system, setting in own.items()} == before
    monkeypatch.setattr(systems, "DESIGN", systems.DESIGN + 1)
    assert all(setting.digest != before[system] for system, setting in own.items())
    line = ml1m.settings_of()
    monkeypatch.setattr(ml1m, "DESIGN", ml1m.DESIGN + 1)
    assert ml1m.settings_of() != line
