"""The fusion stage: interest updates become vectors and representations, which are announced.

A message only says which interest to look at; texts are read from the store, so one that comes late, twice or out of
order changes nothing. Beside new work the stage looks for another activated artifact (streams/resolve/activation.py)
and then publishes every user's newest representation again, a chunk at a time. With an LLM set, the behaviour bank is
filled beside all that (streams/stages/fusion/bank_fill.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from fusion.encoders.sentence import check_encoder, open_encoder
from fusion.interests.item_vectors import encode_items
from fusion.interests.pool import HALF_LIFE
from fusion.interests.pool import window as decay_window
from fusion.interests.text_vectors import EncodedInterest, InterestKey, InterestTexts, encode_interests, find_texts
from interest.errors import ArtifactError, InputError
from interest.store import counters
from interest.store.sql import writing
from streams.kafka.clients import group_of, make_producer
from streams.kafka.messages import InterestUpdate, update_of_message
from streams.resolve.activation import POOLED, Activation, open_activated, read_activations
from streams.resolve.encoder import encoder_folder
from streams.stages.announce import Announcer
from streams.stages.consumer.message import Message
from streams.stages.consumer.window import MessageWindow
from streams.stages.fusion.bank_fill import BankFiller
from streams.stages.fusion.item_texts import AT_ONCE, ItemTexts, count_items
from streams.stages.fusion.republish import OvertakenError, RepublishProgress, plan_republishing, save_progress
from streams.stages.fusion.rows import (
    MessagePosition,
    RepresentationConfig,
    RewrittenError,
    announce_all,
    item_texts_waiting,
    write_batch,
    write_missing,
)
from streams.stages.retry import RetryPolicy, connected
from streams.stages.stage import Context
from streams.store import outbox
from streams.store.outbox import Announcement

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer

    from fusion.serving.common_space import CommonSpace
    from fusion.training.artifact import Artifact

SETTLE_S = 0.02  # between looks whether a chunk is done
IDLE_S = 0.2  # between looks for messages where there are none
CLOSE_S = 2.0  # of the drain, for committing and leaving the group

R = TypeVar("R")
log = structlog.get_logger()


class FusionStage:
    """Raises InputError at once where this machine has no text encoder."""

    name = "fusion"

    def __init__(self, context: Context) -> None:
        self._context, self._settings = context, context.settings.fusion
        self._folder = encoder_folder(self._settings.encoder)
        self._half_life = HALF_LIFE if self._settings.half_life is None else self._settings.half_life
        try:
            check_encoder(self._folder)
            decay_window(self._half_life)
        except InputError:
            raise InputError(
                f"the fusion stage has no text encoder at {self._folder}: run `interestream fetch encoder` on this "
                "machine, or set INTERESTREAM_FUSION_ENCODER to a sentence encoder's folder"
            ) from None
        except ValueError as error:
            raise InputError(f"INTERESTREAM_FUSION_HALF_LIFE: {error}") from None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fusion")  # torch works here; the bank has its own
        self._bank_filler = BankFiller(context, self.name, lambda: self._window.partitions if self._window else [])
        self._retry = RetryPolicy(context, self.name)
        self._items, self._more_items = ItemTexts(context.engine), False
        self._sent: list[Announcement] = []  # acknowledged by the broker, still in the outbox
        self._last: dict[int, tuple[int, int]] = {}  # by Kafka partition: newest offset announced for, newest n
        self._config: RepresentationConfig
        self._announcer: Announcer
        self._producer: AIOKafkaProducer | None = None
        self._window: MessageWindow[InterestUpdate] | None = None
        self._active: Activation | None = None
        self._next_check = 0.0
        self._planned: set[int] = set()  # Kafka partitions whose users were looked at since the last activation
        self._republish_queue: list[RepublishProgress] = []
        self._writing = False  # a chunk of these is being written and announced

    async def run(self, stop: asyncio.Event) -> None:
        """1. Open the encoder and work until `stop`. 2. Finish the batch in flight. 3. Commit and leave the group.
        4. Let the bank's batch of texts end, as far as there is time."""
        work = asyncio.create_task(self._work(stop), name="fusion-work")
        halted = asyncio.create_task(stop.wait())
        drain_s = self._context.settings.agent.drain_s
        deadline = 0.0
        try:
            await asyncio.wait({work, halted}, return_when=asyncio.FIRST_COMPLETED)  # 1
            deadline = time.monotonic() + max(0.0, drain_s - CLOSE_S)
            await asyncio.wait({work}, timeout=deadline - time.monotonic())  # 2
            if work.done():
                work.result()
        finally:
            for task in (work, halted):
                task.cancel()
            await asyncio.wait({work, halted})
            await self._leave()  # 3
            await self._bank_filler.end(deadline - time.monotonic() if stop.is_set() else 0.0)  # 4
            self._thread.shutdown(wait=False)

    async def _leave(self) -> None:
        if self._window is not None:
            await self._window.stop(CLOSE_S / 2)
        if self._producer is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._producer.stop(), CLOSE_S / 2)

    def _make_window(self, producer: AIOKafkaProducer) -> MessageWindow[InterestUpdate]:
        kafka, topics = self._context.settings.kafka, self._context.topics
        return MessageWindow(
            self._context,
            stage=self.name,
            topic=topics.updates,
            decode=update_of_message,
            producer=producer,
            size=self._settings.batch,
            remedy="stop the fusion workers, run `interestream fuse` (the store has every interest they were about), "
            f"then delete the offsets of the group {group_of(kafka, self.name)} so that it begins with what is left",
            on_assigned=self._on_assigned,
            on_revoked=self._on_revoked,
        )

    async def _work(self, stop: asyncio.Event) -> None:
        log.info("loading the text encoder", folder=str(self._folder))
        encoder = await self._in_thread(partial(open_encoder, self._folder))
        self._config = RepresentationConfig(encoder, self._half_life, self._items.template)
        await self._bank_filler.open()
        await self._check_activation()
        kafka = self._context.settings.kafka
        self._producer = await connected(self._context, self.name, partial(make_producer, kafka))
        self._announcer = Announcer(self._context, self._producer, self.name)
        self._window = window = self._make_window(self._producer)
        await window.start()
        self._bank_filler.start(stop)
        while not stop.is_set():
            self._bank_filler.check()
            if time.monotonic() >= self._next_check:
                await self._check_activation()
            await self._plan_republishing(window.partitions)
            messages = await window.take(timeout_s=0.0 if self._republish_queue or self._more_items else IDLE_S)
            if messages:
                await self._fuse(messages)
                window.acknowledge(messages)
            if self._republish_queue:
                self._writing = True
                try:
                    await self._republish(window.partitions)
                finally:
                    self._writing = False
            elif not messages:
                await self._tidy()
                await self._encode_items()
        await self._tidy()

    async def _on_revoked(self, _partitions: Collection[int]) -> None:
        """Partitions are about to go: what was written of their users is said before anyone else says more."""
        while self._writing or (self._window is not None and self._window.in_flight):
            await asyncio.sleep(SETTLE_S)

    async def _on_assigned(self, partitions: Collection[int]) -> None:
        """What is remembered of another assignment is void; what a worker before left in the outbox is sent first."""
        self._sent, self._last, self._republish_queue = [], {}, []
        self._planned.clear()
        await self._send_left(partitions)

    async def _send_left(self, partitions: Collection[int]) -> None:
        topic = self._context.topics.representations
        left: list[Announcement] = await self._store(
            partial(self._waiting, topic, partitions), "cannot read the outbox"
        )
        await self._announcer.send(left)
        await self._store(partial(self._announcer.remove, left), "cannot tidy the outbox")

    def _waiting(self, topic: str, partitions: Collection[int]) -> list[Announcement]:
        return outbox.read_waiting(self._context.engine, topic, partitions)

    # New interests.

    async def _fuse(self, messages: list[Message[InterestUpdate]]) -> None:
        """1. Read the texts, also of items. 2. Encode them. 3. Write all in one transaction. 4. Announce."""
        while True:
            latest = {_key(one.value): one for one in messages if not one.lost}
            if not latest:
                return
            found = await self._store(partial(self._find, latest.keys()), "cannot read interests")  # 1
            waiting, there, item_texts = found
            for start in range(0, len(item_texts), AT_ONCE):  # 2
                await self._encode(item_texts[start : start + AT_ONCE])
            encoded, _ = await self._in_thread(partial(encode_interests, self._config.encoder, waiting))  # 2
            here = {key: latest[key] for key in there if not latest[key].lost}
            mine = [one for one in encoded if one.texts.key in here]
            try:
                made = await self._write(partial(self._write_batch, here, mine))  # 3
            except RewrittenError:
                continue
            break
        self._context.metrics.skipped.labels(self.name).inc(len(latest) - len(there))
        await self._announce(made)  # 4

    def _find(self, keys: Collection[InterestKey]) -> tuple[list[InterestTexts], list[InterestKey], list[str]]:
        with self._context.engine.connect() as connection:
            waiting, there = find_texts(connection, self._config.encoder.id, keys)
            return waiting, there, item_texts_waiting(connection, self._config, there)

    def _write_batch(
        self, here: dict[InterestKey, Message[InterestUpdate]], encoded: list[EncodedInterest], connection: Connection
    ) -> tuple[int, list[Announcement]]:
        count = write_batch(connection, self._config, list(here), encoded)
        # a user's last message stands for all of the batch
        newest: dict[str, tuple[str, MessagePosition, str | None]] = {}
        for key, one in sorted(here.items(), key=lambda item: item[1].offset):
            newest[key.user_id] = (key.user_id, MessagePosition(one.partition, one.offset), key.prompt_version)
        return count, announce_all(connection, self._config, self._topic, newest.values())

    async def _write(self, make: Callable[[Connection], tuple[int, list[Announcement]]]) -> list[Announcement]:
        """One transaction: what `make` writes, the announcements it returns, and those before that were sent."""
        sent = list(self._sent)

        def transaction() -> tuple[int, list[Announcement]]:
            with writing(self._context.engine) as connection:
                counters.read_locked(connection, counters.FORGETS)  # who forgets a user waits, then finds these rows
                outbox.remove(connection, sent)
                count, made = make(connection)
                outbox.add(connection, made)
            return count, made

        began = time.monotonic()
        while True:
            try:
                count, made = await self._store(transaction, "cannot write representations")
            except IntegrityError as error:  # a worker that lost these partitions left announcements: say them first
                await self._retry.failed("store", "finds another worker's announcements", error)
                await self._send_left(self._window.partitions if self._window else [])
                continue
            break
        self._context.metrics.commit.labels(self.name).observe(time.monotonic() - began)
        artifact = self._config.artifact
        self._context.metrics.representations.labels("pooled" if artifact is None else artifact.id).inc(count)
        self._sent.clear()
        return made

    async def _announce(self, made: list[Announcement]) -> None:
        for one in made:
            self._last[one.partition] = max(self._last.get(one.partition, (-1, 0)), (one.offset, one.n))
        await self._announcer.send(made)
        self._sent += made

    async def _tidy(self) -> None:
        """Nothing to write: the outbox is emptied by itself."""
        sent, self._sent = self._sent, []
        if sent:
            await self._store(partial(self._announcer.remove, sent), "cannot tidy the outbox")

    async def _encode(self, item_texts: list[str]) -> None:
        encode = partial(encode_items, self._context.engine, self._config.encoder, item_texts, written=count_items)
        await self._retry.storing(partial(self._in_thread, encode), "cannot write vectors of items")

    async def _encode_items(self) -> None:
        """No message waits: a few items' texts that have no vector yet."""
        step = partial(self._items.step, self._config.encoder)
        self._more_items = await self._retry.storing(partial(self._in_thread, step), "cannot write vectors of items")

    # Another artifact.

    async def _check_activation(self) -> None:
        """Put the newest activation in force whose artifact can be loaded; say of newer ones why not."""
        self._next_check = time.monotonic() + self._settings.poll_s
        found = await self._store(partial(read_activations, self._context.engine), "cannot read activations")
        for activation in [*found, POOLED]:
            if activation == self._active:
                break
            try:
                opened = await self._in_thread(partial(open_activated, activation, self._config.encoder.id))
            except (ArtifactError, OSError) as error:
                self._context.health.failed("artifact", str(error))
                log.warning("artifact not loaded", activation=activation.number, error=str(error))
                continue
            self._config = replace(self._config, artifact=opened, common=_common(opened))
            self._active = activation
            self._planned.clear()
            self._republish_queue.clear()
            log.info("representations come from", artifact=activation.artifact or "pooled", number=activation.number)
            break
        if self._active == next(iter(found), POOLED):
            self._context.health.up("artifact")

    async def _plan_republishing(self, partitions: list[int]) -> None:
        """Find out which users of newly read Kafka partitions the activation in force was not published for."""
        new = next((one for one in partitions if one not in self._planned), None)
        if new is None or self._active is None:
            return
        self._planned.add(new)
        if self._active.number:
            count = self._context.settings.kafka.partitions
            looked = partial(plan_republishing, self._context.engine, self._topic, new, count, self._active.number)
            work = await self._store(looked, "cannot read users")
            if work is not None:
                log.info("publishing again", partition=new, users=len(work.left), activation=work.number)
                self._republish_queue.append(work)

    async def _republish(self, partitions: list[int]) -> None:
        """The next users of one Kafka partition, a chunk in a transaction."""
        work = self._republish_queue[0]
        if work.partition not in partitions:  # being given away, or not read yet
            self._republish_queue.pop(0)
            self._planned.discard(work.partition)
            return
        users, done = work.chunk(self._settings.batch)
        try:
            made = await self._write(partial(self._write_again, work, users, done))
        except OvertakenError:
            self._republish_queue.pop(0)
            self._planned.discard(work.partition)
            await self._send_left([work.partition])
            return
        work.advance(len(users), done)
        if work.finished:
            self._republish_queue.pop(0)
            log.info("published again", partition=work.partition, activation=work.number)
        await self._announce(made)

    def _write_again(
        self, work: RepublishProgress, users: list[str], done: int, connection: Connection
    ) -> tuple[int, list[Announcement]]:
        save_progress(connection, self._topic, work, done)
        count = write_missing(connection, self._config, users)
        offset, n = self._last.get(work.partition, (-1, 0))
        places = [(user, MessagePosition(work.partition, offset, n + more), None) for more, user in enumerate(users, 1)]
        return count, announce_all(connection, self._config, self._topic, places)

    @property
    def _topic(self) -> str:
        return self._context.topics.representations

    async def _store(self, call: Callable[[], R], what: str) -> R:
        return await self._retry.store(call, what)

    async def _in_thread(self, call: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _common(artifact: Artifact | None) -> CommonSpace | None:
    if artifact is None:
        return None
    from fusion.serving.common_space import common_space

    return common_space(artifact)


def _key(update: InterestUpdate) -> InterestKey:
    return InterestKey(update.user_id, update.generation, update.index, update.prompt_version)
