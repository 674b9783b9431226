"""Training: it learns, repeats itself by seed, and survives a kill to the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import Engine

from fusion.features.dataset import DatasetConfig, read_dataset
from fusion.models.din import Din, DinConfig
from fusion.models.protocol import summed_loss
from fusion.training import metrics
from fusion.training.artifact import artifact_id, load_artifact
from fusion.training.checkpoint import NAME as CHECKPOINT
from fusion.training.checkpoint import Checkpoint, Epoch, load_checkpoint, save_checkpoint
from fusion.training.experiment import fingerprint, run
from fusion.training.train import TrainConfig, _memory, predict, train
from interest.errors import ArtifactError, InputError
from interest.store.sql import insert_new, item_row
from interest.store.tables import items
from interest.types import Item
from tests.support.ctr_world import RULE, TASKS, fill, log_of, random_rows, samples_of, spec_of
from tests.support.processes import killed
from tests.support.small_models import DATA, DIN, QUICK
from tests.support.training_jobs import training_killed_after


def test_a_tiny_set_can_be_learnt_by_heart() -> None:
    log = log_of(random_rows(2, each=8), 30, 40)
    spec = spec_of(log)
    samples, labels = samples_of(spec, log, np.arange(log.size)), RULE.labels(log)
    model, everything = Din(spec, DinConfig(dropout=0.0)), np.arange(log.size)
    config = TrainConfig(epochs=40, batch_size=40, lr=5e-3, unknown=0.0, average=0.9, patience=40, embedding_decay=0.0)
    train(model, samples, labels, (everything, everything), config)
    assert metrics.auc(labels, predict(model, samples, everything)) > 0.99


def test_training_stops_at_the_first_loss_that_is_not_finite_and_writes_no_artifact(
    store: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, random_rows(3))
    with store.connect() as connection:
        data = read_dataset(connection, DATA)
    calls: list[int] = []

    def loss_of(self: Din, *inputs: object) -> object:
        calls.append(1)
        loss = genuine(self, *inputs)
        return loss if len(calls) < 3 else loss._replace(ctr=loss.ctr * float("nan"))

    genuine = Din.loss
    monkeypatch.setattr(Din, "loss", loss_of)
    with pytest.raises(InputError, match=r"the loss is nan at step \d+ of epoch \d; no artifact .* --value-range"):
        run(data, DIN, QUICK, split="global", folder=tmp_path / "a")
    assert len(calls) == 3
    assert not (tmp_path / "a" / "model.safetensors").exists()


def test_items_that_nobody_met_are_not_held(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the catalogue, a run holds what its log names, read key by key or in one pass."""
    fill(store, random_rows(3))
    with store.begin() as connection:
        insert_new(connection, items, [item_row(Item(item_id=f"new{i}", title=f"{i}")) for i in range(1_000)])
    read = []
    for many in (10, 20_000):
        monkeypatch.setattr("interest.store.sql.MANY_KEYS", many)
        with store.connect() as connection:
            read.append(read_dataset(connection, DATA).samples.named)
    in_catalogue = {item for item in read[0].items if int(item[1:]) % 10 != 9}
    assert set(read[0].catalogue) == in_catalogue
    assert read[0].catalogue == read[1].catalogue


def test_the_same_seed_gives_the_same_weights_and_the_best_epoch_is_kept(store: Engine, tmp_path: Path) -> None:
    fill(store, random_rows(3))
    with store.connect() as connection:
        data = read_dataset(connection, DATA)
    for name in ("a", "b"):
        run(data, DIN, QUICK, split="global", folder=tmp_path / name)
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert artifact_id(tmp_path / "a") == artifact_id(tmp_path / "b")
    model = Din(data.spec, DIN)
    epochs = train(model, data.samples, data.labels, (data.of(0), data.of(1)), QUICK)
    kept = metrics.auc(data.labels[data.of(1)], predict(model, data.samples, data.of(1)))
    assert kept == max(epoch.auc for epoch in epochs)


@pytest.mark.parametrize("steps", [2_400, 4 * 770, 6 * 781])
def test_a_long_run_averages_as_it_is_told(steps: int) -> None:
    """To the last bit: at first all steps count the same, then the memory is what the settings say."""
    for step in (0.0, 1.0, 17.25, 998.0, 999.0, 1_000.0, 2_399.0):
        assert _memory(TrainConfig(), step, steps) == min(0.999, 1 - 1 / (1 + step))


