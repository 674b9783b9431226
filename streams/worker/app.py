"""The composition root of the stream agent: settings become a store, metrics, stages, and a Faust app that runs them.

Every stage is a service of the app. The app has no Faust agents (`producer_only`): each stage has a consumer group of
its own, which one Faust app cannot give, and batches that a Faust agent would hand over one by one (streams/README.md).
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faust
import structlog
from mode import Service
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from interest.errors import InputError, InterestreamError
from streams.kafka.topics import STAGES
from streams.observability.health import Health
from streams.observability.journal import Journal
from streams.observability.metrics import Metrics
from streams.settings.schema import Settings
from streams.stages.stage import Context, Stage
from streams.worker.http import HealthServer

CHECK_S = 5.0  # how often the store is asked and a worker that is stuck is looked for
log = structlog.get_logger("agent")  # "streams.worker.app" is what mode calls the services of this file
EMPTY = Path(tempfile.gettempdir()) / "interestream-faust"  # Faust makes folders for tables, of which there are none


class StuckError(InterestreamError):
    """Work is left, nothing is known to be down, and nothing moves: a new process may do better."""

    exit_code = 75  # EX_TEMPFAIL: try again, where 2 means that trying again is of no use


def make_stage(name: str, context: Context) -> Stage:
    """The stage of that name; imports what it needs and nothing of the others."""
    if name == "ingest":
        from streams.stages.ingest.stage import IngestStage

        return IngestStage(context)
    if name == "interest":
        from streams.stages.interest.stage import InterestStage

        return InterestStage(context)
    if name == "fusion":
        from streams.stages.fusion.stage import FusionStage

        return FusionStage(context)
    raise InputError(f"there is no stage {name!r}; there are: {', '.join(STAGES)}")


class Worker:
    """One process of the agent: a Faust app with the stages, the monitor, and what ended it."""

    def __init__(self, settings: Settings, engine: Engine, stages: Sequence[str]) -> None:
        health = Health(expected=frozenset(stages))
        self.context = Context(settings=settings, engine=engine, metrics=Metrics(), health=health)
        self.stages = [make_stage(name, self.context) for name in stages]
        self.failure: BaseException | None = None  # what the process must end with
        self.app = faust.App(
            f"{settings.kafka.prefix}interestream",
            broker=[f"kafka://{broker}" for broker in settings.kafka.brokers.replace(" ", "").split(",")],
            broker_credentials=_credentials(settings),
            store="memory://",
            datadir=EMPTY,
            topic_disable_leader=True,
            web_enabled=False,
            worker_redirect_stdouts=False,
        )
        self.app.producer_only = True
        self.app.service(_make_service("monitor", self._monitor, self._end))
        for stage in self.stages:
            self.app.service(_make_service(stage.name, stage.run, self._end, drain_s=settings.agent.drain_s))

    def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises what a stage raised, once all others have drained."""
        worker = faust.Worker(self.app, loglevel="WARN", override_logging=False, redirect_stdouts=False, quiet=True)
        worker.spinner = None  # it would write to the terminal
        try:
            worker.execute_from_commandline()
        except SystemExit as ended:
            if ended.code and self.failure is None:
                raise
        finally:
            self.context.engine.dispose()
        if self.failure is not None:
            raise self.failure

    def _end(self, failure: BaseException) -> None:
        """A stage cannot go on: the other stages drain, then the process ends with this."""
        if self.failure is None:
            self.failure = failure
            self.context.health.refused = str(failure)
            log.error("worker ends", reason=str(failure), error=type(failure).__name__)
            signal.raise_signal(signal.SIGTERM)  # stopping the app alone would leave Faust's worker waiting for ever

    async def _monitor(self, stop: asyncio.Event) -> None:
        """Serve /metrics, /live and /ready; ask the store now and then; end a worker that is stuck."""
        agent, health = self.context.settings.agent, self.context.health
        monitor, journal = HealthServer(self.context), Journal()
        await monitor.start()
        log.info("worker started", stages=[stage.name for stage in self.stages], port=monitor.port)
        try:
            while not stop.is_set():
                await asyncio.to_thread(self._probe_store)
                journal.write(health, self.context.metrics, time.monotonic())
                now = time.monotonic()
                stuck = health.stuck_for(now)
                if stuck > agent.stuck_s and not health.down:
                    raise StuckError(
                        f"nothing has moved for {stuck:.0f} s though there is work and nothing is known to be down "
                        f"({'; '.join(health.reasons_not_ready(now))}); the worker ends so that it can be restarted"
                    )
                await _wait(stop, CHECK_S)
        finally:
            await monitor.stop()

    def _probe_store(self) -> None:
        try:
            with self.context.engine.connect() as connection:
                connection.execute(text("select 1"))
        except SQLAlchemyError as error:
            self.context.health.failed("store", type(error).__name__)
        else:
            self.context.health.up("store")


def _make_service(
    label: str,
    run: Callable[[asyncio.Event], Any],
    end: Callable[[BaseException], None],
    drain_s: float = 2.0,  # the monitor has nothing to drain
) -> type[Service]:
    """A Faust service around a coroutine that ends when its event is set."""

    class StageService(Service):
        async def on_start(self) -> None:
            self.halt = asyncio.Event()
            self.work = asyncio.create_task(self._guarded(), name=label)

        async def _guarded(self) -> None:
            try:
                await run(self.halt)
            except asyncio.CancelledError:
                raise
            except BaseException as failure:
                end(failure)

        async def on_stop(self) -> None:
            self.halt.set()
            _, left = await asyncio.wait([self.work], timeout=drain_s)
            for task in left:
                log.warning("stage cut off", stage=label, after_s=drain_s)
                task.cancel()
                await asyncio.wait([task], timeout=1.0)

    return StageService


def _credentials(settings: Settings) -> Any:
    """Faust's form of the Kafka settings' security; None for a plain connection."""
    from streams.kafka.clients import python_options

    kafka = settings.kafka
    context = python_options(kafka).get("ssl_context")
    if kafka.security.startswith("SASL"):
        assert kafka.username is not None  # python_options has checked both
        assert kafka.password is not None
        return faust.SASLCredentials(
            username=kafka.username,
            password=kafka.password.value,
            mechanism=kafka.sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
