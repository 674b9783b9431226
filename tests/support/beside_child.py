"""A process beside a service, for tests that kill the service: it writes its number into a file, and waits."""

from __future__ import annotations

import os
import time
from pathlib import Path

from interest.errors import InputError
from streams.service.beside import Beside


def child(file: str) -> None:
    Path(file).write_text(str(os.getpid()))
    time.sleep(600)


def useless(_file: str) -> None:
    raise InputError("there is no such port")


def service(file: str) -> None:
    Beside("the child", child, file)
    time.sleep(600)
