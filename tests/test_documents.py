"""The documents say what is there: maps, files, commands, options, settings and make targets that they name."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from streams.cli import app
from streams.settings.load import shown_settings

ROOT = Path(__file__).parent.parent
LISTED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
FILES = sorted(name for name in LISTED.stdout.splitlines() if (ROOT / name).is_file())
DOCUMENTS = [name for name in FILES if name.endswith(".md")]
SUFFIXES = (".py", ".md", ".sh", ".toml", ".yaml", ".yml", ".xml", ".json", ".txt", ".ini")
ELSEWHERE = ("../shared", "runs/", "deploy/.env")  # what a reader has or makes
COMMANDS = typer.main.get_command(app)


def snippets(name: str) -> Iterator[str]:
    """What a document sets as code: words between backticks, and the lines of fenced blocks; without its map."""
    text = re.sub(r"<!-- map: .*?<!-- /map -->", "", (ROOT / name).read_text(), flags=re.DOTALL)
    fenced = r"^```.*?^```"
    for block in re.findall(fenced, text, re.DOTALL | re.MULTILINE):
        yield from block.splitlines()[1:-1]
    for snippet in re.findall(r"`([^`]+)`", re.sub(fenced, "", text, flags=re.DOTALL | re.MULTILINE)):
        yield " ".join(snippet.split())


def paths_in(snippet: str) -> Iterator[str]:
    """The words of a snippet that name a file or a folder of this repository."""
    for word in (word.strip(",;:()'\"") for word in snippet.split()):
        if not re.fullmatch(r"[\w.*/-]+", word) or word.startswith(("/", "-", *ELSEWHERE)):
            continue
        top = word.split("/")[0]
        if ("/" in word and (ROOT / top).is_dir()) or (word.endswith(SUFFIXES) and snippet == word):
            yield word


def exists(path: str, document: Path) -> bool:
    """Whether a path is one of the repository, seen from its root or from the document; a bare name, anywhere in it."""
    if "/" not in path:
        return any(fnmatch(Path(name).name, path) for name in FILES)
    place = path.split("NAME", maxsplit=1)[0].rstrip("/")  # NAME stands for what a reader is to write
    return any(any(home.glob(place)) for home in (ROOT, document.parent))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_a_document_names_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    named = [word for snippet in snippets(name) for word in paths_in(snippet)]
    linked = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [path for path in named if not exists(path, ROOT / name)]
    missing += [link for link in linked if not ((ROOT / name).parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_anchors_that_a_document_links_to_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    headings = {
        re.sub(r"[^\w -]", "", line.lower()).strip().replace(" ", "-") for line in re.findall(r"^#+ (.+)$", text, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) - headings == set()


def invocations(name: str) -> Iterator[list[str]]:
    for snippet in snippets(name):
        for command in re.split(r"&&|\||#|;|\$\(", snippet):
            words = command.split()
            if words[:1] == ["interestream"] and len(words) > 1 and not words[1].startswith("-"):
                yield words[1:]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_and_options_that_a_document_names_exist(name: str) -> None:
    wrong = []
    for words in invocations(name):
        command = COMMANDS
        rest = list(words)
        while rest and isinstance(command, TyperGroup) and not rest[0].startswith("-") and rest[0] != rest[0].upper():
            command = command.commands.get(rest.pop(0))
        if command is None:
            wrong.append(" ".join(words))
            continue
        # a placeholder such as MODEL stands for any of a group's commands
        meant = list(command.commands.values()) if isinstance(command, TyperGroup) else [command]
        known = {option for each in meant for one in each.params for option in (*one.opts, *one.secondary_opts)}
        wrong += [" ".join(words) for word in rest if word.startswith("--") and word.split("=")[0] not in known]
    assert wrong == []


def test_every_command_is_in_the_readme() -> None:
    assert isinstance(COMMANDS, TyperGroup)
    readme = (ROOT / "README.md").read_text()
    assert len(COMMANDS.commands) > 5
    assert [name for name in COMMANDS.commands if f"`interestream {name}" not in readme] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_settings_and_make_targets_that_a_document_names_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    settings = {one.variable for one in shown_settings(environ={})} | {"INTERESTREAM_CONFIG"}
    assert set(re.findall(r"INTERESTREAM_[A-Z_]*[A-Z]", text)) - settings == set()
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = [target for snippet in snippets(name) for target in re.findall(r"\bmake ((?:[a-z][\w-]* ?)+)", snippet)]
    assert {target for targets_ in named for target in targets_.split()} - targets == set()


def test_contributing_takes_five_steps_each_and_names_what_is_in_the_files() -> None:
    sections = (ROOT / "CONTRIBUTING.md").read_text().split("## Adding a")[1:]
    assert len(sections) == 5  # a model, a policy, an LLM backend, a topic, a log format
    for section in sections:
        steps = re.split(r"^\d\. ", section, flags=re.MULTILINE)[1:]
        assert len(steps) == 5, section
        for step in steps:
            code = re.findall(r"`([^`]+)`", step)
            named = [word for word in code if re.fullmatch(r"([A-Z][a-z]+)+", word)]  # a class
            texts = [(ROOT / path).read_text() for path in code if (ROOT / path).is_file()]
            assert [word for word in named if not any(word in text for text in texts)] == [], step
        assert sum(any(exists(word, ROOT / "x") for word in re.findall(r"`([^`]+)`", step)) for step in steps) >= 4


def remarks(name: str) -> Iterator[str]:
    """A Python file's comments and docstrings."""
    source = (ROOT / name).read_text()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def is_module_or_name(dotted: str) -> bool:
    """Whether `fusion.models.din` is a module, or `fusion.models.din.Din` stands in one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        module = ROOT.joinpath(*parts[:length])
        file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
        if file.is_file():
            return length == len(parts) or re.search(rf"\b{parts[length]}\b", file.read_text()) is not None
    return False


@pytest.mark.parametrize("top", ["interest", "fusion", "streams", "benchmarks", "deploy", "tests"])
def test_files_and_modules_that_comments_name_exist(top: str) -> None:
    wrong = []
    for name in (name for name in FILES if name.startswith(f"{top}/") and name.endswith(".py")):
        for remark in remarks(name):
            files = re.findall(r"(?<![\w./~-])(?:interest|fusion|streams|benchmarks|deploy|tests)/[\w./*-]*\w", remark)
            modules = re.findall(r"(?<![\w./-])(?:interest|fusion|streams)(?:\.\w+)+(?![\w(])", remark)
            wrong += [f"{name}: {file}" for file in files if not any(ROOT.glob(file))]
            wrong += [f"{name}: {module}" for module in modules if not is_module_or_name(module)]
    assert wrong == []


def test_the_readme_is_short_and_names_what_a_newcomer_types() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 200
    for command in ("make demo", "make test", "make demo-stream", "make kafka", "make vllm"):
        assert command in readme
    assert "make lint" in (ROOT / "CONTRIBUTING.md").read_text()


def test_the_maps_are_true() -> None:
    """Mend with: python deploy/room_maps.py"""
    checked = subprocess.run(
        [sys.executable, "deploy/room_maps.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout) == (0, "")


def test_a_map_that_is_stale_is_noticed(tmp_path: Path) -> None:
    """The check would be worth nothing if it passed whatever the files say."""
    for name in (
        "README.md",
        *(f"{folder}/README.md" for folder in ("interest", "fusion", "streams", "benchmarks", "deploy")),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    script = tmp_path / "deploy" / "room_maps.py"
    script.write_text((ROOT / "deploy" / "room_maps.py").read_text())
    (tmp_path / "interest" / "new.py").write_text('"""A file that no map has."""\n')
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, env=environment, check=True)
    run = [sys.executable, str(script)]
    checked = subprocess.run([*run, "--check"], env=environment, capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert "interest/README.md" in checked.stdout
    subprocess.run(run, env=environment, check=True)
    assert "A file that no map has" in (tmp_path / "interest" / "README.md").read_text()
    assert subprocess.run([*run, "--check"], env=environment, check=False).returncode == 0
