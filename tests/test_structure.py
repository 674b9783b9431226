"""The project as a whole: migrations make the tables of the code, and lower layers import nothing heavy."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from interest.store.tables import metadata
from streams.store.engine import REVISION, _migrations

ROOT = Path(__file__).parent.parent


def test_migrations_make_the_tables_the_code_knows(store: Engine) -> None:
    with store.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    assert ScriptDirectory(str(_migrations())).get_current_head() == REVISION


def test_lower_layers_import_no_torch_and_no_kafka() -> None:
    code = (
        "import sys, pkgutil, importlib, interest\n"
        "for module in pkgutil.iter_modules(interest.__path__): importlib.import_module('interest.' + module.name)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'kafka', 'aiokafka', 'faust')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_tests_mirror_the_rooms() -> None:
    """A room's tests are found under its own name, and what they share is in tests/support."""
    layers = ("interest", "fusion", "streams")
    folders = [
        folder for layer in layers for folder in (ROOT / "tests" / layer).rglob("*/") if any(folder.glob("*.py"))
    ]
    rooms = [folder.relative_to(ROOT / "tests") for folder in folders]
    assert len(rooms) > 20
    assert [str(room) for room in rooms if not any((ROOT / room).glob("*.py"))] == []


def test_no_test_stands_on_another() -> None:
    """What two tests share is imported from tests.support, also by the scripts that tests start."""
    shared = re.compile(r"^\s*(?:from|import) tests\.(?!support\b)", re.MULTILINE)
    files = [file for folder in ("tests", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    assert [str(file.relative_to(ROOT)) for file in files if shared.search(file.read_text())] == []
