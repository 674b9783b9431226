"""BAHE from the store to an artifact and on: interruption, what is kept and what is not, user states, daily refresh."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import Engine
from torch import nn

from fusion.encoders.recipe import Recipe
from fusion.encoders.split_llm import open_lower_layers
from fusion.features.dataset import Dataset, DatasetConfig
from fusion.features.log import Log
from fusion.features.refresh import OLD, new_parts, read_new
from fusion.features.splits import TEST, TRAIN, VALID
from fusion.serving.bahe_cache import StoredTexts
from fusion.serving.score import Scorer
from fusion.training.artifact import artifact_id, load_artifact
from fusion.training.bahe import begin_with, begin_with_llm, continued, newest, with_bank_vectors
from fusion.training.checkpoint import NAME as CHECKPOINT
from fusion.training.experiment import run
from interest.errors import ArtifactError, InputError
from interest.store.sql import insert_new, item_row
from interest.store.tables import behaviors, items
from interest.types import Item
from tests.support.bahe_world import FORMS, LOG, QUICK, THREE, config_of, quiet, ready
from tests.support.ctr_world import DAY, TASKS, fill, random_rows
from tests.support.tiny_llm import save_llm

CLOSE = 1e-5  # float32 sums in another order


@pytest.mark.parametrize("form", ["causal", "lora"])
def test_an_interrupted_run_goes_on_and_ends_as_the_uninterrupted_one(
    form: str, store: Engine, llm: Path, recipe: Recipe, tmp_path: Path
) -> None:
    fill(store, random_rows(4, each=15))
    data = ready(store, recipe, llm, tmp_path / "banks")
    own = config_of(llm, recipe, dropout=0.3, checkpointing=True, **FORMS[form])

    class StopError(Exception):
        pass

    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done > len(data.of(0)) + 100:
            raise StopError

    folder = tmp_path / "stopped"
    prepare = lambda model: begin_with_llm(model, own)  # noqa: E731
    with pytest.raises(StopError):
        run(data, own, QUICK, split="global", folder=folder, advance=advance, prepare=prepare)
    assert (folder / CHECKPOINT).exists()
    again = run(data, own, QUICK, split="global", folder=folder, prepare=prepare)
    straight = run(data, own, QUICK, split="global", folder=tmp_path / "straight", prepare=prepare)
    assert artifact_id(folder) == artifact_id(tmp_path / "straight")
    assert again == straight


@pytest.fixture
def world(store: Engine) -> Log:
    return fill(store, random_rows(6, each=15), interests=True)


def saved(store: Engine, llm: Path, recipe: Recipe, folder: Path, **changes: object) -> Dataset:
    data = DatasetConfig(tasks=TASKS, history=10, interest=bool(changes.get("interest")))
    dataset = ready(store, recipe, llm, folder.parent / "banks", data)
    config = config_of(llm, recipe, until=newest(dataset), **changes)
    run(dataset, config, QUICK, split="global", folder=folder, prepare=lambda model: begin_with_llm(model, config))
    return dataset


def test_an_artifact_comes_back_and_keeps_states_until_the_user_acts(
    world: Log, store: Engine, llm: Path, recipe: Recipe, tmp_path: Path
) -> None:
    data = saved(store, llm, recipe, tmp_path / "bahe", interest=True, sequences=THREE)
    loaded = load_artifact(tmp_path / "bahe")
    assert loaded.config.kind == "bahe"
    now = float(data.log.at.max()) + DAY
    pairs = [("u1", f"i{i}") for i in range(20)]
    pairs += [("u2", "i1"), ("nobody", "i3"), ("u1", "stranger"), ("nobody", "stranger")]
    with store.connect() as connection:
        scorer = Scorer(loaded)
        first = scorer(connection, pairs, now)
        states = scorer.states
        assert states is not None
        assert (states.made, states.taken) == (3, 0)
        np.testing.assert_allclose(scorer(connection, pairs, now), first, atol=CLOSE)
        assert (states.made, states.taken) == (3, 3)
        single = [Scorer(loaded)(connection, [pair], now)[0] for pair in pairs]
        np.testing.assert_allclose(single, first, atol=CLOSE)
        assert len(np.unique(first.round(6))) > 15
    with store.begin() as connection:  # a new item, of which the bank knows nothing yet
        insert_new(connection, items, [item_row(Item(item_id="new", title="A new film", categories=("Drama",)))])
        event = {"user_id": "u1", "seq": 15, "item_id": "new", "action": "rate", "at": now, "value": 1.0}
        insert_new(connection, behaviors, [event])
    with store.connect() as connection:
        after = scorer(connection, pairs, now)
        np.testing.assert_allclose(after, Scorer(loaded)(connection, pairs, now), atol=CLOSE)
        assert np.isfinite(scorer(connection, [("u1", "new")], now)).all()
    assert (states.made, states.taken) == (4, 6)
    assert np.abs(after[:20] - first[:20]).min() > 0
    np.testing.assert_allclose(after[20:22], first[20:22], atol=CLOSE)


def test_states_above_the_limit_are_dropped(
    world: Log, store: Engine, llm: Path, recipe: Recipe, tmp_path: Path
) -> None:
    saved(store, llm, recipe, tmp_path / "bahe")
    scorer = Scorer(load_artifact(tmp_path / "bahe"))
    assert scorer.states is not None
    scorer.states._limit = 2
    with store.connect() as connection:
        for users in (["u1", "u2", "u3"], ["u3", "u2"], ["u1"]):
            scorer(connection, [(user, "i1") for user in users], 1e9)
    assert (scorer.states.made, scorer.states.taken) == (4, 2)


def test_an_artifact_holds_the_upper_layers_alone_and_knows_its_llm(
    world: Log, store: Engine, llm: Path, recipe: Recipe, tmp_path: Path
) -> None:
    other = save_llm(tmp_path / "other", seed=9)
    for form in ("causal", "lora"):
        saved(store, llm, recipe, tmp_path / form, **FORMS[form])
        names = load_file(tmp_path / form / "model.safetensors")
        high = [name for name in names if name.startswith("high.")]
        assert not any("embed" in name for name in names)
        if form == "lora":
            assert all(name.endswith((".up", ".down", ".sink")) for name in high)
        else:
            assert len(high) == 2 * 9 + 2  # two layers, the norm and the sink's state
        with pytest.raises(ArtifactError, match=r"another language model than tiny@.*weights differ"):
            load_artifact(tmp_path / form, other)
    moved = save_llm(tmp_path / "moved")
    at = float(world.at.max()) + DAY
    with store.connect() as connection:
        there = Scorer(load_artifact(tmp_path / "lora"))(connection, [("u1", "i1")], at)
        np.testing.assert_array_equal(
            Scorer(load_artifact(tmp_path / "lora", moved))(connection, [("u1", "i1")], at), there
        )


def test_without_the_llm_a_fully_trained_artifact_scores_what_the_bank_knows(
    world: Log, store: Engine, recipe: Recipe, tmp_path: Path
) -> None:
    gone = save_llm(tmp_path / "gone")
    for form in ("causal", "lora"):
        saved(store, gone, recipe, tmp_path / form, **FORMS[form])
    gone.rename(tmp_path / "elsewhere")
    scorer, at = Scorer(load_artifact(tmp_path / "causal")), float(world.at.max()) + DAY
    with store.connect() as connection:
        assert 0 < scorer(connection, [("u1", "i1")], at)[0] < 1
    with store.begin() as connection:
        insert_new(connection, items, [item_row(Item(item_id="new", title="A new film"))])
    with store.connect() as connection, pytest.raises(InputError, match="name one with --llm"):
        scorer(connection, [("u1", "new")], at)
    with pytest.raises(InputError, match="name one with --llm"):
        load_artifact(tmp_path / "lora")


def test_an_artifact_whose_weights_are_of_another_version_is_told_as_that(
    world: Log, store: Engine, llm: Path, recipe: Recipe, tmp_path: Path
) -> None:
    saved(store, llm, recipe, tmp_path / "bahe")
    file = tmp_path / "bahe" / "model.safetensors"
    own = load_file(file)
    older = own | {"users.batches": torch.tensor(3.0)}  # as it once was
    fewer = {name: value for name, value in own.items() if name != "nothing"}
    for held, apart in (
        (older, "1 of them, users.batches first"),
        (fewer | {"what": own["nothing"]}, "2 of them, not"),
    ):
        save_file(held, file)
        with pytest.raises(ArtifactError, match=f"bahe is a bahe model of another version.*{apart}.*train again into"):
            load_artifact(tmp_path / "bahe")
    save_file(own, file)
    assert load_artifact(tmp_path / "bahe").config.kind == "bahe"


def test_a_refresh_goes_on_with_new_behaviours_alone(
    world: Log, store: Engine, llm: Path, recipe: Recipe, tmp_path: Path
) -> None:
    data = saved(store, llm, recipe, tmp_path / "day1", tune="lora", rank=2)
    last = load_artifact(tmp_path / "day1")
    until, end = last.config.model.until, float(data.log.at.max())
    with store.connect() as connection, pytest.raises(InputError, match="wait for more behaviours"):
        read_new(connection, last.spec, end)
    rng = np.random.default_rng(1)
    rows = [
        {
            "user_id": f"u{n % 40}", "seq": 15 + n // 40, "item_id": f"i{rng.integers(50)}", "action": "rate",
            "at": end + 60.0 * (n + 1), "value": float(rng.integers(1, 6)),
        }
        for n in range(400)
    ]  # fmt: skip
    with store.begin() as connection:
        insert_new(connection, behaviors, rows)
    with store.connect() as connection:
        new = read_new(connection, last.spec, until)
    assert new.log.at[new.rows].min() > until
    kept = events_of(data, VALID, TEST)
    assert len(kept) > 50
    assert kept <= events_of(new, TRAIN)  # of the day before, which nothing was learnt from
    assert not events_of(data, TRAIN) & events_of(new, TRAIN, VALID, TEST)
    assert len(new.rows) <= 400 + len(kept)
    assert [int(np.isin(new.part, part).sum()) > 20 for part in (TRAIN, VALID, TEST)] == [True] * 3
    assert new.log.at[new.rows[new.of(TRAIN)]].max() < new.log.at[new.rows[new.of(TEST)]].min()
    assert new.spec.dense_mean == last.spec.dense_mean
    assert new.spec.items[: len(last.spec.items)] == last.spec.items
    assert new.spec.trained_items == last.spec.trained_items
    assert len(new.statistics.total) == len(new.spec.items) > len(last.spec.items)
    new = with_bank_vectors(new, store, recipe, llm, tmp_path / "banks", quiet)  # type: ignore[arg-type]
    config = continued(last, new)
    begun: list[dict[str, torch.Tensor]] = []

    def prepare(model: nn.Module) -> None:
        begin_with(model, config, last)
        begun.append({name: value.clone() for name, value in model.state_dict().items()})

    run(new, config, QUICK, split="global", folder=tmp_path / "day2", prepare=prepare)
    second = load_artifact(tmp_path / "day2")
    assert second.config.model.continued_from == last.id
    assert second.config.model.until == new.log.at[new.rows[new.of(TRAIN)]].max()
    assert newest(new, "user") == new.log.at.max()  # where users' parts overlap in time, nothing older is safe
    for name, value in last.model.state_dict().items():
        assert torch.equal(begun[0][name], value)
    assert any(not torch.equal(value, begun[0][name]) for name, value in second.model.state_dict().items())
    with store.connect() as connection:
        assert np.isfinite(Scorer(second)(connection, [("u39", "i49"), ("u1", "i1")], until + 1e6)).all()
    assert data.log.size < new.log.size


def events_of(data: Dataset, *parts: int) -> set[tuple[str, int]]:
    """Users and sequence numbers of the samples of some parts."""
    rows = data.rows[np.isin(data.part, parts)]
    return {(data.log.users[user], int(seq)) for user, seq in zip(data.log.user[rows], data.log.seq[rows], strict=True)}


def test_day_after_day_everything_is_learnt_from_once() -> None:
    order, until, learnt = np.argsort(LOG.at), 0.0, list[int]()
    for known in (100, 150, 220, 300):
        log = dataclasses.replace(LOG, at=np.where(np.isin(np.arange(LOG.size), order[:known]), LOG.at, 0.0))
        training = np.flatnonzero(new_parts(log, until) == TRAIN)
        until = float(log.at[training].max())
        learnt += training.tolist()
    assert len(set(learnt)) == len(learnt)
    assert set(learnt) == set(order[: len(learnt)].tolist())
    assert len(learnt) > 270


def test_parts_of_a_refresh() -> None:
    part = new_parts(LOG, float(np.sort(LOG.at)[199]))
    assert (part[LOG.at <= np.sort(LOG.at)[199]] == OLD).all()
    assert np.bincount(part + 1).tolist() == [200, 80, 10, 10]


def test_texts_that_the_bank_lacks_are_kept_up_to_the_limit(store: Engine, llm: Path, recipe: Recipe) -> None:
    names = [f"film {n}" for n in range(8)]
    direct = open_lower_layers(llm, recipe)(names).astype(np.float16)
    stored = StoredTexts(recipe, llm, direct.shape[1], kept=3)
    with store.connect() as connection:
        for chosen in ([0, 1], [1, 2, 3, 4, 5, 6], [0, 7]):  # the second asks for more than is kept
            keys = recipe.keys([names[n] for n in chosen])
            file = stored(connection, [names[n] for n in chosen])
            np.testing.assert_array_equal(file.vectors[file.find(keys)], direct[chosen])
            assert len(stored._made) <= 3
    assert list(stored._made) == recipe.keys([names[n] for n in (6, 0, 7)])
