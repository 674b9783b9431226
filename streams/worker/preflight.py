"""What a worker looks at before it joins any group: one that must end anyway would only disturb the healthy ones."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

import structlog
from sqlalchemy import Engine, func, select

from interest.errors import InputError
from streams.kafka.codecs import check_codecs
from streams.settings.schema import Settings
from streams.stages.ingest.policy import policy_of
from streams.store.tables import offsets
from streams.ubsp.ingest import Ingest

log = structlog.get_logger()


def preflight(settings: Settings, engine: Engine, stages: Sequence[str]) -> None:
    """1. Every codec of Kafka's can be read. 2. The port for /metrics and /ready is free. 3. The store has this policy,
    or none. 4. Say what no stage will do.

    Raises CodecError, InputError and StoreError with the remedy.
    """
    check_codecs()  # 1
    _check_port(settings.agent.host, settings.agent.port)  # 2
    if "ingest" in stages:
        Ingest(engine, policy_of(settings.ingest))  # 3
    if logs := _logs_in_store(engine):  # 4
        log.warning(
            "this store was also filled by `interestream replay` without Kafka; what that closed is not announced: "
            "`interestream learn` and `interestream fuse` see to it",
            logs=logs,
        )


def port_taken(host: str, port: int, error: OSError) -> InputError:
    why = "is taken by another process" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
    return InputError(f"port {port} on {host}, for /metrics and /ready, {why}; set INTERESTREAM_AGENT_PORT")


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a closed one may linger
        try:
            probe.bind((host, port))
        except OSError as error:
            raise port_taken(host, port, error) from error


def _logs_in_store(engine: Engine) -> int:
    with engine.connect() as connection:
        query = select(func.count()).select_from(offsets).where(offsets.c.source.like("log:%"))
        return int(connection.execute(query).scalar_one())
