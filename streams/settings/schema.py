"""Every setting, its type, its default and what it means."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

DEFAULT_STORE = "sqlite:///interestream.db"

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]  # a year: beyond it the clients' milliseconds overflow
Days = Annotated[float, Meta(gt=0, le=36_500)]  # a hundred years
Port = Annotated[int, Meta(ge=0, le=65_535)]


class Secret:
    """A secret text: printed as ***, read as `value`."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    brokers: str = "127.0.0.1:9092"  # host:port, host:port
    prefix: str = ""  # before every topic's and group's name: several installations on one cluster
    partitions: Count = 8  # of every topic keyed by user; one worker process reads at most so many at once
    replication: Count = 1  # 3 in production
    retention_days: Days = 7.0  # of behaviors, partitions, interest-updates and the dead letters
    session_timeout_s: Seconds = 45.0  # a worker that is silent for so long has its partitions given away
    isolation: Literal["read_committed", "read_uncommitted"] = "read_committed"  # an aborted transaction is not read
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    username: str | None = None
    password: Secret | None = None
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None


Backend = Literal["auto", "int8", "transformers"]


class LlmSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    url: str | None = None  # an OpenAI-compatible server such as vLLM; none: statistics write the texts
    model: str | None = None  # its name there
    key: Secret | None = None
    prompt_version: str | None = None  # none: json-1; those that read base rates with their version: json-2@1f0c52aa
    chained: bool = False  # a summary also reads the one before
    noun: str = "title,titles"  # what one item and several are called: film,films
    concurrent: Count = 64  # calls in flight
    window: Count = 256  # partitions in flight at once: enough that 64 calls are always in flight
    timeout_s: Seconds = 120.0  # of one call
    system_role: bool = True  # false: the model takes no system message, so it stands in front of the user's
    backend: Backend = "transformers"  # of an LLM in the process of `learn` and `replay`; auto: int8 if it can be had


class IngestSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    count: Count | None = 50  # the policy; see streams/ubsp/policy.py
    gap: str | None = None  # 12h, 7d...
    span: Literal["day", "week", "month", "year"] | None = None
    tokens: Count | None = None
    dedupe: Literal["store", "auto", "event_id", "row", "none", "time"] = "store"  # the store's own; auto in a new one
    scenes: Literal["joined", "apart"] = "joined"  # apart: partitions and texts of each scene by itself
    batch: Count = 20_000  # messages of one transaction, at most
    memory_mb: Count = 256  # that users' caches may take, about; 1 kB a user with a partition half full
    idle_s: Seconds = 60.0  # a Kafka partition silent for so long no longer holds back the sweep's watermark


class FusionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    encoder: str | None = None  # a folder; none: the fetched MiniLM
    half_life: Annotated[float, Meta(gt=0)] | None = None  # partitions; none: fusion/interests/pool.py's
    batch: Count = 64  # interests encoded together
    poll_s: Seconds = 10.0  # how often a new artifact is looked for, and new behaviours for the bank


class BankSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The behaviour bank's recipe; with an LLM set, the fusion stage and `fuse` fill the bank with what is new."""

    llm: str | None = None  # a folder, or a fetched model's name
    cut: Annotated[int, Meta(ge=0)] | None = None  # the LLM is split after so many layers; none: half of them
    pooling: Literal["mean", "last"] = "mean"
    precision: Literal["float32", "bfloat16"] = "float32"
    behavior: str | None = None  # how a behaviour reads; none: "{did} {value}: {title}, {categories}"
    item: str | None = None  # and an item; none: "{title}, {categories}"


class ItemSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an item reads to the text encoder."""

    template: str | None = None  # none: "{title}, {categories}; {attributes}"; {description}: of `describe`


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"  # of /metrics, /live and /ready
    port: Port = 8080  # of the first worker; the next takes the next. 0: a free one
    drain_s: Seconds = 8.0  # between SIGTERM and the end
    stuck_s: Seconds = 600.0  # without progress while there is work, and nothing known to be down: the worker exits
    log: Literal["json", "text"] = "text"


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scoring service, `interestream serve`."""

    host: str = "127.0.0.1"  # any other needs access keys
    port: Port = 8090
    artifact: str | None = None  # a folder; none: the one that is active in the store
    writes: Literal["store", "kafka"] = "store"  # fold what is written here, or hand it to the workers by Kafka
    keys: Secret | None = None  # lines of a key file, with ; between them
    keys_file: str | None = None  # is read again when it changes
    memory_mb: Count = 256  # of each process, for users' sides: 5 to 300 kB each, by the model
    threads: Count = 4  # of each process, for scores
    concurrent: Count = 64  # requests that a process answers at once; more are told to come again
    body_mb: Annotated[float, Meta(gt=0, le=1024)] = 8.0  # of one request
    body_s: Seconds = 10.0  # in which one must have come
    store_s: Seconds = 5.0  # that a score waits for the store before what is held is scored
    stale_s: Annotated[float, Meta(ge=0)] = 300.0  # so long, at most, is it scored; marked. 0: never
    poll_s: Seconds = 5.0  # how often a new active artifact is looked for
    drain_s: Seconds = 8.0  # between SIGTERM and the end
    learn: bool = False  # beside, a process writes the texts and representations of what closes; with writes = store
    learn_llm: str | None = None  # a checkpoint's folder, run in that process, or "statistics"; none: llm.url, if set
    learn_poll_s: Seconds = 0.5  # how often it looks for what has closed


class PageSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The live page, `interestream page`."""

    api: str = "http://127.0.0.1:8090"  # the service, as this page's process reaches it
    host: str = "127.0.0.1"  # any other shows only what needs an access key
    port: Port = 8091
    origin: str | None = None  # the page's address as browsers see it, where a proxy stands before it
    secret: Secret | None = None  # encrypts the cookies; several with ; between them, the newest first
    secret_file: str | None = None  # the same, one a line; none: page.secret in the cache, made at the first start


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    store: str = DEFAULT_STORE
    cache: str | None = None
    kafka: KafkaSettings = KafkaSettings()
    llm: LlmSettings = LlmSettings()
    ingest: IngestSettings = IngestSettings()
    fusion: FusionSettings = FusionSettings()
    bank: BankSettings = BankSettings()
    items: ItemSettings = ItemSettings()
    agent: AgentSettings = AgentSettings()
    serve: ServeSettings = ServeSettings()
    page: PageSettings = PageSettings()
