"""Routes about models and the stream as a whole: what one artifact scored, and how far the stages are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import Connection, Engine, func, select

from fusion.tables import representations, vectors
from fusion.training.artifact import FILES, Metrics, artifact_id, read_config
from fusion.training.curves import read_curves
from interest.errors import InterestreamError
from interest.store.tables import interests, partitions
from streams.resolve.activation import read_activations
from streams.service.learner_state import learner_state
from streams.service.problems import ProblemError
from streams.settings.load import load_settings
from streams.settings.schema import ServeSettings
from streams.store.stats import OF_BEHAVIORS, read_llm_cost
from streams.store.tables import offsets, outbox


class Service(Protocol):
    """What the routes need of the service."""

    @property
    def engine(self) -> Engine: ...
    @property
    def settings(self) -> ServeSettings: ...


class ArtifactReport(BaseModel):
    """What is kept of one artifact beside its weights."""

    id: str
    kind: str
    split: str
    versions: dict[str, str]
    model: Annotated[dict[str, Any], Field(description="The model's sizes")]
    training: dict[str, Any]
    metrics: Annotated[dict[str, dict[str, float | None]], Field(description="By part; none: it is not defined there")]
    epochs: Annotated[list[dict[str, Any]], Field(description="The learning curve; empty where none was kept")]
    calibration: Annotated[dict[str, list[dict[str, float]]], Field(description="By part, bins of equal size")]


class StageState(BaseModel):
    stage: str
    done: int
    waiting: Annotated[int, Field(description="What the stage has not worked on yet")]


class LearnerReport(BaseModel):
    """The process that writes texts beside the service (`serve --learn`)."""

    model: str
    prompt_version: str
    waiting: Annotated[int, Field(description="Closed partitions without a text")]
    written: Annotated[int, Field(description="Partitions whose texts it has written since it began")]
    represented: Annotated[int, Field(description="Partitions whose texts it has encoded")]
    standing_by: Annotated[
        bool, Field(description="Another process writes this store's texts; this one takes over when that ends")
    ]
    trouble: Annotated[str | None, Field(description="Why nothing is written now")]
    notes: list[str]
    silent_s: Annotated[float, Field(description="Seconds since it last said something")]


class StreamState(BaseModel):
    accepted: Annotated[int, Field(description="Behaviours, forgotten users' included")]
    late: int
    duplicates: int
    rejected: int
    stages: Annotated[list[StageState], Field(description="As the store has it")]
    outbox: Annotated[int, Field(description="Messages that may not have reached Kafka yet")]
    lag: Annotated[dict[str, int] | None, Field(description="By stage, as Kafka has it; none without Kafka")]
    lag_problem: str | None
    learner: Annotated[LearnerReport | None, Field(description="none: nothing here writes texts")]
    llm_calls: int
    llm_cached: int
    llm_prompt_tokens: int
    llm_completion_tokens: int
    llm_seconds: float
    llm_behaviors: Annotated[int, Field(description="Behaviours in partitions that the LLM was asked about")]


def operate_router(service: Service, allowed: Callable[[str], Any]) -> APIRouter:
    """The routes. `allowed`: the dependency that a request's key has a scope."""
    router = APIRouter(dependencies=[allowed("read")], tags=["operate"])

    @router.get("/v1/artifacts/{artifact}")
    def artifact_report(artifact: str) -> ArtifactReport:
        """Metrics, slices, learning curve and calibration of an artifact that scores here or was activated."""
        folder = _folders(service).get(artifact)
        if folder is None:
            raise ProblemError(404, "no such artifact scores here or was activated in this store", field="artifact")
        return _report(artifact, folder)

    @router.get("/v1/stream")
    def stream() -> StreamState:
        """How far the stages are, and what the language model cost."""
        lag, problem = _lag(service)
        with service.engine.connect() as connection:
            return _state(connection, lag, problem)

    return router


