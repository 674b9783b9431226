"""Delimited logs as spreadsheets and exports write them: separators, decimal commas, names of time columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.importing import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize("mark", ["\ufeff", ""])
def test_a_spreadsheet_of_europe_has_semicolons_and_decimal_commas(folder: Folder, mark: str) -> None:
    log = folder.write(
        "log.csv",
        mark + "user_id;item_id;rating;timestamp;note\nu;i1;4,5;2022-04-08 14:03;a, b\n"
        'u;i2;"1.234,5";2022-04-08 14:04;"c; d"\nu;i3;3.5;2022-04-08 14:05;\nu;i4;1,2,3;2022-04-08 14:06;\n',
    )
    items = folder.write("items.csv", 'item_id;title;genres\ni1;Faust, Teil 1;"Drama|Fantasy"\ni2;B;Drama\n')
    assert folder.replay(log, "--items", items).code == 0
    assert folder.behaviors() == [
        ("u", "i1", "rate", "2022-04-08 14:03:00", 4.5),
        ("u", "i2", "rate", "2022-04-08 14:04:00", 1234.5),
        ("u", "i3", "rate", "2022-04-08 14:05:00", 3.5),
    ]
    assert [line for line, _ in folder.rejected("log.csv.rejected.jsonl")] == [5]
    assert folder.items()["i1"] == ("Faust, Teil 1", ["Drama", "Fantasy"], {})


def test_a_csv_without_a_header_is_parted_as_its_columns_are_named(folder: Folder) -> None:
    log = folder.write("log.csv", "u;i1;4,5;1649426585\nu;i2;3;1649426586\n")
    assert folder.replay(log, "--columns", "user_id,item_id,value,at").code == 0
    assert [row[4] for row in folder.behaviors()] == [4.5, 3.0]


@pytest.mark.parametrize("name", ["event_ts_ms", "Event Time (UTC)", "timestamp-milliseconds", "created_at_utc"])
def test_a_time_column_is_known_with_its_unit_or_zone_behind(folder: Folder, name: str) -> None:
    log = folder.write("log.csv", f"user_id,item_id,{name}\nu,i1,1649426585123\nu,i2,1649426586123\n")
    assert folder.replay(log).code == 0
    assert folder.behaviors()[0][3] == "2022-04-08 14:03:05"


def test_a_usual_time_column_goes_before_one_with_a_unit(folder: Folder) -> None:
    log = folder.write("log.csv", "user_id,item_id,event_ts_ms,date\nu,i1,1649426585123,2022-04-07\n")
    assert folder.replay(log).code == 0
    assert folder.behaviors()[0][3] == "2022-04-07 00:00:00"
