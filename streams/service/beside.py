"""A process that works beside those that answer: started again where it ends, ended with the service."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import structlog

from interest.errors import InputError
from interest.retry import Backoff

AGAIN = Backoff(first_s=0.2, most_s=30.0)
LIVED_S = 60.0  # a process that lived so long is started again at once
END_S = 10.0  # between SIGTERM and SIGKILL
USELESS = 2  # the exit code that says: another start is of no use
log = structlog.get_logger()


class Beside:
    """One such process, watched by a thread."""

    def __init__(
        self,
        what: str,
        target: Callable[[str], None],
        argument: str,
        *,
        before: Callable[[], None] = lambda: None,
        ended: Callable[[int, float | None], None] = lambda _code, _again_s: None,
    ) -> None:
        """what: its name in messages. target: called with `argument` in a new process. before: each start. ended: told
        of an exit code, and in how many seconds it is started again; None: never, for it said that this is of no use.
        """
        self._what, self._target, self._argument = what, target, argument
        self._before, self._ended = before, ended
        self._stopping = threading.Event()
        self._start()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it: by SIGTERM, and by SIGKILL where that does not help."""
        self._stopping.set()
        self._thread.join()
        self._process.terminate()
        self._process.join(END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _start(self) -> None:
        self._before()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_run, args=(self._what, self._target, self._argument)
        )
        self._process.start()
        self._began = time.monotonic()

    def _watch(self) -> None:
        failures = 0
        while not self._stopping.wait(0.2):
            if self._process.is_alive():
                continue
            code = self._process.exitcode or 0
            failures = 1 if time.monotonic() - self._began > LIVED_S else failures + 1
            again_s = None if code == USELESS else AGAIN.delay_s(failures)
            then = "it is not started again" if again_s is None else f"it is started again in {again_s:g} s"
            log.warning(f"{self._what} has ended ({code}); {then}")
            self._ended(code, again_s)
            if again_s is None or self._stopping.wait(again_s):
                return
            self._start()


def _run(what: str, target: Callable[[str], None], argument: str) -> None:
    """The process."""
    os.setpgrp()  # Ctrl-C is the service's, which ends this
    end_with_the_service()
    try:
        target(argument)
    except InputError as error:
        log.warning(f"{what} cannot work: {error}")
        sys.exit(USELESS)


def end_by_exception() -> None:
    """SIGTERM raises SystemExit from now on: uvicorn raises the signal again once it has drained, and what is beside
    the service is then ended too.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)


def end_with_the_service() -> None:
    """SIGTERM for this process once the service that started it is gone: one that was killed ends nothing itself.

    Nothing is done in the service's own process.
    """
    service = multiprocessing.parent_process()
    if service is None:
        return

    def watch() -> None:
        service.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
