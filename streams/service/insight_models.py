"""The answers of the routes that a person's page reads, as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field


class UserRow(BaseModel):
    user_id: str
    behaviors: int
    partitions: int
    interests: Annotated[int, Field(description="Partitions with texts")]


class UserList(BaseModel):
    items: list[UserRow]
    next: Annotated[str | None, Field(description="Give it as `after` for the following ids; none: the last")]


class Cost(BaseModel):
    """What the language model has answered about one user, as far as its answers are kept."""

    answers: int
    prompt_tokens: int
    completion_tokens: int
    answers_per_1000_behaviors: float | None


class Overview(BaseModel):
    user_id: str
    profile: dict[str, str]
    behaviors: int
    newest_seq: Annotated[int, Field(description="Sequence number of the newest behaviour; -1: none")]
    first_at: float | None
    newest_at: float | None
    partitions: int
    by_llm: Annotated[int, Field(description="Partitions whose summary the language model wrote")]
    by_statistics: Annotated[int, Field(description="Partitions whose summary was made from the counts")]
    prompt_version: str | None
    closes_after: Annotated[int | None, Field(description="Behaviours that close a partition; none: another rule does")]
    cost: Cost


class ShownBehavior(BaseModel):
    seq: int
    item_id: str
    title: Annotated[str, Field(description="The item id where the catalogue has no title")]
    categories: list[str]
    action: str
    value: float | None
    shown: Annotated[str | None, Field(description="The value as people read it")]
    at: float


class OpenCache(BaseModel):
    """The behaviours that are in no closed partition, oldest first: no language model has read them yet."""

    behaviors: list[ShownBehavior]
    total: Annotated[int, Field(description="All there are; the newest 500 are listed")]
    closes_after: int | None


class Sentence(BaseModel):
    text: str
    seqs: Annotated[list[int], Field(description="The partition's behaviours that support it")]


class ShownText(BaseModel):
    sentences: list[Sentence]
    source: Annotated[str, Field(description="llm or statistics")]
    outcome: str


class Statement(BaseModel):
    """What the language model says of one title, from its own knowledge: nobody has checked it."""

    seq: int
    title: str
    about: Annotated[str, Field(description="mood, theme, era, people or plot")]
    text: str


class Card(BaseModel):
    """One closed partition: its texts, sentence by sentence, and its behaviours."""

    index: int
    scene: Annotated[str | None, Field(description="Where scenes are kept apart; empty: of those without one")] = None
    opened_at: float
    closed_at: float
    reason: str
    summary: ShownText | None
    shift: ShownText | None
    model: str | None
    knowledge: Annotated[list[Statement], Field(description="The model's own, of titles; nothing about the user")]
    behaviors: list[ShownBehavior]
    total: Annotated[int, Field(description="All the behaviours there are; the newest 500 are listed")]


class CardPage(BaseModel):
    """Newest first. `next` is the cursor of the following page; none: this was the last."""

    items: list[Card]
    next: int | None


class Shares(BaseModel):
    """The share of each partition's behaviours in each category, oldest first; the last may be the open cache."""

    labels: Annotated[list[str], Field(description="The partitions' indexes; `open` is the open cache")]
    closed_at: list[float]
    categories: dict[str, list[float]]


class ModelKnowledge(BaseModel):
    """What a language model says of an item: unchecked, and no part of the catalogue."""

    text: str
    model: str
    prompt_version: str


class ItemEntry(BaseModel):
    """What the catalogue says of an item, and apart from it what a language model says."""

    item_id: str
    title: str
    categories: list[str]
    attributes: dict[str, str]
    description: Annotated[ModelKnowledge | None, Field(description="none: `interestream describe` has not been run")]


class ItemEntries(BaseModel):
    items: Annotated[list[ItemEntry], Field(description="Those that the catalogue has, in the order asked for")]


class Candidate(BaseModel):
    item_id: str
    title: str
    categories: list[str]


class Candidates(BaseModel):
    items: list[Candidate]
