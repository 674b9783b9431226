"""How long a server asks to be left alone: Retry-After (RFC 9110, section 10.2.3), or milliseconds, as some send."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime


def asked_to_wait_s(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float:
    """Seconds from now; 0 where the headers do not say, or say nothing that can be read.

    headers: their names in any case, as httpx has them.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    said = headers.get("retry-after")
    if (seconds := _number(said)) is not None:
        return seconds
    try:
        return max(parsedate_to_datetime(said or "").timestamp() - now(), 0.0)
    except (ValueError, OverflowError):
        return 0.0


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return max(number, 0.0) if math.isfinite(number) else None
