"""Converts columns as read to text, numbers and times: whole columns at once, row by row where that fails.

A canonical column is a Python list (text) or a float64 array (numbers, times); beside it stand the reasons of the rows
that cannot be used. Nothing here knows of files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from interest.types import FUTURE_S

Column: TypeAlias = Any  # pa.Array, or a list of values
Reasons = dict[int, str]  # row within the chunk -> why it cannot be used
Floats = npt.NDArray[np.float64]

_MILLISECONDS_FROM, _MICROSECONDS_FROM = 1e11, 1e14  # as seconds these would be the years 5138 and 3170843


def as_text(column: Column, name: str, reasons: Reasons, *, required: bool) -> list[str | None]:
    """Text of every row; empty and null become None, which is a reason where the column is required."""
    if isinstance(column, pa.Array):
        values = _arrow_text(column, name, reasons)
    else:
        values = [value if type(value) is str else _text(value, name, row, reasons) for row, value in enumerate(column)]
    if None in values or "" in values or not _plain("".join(values)):  # type: ignore[arg-type]
        for row, value in enumerate(values):
            if value is None or value == "":
                values[row] = None
                if required:
                    reasons.setdefault(row, f"{name} is empty")
            elif not _plain(value):
                if any("\ud800" <= char <= "\udfff" for char in value):
                    reasons.setdefault(row, f"{name} is not UTF-8")
                elif "\0" in value:
                    reasons.setdefault(row, f"{name} has a NUL character")
    return values


def as_numbers(column: Column, name: str, reasons: Reasons) -> list[float | None]:
    """Numbers of every row; empty and null become None, NaN and infinities are reasons."""
    array = _whole(column)
    if array is not None and np.isfinite(array).all():
        numbers: list[float | None] = array.tolist()
        return numbers
    values = column.to_pylist() if isinstance(column, pa.Array) else column
    out: list[float | None] = []
    for row, value in enumerate(values):
        number = None
        if value is not None and value != "":
            try:
                number = float(value)
            except (TypeError, ValueError, OverflowError):
                reasons.setdefault(row, f"{name} is not a number: {_shown(value)}")
            else:
                if not math.isfinite(number):
                    reasons.setdefault(row, f"{name} is {number}")
        out.append(number)
    return out


def as_times(column: Column, name: str, reasons: Reasons) -> Floats:
    """UTC seconds of every row: epoch seconds, milliseconds or microseconds by their size, ISO 8601 text, timestamps.

    ISO times without an offset are UTC. A row without a usable time gets NaN and a reason.
    """
    latest = time.time() + FUTURE_S  # the same rule as for a message that is produced now
    if isinstance(column, pa.Array) and pa.types.is_timestamp(column.type):
        # a timestamp counts from 1970 in UTC whatever zone it is shown in
        exact = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False).cast(pa.int64())
        times: Floats = exact.to_numpy(zero_copy_only=False).astype(np.float64) / 1e6
    else:
        array = _whole(column)
        times = _scaled(array) if array is not None else _each_time(column, name, reasons)
    bad = ~((times >= 0) & (times <= latest))
    if bad.any():
        for row in np.flatnonzero(bad).tolist():
            value = column[row].as_py() if isinstance(column, pa.Array) else column[row]
            missing = value is None or value == ""
            reasons.setdefault(
                row,
                f"{name} is empty" if missing else f"{name} is not a time between 1970 and tomorrow: {_shown(value)}",
            )
            times[row] = np.nan
    return times


def _each_time(column: Column, name: str, reasons: Reasons) -> Floats:
    values = column.to_pylist() if isinstance(column, pa.Array) else column
    out = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        if value is None or value == "":
            continue
        try:
            out[row] = _scaled(np.array([float(value)]))[0]
        except (TypeError, ValueError, OverflowError):
            try:
                moment = datetime.fromisoformat(str(value).strip())
            except ValueError:
                reasons.setdefault(row, f"{name} is not a time: {_shown(value)}")
                continue
            out[row] = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return out


def _scaled(times: Floats) -> Floats:
    """Seconds, from seconds, milliseconds or microseconds, each told by its size."""
    size = np.abs(times)
    with np.errstate(invalid="ignore"):
        return np.where(
            size >= _MICROSECONDS_FROM, times / 1e6, np.where(size >= _MILLISECONDS_FROM, times / 1e3, times)
        )


def _whole(column: Column) -> Floats | None:
    """The column as float64 if every row converts, else None."""
    try:
        if isinstance(column, pa.Array):
            if column.null_count:
                return None
            whole: Floats = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False).copy()
            return whole
        return np.array(column, dtype=object).astype(np.float64) if None not in column else None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError, ValueError, OverflowError):
        return None


def _arrow_text(column: pa.Array, name: str, reasons: Reasons) -> list[str | None]:
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_dictionary(kind)):
        # bytes that may not be UTF-8; floats, where a column of ids has gaps: 12.0 is item 12; lists, which are not ids
        return [_text(value, name, row, reasons) for row, value in enumerate(column.to_pylist())]
    if not pa.types.is_dictionary(kind):
        column = column.cast(pa.string()).dictionary_encode()
    names: Sequence[str | None] = column.dictionary.cast(pa.string()).to_pylist()
    if column.null_count:
        return [None if index is None else names[index] for index in column.indices.to_pylist()]
    return [names[index] for index in column.indices.to_pylist()]  # one object a name: less memory, faster comparisons


def _text(value: Any, name: str, row: int, reasons: Reasons) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    if isinstance(value, bool | list | dict):
        reasons.setdefault(row, f"{name} is neither text nor a number: {_shown(value)}")
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _shown(value: Any) -> str:
    text = str(value)
    return repr(text if len(text) <= 40 else text[:40] + "…")


def _plain(text: str) -> bool:
    return text.isascii() and "\0" not in text
