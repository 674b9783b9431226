"""Folders of a process: removed in the end, and by the next one where the process was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from streams.temporary import temporary_folder

HOLD = "from streams.temporary import temporary_folder as f\nwith f('t') as d: print(d, flush=True); input()"


@pytest.fixture(autouse=True)
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_folder_is_removed_in_the_end_and_those_that_killed_processes_left(tmp: Path) -> None:
    old = tmp / "interestream-t-old"  # an earlier version's, which may be in use
    old.mkdir()
    other = tmp / "interestream-other-x"
    other.mkdir()
    (other / ".lock").touch()
    outside = tmp / "outside"
    outside.mkdir()
    (outside / ".lock").touch()
    (tmp / "interestream-t-link").symlink_to(outside)
    kept = {old, other, outside, tmp / "interestream-t-link"}
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout is not None
        held = Path(holder.stdout.readline().strip())
        (held / "0.arrow").write_text("much")
        with temporary_folder("t") as folder:
            (folder / "file").touch()
            assert set(tmp.iterdir()) == kept | {held, folder}
        assert set(tmp.iterdir()) == kept | {held}
        os.kill(holder.pid, signal.SIGKILL)
    with temporary_folder("t") as folder:
        assert set(tmp.iterdir()) == kept | {folder}
    assert set(tmp.iterdir()) == kept
