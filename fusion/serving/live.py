"""Scores one user's candidates as of now, from a user's side that is carried forward and items that are kept.

Law: it scores as `Scorer` does at the same moment (which reads the user's whole log), to 1e-5. Every request first asks
the store how far the user's log has come, so two processes never differ for longer than one commit. What a side was
made of is watched by the store's own counters: of users forgotten, of the catalogue's changes. Profiles and the newest
interests' vectors are small and read each time. Where that is not the question (an event time in the past) or not
possible (an artifact with parts that a side does not carry) the log is read anew, and counted.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sqlalchemy import Connection, select

from fusion.bank.index import with_bank
from fusion.features.interest_vectors import InterestVectors, read_newest_vectors
from fusion.features.log import Array, newest_of, read_after
from fusion.features.packed_windows import items_of
from fusion.features.samples import Samples
from fusion.features.scenes import is_unknown
from fusion.features.spec import ItemTable, dense_names
from fusion.models.bahe.model import Bahe
from fusion.models.din import Din
from fusion.models.kv.model import Kv
from fusion.models.lifelong import pooled
from fusion.models.protocol import predictions
from fusion.models.srp4ctr.model import Srp4Ctr
from fusion.serving.bahe_cache import BaheStates, LackingTextError, StoredTexts
from fusion.serving.by_task import by_task, empty_scores, main_score
from fusion.serving.known_items import ItemCounts, KnownItems
from fusion.serving.score import Scorer
from fusion.serving.side_samples import side_samples
from fusion.serving.srp4ctr_cache import UserStates
from fusion.serving.user_side import LastSeen, Reading, UserSide
from fusion.training.artifact import Artifact
from interest.store.tables import behaviors
from interest.types import User

MEMORY_MB = 256  # of users' sides and encoded states: at 100 kB each some 2,500 users
TEXTS = 50_000  # vectors of texts that are kept for BAHE: 58 MB with a small LLM
AT_ONCE = 1024  # candidates that DIN and KV score together: 7 MB for DIN's widest activations at history 50
WARMING = 1000  # candidates of the first score
LOCK_S = 1.0  # after which a score without the store gives up on a thread that may be waiting for it
LAYOUT = 1  # of the FeatureSpec, whose parts a side carries all


class Head(NamedTuple):
    """Where the store stands, in one look: what decides whether a held side is still right."""

    newest: int  # sequence number of the user's newest behaviour; -1: none
    profile: User | None
    forgets: int  # users forgotten so far
    items: ItemCounts
    at: float | None  # the greatest event time of the store; None: nothing was ever ingested


ReadHead = Callable[[Connection, str], Head]


class LiveScores(NamedTuple):
    """Of n items, in the order given."""

    values: Array  # (n,) float64: the probability of a positive, of several tasks the main task's
    unknown_user: bool
    unknown_item: Array  # (n,) bool
    at: float  # the event time that was scored at
    newest: int  # sequence number of the user's newest behaviour that the scores know; -1: none
    newest_at: float | None  # its event time
    held: bool  # whether the user's side was there already
    stale_s: float | None = None  # seconds since the store was last asked, where it was not asked for these
    unknown_scene: bool = False  # one was named that the artifact makes nothing of
    tasks: dict[str, Array] | None = None  # of several: each one's (n,) probabilities, or the numbers it expects


class Counts(NamedTuple):
    """What has happened since the start, and what is held now."""

    requests: int
    hits: int  # of these, the user's side was held, and right after reading what was new
    built: int  # sides made from the whole log
    read: int  # behaviours read to bring sides up to date
    outdated: dict[str, int]  # held sides that had to be made anew, by reason
    full_reads: dict[str, int]  # requests scored from the whole log, by reason
    stale: int  # scored without the store
    evicted: int
    users: int
    bytes: int
    items: int
    item_bytes: int


class LiveScorer:
    """One artifact's user sides and items. Thread-safe: sides are read side by side, scored one after the other."""

    def __init__(self, artifact: Artifact, read_head: ReadHead, *, memory_mb: int = MEMORY_MB) -> None:
        self.artifact, self._read_head, self._limit = artifact, read_head, memory_mb << 20
        spec, model = artifact.spec, artifact.model
        self._lock = threading.Lock()  # of everything below, and of the model
        self._building: dict[str, threading.Lock] = {}
        self._sides: OrderedDict[str, UserSide] = OrderedDict()
        self._bytes: dict[str, int] = {}
        self._held_bytes = 0
        self._forgets = -1
        self._counted: Counter[str] = Counter()
        self._outdated: Counter[str] = Counter()
        self._full_reads: Counter[str] = Counter()
        self._states: UserStates | BaheStates | None = None
        self._texts: StoredTexts | None = None
        self._reading = Reading(history=spec.history)
        self._width = 0
        embed = None
        if isinstance(model, Srp4Ctr):
            self._states = UserStates(model, limit=1 << 62)  # this class lets users go
            lifelong = model.config.lifelong
            self._reading, self._width = Reading(history=spec.history, lifelong=lifelong), model.config.encoder.width
            embed = partial(_embed, model)
        elif isinstance(model, Bahe):
            self._states = BaheStates(model)
            config = model.config
            self._reading = Reading(history=spec.history, sequences=config.sequences, each=config.history)
            self._texts = StoredTexts(config.recipe, Path(config.folder), model.high.width, kept=TEXTS, keep_found=True)
        self._known = KnownItems(spec, artifact.statistics, embed, texts=isinstance(model, Bahe), space=artifact.space)
        self._unsupported = unsupported(artifact)

    def warm(self, connection: Connection) -> None:
        """Look up every item of the artifact, and score somebody: what is done once need not be done in a request.

        A process's first score takes three times as long as the second: statements are compiled, kernels chosen.
        """
        head = self._read_head(connection, "")
        offered = self.artifact.spec.items
        with self._lock:
            self._known.places(connection, offered, head.items)
        somebody = connection.execute(select(behaviors.c.user_id).limit(1)).scalar()
        if somebody is not None and self._texts is None and not self._unsupported:  # texts may want a language model
            self.score(connection, somebody, offered[:WARMING])
        with self._lock:
            for user in list(self._sides):
                self._drop(user)
            self._counted.clear()

    def counts(self) -> Counts:
        with self._lock:
            own = self._counted
            return Counts(
                own["requests"], own["hits"], own["built"], own["read"], dict(self._outdated), dict(self._full_reads),
                own["stale"], own["evicted"], len(self._sides), self._held_bytes, len(self._known), self._known.nbytes,
            )  # fmt: skip

    def score(
        self,
        connection: Connection,
        user_id: str,
        item_ids: Sequence[str],
        at: float | None = None,
        scene: str | None = None,
    ) -> LiveScores:
        """Probability of a positive for each item, at the event time `at`: by default the greatest in the store.

        scene: where the items would be offered, where that is known.

        Time: the behaviours since the last request are read, nothing else of the log. A user's first request reads it
        once. Raises InputError or ArtifactError where a text of BAHE has to be computed and its LLM is not there.
        """
        asked = time.monotonic()
        head = self._read_head(connection, user_id)
        with self._lock:
            self._counted["requests"] += 1
        if self._unsupported:
            return self._read_anew(connection, user_id, item_ids, at, scene, head, self._unsupported)
        if at is not None and head.at is not None and at < head.at:
            return self._read_anew(connection, user_id, item_ids, at, scene, head, "past")
        side, held = self._side(connection, user_id, head, asked)
        moment = max(side.greatest_at, -np.inf if head.at is None else head.at) if at is None else at
        moment = moment if np.isfinite(moment) else 0.0
        if moment < side.greatest_at:  # a behaviour that the store's clock does not know of
            return self._read_anew(connection, user_id, item_ids, moment, scene, head, "past")
        last = LastSeen(head.profile, self._interest_vectors(connection, side), moment, asked)
        with self._lock:
            places = self._known.places(connection, item_ids, head.items)
            scores = self._scored(side, last, places, scene, connection)
            if self._sides.get(user_id) is side:
                side.last = last
            self._weigh(user_id)
            return scores._replace(held=held)

    def score_held(
        self, user_id: str, item_ids: Sequence[str], within_s: float, scene: str | None = None
    ) -> LiveScores | None:
        """The scores by what is held, without the store, as of when it was last asked about this user.

        Items that are not known yet are scored as unknown. None where nothing is held, the store was last asked longer
        than `within_s` ago, or texts would have to be read.
        """
        if not self._lock.acquire(timeout=LOCK_S):  # a thread that waits for the store may have it
            return None
        try:
            side = self._sides.get(user_id)
            if side is None or side.last is None or (age := time.monotonic() - side.last.clock) > within_s:
                return None
            try:
                scores = self._scored(side, side.last, self._known.held(item_ids), scene, None)
            except LackingTextError:
                return None
            self._counted["stale"] += 1
            return scores._replace(stale_s=age)
        finally:
            self._lock.release()

    def _scored(
        self, side: UserSide, last: LastSeen, places: Array, scene: str | None, connection: Connection | None
    ) -> LiveScores:
        texts = self._texts is not None
        samples = side_samples(self.artifact, self._known, side, last, places, scene, texts=texts)
        if self._texts is not None:
            samples = with_bank(samples, self.artifact.config.model.recipe, partial(self._texts, connection))
        tasks = self.artifact.spec.tasks
        values = self._values(side, samples, places) if len(places) else empty_scores(0, tasks)
        return LiveScores(
            values=main_score(tasks, values),
            unknown_user=side.size == 0 and last.profile is None,
            unknown_item=self._known.unknown(places),
            at=last.at,
            newest=side.newest,
            newest_at=side.last_at if side.size else None,
            held=True,
            unknown_scene=is_unknown(self.artifact.spec, scene),
            tasks=by_task(tasks, values),
        )

    def _side(self, connection: Connection, user_id: str, head: Head, asked: float) -> tuple[UserSide, bool]:
        """The user's side up to date, and whether it was held. A user's side is made by one thread at a time."""
        with self._lock:
            if head.forgets > self._forgets:
                if self._sides:
                    self._outdated["forget"] += len(self._sides)
                for user in list(self._sides):
                    self._drop(user)
                self._forgets = head.forgets
            own = self._building.setdefault(user_id, threading.Lock())
        try:
            with own:
                return self._brought_up(connection, user_id, head, asked)
        finally:
            with self._lock:
                if not own.locked():
                    self._building.pop(user_id, None)

    def _brought_up(self, connection: Connection, user_id: str, head: Head, asked: float) -> tuple[UserSide, bool]:
        with self._lock:
            side = self._sides.get(user_id)
            reason = None if side is None else self._wrong(connection, side, head, asked)
            if reason:
                self._outdated[reason] += 1
                self._drop(user_id)
                side = None
            held = side is not None
            self._counted["hits"] += held
            self._counted["built"] += not held
            version = self._known.version
        side = side or UserSide(user_id, self._width, seen=head.items, version=version)
        if side.newest >= head.newest:
            return side, held
        copy = dataclasses.replace(side)  # a reading that breaks off leaves the held side as it was
        copy.embedded = side.embedded
        for log in read_after(connection, user_id, side.newest):
            with self._lock:
                items = self._known.places(connection, log.items, head.items, keep=True)
                copy.read_on(self.artifact.spec, self._reading, self._known, log, items)
                self._counted["read"] += log.size
        with self._lock:
            # what was read while a user was forgotten or an item changed serves this request alone
            if head.forgets == self._forgets and not copy.outdated(self._known):
                copy.read_at = time.monotonic()
                self._sides[user_id] = copy
        return copy, held

    def _wrong(self, connection: Connection, side: UserSide, head: Head, asked: float) -> str | None:
        """Why a held side cannot be carried on."""
        if head.newest < side.newest and asked > side.read_at:  # else another thread has read on meanwhile
            return "behind"  # a store that was put back
        if side.seen != head.items:
            self._known.check(connection, side.items, head.items)
        if side.version < self._known.version and side.outdated(self._known):
            return "catalogue"
        side.seen, side.version = head.items, self._known.version
        return None

    def _interest_vectors(self, connection: Connection, side: UserSide) -> InterestVectors | None:
        spec = self.artifact.spec
        if not spec.partitions:
            return None
        return read_newest_vectors(
            connection, side.user_id, before=side.newest + 1, most=spec.partitions,
            generation=spec.generation, prompt_version=spec.prompt_version, encoder=spec.encoder,
        )  # fmt: skip

    @torch.no_grad()
    def _values(self, side: UserSide, samples: Samples, places: Array) -> Array:  # (n,), of several tasks (n, T)
        model, every, tasks = self.artifact.model, np.arange(len(samples)), samples.spec.tasks
        if isinstance(model, Din | Kv):
            parts = (every[start : start + AT_ONCE] for start in range(0, len(every), AT_ONCE))
            every_logit = torch.cat([model(samples.batch(part, together=True)) for part in parts])
        elif isinstance(self._states, UserStates):
            assert self._known.embedding is not None
            lifelong, embedded = None, torch.from_numpy(side.embedded)
            if self._reading.lifelong:
                lifelong = pooled(embedded[None], torch.from_numpy(side.embedded_counts)[None])
            offered = torch.from_numpy(self._known.embedding[places])
            every_logit = self._states.score_user(samples, side.user_id, side.newest, lifelong, offered)
        else:
            assert self._states is not None
            every_logit = torch.from_numpy(empty_scores(len(samples), tasks))
            for part in model.collator.score_batches(samples, every):
                logits = self._states.score(samples, part, [side.user_id])
                every_logit[torch.from_numpy(part.rows)] = logits.double()
        return np.asarray(predictions(tasks, every_logit).numpy())

    def _read_anew(
        self,
        connection: Connection,
        user_id: str,
        item_ids: Sequence[str],
        at: float | None,
        scene: str | None,
        head: Head,
        why: str,
    ) -> LiveScores:
        """By the log as a whole; item statistics are of the moment where it is in the past."""
        newest, last_at = newest_of(connection, user_id, at)
        greatest = -np.inf if head.at is None else head.at
        moment = at if at is not None else max(greatest, last_at or 0.0)
        scorer = Scorer(self.artifact, as_of_request=why == "past")
        with self._lock:
            self._full_reads[why] += 1
        found = scorer.scores(connection, [(user_id, item) for item in item_ids], moment, [scene] * len(item_ids))
        return LiveScores(
            values=found.values,
            unknown_user=bool(found.unknown_user.any()),
            unknown_item=found.unknown_item,
            at=moment,
            newest=newest,
            newest_at=last_at,
            held=False,
            unknown_scene=is_unknown(self.artifact.spec, scene),
            tasks=found.tasks,
        )

    def _weigh(self, user_id: str) -> None:
        """Count what is held of a user; let those go that were not asked for for longest, above the limit."""
        side = self._sides.get(user_id)
        if side is None:
            if self._states is not None:
                self._states.drop(user_id)
            return
        self._sides.move_to_end(user_id)
        size = side.nbytes + (0 if self._states is None else self._states.nbytes(user_id))
        self._held_bytes += size - self._bytes.get(user_id, 0)
        self._bytes[user_id] = size
        while self._held_bytes > self._limit and self._sides:
            self._drop(next(iter(self._sides)))
            self._counted["evicted"] += 1

    def _drop(self, user_id: str) -> None:
        self._sides.pop(user_id, None)
        self._held_bytes -= self._bytes.pop(user_id, 0)
        if self._states is not None:
            self._states.drop(user_id)


def unsupported(artifact: Artifact) -> str | None:
    """The part of an artifact that a side does not carry, so that logs are read whole; None: there is none."""
    if artifact.spec.dense != dense_names(artifact.spec.match) or artifact.spec.layout != LAYOUT:
        return "features"
    if not isinstance(artifact.model, Din | Kv | Srp4Ctr | Bahe):
        return artifact.config.kind
    return None


@torch.no_grad()
def _embed(model: Srp4Ctr, table: ItemTable) -> Array:
    items = items_of(table, np.arange(len(table.row)))
    return np.asarray(model.encoder.items(items).numpy())
