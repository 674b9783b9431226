"""The artifact that scores, and its scorer: a folder that was named, or the one that is active in the store."""

from __future__ import annotations

import threading
from pathlib import Path

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from fusion.serving.live import Counts, LiveScorer, LiveScores
from fusion.training.artifact import Artifact, load_artifact
from interest.errors import ArtifactError, InterestreamError
from streams.resolve.activation import read_activations
from streams.store.heads import read_head

log = structlog.get_logger()


class Scoring:
    """One process's scorer. `refresh` looks for another artifact; a request in flight ends with the one it began."""

    def __init__(self, engine: Engine, folder: Path | None, memory_mb: int) -> None:
        self._engine, self._folder, self._memory_mb = engine, folder, memory_mb
        self._scorer: LiveScorer | None = None
        self._active = -1  # number of the activation in force
        self._why = "no artifact is loaded yet"
        self._lock = threading.Lock()

    @property
    def artifact(self) -> Artifact | None:
        return None if self._scorer is None else self._scorer.artifact

    @property
    def not_ready(self) -> str | None:
        """Why nothing can be scored; None: it can."""
        return self._why if self._scorer is None else None

    def counts(self) -> Counts | None:
        return None if self._scorer is None else self._scorer.counts()

    def refresh(self) -> None:
        """Load the artifact if there is another than the one held; where that fails, keep it and say why."""
        with self._lock:
            try:
                self._refresh()
            except InterestreamError as error:
                self._why = str(error)
                log.warning("the artifact cannot be loaded", reason=self._why)
            except DBAPIError as error:  # who watches goes on: a store that is away may come back
                self._why = f"the store does not answer ({type(error).__name__})"
                log.warning("the store cannot be asked for the active artifact", reason=self._why)

    def _refresh(self) -> None:
        folder = self._folder
        if folder is not None and self._scorer is not None:
            return
        if folder is None:
            newest = next(iter(read_activations(self._engine)), None)
            if newest is None or not newest.artifact:
                if self._scorer is None:
                    self._why = "no artifact is active; run `interestream activate DIR`, or serve with --artifact DIR"
                return
            if newest.number == self._active:
                return
            folder = Path(newest.folder)
            artifact = load_artifact(folder)
            if artifact.id != newest.artifact:
                raise ArtifactError(f"{folder} holds artifact {artifact.id}, but {newest.artifact} was activated")
            self._active = newest.number
        else:
            artifact = load_artifact(folder)
        scorer = LiveScorer(artifact, read_head, memory_mb=self._memory_mb)
        with self._engine.connect() as connection:
            scorer.warm(connection)
        self._scorer = scorer
        log.info("scoring", artifact=artifact.id, folder=str(folder))

    def score(self, user_id: str, item_ids: list[str], at: float | None) -> tuple[str, LiveScores]:
        """The artifact's id and the scores. Raises ArtifactError where none is loaded."""
        scorer = self._scorer
        if scorer is None:
            raise ArtifactError(self._why)
        with self._engine.connect() as connection:
            return scorer.artifact.id, scorer.score(connection, user_id, item_ids, at)
