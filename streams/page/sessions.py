"""Who is logged in: the browser's cookie is the access key, encrypted with a secret that stays here.

So a page that is started again, or another process of it, knows the people who are logged in. Whoever has the secret
and a cookie has a key: it comes from the environment, or from a file that nobody else may read.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets as random
import stat
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from interest.errors import InputError
from streams.settings.schema import PageSettings

log = structlog.get_logger()
LASTS_S = 12 * 3600  # from the login; after that the key is asked for again
MOST = 10_000  # people who have logged out that are remembered
SHORTEST = 16  # characters of a secret


class Sessions:
    """Keys of the people who are logged in, by what their cookies hold."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        """secrets: the first encrypts, all are accepted, so that one can follow another. None: one of this process."""
        boxes = [Fernet(base64.urlsafe_b64encode(hashlib.sha256(one.encode()).digest())) for one in secrets]
        self._box = MultiFernet(boxes or [Fernet(Fernet.generate_key())])
        self._ended: OrderedDict[bytes, None] = OrderedDict()

    def begin(self, key: str) -> str:
        return self._box.encrypt_at_time(key.encode(), int(time.time())).decode()

    def key(self, token: str) -> str | None:
        if not token or _digest(token) in self._ended:
            return None
        try:
            return self._box.decrypt_at_time(token.encode(), LASTS_S, int(time.time())).decode()
        except InvalidToken:
            return None

    def end(self, token: str) -> None:
        """Take this cookie for nothing from now on, until this process ends; the browser is told to forget it."""
        self._ended[_digest(token)] = None
        while len(self._ended) > MOST:
            self._ended.popitem(last=False)


def read_secrets(settings: PageSettings, cache: Path) -> list[str]:
    """The setting's, else the file's, one a line; a file that is not named is made in the cache.

    Raises InputError for a file that others may read, or that has no secret worth the name.
    """
    if settings.secret is not None:
        return _checked(settings.secret.value.replace(";", "\n"), "page.secret")
    path = cache / "page.secret" if settings.secret_file is None else Path(settings.secret_file)
    if settings.secret_file is None and not path.exists():
        try:
            _make(path)
        except OSError as error:
            log.warning(
                "people will have to log in again when the page is started again; set page.secret or page.secret_file",
                reason=f"{path}: {error.strerror}",
            )
            return []
    try:
        mode, text = path.stat().st_mode, path.read_text()
    except OSError as error:
        raise InputError(f"the page's secret {path} cannot be read: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise InputError(f"the page's secret {path} may be read by others; run: chmod 600 {path}")
    return _checked(text, str(path))


def _make(path: Path) -> None:
    """Of two pages that start at once, one makes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(random.token_urlsafe(32) + "\n")
    try:
        with suppress(FileExistsError):
            os.link(beside, path)
    finally:
        beside.unlink()


def _checked(text: str, where: str) -> list[str]:
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found or min(map(len, found)) < SHORTEST:
        raise InputError(f"{where}: write secrets of {SHORTEST} characters or more, one a line, the newest first")
    return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
