"""Converts columns as read to text: cells are stripped, words for a missing value are missing, 12.0 is 12.

The same in every format, so that an id in a text file meets the same id in a Parquet file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import pyarrow as pa

Column: TypeAlias = Any  # pa.Array, or a list of values
Reasons = dict[int, str]  # row within the chunk -> why it cannot be used

# How databases and data frames write "no value", as a whole cell. Not "none", which is an occupation in ML-100K.
MISSING = frozenset(
    ["", "NULL", "Null", "null", "(null)", "<null>", "\\N", "NaN", "nan", "NAN", "-nan", "None", "NONE", "NA", "N/A",
     "n/a", "#N/A", "<NA>", "NaT", "nil", "undefined"]
)  # fmt: skip
_ABSENT = frozenset([*MISSING, None])
_WHOLE_NUMBER = re.compile(r"[+-]?\d+\.0+")


def as_text(column: Column, name: str, reasons: Reasons, *, required: bool, numbers: bool = True) -> list[str | None]:
    """Text of every row; a missing one becomes None, which is a reason where the column is required.

    `numbers`: text such as 12.0 becomes 12, as the number 12.0 does.
    """
    if isinstance(column, pa.Array):
        values = _arrow_text(column, name, reasons, numbers=numbers)
    else:
        values = [value if type(value) is str else _text(value, name, row, reasons) for row, value in enumerate(column)]
        if not _is_clean(values):
            values = [value if value is None else _clean(value, numbers=numbers) for value in values]
    if None in values or not _is_plain("".join(values)):  # type: ignore[arg-type]
        for row, value in enumerate(values):
            if value is None:
                if required:
                    reasons.setdefault(row, f"{name} is {_missing(column, row)}")
            elif not _is_plain(value):
                if any("\ud800" <= char <= "\udfff" for char in value):
                    reasons.setdefault(row, f"{name} is not UTF-8; if it is another encoding, name it: --encoding")
                elif "\0" in value:
                    reasons.setdefault(row, f"{name} has a NUL character")
    return values


def is_missing(value: object) -> bool:
    """Whether a cell says that there is no value."""
    if isinstance(value, str):
        return value.strip() in MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def shown(value: object, most: int = 40) -> str:
    """A value as a message quotes it: cut where it is long."""
    text = str(value)
    return repr(text if len(text) <= most else text[:most] + "…")


def _missing(column: Column, row: int) -> str:
    value = column[row].as_py() if isinstance(column, pa.Array) else column[row]
    return "empty" if value is None or not str(value).strip() else f"missing: {shown(value)}"


def _is_clean(values: Sequence[str | None]) -> bool:
    """Whether no value needs cleaning; asked of them all at once, which costs a twentieth of cleaning each."""
    if not _ABSENT.isdisjoint(values):
        return False
    joined = "".join(values)  # type: ignore[arg-type]  # there is no None among them
    return (
        ".0" not in joined and not joined[:1].isspace() and len(joined.split(None, 1)) < 2 and not joined[-1:].isspace()
    )


def _clean(value: str, *, numbers: bool) -> str | None:
    value = value.strip()
    if value in MISSING:
        return None
    if numbers and value.endswith("0") and _WHOLE_NUMBER.fullmatch(value):
        return value[: value.index(".")]
    return value


def _arrow_text(column: pa.Array, name: str, reasons: Reasons, *, numbers: bool) -> list[str | None]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        texts = _is_text(kind.value_type) or pa.types.is_integer(kind.value_type)
    else:
        texts = _is_text(kind) or pa.types.is_integer(kind)
    if not texts:
        # bytes that may not be UTF-8; floats, where a column of ids has gaps: 12.0 is item 12; lists, which are not ids
        found = [_text(value, name, row, reasons) for row, value in enumerate(column.to_pylist())]
        return [value if value is None else _clean(value, numbers=numbers) for value in found]
    if not pa.types.is_dictionary(kind):
        column = column.cast(pa.string()).dictionary_encode()
    names: Sequence[str | None] = column.dictionary.cast(pa.string()).to_pylist()
    if not _is_clean(names):
        names = [value if value is None else _clean(value, numbers=numbers) for value in names]
    if column.null_count:
        return [None if index is None else names[index] for index in column.indices.to_pylist()]
    return [names[index] for index in column.indices.to_pylist()]  # one object a name: less memory, faster comparisons


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _text(value: Any, name: str, row: int, reasons: Reasons) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    if isinstance(value, bool | list | tuple | dict):
        reasons.setdefault(row, f"{name} is neither text nor a number: {shown(value)}")
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _is_plain(text: str) -> bool:
    return text.isascii() and "\0" not in text
