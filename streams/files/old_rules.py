"""How a log was known before its reading rules had a version: by its first usable row, read by the rules of then.

Only so that a log which those rules read otherwise than today's is found out, and refused in a sentence.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from interest.types import FUTURE_S, MAX_ID
from streams.files.mapping import BEHAVIOR_NAMES, usual_columns
from streams.files.rows import FIRST, BehaviorLog

_NAMES_THEN = {"user_id": 6, "item_id": 9, "at": 9, "value": 8, "action": 7, "scene": 5, "event_id": 2}


def first_row_then(log: BehaviorLog) -> str:
    """The first row that was usable then, as text; empty where none was."""
    fields: dict[str, str] = {}
    for field, count in _NAMES_THEN.items():
        mapped = log.column_map.get(field)
        usual = [mapped] if mapped else usual_columns(log.file.columns, BEHAVIOR_NAMES[field][:count])
        if usual:
            fields[field] = usual[0]
    if not {"user_id", "item_id", "at"} <= fields.keys():
        return ""
    action = log.options.action or ("rate" if "value" in fields else "view")
    for chunk in log.file.chunks(list(dict.fromkeys(fields.values())), size=FIRST):
        columns = {
            field: chunk.columns[name].to_pylist() if isinstance(chunk.columns[name], pa.Array) else chunk.columns[name]
            for field, name in fields.items()
        }
        for row in range(len(chunk.lines)):
            found = _row({field: column[row] for field, column in columns.items()}, action)
            if found:
                return found
    return ""


def _row(cells: Mapping[str, Any], action: str) -> str:
    user, item = _text(cells["user_id"]), _text(cells["item_id"])
    at = _time(cells["at"])
    done = _text(cells["action"]) if "action" in cells else action
    others = all(
        _text(cells[field]) is not None for field in ("scene", "event_id") if cells.get(field) not in (None, "")
    )
    if not (user and item and done and others) or at is None or not _is_number(cells.get("value")):
        return ""
    if max(len(user.encode()), len(item.encode())) > MAX_ID:
        return ""
    return str((user, item, done, at))


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, bool | list | dict) or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bytes):
        value = value.decode(errors="surrogateescape")
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return None if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text) else text


def _is_number(value: Any) -> bool:
    try:
        return value is None or value == "" or math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _time(value: Any) -> float | None:
    """Seconds, milliseconds or microseconds by their size, or ISO 8601."""
    if isinstance(value, datetime):
        at = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    else:
        try:
            at = float(value)
            at = at / 1e6 if abs(at) >= 1e14 else at / 1e3 if abs(at) >= 1e11 else at
        except (TypeError, ValueError, OverflowError):
            try:
                moment = datetime.fromisoformat(str(value).strip())
            except ValueError:
                return None
            at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return at if 0 <= at <= time.time() + FUTURE_S else None
