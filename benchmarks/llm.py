"""Claims: batched generation gives at least 3 times the tokens/s of one request at a time; calls per behaviour stay
constant as one user's history grows; and how much of what the LLM writes the partitions support.

    python benchmarks/llm.py [--quick] [--llm FOLDER] [--threads 2] [--save benchmarks/results/llm.json]

The requests are those of `interestream learn` on ML-100K (fetched). Batched and one-at-a-time answer the same requests
in the same run. The growing history is that of one made-up user who did, one after another, what the longest users did;
it is learnt at 100, 1000 and 2000 behaviours, with the calls counted over the whole history. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from interest.llm.cache import Usage, read_usage
from interest.llm.local import LocalModel
from interest.llm.protocol import Reply, Request
from interest.store.sql import insert_new, item_row, writing
from interest.store.tables import behaviors, items, partitions
from interest.types import Item, Outcome
from interest.write.backfill import Learned, learn
from interest.write.backlog import Plan, chunks
from interest.write.prompts import PROMPTS, Style
from streams.settings.load import default_llm, sample_log
from streams.store.engine import open_store

STYLE = Style(noun=("film", "films"))
K = 50


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="16 requests and histories of 100 and 500")
    options.add_argument("--llm", type=Path, default=default_llm())
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    model = LocalModel(chosen.llm)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does, before torch is loaded
    import torch

    torch.set_num_threads(chosen.threads)

    history = longest(2000)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"sqlite:///{folder}/speed.db")
        grow(store, history[: 20 * K])
        speed = compare(model, requests(store, 16 if chosen.quick else 40))
        store.dispose()
        store = open_store(f"sqlite:///{folder}/grow.db")
        growth = [grown(store, model, history, size) for size in ((100, 500) if chosen.quick else (100, 1000, 2000))]
        store.dispose()
    rates = [row["calls_per_1000_behaviors"] for row in growth]
    line = {
        "benchmark": "llm",
        "quick": chosen.quick,
        "model": model.name,
        "threads": chosen.threads,
        **speed,
        "growth": growth,
        "calls_per_behavior_last_over_one_before": round(rates[-1] / rates[-2], 2),
        "cpu": platform.processor() or platform.machine(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def longest(size: int) -> list[tuple[str, float]]:
    """(item, rating) of the longest users of ML-100K, one user after another, each in order of time."""
    rows = [line.split("\t") for line in (sample_log() / "ml-100k.inter").read_text().splitlines()[1:]]
    by_user: dict[str, list[tuple[float, str, float]]] = {}
    for user, item, rating, at in rows:
        by_user.setdefault(user, []).append((float(at), item, float(rating)))
    order = sorted(by_user, key=lambda user: (-len(by_user[user]), user))
    return [(item, rating) for user in order for _, item, rating in sorted(by_user[user])][:size]


def grow(store: Engine, history: list[tuple[str, float]]) -> None:
    """Put one user's behaviours, their full partitions and the catalogue into a store."""
    lines = [line.split("\t") for line in (sample_log() / "ml-100k.item").read_text().splitlines()[1:]]
    catalogue = [
        Item(item_id=item, title=title, categories=tuple(kinds.split(" ")), attributes={"release_year": year})
        for item, title, year, kinds in lines
    ]
    empty = {"scene": None, "event_id": None}
    rows = [
        {"user_id": "u", "seq": seq, "item_id": item, "action": "rate", "at": float(seq), "value": rating, **empty}
        for seq, (item, rating) in enumerate(history)
    ]
    heads = [
        {"user_id": "u", "generation": 0, "index": index, "first_seq": index * K, "last_seq": index * K + K - 1}
        | {"opened_at": float(index * K), "closed_at": float(index * K + K - 1), "reason": "count"}
        for index in range(len(history) // K)
    ]
    with writing(store) as connection:
        insert_new(connection, items, [item_row(item) for item in catalogue])
        insert_new(connection, behaviors, rows)
        insert_new(connection, partitions, heads)


def requests(store: Engine, count: int) -> list[Request]:
    """Summary and shift requests, half and half, as `learn` makes them first."""
    prompt = PROMPTS["plain-1"]
    work = next(chunks(store, Plan(style=STYLE), count, llm=True))
    asked = []
    for one in work:
        asked.append(prompt.summary(one.evidence.facts, None, 0, STYLE))
        if one.evidence.before is not None:
            asked.append(prompt.shift(one.evidence.before, one.evidence.facts, "", "", 0, STYLE))
    return asked[:count]


def compare(model: LocalModel, asked: list[Request]) -> dict[str, Any]:
    """The same requests together and one at a time."""

    async def together() -> list[Reply]:
        return await asyncio.gather(*(model(request) for request in asked))

    async def alone() -> list[Reply]:
        return [await model(request) for request in asked]

    asyncio.run(_first(model, asked[0]))  # the first call loads kernels; it counts for neither
    batched, batched_s, replies = timed(together)
    single, single_s, same = timed(alone)
    return {
        "requests": len(asked),
        "batched_tokens_per_s": round(batched / batched_s, 1),
        "single_tokens_per_s": round(single / single_s, 1),
        "batched_over_single": round(batched / batched_s / (single / single_s), 2),
        "answers_equal": sum(one.text == other.text for one, other in zip(replies, same, strict=True)) / len(asked),
    }


async def _first(model: LocalModel, request: Request) -> None:
    await model(request)


def timed(run: Callable[[], Coroutine[Any, Any, list[Reply]]]) -> tuple[int, float, list[Reply]]:
    """Completion tokens, seconds and the replies."""
    start = time.perf_counter()
    replies = asyncio.run(run())
    return sum(reply.completion_tokens for reply in replies), time.perf_counter() - start, replies


def grown(store: Engine, model: LocalModel, history: list[tuple[str, float]], size: int) -> dict[str, Any]:
    """Let the history grow to `size`, learn what is new, and count the calls over the whole history."""
    grow(store, history[:size])
    done: Learned = learn(store, model, model=model.name, plan=Plan(style=STYLE))
    with store.connect() as connection:
        total = sum(read_usage(connection, model.name, "plain-1").values(), Usage())
    texts = done.summaries + done.shifts
    return {
        "behaviors": size,
        "calls": total.calls,
        "calls_per_1000_behaviors": round(1000 * total.calls / size, 1),
        "tokens_per_behavior": round((total.prompt_tokens + total.completion_tokens) / size, 1),
        "llm_texts": round((texts[Outcome.OK] + texts[Outcome.TRIMMED]) / max(sum(texts.values()), 1), 3),
        "supported_before_trimming": round(done.supported / max(done.claims, 1), 3),
        "seconds": round(done.seconds, 1),
    }


if __name__ == "__main__":
    main()
