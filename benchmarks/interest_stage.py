"""Claim: the interest stage keeps a vLLM server as busy as a bare asynchronous load does: at least 0.85 of its
requests/s for the same prompts at the same 64 calls in flight.

    python benchmarks/interest_stage.py [--quick] [--url http://gpu:8000 --model NAME] [--save FILE]

The stage runs on a real Kafka and a SQLite store with closed partitions of ML-100K: it loads, asks, checks, asks again,
stores, announces and commits. What it sent, bodies and order, is then sent again by 64 plain loops around httpx.post.
Nothing favours either: each half begins with an empty prefix cache (the server is told to drop it, for which it runs
in vLLM's development mode), the stage with an empty cache of answers; full runs measure stage, bare, bare, stage. A
rate is that of the middle of a run, from 10 % to 75 % of its answers: at the ends nobody has 64 calls to make. Without
--url the server is that of `make vllm`, on this machine's CPU with SmolLM2, and shares the cores with both. (The file
is not called after the package `interest`, which it would hide.)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx
import msgspec
from sqlalchemy import Engine, func, select

import interest.llm.http
from benchmarks.rig.servers import installation, kafka
from deploy.kafka.node import Node
from deploy.vllm.server import NAME, Server
from interest.llm.protocol import Reply, Request
from interest.store.sql import partition_of
from interest.store.tables import interests, partitions
from interest.types import Partition
from streams.files.catalogue import ItemFile, UserFile, load_items, load_users
from streams.files.rows import BehaviorLog
from streams.kafka.clients import make_producer
from streams.kafka.topics import Topics
from streams.observability.health import Health
from streams.observability.metrics import Metrics
from streams.replay.embedded import replay
from streams.settings.load import sample_log
from streams.settings.schema import AgentSettings, KafkaSettings, LlmSettings, Secret, Settings
from streams.stages.stage import Context
from streams.store.engine import open_store
from streams.ubsp.policy import Policy

CONCURRENT = 64
PATIENCE_S = 600.0  # of one call, in both halves: on a machine that others use too, 64 at once take minutes
SIZE = 20  # ratings of a partition: a user of ML-100K has five or so
MIDDLE = (0.10, 0.75)


class Recorded(interest.llm.http.HttpModel):
    """The stage's own client, which also keeps what it sent and when it was answered."""

    asked: list[dict[str, Any]]
    answered: list[float]

    async def __call__(self, request: Request) -> Reply:
        reply = await super().__call__(request)
        self.answered.append(time.perf_counter())
        return reply

    async def _post(self, client: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
        self.asked.append(dict(body))
        return await super()._post(client, body)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="12 users and one run of each, instead of 60 and two")
    options.add_argument(
        "--url", help="of a server that runs with VLLM_SERVER_DEV_MODE=1; its key in INTERESTREAM_LLM_KEY"
    )
    options.add_argument("--model", default=NAME)
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the servers are stopped too
    users = 12 if chosen.quick else 60
    found: dict[str, list[float]] = {"stage": [], "bare": []}
    requests = 0
    with tempfile.TemporaryDirectory() as made, served(chosen.url, Path(made)) as url, kafka(Path(made)) as node:
        llm = LlmSettings(
            url=url,
            model=chosen.model,
            key=Secret(os.environ["INTERESTREAM_LLM_KEY"]) if os.environ.get("INTERESTREAM_LLM_KEY") else None,
            prompt_version="plain-1",  # SmolLM2 answers it, in two sentences
            noun="film,films",
            concurrent=CONCURRENT,
            timeout_s=PATIENCE_S,
        )
        for number in range(1 if chosen.quick else 2):
            for half in ("stage", "bare") if number == 0 else ("bare", "stage"):
                forget_prefixes(llm)
                if half == "stage":
                    asked, answered = asyncio.run(stage(node, llm, users, Path(made), number))
                    requests = max(requests, len(asked))
                else:
                    answered = asyncio.run(bare(llm, asked))
                found[half].append(middle(answered))
                say(f"{half}: {len(answered)} requests, {found[half][-1]:.2f}/s")
    line = {
        "benchmark": "interest_stage",
        "quick": chosen.quick,
        "requests_per_s": round(fmean(found["stage"]), 2),
        "bare_requests_per_s": round(fmean(found["bare"]), 2),
        "vs_bare": round(fmean(found["stage"]) / fmean(found["bare"]), 3),
        "requests": requests,
        "concurrent": CONCURRENT,
        "model": chosen.model,
        "cpus": os.cpu_count(),
    }
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


