"""Several processes, as torchrun starts them, learn what one learns: pre-training, SRP4CTR with all its parts, the
commands.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import Engine, delete

from fusion.features.dataset import read_labelled
from fusion.models.srp4ctr.masking import Sequences, draw
from fusion.tables import vectors
from fusion.training.artifact import load_artifact
from fusion.training.distributed import choose_device
from fusion.training.pretrained import data_of, load_pretrained
from interest.errors import InputError
from tests.support import processes
from tests.support.command_line import output_of
from tests.support.ctr_world import fill, random_rows
from tests.support.small_models import DATA
from tests.support.training_jobs import pretrain_fgbert, train_srp4ctr, train_tasks

KNOWN = ("u3", "u4")  # the only ones with interests


def torchrun(count: int, *arguments: object) -> str:
    path = os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count, *arguments]
    done = subprocess.run(
        [str(argument) for argument in command],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def learnt(job: Callable[..., Any], folder: Path, url: str, *arguments: object) -> dict[int, Any]:
    """What one process came to, and what two did."""
    return {count: processes.together(count, job, url, folder / str(count), *arguments) for count in (1, 2)}


@pytest.fixture
def url(store: Engine) -> str:
    """Interests of two users alone: most shares of a batch have none."""
    fill(store, random_rows(8), interests=True)
    with store.begin() as connection:
        connection.execute(delete(vectors).where(vectors.c.user_id.not_in(KNOWN)))
    return store.url.render_as_string(hide_password=False)


def test_srp4ctr_with_all_its_parts(url: str, tmp_path: Path) -> None:
    """Gradients are summed over shares of the same batches: without dropout all is equal but for rounding."""
    told = learnt(train_srp4ctr, tmp_path, url)
    np.testing.assert_allclose(told[2], told[1], rtol=1e-3)
    assert load_artifact(tmp_path / "2").config.kind == "srp4ctr"


def test_several_tasks_are_balanced_by_the_whole_batch(url: str, tmp_path: Path) -> None:
    """Each process has a share of every task's gradient: what two balance is what one does."""
    told = learnt(train_tasks, tmp_path, url)
    np.testing.assert_allclose(np.concatenate(told[2]), np.concatenate(told[1]), rtol=1e-3)


def test_pre_training(store: Engine, url: str, tmp_path: Path) -> None:
    told = learnt(pretrain_fgbert, tmp_path, url, size_that_leaves(0, store))
    np.testing.assert_allclose(told[2], told[1], rtol=1e-3)


def test_pre_training_with_a_last_batch_of_one_window(store: Engine, url: str, tmp_path: Path) -> None:
    """It joins the batch before it, or one of two processes would have nothing."""
    processes.together(2, pretrain_fgbert, url, tmp_path / "out", size_that_leaves(1, store))
    assert load_pretrained(tmp_path / "out").config.kind == "fgbert"


def size_that_leaves(left: int, store: Engine) -> int:
    """A batch size that leaves so many windows over in the first epoch, whose shifts are drawn as pre-training does."""
    with store.connect() as connection:
        data = data_of(read_labelled(connection, DATA))
    sequences = Sequences(data.spec, data.log, np.flatnonzero(data.train), data.table, 12)
    rng = np.random.default_rng((0, 0))
    draw(len(sequences.row), (0.2, 0.2), rng)
    count = len(sequences.cut(rng.integers(0, 12, len(data.log.users))))
    return next(size for size in range(7, count + 1) if count % size == left)


def test_the_commands(url: str, tmp_path: Path) -> None:
    """By torchrun itself; pre-training in two processes is above, without its launcher."""
    sizes = ("--store", url, "--history", 10, "--pack", 5, "--epochs", 1)
    output_of("pretrain", "fgbert", "--width", 16, *sizes, "--out", tmp_path / "fgbert")
    own = ("--pretrained", tmp_path / "fgbert", "--interest", "yes", *sizes, "--out", tmp_path / "srp")
    told = torchrun(2, "-m", "streams", "train", "srp4ctr", *own)
    assert told.count("representations under") == 1
    assert load_artifact(tmp_path / "srp").config.model.interest


def test_each_process_has_a_gpu_of_its_own_or_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", int(rank))
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="there are 2 GPUs, counted from 0"):
        choose_device("cuda:2")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="process 3 has no GPU of its own"):
        choose_device("auto")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
