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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from interest.errors import InputError
from streams.settings.schema import PageSettings

log = structlog.get_logger()
LASTS_S = 12 * 3600  # from the login; after that the key is asked for again
MOST = 20_000  # log-outs that are remembered; half of them when there are more
SHORTEST = 16  # characters of a secret


class Sessions:
    """Keys of the people who are logged in, by what their cookies hold."""

    def __init__(self, secrets: Sequence[str] = (), ended: Path | None = None) -> None:
        """secrets: the first encrypts, all are accepted, so that one can follow another. None: one of this process.

        ended: the file of those who have logged out, so that a page that is started again, or another on this machine,
        knows them; None: this process knows them alone.
        """
        boxes = [Fernet(base64.urlsafe_b64encode(hashlib.sha256(one.encode()).digest())) for one in secrets]
        self._box = MultiFernet(boxes or [Fernet(Fernet.generate_key())])
        self._ended = Ended(ended)

    def begin(self, key: str) -> str:
        return self._box.encrypt_at_time(key.encode(), int(time.time())).decode()

    def key(self, token: str) -> str | None:
        key = self._decrypted(token)
        return None if key is None or self._ended.has(token) else key

    def end(self, token: str) -> None:
        """Take this cookie for nothing from now on; the browser is told to forget it."""
        if self._decrypted(token) is not None:  # who has never logged in fills no file
            self._ended.add(token, self._box.extract_timestamp(token.encode()) + LASTS_S)

    def _decrypted(self, token: str) -> str | None:
        if not token:
            return None
        try:
            return self._box.decrypt_at_time(token.encode(), LASTS_S, int(time.time())).decode()
        except InvalidToken:
            return None


class Ended:
    """Cookies that somebody has logged out of, by their hash, until they would have ended by themselves.

    Its file has a line for each, `hash second`, and is read again when it has changed. It holds no key and no cookie.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._until: dict[str, int] = {}  # by hash, in the order in which they came
        self._seen: tuple[int, int] | None = None  # the file's inode and size when it was read
        self._tidy()

    def has(self, token: str) -> bool:
        self._read()
        return _digest(token) in self._until

    def add(self, token: str, until: int) -> None:
        self._until[_digest(token)] = until
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
                    file.write(f"{_digest(token)} {until}\n")
            except OSError as error:
                log.warning("a log-out is forgotten when the page ends", reason=f"{self._path}: {error.strerror}")
        if len(self._until) > MOST:
            self._tidy()

    def _read(self) -> None:
        if self._path is None:
            return
        try:
            stat_ = self._path.stat()
            if (stat_.st_ino, stat_.st_size) == self._seen:
                return
            text = self._path.read_text(errors="replace")
        except OSError:  # nobody has logged out yet
            return
        self._seen = stat_.st_ino, stat_.st_size
        for line in text.splitlines():
            digest, _, until = line.partition(" ")
            if until.isdecimal():  # else a line that was cut off
                self._until[digest] = int(until)

    def _tidy(self) -> None:
        """Forget those whose time is over, and of more than MOST the oldest, here and in the file."""
        self._read()
        now = time.time()
        left = [(digest, until) for digest, until in self._until.items() if until > now][-MOST // 2 :]
        changed = len(left) < len(self._until)
        self._until = dict(left)
        if self._path is None or not changed:
            return
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with suppress(OSError):
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.writelines(f"{digest} {until}\n" for digest, until in left)
            beside.replace(self._path)


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


def _digest(token: str) -> str:
    """Of what a cookie that was decrypted holds, not of how it is spelt: base64 is read with any sign that is not its
    own left out, so that a cookie that was logged out of could otherwise come back with a dot in it.
    """
    return hashlib.sha256(base64.urlsafe_b64decode(token.encode())).hexdigest()
