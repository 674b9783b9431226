"""The artifact that scores, and its scorer: a folder that was named, or the one that is active in the store.

While the store does not answer, what is held of a user and of items is scored and marked, up to a setting; one request
a second asks the store whether it is back, so that the others need not wait for it.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import structlog
from sqlalchemy import Connection, Engine

from fusion.serving.live import Counts, Head, LiveScorer, LiveScores
from fusion.training.artifact import Artifact, load_artifact
from interest.errors import ArtifactError, InterestreamError, StoreError
from streams.resolve.activation import read_activations
from streams.service.problems import STORE_AWAY
from streams.store.heads import read_head

log = structlog.get_logger()
PROBE_S = 1.0  # between two requests that ask a store which does not answer


class Away:
    """Whether the store is known not to answer. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since = 0.0
        self._probe_at: float | None = None  # None: it answers

    @property
    def seconds(self) -> float | None:
        """Since it was first found not to answer; None: it answers."""
        return None if self._probe_at is None else time.monotonic() - self._since

    def asks(self) -> bool:
        """Whether this request is to ask the store."""
        with self._lock:
            now = time.monotonic()
            if self._probe_at is None:
                return True
            if now < self._probe_at:
                return False
            self._probe_at = now + PROBE_S
            return True

    def silent(self) -> None:
        with self._lock:
            if self._probe_at is None:
                log.warning("the store does not answer; what is held is scored")
                self._since = time.monotonic()
            self._probe_at = time.monotonic() + PROBE_S

    def answered(self) -> None:
        if self._probe_at is None:
            return
        with self._lock:
            self._probe_at = None
            log.info("the store answers again")


class Scoring:
    """One process's scorer. `refresh` looks for another artifact; a request in flight ends with the one it began."""

    def __init__(self, engine: Engine, folder: Path | None, memory_mb: int, stale_s: float = 0.0) -> None:
        """stale_s: how long after the store was last asked about a user what is held of them is scored."""
        self._engine, self._folder, self._memory_mb, self._stale_s = engine, folder, memory_mb, stale_s
        self._scorer: LiveScorer | None = None
        self._active = -1  # number of the activation in force
        self._why = "no artifact is loaded yet"
        self._lock = threading.Lock()
        self.away = Away()
        self._asking: dict[int, float] = {}  # by thread: since when it waits for the store's first answer

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
            except STORE_AWAY as error:
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
        scorer = LiveScorer(artifact, self._read_head, memory_mb=self._memory_mb)
        with self._engine.connect() as connection:
            scorer.warm(connection)
        self._scorer = scorer
        log.info("scoring", artifact=artifact.id, folder=str(folder))

    def score(
        self, user_id: str, item_ids: list[str], at: float | None, scene: str | None = None
    ) -> tuple[str, LiveScores]:
        """The artifact's id and the scores. Raises ArtifactError where none is loaded, StoreError without a store."""
        scorer = self._ready()
        if at is None and not self.away.asks():
            return self.score_held(user_id, item_ids, scene)
        self._asking[threading.get_ident()] = time.monotonic()
        try:
            with self._engine.connect() as connection:
                scores = scorer.score(connection, user_id, item_ids, at, scene)
        except STORE_AWAY:
            self.away.silent()
            if at is not None:
                raise
            return self.score_held(user_id, item_ids, scene)
        finally:
            self._asking.pop(threading.get_ident(), None)
        self.away.answered()
        return scorer.artifact.id, scores

    def _read_head(self, connection: Connection, user_id: str) -> Head:
        head = read_head(connection, user_id)
        self._asking.pop(threading.get_ident(), None)
        return head

    def waits_s(self) -> float:
        """How long a score has been waiting for the store's first answer; work and turns are not counted."""
        now = time.monotonic()
        return max((now - began for began in list(self._asking.values())), default=0.0)

    def score_held(self, user_id: str, item_ids: list[str], scene: str | None = None) -> tuple[str, LiveScores]:
        """The same without the store. Raises StoreError where too little is held."""
        scorer = self._ready()
        scores = scorer.score_held(user_id, item_ids, self._stale_s, scene)
        if scores is None:
            raise StoreError("the store does not answer, and nothing recent enough is held of this user; try again")
        return scorer.artifact.id, scores

    def _ready(self) -> LiveScorer:
        if self._scorer is None:
            raise ArtifactError(self._why)
        return self._scorer
