"""What a process of the service is set up with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from streams.service.server import worker_app
from streams.store.engine import open_store


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
