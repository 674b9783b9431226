"""Static membership of consumer groups (KIP-345): a worker that starts again on the same machine takes over the
partitions of the one that died, where the group would wait for a session time-out first.

A member's name says the machine, the stage and a number. The number is the first one whose lock file is free: the
system frees the lock of a process however it ends, and a process that lives, frozen or not, keeps it. So no worker is
ever given the name of a live one. Names hold a random part that lies beside the lock files: two machines or containers
that are called alike have names of their own, and a container that is made anew is a new member.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import socket
import tempfile
from pathlib import Path

import structlog

from streams.kafka.clients import admin, group_of
from streams.settings.schema import KafkaSettings

MAX_HOST = 80  # characters of the machine's name; Kafka takes 249 for the whole
log = structlog.get_logger()


class Membership:
    """One worker's name in the group of a stage, held from `claim` to `leave` or the end of the process."""

    def __init__(self, settings: KafkaSettings, stage: str, folder: Path | None = None) -> None:
        self._settings, self._stage = settings, stage
        self._folder = folder or Path(tempfile.gettempdir()) / f"interestream-{os.getuid()}" / "members"
        self._lock: int | None = None  # a descriptor: nothing but `leave` and the process's end closes it
        self.instance_id: str | None = None

    def claim(self) -> str | None:
        """The member's name; claimed at the first call. None, said in the log, where no file can be locked: the worker
        is then an ordinary member, whose death the group notices after `kafka.session_timeout_s`.
        """
        if self.instance_id is None:
            try:
                self._claim()
            except OSError as error:
                log.warning("not a static member of its group", stage=self._stage, error=str(error))
        return self.instance_id

    def _claim(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        installation = f"{self._settings.brokers} {group_of(self._settings, self._stage)}"
        group = hashlib.sha256(installation.encode()).hexdigest()[:12]
        namespace = _namespace(self._folder)
        number = 0
        while True:
            lock = os.open(self._folder / f"{group}-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                number += 1
                continue
            self._lock = lock
            host = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in socket.gethostname())
            self.instance_id = f"{host[:MAX_HOST]}-{namespace}-{self._stage}-{number}"
            return

    def leave(self) -> None:
        """Tell the group that this member is gone for good, after its consumer has stopped: others take over at once.
        Without a broker nothing is said, and the group notices after a session time-out.
        """
        if self.instance_id is not None:
            from kafka.admin import MemberToRemove

            try:
                with admin(self._settings) as client:
                    group = group_of(self._settings, self._stage)
                    client.remove_group_members(group, [MemberToRemove(group_instance_id=self.instance_id)])
            except Exception as error:  # whatever a client says: the worker is on its way out
                log.info("did not leave its group", stage=self._stage, error=f"{type(error).__name__}: {error}")
        if self._lock is not None:
            os.close(self._lock)
        self._lock = self.instance_id = None


def _namespace(folder: Path) -> str:
    """The random part of names, written once by whoever comes first."""
    file = folder / "namespace"
    draft = folder / f"namespace.{os.getpid()}.{secrets.token_hex(4)}"
    if not file.exists():
        draft.write_text(secrets.token_hex(6))
        try:
            os.link(draft, file)  # fails where another process was quicker
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return file.read_text()
