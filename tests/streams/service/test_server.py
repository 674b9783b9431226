"""What a process of the service is set up with."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from interest.errors import InputError
from streams.service.beside import USELESS, Beside
from streams.service.server import worker_app
from streams.store.engine import open_store
from tests.support.beside_child import child, useless
from tests.support.command_line import run

WITHIN_S = 120.0  # on a machine that others fill


def test_process_has_one_thread_for_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On busy cores the threads of one small product wait for each other: a score took three times as long."""
    store = f"sqlite:///{tmp_path / 'store.db'}"
    open_store(store).dispose()
    monkeypatch.setenv("INTERESTREAM_STORE", store)
    before = torch.get_num_threads()
    with threadpool_limits():  # as they were, afterwards
        try:
            np.eye(2) @ np.eye(2)
            worker_app()
            pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
            assert pools
            assert {pool["num_threads"] for pool in pools} == {1}
            assert torch.get_num_threads() == 1
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("option", ["--port", "--page-port"])
def test_an_address_in_use_is_refused_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    for name in ("INTERESTREAM_STORE", "INTERESTREAM_SERVE_PORT"):  # set for the processes to come
        monkeypatch.setenv(name, "")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = ["serve", "--port", "0", "--page", "--store", f"sqlite:///{tmp_path / 'store.db'}", option, port]
        refused, again = run(*given), run(*given)
    assert isinstance(refused.exception, InputError)
    assert f"{option} {port} on 127.0.0.1 cannot be listened on (Address already in use)" in str(refused.exception)
    assert "made a new, empty store: sqlite:///" in refused.output
    assert "made a new" not in again.output


def test_a_page_is_told_an_address_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERESTREAM_PAGE_API", "")
    refused = run("page", "--api", "localhost:8090")
    assert isinstance(refused.exception, InputError)
    assert "page.api is 'localhost:8090': write the service's address" in str(refused.exception)


def test_what_dies_beside_the_service_is_started_again_unless_that_is_of_no_use(tmp_path: Path) -> None:
    file, ends = tmp_path / "number", list[tuple[int, float | None]]()
    running = Beside("the page", child, str(file), ended=lambda *end: ends.append(end))
    try:
        wait_until(lambda: file.exists() and file.read_text())
        first = int(file.read_text())
        psutil.Process(first).kill()
        wait_until(lambda: file.read_text() not in ("", str(first)))
    finally:
        running.stop()
    ((code, again_s),) = ends
    assert code == -9
    assert again_s is not None
    ends.clear()
    refused = Beside("the page", useless, "", ended=lambda *end: ends.append(end))
    wait_until(lambda: ends)
    refused.stop()
    assert ends == [(USELESS, None)]


def wait_until(holds: Callable[[], object]) -> None:
    until = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_what_a_killed_service_started_ends(tmp_path: Path) -> None:
    file = tmp_path / "number"
    code = f"from tests.support.beside_child import service; service({str(file)!r})"
    service = subprocess.Popen([sys.executable, "-c", code])
    try:
        while not (file.exists() and file.read_text()):
            assert service.poll() is None
            time.sleep(0.05)
        child = psutil.Process(int(file.read_text()))
        assert not _has_ended(child)
    finally:
        service.kill()
        service.wait()
    until = time.monotonic() + WITHIN_S
    while not _has_ended(child):
        if time.monotonic() > until:
            child.kill()
            pytest.fail("it goes on without the service")
        time.sleep(0.05)


def _has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # whoever is to wait for it now need not
    except psutil.NoSuchProcess:
        return True
