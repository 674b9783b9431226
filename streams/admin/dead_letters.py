"""Dead letters read back: listed, sent again into their topic after a fix, or discarded.

A letter is open until a tombstone with its key follows it in the dead topic. Message and tombstone are one transaction
of Kafka's: a crash in between leaves the letter open and the message unread, so that a message is replayed once,
whatever the rule of duplicates is (readers skip what was aborted: INTERESTREAM_KAFKA_ISOLATION).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import groupby
from time import time
from typing import TYPE_CHECKING, Any

import msgspec

from interest.errors import InputError
from streams.kafka.clients import consumer_for_command, producer_for_command
from streams.kafka.dead_letter import DeadLetter, letter_key, read_letter
from streams.kafka.read import read_offset_ranges, read_records
from streams.kafka.topics import DEAD, Topics, dead_of
from streams.settings.schema import KafkaSettings

if TYPE_CHECKING:
    from kafka import KafkaConsumer, KafkaProducer

CHUNK_BYTES, CHUNK_LETTERS = 64 << 20, 1_000  # of one round of replay: what is held in memory, and redone after a crash


class OpenLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An open letter without its bytes, so that a million can be listed."""

    id: str  # topic/partition/offset of the message
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    reason: str
    key: bytes | None
    size: int | None  # bytes of the message; none: its value was null
    truncated: bool  # only its beginning was kept
    dead_topic: str
    dead_partition: int
    dead_offset: int

    @property
    def held(self) -> int:
        """Bytes of it in the dead topic."""
        return 0 if self.truncated else self.size or 0


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a replay."""

    sent: int = 0  # acknowledged, and their letters closed
    truncated: tuple[str, ...] = ()  # not sent: only their beginning is here
    refused: tuple[tuple[str, str], ...] = ()  # not sent: id and what the broker said


def full_name(settings: KafkaSettings, topic: str) -> str:
    """A topic that has dead letters, by its name with or without prefix and `.dead`. Raises InputError for another."""
    consumed = Topics(settings.prefix).consumed
    for name in (topic, settings.prefix + topic):
        if name.removesuffix(DEAD) in consumed:
            return name.removesuffix(DEAD)
    raise InputError(f"{topic!r} has no dead letters; these topics may have: {', '.join(consumed)}")


def open_letters(
    settings: KafkaSettings, topic: str | None = None, reason: str | None = None, ids: Sequence[str] = ()
) -> list[OpenLetter]:
    """The letters that are neither replayed nor discarded, in the order of their messages; one sent twice is one.

    `topic` narrows to one topic, `reason` to those whose reason holds the text, `ids` to these places. Raises
    InputError for an id that is not open.
    """
    wanted = {_id(settings, text) for text in ids}
    named = [topic] if topic else sorted({text.split("/")[0] for text in wanted}) or Topics(settings.prefix).consumed
    with consumer_for_command(settings) as client:
        found = _read_open_letters(
            client, read_offset_ranges(settings, [dead_of(full_name(settings, name)) for name in named])
        )
    if absent := wanted - found.keys():
        raise InputError(
            f"no dead letter is open for {', '.join(sorted(absent))}: it was replayed or discarded, is past its "
            "retention, or never was; see `interestream dead list`"
        )
    chosen = [
        letter
        for letter in found.values()
        if (not wanted or letter.id in wanted) and (reason is None or reason.lower() in letter.reason.lower())
    ]
    return sorted(chosen, key=lambda letter: (letter.topic, letter.partition, letter.offset))


def _id(settings: KafkaSettings, text: str) -> str:
    """A place as a letter's key has it."""
    topic, _, rest = text.partition("/")
    partition, _, offset = rest.partition("/")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise InputError(f"{text!r} is no TOPIC/PARTITION/OFFSET; `interestream dead list` prints them")
    return letter_key(full_name(settings, topic), int(partition), int(offset)).decode()


def _read_open_letters(
    client: KafkaConsumer, ranges: Mapping[tuple[str, int], tuple[int, int]]
) -> dict[str, OpenLetter]:
    """Open letters by id: of all records with one key the newest is the letter, or says that it is closed."""
    found: dict[str, OpenLetter] = {}
    for record in read_records(client, ranges):
        key = (record.key or b"").decode(errors="replace")
        if _is_tombstone(record):
            found.pop(key, None)
            continue
        try:
            letter = read_letter(record.value, record.headers)
        except InputError:
            continue  # something else that somebody sent here
        found.pop(key, None)
        found[key] = _open_letter(letter, record)
    return found


