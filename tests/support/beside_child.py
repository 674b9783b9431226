"""A process beside a service, for tests that kill the service: it writes its number into a file, and waits."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from streams.service.beside import PARENT, Beside, end_with_the_service


def child(file: str) -> None:
    end_with_the_service()
    Path(file).write_text(str(os.getpid()))
    time.sleep(600)


def service(file: str, how: str) -> None:
    """Start it as the texts' and the writing process are, or as the page is."""
    if how == "page":
        code = f"from tests.support.beside_child import child; child({file!r})"
        subprocess.Popen([sys.executable, "-c", code], env={**os.environ, PARENT: str(os.getpid())})
    else:
        Beside(child, file)
    time.sleep(600)
