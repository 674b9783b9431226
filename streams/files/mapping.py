"""Which column of a file holds which field: by the field's usual names, or as --map says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from interest.errors import InputError

# The first name that a file has is taken (of times: the best, see time_column.py); names are compared without case,
# underscores, dashes and blanks. New names are appended: an old log keeps its meaning.
BEHAVIOR_NAMES = {
    "user_id": (
        "user_id", "user", "uid", "customer_id", "visitor_id", "reviewer_id", "username", "user_name", "member_id",
        "account_id", "client_id", "customer", "profile_id",
    ),
    "item_id": (
        "item_id", "item", "iid", "movie_id", "product_id", "asin", "video_id", "article_id", "song_id", "parent_asin",
        "track_id", "spotify_track_uri", "track_uri", "book_id", "news_id", "content_id", "business_id", "goods_id",
        "sku", "recipe_id", "anime_id", "game_id", "app_id", "isbn", "track", "movie", "product",
    ),
    "at": (
        "at", "timestamp", "time", "event_time", "ts", "datetime", "date", "created_at", "unix_timestamp", "time_ms",
        "timestamp_ms", "ts_ms", "event_timestamp", "event_date", "date_time", "unix_time", "unix_review_time",
        "review_time", "rating_timestamp", "epoch", "epoch_ms", "played_at", "watched_at", "listened_at", "viewed_at",
        "clicked_at", "purchased_at", "rated_at", "occurred_at", "start_time", "started_at", "interaction_time",
        "click_time", "order_date", "purchase_date", "visit_time", "log_time",
    ),
    "value": ("value", "rating", "score", "stars", "overall", "play_time", "watch_time", "price"),
    "action": (
        "action", "event", "event_type", "behavior", "behavior_type", "action_type", "type", "feedback_type",
        "behaviour", "behaviour_type", "event_name", "interaction_type", "interaction", "activity", "activity_type",
    ),
    "scene": ("scene", "scenario", "page", "placement", "domain"),
    "event_id": ("event_id", "message_id"),
    "label": (),  # whether an offer was taken, by --map alone: elsewhere a column of that name is anything
}  # fmt: skip
ITEM_NAMES = {
    "item_id": (*BEHAVIOR_NAMES["item_id"], "id"),
    "title": ("title", "name", "movie_title", "item_name", "product_name"),
    "categories": ("categories", "genres", "genre", "category", "class", "tags", "category_id"),
}
USER_NAMES = {"user_id": (*BEHAVIOR_NAMES["user_id"], "id")}
_MORE_TIMES = ("event_ts", "event_at", "action_time", "action_ts", "recorded_at", "logged_at", "server_time")
_UNIT = re.compile(r"(?:\s*\([^)]*\)|[\s_-]+(?:[mun]?s|secs?|(?:milli|micro|nano)s|\w*seconds?|utc|gmt))+$")
_FIELDS = {"log": BEHAVIOR_NAMES, "items": ITEM_NAMES, "users": USER_NAMES}


class ColumnMap(msgspec.Struct, frozen=True):
    """What --map says: columns by field, of one file (items.item_id) or of whichever has the column."""

    shared: dict[str, str] = {}
    own: dict[str, dict[str, str]] = {}  # by file: log, items or users

    def of(self, file: str, columns: Sequence[str]) -> dict[str, str]:
        """The columns of one file; what is shared counts where the file has the column."""
        fields = _FIELDS[file]
        shared = {field: column for field, column in self.shared.items() if field in fields and column in columns}
        return shared | self.own.get(file, {})

    def check(self, files: Mapping[str, tuple[Path, Sequence[str]]]) -> None:
        """Raise InputError for a column that none of the files given, by kind, has."""
        for file, fields in self.own.items():
            if file not in files:
                option = {"log": "LOG", "items": "--items", "users": "--users"}[file]
                raise InputError(f"--map {file}.{next(iter(fields))}=…: no file is given for it; give {option}")
            path, columns = files[file]
            for field, column in fields.items():
                if column not in columns:
                    raise InputError(
                        f"{path} has no column {column!r} (--map {file}.{field}=…); it has: {', '.join(columns)}"
                    )
        for field, column in self.shared.items():
            able = {file: known for file, known in files.items() if field in _FIELDS[file]}
            if not any(column in columns for _, columns in able.values()):
                have = "; ".join(f"{path} has: {', '.join(columns)}" for path, columns in (able or files).values())
                raise InputError(f"there is no column {column!r} (--map {field}=…); {have}")


def parse_map(text: str | None) -> ColumnMap:
    """`user_id=userId,items.item_id=sku`: the user of the log (and the profiles), the catalogue's item id."""
    shared: dict[str, str] = {}
    own: dict[str, dict[str, str]] = {}
    for part in filter(None, (text or "").split(",")):
        name, sign, column = (piece.strip() for piece in part.partition("="))
        if not sign or not name or not column:
            raise InputError(f"--map {part!r} is not FIELD=COLUMN; write for example --map user_id=userId,value=rating")
        file, dot, field = name.rpartition(".")
        if dot and file not in _FIELDS:
            raise InputError(f"--map {part!r}: there is no file {file!r}; they are log, items and users")
        fields = _FIELDS[file] if dot else {**BEHAVIOR_NAMES, **ITEM_NAMES}
        if field not in fields:
            raise InputError(f"--map {part!r}: there is no field {field!r}; the fields are {', '.join(fields)}")
        (own.setdefault(file, {}) if dot else shared)[field] = column
    return ColumnMap(shared, own)


