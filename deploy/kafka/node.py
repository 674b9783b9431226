"""A one-node Apache Kafka (KRaft) on a bare machine: its jars by Maven, its life by start, stop and kill.

`make kafka` and the tests use it; it needs Java 17 and Maven, and nothing of the project. For production see the
README: this node keeps one copy of everything.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

HERE = Path(__file__).parent
START_S = 240.0  # a few seconds on a quiet machine
STOP_S = 20.0


def jars() -> Path:
    """The folder of Kafka's jars, fetched once into INTERESTREAM_CACHE/kafka."""
    cache = Path(os.environ.get("INTERESTREAM_CACHE") or Path.home() / ".cache" / "interestream").expanduser()
    folder = cache / "kafka"
    if (folder / "complete").exists():
        return folder
    if not shutil.which("mvn") or not shutil.which("java"):
        sys.exit("Kafka needs Java 17 and Maven: install the packages openjdk-17-jre-headless and maven")
    print("fetching Apache Kafka's jars", file=sys.stderr)
    command = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
    subprocess.run([*command, f"-DoutputDirectory={folder}", "-DincludeScope=runtime"], check=True)
    (folder / "complete").touch()
    return folder


class Node:
    """One broker with its data in `folder`. `port` 0 takes a free one, and keeps it over restarts."""

    def __init__(self, folder: Path, port: int = 0, *, heap: str = "512m", brief: bool = False) -> None:
        self.folder, self.port, self.heap = folder.absolute(), port or free_port(), heap
        self.brief = brief  # it lives for minutes: the JVM compiles quickly rather than well
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "node.log"

    def start(self) -> None:
        """Format the folder if it is new, start the broker, wait until it answers."""
        properties = self.folder / "server.properties"
        if not (self.folder / "data").is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            text = (HERE / "server.properties").read_text()
            for name, value in {"port": self.port, "controller": free_port(), "folder": self.folder}.items():
                text = text.replace("{" + name + "}", str(value))
            properties.write_text(text)
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")  # as `random-uuid` makes one
            self._java("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(properties))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command(brief=self.brief), "kafka.Kafka", str(properties)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.folder / "pid").write_text(str(self.process.pid))
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if answers(self.port):
                return
            time.sleep(0.1)
        self.kill()
        raise RuntimeError(f"Kafka did not start; the end of {self.log}:\n" + tail(self.log))

    def stop(self) -> None:
        """Ask it to close its logs and end; kill it if it does not."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL: what a crash leaves."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _command(self, *, brief: bool) -> list[str]:
        options = [f"-Xmx{self.heap}", "-Xms256m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        options += ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"] if brief else ["-XX:+UseG1GC"]
        return ["java", *options, "-cp", f"{jars()}/*"]

    def _java(self, *arguments: str) -> str:
        done = subprocess.run([*self._command(brief=True), *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether the broker speaks Kafka there: the answer to an ApiVersions request (key 18, version 0)."""
    request = b"\x00\x12\x00\x00\x00\x00\x00\x01\xff\xff"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.settimeout(5)
            connection.sendall(len(request).to_bytes(4, "big") + request)
            return len(connection.recv(4)) == 4
    except OSError:
        return False


def tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def main() -> None:
    """`node.py start|stop --folder FOLDER --port PORT`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["start", "stop", "fetch"])
    parser.add_argument("--folder", type=Path, default=Path(".kafka"))
    parser.add_argument("--port", type=int, default=9092)
    arguments = parser.parse_args()
    pid = arguments.folder / "pid"
    if arguments.action == "fetch":
        jars()
    elif arguments.action == "start":
        if answers(arguments.port):
            print(f"Kafka answers at 127.0.0.1:{arguments.port} already")
            return
        Node(arguments.folder, arguments.port).start()
        print(f"Kafka is up: export INTERESTREAM_KAFKA=127.0.0.1:{arguments.port}")
    elif not pid.exists():
        print(f"no Kafka was started in {arguments.folder}")
    else:
        stop(int(pid.read_text()))
        pid.unlink()
        print(f"Kafka has stopped; its data stays in {arguments.folder}")


def stop(process: int) -> None:
    """End a node that another call started."""
    for number, patience in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
        deadline = time.monotonic() + patience
        try:
            os.kill(process, number)
            while time.monotonic() < deadline:
                os.kill(process, 0)
                time.sleep(0.1)
        except ProcessLookupError:
            return


if __name__ == "__main__":
    main()
