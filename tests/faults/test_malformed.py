"""Messages that are not behaviours, of every kind, among good ones: each a dead letter once, and no good one lost."""

from __future__ import annotations

import json
import random
from typing import Any

from streams.kafka.clients import admin
from streams.kafka.topics import dead_of
from tests.support.fault_site import Message, Site, assert_as_undisturbed, log_of, messages_of, read_topic
from tests.support.moments import SOAK

GOOD, BAD, LARGE = (20_000, 20_000, 3) if SOAK else (4_000, 4_000, 1)
TEN_MB = 10_000_000


def _changed(**changes: Any) -> bytes:
    """A good behaviour of `user-1` but for these fields; None leaves one out."""
    whole = {"user_id": "user-1", "item_id": "i", "action": "play", "at": 1.7e9, **changes}
    return json.dumps({name: value for name, value in whole.items() if value is not None}).encode()


LONG = random.Random(1).randbytes(4_000).hex()  # random, for PostgreSQL compresses first
# What each is, and its key and value.
KINDS: dict[str, Message] = {
    "not JSON": (b"user-1", b"what?"),
    "an empty value": (b"user-1", b""),
    "JSON cut off": (b"user-1", _changed()[:-9]),
    "a byte order mark": (b"user-1", b"\xef\xbb\xbf" + _changed()),
    "not an object": (b"user-1", b"[1]"),
    "nested deeper than any stack": (b"user-1", b'{"user_id":' + b"[" * 5_000),
    "a number for an id": (b"user-1", _changed(user_id=5)),
    "a text for a time": (b"user-1", _changed(at="2026-01-01")),
    "a boolean for a value": (b"user-1", _changed(value=True)),
    "a number too large": (b"user-1", _changed()[:-1] + b', "value": 1e999}'),
    "NaN": (b"user-1", _changed(value=float("nan"))),
    "no item": (b"user-1", _changed(item_id=None)),
    "no time": (b"user-1", _changed(at=None)),
    "an empty user": (b"", _changed(user_id="")),
    "an empty item": (b"user-1", _changed(item_id="")),
    "invalid UTF-8": (b"user-1", b'{"user_id":"user-1","item_id":"\xff\xfe","action":"a","at":1}'),
    "a lone surrogate": (b"user-1", _changed(item_id="\ud800")),
    "a key that is not UTF-8": (b"\xff\xfe", _changed()),
    "the far future": (b"user-1", _changed(at=4e9)),
    "milliseconds": (b"user-1", _changed(at=1.7e12)),
    "a time before 1970": (b"user-1", _changed(at=-1.0)),
    "no key": (None, _changed()),
    "no value": (b"user-1", None),
    "a NUL character": (b"user-1", _changed(item_id="a\0b")),
    "another user's key": (b"user-2", _changed()),
    "an id that no index of PostgreSQL could hold": (LONG.encode(), _changed(user_id=LONG)),
}


def test_every_malformed_message_becomes_one_dead_letter_and_no_good_one_is_lost(site: Site) -> None:
    log = log_of(GOOD)
    kinds = list(KINDS.values())
    bad = [kinds[number % len(kinds)] for number in range(BAD)]
    bad += [(b"user-1", bytes([65 + number]) * TEN_MB) for number in range(LARGE)]
    with admin(site.kafka) as client:
        _allow(client, site.topics.behaviors, 2 * TEN_MB)
    are_good = [True] * GOOD + [False] * len(bad)
    random.Random(1).shuffle(are_good)
    turns = {True: iter(messages_of(log)), False: iter(bad)}
    mixed = [next(turns[good]) for good in are_good]

    places = site.produce(mixed)
    worker = site.start()
    site.wait_for(len(mixed))
    assert_as_undisturbed(site, log)
    assert site.counted("rejected") == len(bad)

    expected = {
        f"{site.topics.behaviors}/{partition}/{offset}".encode(): message
        for good, message, (partition, offset) in zip(are_good, mixed, places, strict=True)
        if not good
    }
    letters = read_topic(site.kafka, dead_of(site.topics.behaviors))
    assert len(letters) == len(expected)
    assert {letter.key for letter in letters} == set(expected)
    for letter in letters:
        key, value = expected[letter.key]
        headers = dict(letter.headers)
        assert letter.value == value
        assert headers["reason"].decode()
        assert headers.get("key") == key
        assert b"/".join((headers["topic"], headers["partition"], headers["offset"])) == letter.key
    assert worker.metric("interestream_dead_letters_total") == len(bad)
    worker.end()


def _allow(client: Any, topic: str, size: int) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType

    client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={"max.message.bytes": str(size)})])
