"""A real vLLM server on a bare machine's CPU: its own virtual environment, its life by start, stop, kill and pause.

`make vllm` and the tests use it. The environment is its own because vLLM's requirements and faust-streaming's exclude
each other (click). For a GPU see README.md beside this file: other flags, the same client settings.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VENV = ROOT / ".venv-vllm"
NAME = "smollm2"  # what the served model is called: INTERESTREAM_LLM_MODEL
START_S = 1200.0  # 45 s on two cores once Python has compiled the packages, 75 s the first time; minutes when shared
STOP_S = 20.0

# Why each: README.md
FLAGS = (
    "--dtype=bfloat16",
    "--max-model-len=2048",
    "--max-num-seqs=64",
    "--enable-prefix-caching",
    "--enforce-eager",
    "--generation-config=vllm",
    '--structured-outputs-config={"backend":"xgrammar","disable_any_whitespace":true}',
    "--disable-uvicorn-access-log",
)
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB: 46,000 tokens of SmolLM2, 64 sequences of 700
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",  # the model is a folder; nothing is asked of a hub
    "TOKENIZERS_PARALLELISM": "false",
}


def model_folder() -> Path:
    """The fetched SmolLM2-135M-Instruct."""
    cache = Path(os.environ.get("INTERESTREAM_CACHE") or Path.home() / ".cache" / "interestream").expanduser()
    return cache / "smollm2-135m-instruct"


class Server:
    """One server with its log in `folder`. `port` 0 takes a free one, and keeps it over restarts."""

    def __init__(
        self, folder: Path, port: int = 0, *, model: Path | None = None, name: str = NAME, key: str | None = None
    ) -> None:
        self.folder, self.port, self.name, self.key = folder.absolute(), port or free_port(), name, key
        self.model = model or model_folder()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "vllm.log"

    def start(self, wait_s: float = START_S) -> None:
        """Start the server and wait until it answers."""
        self.spawn()
        self.wait(wait_s)

    def spawn(self) -> None:
        """Start the server; `wait` for it."""
        python = VENV / "bin" / "python"
        if not python.exists():
            raise RuntimeError("vLLM is not installed; run `make vllm-install`")
        if not self.model.is_dir():
            raise RuntimeError(f"there is no model in {self.model}; run `interestream fetch`")
        self.folder.mkdir(parents=True, exist_ok=True)
        # the key by environment: arguments are in everybody's list of processes
        variables = ENVIRONMENT | ({"VLLM_API_KEY": self.key} if self.key else {})
        address = [
            f"--model={self.model}",
            f"--served-model-name={self.name}",
            "--host=127.0.0.1",
            f"--port={self.port}",
        ]
        environment = os.environ | variables
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # three processes read 3,000 modules: compile them once
        environment.pop("OMP_NUM_THREADS", None)  # set for tests that run beside each other; the server takes all cores
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(python), "-m", "vllm.entrypoints.openai.api_server", *address, *FLAGS],
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.folder,
                start_new_session=True,  # the engine and its worker are processes of their own, in the server's group
            )
        (self.folder / "pid").write_text(str(self.process.pid))

    def wait(self, wait_s: float = START_S) -> None:
        """Wait until the server is up. Raises RuntimeError with the end of its log where it is not."""
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and (self.process is None or self.process.poll() is None):
            if answers(self.port):
                return
            time.sleep(0.2)
        self.kill()
        raise RuntimeError(f"vLLM did not start; the end of {self.log}:\n" + tail(self.log))

    def stop(self) -> None:
        """Ask it to end; kill what is left of it."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to all its processes: what a crash leaves."""
        if self.process is not None:
            signal_group(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def pause(self) -> None:
        """It hangs: connections are accepted by the kernel, and nothing answers."""
        assert self.process is not None
        signal_group(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        signal_group(self.process.pid, signal.SIGCONT)


def signal_group(leader: int, number: int) -> None:
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether the server is up and its engine lives."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def install() -> None:
    """Build the virtual environment from constraints.txt, whose list is whole: nothing is resolved."""
    wanted = HERE / "constraints.txt"
    done = VENV / "installed"
    if done.exists() and done.read_text() == wanted.read_text():
        return
    uv = Path(sys.executable).parent / "uv"
    python = VENV / "bin" / "python"
    print("installing vLLM for the CPU", file=sys.stderr)
    if not python.exists():
        subprocess.run([str(uv), "venv", "--quiet", "--python", sys.executable, str(VENV)], check=True)
    # torch is the main environment's version, so uv links its files: the two environments share the disk
    subprocess.run(
        [str(uv), "pip", "install", "--quiet", "--no-deps", "--python", str(python), "-r", str(wanted)], check=True
    )
    done.write_text(wanted.read_text())


def main() -> None:
    """`server.py install|start|stop`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["install", "start", "stop"])
    parser.add_argument("--folder", type=Path, default=Path(".vllm"), help="for the log")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", type=Path, default=model_folder(), help="a folder with a transformers checkpoint")
    parser.add_argument("--name", default=NAME, help="what clients call the model")
    arguments = parser.parse_args()
    pid = arguments.folder / "pid"
    if arguments.action == "install":
        install()
    elif arguments.action == "start":
        if answers(arguments.port):
            print(f"a server answers at http://127.0.0.1:{arguments.port} already")
            return
        server = Server(
            arguments.folder,
            arguments.port,
            model=arguments.model.absolute(),
            name=arguments.name,
            key=os.environ.get("INTERESTREAM_LLM_KEY"),
        )
        print(f"starting vLLM with {arguments.model.name}; its log is {server.log}", file=sys.stderr)
        try:
            server.start()
        except (RuntimeError, KeyboardInterrupt) as error:
            server.kill()
            sys.exit(str(error) or "interrupted")
        print(f"vLLM is up: export INTERESTREAM_LLM_URL={server.url}/v1 INTERESTREAM_LLM_MODEL={server.name}")
    elif not pid.exists():
        print(f"no vLLM was started in {arguments.folder}")
    else:
        end(int(pid.read_text()))
        pid.unlink()
        print("vLLM has stopped")


def end(leader: int) -> None:
    """End a server that another call started, with all its processes."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_S
        try:
            os.killpg(leader, number)
            while time.monotonic() < deadline:
                os.killpg(leader, 0)
                time.sleep(0.1)
        except ProcessLookupError:
            return


if __name__ == "__main__":
    main()
