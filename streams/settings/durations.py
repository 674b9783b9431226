"""Durations as people write them: 30s, 12h, 7d."""

from __future__ import annotations

import re
from decimal import Decimal

from interest.errors import InputError

DAY_S = 86_400.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S, "w": 7 * DAY_S}


def parse_duration(text: str) -> float:
    """A duration such as 30m, 12h, 7d or 2w, in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip())
    if not match:
        raise InputError(f"{text!r} is not a duration; write for example 30m, 12h, 7d or 2w")
    return float(match[1]) * _UNITS[match[2]]


def format_duration(length: float) -> str:
    """Seconds as `seconds` reads them, in the greatest unit that divides them; no weeks, for 14d is plainer than 2w."""
    unit = next((unit for unit in "dhm" if length % _UNITS[unit] == 0), "s")
    return f"{Decimal(repr(length / _UNITS[unit])):f}".removesuffix(".0") + unit