def _is_tombstone(record: Any) -> bool:
    """Whether a record is a tombstone; a letter about a null value has a null value too, but also a reason."""
    return record.value is None and not any(name == "reason" for name, _ in record.headers)


def _open_letter(letter: DeadLetter, record: Any) -> OpenLetter:
    return OpenLetter(
        id=letter_key(letter.topic, letter.partition, letter.offset).decode(),
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        timestamp_ms=letter.timestamp_ms,
        reason=letter.reason,
        key=letter.key,
        size=letter.truncated or (None if letter.value is None else len(letter.value)),
        truncated=letter.truncated is not None,
        dead_topic=record.topic,
        dead_partition=record.partition,
        dead_offset=record.offset,
    )


def read_whole(settings: KafkaSettings, letter: OpenLetter) -> DeadLetter:
    """A letter with its bytes."""
    with consumer_for_command(settings) as client:
        return _read_letters(client, [letter])[letter.id]


def _read_letters(client: KafkaConsumer, chunk: Sequence[OpenLetter]) -> dict[str, DeadLetter]:
    """The letters of a chunk with their bytes; one that retention took meanwhile is left out."""
    wanted = {(one.dead_topic, one.dead_partition, one.dead_offset): one.id for one in chunk}
    ranges: dict[tuple[str, int], tuple[int, int]] = {}
    for topic, partition, offset in wanted:
        start, end = ranges.get((topic, partition), (offset, offset + 1))
        ranges[topic, partition] = (min(start, offset), max(end, offset + 1))
    return {
        wanted[record.topic, record.partition, record.offset]: read_letter(record.value, record.headers)
        for record in read_records(client, ranges)
        if (record.topic, record.partition, record.offset) in wanted
    }


def still_refused(
    settings: KafkaSettings,
    letters: Sequence[OpenLetter],
    *,
    value: bytes | None = None,
    key: bytes | None = None,
    done: Callable[[int], None] = lambda _count: None,
) -> dict[str, str]:
    """By id, why a message would be refused again if `replay` sent it now with these arguments (see admin/validate.py).

    A letter that is cut off is not in it: `replay` does not send it anyway.
    """
    from streams.admin.validate import ConsumedMessage, refusal

    topics, found = Topics(settings.prefix), {}
    with consumer_for_command(settings) as client:
        for chunk in _chunks(letters):
            for id_, letter in _read_letters(client, chunk).items():
                if letter.truncated and value is None:
                    continue
                message = ConsumedMessage(
                    topic=letter.topic,
                    key=letter.key if key is None else key,
                    value=letter.value if value is None else value,
                    timestamp=int(time() * 1000),  # it will get a new one
                )
                if reason := refusal(topics, message):
                    found[id_] = reason
            done(len(chunk))
    return found


def replay(
    settings: KafkaSettings,
    letters: Sequence[OpenLetter],
    *,
    value: bytes | None = None,
    key: bytes | None = None,
    done: Callable[[int], None] = lambda _count: None,
) -> Replayed:
    """Send messages into their topics again, in the order given, and close their letters, in one transaction a chunk.

    A message keeps its value, its key and its Kafka partition, and gets a new time. `value` and `key` replace those of
    the one letter given; a new key goes to the partition that Kafka's partitioner names. `done` hears of progress.
    """
    whole = [letter for letter in letters if not letter.truncated or value is not None]
    outcome = Replayed(truncated=tuple(letter.id for letter in letters if letter.truncated and value is None))
    with consumer_for_command(settings) as client, _transactional(settings) as producer:
        for chunk in _chunks(whole):
            found = _read_letters(client, chunk)
            messages = [
                (
                    letter,
                    found[letter.id].value if value is None else value,
                    letter.key if key is None else key,
                    letter.partition if key is None else None,
                )
                for letter in chunk
                if letter.id in found
            ]
            accepted, refused = _send_and_close(producer, messages)
            outcome = msgspec.structs.replace(
                outcome,
                sent=outcome.sent + len(accepted),
                refused=outcome.refused + tuple(refused),
            )
            done(len(chunk))
    return outcome


