"""The bodies of requests and answers, as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MOST_CANDIDATES = 10_000
MOST_USERS = 1_000
LONGEST_ID, LONGEST_BLEND = 1024, 1000
TIMES_END = 4_102_444_800  # the year 2100: what is later was not seconds
Id = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]
Time = Annotated[
    float | None,
    Field(ge=0, lt=TIMES_END, description="Event time, UTC seconds; the past is read anew, without a promise of speed"),
]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ScoreRequest(Strict):
    user_id: Id
    item_ids: Annotated[list[Id], Field(min_length=1, max_length=MOST_CANDIDATES)]
    top: Annotated[int | None, Field(ge=1, description="Only the best so many, best first")] = None
    at: Time = None
    scene: Annotated[
        str | None,
        Field(min_length=1, max_length=LONGEST_ID, description="Where the items would be offered: a page, a placement"),
    ] = None
    blend: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=LONGEST_BLEND,
            description="Of an artifact of several tasks: the score is this sum of theirs, such as "
            "like*0.7+watched*0.3; default: the probability of the first task that is a yes or no",
        ),
    ] = None


class BatchRequest(Strict):
    requests: Annotated[list[ScoreRequest], Field(min_length=1, max_length=MOST_USERS)]


class Score(BaseModel):
    item_id: str
    score: Annotated[float, Field(description="Probability of a positive, or what `blend` makes of the tasks")]
    unknown_item: Annotated[bool, Field(description="Neither the artifact nor the catalogue has it")] = False
    tasks: Annotated[
        dict[str, float] | None,
        Field(description="Of an artifact of several tasks: each one's probability, or the number that it expects"),
    ] = None


class ScoreAnswer(BaseModel):
    user_id: str
    artifact: str
    scores: Annotated[list[Score], Field(description="In the order asked for; with `top`, best first")]
    unknown_user: Annotated[bool, Field(description="Neither behaviours nor a profile are in the store")]
    unknown_scene: Annotated[
        bool, Field(description="A scene was named that the artifact has not met in training, or it reads none")
    ] = False
    at: Annotated[float, Field(description="The event time scored at")]
    newest_seq: Annotated[int, Field(description="Sequence number of the newest behaviour known; -1: none")]
    newest_at: float | None
    held: Annotated[bool, Field(description="Whether the user's side was in memory")]
    stale_s: Annotated[
        float | None, Field(description="The store does not answer: seconds since it was last asked about the user")
    ] = None


class BatchAnswer(BaseModel):
    answers: list[ScoreAnswer]


class Refused(BaseModel):
    index: int
    reason: str


class WriteAnswer(BaseModel):
    accepted: int
    duplicates: Annotated[int, Field(description="Dropped as repeats; always 0 on Kafka, where the workers find them")]
    offers: Annotated[int, Field(description="Offers that nobody took (action `offered`): kept, and no behaviours")]
    refused: Annotated[list[Refused], Field(description="Rows that are not behaviours, by their index in the request")]


class ItemBody(Strict):
    title: str = ""
    categories: list[str] = []
    attributes: dict[str, str] = {}


class UserBody(Strict):
    attributes: dict[str, str] = {}


class Page(BaseModel):
    """Newest first. `next` is the cursor of the following page; none: this was the last."""

    items: list[dict[str, Any]]
    next: int | None


class Representation(BaseModel):
    user_id: str
    artifact: str
    index: Annotated[int, Field(description="The newest partition it has seen")]
    vector: list[float]
    common: Annotated[
        list[float] | None,
        Field(
            description="The user in the artifact's common space: its dot product with an item's vector is the taste"
        ),
    ] = None
    encoder: Annotated[str, Field(description="The text encoder of what was liked and disliked")] = ""
    liked: Annotated[
        list[float] | None, Field(description="Centroid of the texts' vectors of what was liked in that partition")
    ] = None
    disliked: Annotated[list[float] | None, Field(description="The same of what was not")] = None
