"""Texts and representations of what closes while the service runs: the work of `learn` and `fuse`, a little at a time.

The user whose partition closed last comes first, and of one user the oldest partition; what closed before the service
began is worked off in between. The rows are those that `interestream learn` and the stream write, by the same
functions. Knows nothing of processes: streams/service/learning.py runs it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import Engine

from fusion.interests.item_vectors import encode_items
from fusion.interests.pool import HALF_LIFE
from fusion.interests.text_vectors import (
    KEY_COLUMNS,
    EncodedInterest,
    Encoder,
    encode_interests,
    texts_of_row,
    without_vectors,
)
from interest.errors import ArtifactError, InputError
from interest.store import counters
from interest.store.sql import writing
from interest.store.tables import interests
from interest.write.backfill import Learned, learn
from interest.write.backlog import CHAINED, Plan, count_open, users_waiting
from interest.write.prompts import Style
from interest.write.rates import freeze_rates, with_rates
from streams.resolve.activation import read_activations
from streams.resolve.bank_fill import Accepted, accepted_counts
from streams.resolve.llm import OpenLlm, nouns
from streams.settings.schema import LlmSettings, Settings
from streams.stages.fusion.item_texts import ItemTexts, count_items
from streams.stages.fusion.rows import (
    RepresentationConfig,
    RewrittenError,
    item_texts_waiting,
    write_batch,
    write_missing,
)
from streams.store.invalidate import delete_derived

if TYPE_CHECKING:
    from fusion.training.artifact import Artifact

PLAIN = 128  # partitions a round without an LLM: tenths of a second
IN_PROCESS = 4  # by an LLM in this process: what closes meanwhile waits for them, some seconds
FUSED = 64  # interests encoded and written together
LOOK_S = 30.0  # after which the store is looked through although no behaviour has come
REST = 9.0  # times as long as a look through the store took, until the next: a tenth of the time at most
AVOID_S = 60.0  # that a user is left alone after replies that could not be read
AGAIN_S = 1.0  # and after one of those to be written was forgotten
log = structlog.get_logger()


def plan_of(engine: Engine, llm: LlmSettings, artifact: Artifact | None, otherwise: str) -> Plan:
    """By which prompts: those of the settings, else those whose texts the artifact reads, else `otherwise`.

    Raises InputError for an unknown version, and for one whose base rates the store neither has nor can freeze.
    """
    wanted = llm.prompt_version or (_version_read(artifact) or otherwise)
    version, rates = with_rates(engine, wanted, freeze_new=freeze_rates)
    plan = Plan(
        prompt_version=version,
        rates=rates,
        chained=llm.chained or version.endswith(CHAINED),
        style=Style(noun=nouns(llm.noun)),
    )
    plan.prompt()
    return plan


def scoring_artifact(engine: Engine, settings: Settings) -> tuple[int, Artifact | None]:
    """The number of the activation that is in force, and the artifact that scores; -1 for one that was named.

    Raises ArtifactError where it cannot be loaded.
    """
    from fusion.training.artifact import load_artifact

    if settings.serve.artifact is not None:
        return -1, load_artifact(Path(settings.serve.artifact))
    newest = next(iter(read_activations(engine)), None)
    if newest is None or not newest.artifact:
        return 0 if newest is None else newest.number, None
    return newest.number, load_artifact(Path(newest.folder))


class Learner:
    """Call `step` for ever; it says whether there may be more to do at once."""

    def __init__(self, engine: Engine, settings: Settings, llm: OpenLlm, encoder: Encoder) -> None:
        """Raises InputError for prompts that cannot be, as `plan_of` does."""
        self._engine, self._settings, self._llm, self._encoder = engine, settings, llm, encoder
        self._items = ItemTexts(engine)
        self._most = PLAIN if llm.complete is None else IN_PROCESS
        if llm.complete is not None and settings.serve.learn_llm is None:
            self._most = settings.llm.concurrent
        self._active: int | None = None  # number of the activation in force
        self._next_check = 0.0
        self._seen: tuple[Accepted, int] | None = None  # the store when it was last found to have nothing to do
        self._look_at = 0.0  # when it is looked through at the earliest
        self._look_anyway = 0.0  # and at the latest, as soon as a user is to be left alone no longer
        self._others_at = 0.0  # when texts by others are looked for
        self._unfused: set[str] = set()  # users whose texts may have no vectors yet
        self._avoid: dict[str, float] = {}  # users, and until when
        self.waiting = self.written = self.represented = 0
        self.notes: tuple[str, ...] = ()
        self.trouble: str | None = None  # that ended nothing
        self.plan: Plan
        self._config: RepresentationConfig
        self._check_artifact()

    def step(self) -> bool:
        """1. The artifact that scores. 2. What was written and not encoded yet, now and then also by others.
        3. Texts of a few users and their representations. 4. With nothing left: vectors of items.

        Raises LlmError where the LLM is not there or refuses everything, and what SQLAlchemy does without a store: what
        is done is stored, and the next step goes on from there.
        """
        if time.monotonic() >= self._next_check:  # 1
            self._check_artifact()
        self._fuse_left()  # 2
        more = self._fuse_others()
        if self._may_have_work():
            began = time.monotonic()
            users, state = self._look()
            if users:
                self._write(users)  # 3
                self._fuse_left()
                return True
            self._seen = state
            ended = time.monotonic()
            self._look_at = ended + REST * (ended - began)
            self._look_anyway = max(self._look_at, min([ended + LOOK_S, *self._avoid.values()]))
        return more or self._items.step(self._encoder)  # 4

    # What is to be done.

    def _may_have_work(self) -> bool:
        now = time.monotonic()
        if self._seen is None or now >= self._look_anyway:
            return True
        return now >= self._look_at and self._state_of_store() != self._seen

    def _state_of_store(self) -> tuple[Accepted, int]:
        with self._engine.connect() as connection:
            return accepted_counts(connection), counters.read(connection, counters.FORGETS)

    def _look(self) -> tuple[list[str], tuple[Accepted, int]]:
        """The users whose turn it is, and the state of the store before it was looked through."""
        state, now, llm = self._state_of_store(), time.monotonic(), self._llm.complete is not None
        self._avoid = {user: until for user, until in self._avoid.items() if until > now}
        if not self._avoid:
            self.trouble = None
        self.waiting = count_open(self._engine, self.plan, llm=llm)
        if not self.waiting:
            return [], state
        users: list[str] = []
        partitions = 0
        for user, count in users_waiting(self._engine, self.plan, self._most + len(self._avoid), llm=llm):
            if user in self._avoid:
                continue
            if users and partitions + count > self._most:
                break
            users.append(user)
            partitions += count
        return users, state

    # Texts.

    def _write(self, users: Sequence[str]) -> None:
        """Texts of these users' partitions, the oldest of each first, `most` in all."""
        self._unfused.update(users)
        done = Learned()
        try:
            learn(
                self._engine,
                self._llm.complete,
                model=self._llm.name,
                plan=replace(self.plan, users=tuple(users)),
                replaced=delete_derived,
                done=done,
                most=self._most,
            )
        except InputError as error:  # the prompts are known to be right: a user was forgotten meanwhile
            log.info("looking again", reason=type(error).__name__)
            self._avoid |= dict.fromkeys(users, time.monotonic() + AGAIN_S)
        finally:
            self.written += done.partitions
            self.waiting = max(self.waiting - done.partitions, 0)
            if done.partitions:
                log.info(
                    "texts written", partitions=done.partitions, waiting=self.waiting, seconds=round(done.seconds, 1)
                )
        if done.unread:
            self.trouble = (
                f"replies about {done.unread:,} partitions could not be read, and are asked for again: {done.trouble}"
            )
            log.warning("replies cannot be read; they are asked for again later", partitions=done.unread)
            self._avoid |= dict.fromkeys(users, time.monotonic() + AVOID_S)

    # Representations.

    def _fuse_left(self) -> None:
        if not self._unfused:
            return
        while self._fuse_page(self._unfused):
            pass
        self._unfused.clear()

    def _fuse_others(self) -> bool:
        """Some of whatever has no vectors; whether there may be more. Looked for every LOOK_S seconds."""
        if time.monotonic() < self._others_at:
            return False
        if self._fuse_page(None):
            return True
        self._others_at = time.monotonic() + LOOK_S
        return False

    def _fuse_page(self, users: Collection[str] | None) -> int:
        """Encode some interests without vectors, of some users or of all, and write all that follows from them; how
        many.
        """
        while True:
            with self._engine.connect() as connection:
                query = without_vectors(self._encoder.id).where(interests.c.prompt_version == self.plan.prompt_version)
                if users is not None:
                    query = query.where(interests.c.user_id.in_(users))
                page = [texts_of_row(row) for row in connection.execute(query.order_by(*KEY_COLUMNS).limit(FUSED))]
                items = item_texts_waiting(connection, self._config, [one.key for one in page])
            if items:
                encode_items(self._engine, self._encoder, items, written=count_items)
            encoded, _ = encode_interests(self._encoder, page)
            if not encoded:
                return 0
            try:
                self._write_vectors(encoded)
            except RewrittenError:  # or forgotten, while it was being encoded
                continue
            self.represented += len(encoded)
            return len(encoded)

    def _write_vectors(self, encoded: Sequence[EncodedInterest]) -> None:
        keys = [one.texts.key for one in encoded]
        with writing(self._engine) as connection:
            counters.read_locked(connection, counters.FORGETS)  # who forgets a user waits, then finds these rows
            write_batch(connection, self._config, keys, encoded)
            write_missing(connection, self._config, {key.user_id for key in keys})

    # The artifact.

    def _check_artifact(self) -> None:
        """Follow the artifact that scores: its network makes representations, and its prompts are the ones to write by.

        Raises InputError at the first call where the prompts cannot be; later they stay as they are, and it is said.
        """
        self._next_check = time.monotonic() + self._settings.serve.poll_s
        first = self._active is None
        if not first and (self._settings.serve.artifact is not None or self._newest() == self._active):
            return
        notes: list[str] = []
        artifact: Artifact | None = None
        try:
            self._active, artifact = scoring_artifact(self._engine, self._settings)
        except ArtifactError as error:
            self._active = self._newest()
            notes.append(str(error))
        try:
            self.plan = plan_of(self._engine, self._settings.llm, artifact, self._llm.prompt_version)
        except InputError as error:
            if first:
                raise
            notes.append(str(error))
        notes += self._unread_by(artifact)
        self._config = self._config_for(artifact)
        self.notes = tuple(notes)
        for note in notes:
            log.warning(note)
        self._seen = None

    def _newest(self) -> int:
        return next((one.number for one in read_activations(self._engine)), 0)

    def _config_for(self, artifact: Artifact | None) -> RepresentationConfig:
        half_life = self._settings.fusion.half_life or HALF_LIFE
        if artifact is None or artifact.model.fusion is None or artifact.spec.encoder != self._encoder.id:
            return RepresentationConfig(self._encoder, half_life, self._items.template)
        from fusion.serving.common_space import common_space

        return RepresentationConfig(self._encoder, half_life, self._items.template, artifact, common_space(artifact))

    def _unread_by(self, artifact: Artifact | None) -> list[str]:
        """Why scores by the artifact will not know of what is written here."""
        if artifact is None or not artifact.spec.partitions:
            return []
        spec, plan = artifact.spec, self.plan
        told = [
            (f"texts of the prompts {spec.prompt_version}", spec.prompt_version, plan.prompt_version),
            (f"vectors by the encoder {spec.encoder}", spec.encoder, self._encoder.id),
        ]
        return [
            f"the artifact {artifact.id} reads {what}, and what is written here is by {own}: scores do not know of it"
            for what, read, own in told
            if read != own
        ]


def _version_read(artifact: Artifact | None) -> str | None:
    """The prompts whose texts an artifact reads; None: it reads none."""
    return None if artifact is None or not artifact.spec.partitions else artifact.spec.prompt_version
