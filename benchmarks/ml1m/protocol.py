"""The two evaluation protocols on MovieLens-1M: which ratings are samples, and which part each belongs to.

- global: by time over all ratings, the first 80 % train, the next 10 % validate, the last 10 % test;
- user: inside every user, in order, 80 %, 10 % and 10 %.

A rating is a sample once its user has at least 5 earlier ones; a label is 1 where the rating is at least 4. A history
is all that its user did before, whatever the part. The long tail of a split is told by the counts of its training
ratings: strict, the rarest 20 % of the items that occur there; bulk, the rarest items that together hold 20 % of these
ratings.

The ratings are for research use and are not in this repository. DATA says what is needed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from fusion.features.splits import Split

RATINGS, FILMS, PEOPLE = "ml1m_ratings.parquet", "ml1m_movies.parquet", "ml1m_users.parquet"
DATA = f"""MovieLens-1M (GroupLens, 1,000,209 ratings of 3,706 films; research use) as three Parquet files:
  {RATINGS}: user_id, movie_id, rating (1 to 5), timestamp (epoch seconds), seq (place in the user's order, from 0)
  {FILMS}: movie_id, title (with the year in brackets), genres (separated by |)
  {PEOPLE}: user_id, gender, age, occupation, zip
Put them into ../shared/data beside this repository, or name their folder with --data."""
POSITIVE, LEAST, TAIL = 4, 5, 0.2
PARTS = np.array(["train", "valid", "test"])
SHARES = (0.8, 0.9)  # where validation and test begin
SPLIT_COLUMN: dict[Split, str] = {"global": "global_time", "user": "per_user"}


def read_rows(data: Path) -> Any:
    """All ratings as a pandas frame, each user's in order, users ascending: user_id, movie_id, rating, timestamp, seq,
    label (int8), eligible, and for each split its part (`global_time`, `per_user`: train, valid, test), `tail_SPLIT`
    and `bulk_tail_SPLIT`. Ends the program, saying what is needed, where a file is missing.
    """
    missing = [name for name in (RATINGS, FILMS, PEOPLE) if not (data / name).is_file()]
    if missing:
        sys.exit(f"{data} has no {', '.join(missing)}. This benchmark needs {DATA}")
    import pandas as pd

    ratings = pd.read_parquet(data / RATINGS)
    rows = ratings.sort_values(["user_id", "seq"], kind="stable", ignore_index=True)
    rows["label"] = (rows["rating"] >= POSITIVE).astype("int8")
    rows["eligible"] = rows["seq"] >= LEAST
    position = np.empty(len(rows), np.int64)  # in the order of time; ratings of one second keep the rows' order
    position[np.argsort(rows["timestamp"].to_numpy(), kind="stable")] = np.arange(len(rows))
    rows["global_time"] = _parts(position, np.full(len(rows), len(rows)))
    rows["per_user"] = _parts(rows["seq"].to_numpy(), rows.groupby("user_id")["seq"].transform("size").to_numpy())
    for split, column in SPLIT_COLUMN.items():
        counts = rows.loc[rows[column] == "train", "movie_id"].value_counts().sort_values(kind="stable")
        rows[f"tail_{split}"] = rows["movie_id"].isin(counts.index[: int(TAIL * len(counts))])
        rows[f"bulk_tail_{split}"] = rows["movie_id"].isin(counts.index[counts.cumsum() <= TAIL * counts.sum()])
    return rows


def _parts(position: Any, size: Any) -> Any:
    """The part of each row, by its position (n,) among `size` (n,) rows."""
    part = np.zeros(len(position), np.int64)
    for share in SHARES:
        part += position >= (share * size).astype(np.int64)
    return PARTS[part]
