"""Files of pairs, in blocks; files of scores, whole or not there."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fusion.serving.pair_files import json_list, open_pairs, open_scores, read_item_ids
from fusion.serving.requests import Scored
from interest.errors import InputError

SCORED = [Scored("u1", "a, b", 0.25, False, True), Scored("12", "i2", 1 / 3, True, False)]


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return path


def test_csv_is_read_whatever_else_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_bytes(b'\xef\xbb\xbfitem_id,note,user_id\ni2,x,u1\n"a,b",,u2\n')
    found = open_pairs(file)
    assert (found.rows, list(found.blocks())) == (2, [[("u1", "i2"), ("u2", "a,b")]])


def test_parquet_and_csv_come_in_blocks_and_are_the_same_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion.serving.pair_files.BLOCK", 4)
    expected = [(f"u{n % 3}", str(n)) for n in range(10)]
    file = tmp_path / "pairs.csv"
    file.write_text("user_id,item_id\n" + "".join(f"{user},{item}\n" for user, item in expected))
    users = pa.array([user for user, _ in expected])
    kinds = [users, users.dictionary_encode(), users.cast(pa.large_string())]
    files = [parquet(tmp_path / f"{n}.parquet", item_id=range(10), user_id=own) for n, own in enumerate(kinds)]
    for found in map(open_pairs, (file, *files)):
        blocks = list(found.blocks())
        assert found.rows == 10
        assert [pair for block in blocks for pair in block] == expected
        assert max(map(len, blocks)) <= 4


def test_what_cannot_be_read_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("user_id,item_id\nu1,i1\nu1,\n")
    with pytest.raises(InputError, match="line 3: user_id or item_id is empty"):
        open_pairs(file)
    file.write_text("user,item\nu1,i1\n")
    with pytest.raises(InputError, match="it has: user, item"):
        open_pairs(file)
    with pytest.raises(InputError, match="cannot read"):
        open_pairs(tmp_path / "nothing.csv")
    with pytest.raises(InputError, match="row 5: user_id or item_id is empty"):
        list(open_pairs(parquet(tmp_path / "a.parquet", user_id=["u"] * 6, item_id=[*"abcd", None, "f"])).blocks())
    with pytest.raises(InputError, match="column item_id is double; ids are texts or whole numbers"):
        open_pairs(parquet(tmp_path / "b.parquet", user_id=["u"], item_id=[1.5]))
    with pytest.raises(InputError, match="it has: user, item_id"):
        open_pairs(parquet(tmp_path / "c.parquet", user=["u"], item_id=["i"]))
    (tmp_path / "d.parquet").write_text("not Parquet")
    with pytest.raises(InputError, match="cannot read"):
        open_pairs(tmp_path / "d.parquet")


@pytest.mark.parametrize("name", ["s.parquet", "s.csv", "s.jsonl", "s.ndjson"])
def test_scores_are_written_with_their_marks(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    with open_scores(out) as write:
        write(SCORED[:1])
        assert not out.exists()
        write([])
        write(SCORED[1:])
    if name.endswith(".parquet"):
        assert [tuple(row.values()) for row in pq.read_table(out).to_pylist()] == [one[:-1] for one in SCORED]
    elif name.endswith(".csv"):
        rows = list(csv.reader(out.read_text().splitlines()))
        assert rows[0] == ["user_id", "item_id", "score", "unknown_user", "unknown_item"]
        assert rows[1:] == [["u1", "a, b", "0.250000", "false", "true"], ["12", "i2", "0.333333", "true", "false"]]
    else:
        rows_ = [json.loads(line) for line in out.read_text().splitlines()]
        assert rows_ == [
            dict(zip(one._fields, (*one[:2], round(one.score, 6), *one[3:-1]), strict=False)) for one in SCORED
        ]
    assert list(tmp_path.iterdir()) == [out]


def test_an_interrupted_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    out.write_text("old")

    def interrupted() -> None:
        with open_scores(out) as write:
            write(SCORED)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]
    with pytest.raises(InputError, match=r"ends with \.parquet, \.csv"), open_scores(tmp_path / "s.xlsx"):
        pass
    with pytest.raises(InputError, match=r"cannot write .*No such file"), open_scores(tmp_path / "no" / "s.csv"):
        pass


def test_item_ids_come_one_a_line_or_as_a_json_list(tmp_path: Path) -> None:
    file = tmp_path / "items"
    file.write_text("\ufeffGood, the Bad and the Ugly, The\n\n 12 \n")
    assert read_item_ids(file) == ["Good, the Bad and the Ugly, The", "12"]
    file.write_text('["Matrix, The", 12]\n')
    assert read_item_ids(file) == ["Matrix, The", "12"]
    file.write_text("\n")
    with pytest.raises(InputError, match="has no item ids"):
        read_item_ids(file)
    assert json_list("[1.5]") is json_list("[true]") is json_list("12") is json_list("a,b") is None
