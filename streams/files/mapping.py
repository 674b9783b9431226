"""Which column of a file holds which field: by the field's usual names, or as --map says."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from interest.errors import InputError

# The first name that a file has is taken; names are compared without case and underscores.
BEHAVIOR_NAMES = {
    "user_id": ("user_id", "user", "uid", "customer_id", "visitor_id", "reviewer_id"),
    "item_id": ("item_id", "item", "iid", "movie_id", "product_id", "asin", "video_id", "article_id", "song_id"),
    "at": ("at", "timestamp", "time", "event_time", "ts", "datetime", "date", "created_at", "unix_timestamp"),
    "value": ("value", "rating", "score", "stars", "overall", "play_time", "watch_time", "price"),
    "action": ("action", "event", "event_type", "behavior", "behavior_type", "action_type", "type"),
    "scene": ("scene", "scenario", "page", "placement", "domain"),
    "event_id": ("event_id", "message_id"),
}
ITEM_NAMES = {
    "item_id": BEHAVIOR_NAMES["item_id"],
    "title": ("title", "name", "movie_title", "item_name", "product_name"),
    "categories": ("categories", "genres", "genre", "category", "class", "tags", "category_id"),
}
USER_NAMES = {"user_id": BEHAVIOR_NAMES["user_id"]}


def parse_map(text: str | None) -> dict[str, str]:
    """`user_id=userId,value=rating` as {"user_id": "userId", "value": "rating"}."""
    pairs = {}
    for part in filter(None, (text or "").split(",")):
        field, sign, column = (piece.strip() for piece in part.partition("="))
        if not sign or not field or not column:
            raise InputError(f"--map {part!r} is not FIELD=COLUMN; write for example --map user_id=userId,value=rating")
        if field not in {**BEHAVIOR_NAMES, **ITEM_NAMES}:
            known = ", ".join(dict.fromkeys([*BEHAVIOR_NAMES, *ITEM_NAMES]))
            raise InputError(f"--map {part!r}: there is no field {field!r}; the fields are {known}")
        pairs[field] = column
    return pairs


def find_columns(
    path: Path,
    columns: Sequence[str],
    names: Mapping[str, Sequence[str]],
    required: Sequence[str],
    column_map: Mapping[str, str],
    *,
    lenient: Collection[str] = (),
) -> dict[str, str]:
    """The column of each field that the file has; `column_map` goes before the usual names and must be right.

    `lenient` fields may be mapped for another file (item_id of a log and of its catalogue): where the file lacks that
    column, the usual names are tried.
    """
    plain = {_plain(column): column for column in reversed(columns)}
    chosen = {}
    for field, usual in names.items():
        if field in column_map and column_map[field] in columns:
            chosen[field] = column_map[field]
        elif field in column_map and field not in lenient:
            raise InputError(
                f"{path} has no column {column_map[field]!r} (--map {field}=…); it has: {', '.join(columns)}"
            )
        elif column := next((plain[_plain(name)] for name in usual if _plain(name) in plain), None):
            chosen[field] = column
    if missing := [field for field in required if field not in chosen]:
        if len(columns) == 1 and ";" in columns[0]:
            raise InputError(f"{path} is separated by semicolons; write it with commas, or as .tsv with tabs")
        example = ",".join(f"{field}=COLUMN" for field in missing)
        raise InputError(
            f"{path}: no column found for {', '.join(missing)}. The file has: {', '.join(columns)}. "
            f"Say which it is: --map {example}"
        )
    return chosen


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
