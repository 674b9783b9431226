"""Opens the store: SQLite (WAL) embedded, PostgreSQL in production; brings its tables to this version's layout."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError

import fusion.tables  # noqa: F401  (both register their tables)
import streams.store.tables  # noqa: F401
from interest.errors import StoreError, StoreMissing
from interest.store.sql import writing
from streams.settings.load import shown_url
from streams.store.disk import disk_problem

MIGRATING = 0x696E7465  # the number of PostgreSQL's lock for it: "inte"
WAIT_S = 5.0  # for a free connection
SERVED = {  # libpq's: seconds to connect, and until a server whose machine is gone is taken for gone
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 10_000,
}
REVISION = "0014"  # the newest file of deploy/migrations/versions; a test compares them


def open_store(url: str, *, create: bool = True, connections: int | None = None) -> Engine:
    """The store's engine, its tables migrated. With `create=False` a SQLite file that is not there is an error.

    connections: of a service, which asks side by side: as many at most, waited for no longer than WAIT_S; and a server
    that does not even refuse is given up after some seconds.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is not a number
        raise StoreError(
            f"{shown_url(url)!r} is not a store URL; write for example sqlite:///interestream.db"
        ) from None
    if "@" in (parsed.host or ""):  # the end of the password, which the driver would print as a host's name
        raise StoreError(f"{shown_url(url)!r}: write an @ in the password as %40, a / as %2F and a : as %3A")
    if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
        file = Path(str(parsed.database))
        if not create and not file.exists():
            raise StoreMissing(
                f"there is no store at {file}; run `interestream replay` first (or `agent`), or name one with --store"
            )
        if not file.parent.is_dir():
            raise StoreError(f"the folder {file.parent} of the store {file.name} does not exist; create it first")
    try:
        server = parsed.get_backend_name() != "sqlite"
        options: dict[str, Any] = {"pool_pre_ping": server}  # asked before use, for a server may have restarted
        if connections is not None:
            options |= {"pool_size": connections, "max_overflow": 0, "pool_timeout": WAIT_S}
            options |= {"connect_args": SERVED} if server else {}
        engine = create_engine(parsed, **options)
    except (ArgumentError, ImportError):
        raise StoreError(
            f"{shown_url(url)!r} names a database that is not supported; "
            "write sqlite:///FILE or postgresql+psycopg://HOST/DATABASE"
        ) from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _tune_sqlite)
        event.listen(engine, "begin", _begin)
    try:
        migrate(engine)
    except StoreError:
        engine.dispose()
        raise
    except DatabaseError as error:  # not a database, locked, unreachable
        engine.dispose()
        raise StoreError(f"cannot open the store {shown_url(url)}: {disk_problem(error) or error.orig}") from error
    return engine


def _tune_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's "begin" event below opens the transactions
    for pragma in (
        "journal_mode=wal",
        "synchronous=full",  # a commit is on disk when it returns; with 20,000 rows a commit it costs 2 %
        "wal_autocheckpoint=25000",  # 100 MB of log before it is folded back: 1.4x the ingest rate of the default
        "cache_size=-65536",  # 64 MiB
        "busy_timeout=30000",
    ):
        connection.execute(f"pragma {pragma}")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("begin immediate" if connection.get_execution_options().get("writing") else "begin")


def migrate(engine: Engine) -> None:
    """Bring the tables to this version's layout; a store that is there already costs one query."""
    with engine.connect() as connection:
        layout = None
        if inspect(connection).has_table("alembic_version"):
            layout = connection.exec_driver_sql("select version_num from alembic_version").scalar()
    if layout == REVISION:
        return
    if layout is not None and layout > REVISION:
        shown = shown_url(engine.url.render_as_string(hide_password=False))
        raise StoreError(
            f"the store {shown} has layout {layout}, this version knows {REVISION} at most; "
            "install the newer interestream, or use another --store"
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_migrations()).replace("%", "%%"))
    with writing(engine) as connection:  # a second process waits here, then finds nothing left to do
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"select pg_advisory_xact_lock({MIGRATING})")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _migrations() -> Path:
    """Beside the package when installed from a wheel, under deploy/ in a checkout."""
    here = Path(__file__).parents[1]
    packaged = here / "_migrations"
    return packaged if packaged.is_dir() else here.parent / "deploy" / "migrations"
