"""A full disk, a missing permission, a read-only place: one sentence with the remedy, whatever raised it."""

from __future__ import annotations

import errno
import sqlite3

from sqlalchemy.exc import DBAPIError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_ROOM = "make room and run the same command again: what was finished is kept, it goes on from there"


def disk_problem(error: BaseException) -> str | None:
    """What to say of an error that is about the disk; None of any other."""
    if isinstance(error, DBAPIError):
        return _of_database(error)
    if isinstance(error, OSError):
        return _of_file(error)
    return None


def _of_file(error: OSError) -> str | None:
    where = f" for {error.filename}" if error.filename else ""
    if error.errno in _FULL:
        return f"the disk is full{where}; {_ROOM} (temporary files go where TMPDIR says)"
    if error.errno in _DENIED:
        return (
            f"{error.filename or 'a file'} may not be written here ({error.strerror}); run this where you may write, "
            "or name another place"
        )
    return None


def _of_database(error: DBAPIError) -> str | None:
    """SQLite says it by the name of its error, PostgreSQL by its SQLSTATE."""
    name = str(getattr(error.orig, "sqlite_errorname", None) or "")
    state = str(getattr(error.orig, "sqlstate", None) or "")
    said = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    if name == "SQLITE_FULL" or state in ("53100", "53000"):
        return f"the disk of the store is full ({said}); {_ROOM}"
    if name.startswith("SQLITE_IOERR") and isinstance(error.orig, sqlite3.Error):
        return f"the disk of the store fails or is full ({said}); {_ROOM}"
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")) or state in ("25006", "42501"):
        return (
            f"the store may not be written ({said}): it needs write permission for its file and its folder, or its "
            "tables; grant it, or name another --store"
        )
    return None
