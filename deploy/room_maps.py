"""Writes the maps in the READMEs from the first sentences of rooms and files; `--check` only compares.

A README that has a map holds the line `<!-- map: python deploy/room_maps.py -->` and, after the map, `<!-- /map -->`.
The map of the project names its rooms, the map of a folder the files in them. tests/test_documents.py calls the check.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("interest", "fusion", "streams")
MAPPED = (*LAYERS, "benchmarks", "deploy")  # folders whose README has a map of their files
BEGIN, END = "<!-- map: python deploy/room_maps.py -->\n", "<!-- /map -->"
# what the project's own folders hold that are not packages; a package says it in its __init__.py
FOLDERS = {
    "benchmarks": "What is claimed, measured: a script for each claim, and what it printed",
    "benchmarks/ml1m": "MovieLens-1M: the protocols, the peers, the runs",
    "benchmarks/results": "What the benchmarks printed, as JSON",
    "benchmarks/text": "BAHE against full text: the sample, the systems, the cost",
    "deploy": "The demos, Kafka and vLLM on a bare machine, containers, Kubernetes, dashboards, migrations",
    "deploy/docker": "Images of a worker and of vLLM",
    "deploy/grafana": "The dashboard, and how Grafana finds it",
    "deploy/kafka": "A one-node Kafka on a bare machine",
    "deploy/kubernetes": "Manifests of the workers, vLLM, the topics, settings and autoscaling",
    "deploy/migrations": "How a store of an earlier layout becomes one of today's",
    "deploy/prometheus": "Scraping and alerts",
    "deploy/schemas": "The JSON Schema of every topic's messages",
    "deploy/vllm": "A vLLM server on a bare machine's CPU",
    "tests": "The tests, in the same rooms; tests/laws and tests/faults go through several",
}
FILES = {
    "deploy/alembic.ini": "For migrating a store by hand",
    "deploy/compose.env.example": "Passwords, key and model for Compose: copy it to deploy/.env and set them",
    "deploy/compose.yaml": "The whole system on one machine",
    "deploy/grafana/interestream.json": "The dashboard",
    "deploy/grafana/provisioning/dashboards/interestream.yaml": "Where the dashboard lies",
    "deploy/grafana/provisioning/datasources/prometheus.yaml": "Where Prometheus answers",
    "deploy/kafka/pom.xml": "The jars of Apache Kafka, by Maven",
    "deploy/kubernetes/namespace.yaml": "The namespace of all that follows",
    "deploy/migrations/script.py.mako": "What a new migration looks like",
    "deploy/prometheus/alerts.yml": "Alerts, each with what to do",
    "deploy/prometheus/alerts_test.yml": "The alerts' tests, for promtool",
    "deploy/prometheus/prometheus.yml": "Which workers are scraped",
    "deploy/docker/vllm-cpu.Dockerfile": "vLLM on a CPU",
    "deploy/docker/worker.Dockerfile": "The image of a worker",
}


def listed() -> list[str]:
    """The repository's files, those that are not committed yet included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(name for name in set(found.stdout.splitlines()) if (ROOT / name).is_file())


def first_sentence(name: str) -> str:
    """What a file says of itself; nothing where it says nothing."""
    path = ROOT / name
    if name in FILES:
        return FILES[name]
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        return text.split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".")
    if path.suffix == ".json":
        text = json.loads(path.read_text()).get("description", "")
        return str(text).split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".")
    comments = [line for line in path.read_text().splitlines() if line.startswith("# ")]
    return comments[0].removeprefix("# ").rstrip(".") if comments else ""


def about_room(folder: str, files: list[str]) -> str:
    """What a folder holds: the first sentence of its package, or the one of FOLDERS."""
    package = f"{folder}/__init__.py"
    return first_sentence(package) if package in files and folder not in FOLDERS else FOLDERS.get(folder, "")


def rooms_of_the_project(files: list[str]) -> str:
    """One line a layer and one a room directly inside it."""
    lines = []
    for folder in (*LAYERS, "benchmarks", "deploy", "tests"):
        lines.append(f"{folder + '/':<18} {about_room(folder, files)}")
        if folder in LAYERS:
            inside = {
                str(Path(name).parents[-3])
                for name in files
                if name.startswith(f"{folder}/") and "/" in name[len(folder) + 1 :]
            }
            lines += [f"  {Path(room).name + '/':<16} {about_room(room, files)}" for room in sorted(inside)]
    return fenced(lines)


def files_of(folder: str, files: list[str]) -> str:
    """One line a room of a folder and one a file in it; files without a word about themselves by name alone."""
    inside = [
        name for name in files if name.startswith(f"{folder}/") and Path(name).name not in ("__init__.py", "README.md")
    ]
    rooms = sorted({str(Path(name).parent) for name in inside}, key=lambda room: (room != folder, room))
    lines = []
    for room in rooms:
        if "/results" in room:  # one line: the scripts say what they print
            lines += [f"{Path(room).relative_to(folder)}/".ljust(26) + f" {FOLDERS[room]}"] if room in FOLDERS else []
            continue
        if room != folder:
            lines.append(f"{Path(room).relative_to(folder)}/".ljust(26) + f" {about_room(room, files)}")
        indent = "" if room == folder else "  "
        for name in (name for name in inside if str(Path(name).parent) == room):
            lines.append(f"{indent}{Path(name).name}".ljust(26) + f" {first_sentence(name)}")
    return fenced([line.rstrip() for line in lines])


def fenced(lines: list[str]) -> str:
    return "\n".join(["```", *lines, "```\n"])


def main() -> int:
    """Write the maps that are not as they should be, or name them with --check."""
    files = listed()
    maps = {"README.md": rooms_of_the_project(files)} | {f"{name}/README.md": files_of(name, files) for name in MAPPED}
    stale = []
    for name, map_ in maps.items():
        text = (ROOT / name).read_text()
        before, rest = text.split(BEGIN)
        wanted = before + BEGIN + map_ + END + rest.split(END)[1]
        if wanted != text:
            stale.append(name)
            if "--check" not in sys.argv:
                (ROOT / name).write_text(wanted)
    if "--check" in sys.argv and stale:
        print(f"the maps of {', '.join(stale)} are not what the files say; run: python deploy/room_maps.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
