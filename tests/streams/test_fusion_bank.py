"""The fusion stage keeps the behaviour bank filled with what closed partitions bring."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import msgspec
import pytest
from ctr_world import fill, random_rows
from fusion_world import context_of, done, learn, of_users, publish, until, working
from sqlalchemy import Engine, select
from tiny_llm import save_llm

from fusion.bank import read_keys
from fusion.bank_texts import Closed, partition_texts
from fusion.behavior_text import Template
from fusion.cut import recipe_of
from fusion.tables import banks
from streams.kafka import KafkaSettings
from streams.settings import BankSettings

pytestmark = pytest.mark.model


def test_new_partitions_cost_their_unseen_texts_alone(
    store: Engine, kafka: KafkaSettings, tmp_path: Path, encoder_folder: Path
) -> None:
    fill(store, random_rows(3, user_count=3), user_count=3, interests=True)
    llm = save_llm(tmp_path / "tiny")
    recipe = recipe_of(llm, 2)
    plain = context_of(kafka, store)
    settings = msgspec.structs.replace(plain.settings, bank=BankSettings(llm=str(llm), cut=2))
    context, every = dataclasses.replace(plain, settings=settings), of_users(3, 4)
    learn(store, every)

    async def go() -> None:
        async with working(context):
            for count in (1, 2):  # each message comes twice
                await publish(context, every)
                await until(lambda count=count: done(context) == len(every) * count)

    asyncio.run(go())
    with store.connect() as connection:
        closed = [Closed(one.user_id, one.generation, one.index) for one in every]
        texts = partition_texts(connection, Template(), closed)
        assert read_keys(connection, recipe.id) == set(recipe.keys(texts))
        (bank,) = connection.execute(select(banks)).mappings()
    assert bank["computed"] == len(texts)
    assert bank["asked"] > 2 * len(texts)
