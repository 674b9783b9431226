"""Logs and catalogues as they are found in the world, each with the right values in the store."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.importing import Folder

LOG = "user_id,item_id,rating,timestamp\n" + "".join(f"u1,{n},5,{1_600_000_001 + n}\n" for n in range(1, 4))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_of_a_date_and_a_time_in_milliseconds_the_finer_is_taken_and_told(folder: Folder) -> None:
    log = folder.write(
        "kuairand.csv",
        "user_id,video_id,date,hourmin,time_ms,is_click\n0,7531,20220408,1200,1649400000000,1\n"
        "0,4012,20220409,1305,1649480700000,0\n0,4013,20220508,1305,1651986300000,0\n",
    )
    imported = folder.replay(log)
    assert imported.code == 0
    assert [row[3] for row in folder.behaviors()] == [
        "2022-04-08 06:40:00",
        "2022-04-09 05:05:00",
        "2022-05-08 05:05:00",
    ]
    assert "time: time_ms, not date, which tells days only" in imported.said
    assert "not used: date, hourmin, is_click" in imported.said
    assert "no column holds a value" in imported.said


def test_utc_suffixes_and_event_types(folder: Folder) -> None:
    log = folder.write(
        "rees46.csv",
        "event_time,event_type,product_id,category_id,price,user_id\n"
        "2019-10-01 00:00:00 UTC,view,501,901,35.79,1001\n2019-10-01 00:00:04 UTC,cart,502,902,33.20,1002\n",
    )
    assert folder.replay(log).code == 0
    assert folder.behaviors() == [
        ("1001", "501", "view", "2019-10-01 00:00:00", 35.79),
        ("1002", "502", "cart", "2019-10-01 00:00:04", 33.2),
    ]


def test_nanoseconds_of_an_atomic_file(folder: Folder) -> None:
    log = folder.write(
        "ns.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "u1\ti1\t0\t1627776000000000000\nu1\ti2\t1\t1630454400000000000\n",
    )
    assert folder.replay(log).code == 0
    assert [row[3] for row in folder.behaviors()] == ["2021-08-01 00:00:00", "2021-09-01 00:00:00"]


def test_a_log_of_which_no_row_is_usable_ends_in_an_error_with_the_first_reason(folder: Folder) -> None:
    log = folder.write("log.csv", "user_id,item_id,timestamp\nu,1,sometime\nu,2,later\n")
    imported = folder.replay(log)
    assert imported.code != 0
    assert "no row is usable" in imported.said
    assert "line 2: timestamp is not a time: 'sometime'" in imported.said
    assert [line for line, _ in folder.rejected("log.csv.rejected.jsonl")] == [2, 3]
    assert folder.replay(folder.write("empty.csv", "user_id,item_id,timestamp\n")).code != 0


@pytest.mark.parametrize(
    ("genres", "kind"),
    [
        ([["Action", "Comedy"], ["War"]], pa.large_list(pa.large_string())),
        ([["Action", "Comedy"], ["War", None]], pa.list_(pa.string(), 2)),
        ([["Action", "Comedy"], ["War"]], pa.list_(pa.string())),
        ([[{"id": 1, "name": "Action"}, {"id": 2, "name": "Comedy"}], [{"id": 3, "name": "War"}]], None),
        (["['Action', 'Comedy']", "['War']"], pa.string()),
        (['["Action", "Comedy"]', '["War"]'], pa.large_string()),
        (['[{"id": 1, "name": "Action"}, {"id": 2, "name": "Comedy"}]', "[{'id': 3, 'name': 'War'}]"], None),
        (["['Action' 'Comedy']", "['War']"], None),  # as NumPy prints an array
        (["{Action,Comedy}", "{War}"], None),  # as PostgreSQL prints one
        ([[["Action"], ["Comedy"]], [["War"]]], None),
        (["Action|Comedy", "War"], pa.string()),
        (["Action, Comedy", "War"], None),
        (pa.array(["Action;Comedy", "War"]).dictionary_encode(), None),
    ],
)
def test_every_form_of_a_list_is_a_list(folder: Folder, genres: object, kind: pa.DataType | None) -> None:
    column = genres if isinstance(genres, pa.Array) else pa.array(genres, kind)
    pq.write_table(pa.table({"item_id": ["1", "2"], "title": ["A", "B"], "genres": column}), folder.path / "i.parquet")
    imported = folder.replay(folder.write("log.csv", LOG), "--items", folder.path / "i.parquet")
    assert imported.code == 0
    assert {item: found[1] for item, found in folder.items().items()} == {"1": ["Action", "Comedy"], "2": ["War"]}


@pytest.mark.parametrize("genres", ["(no genres listed)", "", "NULL", "[]", "nan", "\\N", "No Genres Listed"])
@pytest.mark.parametrize("form", ["csv", "item", "parquet", "jsonl"])
def test_no_category_is_no_category_in_every_format(folder: Folder, genres: str, form: str) -> None:
    path = folder.path / f"i.{form}"
    if form == "csv":
        folder.write(path.name, f"item_id,title,genres\n1,A,{genres}\n2,B,War\n")
    elif form == "item":
        folder.write(path.name, f"item_id:token\ttitle:token_seq\tgenres:token_seq\n1\tA\t{genres}\n2\tB\tWar\n")
    elif form == "jsonl":
        rows = [{"item_id": 1, "title": "A", "genres": genres}, {"item_id": 2, "title": "B", "genres": ["War", genres]}]
        folder.write(path.name, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.table({"item_id": [1, 2], "title": ["A", "B"], "genres": [[genres], ["War"]]}), path)
    folder.replay(folder.write("log.csv", LOG), "--items", path)
    assert {item: found[1] for item, found in folder.items().items()} == {"1": [], "2": ["War"]}


def test_columns_that_are_not_text_are_rendered_or_set_aside_by_name(folder: Folder) -> None:
    columns = {
        "item_id": pa.array([1, 2]),
        "title": pa.array(["A", "B"]),
        "meta": pa.array([{"a": 1}, {"a": 2}]),
        "tags_by": pa.array([[("x", 1)], [("y", 2)]], pa.map_(pa.string(), pa.int64())),
        "raw": pa.array([b"\x00", b"\xff"]),
        "adult": pa.array([True, None]),
        "actors": pa.array([["Ann", "Bob"], None]),
        "year": pa.array([1995.0, None]),
        "released": pa.array([0, 1], pa.date32()),
    }
    pq.write_table(pa.table(columns), folder.path / "i.parquet")
    imported = folder.replay(folder.write("log.csv", LOG), "--items", folder.path / "i.parquet")
    assert imported.code == 0
    assert folder.items()["1"][2] == {"adult": "true", "actors": "Ann, Bob", "year": "1995", "released": "1970-01-01"}
    assert folder.items()["2"][2] == {"released": "1970-01-02"}
    assert "not used: meta, tags_by, raw" in imported.said
    assert "no column holds categories" in imported.said

    items = folder.write("i.jsonl", '{"item_id":"1","title":"A","genres":["X"],"available":true,"deep":{"a":[1]}}\n')
    folder.replay(folder.path / "log.csv", "--items", items)
    assert folder.items()["1"] == ("A", ["X"], {"available": "true"})


@pytest.mark.parametrize("form", ["csv", "jsonl", "strings.parquet", "floats.parquet"])
def test_ids_with_a_decimal_point_meet_those_without(folder: Folder, form: str) -> None:
    rows = [{"user_id": "7.0", "item_id": f"{n}.0", "timestamp": 1_600_000_000.0 + n} for n in range(1, 4)]
    path = folder.path / f"log.{form}"
    if form == "csv":
        folder.write(
            path.name, "user_id,item_id,timestamp\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows)
        )
    elif form == "jsonl":
        folder.write(path.name, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        numbers = [{name: float(value) for name, value in row.items()} for row in rows]
        pq.write_table(pa.Table.from_pylist(numbers if form.startswith("floats") else rows), path)
    items = folder.write("items.csv", "item_id,title\n1,One\n2,Two\n")
    users = folder.write("users.csv", "user_id,age\n7,30\n")
    imported = folder.replay(path, "--items", items, "--users", users)
    assert [row[:2] for row in folder.behaviors()] == [("7", "1"), ("7", "2"), ("7", "3")]
    assert "of 3 behaviours 2 have an item in the catalogue, 3 have a user profile" in imported.said
    stats = folder.command("stats", "--store", f"sqlite:///{folder.path / 's.db'}").said
    assert "2  have an item in the catalogue" in stats
    assert "3  have a user profile" in stats


def test_ids_that_never_meet_are_told(folder: Folder) -> None:
    imported = folder.replay(folder.write("log.csv", LOG), "--items", folder.write("i.csv", "item_id,title\na,A\n"))
    assert "0 have an item in the catalogue" in imported.said
    assert "the ids of the files do not meet" in imported.said


@pytest.mark.parametrize("blank", [" ", "\t", "\u00a0", "  "])
def test_cells_are_stripped(folder: Folder, blank: str) -> None:
    cells = ["u1", "1", "like it", "4", "1600000001"]
    text = (
        f",{blank}".join(["user_id", "item_id", "action", "rating", "timestamp"])
        + "\n"
        + f"{blank},{blank}".join(cells)
    )
    assert folder.replay(folder.write("blanks.csv", text + f"{blank}\n")).code == 0
    assert folder.behaviors() == [("u1", "1", "like it", "2020-09-13 12:26:41", 4.0)]


@pytest.mark.parametrize("word", ["NULL", "\\N", "nan", "None", "NaN", "<NA>", "null", "N/A", " NULL "])
def test_words_for_nothing_are_not_ids_and_are_no_value(folder: Folder, word: str) -> None:
    log = folder.write(
        "log.csv",
        f"user_id,item_id,rating,timestamp\n{word},1,4,1600000001\nu1,{word},4,1600000002\nu1,3,{word},1600000003\n"
        f"u1,4,4,{word}\n",
    )
    assert folder.replay(log).code == 0
    assert folder.behaviors() == [("u1", "3", "rate", "2020-09-13 12:26:43", None)]
    reasons = dict(folder.rejected("log.csv.rejected.jsonl"))
    assert reasons == {
        2: f"user_id is missing: {word!r}",
        3: f"item_id is missing: {word!r}",
        5: "timestamp is empty",
    }


@pytest.mark.parametrize("name", ["feedback_type", "event_type", "behavior_type", "event", "behaviour", "Event Name"])
def test_the_action_column_is_found(folder: Folder, name: str) -> None:
    log = folder.write("log.csv", f"{name},user_id,item_id,time_stamp\nstar,bob,p1,2022-06-24T21:20:11Z\n")
    assert folder.replay(log).code == 0
    assert folder.behaviors() == [("bob", "p1", "star", "2022-06-24 21:20:11", None)]


def test_none_is_a_word_and_missing_values_are_left_out(folder: Folder) -> None:
    """Nine people of ML-100K have the occupation "none"."""
    users = folder.write("users.csv", "user_id,age,occupation\nu1,30,none\nu2,NULL,None\n")
    folder.replay(folder.write("log.csv", LOG), "--users", users)
    found = {user: json.loads(attributes) for user, attributes in folder.rows("select user_id, attributes from users")}
    assert found == {"u1": {"age": "30", "occupation": "none"}, "u2": {}}


def test_a_bad_row_of_the_catalogue_or_the_profiles_is_set_aside(folder: Folder) -> None:
    items = folder.write(
        "items.csv", "item_id,title,genres\n1,Amelie,Comedy\n2,Heat, the film,Crime\n3,Ran,War\nNULL,X,Y\n"
    )
    users = folder.write("users.csv", "user_id,age\nu1,30\n,31\n")
    imported = folder.replay(folder.write("log.csv", LOG), "--items", items, "--users", users)
    assert imported.code == 0
    assert set(folder.items()) == {"1", "3"}
    assert folder.rejected("items.csv.rejected.jsonl") == [
        (3, "4 columns where the header has 3"),
        (5, "item_id is missing: 'NULL'"),
    ]
    assert folder.rejected("users.csv.rejected.jsonl") == [(3, "user_id is empty")]
    assert not (folder.path / "log.csv.rejected.jsonl").exists()
    strict = folder.replay(folder.path / "log.csv", "--items", items, "--strict")
    assert strict.code == 2
    assert "items.csv, line 3: 4 columns" in strict.said
    bad = folder.replay(folder.path / "log.csv", "--items", folder.write("all_bad.csv", "item_id,title\n,A\n,B\n"))
    assert bad.code == 2
    assert "no row is usable" in bad.said


def test_map_names_a_column_of_either_file(folder: Folder) -> None:
    log = folder.write("rev.csv", "user_id,asin,rating,timestamp\nu1,1,5.0,1588687728923\n")
    items = folder.write("meta.jsonl", '{"title":"Lamp","categories":["Hair"],"code":"1","asin":"other"}\n')
    for mapped in ("items.item_id=code", "item_id=code"):
        imported = folder.replay(log, "--items", items, "--map", mapped)
        assert imported.code == 0
        assert "1 have an item in the catalogue" in imported.said
    users = folder.write("people.csv", "who,age\nu1,30\n")
    imported = folder.replay(log, "--users", users, "--map", "users.user_id=who,log.value=rating")
    assert "1 have a user profile" in imported.said
    asked = folder.replay(log, "--users", users)
    assert "--map users.user_id=COLUMN" in asked.said
    wrong = folder.replay(log, "--items", items, "--map", "item_id=cod")
    assert "there is no column 'cod'" in wrong.said
    assert "meta.jsonl has: title, categories, code, asin" in wrong.said
    assert "give --items" in folder.replay(log, "--map", "items.item_id=code").said
    assert "there is no file 'shop'" in folder.replay(log, "--map", "shop.item_id=code").said


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz"])
def test_one_json_array_is_rows(folder: Folder, name: str) -> None:
    rows = [{"ts": f"2022-01-06T00:32:1{n}Z", "username": "u1", "spotify_track_uri": f"t:{n}"} for n in range(3)]
    text = json.dumps([*rows, 7], indent=1).encode()
    assert folder.replay(folder.write(name, gzip.compress(text) if name.endswith("gz") else text)).code == 0
    assert [row[1] for row in folder.behaviors()] == ["t:0", "t:1", "t:2"]
    assert folder.rejected(f"{name}.rejected.jsonl")[0][0] == 4


def test_json_that_is_not_rows_is_named_for_what_it_is(folder: Folder) -> None:
    one = folder.replay(folder.write("one.json", json.dumps({"plays": [{"ts": 1}], "user": "u"}, indent=1)))
    assert "is one JSON object, with plays, user" in one.said
    torn = folder.replay(folder.write("torn.json", '[{"ts": 1}, {"ts"'))
    assert "begins as a JSON array and is damaged" in torn.said


def test_a_log_without_a_header_names_its_columns(folder: Folder) -> None:
    log = folder.write(
        "UserBehavior.csv", "1,2001,3001,pv,1511544070\n1,2002,3001,pv,1511561733\n1,2003,3002,buy,1511572885\n"
    )
    asked = folder.replay(log)
    assert asked.code == 2
    assert "--columns user_id,item_id,unused1,unused2,at" in asked.said
    assert folder.replay(log, "--columns", "user_id,item_id,category,action,at").code == 0
    assert [row[:3] for row in folder.behaviors()] == [("1", "2001", "pv"), ("1", "2002", "pv"), ("1", "2003", "buy")]
    wrong = folder.replay(log, "--columns", "user_id,item_id,at")
    assert "--columns names 3 columns, the first line has 5" in wrong.said


@pytest.mark.parametrize(
    ("encoding", "options"),
    [
        ("utf-16", []), ("utf-16-le", []), ("utf-16-be", []), ("utf-8-sig", []), ("utf-32", []),
        ("latin-1", ["--encoding", "latin-1"]), ("cp1252", ["--encoding", "log=cp1252"]),
        ("utf-8-sig", ["--encoding", "latin-1"]),
    ],
)  # fmt: skip
def test_encodings(folder: Folder, encoding: str, options: list[str]) -> None:
    text = '"user_id","item_id","timestamp"\r\n"José","1","1600000001"\r\n'
    assert folder.replay(folder.write("log.csv", text.encode(encoding)), *options).code == 0
    assert [row[:2] for row in folder.behaviors()] == [("José", "1")]


def test_an_unknown_encoding_and_undecodable_bytes_are_told(folder: Folder) -> None:
    log = folder.write("log.csv", "user_id,item_id,timestamp\nJosé,1,1600000001\nu,2,1600000002\n".encode("latin-1"))
    assert folder.replay(log).code == 0
    assert "name it: --encoding" in folder.rejected("log.csv.rejected.jsonl")[0][1]
    assert "--encoding latin-9000: not known" in folder.replay(log, "--encoding", "latin-9000").said


def test_folders_of_parquet_and_their_own_columns(folder: Folder) -> None:
    for day, user in (("2022-04-08", "a"), ("2022-04-09", "b")):
        part = folder.path / "log" / f"date={day}" / "part-0.parquet"
        part.parent.mkdir(parents=True)
        pq.write_table(pa.table({"user_id": [user, None], "item_id": [1, 2]}), part)
    folder.write("log/_SUCCESS", "")
    assert folder.replay(folder.path / "log").code == 0
    assert [row[:4] for row in folder.behaviors()] == [
        ("a", "1", "view", "2022-04-08 00:00:00"),
        ("b", "1", "view", "2022-04-09 00:00:00"),
    ]
    lines = [json.loads(line) for line in (folder.path / "log.rejected.jsonl").read_text().splitlines()]
    assert [(one["file"], one["line"]) for one in lines] == [
        ("date=2022-04-08/part-0.parquet", 2), ("date=2022-04-09/part-0.parquet", 2),
    ]  # fmt: skip


def test_endings_in_capitals_and_quoted_headers(folder: Folder) -> None:
    rows = "u1,1,1600000001\nu1,2,1600000002\n"
    assert (
        folder.replay(folder.write("LOG.CSV.GZ", gzip.compress(f"User_ID,ITEM ID,TimeStamp\n{rows}".encode()))).code
        == 0
    )
    quoted = '"user_id"\t"item_id"\t"timestamp"\n"u2"\t"1"\t"1600000001"\n'
    assert folder.replay(folder.write("log.TSV", quoted)).code == 0
    assert [row[:2] for row in folder.behaviors()] == [("u1", "1"), ("u1", "2"), ("u2", "1")]


def test_values_outside_what_can_be_are_set_aside_with_their_line(folder: Folder) -> None:
    log = folder.write(
        "log.csv",
        "user_id,item_id,rating,timestamp\nu,1,1e39,1600000001\nu,2,5,1600000002\nu,3,-1,1600000003\nu,4,11,1600000004\n",
    )
    folder.replay(log)
    assert folder.rejected("log.csv.rejected.jsonl") == [(2, "rating is 1e+39, more than a float32 holds")]
    other = Folder(folder.path / "ranged")
    ranged = other.write("log.csv", log.read_text())
    assert other.replay(ranged, "--value-range", "0..5").code == 0
    assert [row[1] for row in other.behaviors()] == ["2"]
    assert [line for line, _ in other.rejected("log.csv.rejected.jsonl")] == [2, 4, 5]
    assert "give LEAST..MOST" in folder.replay(log, "--value-range", "five").said


def test_rows_that_repeat_another_in_all_but_the_value_are_kept(folder: Folder) -> None:
    log = folder.write(
        "plays.csv",
        "user_id,item_id,value,timestamp\nu,1,30,2022-01-06 00:32\nu,1,31,2022-01-06 00:32\nu,1,30,2022-01-06 00:32\n",
    )
    imported = folder.replay(log)
    assert [row[4] for row in folder.behaviors()] == [30.0, 31.0]
    assert "1 duplicates" in imported.said
    assert "for example: user u, item 1, rate, 2022-01-06 00:32:00 UTC, value 30.0 (--dedupe auto)" in imported.said
    assert "its times are whole minutes" in imported.said
    refused = folder.replay(log, "--dedupe", "none")
    assert "--dedupe auto" in refused.said
    assert refused.code == 2
    other = Folder(folder.path / "none")
    imported = other.replay(other.write("plays.csv", log.read_text()), "--dedupe", "none")
    assert len(other.behaviors()) == 3
    assert "whole minutes" not in imported.said


def test_rejected_rows_go_where_they_are_told(folder: Folder) -> None:
    log = folder.write("logs/log.csv", LOG + "u1,,5,1600000009\n")
    items = folder.write("logs/items.csv", "item_id,title\n1,A\n,B\n")
    aside = folder.path / "aside.jsonl"
    for _ in range(2):  # anew in each run
        assert folder.replay(log, "--items", items, "--rejected", aside).code == 0
        assert [json.loads(line)["file"] for line in aside.read_text().splitlines()] == ["items.csv", "log.csv"]
    assert not list((folder.path / "logs").glob("*.rejected.jsonl"))
    refused = folder.replay(log, "--rejected", folder.path / "nowhere" / "aside.jsonl")
    assert "rejected rows cannot be written to" in refused.said
    assert "--rejected FILE" in refused.said
