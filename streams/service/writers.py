"""Where written behaviours, items and profiles go: into the store by this process's own fold, or onto Kafka's topics.

Both answer only once it is durable: committed, or acknowledged by all replicas.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from interest.errors import StoreError
from interest.store.sql import read_items, writing
from interest.types import OFFERED, Behavior, Item, User
from streams.admin.forget_topics import forget_on_topics
from streams.kafka.clients import make_producer
from streams.kafka.partitioner import Partitioner
from streams.kafka.read import read_offset_ranges
from streams.kafka.topics import Topics
from streams.settings.schema import KafkaSettings
from streams.stages.ingest import catalogue
from streams.stages.ingest.offsets import positions_of
from streams.store.forget import forget
from streams.store.tables import source_of
from streams.ubsp.ingest import Folded, ForgottenError, Ingest, Move
from streams.ubsp.policy import Policy

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

SOURCE = "api:behaviors"  # of the embedded fold in the table of offsets
BATCH = 5_000  # behaviours of one transaction
WAITING = 50_000  # behaviours that may wait for theirs; more are told to come again
END_S = 10.0  # that the end of the service waits for the store
ACK_S = 15.0  # for Kafka's acknowledgement
SETTLE_S = 10.0  # that a forget waits for the workers to have read the topic
LOOK_S = 0.1  # between two looks how far they are


class Verdicts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request's behaviours. On Kafka the workers will say; here they are acknowledged."""

    accepted: int
    duplicates: int = 0
    offers: int = 0  # rows with the action "offered": kept, and no behaviours


class BusyError(StoreError):
    """More waits to be written than is sensible."""


