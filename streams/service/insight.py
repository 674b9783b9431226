"""Routes that a person's page reads: users by prefix, a user's overview, cards, open cache, category shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Protocol

import numpy as np
from fastapi import APIRouter, Query
from sqlalchemy import Engine

from fusion.features.counts import LABELLED
from fusion.training.artifact import Artifact
from streams.service import insight_models as models
from streams.service import insight_reads as reads
from streams.service.problems import ProblemError

Limit = Annotated[int, Query(ge=1, le=100)]
Before = Annotated[int | None, Query(ge=0, description="Only what is older: `next` of the page before")]
Text = Annotated[str, Query(max_length=1024)]


class Scoring(Protocol):
    """What the routes need of the scorer."""

    @property
    def artifact(self) -> Artifact | None: ...


class Service(Protocol):
    """What the routes need of the service."""

    @property
    def engine(self) -> Engine: ...
    @property
    def scoring(self) -> Scoring: ...


def insight_router(service: Service, allowed: Callable[[str], Any]) -> APIRouter:
    """The routes. `allowed`: the dependency that a request's key has a scope."""
    router = APIRouter(dependencies=[allowed("read")], tags=["insight"])

    @router.get("/v1/users")
    def users(
        prefix: Text = "",
        limit: Limit = 20,
        after: Annotated[str | None, Query(max_length=1024, description="`next` of the page before")] = None,
        interests: Annotated[bool, Query(description="Only users with texts")] = False,
    ) -> models.UserList:
        """Users whose id begins with a prefix, in order of their ids; the one with exactly this id first."""
        for name, value in (("prefix", prefix), ("after", after or "")):
            if "\0" in value:
                raise ProblemError(422, f"{name}: an id has no NUL character", field=name)
        with service.engine.connect() as connection:
            return reads.user_list(connection, prefix, after, limit, with_interests=interests)

    @router.get("/v1/users/{user_id:path}/overview")
    def overview(user_id: str) -> models.Overview:
        """A user's profile, counts, and what the language model's answers about them cost."""
        with service.engine.connect() as connection:
            return reads.overview(connection, user_id)

    @router.get("/v1/users/{user_id:path}/cards")
    def cards(user_id: str, limit: Limit = 10, before: Before = None) -> models.CardPage:
        """Closed partitions, newest first: their behaviours, and each sentence with those that support it."""
        with service.engine.connect() as connection:
            return reads.cards(connection, user_id, limit, before)

    @router.get("/v1/users/{user_id:path}/open")
    def open_cache(user_id: str) -> models.OpenCache:
        """The behaviours after the newest closed partition, oldest first."""
        with service.engine.connect() as connection:
            return reads.open_cache(connection, user_id)

    @router.get("/v1/users/{user_id:path}/shares")
    def shares(user_id: str, limit: Annotated[int, Query(ge=1, le=200)] = 40, categories: Limit = 8) -> models.Shares:
        """Shares of the commonest categories over the newest partitions and the open cache."""
        with service.engine.connect() as connection:
            return reads.shares(connection, user_id, limit, categories)

    @router.get("/v1/items")
    def items(
        item: Annotated[list[str], Query(min_length=1, max_length=100, description="An item's id; repeat it for more")],
    ) -> models.ItemEntries:
        """Items as the catalogue has them, each with what the language model knows of it, which nobody has checked."""
        if any("\0" in one for one in item):
            raise ProblemError(422, "item: an id has no NUL character", field="item")
        with service.engine.connect() as connection:
            return reads.item_entries(connection, item)

    @router.get("/v1/users/{user_id:path}/candidates")
    def candidates(user_id: str, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000) -> models.Candidates:
        """Items that could be offered: those of the catalogue with most behaviours that the user has not had."""
        with service.engine.connect() as connection:
            return reads.candidates(connection, user_id, popular_items(service.scoring.artifact), limit)

    return router


def popular_items(artifact: Artifact | None) -> list[str]:
    """The artifact's items by how many behaviours train it with each, most first; empty without an artifact."""
    if artifact is None:
        return []
    counts = np.asarray(artifact.statistics.total)[:, LABELLED]
    return [artifact.spec.items[place] for place in np.argsort(-counts, kind="stable")]
