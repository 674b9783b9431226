"""The rate of a replay: how its rows are spaced, and which rates are refused."""

from __future__ import annotations

import pytest

from interest.errors import InputError
from streams.replay.rate import Pacer, Rate, parse_rate

AT = 1_700_000_000


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def played(rate: Rate, at: list[float]) -> list[float]:
    """When each row is said to be due, with a clock that moves as far as it is told to wait."""
    import numpy as np

    clock = Clock()
    pacer, times, start, moments = Pacer(rate, clock), np.array(at), 0, list[float]()
    while start < len(at):
        due, wait = pacer.due(times, start)
        assert (due == 0) == (wait > 0)
        moments += [clock.now - 100.0] * due
        start += due
        clock.now += wait
    return moments


def test_rates_space_the_rows() -> None:
    at = [AT, AT + 10, AT + 10, AT + 40, AT + 100]
    assert played(Rate(), at) == [0, 0, 0, 0, 0]
    assert played(parse_rate("10x"), at) == pytest.approx([0, 1, 1, 4, 10], abs=2e-3)
    assert played(parse_rate("0.5x"), at) == pytest.approx([0, 20, 20, 80, 200], abs=2e-3)
    assert played(parse_rate("4/s"), at) == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=2e-3)


@pytest.mark.parametrize("text", ["", "0x", "-1x", "10", "x", "10/m", "nan/s", "1e3x"])
def test_a_rate_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="give max"):
        parse_rate(text)
