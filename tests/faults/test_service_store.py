"""The database dies or freezes under the scoring service: what is held is scored and marked, up to a setting."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from streams.resolve.llm import STATISTICS, OpenLlm
from streams.service.learner_state import StateFile
from streams.service.learning import LearnerLoop
from streams.settings.schema import LlmSettings, Settings
from streams.store.engine import open_store
from streams.store.sole import Sole
from tests.support import live_world as live
from tests.support.ctr_world import DAY
from tests.support.own_postgres import Postgres
from tests.support.service_rig import OFFERED, is_problem, of, running, small_service

ROW = {"user_id": "u5", "item_id": "i3", "action": "rate", "at": 229 * DAY, "value": 1.0}
PATIENCE_S = 120.0


async def answered(client: httpx.AsyncClient, *, stale: bool) -> dict:
    """The first score that is stale, or the first that is not."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await client.post("/v1/score", json=OFFERED)
            if found.status_code == 200 and (found.json()["stale_s"] is not None) == stale:
                return found.json()
            await asyncio.sleep(0.1)


async def taken(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await client.post("/v1/behaviors", json=ROW)).status_code != 200:
            await asyncio.sleep(0.1)


def test_a_database_that_is_killed_and_comes_back(own_postgres: Postgres, tmp_path: Path) -> None:
    small_service(own_postgres.url, tmp_path / "model")
    settings = of(Settings(store=own_postgres.url), artifact=str(tmp_path / "model"), poll_s=0.2)

    async def run() -> None:
        async with running(settings) as client, running(of(settings, stale_s=0.0)) as strict:
            before = (await client.post("/v1/score", json=OFFERED)).json()
            assert before["stale_s"] is None
            assert (await strict.post("/v1/score", json=OFFERED)).status_code == 200
            own_postgres.kill()
            stale = await answered(client, stale=True)
            assert (stale["scores"], stale["newest_seq"]) == (before["scores"], before["newest_seq"])
            both = {"requests": [OFFERED, OFFERED | {"item_ids": ["i1"]}]}
            answers = (await client.post("/v1/score/batch", json=both)).json()["answers"]
            assert [one["stale_s"] is None for one in answers] == [False, False]
            unknown = await client.post("/v1/score", json=OFFERED | {"user_id": "u4"})
            for refused in (unknown, await strict.post("/v1/score", json=OFFERED)):
                assert "does not answer" in is_problem(refused, 503)
                assert refused.headers["retry-after"] == "1"
            is_problem(await client.post("/v1/behaviors", json=ROW), 503)
            is_problem(await client.get("/v1/users/u5/interests"), 503)
            ready = await client.get("/ready")
            assert ready.status_code == 200
            assert ready.json()["store_away_s"] is not None
            assert (await strict.get("/ready")).status_code == 503
            own_postgres.start()
            assert (await answered(client, stale=False))["scores"] == before["scores"]
            await taken(client)
            assert (await answered(client, stale=False))["newest_seq"] == before["newest_seq"] + 1
            assert (await client.get("/ready")).json()["store_away_s"] is None

    asyncio.run(run())


def test_a_database_that_does_not_even_refuse(own_postgres: Postgres, tmp_path: Path) -> None:
    """Its processes are frozen: connections stand and nothing comes."""
    small_service(own_postgres.url, tmp_path / "model")
    settings = of(Settings(store=own_postgres.url), artifact=str(tmp_path / "model"), store_s=0.5)

    async def run() -> None:
        async with running(settings) as client:
            before = (await client.post("/v1/score", json=OFFERED)).json()
            frozen = own_postgres.processes()
            for process in frozen:
                process.suspend()
            try:
                stale = await answered(client, stale=True)
                assert stale["scores"] == before["scores"]
                assert (await client.get("/ready")).json()["store_away_s"] is not None
            finally:
                for process in frozen:
                    process.resume()
            assert (await answered(client, stale=False))["scores"] == before["scores"]
            await taken(client)

    asyncio.run(run())


def test_texts_wait_for_a_database_that_is_killed(
    own_postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.service.learner.PLAIN", 10)  # so that something is left to do
    small_service(own_postgres.url, tmp_path / "model")
    engine, file = open_store(own_postgres.url, connections=4), StateFile(tmp_path / "state.json")
    settings = Settings(store=own_postgres.url, llm=LlmSettings(prompt_version="plain-1"))
    nobody = OpenLlm(None, STATISTICS, "plain-1")
    sole = Sole(engine, "learner")
    work = LearnerLoop(engine, settings, file, nobody, live.TextEncoder(), sole)
    work.step()
    written = file.state.written
    assert written
    assert file.state.waiting
    own_postgres.kill()
    work.step()
    assert "the store does not answer" in str(file.state.trouble)
    own_postgres.start()
    for _ in range(100):
        if not file.state.waiting:
            break
        work.step()
    assert (file.state.trouble, file.state.waiting) == (None, 0)
    assert file.state.written > written
    sole.close()
    engine.dispose()
