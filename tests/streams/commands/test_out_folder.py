"""`--out` of `train` and `pretrain`: what another kind of run, or anybody else, left there is never written over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import Engine
from torch import nn

from fusion.models.bahe.model import Bahe
from fusion.models.din import Din
from fusion.models.kv.model import Kv
from fusion.models.registry import KINDS
from fusion.models.srp4ctr.model import Srp4Ctr
from fusion.training.checkpoint import NAME as CHECKPOINT
from fusion.training.checkpoint import Checkpoint, Epoch, save_checkpoint
from fusion.training.out_folder import BY_CLASS as CLASSES
from fusion.training.out_folder import check_out
from fusion.training.pretrain import Pretraining
from interest.errors import InputError
from tests.support.command_line import run
from tests.support.ctr_world import fill, random_rows

JOBS = {
    "din": ("train", "din"),
    "srp4ctr": ("train", "srp4ctr"),
    "bahe": ("train", "bahe"),
    "fgbert": ("pretrain", "fgbert"),
}
NAMES = {"fgbert": "pre-trained encoder"} | {kind: f"{kind} artifact" for kind in KINDS}


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch, store: Engine) -> str:
    """The URL of a store whose log may not be read."""

    def read(*_: object, **__: object) -> Any:
        raise AssertionError("the log was read")

    for name in (
        "fusion.features.dataset.read_log",
        "fusion.features.refresh.read_log",
        "streams.resolve.bank.choose_recipe",
    ):
        monkeypatch.setattr(name, read)
    return store.url.render_as_string(hide_password=False)


@pytest.mark.parametrize("kind", JOBS)
def test_what_another_run_left_is_refused_before_the_log_is_read(unread: str, tmp_path: Path, kind: str) -> None:
    for other in JOBS:
        out = tmp_path / other
        out.mkdir()
        (out / "config.json").write_text(f'{{"kind": "{other}"}}')
        error = run(*JOBS[kind], "--store", unread, "--out", out).exception
        if other == kind:
            assert isinstance(error, AssertionError)  # goes on, and reads the log
            continue
        assert isinstance(error, InputError)
        assert str(error).startswith(f"--out {out} holds a {NAMES[other]}, not a {NAMES[kind]}; give another folder")


@pytest.mark.parametrize("kind", JOBS)
def test_what_is_nobodys_run_is_refused_before_the_log_is_read(unread: str, tmp_path: Path, kind: str) -> None:
    job = (*JOBS[kind], "--store", unread, "--out")
    out = tmp_path / "llm"
    out.mkdir()
    (out / "config.json").write_text('{"model_type": "llama"}')
    for name in ("notes.txt", "pytorch_model.bin", "tokenizer.json"):
        (out / name).touch()
    (out / "model.safetensors").touch()
    error = run(*job, out).exception
    assert isinstance(error, InputError)
    assert f"holds config.json, notes.txt, pytorch_model.bin and 1 more, not a {NAMES[kind]}; give a new" in str(error)
    error = run(*job, out / "notes.txt").exception
    assert isinstance(error, InputError)
    assert "notes.txt is a file; give a folder" in str(error)
    assert "notes.txt is a file" in str(run(*job, out / "notes.txt" / "deeper").exception)
    for new in (tmp_path / "new" / "deep", tmp_path / "empty", tmp_path / "hidden"):
        if new.name != "deep":
            new.mkdir()
        if new.name == "hidden":
            (new / ".gitkeep").touch()
        assert isinstance(run(*job, new).exception, AssertionError)  # goes on


def interrupted(folder: Path, model: type[nn.Module]) -> None:
    """What a run of such a model leaves after its first epoch."""
    own = type(model.__name__, (nn.Linear,), {})(2, 2)
    save_checkpoint(folder, Checkpoint[Epoch](own, torch.optim.Adam(own.parameters()), {}, {}), "one")


def test_an_interrupted_run_is_continued_by_its_own_kind_alone(tmp_path: Path) -> None:
    models = {"din": Din, "srp4ctr": Srp4Ctr, "bahe": Bahe, "kv": Kv, "fgbert": Pretraining}
    assert {model.__name__: kind for kind, model in models.items()} == CLASSES
    for kind, model in models.items():
        out = tmp_path / kind
        interrupted(out, model)
        (out / (CHECKPOINT + ".partial")).touch()
        (out / ".partial").mkdir()
        for other in models:
            if other == kind:
                check_out(out, other)
                continue
            with pytest.raises(InputError, match=f"holds an interrupted run of a {NAMES[kind]}, not a {NAMES[other]}"):
                check_out(out, other)
    (tmp_path / "din" / "statistics.safetensors").touch()  # killed while it was completed
    check_out(tmp_path / "din", "din")
    (tmp_path / "din" / CHECKPOINT).write_bytes(b"torn")  # says nothing; `load_checkpoint` says what to do
    check_out(tmp_path / "din", "din")


def test_a_folder_in_which_nothing_can_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match="nothing can be written"):
        check_out(tmp_path / "deep" / "deeper", "din")


def test_the_same_kind_is_replaced(store: Engine, tmp_path: Path) -> None:
    """And the encoder that was pre-trained is whole after it was asked to give way."""
    fill(store, random_rows(11))
    url = store.url.render_as_string(hide_password=False)
    own = ("--store", url, "--history", 10, "--pack", 5, "--epochs", 1)
    for _ in range(2):
        assert run("pretrain", "fgbert", *own, "--width", 8, "--out", tmp_path / "fgbert").exit_code == 0
    kept = {path.name: path.read_bytes() for path in (tmp_path / "fgbert").iterdir()}
    result = run("train", "srp4ctr", *own, "--out", tmp_path / "fgbert")
    assert "holds a pre-trained encoder, not a srp4ctr artifact" in str(result.exception)
    assert {path.name: path.read_bytes() for path in (tmp_path / "fgbert").iterdir()} == kept


@pytest.mark.parametrize("command", [("adapt", "--llm", "x"), ("tune", "encoder"), ("worth", "--no-plot")])
def test_a_folder_that_cannot_be_is_told_before_anything_is_read(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = f"sqlite:///{tmp_path / 'none.db'}"  # there is none: whoever opens it says so
    error = run(*command, "--store", store, "--out", tmp_path / "file" / "out").exception
    assert isinstance(error, InputError)
    assert "file is a file; give a folder" in str(error)
