from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ctr_world import DAY, RULE, fill, log_of, meaning, random_rows, samples_of, spec_of
from safetensors.torch import load_file
from sqlalchemy import Engine, select

from fusion import metrics
from fusion.artifact import ArtifactConfig, artifact_id, load_artifact, save_artifact
from fusion.checkpoint import NAME as CHECKPOINT
from fusion.dataset import DatasetConfig, read_dataset
from fusion.din import Din, DinConfig
from fusion.encode import encode
from fusion.experiment import run
from fusion.knowledge import read_knowledge
from fusion.log import read_log
from fusion.moments import sample_moments
from fusion.represent import represent
from fusion.score import current_samples, score
from fusion.spec import FeatureSpec
from fusion.tables import representations
from fusion.train import TrainConfig, predict, train
from interest.errors import ArtifactError, InputError
from interest.sql import insert_new, read_items, read_users
from interest.tables import behaviors

SMALL = DinConfig(width=8, attention=8, hidden=(16,))
QUICK = TrainConfig(epochs=3, batch_size=128, patience=9)
DATA = DatasetConfig(label=RULE, history=10)


def test_a_tiny_set_can_be_learnt_by_heart() -> None:
    log = log_of(random_rows(2, each=8), 30, 40)
    spec = spec_of(log)
    samples, labels = samples_of(spec, log, np.arange(log.size)), RULE.labels(log)
    model, everything = Din(spec, DinConfig(dropout=0.0)), np.arange(log.size)
    config = TrainConfig(epochs=40, batch_size=40, lr=5e-3, unknown=0.0, average=0.9, patience=40, embedding_decay=0.0)
    train(model, samples, labels, (everything, everything), config)
    assert metrics.auc(labels, predict(model, samples, everything)) > 0.99


def test_the_same_seed_gives_the_same_weights_and_the_best_epoch_is_kept(store: Engine, tmp_path: Path) -> None:
    fill(store, random_rows(3))
    with store.connect() as connection:
        data = read_dataset(connection, DATA)
    for name in ("a", "b"):
        run(data, SMALL, QUICK, split="global", folder=tmp_path / name)
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert artifact_id(tmp_path / "a") == artifact_id(tmp_path / "b")
    model = Din(data.spec, SMALL)
    epochs = train(model, data.samples, data.labels, (data.of(0), data.of(1)), QUICK)
    kept = metrics.auc(data.labels[data.of(1)], predict(model, data.samples, data.of(1)))
    assert kept == max(epoch.auc for epoch in epochs)


KILLED = """
import os, signal, sys
from pathlib import Path
from fusion.dataset import read_dataset
from fusion.experiment import run
from streams.store import open_store
from test_training import DATA, QUICK, SMALL
done = 0
def advance(count):
    global done
    done += count
    if done > int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
with open_store(sys.argv[1]).connect() as connection:
    data = read_dataset(connection, DATA)
run(data, SMALL, QUICK, split="global", folder=Path(sys.argv[2]), advance=advance)
"""


def test_a_killed_run_goes_on_and_ends_as_the_uninterrupted_one(store: Engine, tmp_path: Path) -> None:
    fill(store, random_rows(4))
    with store.connect() as connection:
        data = read_dataset(connection, DATA)
    in_the_second_epoch = len(data.of(0)) + 130
    url, path = (
        store.url.render_as_string(hide_password=False),
        os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    )
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, url, str(tmp_path / "killed"), str(in_the_second_epoch)],
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "killed" / CHECKPOINT).exists()
    with pytest.raises(ArtifactError, match="no complete artifact"):
        load_artifact(tmp_path / "killed")
    again = run(data, SMALL, QUICK, split="global", folder=tmp_path / "killed")
    straight = run(data, SMALL, QUICK, split="global", folder=tmp_path / "straight")
    assert artifact_id(tmp_path / "killed") == artifact_id(tmp_path / "straight")
    assert again["test"]["auc"] == straight["test"]["auc"]
    assert not (tmp_path / "killed" / CHECKPOINT).exists()


def test_a_checkpoint_of_another_run_is_refused(store: Engine, tmp_path: Path) -> None:
    fill(store, random_rows(5))
    with store.connect() as connection:
        data = read_dataset(connection, DATA)
    model, parts = Din(data.spec, SMALL), (data.of(0), data.of(1))
    train(model, data.samples, data.labels, parts, QUICK, folder=tmp_path, fingerprint="one")
    with pytest.raises(ArtifactError, match="another --out"):
        train(model, data.samples, data.labels, parts, QUICK, folder=tmp_path, fingerprint="two")
    (tmp_path / CHECKPOINT).write_bytes(b"torn")
    with pytest.raises(ArtifactError, match="remove it to train from the start"):
        train(model, data.samples, data.labels, parts, QUICK, folder=tmp_path, fingerprint="one")


