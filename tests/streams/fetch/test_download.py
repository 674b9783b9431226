"""Fetching: whole or not at all, whatever comes in between. Real pip, real locks, real kills; the wheels are tiny."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interest.errors import InputError
from streams.fetch.download import MANIFEST, fetch, is_whole
from streams.fetch.hub import fetch_model
from streams.fetch.sources import Source
from tests.support.parcels import CONTENT, nothing, parcel


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index that is a folder."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_wheel_becomes_a_folder_once(index, tmp_path):
    source, folder = parcel(index), tmp_path / "cache" / "parcel"
    lines: list[str] = []
    kilobytes: list[int] = []
    assert fetch(source, folder, say=lines.append, advance=kilobytes.append)
    made = contents(folder)
    assert made["a.txt"] == CONTENT["parcel/data/a.txt"]
    assert made["deep/b.txt"] == b"beta\n"
    assert made["NOTE.txt"] == b"free to use\n"
    assert sum(kilobytes) == source.wheel.size // 1000
    assert any("downloading" in line for line in lines)
    assert not list((tmp_path / "cache" / "wheels").iterdir())  # used up

    again: list[str] = []
    assert not fetch(source, folder, say=again.append, advance=nothing)
    assert again == []
    assert contents(folder) == made


def test_a_damaged_folder_is_made_anew(index, tmp_path):
    source, folder = parcel(index), tmp_path / "parcel"
    fetch(source, folder, say=nothing, advance=nothing)
    whole = contents(folder)
    (folder / "a.txt").write_bytes(b"torn")
    assert not is_whole(folder, "parcel==1.0")
    assert fetch(source, folder, say=nothing, advance=nothing)
    assert contents(folder) == whole
    (folder / MANIFEST).write_text("{")
    assert fetch(source, folder, say=nothing, advance=nothing)
    assert contents(folder) == whole


def test_another_file_under_the_same_name_is_refused(index, tmp_path):
    source = parcel(index)
    parcel(index, {"parcel/data/a.txt": b"evil"})
    with pytest.raises(InputError, match="is not the file this version was made for"):
        fetch(source, tmp_path / "parcel", say=nothing, advance=nothing)
    assert not (tmp_path / "parcel").exists()


def test_no_index_says_what_to_do_and_the_copied_wheel_then_works(index, tmp_path, monkeypatch):
    source, folder = parcel(index), tmp_path / "parcel"
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"(?s)pip download --no-deps parcel==1\.0.*copy parcel-1\.0-py3"):
        fetch(source, folder, say=nothing, advance=nothing)
    (index / source.wheel.filename).rename(tmp_path / "wheels" / source.wheel.filename)
    assert fetch(source, folder, say=nothing, advance=nothing)
    assert contents(folder)["deep/b.txt"] == b"beta\n"


def test_a_cut_copy_of_the_wheel_is_downloaded_again(index, tmp_path):
    source = parcel(index)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / source.wheel.filename).write_bytes(b"PK half of it")
    assert fetch(source, tmp_path / "parcel", say=nothing, advance=nothing)


def test_a_full_disk_and_a_folder_that_cannot_be_written(index, tmp_path):
    source = parcel(index)
    huge = Source(name="huge", wheel=source.wheel, strip=source.strip, disk=10**18)
    with pytest.raises(InputError, match=r"MB free and parcel needs 1,000,000,000,000 MB.*INTERESTREAM_CACHE"):
        fetch(huge, tmp_path / "parcel", say=nothing, advance=nothing)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="set INTERESTREAM_CACHE to a folder that you may write to"):
        fetch(source, tmp_path / "file" / "parcel", say=nothing, advance=nothing)


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.support.parcels import parcel, nothing
from streams.fetch.download import fetch
root, kill_at = Path(sys.argv[1]), int(sys.argv[2])
lines = 0
def say(line):
    global lines
    lines += 1
    if lines == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
fetch(parcel(root / "index"), root / "cache" / "parcel", say=say, advance=nothing)
"""


def child(root: Path, kill_at: int) -> subprocess.Popen[bytes]:
    script = CHILD.format(tests=str(Path(__file__).parents[3]))
    return subprocess.Popen([sys.executable, "-c", script, str(root), str(kill_at)])


def test_killed_at_every_step_and_run_again(index, tmp_path):
    killed = 0
    for kill_at in range(1, 10):
        worker = child(tmp_path, kill_at)
        if worker.wait() == 0:
            break
        assert worker.returncode == -signal.SIGKILL
        killed += 1
        # whole or not there
        folder = tmp_path / "cache" / "parcel"
        assert not folder.exists() or is_whole(folder, "parcel==1.0")
        if folder.exists():
            break
    assert killed >= 3
    source = parcel(index)
    fetch(source, tmp_path / "cache" / "parcel", say=nothing, advance=nothing)
    assert contents(tmp_path / "cache" / "parcel")["a.txt"] == CONTENT["parcel/data/a.txt"]
    left = {entry.name for entry in (tmp_path / "cache").iterdir()}
    assert left == {"parcel", "wheels", ".parcel.lock"}


def test_killed_while_pip_is_downloading(index, tmp_path):
    worker = child(tmp_path, 0)
    while worker.poll() is None and not list((tmp_path / "cache").glob(".parcel-*/pip")):
        time.sleep(0.001)
    worker.kill()
    worker.wait()
    fetch(parcel(index), tmp_path / "cache" / "parcel", say=nothing, advance=nothing)
    assert is_whole(tmp_path / "cache" / "parcel", "parcel==1.0")


def test_two_fetches_at_once_give_one_whole_folder(index, tmp_path):
    parcel(index)
    workers = [child(tmp_path, 0) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert is_whole(tmp_path / "cache" / "parcel", "parcel==1.0")


def test_a_model_hub_that_does_not_answer(tmp_path):
    pytest.importorskip("huggingface_hub")
    script = (
        "import sys; from pathlib import Path; from streams.fetch.hub import fetch_model\n"
        "fetch_model('some/model', Path(sys.argv[1]) / 'm', say=print)"
    )
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DISABLE_TELEMETRY": "1"}
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert "InputError: cannot download some/model: no model hub answers" in run.stderr
    assert "give its path" in run.stderr


@pytest.mark.parametrize("name", ["", "../etc", "a/b/c", "-x y"])
def test_what_is_not_a_model_name(tmp_path, name):
    with pytest.raises(InputError, match="is not a model name"):
        fetch_model(name, tmp_path / "m", say=nothing)
