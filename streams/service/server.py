"""Runs the service: one process, or several that share an address and hand what is written to one that folds it.

SIGTERM: no connection is taken any more, event streams end, requests in flight are answered, what waits is written.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import nullcontext
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI
from threadpoolctl import threadpool_limits

from interest.errors import InputError
from streams.observability.logs import set_up_logs
from streams.service.access import Keys
from streams.service.app import Service, make_app
from streams.service.beside import Beside, end_with_the_service
from streams.service.forward import ForwardingWriter, writer_app
from streams.service.learning import learning
from streams.service.metrics import ServiceMetrics
from streams.service.scoring import Scoring
from streams.service.writers import EmbeddedWriter, KafkaWriter, Writer
from streams.settings.load import load_settings
from streams.settings.schema import Settings
from streams.stages.ingest.policy import policy_of
from streams.store.engine import open_store
from streams.temporary import temporary_folder

SOCKET = "SERVE_WRITER_SOCKET"  # of the writing process, handed to the workers by the environment
CONNECTIONS = 16  # of a process, beside those of its scores
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def keys_of(settings: Settings) -> Keys:
    """Raises InputError for keys that cannot be read."""
    serve = settings.serve
    text = None if serve.keys is None else serve.keys.value
    return Keys(text, None if serve.keys_file is None else Path(serve.keys_file))


def check_address(settings: Settings) -> str | None:
    """What is to be said of an open service. Raises InputError for one that others could reach without a key."""
    if keys_of(settings).any:
        return None
    if settings.serve.host not in LOOPBACK:
        raise InputError(
            f"--host {settings.serve.host}: without access keys the service answers on this machine only. Make a key "
            "by `interestream serve --new-key NAME`, put its line into a file, and name the file in "
            "INTERESTREAM_SERVE_KEYS_FILE; or leave --host out"
        )
    return "no access keys are set: whoever is on this machine may read, write and forget"


def make_writer(settings: Settings) -> Writer:
    """The writer of a process of its own."""
    engine = open_store(settings.store)
    if settings.serve.writes == "kafka":
        return KafkaWriter(settings.kafka, engine)
    return EmbeddedWriter(engine, policy_of(settings.ingest))


def make_service(settings: Settings, socket: str | None = None) -> Service:
    """Everything that one process works with."""
    serve = settings.serve
    # one for each score, and for pages and streams that look at the same time
    engine = open_store(settings.store, connections=serve.threads + CONNECTIONS)
    return Service(
        settings=serve,
        engine=engine,
        keys=keys_of(settings),
        scoring=Scoring(
            engine, None if serve.artifact is None else Path(serve.artifact), serve.memory_mb, serve.stale_s
        ),
        writer=ForwardingWriter(socket) if socket else make_writer(settings),
        metrics=ServiceMetrics(),
        draining=asyncio.Event(),
    )


def worker_app() -> FastAPI:
    """The application of a process, by the settings of its environment."""
    end_with_the_service()
    settings = load_settings()
    set_up_logs(settings.agent.log)
    # requests are spread over processes; threads of one product, torch's or NumPy's, only wait for each other
    torch.set_num_threads(1)
    threadpool_limits(1)
    return make_app(make_service(settings, os.environ.get(SOCKET)))


def serve(settings: Settings, workers: int) -> None:
    """Run until SIGTERM or Ctrl-C. The settings are those that a process reads from its environment.

    Raises InputError where the address cannot be used, SystemExit at SIGTERM where a process beside it has ended.
    """
    with learning() if settings.serve.learn else nullcontext():
        _serve(settings, workers)


def _serve(settings: Settings, workers: int) -> None:
    own = settings.serve
    config = uvicorn.Config(
        "streams.service.server:worker_app", factory=True, host=own.host, port=own.port, workers=workers,
        log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=int(own.drain_s) or 1,
        backlog=2 * own.concurrent, timeout_keep_alive=30,
    )  # fmt: skip
    if workers == 1:
        uvicorn.Server(config).run()
        return
    from uvicorn.supervisors import Multiprocess

    with temporary_folder("serve") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        writing = None
        if own.writes == "store":
            socket = os.environ[SOCKET] = str(folder / "writer.sock")
            writing = Beside(
                "the process that writes behaviours",
                run_writer,
                socket,
                before=lambda: Path(socket).unlink(missing_ok=True),
            )
        try:
            Multiprocess(config, sockets=[config.bind_socket()]).run()
        finally:
            if writing is not None:
                writing.stop()


def run_writer(socket: str) -> None:
    """The writing process, until SIGTERM."""
    settings = load_settings()
    set_up_logs(settings.agent.log)
    os.umask(0o077)
    config = uvicorn.Config(writer_app(make_writer(settings)), uds=socket, log_config=None, access_log=False)
    uvicorn.Server(config).run()
