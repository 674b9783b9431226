"""When a cache of recent behaviours becomes a closed partition (LIBER, UBSP). Pure: event time only, never a clock."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from interest.types import Behavior, Item
from streams.settings.durations import DAY_S, format_duration


class Span(enum.StrEnum):
    """A calendar span, in UTC; weeks begin on Monday."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


class Dedupe(enum.StrEnum):
    """What makes two of a user's behaviours one event; looked for in the open cache and the newest partition only."""

    AUTO = "auto"  # the event_id where there is one, else the row: item, action, time, value, scene
    EVENT_ID = "event_id"  # a behaviour without one is never a duplicate
    ROW = "row"  # the row, whatever its event_id
    NONE = "none"  # nothing is a duplicate
    TIME = "time"  # event_id, else item, action and time: of the stores made before there was a choice


class Scenes(enum.StrEnum):
    """Whether a user's partitions tell the scenes of behaviours apart."""

    JOINED = "joined"  # one open cache a user
    APART = "apart"  # one open cache for each of the user's scenes (streams/ubsp/scenes.py)


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Any of these closes a partition; None leaves a rule out.

    `count` closes with the behaviour that fills it; the others close before the behaviour that would break them.
    """

    count: int | None = 50  # LIBER's family uses 20 to 200; at 50 a prompt holds the titles of one partition
    gap_s: float | None = None  # seconds of inactivity
    span: Span | None = None
    tokens: int | None = None  # estimated tokens of the behaviours when rendered into a prompt
    dedupe: Dedupe | None = None  # no rule of partitions, but of what is in them; None: the store's own
    scenes: Scenes = Scenes.JOINED

    def __post_init__(self) -> None:
        for name, value in (("count", self.count), ("gap", self.gap_s), ("tokens", self.tokens)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")
        if self.count is None and self.gap_s is None and self.span is None and self.tokens is None:
            raise ValueError("no rule is set: a partition would never close")

    @property
    def sweeps(self) -> bool:
        """Whether time alone can close a partition."""
        return self.gap_s is not None or self.span is not None


def as_stored(policy: Policy) -> str:
    """The policy as JSON for the store. Joined scenes are left out, as from stores made before there was a choice."""
    fields = msgspec.structs.asdict(policy)
    if policy.scenes is Scenes.JOINED:
        del fields["scenes"]
    return msgspec.json.encode(fields).decode()


def as_options(policy: Policy) -> str:
    """The policy as the options of `interestream replay` that name it."""
    rules = {
        "--partition": policy.count or 0,
        "--gap": policy.gap_s and format_duration(policy.gap_s),
        "--span": policy.span,
        "--tokens": policy.tokens,
        "--dedupe": policy.dedupe,
        "--scenes": policy.scenes if policy.scenes is Scenes.APART else None,
    }
    return " ".join(f"{name} {value}" for name, value in rules.items() if value is not None)


def as_settings(policy: Policy) -> str:
    """The policy as the agent's settings; every rule is named, for one that is set by mistake must be unset."""
    rules = {
        "COUNT": policy.count,
        "GAP": policy.gap_s and format_duration(policy.gap_s),
        "SPAN": policy.span,
        "TOKENS": policy.tokens,
        "DEDUPE": policy.dedupe or "store",
        "SCENES": policy.scenes,
    }
    return " ".join(f"INTERESTREAM_INGEST_{name}={value or 'none'}" for name, value in rules.items())


def period(at: float, span: Span) -> int:
    """The number of the calendar span that holds `at`; later spans have greater numbers."""
    day = int(at // DAY_S)
    if span is Span.DAY:
        return day
    if span is Span.WEEK:
        return (day + 3) // 7  # 1970-01-01 was a Thursday
    return _month_or_year(day, span)


@lru_cache(maxsize=4096)
def _month_or_year(day: int, span: Span) -> int:
    date = datetime.fromtimestamp(day * DAY_S, UTC)
    return date.year if span is Span.YEAR else date.year * 12 + date.month


def token_cost(behavior: Behavior, item: Item | None) -> int:
    """Estimated tokens of one behaviour's line in a prompt: four characters a token, as for English text."""
    title = item.title if item and item.title else behavior.item_id
    categories = sum(len(category) + 2 for category in item.categories) if item else 0
    return (len(title) + categories + len(behavior.action) + 8) // 4 + 1
