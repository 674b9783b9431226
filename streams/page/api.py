"""What the page asks the service for, and the shapes of the answers. The key is that of the person who looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from streams.client import AsyncClient, Call


class UserRow(msgspec.Struct, frozen=True, kw_only=True):
    user_id: str
    behaviors: int
    partitions: int
    interests: int


class UserList(msgspec.Struct, frozen=True, kw_only=True):
    items: list[UserRow]
    next: str | None


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    answers: int
    prompt_tokens: int
    completion_tokens: int
    answers_per_1000_behaviors: float | None


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    user_id: str
    profile: dict[str, str]
    behaviors: int
    first_at: float | None
    newest_at: float | None
    partitions: int
    by_llm: int
    by_statistics: int
    prompt_version: str | None
    closes_after: int | None
    cost: Cost


class ShownBehavior(msgspec.Struct, frozen=True, kw_only=True):
    seq: int
    item_id: str
    title: str
    categories: list[str]
    action: str
    shown: str | None
    at: float


class OpenCache(msgspec.Struct, frozen=True, kw_only=True):
    behaviors: list[ShownBehavior]
    total: int
    closes_after: int | None


class Sentence(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    seqs: list[int]


class ShownText(msgspec.Struct, frozen=True, kw_only=True):
    sentences: list[Sentence]
    source: str
    outcome: str


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What the language model says of one title, from its own knowledge."""

    seq: int
    title: str
    about: str
    text: str


class Card(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    scene: str | None = None
    opened_at: float
    closed_at: float
    reason: str
    summary: ShownText | None
    shift: ShownText | None
    model: str | None
    behaviors: list[ShownBehavior]
    total: int
    knowledge: list[Statement] = []


class CardPage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[Card]
    next: int | None


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    labels: list[str]
    closed_at: list[float]
    categories: dict[str, list[float]]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    item_id: str
    title: str
    categories: list[str]


class Knowledge(msgspec.Struct, frozen=True, kw_only=True):
    """What a language model says of an item; nobody has checked it."""

    text: str
    model: str


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    item_id: str
    description: Knowledge | None


class _Entries(msgspec.Struct, frozen=True, kw_only=True):
    items: list[_Entry]


class _Candidates(msgspec.Struct, frozen=True, kw_only=True):
    items: list[Candidate]


class Api:
    """The service as one person sees it. Every method raises ServiceError."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client

    async def users(self, prefix: str = "", *, limit: int = 20, interests: bool = False) -> UserList:
        query = {"prefix": prefix, "limit": limit, "interests": str(interests).lower()}
        return await self.client.run(Call(UserList, "GET", "/v1/users", query=query))

    async def overview(self, user_id: str) -> Overview:
        return await self.client.run(Call(Overview, "GET", _of(user_id, "overview")))

    async def cards(self, user_id: str, *, limit: int, before: int | None = None) -> CardPage:
        query = {"limit": limit, "before": before}
        return await self.client.run(Call(CardPage, "GET", _of(user_id, "cards"), query=query))

    async def open_cache(self, user_id: str) -> OpenCache:
        return await self.client.run(Call(OpenCache, "GET", _of(user_id, "open")))

    async def shares(self, user_id: str) -> Shares:
        return await self.client.run(Call(Shares, "GET", _of(user_id, "shares")))

    async def candidates(self, user_id: str, limit: int) -> list[Candidate]:
        call = Call(_Candidates, "GET", _of(user_id, "candidates"), query={"limit": limit})
        return (await self.client.run(call)).items

    async def knowledge(self, item_ids: Sequence[str]) -> dict[str, Knowledge]:
        """What the language model says of items, of those that have been described."""
        call = Call(_Entries, "GET", "/v1/items", query={"item": list(item_ids)})
        return {one.item_id: one.description for one in (await self.client.run(call)).items if one.description}

    async def get(self, path: str) -> dict[str, Any]:
        return await self.client.run(Call(dict[str, Any], "GET", path))


def _of(user_id: str, what: str) -> str:
    return f"/v1/users/{quote(user_id, safe='')}/{what}"