def end_unfinished_replay(settings: KafkaSettings) -> None:
    """End the transaction of a replay that was killed: readers would wait for it. A live replay ends with an error."""
    with _transactional(settings):
        pass


def _transactional(settings: KafkaSettings) -> AbstractContextManager[KafkaProducer]:
    return producer_for_command(settings, transactions=f"{settings.prefix}dead-replay")


def _chunks(letters: Iterable[OpenLetter]) -> Iterator[list[OpenLetter]]:
    chunk: list[OpenLetter] = []
    held = 0
    for letter in letters:
        if chunk and (held + letter.held > CHUNK_BYTES or len(chunk) == CHUNK_LETTERS):
            yield chunk
            chunk, held = [], 0
        chunk.append(letter)
        held += letter.held
    if chunk:
        yield chunk


Message = tuple[OpenLetter, bytes | None, bytes | None, int | None]  # letter, value, key, Kafka partition


def _send_and_close(
    producer: KafkaProducer, messages: Sequence[Message]
) -> tuple[list[OpenLetter], list[tuple[str, str]]]:
    """All messages and their letters' tombstones, or none of them; what the broker refuses is left out."""
    refused: list[tuple[str, str]] = []
    while True:
        producer.begin_transaction()
        try:
            accepted, wrong = _send(producer, messages)
            refused += wrong
            if wrong and accepted:  # a transaction with a refused message cannot be committed: again without it
                producer.abort_transaction()
                left = {letter.id for letter in accepted}
                messages = [message for message in messages if message[0].id in left]
                continue
            close(producer, accepted, "replayed")
            if accepted:
                producer.commit_transaction()
            else:
                producer.abort_transaction()
        except BaseException:
            _abort(producer)
            raise
        return accepted, refused


def _abort(producer: KafkaProducer) -> None:
    """End the transaction if the broker lets us; else it does so itself after its time."""
    from kafka.errors import KafkaError as ClientError

    with suppress(ClientError, AssertionError):
        producer.abort_transaction()


def _send(producer: KafkaProducer, messages: Sequence[Message]) -> tuple[list[OpenLetter], list[tuple[str, str]]]:
    """Send and wait: the letters whose messages the broker has, and why it refused others."""
    from kafka.errors import MessageSizeTooLargeError, RecordListTooLargeError

    accepted: list[OpenLetter] = []
    refused: list[tuple[str, str]] = []
    too_large = (MessageSizeTooLargeError, RecordListTooLargeError)
    for topic, group in groupby(messages, key=lambda message: message[0].topic):
        count = len(producer.partitions_for(topic) or ())
        waiting = []
        for letter, value, key, partition in group:
            if key is None and value is None:
                refused.append((letter.id, "key and value are null: there is nothing to send; discard it"))
                continue
            # a topic made anew may have fewer partitions than the message's
            where = partition if partition is not None and partition < count else None
            try:
                waiting.append((letter, producer.send(topic, value, key=key, partition=where)))
            except too_large as error:
                refused.append((letter.id, str(error)))
        producer.flush(timeout=60.0)
        for letter, future in waiting:
            try:
                future.get(timeout=60.0)
            except too_large as error:
                refused.append((letter.id, f"larger than the topic's max.message.bytes ({error})"))
            else:
                accepted.append(letter)
    return accepted, refused


def discard(settings: KafkaSettings, letters: Sequence[OpenLetter]) -> None:
    """Close letters whose messages nobody wants."""
    with producer_for_command(settings) as producer:
        for start in range(0, len(letters), CHUNK_LETTERS):
            close(producer, letters[start : start + CHUNK_LETTERS], "discarded")


def close(producer: KafkaProducer, letters: Sequence[OpenLetter], how: str) -> None:
    """Send the letters' tombstones, each to the partition where its letter is, and wait for the broker to have them."""
    waiting = [
        producer.send(
            letter.dead_topic,
            None,
            key=letter.id.encode(),
            partition=letter.dead_partition,
            headers=[("done", how.encode())],
        )
        for letter in letters
    ]
    producer.flush(timeout=60.0)
    for future in waiting:
        future.get(timeout=60.0)
