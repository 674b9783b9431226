"""MovieLens-1M's ratings as offers of three shops, in AntM2C's columns: what was liked is real, the shops are planted.

Real: users, films, times, what was liked (rated at least 4), titles, genres, directors and plots (the rich catalogue,
which is not part of the repository). Planted: the shop of each rating, drawn at random; a film's id in each shop, so
that it has a twin in the others that is alike in text alone; and that a third of the films come to the last shop late:
their earlier ratings there are moved to the other shops.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.rig.antm2c import LATE, SCENES, Planted
from benchmarks.rig.movielens import RICH, longest, read_movielens
from fusion.encoders.sentence import open_encoder
from fusion.interests.retrieval import encode
from streams.settings.load import default_encoder

EACH = 60  # ratings of a user, the first


def shops(seed: int, data: Path, *, users: int = 600) -> Planted:
    """The first ratings of the users who rated most. In the pictures' place are vectors of what films are about, and
    there is no optimum: `chance` is not a number.
    """
    import pandas as pd

    rng = np.random.default_rng(seed)
    ratings, _ = read_movielens("ml-1m", data)
    if not (data / RICH).is_file():
        sys.exit(f"{data} has no {RICH}; name the folder of the MovieLens files with --data")
    films = pd.read_parquet(data / RICH)
    rows = longest(ratings, users).groupby("user").head(EACH)
    rows = rows[rows["film"].isin(films["movie_id"])].sort_values("timestamp", kind="stable")
    at = rows["timestamp"].to_numpy(np.float64)
    film = pd.Index(films["movie_id"]).get_indexer(rows["film"])
    new = np.arange(len(films)) % 3 == 0
    last, late = len(SCENES) - 1, at >= np.quantile(at, LATE)
    shop = rng.integers(len(SCENES), size=len(rows))
    early = new[film] & ~late & (shop == last)
    shop[early] = rng.integers(last, size=int(early.sum()))
    many = len(films) * len(SCENES)
    in_scene, of_film = np.arange(many) // len(films), np.arange(many) % len(films)
    user = pd.factorize(rows["user"])[0]
    people = int(user.max()) + 1
    titles = films["title"].astype(str).tolist()
    looks = _vectors(tuple(_text(row) for row in films.to_dict("records")))
    return Planted(
        user=user.astype(np.int64), item=shop * len(films) + film, at=at, chance=np.full(len(rows), np.nan),
        label=(rows["rating"].to_numpy() >= 4).astype(np.int8), since=0,
        items=[f"{number:05d}" for number in rng.permutation(many)],  # an id says nothing of twins
        titles=[titles[n] for n in of_film], scene=[SCENES[n] for n in in_scene], about=[""] * many,
        new=(in_scene == last) & new[of_film], pictures=looks[of_film].astype(np.float64), likes=[("", "")] * people,
        known=[("", "", "")] * people,
    )  # fmt: skip


@cache
def _vectors(texts: tuple[str, ...]) -> npt.NDArray[np.float32]:
    return encode(open_encoder(default_encoder()), texts)


def _text(film: dict[str, object]) -> str:
    told = (film.get(name) for name in ("title", "genres", "director", "plot"))
    return ". ".join(str(one).replace("|", ", ") for one in told if one is not None and str(one) != "nan")
