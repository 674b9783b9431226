"""The ML-1M protocols on a log small enough to be split by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.ml1m.protocol import FILMS, PEOPLE, RATINGS, read_rows


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Users 1 and 2 have ten ratings each, one a second, from 100 and from 105; every third is of film 7."""
    rows = [
        (user, 7 if seq % 3 == 0 else 100 + seq, 1 + seq % 5, start + seq, seq)
        for user, start in ((2, 105), (1, 100))
        for seq in range(10)
    ]
    columns = ["user_id", "movie_id", "rating", "timestamp", "seq"]
    pd.DataFrame(rows, columns=columns).to_parquet(tmp_path / RATINGS)
    pd.DataFrame({"movie_id": [7]}).to_parquet(tmp_path / FILMS)
    pd.DataFrame({"user_id": [1]}).to_parquet(tmp_path / PEOPLE)
    return tmp_path


def test_parts_and_samples_are_those_of_the_definition(data: Path) -> None:
    rows = read_rows(data)
    assert rows["user_id"].tolist() == [1] * 10 + [2] * 10
    assert rows["label"].tolist() == [0, 0, 0, 1, 1] * 4
    assert rows["eligible"].tolist() == ([False] * 5 + [True] * 5) * 2
    assert rows["per_user"].tolist() == (["train"] * 8 + ["valid"] + ["test"]) * 2
    # 20 ratings: the first 16 by time train; user 2's last four, from second 111, are the newest
    assert rows["global_time"].tolist() == ["train"] * 16 + ["valid"] * 2 + ["test"] * 2


def test_the_tail_is_told_by_training_ratings_alone(data: Path) -> None:
    """Inside users film 7 has six of 16 training ratings, five other films two each: a fifth of six items is one."""
    rows = read_rows(data)
    films = rows.loc[rows["tail_user"], "movie_id"].unique()
    assert len(films) == 1
    assert films[0] != 7
    assert rows.loc[rows["bulk_tail_user"], "movie_id"].nunique() == 1  # two ratings, at most 3.2
    assert 109 not in rows.loc[rows["tail_global"], "movie_id"].unique()  # nobody's training part has film 109


def test_missing_files_are_named_with_what_they_are_and_where_they_go(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=rf"{RATINGS}.*(?s:.*)rating \(1 to 5\).*(?s:.*)--data"):
        read_rows(tmp_path)
