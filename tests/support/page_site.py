"""The page as a browser meets it: the service in a thread with access keys, the page as its own process, Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from sqlalchemy import Engine

from deploy.kafka.node import free_port
from fusion.features.counts import ItemStatistics
from fusion.training.artifact import save_artifact
from interest.store.sql import upsert, writing
from interest.store.tables import interests
from interest.types import Behavior
from interest.write.backfill import learn
from interest.write.backlog import Plan
from interest.write.prompts import Style
from streams.client import Client
from streams.service.access import new_key
from streams.service.app import make_app
from streams.service.server import make_service
from streams.settings.schema import IngestSettings, ServeSettings, Settings
from streams.store.engine import open_store
from tests.support import live_world as live
from tests.support.ctr_world import DAY

ROOT = Path(__file__).parents[2]
AT = 230 * DAY
STARTS_S = 240.0  # at most, on a machine that others fill
PER_PARTITION = 8
HOSTILE = {
    "evil1": "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">",
    "evil2": "\u202eright-to-left\u202e \u2067mark\u2067",
    "evil3": "long " + "W" * 10_000,
}
FILMS = {
    "m1": ("Maverick", ("Western", "Comedy")),
    "m2": ("Young Guns", ("Western",)),
    "m3": ("Get Shorty", ("Comedy",)),
    "m4": ("Tombstone", ("Western",)),
    "m5": ("Alien", ("Horror",)),
    "m6": ("The Shining", ("Horror",)),
    "m7": ("Big Night", ("Drama",)),
    "m8": ("Fargo", ("Drama",)),
}


def chromium() -> str | None:
    """Where Debian's browser is; Playwright's own is a download that needs more than a registry."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@dataclass(frozen=True, slots=True)
class Site:
    api: str
    page: str
    key: str  # may read
    writer: Client
    engine: Engine

    def rate(self, user_id: str, item_ids: list[str], *, after: float = 0.0, value: float = 4.0) -> None:
        rows = [
            Behavior(user_id=user_id, item_id=item, action="rate", at=AT + after + 60.0 * n, value=value)
            for n, item in enumerate(item_ids)
        ]
        assert self.writer.write(rows).accepted == len(rows)

    def say(self, user_id: str, summary: str) -> None:
        """A text of the user's first partition, as the LLM had written it."""
        row = {
            "user_id": user_id, "generation": 0, "index": 0, "prompt_version": "plain-1", "summary": summary,
            "summary_source": "llm", "summary_outcome": "ok", "shift": "", "shift_source": "llm",
            "shift_outcome": "ok", "evidence": "[]", "claims": 2, "supported": 2, "model": "test", "at": AT,
        }  # fmt: skip
        with writing(self.engine) as connection:
            upsert(connection, interests, [row])

    def learn(self) -> None:
        """Texts from the counts for every closed partition that has none."""
        learn(self.engine, None, model="", plan=Plan(prompt_version="plain-1", style=Style(noun=("film", "films"))))


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    store = f"sqlite:///{folder / 'store.db'}"
    engine = open_store(store)
    log = live.world(engine)
    artifact = live.artifact_of(log, live.spec_of(log), live.SRP4CTR)
    statistics: ItemStatistics = artifact.statistics
    save_artifact(folder / "model", artifact.model, artifact.spec, statistics, artifact.config, {})
    reader, reading = new_key("reader", "read")
    writer, writing_line = new_key("writer", "read,write")
    keys = folder / "keys"
    keys.write_text(f"{reading}\n{writing_line}\n")
    serve = ServeSettings(artifact=str(folder / "model"), keys_file=str(keys), port=free_port())
    settings = Settings(store=store, serve=serve, ingest=IngestSettings(count=PER_PARTITION))
    api, page = f"http://127.0.0.1:{serve.port}", f"http://127.0.0.1:{free_port()}"
    with _service(settings), _page(api, page, folder), Client(api, writer) as client:
        for item, (title, categories) in FILMS.items():
            client.put_item(item, title=title, categories=categories)
        for item, title in HOSTILE.items():
            client.put_item(item, title=title, categories=[title[:200]])
        yield Site(api, page, reader, client, engine)
    engine.dispose()


@contextmanager
def _service(settings: Settings) -> Iterator[None]:
    service = make_service(settings)
    service.scoring.refresh()
    config = uvicorn.Config(
        make_app(service), port=settings.serve.port, log_config=None, access_log=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        _wait(lambda: server.started)
        yield
    finally:
        service.draining.set()
        server.should_exit = True
        thread.join()
        service.engine.dispose()


@contextmanager
def _page(api: str, page: str, folder: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "streams", "page", "--api", api, "--port", page.rpartition(":")[2]]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "NICEGUI"))}
    with (folder / "page.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log)
        try:
            _wait(lambda: _answers(f"{page}/live", process))
            yield
        finally:
            process.terminate()
            process.wait()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the page has ended; see page.log"
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def _wait(holds: object) -> None:
    assert callable(holds)
    until = time.monotonic() + STARTS_S
    while not holds():
        assert time.monotonic() < until, "it did not start"
        time.sleep(0.1)
