"""What a worker counts, for Prometheus. One registry a process, handed to every stage."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """All of a worker's metrics; names begin with interestream_."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"interestream_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"interestream_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"interestream_{name}", text, labels, registry=self.registry, buckets=_SECONDS)

        self.messages = counter("messages", "messages consumed and done with", "stage", "topic")
        self.skipped = counter("skipped", "messages about what the store no longer has: forgotten users", "stage")
        self.dead = counter("dead_letters", "messages that could not be used", "topic")
        self.behaviors = counter("behaviors", "behaviours by what became of them", "verdict")
        self.closed = counter("partitions_closed", "partitions closed", "reason")
        self.announced = counter("announced", "messages sent and acknowledged", "topic")
        self.fenced = counter("fenced", "batches that the store refused because another worker has the partition")
        self.retries = counter("retries", "attempts that failed and were tried again", "stage", "cause")
        self.lag = gauge("lag", "messages not done with yet", "stage", "topic", "partition")
        self.commit = histogram("commit_seconds", "one transaction of a stage", "stage")
        self.latency = histogram("latency_seconds", "from a message's own time to its effect in the store", "stage")
        self.in_flight = gauge("llm_in_flight", "calls to the language model in flight")
        self.calls = counter("llm_calls", "calls to the language model", "outcome")
        self.tokens = counter("llm_tokens", "tokens read and written by the language model", "kind")
        self.interests = counter("interests", "interests written, by the outcome of their summary", "outcome")
        self.shifts = counter("shifts", "shifts written, by their outcome; unchanged: no call was made", "outcome")
        self.representations = counter("representations", "representations written", "artifact")
        self.banked = counter("bank_behaviors", "behaviours looked up in the behaviour bank, and filled in where new")
        self.bank_behind = gauge("bank_behind_seconds", "how long behaviours that the bank may lack have been known of")
        self.ready = gauge("ready", "1 while /ready says yes")