@pytest.mark.parametrize("steps", [1, 20, 240])
def test_a_short_run_forgets_its_beginning(steps: int) -> None:
    share = np.zeros(steps)  # of the weights after each step in the average
    for step in range(steps):
        memory = _memory(TrainConfig(), step, steps)
        share *= memory
        share[step] += 1 - memory
    assert share.sum() == pytest.approx(1.0)
    assert share[: steps // 5].sum() < 0.15
    assert share[steps // 2 :].sum() > 0.6
    assert _memory(TrainConfig(average=0.5), 19, 20) == 0.5  # what asks for less than that has less


def test_averaged_weights_of_a_short_run_are_nearer_to_its_end_than_to_its_beginning() -> None:
    log = log_of(random_rows(2, each=8), 30, 40)
    spec = spec_of(log)
    samples, labels = samples_of(spec, log, np.arange(log.size)), RULE.labels(log)
    model, everything = Din(spec, DinConfig(dropout=0.0)), np.arange(log.size)
    config, after = TrainConfig(epochs=6, batch_size=40, patience=9, floor=1.0), list[torch.Tensor]()

    def weights() -> torch.Tensor:
        return torch.cat([weight.detach().flatten().clone() for weight in model.parameters()])

    epochs = train(model, samples, labels, (everything, everything), config, report=lambda _: after.append(weights()))
    assert epochs[-1].best
    averaged = weights()
    apart = [float((own - averaged).norm()) for own in (after[0], after[-1])]
    assert apart[1] < 0.8 * apart[0]


def test_a_killed_run_goes_on_and_ends_as_the_uninterrupted_one(store: Engine, tmp_path: Path) -> None:
    fill(store, random_rows(4))
    with store.connect() as connection:
        data = read_dataset(connection, DATA)
    in_the_second_epoch = len(data.of(0)) + 130
    url = store.url.render_as_string(hide_password=False)
    killed(training_killed_after, in_the_second_epoch, url, tmp_path / "killed")
    assert (tmp_path / "killed" / CHECKPOINT).exists()
    with pytest.raises(ArtifactError, match="not a complete artifact"):
        load_artifact(tmp_path / "killed")
    again = run(data, DIN, QUICK, split="global", folder=tmp_path / "killed")
    straight = run(data, DIN, QUICK, split="global", folder=tmp_path / "straight")
    assert artifact_id(tmp_path / "killed") == artifact_id(tmp_path / "straight")
    assert again["test"]["auc"] == straight["test"]["auc"]
    assert not (tmp_path / "killed" / CHECKPOINT).exists()


def test_the_best_epoch_is_kept_when_the_run_is_interrupted_after_it(
    store: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the newest, and not the best since the interruption."""
    fill(store, random_rows(4))
    with store.connect() as connection:
        data = read_dataset(connection, DATA)
    parts = (data.of(0), data.of(1))

    def trained(
        aucs: list[float], folder: Path | None, stop_after: int = 9
    ) -> tuple[dict[str, torch.Tensor], list[bool]]:
        told = iter(aucs)
        monkeypatch.setattr(metrics, "auc", lambda *_: next(told))
        torch.manual_seed(0)
        model = Din(data.spec, DIN)

        def report(epoch: Epoch) -> None:
            if epoch.epoch == stop_after:
                raise KeyboardInterrupt

        epochs = train(model, data.samples, data.labels, parts, QUICK, folder=folder, fingerprint="one", report=report)
        return model.state_dict(), [epoch.best for epoch in epochs]

    with pytest.raises(KeyboardInterrupt):
        trained([0.9, 0.6], tmp_path, stop_after=1)
    resumed, best = trained([0.7], tmp_path)
    assert best == [True, False, False]
    of = {
        first: trained(aucs, None)[0] for first, aucs in enumerate(([0.9, 0.6, 0.7], [0.6, 0.9, 0.7], [0.6, 0.7, 0.9]))
    }
    assert all(torch.equal(resumed[name], of[0][name]) for name in resumed)
    for other in (1, 2):
        assert not all(torch.equal(resumed[name], of[other][name]) for name in resumed)


def test_a_checkpoint_of_another_run_is_refused(store: Engine, tmp_path: Path) -> None:
    fill(store, random_rows(5))
    with store.connect() as connection:
        data = read_dataset(connection, DATA)
    model, parts = Din(data.spec, DIN), (data.of(0), data.of(1))
    train(model, data.samples, data.labels, parts, QUICK, folder=tmp_path, fingerprint="one")
    with pytest.raises(ArtifactError, match="another --out"):
        train(model, data.samples, data.labels, parts, QUICK, folder=tmp_path, fingerprint="two")
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[:-40])
    with pytest.raises(ArtifactError, match="remove it to train from the start"):
        train(model, data.samples, data.labels, parts, QUICK, folder=tmp_path, fingerprint="one")
    for old in ({"model/another": torch.ones(2)}, {}):  # of a version whose model was another
        note = {"fingerprint": "one", "epochs": "[]"} if old else {"fingerprint": "one"}
        save_file(old, tmp_path / CHECKPOINT, metadata=note)
        with pytest.raises(ArtifactError, match=r"of another version .*; remove it to train from the start"):
            train(model, data.samples, data.labels, parts, QUICK, folder=tmp_path, fingerprint="one")
    (tmp_path / CHECKPOINT).write_bytes(b"torn")
    with pytest.raises(ArtifactError, match="remove it to train from the start"):
        train(model, data.samples, data.labels, parts, QUICK, folder=tmp_path, fingerprint="one")


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_a_checkpoint_comes_back_where_the_model_is(tmp_path: Path) -> None:
    """`meta` stands for a GPU: what an average is followed on must not stay on the processor."""
    model = torch.nn.Linear(2, 2)
    held = Checkpoint[Epoch](
        model, torch.optim.Adam(model.parameters()), {"weight": torch.ones(2, 2)}, {"bias": torch.ones(2)}
    )
    save_checkpoint(tmp_path, held, "one")
    there = torch.nn.Linear(2, 2, device="meta")
    back = Checkpoint[Epoch](there, torch.optim.Adam(there.parameters()), {}, {})
    load_checkpoint(tmp_path, back, "one", Epoch)
    assert [value.device.type for value in (*back.average.values(), *back.best.values())] == ["meta", "meta"]


def test_runs_on_other_values_catalogues_or_interests_are_told_apart(store: Engine) -> None:
    fill(store, random_rows(5), interests=True)
    with store.connect() as connection:
        data = read_dataset(connection, DatasetConfig(tasks=TASKS, history=10, interest=True))
    seen = {fingerprint(data)}
    data.log.value[3] += 0.25
    seen.add(fingerprint(data))
    data.samples.items.categories[2] += 1
    seen.add(fingerprint(data))
    data.samples.interest_vectors.vectors[0, 0] += 1
    seen.add(fingerprint(data))
    assert len(seen) == 4


def test_too_small_a_log_and_missing_interests_are_told(store: Engine) -> None:
    with store.connect() as connection, pytest.raises(InputError, match="interestream replay"):
        read_dataset(connection, DATA)
    fill(store, random_rows(7, user_count=3, each=8), 3)
    with store.connect() as connection:
        with pytest.raises(InputError, match="too few behaviours"):
            read_dataset(connection, DATA)
        with pytest.raises(InputError, match="interestream learn"):
            read_dataset(connection, DatasetConfig(tasks=TASKS, interest=True))


def test_the_loss_is_the_mean_over_heads_and_zero_for_a_share_without_rows() -> None:
    """With more processes than windows left, a process has none of a batch."""
    logits, wanted = torch.tensor([[0.3, -1.0], [2.0, 0.5]]), torch.tensor([1.0, 0.0])
    alone = [summed_loss(logits[:, head], wanted) for head in (0, 1)]
    by_hand = [-torch.sigmoid(logits[0, head]).log() - torch.sigmoid(-logits[1, head]).log() for head in (0, 1)]
    torch.testing.assert_close(alone, by_hand)
    torch.testing.assert_close(summed_loss(logits, wanted), (alone[0] + alone[1]) / 2)
    for nothing in (logits[:0], logits[:0, 0]):
        assert summed_loss(nothing, wanted[:0]) == 0
