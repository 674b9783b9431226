"""Rules of the settings beyond their types: the form of a text, and which settings need which. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from interest.errors import InputError
from streams.settings.durations import parse_duration
from streams.settings.schema import IngestSettings, KafkaSettings, LlmSettings, ServeSettings, Settings

Problem = tuple[str, str]  # the setting's name (kafka.brokers), and what is wrong with it


def problems(settings: Settings) -> Iterator[Problem]:
    """What is wrong, setting by setting; no text has a secret in it."""
    yield from _kafka(settings.kafka)
    yield from _llm(settings.llm)
    yield from _ingest(settings.ingest)
    yield from _serve(settings.serve)


def _kafka(kafka: KafkaSettings) -> Iterator[Problem]:
    if not all(_is_broker(broker.strip()) for broker in kafka.brokers.split(",")):
        yield "kafka.brokers", "must be host:port, or several with commas between, without kafka:// or a user"
    if not re.fullmatch(r"[a-zA-Z0-9._-]{0,150}", kafka.prefix):  # Kafka's names have 249 characters at most
        yield "kafka.prefix", f"{kafka.prefix!r} begins every topic's name: letters, digits, dots, _ and -, 150 at most"
    if kafka.security.startswith("SASL"):
        for key in ("username", "password"):
            if getattr(kafka, key) is None:
                yield f"kafka.{key}", f"is not set; {kafka.security} needs a username and a password"
    if kafka.key_file and not kafka.certificate_file:
        yield "kafka.certificate_file", "is not set; kafka.key_file is the key of that certificate"


def _is_broker(broker: str) -> bool:
    host, _, port = broker.rpartition(":")
    return bool(re.fullmatch(r"[^\s/@:]+|\[[0-9a-fA-F:.]+\]", host)) and port.isdecimal() and 0 < int(port) < 65_536


def _llm(llm: LlmSettings) -> Iterator[Problem]:
    if llm.url is not None and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", llm.url):
        yield "llm.url", "must be the address of a server, such as http://127.0.0.1:8000"
    if llm.url is not None and not llm.model:
        yield "llm.model", "is not set; llm.url needs it: the name under which the server has the model"
    if len([word for word in llm.noun.split(",") if word.strip()]) != 2:
        yield "llm.noun", f"{llm.noun!r} must be two words, what one item and several are called: film,films"


def _ingest(ingest: IngestSettings) -> Iterator[Problem]:
    if ingest.gap is not None:
        try:
            parse_duration(ingest.gap)
        except InputError as error:
            yield "ingest.gap", str(error)
    if ingest.count is None and ingest.gap is None and ingest.span is None and ingest.tokens is None:
        yield "ingest.count", "one of ingest.count, gap, span and tokens must be set, or no partition would ever close"


def _serve(serve: ServeSettings) -> Iterator[Problem]:
    if serve.learn_llm is not None and serve.learn_llm.startswith(("http://", "https://")):
        yield (
            "serve.learn_llm",
            "must be a checkpoint's folder or statistics; a server goes into llm.url, its model into llm.model",
        )