@contextmanager
def served(url: str | None, folder: Path) -> Iterator[str]:
    """The URL of the server told, or of one of the benchmark's own."""
    if url:
        yield url
        return
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"  # for /reset_prefix_cache
    server = Server(folder / "vllm", key=os.environ.get("INTERESTREAM_LLM_KEY"))
    say("starting vLLM")
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


def forget_prefixes(llm: LlmSettings) -> None:
    root = str(llm.url).rstrip("/").removesuffix("/v1")
    httpx.post(f"{root}/reset_prefix_cache", headers=_authorized(llm), timeout=30).raise_for_status()


async def stage(
    node: Node, llm: LlmSettings, users: int, folder: Path, number: int
) -> tuple[list[dict[str, Any]], list[float]]:
    """Let the stage write the interests of a new store; return what it sent and when each was answered."""
    from streams.stages.interest.stage import InterestStage

    interest.llm.http.HttpModel = Recorded  # type: ignore[misc]
    Recorded.asked, Recorded.answered = [], []
    settings = installation(node, f"interest-{number}.")
    engine = open_store(f"sqlite:///{folder / f'interest-{number}.db'}")
    found = filled(engine, users, folder)
    await announce(settings, found)
    context = Context(
        settings=Settings(kafka=settings, llm=llm, agent=AgentSettings()),
        engine=engine,
        metrics=Metrics(),
        health=Health(),
    )
    stop = asyncio.Event()
    work = asyncio.create_task(InterestStage(context).run(stop))
    while not work.done() and await asyncio.to_thread(written, engine) < len(found):
        await asyncio.sleep(0.5)
    stop.set()
    await work
    engine.dispose()
    return Recorded.asked, Recorded.answered


async def bare(llm: LlmSettings, asked: list[dict[str, Any]]) -> list[float]:
    """Send the bodies in their order, 64 at a time, and do nothing with the answers; return when each came."""
    url = f"{str(llm.url).rstrip('/').removesuffix('/v1')}/v1/chat/completions"
    left, answered = iter(asked), []
    limits = httpx.Limits(max_connections=CONCURRENT, max_keepalive_connections=CONCURRENT)

    async def loop(client: httpx.AsyncClient) -> None:
        for body in left:
            (await client.post(url, json=body)).raise_for_status()
            answered.append(time.perf_counter())

    async with (
        httpx.AsyncClient(headers=_authorized(llm), timeout=PATIENCE_S, limits=limits) as client,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(CONCURRENT):
            group.create_task(loop(client))
    return answered


def _authorized(llm: LlmSettings) -> dict[str, str]:
    return {"Authorization": f"Bearer {llm.key.value}"} if llm.key else {}


def middle(answered: list[float]) -> float:
    """Answers a second between two shares of them."""
    first, last = (int(share * len(answered)) for share in MIDDLE)
    return (last - first) / (answered[last] - answered[first])


def filled(store: Engine, users: int, folder: Path) -> list[Partition]:
    """Replay the first users of ML-100K into the store; return their partitions in the order of closing."""
    head, *lines = (sample_log() / "ml-100k.inter").read_text().splitlines()
    wanted = {str(number) for number in range(1, users + 1)}
    log = folder / "first-users.inter"
    log.write_text("\n".join([head, *(line for line in lines if line.split("\t")[0] in wanted)]) + "\n")
    load_items(store, ItemFile(sample_log() / "ml-100k.item", {}))
    load_users(store, UserFile(sample_log() / "ml-100k.user", {}))
    replay(store, BehaviorLog(log, {}), Policy(count=SIZE))
    with store.connect() as connection:
        found = [partition_of(row) for row in connection.execute(select(partitions)).mappings()]
    return sorted(found, key=lambda one: (one.closed_at, one.user_id, one.index))


async def announce(settings: KafkaSettings, found: list[Partition]) -> None:
    """What the ingest stage would have sent."""
    topic = Topics(settings.prefix).partitions
    producer = make_producer(settings)
    await producer.start()
    for one in found:
        place = int(one.user_id) % settings.partitions
        await producer.send(topic, msgspec.json.encode(one), key=one.user_id.encode(), partition=place)
    await producer.stop()


def written(store: Engine) -> int:
    with store.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(interests)).scalar_one())


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
