"""The values that travel: parsed once at the edge, frozen, and never a dict further in.

Decides what a behaviour, an item, a user, a partition and an interest are. Knows nothing of Kafka, SQL or models.
Times are event times in UTC, as float seconds since the epoch (a double holds milliseconds exactly for 285,000 years).
"""

from __future__ import annotations

import enum
import math

import msgspec

from interest.errors import InputError

FUTURE_S = 86_400.0  # how far an event time may lie after its message's own time: a clock a day wrong is wrong
MAX_ID = 1_024  # bytes of a user's or an item's id in UTF-8: PostgreSQL's indexes hold no more than 2,704
MAX_VALUE = 3.4028234663852886e38  # the largest float32: models compute in these


OFFERED = "offered"  # the action of an offer that nobody took: a sample, and never history
KNOWN_ACTIONS = ("pay", "visit", "search")  # of what a log of offers knew of its user: history, and never a sample


class Behavior(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One thing a user did to one item at one moment."""

    user_id: str
    item_id: str
    action: str  # "rate", "play", "view", "purchase"...
    at: float  # event time, UTC seconds
    value: float | None = None  # rating, seconds played, price...
    scene: str | None = None  # where it happened: a page, a placement
    event_id: str | None = None  # the producer's own identity of the event, where it has one

    def __post_init__(self) -> None:
        if not self.user_id:
            raise ValueError("user_id is empty")
        if not self.item_id:
            raise ValueError("item_id is empty")
        if not math.isfinite(self.at):
            raise ValueError(f"at is not a time: {self.at}")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"value is not a number: {self.value}")


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalogue says of one item. `attributes` holds further columns as text ("release_year": "1995")."""

    item_id: str
    title: str = ""
    categories: tuple[str, ...] = ()
    attributes: dict[str, str] = {}


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user's profile: columns as text ("age": "24", "gender": "M", "occupation": "technician")."""

    user_id: str
    attributes: dict[str, str] = {}


class Reason(enum.StrEnum):
    """Why a partition was closed."""

    COUNT = "count"
    GAP = "gap"
    SPAN = "span"
    TOKENS = "tokens"


class Partition(msgspec.Struct, frozen=True, kw_only=True):
    """The header of one closed partition (LIBER, UBSP): it names its behaviours by their sequence numbers.

    The behaviours are the user's rows first_seq..last_seq (both included) of `behaviors`; no row is stored twice. Where
    scenes are kept apart they are those of the partition's scene among these rows, and a scene's partitions follow
    each other by `previous`: `index` counts all of the user's, in the order in which they were opened.
    """

    user_id: str
    index: int  # 0, 1, 2... per user and generation
    generation: int = 0
    first_seq: int
    last_seq: int
    opened_at: float  # the least event time inside
    closed_at: float  # the greatest event time inside
    reason: Reason
    scene: str | None = None  # none: of all scenes; these three where scenes are kept apart. Empty: without a scene
    previous: int | None = None  # the index of this scene's partition before
    members: int | None = None  # behaviours inside

    @property
    def id(self) -> str:
        return f"{self.user_id}#{self.index}"

    @property
    def size(self) -> int:
        return self.last_seq - self.first_seq + 1 if self.members is None else self.members

    @property
    def before(self) -> int | None:
        """The index of the partition that this one follows; None for the first, of the user or of the scene."""
        if self.scene is None:
            return self.index - 1 if self.index > 0 else None
        return self.previous


class Outcome(enum.StrEnum):
    """How the LLM's work on one partition ended; every value is stored, none is dropped."""

    OK = "ok"  # the text passed every check
    TRIMMED = "trimmed"  # sentences with claims the partition does not support were cut; the rest passed
    REJECTED = "rejected"  # no attempt passed the checks: `source` is statistics
    GENERIC = "generic"  # what passed would do for a third of other users: `source` is statistics
    TRUNCATED = "truncated"  # every attempt stopped at the token limit before a usable sentence ended
    REFUSED = "refused"  # the server refused the request for good (a 4xx, a prompt too long)
    SPARSE = "sparse"  # too little evidence: no call was made
    UNCHANGED = "unchanged"  # of a shift: no change beyond chance, so no call was made
    STATISTICS = "statistics"  # no LLM was asked for, by choice


class Source(enum.StrEnum):
    """Who wrote a text."""

    LLM = "llm"
    STATISTICS = "statistics"


class ItemStatement(msgspec.Struct, frozen=True):
    """What a language model states about one title of a partition, from its own knowledge: nobody has checked it."""

    seq: int  # the behaviour with the title
    about: str  # mood, theme, era, people, plot
    text: str


class Interest(msgspec.Struct, frozen=True, kw_only=True):
    """What one partition says about the user (summary) and how it differs from the one before (shift)."""

    user_id: str
    index: int
    generation: int = 0
    prompt_version: str
    summary: str
    summary_source: Source
    summary_outcome: Outcome
    shift: str  # empty for a user's first partition
    shift_source: Source
    shift_outcome: Outcome
    evidence: tuple[int, ...]  # sequence numbers of the behaviours behind the summary
    claims: int  # claims checked in the LLM's accepted attempts, before trimming
    supported: int  # of these, how many the partition supports
    model: str
    at: float  # the partition's closed_at: event time, so that a replay gives the same row
    statements: tuple[ItemStatement, ...] = ()  # beside the summary; stored in a table of their own


class Representation(msgspec.Struct, frozen=True, kw_only=True):
    """A user's dense vector as of one partition, by one artifact ("pooled:..." before anything is trained)."""

    user_id: str
    index: int  # the newest partition it has seen
    generation: int = 0
    artifact: str
    vector: bytes  # float32, little endian


def check_id(user_id: str) -> None:
    """Raise InputError for what no message and no store can hold: nothing, or bytes that are not UTF-8."""
    if not user_id:
        raise InputError("the user's id is empty; name a user")
    try:
        user_id.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"the user's id {user_id!r} is not UTF-8, as every id is; does the terminal send UTF-8?"
        ) from None
