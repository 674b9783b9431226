"""Access keys: who may read, write, administer. Keys are random; what is kept of one is its SHA-256.

A line of the key file is `name scopes digest`, for example `shop read,write 9f86d0...`; # begins a comment. The file
is read again when it changes, so keys are added, and taken away, without a restart. Instead of a file the setting
serve.keys may have the lines, with semicolons between them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from pathlib import Path

import msgspec
import structlog

from interest.errors import InputError

SCOPES = ("read", "write", "admin")
LOOK_S = 1.0  # between two looks at the file
DIGEST = 64  # hexadecimal digits
log = structlog.get_logger()


class Key(msgspec.Struct, frozen=True):
    """What is kept of a key."""

    name: str
    scopes: frozenset[str]
    digest: bytes


class Keys:
    """The keys in force. Without any, everything is allowed to whoever reaches the service."""

    def __init__(self, text: str | None = None, file: Path | None = None) -> None:
        """Raises InputError, naming the line, for what cannot be read."""
        self._fixed = parse_keys((text or "").replace(";", "\n"), "serve.keys")
        self._file, self._looked_at, self._stamp = file, -LOOK_S, (0, 0)
        self._of_file: tuple[Key, ...] = ()
        if file is not None:
            self._read()

    @property
    def any(self) -> bool:
        """Whether a key is asked for; a file without keys lets nobody in."""
        return self._file is not None or bool(self._fixed)

    def find(self, token: str) -> Key | None:
        """The key that this token is. Every key is compared, in constant time."""
        self._look()
        digest, found = hashlib.sha256(token.encode()).digest(), None
        for key in (*self._fixed, *self._of_file):
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def _look(self) -> None:
        now = time.monotonic()
        if self._file is None or now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        try:
            stat = self._file.stat()
            if (stat.st_mtime_ns, stat.st_size) != self._stamp:
                self._read()
        except (OSError, InputError) as error:
            # half written, or being replaced: those in force stay until it can be read
            log.warning("the access keys stay as they were", reason=str(error))

    def _read(self) -> None:
        assert self._file is not None
        try:
            stat = self._file.stat()
            self._of_file = parse_keys(self._file.read_text(), str(self._file))
        except OSError as error:
            raise InputError(f"the key file {self._file} cannot be read: {error.strerror}") from error
        self._stamp = (stat.st_mtime_ns, stat.st_size)


def parse_keys(text: str, where: str) -> tuple[Key, ...]:
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        scopes = frozenset(words[1].split(",")) if len(words) == 3 else frozenset({""})
        if not scopes <= set(SCOPES) or len(words[2]) != DIGEST or set(words[2].lower()) - set("0123456789abcdef"):
            raise InputError(
                f"{where}, line {number}: write a name, scopes of {', '.join(SCOPES)} with commas, and the key's "
                "SHA-256 in hexadecimal; `interestream serve --new-key NAME` prints such a line"
            )
        keys.append(Key(words[0], scopes, bytes.fromhex(words[2])))
    return tuple(keys)


def new_key(name: str, scopes: str) -> tuple[str, str]:
    """A fresh key and its line for the key file. Raises InputError for a scope that is not one."""
    token = f"ist_{secrets.token_urlsafe(32)}"
    line = f"{name} {scopes} {hashlib.sha256(token.encode()).hexdigest()}"
    parse_keys(line, "--scopes")
    return token, line
