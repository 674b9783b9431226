"""Converts columns as read to event times in UTC seconds.

Numbers are told by their size and form, each for itself, so that a chunk's borders decide nothing: epoch seconds,
milliseconds, microseconds and nanoseconds from 1973 on; calendar stamps (202204, 20220408, 2022040813, 202204081305,
20220408130501 and with milliseconds); years; a spreadsheet's day counts from 1899-12-30. A small number that is none of
these is refused: as epoch seconds it would be 1970. Texts are ISO 8601 or its relatives.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from interest.types import FUTURE_S
from streams.files.numbers import Floats, whole
from streams.files.text import Column, Reasons, is_missing, shown

_SECONDS_FROM = 1e8  # 1973-03-03; in milliseconds, microseconds and nanoseconds the same moment begins each range
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_COUNT_OF_1970, _DAY_COUNTS_TO = 25_569, 80_000  # 80,000 is the year 2119
_STAMPS = {6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S", 17: "%Y%m%d%H%M%S%f"}
_MONTHS = {name: number for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}  # noqa: SIM905
# What ISO 8601 does not cover. The year first, or the month in letters: day and month are never taken for each other.
_TEXT = re.compile(
    r"""(?:[a-z]{3,9}[\s,.]+(?=[a-z]{3}|\d))?                                  # a weekday
    (?:(?P<year>\d{4})(?P<sign>[-/.])(?P<month>\d{1,2})(?P=sign)(?P<day>\d{1,2})
     | (?P<year2>\d{4})年(?P<month2>\d{1,2})月(?P<day2>\d{1,2})日
     | (?P<day3>\d{1,2})(?:st|nd|rd|th)?[\s/.-]+(?P<name3>[a-z]{3,9})[\s/.,-]+(?P<year3>\d{4})
     | (?P<name4>[a-z]{3,9})[\s.]+(?P<day4>\d{1,2})(?:st|nd|rd|th)?[\s,]+(?P<year4>\d{4})
     # Wed Oct 10 20:19:24 +0000 2018
     | (?P<name5>[a-z]{3})\s+(?P<day5>\d{1,2})(?=\s+\d{1,2}:\d\d.*\s(?P<year5>\d{4})$))
    (?:[\sT:,]+(?:at\s+)?(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<part>\d+))?)?
       (?:\s*(?P<half>[ap])\.?m\b\.?)?
       (?:\s*(?:UTC|GMT|Z)(?![a-z])\s*)?
       (?:\s*(?P<ahead>[+-])(?P<hours>\d{1,2}):?(?P<minutes>\d\d)?)?)?
    (?:\s*(?:UTC|GMT|Z))?(?:\s*\[[\w/+-]+\])?(?:\s\d{4})?$""",
    re.IGNORECASE | re.VERBOSE,
)
_AMBIGUOUS = re.compile(r"\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}\b")
_NUMERIC = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def as_times(column: Column, name: str, reasons: Reasons) -> Floats:
    """UTC seconds of every row (n,); a row without a usable time gets NaN and a reason.

    Times without an offset are UTC. Between 1970 and tomorrow, as for a message that is produced now.
    """
    latest = time.time() + FUTURE_S
    times = _arrow_times(column) if isinstance(column, pa.Array) else None
    if times is None:
        array = whole(column)
        usual = array is not None and bool(((array >= _SECONDS_FROM) & (array <= latest)).all())
        times = array if usual and array is not None else _scaled(column, array, name, reasons, latest)
    bad = ~((times >= 0) & (times <= latest))
    if bad.any():
        for row in np.flatnonzero(bad).tolist():
            value = column[row].as_py() if isinstance(column, pa.Array) else column[row]
            empty = value is None or value == "" or is_missing(value)
            reasons.setdefault(
                row, f"{name} is empty" if empty else f"{name} is not a time between 1970 and tomorrow: {shown(value)}"
            )
            times[row] = np.nan
    return times


def _arrow_times(column: pa.Array) -> Floats | None:
    """Timestamps and dates: they count from 1970 in UTC whatever zone they are shown in."""
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    if not pa.types.is_timestamp(column.type):
        return None
    exact = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False).cast(pa.int64())
    times: Floats = exact.to_numpy(zero_copy_only=False).astype(np.float64) / 1e6
    return times


def _scaled(column: Column, array: Floats | None, name: str, reasons: Reasons, latest: float) -> Floats:
    """Times of a column that is not wholly epoch seconds: whole units at once, what is left row by row."""
    if array is None:
        return _each(column, range(len(column)), np.full(len(column), np.nan), name, reasons, latest)
    times, left = array.copy(), np.ones(len(array), dtype=bool)
    for exponent in (0, 3, 6):
        unit = 10.0**exponent
        inside = (array >= _SECONDS_FROM * unit) & (array <= latest * unit) & left
        if exponent == 3:  # 12 digits that are a calendar stamp would be milliseconds of 1976
            inside &= (array < 1.97e11) | (array >= 2.1e11)
        times[inside] = array[inside] / unit
        left &= ~inside
    return _each(column, np.flatnonzero(left).tolist(), times, name, reasons, latest)


def _each(column: Column, rows: range | list[int], times: Floats, name: str, reasons: Reasons, latest: float) -> Floats:
    values = column.to_pylist() if isinstance(column, pa.Array) else column
    known: dict[object, float | str] = {}  # dates repeat
    for row in rows:
        value = values[row]
        times[row] = np.nan
        if is_missing(value):
            continue
        try:
            found = known.get(value)
        except TypeError:
            found = f"is not a time: {shown(value)}"
        if found is None:
            found = known[value] = moment(value, latest)
        if isinstance(found, str):
            reasons.setdefault(row, f"{name} {found}")
        else:
            times[row] = found
    return times


def moment(value: object, latest: float) -> float | str:  # noqa: PLR0911  one return a form
    """One value's time in UTC seconds, or why it is not one."""
    if isinstance(value, bool):
        return f"is not a time: {shown(value)}"
    if isinstance(value, int | float):
        return _of_number(value, str(value), latest)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    text = str(value).strip()
    if _NUMERIC.fullmatch(text):
        whole_number = len(text) < 21 and text.lstrip("+-").isdecimal()  # exact: nanoseconds have 19 digits
        return _of_number(int(text) if whole_number else float(text), text, latest)
    parsed = _of_text(text)
    if parsed is not None:
        return parsed.timestamp()
    if _AMBIGUOUS.match(text):
        return f"may be read in two ways, day or month first: {shown(value)}; write 2022-04-08"
    return f"is not a time: {shown(value)}"