def find_columns(
    path: Path,
    columns: Sequence[str],
    names: Mapping[str, Sequence[str]],
    required: Sequence[str],
    column_map: Mapping[str, str],
    *,
    file: str = "",
) -> dict[str, str]:
    """The column of each field that the file has: as `column_map` says, else by the field's usual names.

    `file` is how --map calls the file: log, items or users.
    """
    chosen = {}
    for field in names:
        if field in column_map:
            if column_map[field] not in columns:
                raise InputError(
                    f"{path} has no column {column_map[field]!r} (--map {field}=…); it has: {', '.join(columns)}"
                )
            chosen[field] = column_map[field]
        elif usual := time_columns(columns) if field == "at" else usual_columns(columns, names[field]):
            chosen[field] = usual[0]
    if missing := [field for field in required if field not in chosen]:
        if any(_is_data(column) for column in columns):
            raise InputError(
                f"{path}: no column found for {', '.join(missing)}, and the first line looks like a row "
                f"({', '.join(columns)[:200]}). If there is no header line, name the columns: "
                f"--columns {','.join(_guessed(columns))}"
            )
        example = ",".join(f"{file + '.' if file else ''}{field}=COLUMN" for field in missing)
        raise InputError(
            f"{path}: no column found for {', '.join(missing)}. The file has: {', '.join(columns)}. "
            f"Say which it is: --map {example}"
        )
    return chosen


def usual_columns(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns that have one of the usual names, in the order of these names."""
    plain = {_plain(column): column for column in reversed(columns)}
    return [plain[_plain(name)] for name in names if _plain(name) in plain]


def time_columns(columns: Sequence[str]) -> list[str]:
    """The columns that may hold the event time: by the usual names; only where none has one, by these or _MORE_TIMES
    with a unit or a zone behind: event_ts_ms, `Event Time (UTC)`."""
    if usual := usual_columns(columns, BEHAVIOR_NAMES["at"]):
        return usual
    bare = {_UNIT.sub("", name.strip().lower()): name for name in reversed(columns)}
    return [bare[name] for name in usual_columns(list(bare), [*BEHAVIOR_NAMES["at"], *_MORE_TIMES])]


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def _is_data(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _guessed(columns: Sequence[str]) -> list[str]:
    """An example of --columns of the right length."""
    names = ["user_id", "item_id", *[f"unused{place}" for place in range(1, len(columns) - 2)], "at"]
    return names[: len(columns)]
