"""Times as logs write them, each as what it is, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.files.rows import BehaviorLog
from streams.files.text import Reasons
from streams.files.times import as_times

NOON = "2022-04-08 12:00:00"
KNOWN = [
    (text, moment)
    for moment, texts in {
        NOON: [
            "2022-04-08 12:00:00", "2022-04-08T12:00:00Z", "2022-04-08 12:00:00 UTC", "2022-04-08T12:00:00GMT",
            "2022-04-08 12:00:00+00", "2022-04-08 12:00:00 +0000", "2022-04-08 14:00:00+02", "2022-04-08 17:30 +05:30",
            "2022-04-08 14:00:00 UTC+2", "2022-04-08 14:00:00 GMT+02:00", "2022-04-08T14:00:00+02:00[Europe/Paris]",
            "2022-04-08 12:00:00.000000000", "2022-04-08T12:00:00,000", "2022/04/08 12:00:00", "2022.04.08 12:00",
            "2022-4-8 12:00", "2022-04-08 12:00:00 PM", "8 Apr 2022 12:00:00", "8-Apr-2022 12:00",
            "April 8, 2022 12:00 PM",
            "Fri, 08 Apr 2022 12:00:00 GMT", "Fri, 08 Apr 2022 14:00:00 +0200", "Fri Apr 08 12:00:00 +0000 2022",
            "08/Apr/2022:12:00:00 +0000", "20220408T120000Z", "20220408120000", "20220408120000000", "202204081200",
            "2022040812", "44659.5", "1649419200", "1649419200.0", "1649419200000", "1649419200000000",
            "1649419200000000000", "1.6494192e9", " 1649419200 ",
        ],
        "2022-04-08 00:00:00": ["20220408", "2022-04-08", "2022/04/08", "44659", "44659.0", "8 April 2022",
                                "Apr 8th, 2022",
                                "2022-04-08 UTC", "2022-04-07T24:00:00", "2022年4月8日", "2022-04-08 12:00 AM"],
        "2022-04-01 00:00:00": ["202204"],
        "2022-01-01 00:00:00": ["2022", "2022.0", "2021-12-31T23:59:60Z"],
    }.items()
    for text in texts
]  # fmt: skip
REFUSED = [
    ("12345", "as epoch seconds that would be in the years 1970 to 1973"),
    ("0", "as epoch seconds that would be in the years 1970 to 1973"),
    ("20221301", "it is not a date"),
    ("1969", "as epoch seconds"),
    ("04/08/2022", "day or month first"),
    ("8.4.2022 12:00", "day or month first"),
    ("12:00:31", "is not a time"),
    ("2022-04-08 12:00:00 EST", "is not a time"),
    ("2022-02-30", "is not a time"),
    ("-1", "is not a time between 1970 and tomorrow"),
    ("99999999999", "is not a time between 1970 and tomorrow"),
    ("9" * 400, "is not a time between 1970 and tomorrow"),
    ("inf", "is not a time"),
    ("true", "is not a time"),
    ("NULL", "is empty"),
]


def read(column: object) -> tuple[list[str | None], Reasons]:
    reasons: Reasons = {}
    times = as_times(column, "at", reasons)
    return [None if np.isnan(at) else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}" for at in times], reasons


@pytest.mark.parametrize(("text", "moment"), KNOWN)
def test_a_time_is_read_as_what_it_is(text: str, moment: str) -> None:
    assert read([text]) == ([moment], {})
    assert read(["1600000000", text])[0][1] == moment  # beside others, too
    assert read(pa.array([text, None]))[0][0] == moment


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_what_is_not_a_time_is_refused_and_never_1970(text: str, reason: str) -> None:
    times, reasons = read([text, "1600000000"])
    assert times[0] is None
    assert reason in reasons[0]
    assert 1 not in reasons


@pytest.mark.parametrize(
    "column",
    [
        pa.array([20220408]), pa.array([20220408.0]), pa.array([44659]), pa.array([44659.0]), [20220408], [44659.0],
        pa.array([19090], pa.date32()), pa.array([datetime(2022, 4, 8)]), pa.array(["20220408"]).dictionary_encode(),
        pa.array([1649376000000000000]), pa.array([1649376000], pa.uint64()),
        pa.array([1649376000000], pa.timestamp("ms", tz="Asia/Tokyo")), pa.array([1649376000000], pa.date64()),
    ],
)  # fmt: skip
def test_numbers_and_arrow_types(column: object) -> None:
    assert read(column) == (["2022-04-08 00:00:00"], {})


@given(st.integers(100_000_000 * 10**9, 1_700_000_000 * 10**9), st.sampled_from([0, 3, 6, 9]))
def test_every_unit_gives_the_same_time_as_text_as_number_and_in_arrow(nanoseconds: int, digits: int) -> None:
    number = nanoseconds // 10 ** (9 - digits)
    expected = number // 1000 / 1e6 if digits == 9 else number / 10**digits
    for column in ([str(number)], [number], pa.array([number]), pa.array([str(number)]), ["x", str(number)]):
        assert as_times(column, "at", {})[-1] == expected


@pytest.mark.parametrize(
    ("header", "row", "chosen"),
    [
        ("date,time_ms", "20220408,1649400000001", "time_ms"),
        ("timestamp,event_time", "2022-04-08,2022-04-08 12:00:05", "event_time"),
        ("timestamp,date", "1649400000,2022-04-08", "timestamp"),
        ("time,timestamp", "12:00:31,1649400000", "timestamp"),
        ("ts,timestamp", "1649400001,1649400002", "timestamp"),  # as good as the other: the usual order decides
        ("ts,timestamp", ",1649400002", "timestamp"),
        ("date,ts", "2022-04-08 01:00:00,44659", "date"),
    ],
)
def test_of_several_time_columns_the_better_one_is_taken(tmp_path: Path, header: str, row: str, chosen: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"user_id,item_id,{header}\nu,1,{row}\n")
    log = BehaviorLog(path, {})
    assert log.fields["at"] == chosen
    assert any(note.startswith(f"time: {chosen}, not ") for note in log.understood().notes)
    assert BehaviorLog(path, {"at": header.split(",", maxsplit=1)[0]}).fields["at"] == header.split(",", maxsplit=1)[0]
