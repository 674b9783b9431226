"""The LLM's folder in `bank fill`, `train bahe` and `score`: named in any way, moved, another one, broken."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from sqlalchemy import Engine

from fusion.training.artifact import load_artifact
from interest.errors import ArtifactError, InputError
from tests.support.command_line import SMALL_BAHE, output_of, run
from tests.support.ctr_world import fill, random_rows
from tests.support.tiny_llm import save_llm


@pytest.fixture
def url(store: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("INTERESTREAM_CACHE", str(tmp_path / "cache"))
    fill(store, random_rows(11, each=15))
    return store.url.render_as_string(hide_password=False)


def trained(url: str, out: Path, llm: object) -> None:
    output_of("train", "bahe", "--store", url, "--llm", llm, "--out", out, *SMALL_BAHE, "--tune", "lora", "--cut", 2)


def scored(url: str, artifact: Path, *more: object) -> list[float]:
    own = ("--store", url, "--user", "u1", "--items", "i1,i2", "--json")
    lines = output_of("score", artifact, *own, *more).splitlines()
    return [json.loads(line)["score"] for line in lines if line.startswith("{")]


def test_an_artifact_is_scored_from_anywhere_and_its_llm_may_be_elsewhere(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_llm(tmp_path / "here" / "tiny")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    trained(url, tmp_path / "bahe", "tiny")
    assert load_artifact(tmp_path / "bahe").config.model.folder == str(tmp_path / "here" / "tiny")
    assert json.loads((tmp_path / "bahe" / "config.json").read_text())["model"]["folder"].startswith("/")
    here = scored(url, tmp_path / "bahe")
    assert len(here) == 2
    monkeypatch.chdir(tmp_path / "there")
    assert scored(url, tmp_path / "bahe") == here
    (tmp_path / "here" / "tiny").rename(tmp_path / "there" / "moved")
    fetched = tmp_path / "cache" / "models" / "some--tiny"
    shutil.copytree(tmp_path / "there" / "moved", fetched)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("moved", tmp_path / "there" / "moved", "../there/moved", "~/there/moved", "some/tiny"):
        assert scored(url, tmp_path / "bahe", "--llm", name) == here
    save_llm(tmp_path / "other", seed=3)
    for name, kind, told in (
        (None, InputError, "there is no language model at .*here/tiny"),
        ("nowhere", InputError, "there is no language model at .*there/nowhere; .*name one with --llm"),
        (tmp_path / "other", ArtifactError, "other is another language model than tiny@.*weights differ"),
    ):
        options = () if name is None else ("--llm", name)
        result = run("score", tmp_path / "bahe", "--store", url, "--user", "u1", "--items", "i1", *options)
        with pytest.raises(kind, match=told):
            raise result.exception or AssertionError


def cut_off(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def without_a_layer(file: Path) -> None:
    held = {name: value for name, value in load_file(file).items() if "layers.3" not in name}
    save_file(held, file, metadata={"format": "pt"})


def without(key: str) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        own = json.loads(file.read_text())
        del own[key]
        file.write_text(json.dumps(own))

    return change


BREAKS: list[tuple[str, Callable[[Path], object], str]] = [
    ("model.safetensors", cut_off, r"tiny/model\.safetensors is broken, it has [\d,]+ of [\d,]+ bytes; fetch or copy"),
    ("model.safetensors", lambda file: file.write_bytes(b""), r"safetensors is not a file of weights .*; fetch"),
    ("model.safetensors", lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\n"),
     r"tiny/model\.safetensors is not a file of weights .*; fetch or copy"),
    ("model.safetensors", Path.unlink, r"tiny has no weights, .*safetensors; fetch or copy"),
    ("model.safetensors.index.json",
     lambda file: file.write_text('{"weight_map": {"a": "model.safetensors", "b": "part-2.safetensors"}}'),
     r"tiny/part-2\.safetensors is missing; fetch or copy"),
    ("config.json", Path.unlink, r"tiny is not a language model's folder: its config\.json cannot be read .*; fetch"),
    ("config.json", cut_off, r"its config\.json cannot be read .*; fetch"),
    ("config.json", lambda file: file.write_text("[]"), r"its config\.json cannot be read .*; fetch"),
    ("config.json", without("hidden_size"), r"its config\.json lacks 'hidden_size'; fetch"),
]  # fmt: skip
LATER: list[tuple[str, Callable[[Path], object], str]] = [  # found when it is loaded
    ("tokenizer.json", Path.unlink, r"tiny/tokenizer\.json cannot be read .*; fetch or copy"),
    ("tokenizer.json", cut_off, r"tiny/tokenizer\.json cannot be read .*; fetch or copy"),
    ("model.safetensors", without_a_layer, r"tiny cannot be loaded .*lacks the weights layers\.3.*; fetch or copy"),
]


def test_what_is_broken_in_an_llms_folder_is_told_in_a_sentence(url: str, tmp_path: Path) -> None:
    good, llm = save_llm(tmp_path / "good"), tmp_path / "tiny"
    shutil.copytree(good, llm)
    trained(url, tmp_path / "bahe", llm)
    files = sorted(path.name for path in llm.iterdir())
    assert "tokenizer.json" in files
    commands = {
        "fill": ("bank", "fill", "--store", url, "--llm", llm, "--cut", 1),
        "train": ("train", "bahe", "--store", url, "--llm", llm, "--out", tmp_path / "x", *SMALL_BAHE, "--cut", 1),
        "score": ("score", tmp_path / "bahe", "--store", url, "--user", "u1", "--items", "i1"),
    }
    no_tokenizer = ("token*", lambda _: None, r"tiny has no tokenizer, no tokenizer\.json; fetch or copy")
    for name, spoil, told in [*BREAKS, *LATER, no_tokenizer]:
        shutil.rmtree(llm)
        shutil.copytree(good, llm)
        if name == "token*":
            for file in llm.glob("*token*"):
                file.unlink()
        else:
            spoil(llm / name)
        for command, arguments in commands.items():
            error = run(*arguments).exception
            expected = "another language model" if command == "score" and (name, spoil, told) in LATER else told
            with pytest.raises((InputError, ArtifactError), match=expected):
                raise error or AssertionError(f"{command} works without {name}")
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("lacking", "kind", "told"),
    [
        ("folder", InputError, "no text encoder at .*; run `interestream fetch encoder`, or close partitions alone"),
        ("weights", ArtifactError, "no safetensors weights"),
        ("package", InputError, r"transformers is not installed.*interestream\[models\]"),
        ("bank", InputError, "no language model at"),
    ],
)
def test_what_replay_needs_to_fuse_is_asked_for_before_the_log_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str, kind: type[Exception], told: str
) -> None:
    log, encoder = tmp_path / "log.csv", tmp_path / "cache" / "all-minilm-l6-v2"
    log.write_text("user,item,time\nu,i,1700000000\n")
    monkeypatch.setenv("INTERESTREAM_CACHE", str(tmp_path / "cache"))
    if lacking != "folder":
        encoder.mkdir(parents=True)
    if lacking not in ("folder", "weights"):
        (encoder / "model.safetensors").write_bytes(b"weights")
    if lacking == "package":
        monkeypatch.setattr("streams.commands.replay.find_spec", lambda name: None if name == "transformers" else name)
    if lacking == "bank":
        monkeypatch.setenv("INTERESTREAM_BANK_LLM", str(tmp_path / "nowhere"))
    store = tmp_path / "store.db"
    refused = run("replay", log, "--llm", "statistics", "--store", f"sqlite:///{store}")
    assert isinstance(refused.exception, kind)
    assert re.search(told, str(refused.exception))
    assert not store.exists()
    assert run("replay", log, "--no-llm", "--store", f"sqlite:///{store}").exit_code == 0
