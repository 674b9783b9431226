"""The store of `match.py`: a MovieLens log with its films, or the sample log replayed."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

from sqlalchemy import Engine

from benchmarks.rig.movielens import read_movielens
from interest.store.sql import insert_new, item_row
from interest.store.tables import behaviors, items
from interest.types import Item
from streams.settings.load import sample_log

SAMPLE = "ml-100k"


def fill(engine: Engine, chosen: Any) -> None:
    """Put the ratings and films into the store."""
    ratings, films = read_movielens(chosen.log, chosen.data)
    if chosen.quick:
        ratings = ratings[ratings["user"] <= 60]
    ratings = ratings[ratings["timestamp"] <= ratings["timestamp"].quantile(chosen.until)].copy()
    ratings["seq"] = ratings.groupby("user").cumcount()
    films = films[films["film"].isin(ratings["film"])]
    with engine.begin() as connection:
        for start in range(0, len(ratings), 50_000):
            rows = [
                {"user_id": f"{row.user:05d}", "seq": row.seq, "item_id": str(row.film), "action": "rate",
                 "at": float(row.timestamp), "value": float(row.rating)}
                for row in ratings.iloc[start : start + 50_000].itertuples()
            ]  # fmt: skip
            connection.execute(behaviors.insert(), rows)
        insert_new(
            connection,
            items,
            [item_row(item_of(str(i), t, g)) for i, t, g in films.values],
        )


def fill_sample(engine: Engine) -> None:
    """Replay the sample log with its catalogue and profiles, as `make demo` does."""
    folder = sample_log()
    if not folder.is_dir():
        sys.exit("the sample log is not there; run `interestream fetch`")
    files = [str(folder / f"{SAMPLE}.{kind}") for kind in ("inter", "item", "user")]
    command = ["replay", files[0], "--items", files[1], "--users", files[2], "--no-llm"]
    store = engine.url.render_as_string(hide_password=False)
    subprocess.run([sys.executable, "-m", "streams", *command, "--store", store], check=True, stdout=sys.stderr)


def item_of(item_id: str, title: str, genres: str) -> Item:
    year = re.search(r"\((\d{4})\)\s*$", title)
    return Item(
        item_id=item_id,
        title=title,
        categories=tuple(genre for genre in genres.split("|") if not genre.startswith("(")),
        attributes={"release_year": year[1]} if year else {},
    )
