"""The process that writes texts and representations beside the service: `interestream serve --learn`.

A process of its own at low priority, so that neither the LLM nor the encoder slows a score. One works on a store at a
time; it waits for a store or an LLM that is away, and says so.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from sqlalchemy import Engine

from fusion.interests.text_vectors import Encoder
from interest.errors import ArtifactError, InputError, LlmError, StoreError, Unavailable
from interest.retry import Backoff
from streams.observability.logs import set_up_logs
from streams.resolve.encoder import encoder_folder
from streams.resolve.llm import STATISTICS, OpenLlm, service_llm
from streams.service.beside import USELESS, Beside, end_by_exception
from streams.service.learner import Learner, plan_of, scoring_artifact
from streams.service.learner_state import LEARNER_STATE, LearnerState, StateFile
from streams.service.problems import STORE_AWAY
from streams.settings.load import load_settings
from streams.settings.schema import Settings
from streams.store.engine import open_store
from streams.store.sole import Sole
from streams.temporary import temporary_folder

NICE = 10  # so that whatever scores comes first
CONNECTIONS = 8  # more than are in use, so that none is waited for
ANOTHER_S = 5.0  # between two looks whether the other process is still there
WAIT = Backoff(first_s=1.0, most_s=30.0, jitter=0.2)
SAY_S = 10.0  # between two signs of life
WHAT = "the process that writes texts"
log = structlog.get_logger()


def check_learning(settings: Settings) -> str:
    """What will write, in words. Raises InputError for an encoder, an LLM or prompts that cannot be used."""
    from fusion.encoders.sentence import check_encoder

    if settings.serve.writes == "kafka":
        raise InputError(
            "--learn: with serve.writes = kafka the agent's interest and fusion stages write the texts; leave it out"
        )
    folder = encoder_folder(settings.fusion.encoder)
    try:
        check_encoder(folder)
    except InputError as error:
        raise InputError(f"--learn needs the text encoder: {error}") from None
    own = settings.serve.learn_llm
    if own not in (None, STATISTICS) and not Path(str(own)).expanduser().is_dir():
        raise InputError(
            f"--learn: there is no language model at {own}; give a checkpoint's folder, such as the one that "
            "`interestream fetch` makes, or `statistics`"
        )
    engine = open_store(settings.store)
    try:
        artifact = None
        try:
            _, artifact = scoring_artifact(engine, settings)
        except ArtifactError as error:  # another may be activated; scores say the same
            log.warning("the artifact cannot be loaded", reason=str(error))
        server = own is None and settings.llm.url is not None
        plan = plan_of(engine, settings.llm, artifact, "json-1" if server else "plain-1")
    finally:
        engine.dispose()
    if own == STATISTICS or (own is None and settings.llm.url is None):
        why = "" if own == STATISTICS else ": no language model is set (--llm)"
        return f"texts are sentences from the counts, as {plan.prompt_version}{why}"
    return f"texts are written by {own or settings.llm.model}, by the prompts {plan.prompt_version}"


@contextmanager
def learning() -> Iterator[None]:
    """The process, for as long as the service runs. It has its settings from the environment, as all have."""
    end_by_exception()
    with temporary_folder("learn") as folder:
        path = folder / "state.json"
        os.environ[LEARNER_STATE] = str(path)
        process = Beside(
            WHAT, run_learner, str(path), ended=lambda code, again_s: _tell_of_the_end(path, code, again_s)
        )
        try:
            yield
        finally:
            process.stop()


def _tell_of_the_end(path: Path, code: int, again_s: float | None) -> None:
    file = StateFile(path)
    if again_s is not None:
        file.state.trouble = f"{WHAT} has ended ({code}); another starts in {again_s:g} s"
    elif file.state.trouble is None:
        file.state.trouble = f"{WHAT} has ended ({code})"
    file.state.standing_by = False
    file.write()


def run_learner(path: str) -> None:
    """The process, until SIGTERM, which ends it at once: what is stored is whole, and the next one goes on."""
    # read when torch is first loaded: threads that spin while they wait would take their time from scores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    os.nice(NICE)
    settings = load_settings()
    set_up_logs(settings.agent.log)
    file, code = StateFile(Path(path)), 0
    file.state = LearnerState()
    try:
        work(settings, file)
    except KeyboardInterrupt:
        log.info("no more texts are written", written=file.state.written, waiting=file.state.waiting)
    except InputError as error:
        log.warning("texts cannot be written", reason=str(error))
        file.state.trouble, code = str(error), USELESS
        file.write()
    except Exception:
        log.exception("texts cannot be written")
        code = 1
    os._exit(code)  # the interpreter's own end waits for threads that decode


def work(settings: Settings, file: StateFile) -> None:
    """Write texts and representations for ever. Raises InputError for what cannot be used, whatever is waited for."""
    from fusion.encoders.sentence import open_encoder

    with service_llm(settings) as llm:
        file.state.model = llm.name
        engine = _opened(settings, file)
        encoder = open_encoder(encoder_folder(settings.fusion.encoder))
        sole = Sole(engine, "learner")
        try:
            LearnerLoop(engine, settings, file, llm, encoder, sole).run()
        finally:
            sole.close()


def _opened(settings: Settings, file: StateFile) -> Engine:
    failures = 0
    while True:
        try:
            return open_store(settings.store, connections=CONNECTIONS)
        except StoreError as error:
            failures += 1
            _wait(file, str(error), WAIT.delay_s(failures))


def _wait(file: StateFile, trouble: str, seconds: float) -> None:
    if file.state.trouble != trouble:
        log.warning("texts wait", reason=trouble)
    file.state.trouble, file.state.standing_by = trouble, False
    file.write()
    time.sleep(seconds)


class LearnerLoop:
    """Steps of a `Learner`, and waits between them."""

    def __init__(
        self, engine: Engine, settings: Settings, file: StateFile, llm: OpenLlm, encoder: Encoder, sole: Sole
    ) -> None:
        self._engine, self._settings, self._file = engine, settings, file
        self._llm, self._encoder, self._sole = llm, encoder, sole
        self._learner: Learner | None = None
        self._failures = 0

    def run(self) -> None:
        while True:
            seconds = self.step()
            if seconds:
                time.sleep(seconds)

    def step(self) -> float:
        """One step; how long to rest after it."""
        try:
            if not self._sole.held():
                self._stand_by()
                return ANOTHER_S
            if self._learner is None:
                self._learner = self._made()
            more = self._learner.step()
        except (LlmError, StoreError, *STORE_AWAY) as error:
            self._failures += 1
            asked_s = error.asked_s if isinstance(error, Unavailable) else 0.0
            if self._learner is not None:
                self._file.state = self._state(self._learner, self._file.state.trouble)
            _wait(self._file, _told(error), max(WAIT.delay_s(self._failures), asked_s))
            return 0.0
        self._failures = 0
        self._say(self._learner)
        return 0.0 if more else self._settings.serve.learn_poll_s

    def _stand_by(self) -> None:
        """Healthy, with nothing to do: what waits is the other process's."""
        state = self._file.state
        if not state.standing_by:
            log.info("standing by: another process writes this store's texts")
        state.standing_by, state.trouble, state.waiting = True, None, 0
        self._file.write()

    def _made(self) -> Learner:
        learner = Learner(self._engine, self._settings, self._llm, self._encoder)
        self._file.state.prompt_version = learner.plan.prompt_version
        log.info("writing texts of what closes", model=self._llm.name, prompts=learner.plan.prompt_version)
        return learner

    def _say(self, learner: Learner) -> None:
        state, told = self._file.state, self._state(learner, learner.trouble)
        if state.trouble is not None and told.trouble is None:
            log.info("texts are written again")
        told.at = state.at
        if told != state or abs(time.time() - state.at) > SAY_S:  # a clock may be set back
            self._file.state = told
            self._file.write()

    def _state(self, learner: Learner, trouble: str | None) -> LearnerState:
        return LearnerState(
            model=self._llm.name, prompt_version=learner.plan.prompt_version, waiting=learner.waiting,
            written=learner.written, represented=learner.represented, trouble=trouble, notes=learner.notes,
        )  # fmt: skip


def _told(error: Exception) -> str:
    return (
        str(error)
        if isinstance(error, LlmError | StoreError)
        else f"the store does not answer ({type(error).__name__})"
    )
