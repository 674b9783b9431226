"""Writes the README's file tree from the files' own first lines; `--check` only compares (a test calls it)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- tree: python deploy/readme_tree.py -->\n", "<!-- /tree -->"
OWN_WORDS = {
    ".gitignore": "what is made here and not kept",
    "LICENSE": "Apache-2.0",
    "README.md": "this page",
    "constraints.txt": "the versions of every package that this was tested with",
    "pyproject.toml": "the distribution, its extras, and the settings of pytest, ruff, mypy and import-linter",
    "deploy/alembic.ini": "for migrating a store by hand",
    "deploy/migrations/script.py.mako": "what a new migration looks like",
}


def files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(name for name in listed.stdout.splitlines() if (ROOT / name).is_file())


def line(name: str) -> str:
    """The first sentence of a file about itself."""
    path = ROOT / name
    if name in OWN_WORDS:
        return OWN_WORDS[name]
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        return text.split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".")
    if path.suffix == ".json" and path.parent.name == "results":
        return f"what benchmarks/{path.stem}.py printed"
    first = [text for text in path.read_text().splitlines() if text.startswith("# ")]
    return first[0].removeprefix("# ").rstrip(".") if first else ""


def tree() -> str:
    out, folder = ["```"], None
    for name in sorted(files(), key=lambda name: (name.count("/") > 0, str(Path(name).parent), name)):
        parent = str(Path(name).parent)
        if parent not in (folder, "."):
            runs = (ROOT / parent).parent == RUNS
            out.append(f"{parent}/" + f"  what is kept of each run of benchmarks/{Path(parent).name}.py" * runs)
        folder = parent
        if (ROOT / parent).parent == RUNS:
            continue
        indent = "" if parent == "." else "  "
        about = line(name)
        if not about and not (ROOT / name).read_text().strip():
            continue
        out.append(f"{indent}{Path(name).name:<{26 - len(indent)}} {about}".rstrip())
    return "\n".join([*out, "```\n"])


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    wanted = before + BEGIN + tree() + END + after
    if "--check" in sys.argv:
        return int(wanted != text)
    readme.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
