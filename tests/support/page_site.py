"""The page as a browser meets it: `interestream serve --page --learn` with access keys, and Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
from sqlalchemy import Engine, select

from deploy.kafka.node import free_port
from fusion.features.counts import ItemStatistics
from fusion.training.artifact import save_artifact
from interest.store.sql import upsert, writing
from interest.store.tables import interests
from interest.types import Behavior
from streams.client import Client
from streams.service.access import new_key
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
        """A text of the user's first partition, as the LLM had written it, over the one from the counts."""
        wait(lambda: self._has_text(user_id))
        row = {
            "user_id": user_id, "generation": 0, "index": 0, "prompt_version": "plain-1", "summary": summary,
            "summary_source": "llm", "summary_outcome": "ok", "shift": "", "shift_source": "llm",
            "shift_outcome": "ok", "evidence": "[]", "claims": 2, "supported": 2, "model": "test", "at": AT,
        }  # fmt: skip
        with writing(self.engine) as connection:
            upsert(connection, interests, [row])

    def _has_text(self, user_id: str) -> bool:
        with self.engine.connect() as connection:
            return connection.execute(select(interests).where(interests.c.user_id == user_id)).first() is not None


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
    port, page_port = free_port(), free_port()
    api, page = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{page_port}"
    own = {
        "INTERESTREAM_SERVE_KEYS_FILE": str(keys),
        "INTERESTREAM_INGEST_COUNT": str(PER_PARTITION),
        "INTERESTREAM_LLM_PROMPT_VERSION": "plain-1",
        "INTERESTREAM_LLM_NOUN": "film,films",
        "OMP_NUM_THREADS": "1",
    }
    arguments = ["--store", store, "--artifact", str(folder / "model"), "--port", str(port)]
    arguments += ["--page", "--page-port", str(page_port), "--learn"]
    with (
        _serving(arguments, own, [f"{api}/ready", f"{page}/live"], folder / "serve.log"),
        Client(api, writer) as client,
    ):
        for item, (title, categories) in FILMS.items():
            client.put_item(item, title=title, categories=categories)
        for item, title in HOSTILE.items():
            client.put_item(item, title=title, categories=[title[:200]])
        yield Site(api, page, reader, client, engine)
    engine.dispose()


@contextmanager
def _serving(arguments: list[str], own: dict[str, str], urls: list[str], log_file: Path) -> Iterator[None]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "NICEGUI"))}
    with log_file.open("wb") as log:
        command = [sys.executable, "-m", "streams", "serve", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=environment | own, stderr=log)
        try:
            for url in urls:
                wait(partial(_answers, url, process))
            yield
        finally:
            process.terminate()
            code = process.wait()
    assert code == 0, f"it ended with {code}; see {log_file}"


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "it has ended; see serve.log"
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def wait(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + STARTS_S
    while not holds():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.1)
