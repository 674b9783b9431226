"""Interest updates as they happen, for Python programs: `for update in subscribe(...)`, or `async for`.

One class holds what both ways of reading share; a loop for each only polls. Read with kafka-python (for) or aiokafka
(async for). Decides nothing about interests: it hands out what the topic says.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Generator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import msgspec

from interest.errors import InterestreamError
from streams.kafka.clients import CHECK_CRCS, KafkaError, check_reachable, make_consumer, python_options
from streams.kafka.codecs import check_codecs
from streams.kafka.errors import describe, is_retriable
from streams.kafka.messages import InterestUpdate, RepresentationUpdate
from streams.kafka.read import newest_offsets
from streams.settings.schema import KafkaSettings
from streams.subscription.start import OffsetRange, Positions, Start, resolve_start

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer
    from kafka import KafkaConsumer

Update = TypeVar("Update", InterestUpdate, RepresentationUpdate)

POLL_MS = 500  # how soon stop() is noticed
COMMIT_S = 1.0  # what is done again after a crash is what was done in so long
OPEN_S = 30.0  # for a broker that is there but not ready: it has just started
QUIET_S = 5.0  # of silence, before it is looked whether a broker is there at all
# a subscriber may take its time with one update; its heartbeats are sent by a thread or task of the client's own
MAX_POLL_INTERVAL_MS = 3_600_000
COMMIT_TIMEOUT_MS = 5000
MANY = 100_000  # messages: reading them takes seconds, in which nothing is said
RECONNECT_MS = 2000  # at most between two attempts to reach a broker that is away
log = logging.getLogger("interestream.subscribe")


class Subscription(Generic[Update]):
    """Iterate over it, in one way at a time; iterate again to go on. Close it, or use it in a `with`."""

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        kind: type[Update],
        *,
        users: set[str] | None,
        start: Start,
        group: str | None,
        follow: bool,
        newest: bool,
        warn: Callable[[str], object],
    ) -> None:
        self.skipped = 0  # messages that were not updates
        self._settings, self._topic, self._group, self._follow, self._warn = settings, topic, group, follow, warn
        self._users, self._start = users, start
        # members of a group are given partitions as they come and go: each would have to look through all of them
        self._is_newest = newest and group is None
        self._newest: dict[tuple[int, bytes], int] = {}  # by partition and key: the offset that alone counts
        self._keys = None if users is None else {user.encode() for user in users}
        self._decoder: msgspec.json.Decoder[Update] = msgspec.json.Decoder(kind)
        self._offsets: OffsetRange | None = None
        self._positions: Positions = {}
        self._done: Positions = {}  # to be committed for the group
        self._committed_at = self._last_message_at = 0.0
        self._stopped = self._is_away = False
        self._running: Generator[Update] | AsyncGenerator[Update] | None = None

    def open(self) -> Self:
        """Resolve where to begin; "now" is this moment. Iterating opens the subscription where nothing else has."""
        check_codecs()
        deadline = time.monotonic() + OPEN_S
        while self._offsets is None:
            start = self._positions or self._start
            try:
                offsets = resolve_start(self._settings, self._topic, start, self._users, self._group)
                self._newest = self._find_newest(offsets) if self._is_newest else {}
                self._offsets = offsets
            except Exception as error:
                self._raise_unless_retriable(error)
                if time.monotonic() > deadline:
                    raise KafkaError(describe(error)) from error
                time.sleep(POLL_MS / 1000)
                continue
            self._positions = dict(self._offsets.starts)
        return self

    def _find_newest(self, offsets: OffsetRange) -> dict[tuple[int, bytes], int]:
        """Read the topic through once, so that of each user's messages only the newest is handed out."""
        ranges = {number: (start, offsets.ends[number]) for number, start in offsets.starts.items()}
        count = sum(max(0, end - start) for start, end in ranges.values())
        if count >= MANY:
            self._warn(f"looking for each user's newest among {count:,} messages of {self._topic}")
        return newest_offsets(self._settings, self._topic, ranges, self._keys, lambda: self._stopped)

    def positions(self) -> Positions:
        """By Kafka partition, the offset after the update that was handed out last: a `start` to go on from."""
        return dict(self._positions)

    def stop(self) -> None:
        """End the iteration within half a second; may be called from a signal handler or another thread."""
        self._stopped = True

    def close(self) -> None:
        """End a `for`, wherever it stands."""
        running, self._running = self._running, None
        if isinstance(running, Generator):
            running.close()

    async def aclose(self) -> None:
        """End an `async for`, wherever it stands."""
        running, self._running = self._running, None
        if isinstance(running, AsyncGenerator):
            await running.aclose()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.open)

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.aclose()

    def __iter__(self) -> Iterator[Update]:
        self.close()
        self._running = running = self._read()
        return running

    def __aiter__(self) -> AsyncIterator[Update]:
        self._running = running = self._read_async()
        return running

    def _read(self) -> Generator[Update]:
        if self.open()._is_done():
            self._end()
            return
        consumer = self._consumer()
        try:
            while not self._stopped:
                fetched = self._poll(consumer)
                for tp, messages in fetched.items():
                    for message in messages:
                        if self._stopped or tp not in consumer.assignment():
                            break
                        update = self._decode(tp.partition, message.offset, message.key, message.value)
                        if update is not None:
                            yield update
                        self._done[tp.partition] = message.offset + 1
                        if self._is_due():
                            self._commit(consumer)
                self._commit(consumer)
                if self._is_silent(bool(fetched)):
                    self._check_broker()
                if not self._follow and not fetched and self._has_ended(consumer):
                    return
        finally:
            self._commit(consumer)
            consumer.close(autocommit=False, timeout_ms=COMMIT_TIMEOUT_MS)
            self._end()

    async def _read_async(self) -> AsyncGenerator[Update]:
        if (await asyncio.to_thread(self.open))._is_done():
            self._end()
            return
        consumer = await self._consumer_async()
        try:
            while not self._stopped:
                fetched = await self._poll_async(consumer)
                for tp, messages in fetched.items():
                    for message in messages:
                        if self._stopped or tp not in consumer.assignment():
                            break
                        update = self._decode(tp.partition, message.offset, message.key, message.value)
                        if update is not None:
                            yield update
                        self._done[tp.partition] = message.offset + 1
                        if self._is_due():
                            await self._commit_async(consumer)
                await self._commit_async(consumer)
                if self._is_silent(bool(fetched)):
                    await asyncio.to_thread(self._check_broker)
                if not self._follow and not fetched and await self._has_ended_async(consumer):
                    return
        finally:
            await self._commit_async(consumer)
            await consumer.stop()
            self._end()

    def _is_done(self) -> bool:
        """Whether there is nothing to read and nothing is waited for: no consumer is made, which takes its time."""
        places = self._offsets
        return (
            not self._follow
            and places is not None
            and all(offset >= places.ends[number] for number, offset in places.starts.items())
        )

    def _consumer(self) -> KafkaConsumer:
        from kafka import KafkaConsumer, TopicPartition

        consumer = KafkaConsumer(
            **python_options(self._settings),
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            check_crcs=CHECK_CRCS,
            isolation_level=self._settings.isolation,
            session_timeout_ms=int(self._settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(self._settings.session_timeout_s * 1000 / 6),
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            reconnect_backoff_max_ms=RECONNECT_MS,
        )
        if self._group is not None:
            consumer.subscribe([self._topic])
        else:
            consumer.assign([TopicPartition(self._topic, number) for number in self._positions])
            for number, offset in self._positions.items():
                consumer.seek(TopicPartition(self._topic, number), offset)
        self._begin()
        return consumer

    async def _consumer_async(self) -> AIOKafkaConsumer:
        from aiokafka import TopicPartition

        consumer = make_consumer(self._settings, group=self._group, max_poll_interval_ms=MAX_POLL_INTERVAL_MS)
        if self._group is not None:
            consumer.subscribe([self._topic])
        try:
            await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
        if self._group is None:
            # after the start and in one go: a partition that is assigned and has no position yet is an error
            consumer.assign([TopicPartition(self._topic, number) for number in self._positions])
            for number, offset in self._positions.items():
                consumer.seek(TopicPartition(self._topic, number), offset)
        self._begin()
        return consumer

    def _poll(self, consumer: KafkaConsumer) -> dict[Any, Any]:
        try:
            return dict(consumer.poll(timeout_ms=POLL_MS))
        except Exception as error:
            self._raise_unless_retriable(error)
            time.sleep(POLL_MS / 1000)
            return {}

    async def _poll_async(self, consumer: AIOKafkaConsumer) -> dict[Any, Any]:
        try:
            return dict(await consumer.getmany(timeout_ms=POLL_MS))
        except Exception as error:
            self._raise_unless_retriable(error)
            await asyncio.sleep(POLL_MS / 1000)
            return {}

    def _begin(self) -> None:
        self._committed_at = self._last_message_at = time.monotonic()

    def _end(self) -> None:
        """Reset, so that iterating again resumes: at a group's committed offsets, else at the positions reached."""
        self._offsets, self._stopped = None, False
        if self._group is not None:
            self._positions = {}

    def _decode(self, partition: int, offset: int, key: bytes | None, value: bytes | None) -> Update | None:
        """Decode a message; None for a tombstone, for another user and for what is not an update."""
        self._positions[partition] = offset + 1
        if value is None or (self._keys is not None and key is not None and key not in self._keys):
            return None  # a null value is a tombstone: the user was forgotten
        if key is not None and offset < self._newest.get((partition, key), 0):
            return None
        try:
            update = self._decoder.decode(value)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            self.skipped += 1
            position = f"{self._topic}[{partition}] offset {offset}"
            self._warn(f"{position} is not an update, skipped ({self.skipped} so far): {error}")
            return None
        return update if self._users is None or update.user_id in self._users else None

    def _is_due(self) -> bool:
        return self._group is not None and time.monotonic() - self._committed_at >= COMMIT_S

    def _to_commit(self, assigned: Collection[Any]) -> dict[Any, int]:
        """The offsets of finished updates that this member may commit and has not committed yet."""
        if self._group is None:
            return {}
        self._committed_at = time.monotonic()
        unsaved = {tp: self._done[tp.partition] for tp in assigned if tp.partition in self._done}
        self._done = {}
        return unsaved

    def _commit(self, consumer: KafkaConsumer) -> None:
        from kafka import OffsetAndMetadata

        unsaved = self._to_commit(consumer.assignment())
        try:
            if unsaved:
                offsets = {tp: OffsetAndMetadata(offset, "", -1) for tp, offset in unsaved.items()}
                consumer.commit(offsets, timeout_ms=COMMIT_TIMEOUT_MS)
        except Exception as error:
            self._not_committed(error, unsaved)

    async def _commit_async(self, consumer: AIOKafkaConsumer) -> None:
        unsaved = self._to_commit(consumer.assignment())
        try:
            if unsaved:
                await asyncio.wait_for(consumer.commit(unsaved), COMMIT_TIMEOUT_MS / 1000)
        except Exception as error:
            self._not_committed(error, unsaved)

    def _not_committed(self, error: Exception, unsaved: dict[Any, int]) -> None:
        if not is_retriable(error):
            raise error
        self._done = {tp.partition: offset for tp, offset in unsaved.items()} | self._done
        self._warn(f"{describe(error)}; what was done is not committed yet, and may come again")

    def _is_silent(self, has_messages: bool) -> bool:
        now = time.monotonic()
        if has_messages:
            self._last_message_at = now
        is_silent = now - self._last_message_at >= (QUIET_S if not self._is_away else 1.0)
        if is_silent:
            self._last_message_at = now
        return is_silent

    def _check_broker(self) -> None:
        """Warn when no broker answers, and when one is back: the clients wait for it in silence."""
        try:
            check_reachable(self._settings)
        except KafkaError as error:
            if not self._is_away:
                self._warn(f"{error}; waiting for it")
            self._is_away = True
        else:
            if self._is_away:
                self._warn("Kafka answers again")
            self._is_away = False

    def _raise_unless_retriable(self, error: Exception) -> None:
        """Raise an error that waiting does not mend; after any other the caller polls again."""
        if isinstance(error, InterestreamError):
            raise error
        if is_retriable(error):
            return
        if "OffsetOutOfRange" in type(error).__name__:
            raise KafkaError(
                f"retention has removed messages of {self._topic} before they were read ({error}). Begin anew: "
                "from the beginning, from now, or with another group"
            ) from error
        raise KafkaError(f"{self._topic} cannot be read: {describe(error)}") from error

    def _unfinished(self, assigned: Collection[Any]) -> list[Any]:
        """The assigned partitions that have not reached the end the topic had at the beginning."""
        ends = self._offsets.ends if self._offsets is not None else {}
        return [tp for tp in assigned if self._positions.get(tp.partition, 0) < ends[tp.partition]]

    def _has_ended(self, consumer: KafkaConsumer) -> bool:
        """Whether all was read that the topic held; by positions too, as compaction may take the last messages."""
        assigned, ends = consumer.assignment(), self._offsets.ends if self._offsets is not None else {}
        at = {tp: consumer.position(tp, timeout_ms=COMMIT_TIMEOUT_MS) for tp in self._unfinished(assigned)}
        return bool(assigned) and all((offset or 0) >= ends[tp.partition] for tp, offset in at.items())

    async def _has_ended_async(self, consumer: AIOKafkaConsumer) -> bool:
        assigned, ends = consumer.assignment(), self._offsets.ends if self._offsets is not None else {}
        at = {tp: await consumer.position(tp) for tp in self._unfinished(assigned)}
        return bool(assigned) and all(offset >= ends[tp.partition] for tp, offset in at.items())
