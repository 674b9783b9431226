"""MovieLens logs as they lie outside the repository: ratings in their order inside each user, and films."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

RICH = "ml1m_movies_rich.parquet"  # ML-1M's films with directors, casts and plots
LOGS = {
    "ml-small": ("ml_small_ratings.parquet", "ml_small_movies.parquet", ("userId", "movieId")),
    "ml-1m": ("ml1m_ratings.parquet", "ml1m_movies.parquet", ("user_id", "movie_id")),
}


def read_movielens(log: str, folder: Path) -> tuple[Any, Any]:
    """Two data frames: ratings (user, film, timestamp, rating) and films (film, title, genres)."""
    import pandas as pd

    ratings_file, films_file, (user, film) = LOGS[log]
    if not (folder / ratings_file).is_file():
        sys.exit(f"{folder} has no {ratings_file}; name the folder of the MovieLens files with --data")
    ratings = pd.read_parquet(folder / ratings_file).rename(columns={user: "user", film: "film"})
    ratings = ratings.sort_values(["user", "seq" if "seq" in ratings else "timestamp"], kind="stable")
    films = pd.read_parquet(folder / films_file).rename(columns={film: "film"})
    return ratings, films[["film", "title", "genres"]]


def longest(ratings: Any, users: int, user: str = "user") -> Any:
    """The ratings of so many users, those who rated most; in the order in which they came."""
    most = ratings.groupby(user).size().sort_values(ascending=False, kind="stable").index[:users]
    return ratings[ratings[user].isin(most)]