@pytest.fixture
def artifact(store: Engine, tmp_path: Path) -> Path:
    """A DIN with interests, trained on a store of 30 users."""
    fill(store, random_rows(6), interests=True)
    with store.connect() as connection:
        data = read_dataset(connection, DatasetConfig(label=RULE, history=10, interest=True))
    run(data, DinConfig(interest=True), QUICK, split="global", folder=tmp_path / "din")
    return tmp_path / "din"


def test_an_artifact_comes_back_as_it_was_and_holds_no_pickle(artifact: Path, tmp_path: Path) -> None:
    loaded = load_artifact(artifact)
    record = ArtifactConfig(
        kind="din", model=loaded.config.model, training=QUICK, split="global", versions=loaded.config.versions
    )
    again = save_artifact(tmp_path / "copy", loaded.model, loaded.spec, loaded.statistics, record, loaded.metrics)
    assert again == loaded.id == artifact_id(artifact)
    assert sorted(path.suffix for path in artifact.iterdir()) == [".json"] * 3 + [".safetensors"] * 2
    assert FeatureSpec.load(artifact / "spec.json") == loaded.spec


@pytest.mark.parametrize("name", ["spec.json", "config.json", "model.safetensors", "statistics.safetensors"])
def test_a_broken_artifact_is_an_error_that_names_it(artifact: Path, name: str) -> None:
    (artifact / name).write_bytes((artifact / name).read_bytes()[:-40])
    with pytest.raises(ArtifactError, match="din"):
        load_artifact(artifact)
    (artifact / name).unlink()
    with pytest.raises(ArtifactError, match=f"lacks {name}"):
        load_artifact(artifact)


def test_scoring_reads_what_training_reads_at_the_same_moment(store: Engine, artifact: Path) -> None:
    loaded = load_artifact(artifact)
    spec = loaded.spec
    now = float(log_of(random_rows(6), 30, 40).at.max()) + 3 * DAY
    pairs = [("u0", "i5"), ("u3", "i39"), ("u7", "i6")]
    with store.connect() as connection:
        served = current_samples(connection, spec, loaded.statistics, pairs, now)
        scores = score(connection, loaded, pairs, now)
        alone = [score(connection, loaded, [pair], now)[0] for pair in pairs]
    np.testing.assert_allclose(scores, alone, atol=1e-6)
    with store.begin() as connection:  # what was offered then happens, and training reads the log again
        event = {"seq": 25, "action": "rate", "at": now, "value": 1.0}
        insert_new(connection, behaviors, [{"user_id": user, "item_id": item, **event} for user, item in pairs])
    with store.connect() as connection:
        log = read_log(connection)
        moments, past = sample_moments(log, np.flatnonzero(log.at == now))
        knowledge = read_knowledge(connection, log.users, generation=0, prompt_version="p1", encoder="e1")
        trained = encode(
            spec, log, moments, past,
            items=log.items, catalogue=read_items(connection), profiles=read_users(connection), knowledge=knowledge,
        )  # fmt: skip
    assert [log.users[user] for user in moments.user] == [user for user, _ in pairs]
    everything = np.arange(len(pairs))
    for left, right in zip(meaning(served.batch(everything)), meaning(trained.batch(everything)), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)
    np.testing.assert_allclose(scores, predict(loaded.model, trained, everything), atol=1e-6)


def test_strangers_are_scored_and_no_pair_is_no_score(store: Engine, artifact: Path) -> None:
    loaded = load_artifact(artifact)
    with store.connect() as connection:
        strange = score(connection, loaded, [("nobody", "i1"), ("u1", "nothing"), ("nobody", "nothing")], 1e9)
        assert np.isfinite(strange).all()
        assert len(score(connection, loaded, [], 1e9)) == 0


def test_every_partition_gets_the_vector_the_model_sees_and_a_second_run_adds_nothing(
    store: Engine, artifact: Path
) -> None:
    loaded = load_artifact(artifact)
    stored = represent(store, loaded)
    assert stored == 30 * 5
    assert represent(store, loaded) == stored
    with store.connect() as connection:
        rows = list(connection.execute(select(representations)).mappings())
        samples = current_samples(connection, loaded.spec, loaded.statistics, [("u4", "i1")], 1e9)
    assert len(rows) == stored
    newest = max((row for row in rows if row["user_id"] == "u4"), key=lambda row: row["index"])
    with torch.no_grad():
        seen = loaded.model.fusion.user(samples.batch(np.array([0])))[0].numpy()
    np.testing.assert_allclose(np.frombuffer(newest["vector"], "<f4"), seen, atol=1e-6)
    assert newest["artifact"] == loaded.id


def test_too_small_a_log_and_missing_interests_are_told(store: Engine) -> None:
    with store.connect() as connection, pytest.raises(InputError, match="interestream replay"):
        read_dataset(connection, DATA)
    fill(store, random_rows(7, user_count=3, each=8), 3)
    with store.connect() as connection:
        with pytest.raises(InputError, match="too few behaviours"):
            read_dataset(connection, DATA)
        with pytest.raises(InputError, match="interestream learn"):
            read_dataset(connection, DatasetConfig(label=RULE, interest=True))
