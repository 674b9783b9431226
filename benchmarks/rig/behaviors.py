"""Made-up behaviours as the messages of a topic: about 170 bytes of JSON, users uniform or Zipf over 100,000."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from confluent_kafka import Producer

USERS = 100_000
ZIPF = 1.1  # of 1M behaviours the busiest user has 13 %, the busiest hundred half: as skewed as music plays are
START = 1_700_000_000.0  # event time of the first; a hundred a second after it


def messages(users: str, rows: int, seed: int = 1) -> Iterator[tuple[str, str]]:
    """(key, value) of `rows` behaviours in event-time order; `users` is "uniform" or "zipf"."""
    chosen = np.random.default_rng(seed)
    if users == "uniform":
        who = chosen.integers(0, USERS, rows)
    else:
        weights = 1 / np.arange(1, USERS + 1) ** ZIPF
        who = chosen.choice(USERS, rows, p=weights / weights.sum())
    what = chosen.zipf(1.3, rows) % 50_000
    values = chosen.integers(1, 300, rows)
    for row, (user, item, value) in enumerate(zip(who.tolist(), what.tolist(), values.tolist(), strict=True)):
        key = f"user-{user:08d}"
        yield (
            key,
            f'{{"user_id":"{key}","item_id":"item-{item:08d}","action":"play","at":{START + row / 100:.3f},'
            f'"value":{value}.5,"scene":"home/shelf-3","event_id":"{seed:04d}-{row:012d}-8f2c41d0"}}',
        )


def producer(brokers: str) -> Producer:
    """librdkafka's, with Kafka's own partitioner: a producer in Python would be the slower half of a measurement."""
    return Producer(
        {
            "bootstrap.servers": brokers,
            "partitioner": "murmur2",
            "linger.ms": 20,
            "batch.size": 262_144,
            "queue.buffering.max.messages": 200_000,
            "enable.idempotence": True,
        }
    )


def preload(brokers: str, topic: str, keyed: Iterable[tuple[str, str]]) -> float:
    """Produce messages into a topic; return their mean size in bytes."""
    sender, size, rows = producer(brokers), 0, 0
    for key, value in keyed:
        size, rows = size + len(value), rows + 1
        while True:
            try:
                sender.produce(topic, value, key)
                break
            except BufferError:
                sender.poll(0.1)
        sender.poll(0)
    left = sender.flush(120)
    if left:
        raise TimeoutError(f"{left} messages were not acknowledged in two minutes")
    return size / rows


class Paced:
    """Produces at a rate, in ticks: a call of the producer for each message's own moment would cost a core."""

    TICK_S = 0.002

    def __init__(self, brokers: str, topic: str, per_s: float) -> None:
        self.topic, self.per_s = topic, per_s
        self._sender = producer(brokers)

    def send(self, keyed: Sequence[tuple[str, str]]) -> Iterator[tuple[range, float]]:
        """Hand over what is due; yields which rows these were, and the moment (time.time()) before the first."""
        begun, done = time.time(), 0
        while done < len(keyed):
            now = time.time()
            due = min(len(keyed), int((now - begun) * self.per_s) + 1)
            for key, value in keyed[done:due]:
                self._sender.produce(self.topic, value, key)
            yield range(done, due), now
            done = due
            self._sender.poll(0)
            time.sleep(max(0.0, now + self.TICK_S - time.time()))
        self._sender.flush(60)