def _folders(service: Service) -> dict[str, Path]:
    """Where the artifacts are that this service may speak of."""
    found = {one.artifact: Path(one.folder) for one in read_activations(service.engine) if one.artifact}
    if service.settings.artifact is not None:
        folder = Path(service.settings.artifact)
        if all((folder / name).exists() for name in FILES):
            found[artifact_id(folder)] = folder
    return found


def _report(artifact: str, folder: Path) -> ArtifactReport:
    try:
        config = read_config((folder / "config.json").read_bytes())
        metrics = msgspec.json.decode((folder / "metrics.json").read_bytes(), type=dict[str, dict[str, float | None]])
    except (OSError, msgspec.MsgspecError) as error:
        text = f"the artifact's folder cannot be read on this machine ({type(error).__name__})"
        raise ProblemError(404, text, field="artifact") from None
    curves = read_curves(folder, artifact)
    told = msgspec.to_builtins(config)
    return ArtifactReport(
        id=artifact,
        kind=config.kind,
        split=config.split,
        versions=config.versions,
        model=told["model"],
        training=told["training"],
        metrics=_finite(metrics),
        epochs=[] if curves is None else msgspec.to_builtins(curves.epochs),
        calibration={} if curves is None else msgspec.to_builtins(curves.calibration),
    )


def _finite(metrics: Metrics | dict[str, dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
    return {
        part: {name: None if value is None or math.isnan(value) else value for name, value in held.items()}
        for part, held in metrics.items()
    }


def _lag(service: Service) -> tuple[dict[str, int] | None, str | None]:
    """Lag by stage, or why Kafka does not say."""
    if service.settings.writes != "kafka":
        return None, None
    from streams.admin.lag import read_lag

    try:
        report = read_lag(service.engine, load_settings().kafka)  # every process has its settings from there
    except InterestreamError as error:
        return None, str(error)
    return {one.stage: one.lag for one in report.stages}, None


def _state(connection: Connection, lag: dict[str, int] | None, problem: str | None) -> StreamState:
    names = ("accepted", "late", "duplicates", "rejected")
    sums = connection.execute(
        select(*(func.coalesce(func.sum(offsets.c[name]), 0) for name in names)).where(OF_BEHAVIORS)
    ).one()
    closed = connection.scalar(select(func.count()).select_from(partitions)) or 0
    written = _distinct(connection, interests)
    encoded, represented = _distinct(connection, vectors), _distinct(connection, representations)
    cost = read_llm_cost(connection)
    each = cost.calls_per_1000_behaviors
    return StreamState(
        **dict(zip(names, map(int, sums), strict=True)),
        stages=[
            StageState(stage="interest", done=written, waiting=max(closed - written, 0)),
            StageState(stage="fusion: texts encoded", done=encoded, waiting=max(written - encoded, 0)),
            StageState(stage="fusion: users represented", done=represented, waiting=max(encoded - represented, 0)),
        ],
        outbox=connection.scalar(select(func.count()).select_from(outbox)) or 0,
        lag=lag,
        lag_problem=problem,
        learner=_learner(),
        llm_calls=cost.calls,
        llm_cached=cost.cached,
        llm_prompt_tokens=cost.prompt_tokens,
        llm_completion_tokens=cost.completion_tokens,
        llm_seconds=cost.seconds,
        llm_behaviors=round(1000 * cost.calls / each) if each else 0,
    )


def _learner() -> LearnerReport | None:
    state = learner_state()
    if state is None:
        return None
    told: dict[str, Any] = msgspec.to_builtins(state)
    silent_s = max(time.time() - told.pop("at"), 0.0)
    return LearnerReport(**told, silent_s=silent_s)


def _distinct(connection: Connection, table: Any) -> int:
    """Partitions that have at least one row there, whatever versions and artifacts made them."""
    keys = (table.c.user_id, table.c.generation, table.c["index"])
    return connection.scalar(select(func.count()).select_from(select(*keys).distinct().subquery())) or 0
