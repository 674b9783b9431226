"""Converts columns as read to numbers: whole columns at once, row by row where that fails."""

from __future__ import annotations

import math
import re

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from interest.errors import InputError
from interest.types import MAX_VALUE
from streams.files.text import Column, Reasons, is_missing, shown

Floats = npt.NDArray[np.float64]
_RANGE = re.compile(r"\s*(?P<least>[-+.\de]*)\s*(?:\.\.|…)\s*(?P<most>[-+.\de]*)\s*", re.IGNORECASE)
_COMMA = re.compile(r"\s*[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+\s*")


class ValueRange(msgspec.Struct, frozen=True):
    """What a value may be, both ends included; at most what a float32 holds, for the models compute in these."""

    least: float = -MAX_VALUE
    most: float = MAX_VALUE

    def problem(self, number: float) -> str | None:
        """Why a number cannot be a value."""
        if self.least <= number <= self.most:
            return None
        if abs(number) > MAX_VALUE:
            return f"is {number:g}, more than a float32 holds"
        return f"is {number:g}, outside of {self.least:g}..{self.most:g}"


def parse_range(text: str) -> ValueRange:
    """`1..5`, `0..` or `..100`. Raises InputError for anything else."""
    match = _RANGE.fullmatch(text)
    ends = (match["least"], match["most"]) if match else ("", "")
    try:
        least, most = float(ends[0] or -MAX_VALUE), float(ends[1] or MAX_VALUE)
    except ValueError:
        least, most = 1.0, 0.0
    if not any(ends) or not -MAX_VALUE <= least <= most <= MAX_VALUE:
        raise InputError(f"--value-range {text}: give LEAST..MOST, for example 1..5, or one end: 0..")
    return ValueRange(least, most)


def as_numbers(
    column: Column,
    name: str,
    reasons: Reasons,
    allowed: ValueRange = ValueRange(),  # noqa: B008  frozen
) -> list[float | None]:
    """Numbers of every row; a missing one becomes None; infinities and what is not `allowed` are reasons."""
    array = whole(column)
    if array is not None and (len(array) == 0 or (array.min() >= allowed.least and array.max() <= allowed.most)):
        numbers: list[float | None] = array.tolist()
        return numbers
    values = column.to_pylist() if isinstance(column, pa.Array) else column
    out: list[float | None] = []
    for row, value in enumerate(values):
        number = None
        if not is_missing(value):
            try:
                number = float(value)
            except (TypeError, ValueError, OverflowError):
                reasons.setdefault(row, f"{name} is not a number: {shown(value)}")
            else:
                problem = f"is {number}" if not math.isfinite(number) else allowed.problem(number)
                if problem:
                    reasons.setdefault(row, f"{name} {problem}")
        out.append(number)
    return out


def with_points(column: Column) -> Column:
    """Numbers written with a decimal comma, and points between thousands, with a decimal point."""
    return [
        cell.strip().replace(".", "").replace(",", ".") if isinstance(cell, str) and _COMMA.fullmatch(cell) else cell
        for cell in column
    ]


def whole(column: Column) -> Floats | None:
    """The column as float64 if every row converts, else None."""
    try:
        if isinstance(column, pa.Array):
            if column.null_count or pa.types.is_boolean(column.type):
                return None
            array: Floats = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False).copy()
            return array
        return np.array(column, dtype=object).astype(np.float64) if None not in column else None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError, ValueError, OverflowError):
        return None
