"""Pre-training: masks hide what they should, it learns, repeats itself, and survives a kill to the same weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import Engine
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fusion.features.dataset import Labelled, read_labelled
from fusion.features.spec import FIRST
from fusion.features.splits import TRAIN, VALID
from fusion.features.tasks import Task
from fusion.models.srp4ctr import item_softmax as softmax
from fusion.models.srp4ctr.fgbert import FgBertConfig, hide
from fusion.models.srp4ctr.masking import LEAST, Masked, Sequences, draw
from fusion.training import pretrain as pretraining
from fusion.training.artifact import load_artifact
from fusion.training.checkpoint import NAME as CHECKPOINT
from fusion.training.pretrain import TOP, PretrainConfig, Pretraining, pretrain
from fusion.training.pretrained import adopt, check, data_of, load_pretrained, run
from interest.errors import ArtifactError, InputError
from tests.support.ctr_world import fill, random_rows
from tests.support.processes import killed
from tests.support.small_models import DATA, FGBERT, PRETRAINING
from tests.support.training_jobs import pretraining_killed_after


@pytest.fixture
def read(store: Engine) -> Labelled:
    fill(store, random_rows(3))
    with store.connect() as connection:
        return read_labelled(connection, DATA)


def masked(read: Labelled, shares: tuple[float, float] = (0.3, 0.3)) -> tuple[Pretraining, Masked]:
    torch.manual_seed(1)
    model = Pretraining(read.spec, FGBERT).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    data = data_of(read)
    sequences = Sequences(data.spec, data.log, np.flatnonzero(data.train), data.table, FGBERT.positions)
    windows = sequences.cut(np.zeros(len(read.log.users), np.int64))
    rng = np.random.default_rng(5)
    masks = draw(len(sequences.row), shares, rng)
    offsets = np.array([FGBERT.positions - len(window) for window in windows])
    return model, sequences.gather(windows, masks, offsets, None, np.empty(0))


def test_the_two_sets_of_masks_are_drawn_independently() -> None:
    items, behaviors = draw(200_000, (0.2, 0.3), np.random.default_rng(0))
    assert items.mean() == pytest.approx(0.2, abs=0.005)
    assert behaviors.mean() == pytest.approx(0.3, abs=0.005)
    assert (items & behaviors).mean() == pytest.approx(0.06, abs=0.003)


def test_both_sets_reach_the_batches_that_are_learnt_and_measured(
    read: Labelled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Still apart from each other, and others in every epoch; what is measured is the same in all."""
    seen: dict[bool, list[np.ndarray]] = {True: [], False: []}
    losses = Pretraining.losses

    def noted(self: Pretraining, batch: Masked, items: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        there = batch.event > 0
        seen[self.training].append(torch.stack([batch.item_masks[there], batch.behavior_masks[there]]).numpy())
        return losses(self, batch, items)

    monkeypatch.setattr(Pretraining, "losses", noted)
    config = PretrainConfig(epochs=12, batch_size=64, item_masks=0.2, behavior_masks=0.4)
    pretrain(Pretraining(read.spec, FGBERT), data_of(read), config)
    learnt, measured = (np.concatenate(seen[training], axis=1) for training in (True, False))
    assert learnt.shape[1] > 5_000
    assert learnt.mean(axis=1) == pytest.approx([0.2, 0.4], abs=0.03)
    assert learnt.all(axis=0).mean() == pytest.approx(0.08, abs=0.02)
    assert not np.array_equal(seen[True][0], seen[True][-1])
    assert 0 < measured.all(axis=0).sum() < measured[0].sum() < measured[1].sum()
    assert np.array_equal(seen[False][0], seen[False][-1])


def test_what_is_masked_reaches_no_state(read: Labelled) -> None:
    """By gradient, at the tokens; and by value: another item or behaviour behind the mask gives the same states."""
    model, batch = masked(read)
    own = model.encoder
    items = own.items(batch.items)
    x = F.embedding(batch.event, items).detach().requires_grad_()
    s = own.behaviors(batch.behavior).detach().requires_grad_()
    shown_x = torch.where(batch.item_masks[..., None], own.hidden_item, x)
    shown_s = torch.where(batch.behavior_masks[..., None], own.hidden_behavior, s)
    there = batch.event > 0
    tokens = shown_x + shown_s + own.position.weight[: there.shape[1]]
    states = own(tokens, hide(there, there.shape[1])).states
    assert torch.allclose(states, model(batch)[0])  # this is what the model does
    into_x, into_s = torch.autograd.grad((states[there] ** 3).sum(), [x, s])
    assert into_x[batch.item_masks].abs().max() == 0
    assert into_s[batch.behavior_masks].abs().max() == 0
    assert (into_x[there & ~batch.item_masks].abs().amax(dim=1) > 0).all()
    assert (into_s[there & ~batch.behavior_masks].abs().amax(dim=1) > 0).all()
    other = dataclasses.replace(
        batch,
        event=torch.where(batch.item_masks, batch.event % 30 + 1, batch.event),
        behavior=torch.where(batch.behavior_masks[..., None], 1, batch.behavior),
    )
    assert torch.equal(model(other)[0][there], model(batch)[0][there])


def test_padding_on_either_side_reaches_no_state(read: Labelled) -> None:
    model, batch = masked(read)
    there = batch.event > 0
    assert not there.all()
    noise = torch.where(there[..., None], batch.behavior, torch.ones_like(batch.behavior))
    assert torch.equal(model(dataclasses.replace(batch, behavior=noise))[0][there], model(batch)[0][there])


def test_only_training_events_are_ever_seen_in_training(read: Labelled) -> None:
    """Everything outside the training part may be anything: the same weights come out."""
    data = data_of(read)
    rng = np.random.default_rng(0)
    later = read.part != TRAIN
    log = dataclasses.replace(
        read.log,
        item=np.where(later, rng.integers(0, 40, read.log.size), read.log.item).astype(np.int32),
        value=np.where(later, 1.0, read.log.value).astype(np.float32),
    )
    weights = []
    for own in (data, dataclasses.replace(data, log=log)):
        torch.manual_seed(0)
        model = Pretraining(read.spec, FGBERT)
        pretrain(model, own, PRETRAINING)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert (read.part == VALID).any()


def test_it_learns_what_users_do(read: Labelled) -> None:
    torch.manual_seed(0)
    model = Pretraining(read.spec, FgBertConfig(positions=12, width=16, dropout=0.0))
    epochs = pretrain(model, data_of(read), PretrainConfig(epochs=40, batch_size=8, lr=5e-3))
    assert epochs[-1].loss < 0.8 * epochs[0].loss


def test_the_hit_rate_counts_items_among_the_ten_most_probable(read: Labelled) -> None:
    model, batch = masked(read)
    with torch.no_grad():
        states, items = model(batch)
        asked = batch.item_masks & (batch.items.row[batch.event] >= FIRST)
        logits = model.heads.item_logits(states[asked], items[batch.classes], batch.items.row[batch.classes])
        best = logits.topk(TOP).indices + FIRST
        hits = (best == batch.items.row[batch.event[asked].long()][:, None]).any(dim=1)
        assert torch.equal(model.losses(batch)[2] < TOP, hits)
    assert 0 < hits.sum() < len(hits)


@pytest.mark.parametrize("rows", [1, 3, 10_000])
def test_the_item_softmax_in_parts_is_the_whole_one(read: Labelled, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch computes it, with the gradients of every weight that leads to it."""
    model, batch = masked(read)
    monkeypatch.setattr(softmax, "LOGITS_AT_ONCE", rows * len(batch.classes))
    states, items = model(batch)
    asked = batch.item_masks & (batch.items.row[batch.event] >= FIRST)
    number = batch.items.row[batch.event[asked].long()].long() - FIRST
    logits = model.heads.item_logits(states[asked], items[batch.classes], batch.items.row[batch.classes])
    whole = F.cross_entropy(logits, number, reduction="sum")
    loss, fields, ranks = model.losses(batch)
    torch.testing.assert_close(loss, whole)
    assert torch.equal(ranks, (logits > logits.gather(1, number[:, None])).sum(dim=1))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    ours = torch.autograd.grad(3 * loss, weights, allow_unused=True)
    theirs = torch.autograd.grad(3 * whole, weights, allow_unused=True)
    for own, other in zip(ours, theirs, strict=True):
        if other is None:
            assert own is None
        else:
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(model.losses(batch, items), (loss, fields, ranks))


def test_no_more_logits_exist_than_are_made_at_once(read: Labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in what torch keeps and makes: a run's memory does not grow with masked behaviours times items."""
    model, batch = masked(read, (0.9, 0.3))
    classes = len(batch.classes)
    monkeypatch.setattr(softmax, "LOGITS_AT_ONCE", 2 * classes)
    with Largest(classes) as seen:
        model.losses(batch)[0].backward()
    assert seen.rows == 2


class Largest(TorchDispatchMode):
    """The most rows of any matrix with so many columns that an operation returns."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns, self.rows = columns, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        held = {one.untyped_storage().data_ptr() for one in args if isinstance(one, torch.Tensor)}
        is_matrix = isinstance(out, torch.Tensor) and out.dim() == 2 and out.shape[1] == self.columns
        if is_matrix and out.untyped_storage().data_ptr() not in held:  # the items seen from the side are not new
            self.rows = max(self.rows, len(out))
        return out


def test_pre_training_stops_at_a_loss_that_is_not_finite(read: Labelled, tmp_path: Path) -> None:
    config = msgspec.structs.replace(PRETRAINING, lr=1e30, warm_up=0.0)
    with pytest.raises(InputError, match=r"the loss is (nan|inf) at step [\d,]+ of epoch \d+;.*lower --lr"):
        run(read, FGBERT, config, split="global", folder=tmp_path / "a")
    assert not (tmp_path / "a" / "config.json").exists()


def test_where_nothing_is_masked_nothing_is_measured_and_the_run_can_be_resumed(read: Labelled, tmp_path: Path) -> None:
    config = msgspec.structs.replace(PRETRAINING, item_masks=0.0, epochs=1)
    for more in (0, 1):  # the second goes on from the first's checkpoint
        torch.manual_seed(0)
        model, own = Pretraining(read.spec, FGBERT), msgspec.structs.replace(config, epochs=1 + more)
        epochs = pretrain(model, data_of(read), own, folder=tmp_path, fingerprint="one")
    assert [(epoch.valid_loss, epoch.valid_item_loss, epoch.hit_rate) for epoch in epochs] == [(None,) * 3] * 2


def test_two_behaviours_a_user_and_a_constant_action_are_enough(store: Engine, tmp_path: Path) -> None:
    """A log of views: no values, so no labels either. What never differs costs nothing once it is learnt."""
    rows = [(user, item, at, None) for user, item, at, _ in random_rows(3, each=2)]
    fill(store, rows)
    with store.connect() as connection:
        read = read_labelled(connection, DATA, least=LEAST)
    narrow = FgBertConfig(positions=2, width=16, dropout=0.0)
    config = PretrainConfig(epochs=60, batch_size=8, lr=1e-2, behavior_masks=0.5)
    epochs = run(read, narrow, config, split="global", folder=tmp_path)
    assert np.isfinite([epoch.loss for epoch in epochs]).all()
    assert epochs[-1].loss < epochs[0].loss
    model = Pretraining(read.spec, narrow).eval()
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    data = data_of(read)
    sequences = Sequences(data.spec, data.log, np.flatnonzero(data.train), data.table, 2)
    windows = sequences.cut(np.zeros(len(read.log.users), np.int64))
    nothing, every = np.zeros(len(sequences.row), bool), np.ones(len(sequences.row), bool)
    batch = sequences.gather(windows, (nothing, every), np.zeros(len(windows), np.int64), None, np.empty(0))
    states = model(batch)[0][batch.behavior_masks].detach()
    for field in range(3):  # action, value, label; days since the one before do differ
        wanted = batch.behavior[batch.behavior_masks][:, field].long()
        assert F.cross_entropy(model.heads.fields[field](states), wanted).item() < 0.05
    assert load_pretrained(tmp_path).config.events == int(data.train.sum())


def test_an_epoch_whose_cuts_leave_no_window_is_cut_again(store: Engine) -> None:
    """One user with two behaviours and windows of two: half of all cuts fall between them."""
    fill(store, [(0, 0, 1.0, 5.0), (0, 1, 2.0, 1.0), *((user, 2, 9.0 + user, 3.0) for user in range(1, 29))])
    with store.connect() as connection:
        read = read_labelled(connection, DATA, least=LEAST)
    model = Pretraining(read.spec, FgBertConfig(positions=2, width=16))
    assert len(pretrain(model, data_of(read), msgspec.structs.replace(PRETRAINING, epochs=8))) == 8


def test_a_log_without_two_behaviours_of_one_user_teaches_nothing(store: Engine) -> None:
    with store.connect() as connection, pytest.raises(InputError, match="interestream replay"):
        read_labelled(connection, DATA, least=LEAST)
    fill(store, random_rows(3, each=1))
    with store.connect() as connection, pytest.raises(InputError, match="no user has 2 behaviours in the training"):
        read_labelled(connection, DATA, least=LEAST)
    fill(store, random_rows(3, each=2))
    with store.connect() as connection:
        read = read_labelled(connection, DATA, least=LEAST)
        with pytest.raises(InputError, match="try the other --split"):
            read_labelled(connection, dataclasses.replace(DATA, split="user"), least=LEAST)
        with pytest.raises(InputError, match="choose a threshold inside"):  # it would be of no use in training
            read_labelled(connection, dataclasses.replace(DATA, tasks=(Task.parse("value>9"),)), least=LEAST)
        with pytest.raises(InputError, match="the only action is rate; use the value"):
            read_labelled(connection, dataclasses.replace(DATA, tasks=(Task.parse("action=rate"),)), least=LEAST)
    with pytest.raises(InputError, match="no window has 2 behaviours"):
        pretrain(Pretraining(read.spec, FgBertConfig(positions=1, width=16)), data_of(read), PRETRAINING)


def test_the_rate_rises_in_a_line_and_falls_as_a_polynomial() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    config = PretrainConfig(lr=1.0, warm_up=0.1, power=2.0)
    rates = []
    for done in (0.0, 0.05, 0.1, 0.5, 0.9):
        pretraining._set_rate(optimizer, config, done)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.0, 0.5 * 0.95**2, 0.9**2, 0.5**2, 0.1**2])


def test_a_run_is_not_continued_on_other_data(read: Labelled, tmp_path: Path) -> None:
    def fails(_: int) -> None:
        if (tmp_path / CHECKPOINT).exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(read, FGBERT, PRETRAINING, split="global", folder=tmp_path, advance=fails)
    log = dataclasses.replace(read.log, value=read.log.value + np.float32(0.25))
    with pytest.raises(ArtifactError, match="other data or settings"):
        run(dataclasses.replace(read, log=log), FGBERT, PRETRAINING, split="global", folder=tmp_path)


def test_the_sampled_softmax_estimates_the_full_one(read: Labelled) -> None:
    """Its normaliser is unbiased: with many samples the loss is the full loss, whatever they are drawn by."""
    model, full = masked(read)
    known = read.spec.trained_items
    share = np.linspace(1, 5, known)
    share /= share.sum()
    drawn = np.random.default_rng(0).choice(known, 60_000, p=share)
    sampled = dataclasses.replace(
        full, classes=full.classes[torch.from_numpy(drawn)], log_share=torch.from_numpy(np.log(share[drawn])).float()
    )
    with torch.no_grad():
        exact, estimate = model.losses(full)[0], model.losses(sampled)[0]
    assert float(estimate) == pytest.approx(float(exact), rel=0.01)


def test_a_large_catalogue_is_sampled_and_learns(read: Labelled) -> None:
    torch.manual_seed(0)
    model = Pretraining(read.spec, FGBERT)
    config = PretrainConfig(epochs=15, batch_size=8, lr=5e-3, full_softmax=10, negatives=20)
    epochs = pretrain(model, data_of(read), config)
    assert epochs[-1].valid_item_loss < epochs[0].valid_item_loss


def test_a_killed_run_goes_on_and_ends_as_the_uninterrupted_one(store: Engine, read: Labelled, tmp_path: Path) -> None:
    in_the_second_epoch = int((read.part == TRAIN).sum()) + 100
    url = store.url.render_as_string(hide_password=False)
    killed(pretraining_killed_after, in_the_second_epoch, url, tmp_path / "killed")
    assert (tmp_path / "killed" / CHECKPOINT).exists()
    with pytest.raises(ArtifactError, match="not a complete pre-training"):
        load_pretrained(tmp_path / "killed")
    for name in ("killed", "straight"):
        run(read, FGBERT, PRETRAINING, split="global", folder=tmp_path / name)
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "straight"))
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert load_pretrained(tmp_path / "killed").id == load_pretrained(tmp_path / "straight").id
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [
        "config.json", "metrics.json", "model.safetensors", "spec.json"
    ]  # fmt: skip


def test_what_is_out_of_vocabulary_starts_as_the_mean_of_what_is_known(read: Labelled, tmp_path: Path) -> None:
    """Where training had none: its row is random else. What was trained, or is not an unknown row, stays as it was."""
    torch.manual_seed(PRETRAINING.seed)
    model = Pretraining(read.spec, FGBERT)
    pretrain(model, data_of(read), PRETRAINING)
    plain = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    run(read, FGBERT, PRETRAINING, split="global", folder=tmp_path)
    weights = load_pretrained(tmp_path).weights
    assert read.spec.actions.texts == ("rate",)
    changed = ["item", "category", "behavior.0", "behavior.1", "behavior.2"]  # action, value, label
    for name in changed:
        own = weights[f"{name}.weight"]
        assert not torch.equal(own[1], plain[f"{name}.weight"][1])
        torch.testing.assert_close(own[1], own[2:].mean(dim=0))
    # some items are not in the catalogue, which trained the attribute's; a gap of no day is row 1 of the days since
    for name, value in plain.items():
        rows = slice(2, None) if name.removesuffix(".weight") in changed else slice(None)
        assert torch.equal(weights[name][rows], value[rows]), name
    old = read.spec
    grown = msgspec.structs.replace(
        old,
        items=("brand-new", *old.items),
        trained_items=old.trained_items + 1,
        actions=msgspec.structs.replace(old.actions, texts=("buy", "rate")),
        categories=msgspec.structs.replace(old.categories, texts=(*old.categories.texts, "Western")),
    )
    encoder = Pretraining(grown, FGBERT).encoder
    adopt(encoder, grown, load_pretrained(tmp_path))
    assert torch.equal(encoder.item.weight[2], weights["item.weight"][1])
    assert torch.equal(encoder.behavior[0].weight[2], weights["behavior.0.weight"][1])
    assert torch.equal(encoder.category.weight[-1], weights["category.weight"][1])


def test_what_does_not_fit_is_refused_in_a_sentence(read: Labelled, tmp_path: Path) -> None:
    run(read, FGBERT, msgspec.structs.replace(PRETRAINING, epochs=1), split="global", folder=tmp_path)
    held = load_pretrained(tmp_path)
    until = float(read.log.at[read.part == TRAIN].max())
    check(held, read.spec, split="global", until=until)
    with pytest.raises(ArtifactError, match="--split global, not user"):
        check(held, read.spec, split="user", until=until)
    with pytest.raises(ArtifactError, match="may have seen what is to be tested"):
        check(held, read.spec, split="global", until=until - 1)
    with pytest.raises(ArtifactError, match="value buckets"):
        check(held, msgspec.structs.replace(read.spec, value_edges=(1.0,)), split="global", until=until)
    with pytest.raises(ArtifactError, match="is a pre-training; train on it"):
        load_artifact(tmp_path)
    (tmp_path / "config.json").write_bytes(b'{"kind": "din"}')
    with pytest.raises(ArtifactError, match=r"trained artifact \(din\), not a pre-training"):
        load_pretrained(tmp_path)


def test_a_broken_pre_training_is_an_error_that_names_the_file(read: Labelled, tmp_path: Path) -> None:
    run(read, FGBERT, msgspec.structs.replace(PRETRAINING, epochs=1), split="global", folder=tmp_path)
    for name in ("config.json", "model.safetensors", "spec.json"):
        own = (tmp_path / name).read_bytes()
        for broken in (own[:-40], own[:5], b"", b"\xff" * 200, b"[1]", b"{}"):
            (tmp_path / name).write_bytes(broken)
            with pytest.raises(ArtifactError, match=f"{name}.*train again into a new folder"):
                load_pretrained(tmp_path)
        (tmp_path / name).write_bytes(own)
    weights = load_file(tmp_path / "model.safetensors")
    item = weights["encoder.item.weight"]
    for other in ({**weights, "encoder.item.weight": item[:-1]}, {"encoder.item.weight": item}):
        save_file(other, tmp_path / "model.safetensors")
        with pytest.raises(ArtifactError, match=r"model.safetensors does not fit .*; pre-train again"):
            load_pretrained(tmp_path)
