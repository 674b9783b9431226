"""A language model with moods, and a catalogue that its answers are about."""

from __future__ import annotations

import asyncio
import json
import re

from sqlalchemy import Engine

from interest.llm.protocol import Reply, Request
from interest.llm.scripted import reply
from interest.store.sql import insert_new, item_row, writing
from interest.store.tables import items
from interest.types import Item

MODEL = "scripted"


def catalogue(engine: Engine) -> None:
    """Two in three items are dramas, the others comedies."""
    rows = [
        Item(item_id=f"item-{number}", title=f"Film {number}", categories=("Drama" if number % 3 else "Comedy",))
        for number in range(500)
    ]
    with writing(engine) as connection:
        insert_new(connection, items, [item_row(one) for one in rows])


def answer(request: Request) -> str:
    """A short answer that depends on nothing but the request; true of many partitions, not of all."""
    asked = request.messages[-1].content
    shift = "How did this user" in asked
    text = "This user now chooses more dramas." if shift else "This user chose dramas and comedies."
    return json.dumps({"text": text, "evidence": [int(number) for number in re.findall(r"\[(\d+)\]", asked)[:2]]})


class Moods:
    """A `Complete` that changes how it behaves between requests."""

    def __init__(self, wait_s: float = 0.0) -> None:
        self.mood = "good"
        self.wait_s = wait_s

    async def __call__(self, request: Request) -> Reply:
        if self.mood == "hangs":
            await asyncio.sleep(3600)
        if self.mood == "cuts off":
            return reply('{"text": "This user cho', "length")
        if self.mood == "nonsense":
            return reply("\u2603 as the moon said to the 999 penguins")
        await asyncio.sleep(self.wait_s)
        return reply(answer(request))
