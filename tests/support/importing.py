"""Imports as a user types them, in this process: the command, its exit code, what it said, what the store then has."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

from typer.testing import CliRunner

from interest.errors import InterestreamError
from streams.cli import app


class Imported(NamedTuple):
    """How a command ended."""

    code: int
    said: str  # everything, the last error too


class Folder:
    """A folder to import in; the store is s.db there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, content: str | bytes) -> Path:
        """A file with this content."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def replay(self, *arguments: object) -> Imported:
        """`interestream replay` without an LLM."""
        words = ["replay", *map(str, arguments), "--no-llm", "--store", f"sqlite:///{self.path / 's.db'}"]
        return self.command(*words)

    def command(self, *words: str) -> Imported:
        outcome = CliRunner().invoke(app, list(words))
        error = outcome.exception
        if error is not None and not isinstance(error, InterestreamError | SystemExit):
            raise error
        code = outcome.exit_code if not isinstance(error, InterestreamError) else 2
        return Imported(code, outcome.output + (f"error: {error}" if isinstance(error, InterestreamError) else ""))

    def rows(self, query: str) -> list[Any]:
        with sqlite3.connect(self.path / "s.db") as connection:
            return connection.execute(query).fetchall()

    def behaviors(self) -> list[Any]:
        """user, item, action, time as text, value; in order."""
        return self.rows(
            "select user_id, item_id, action, strftime('%Y-%m-%d %H:%M:%S', at, 'unixepoch'), value from behaviors "
            "order by user_id, seq"
        )

    def items(self) -> dict[str, tuple[str, list[str], dict[str, str]]]:
        return {
            item: (title, json.loads(categories), json.loads(attributes))
            for item, title, categories, attributes in self.rows(
                "select item_id, title, categories, attributes from items"
            )
        }

    def rejected(self, name: str) -> list[tuple[int, str]]:
        """Line and reason of each row set aside."""
        lines = (self.path / name).read_text().splitlines()
        return [(one["line"], one["reason"]) for one in map(json.loads, lines)]