def _of_number(number: float, text: str, latest: float) -> float | str:  # noqa: PLR0911  one return a form
    if not -1e20 < number < 1e20:  # infinite, or longer than any unit's digits
        return f"is not a time between 1970 and tomorrow: {shown(text)}"
    for exponent in (0, 3, 6, 9):
        if _SECONDS_FROM * 10**exponent <= number <= latest * 10**exponent and not (
            exponent == 3 and _stamp(number) is not None
        ):
            # nanoseconds as microseconds first, as Parquet's are: every format gives the same time
            return number // 1000 / 1e6 if exponent == 9 else number / 10**exponent
    stamp = _stamp(number)
    if stamp is not None:
        return stamp
    if 1970 <= number <= 2100 and number == int(number):
        return datetime(int(number), 1, 1, tzinfo=UTC).timestamp()
    if _DAY_COUNT_OF_1970 <= number < _DAY_COUNTS_TO:
        return round((number - _DAY_COUNT_OF_1970) * 86_400, 3)
    if 0 <= number < _SECONDS_FROM:
        return (
            f"is {text}: as epoch seconds that would be in the years 1970 to 1973, and it is not a date; write epoch "
            "seconds, or dates such as 2022-04-08"
        )
    return f"is not a time between 1970 and tomorrow: {shown(text)}"


def _stamp(number: float) -> float | None:
    """A calendar date or time written as digits."""
    if number != int(number):
        return None
    digits = str(int(number))
    form = _STAMPS.get(len(digits))
    if form is None or not "1970" <= digits[:4] <= "2100":
        return None
    try:
        found = datetime.strptime(digits + ("000" if len(digits) == 17 else ""), form).replace(tzinfo=UTC)
    except ValueError:
        return None
    return (found - _EPOCH) / timedelta(seconds=1)


def _of_text(text: str) -> datetime | None:
    """ISO 8601 and its relatives, RFC 2822, and dates whose month is in letters; UTC where no offset is given."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        match = _TEXT.match(text)
        return _of_match(match) if match else None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _of_match(match: re.Match[str]) -> datetime | None:
    parts = match.groupdict()
    form = next(str(place or "") for place in ("", 2, 3, 4, 5) if parts[f"year{place}"])
    month = parts.get(f"month{form}")
    number = int(month) if month else _MONTHS.get(parts[f"name{form}"][:3].lower(), 0)
    hour = int(parts["hour"] or 0)
    if parts["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if parts["half"].lower() == "p" else 0)
    minute, second = int(parts["minute"] or 0), int(parts["second"] or 0)
    if hour > 24 or minute > 59 or second > 60 or (hour == 24 and minute + second):  # 24:00 and leap seconds are there
        return None
    ahead = timedelta(hours=int(parts["hours"] or 0), minutes=int(parts["minutes"] or 0))
    clock = timedelta(hours=hour, minutes=minute, seconds=second, microseconds=int(f"{parts['part'] or 0:0<6}"[:6]))
    try:
        day = datetime(int(parts[f"year{form}"]), number, int(parts[f"day{form}"]), tzinfo=UTC)
        return day + clock - (ahead if parts["ahead"] == "+" else -ahead)
    except (ValueError, OverflowError):
        return None
