"""Reading logs: every format gives the same behaviours; bad rows are set aside with their line and reason."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interest.errors import InputError
from interest.types import Behavior
from streams.files.rejects import RejectedRow
from streams.files.rows import BehaviorLog
from streams.files.sort import in_time_order

AT = 881250949.0


def read(path: Path, **column_map: str) -> tuple[list[Behavior], list[RejectedRow]]:
    good, bad = [], []
    for rows in BehaviorLog(path, column_map).chunks():
        good.extend(rows.behaviors())
        bad.extend(rows.rejected)
    return good, bad


def expected(at: float = AT) -> list[Behavior]:
    return [
        Behavior(user_id="196", item_id="242", action="rate", at=at, value=3.0),
        Behavior(user_id="José", item_id="302", action="rate", at=at + 1, value=None),
    ]


ISO = [datetime.fromtimestamp(AT + add, UTC).isoformat() for add in (0, 1)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.csv", f"userId,movieId,rating,timestamp\n196,242,3,{AT:.0f}\nJosé,302,,{AT + 1:.0f}\n"),
        ("bom.csv", f"\ufeffuserId,movieId,rating,timestamp\r\n196,242,3,{AT:.0f}\r\nJosé,302,,{AT + 1:.0f}\r\n"),
        ("log.tsv", f"user\titem\trating\ttime\n196\t242\t3\t{AT * 1000:.0f}\nJosé\t302\t\t{(AT + 1) * 1000:.0f}\n"),
        ("iso.csv", f"uid,iid,score,date\n196,242,3.0,{ISO[0]}\n\nJosé,302,,{ISO[1].replace('+00:00', 'Z')}\n"),
        ("naive.csv", f"uid,iid,score,date\n196,242,3.0,{ISO[0][:19]}\nJosé,302,,{ISO[1][:19]}\n"),
        (
            "log.inter",
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
            f"196\t242\t3\t{AT:.0f}\nJosé\t302\t\t{AT + 1:.0f}\n",
        ),
        (
            "log.jsonl",
            json.dumps({"user_id": 196, "item_id": 242, "rating": 3, "timestamp": AT})
            + "\n\n"
            + json.dumps({"user_id": "José", "item_id": "302", "timestamp": ISO[1]})
            + "\n",
        ),
    ],
)
def test_text_formats_give_the_same_behaviours(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    assert read(path) == (expected(), [])


def test_gzip_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(f"user,item,rating,ts\n196,242,3,{AT}\nJosé,302,,{AT + 1}\n".encode()))
    assert read(path) == (expected(), [])


@pytest.mark.parametrize(
    "times",
    [
        pa.array([int(AT), int(AT) + 1]),
        pa.array([int(AT) * 1000, (int(AT) + 1) * 1000]),
        pa.array([AT, AT + 1]),
        pa.array([int(AT) * 1000, (int(AT) + 1) * 1000], pa.timestamp("ms")),
        pa.array([int(AT) * 10**9, (int(AT) + 1) * 10**9], pa.timestamp("ns", tz="Europe/Madrid")),
        pa.array(ISO),
    ],
)
def test_parquet_with_every_kind_of_time(tmp_path: Path, times: pa.Array) -> None:
    table = pa.table({"user_id": ["196", "José"], "item_id": [242, 302], "rating": [3.0, None], "timestamp": times})
    pq.write_table(table, tmp_path / "log.parquet")
    assert read(tmp_path / "log.parquet") == (expected(), [])


def test_milliseconds_are_kept(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\na,1,1700000000123\n")
    assert read(tmp_path / "log.csv")[0][0].at == 1700000000.123


BAD = [
    (b",1,4,881250949", "user is empty"),
    (b"a,,4,881250949", "item is empty"),
    (b"a,1,1e39,881250949", "rating is 1e+39, more than a float32 holds"),
    (b"NULL,1,4,881250949", "user is missing: 'NULL'"),
    (b"a,\\N,4,881250949", "item is missing"),
    (b"a,1,inf,881250949", "rating is inf"),
    (b"a,1,good,881250949", "rating is not a number: 'good'"),
    (b"a,1,4,", "time is empty"),
    (b"a,1,4,nan", "time is empty"),
    (b"a,1,4,yesterday", "is not a time: 'yesterday'"),
    (b"a,1,4,-5", "not a time between 1970 and tomorrow"),
    (b"a,1,4,99999999999", "not a time between 1970 and tomorrow"),
    (b"a\xff\xfe,1,4,881250949", "user is not UTF-8"),
    (b"a\0b,1,4,881250949", "user has a NUL character"),
    (b"a" * 1025 + b",1,4,881250949", "user has 1,025 bytes; 1,024 is the most"),
    (b"a,1,4", "3 columns where the header has 4"),
    (b"a,1,4,881250949,9", "5 columns where the header has 4"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_row_is_set_aside_with_line_and_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"user,item,rating,time\nb,1,4,881250940\n" + line + b"\nb,2,4,881250950\n")
    good, bad = read(path)
    assert [behavior.item_id for behavior in good] == ["1", "2"]
    assert [(one.file, one.line) for one in bad] == [("log.csv", 3)]
    assert reason in bad[0].reason


def test_bad_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(
        b'{"user_id": "a", "item_id": "1", "ts": 881250949}\n{"user_id": \n[1, 2]\n{"user_id": "\xff"}\n'
        b'{"user_id": "a", "item_id": "1"}\n{"user_id": "a", "item_id": "2", "ts": 881250950, "rating": {"x": 1}}\n'
    )
    good, bad = read(path)
    assert len(good) == 1
    assert [one.line for one in bad] == [2, 3, 4, 5, 6]


def test_quoted_line_breaks_keep_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text('user,item,note,time\na,1,"two\nlines",881250949\na,2,,never\n')
    good, bad = read(path)
    assert len(good) == 1
    assert [one.line for one in bad] == [4]


def test_a_quote_that_is_never_closed_costs_its_own_line_only(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    lines = [f"u,{number},4,{AT + number:.0f}" for number in range(50)]
    lines[7] = f'u,"7,4,{AT:.0f}'
    path.write_text("\n".join(["user,item,rating,time", *lines]) + "\n")
    good, bad = read(path)
    assert [behavior.item_id for behavior in good] == [str(number) for number in range(50) if number != 7]
    assert [(one.line, one.reason) for one in bad] == [(9, "a quote is opened and not closed on this line")]


def test_values_that_cannot_be_ids_are_set_aside(tmp_path: Path) -> None:
    lines = [
        {"user_id": value, "item_id": 1, "ts": at}
        for value, at in [({"a": 1}, AT), ([1], AT), (True, AT), ("u", 10**400), ("u", AT)]
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    good, bad = read(tmp_path / "log.jsonl")
    assert len(good) == 1
    assert [one.line for one in bad] == [1, 2, 3, 4]


def test_parquet_ids_of_other_types(tmp_path: Path) -> None:
    for number, (ids, wanted) in enumerate(
        [
            (pa.array([b"u\xe9", b"ok"]), ["ok"]),
            (pa.array([[1], [2]]), []),
            (pa.array([12.0, None]), ["12"]),
            (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        ]
    ):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"user_id": ids, "item_id": [1, 2], "ts": [AT, AT]}), path)
        good, bad = read(path)
        assert [behavior.user_id for behavior in good] == wanted
        assert len(good) + len(bad) == 2


def test_a_damaged_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    whole = gzip.compress(b"user,item,time\n" + b"".join(b"u,%d,881250949\n" % n for n in range(99_000)))
    (tmp_path / "log.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is damaged after line"):
        read(tmp_path / "log.csv.gz")


def test_missing_columns_list_what_there_is_and_the_map_to_write(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("who,what,moment\na,1,881250949\n")
    with pytest.raises(InputError, match=r"who, what, moment.*--map user_id=COLUMN,item_id=COLUMN,at=COLUMN"):
        BehaviorLog(path, {})
    assert len(read(path, user_id="who", item_id="what", at="moment")[0]) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.xls", b"x", "the ending .xls is not known"),
        ("log.csv", b"", "is empty"),
        ("log.parquet", b"not parquet", "cannot be read"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        BehaviorLog(tmp_path / name, {})


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=40), st.integers(1, 12), st.integers(1, 5))
@settings(deadline=None)
def test_order_is_by_time_then_by_line_whatever_the_runs(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[int, bool]], run: int, block: int
) -> None:
    path = tmp_path_factory.mktemp("order") / "log.csv"
    lines = [f"{'u' if good else ''},{number},{AT + at:.0f}" for number, (at, good) in enumerate(events)]
    path.write_text("\n".join(["user,item,time", *lines]) + "\n")
    log = BehaviorLog(path, {})
    was_sorted, chunks = in_time_order(log, run=run, block=block)
    found, rejected = [], 0
    for rows in chunks:
        found.extend((behavior.at, int(behavior.item_id)) for behavior in rows.behaviors())
        rejected += len(rows.rejected)
    assert found == sorted((AT + at, number) for number, (at, good) in enumerate(events) if good)
    assert rejected == sum(not good for _, good in events)
    times = [at for at, _ in events]
    assert was_sorted == (times == sorted(times))
