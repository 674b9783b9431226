"""What the service counts, for Prometheus; several worker processes share one picture."""

from __future__ import annotations

import os
import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from fusion.serving.live import Counts
from streams.service.learner_state import LearnerState

_SECONDS = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class ServiceMetrics:
    """Names begin with interestream_serve_."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"interestream_serve_{name}", text, registry=self.registry, multiprocess_mode="livesum")

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"interestream_serve_{name}", text, labels, registry=self.registry)

        self.seconds = Histogram(
            "interestream_serve_seconds", "from a request's arrival to its answer", ("route", "status"),
            registry=self.registry, buckets=_SECONDS,
        )  # fmt: skip
        self.refused = counter("refused", "requests turned away by a limit", "limit")
        self.scored = counter("scored", "candidates scored")
        self.behaviors = counter("behaviors", "behaviours taken, by what became of them", "verdict")
        self.in_flight = gauge("in_flight", "requests being answered")
        self.streams = gauge("streams", "streams of events that are open")
        self.users = gauge("user_sides", "users' sides held")
        self.bytes = gauge("user_side_bytes", "memory of users' sides")
        self.requests = gauge("score_requests", "users scored")
        self.hits = gauge("score_hits", "of these, the user's side was held")
        self.built = gauge("sides_built", "users' sides made from the whole log")
        self.evicted = gauge("sides_evicted", "users' sides let go for want of memory")
        self.stale = gauge("stale_scores", "users scored without the store, by what was held")
        self.full_reads = gauge("full_reads", "users scored by reading the whole log")
        self.freshness = Gauge(
            "interestream_serve_freshness_seconds", "now minus the newest behaviour known, at the last score",
            registry=self.registry, multiprocess_mode="mostrecent",
        )  # fmt: skip

        def learner(name: str, text: str) -> Gauge:
            return Gauge(
                f"interestream_serve_learn_{name}", text, registry=self.registry, multiprocess_mode="mostrecent"
            )

        self.learn_waiting = learner("waiting", "closed partitions without a text, of serve --learn")
        self.learn_written = learner("written", "partitions whose texts were written since the process began")
        self.learn_troubled = learner("troubled", "1: nothing is written; /v1/stream says why")
        self.learn_standing_by = learner(
            "standing_by", "1: another process writes the store's texts; this one takes over when that ends"
        )
        self.learn_silent = learner("silent_seconds", "since the process last said something")

    def take(self, counts: Counts) -> None:
        """What a scorer has counted."""
        self.users.set(counts.users)
        self.bytes.set(counts.bytes)
        self.requests.set(counts.requests)
        self.hits.set(counts.hits)
        self.built.set(counts.built)
        self.evicted.set(counts.evicted)
        self.stale.set(counts.stale)
        self.full_reads.set(sum(counts.full_reads.values()))

    def learned(self, state: LearnerState | None) -> None:
        """What the process that writes texts has said."""
        if state is None:
            return
        self.learn_waiting.set(state.waiting)
        self.learn_written.set(state.written)
        self.learn_troubled.set(state.trouble is not None)
        self.learn_standing_by.set(state.standing_by)
        self.learn_silent.set(max(time.time() - state.at, 0.0))  # a clock may be set back

    def knew(self, newest_at: float | None) -> None:
        """A score was made that knows of behaviours up to this event time."""
        if newest_at is not None:
            self.freshness.set(time.time() - newest_at)

    def page(self) -> bytes:
        registry = self.registry
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