class Writer(Protocol):
    """What the service writes to."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def behaviors(self, rows: Sequence[Behavior]) -> Verdicts: ...

    async def catalogue(self, items: Mapping[str, Item | None], users: Mapping[str, User | None]) -> None: ...

    async def settle(self) -> None:
        """Return once every behaviour that was answered before is in the store. Raises StoreError where that lasts."""

    async def forget(self, user_id: str) -> dict[str, int]:
        """Rows deleted, by table. Raises InputError where nobody knows the user."""


class EmbeddedWriter:
    """The fold of `replay`, fed by requests: those that wait are one transaction. One such process a store."""

    def __init__(self, engine: Engine, policy: Policy) -> None:
        self._engine, self._policy = engine, policy
        self._waiting: list[tuple[Sequence[Behavior], asyncio.Future[Verdicts]]] = []
        self._rows = 0
        self._some = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # the fold's memory has one user at a time

    async def start(self) -> None:
        self._ingest = await asyncio.to_thread(self._open)
        self._task = asyncio.create_task(self._work(), name="writer")

    async def stop(self) -> None:
        """Write what waits, then end; what a store does not take in time is refused."""
        try:
            async with asyncio.timeout(END_S):
                while self._waiting:
                    await asyncio.sleep(0.01)
                await self._turn.acquire()
        except TimeoutError:
            for _, future in self._waiting:
                if not future.done():
                    future.set_exception(StoreError("the service has ended before the store took it; send it again"))
        if self._task is not None:
            self._task.cancel()

    async def behaviors(self, rows: Sequence[Behavior]) -> Verdicts:
        if not rows:
            return Verdicts(accepted=0)
        if self._rows + len(rows) > WAITING:
            raise BusyError("more behaviours wait to be written than the store takes; come again")
        future: asyncio.Future[Verdicts] = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, future))
        self._rows += len(rows)
        self._some.set()
        return await future

    async def catalogue(self, items: Mapping[str, Item | None], users: Mapping[str, User | None]) -> None:
        def write() -> None:
            with writing(self._engine) as connection:
                catalogue.apply(connection, items, users)

        async with self._turn:
            await asyncio.to_thread(write)
            if self._policy.tokens is not None:
                self._ingest.items |= {key: item for key, item in items.items() if item is not None}

    async def settle(self) -> None:
        """They are answered once they are there."""

    async def forget(self, user_id: str) -> dict[str, int]:
        async with self._turn:
            gone = await asyncio.to_thread(forget, self._engine, user_id)
            await asyncio.to_thread(self._ingest.load)
        return gone

    def _open(self) -> Ingest:
        with self._engine.connect() as connection:
            items = read_items(connection) if self._policy.tokens is not None else {}
        return Ingest(self._engine, self._policy, items=items)

    async def _work(self) -> None:
        while True:
            await self._some.wait()
            async with self._turn:
                some: list[tuple[Sequence[Behavior], asyncio.Future[Verdicts]]] = []
                size = 0
                while self._waiting and (not some or size + len(self._waiting[0][0]) <= BATCH):
                    some.append(self._waiting.pop(0))
                    size += len(some[-1][0])
                self._rows -= size
                if not self._waiting:
                    self._some.clear()
                await self._write(some)

    async def _write(self, some: list[tuple[Sequence[Behavior], asyncio.Future[Verdicts]]]) -> None:
        try:
            folded = await asyncio.to_thread(self._commit, [rows for rows, _ in some])
        except Exception as error:
            for _, future in some:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), one in zip(some, folded, strict=True):
            if not future.done():
                future.set_result(Verdicts(accepted=one.accepted, duplicates=one.duplicates, offers=len(one.offers)))

    def _commit(self, batches: list[Sequence[Behavior]]) -> list[Folded]:
        """One transaction. Memory that proves outdated (a forget by another process) is loaded again, once."""
        try:
            return self._fold(batches)
        except (ForgottenError, IntegrityError):
            self._ingest.load()
            return self._fold(batches)

    def _fold(self, batches: list[Sequence[Behavior]]) -> list[Folded]:
        try:
            folded = self._ingest.fold_all(batches)
            before = after = self._ingest.position(SOURCE)
            for rows, one in zip(batches, folded, strict=True):
                after = one.after(after, after.offset + len(rows), rejected=after.rejected, digest="")
            self._ingest.write([Move(source=SOURCE, before=before, after=after)], folded)
        except BaseException:
            self._ingest.load()  # it is ahead of the store
            raise
        return folded


class KafkaWriter:
    """Onto the topics that the workers read, keyed by user or item."""

    def __init__(self, settings: KafkaSettings, engine: Engine) -> None:
        self._settings, self._engine, self._topics = settings, engine, Topics(settings.prefix)
        self._producer: AIOKafkaProducer | None = None
        self._partitioners: dict[str, Partitioner] = {}

    async def start(self) -> None:
        """Raises whatever the client does where no broker answers."""
        self._producer = make_producer(self._settings)
        await self._producer.start()

    async def stop(self) -> None:
        if self._producer is not None:
            await self._producer.stop()

    async def behaviors(self, rows: Sequence[Behavior]) -> Verdicts:
        await self._send(self._topics.behaviors, [(row.user_id, msgspec.json.encode(row)) for row in rows])
        offers = sum(row.action == OFFERED for row in rows)
        return Verdicts(accepted=len(rows) - offers, offers=offers)

    async def catalogue(self, items: Mapping[str, Item | None], users: Mapping[str, User | None]) -> None:
        for topic, changed in ((self._topics.items, items), (self._topics.users, users)):
            messages = [(key, None if one is None else msgspec.json.encode(one)) for key, one in changed.items()]
            if messages:
                await self._send(topic, messages)

    async def settle(self) -> None:
        """Wait for the workers: what they read of a user after a forget would make the user anew."""
        topic = self._topics.behaviors
        ranges = await asyncio.to_thread(read_offset_ranges, self._settings, [topic])
        ends = {partition: end for (_, partition), (start, end) in ranges.items() if end > start}
        deadline = time.monotonic() + SETTLE_S
        while left := await asyncio.to_thread(self._unread, topic, ends):
            if time.monotonic() > deadline:
                raise StoreError(
                    f"the workers have {left:,} messages of {topic} still to read, which may be the user's; nothing "
                    "was forgotten: ask again once `interestream lag` shows none"
                )
            await asyncio.sleep(LOOK_S)

    def _unread(self, topic: str, ends: Mapping[int, int]) -> int:
        read = positions_of(self._engine, source_of(topic))
        return sum(max(end - (read[one].offset if one in read else 0), 0) for one, end in ends.items())

    async def forget(self, user_id: str) -> dict[str, int]:
        gone = await asyncio.to_thread(forget, self._engine, user_id)
        await asyncio.to_thread(forget_on_topics, self._settings, user_id)
        return gone

    async def _send(self, topic: str, messages: Sequence[tuple[str, bytes | None]]) -> None:
        assert self._producer is not None
        partitioner = self._partitioners.get(topic)
        if partitioner is None:
            known = (await self._producer.client.fetch_all_metadata()).partitions_for_topic(topic)
            if not known:
                raise StoreError(f"there is no topic {topic}; run `interestream topics create`")
            partitioner = self._partitioners[topic] = Partitioner(len(known))
        waiting = [
            await self._producer.send(topic, value, key=key.encode(), partition=partitioner[key])
            for key, value in messages
        ]
        try:
            await asyncio.wait_for(asyncio.gather(*waiting), ACK_S)
        except TimeoutError:
            raise StoreError(
                f"Kafka has not acknowledged {len(messages):,} messages within {ACK_S:g} s; they may arrive yet: send "
                "them again with their event_id"
            ) from None
