"""The logs of benchmarks/long_history.py: a generated one with planted old interests, and ML-1M's long users."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.rig.movielens import read_movielens
from fusion.features.log import Array, Log
from fusion.features.splits import TEST, TRAIN, VALID, eligible, split
from interest.types import Item

DAY = 86_400.0
MAKERS, OF_ONE, CATEGORIES = 400, 5, 12  # each maker has five items; categories say nothing of a taste
TASTES = 40  # makers that a user came to like or dislike, half of each, long ago
OLD, NEW = 0.3, 0.6  # tastes are shown in the first 30 % of a past, samples lie in the last 40 %
SHOWN = 10  # times that each is shown
SURE = 0.85  # how often a behaviour follows the taste


@dataclass(frozen=True, kw_only=True)
class Source:
    """A log, what is learnt from it, and which rows are samples."""

    log: Log
    catalogue: dict[str, Item]
    rows: Array  # (n,) the samples
    part: Array  # (n,) TRAIN, VALID or TEST
    train: Array  # (N,) bool: the events that vocabularies and scales are fitted to
    attributes: tuple[str, ...]  # the keys
    truth: Array | None = None  # (n,) the planted probability


def planted(users: int, events: int, samples: int, seed: int = 0) -> Source:
    """Users whose likes and dislikes of makers are 40 % of their past and more ago, among makers without meaning.

    Every user met each of 40 makers ten times in the first 30 % of the past, and rated the liked ones high and the
    others low in 85 % of the cases; all other behaviours are on other makers, by an item's own quality and chance. In
    the last 40 %, `samples` behaviours are on those makers again: by the items' maker alone the rating is known as well
    as it can be. They are rare: of the newest 200 behaviours before one, a handful is of other makers of the kind.
    """
    rng = np.random.default_rng(seed)
    quality = rng.normal(0, 0.3, MAKERS * OF_ONE)
    item, value, at, rows, truth = [], [], [], [], []
    for user in range(users):
        makers = rng.permutation(MAKERS)[:TASTES]
        liked = np.zeros(MAKERS, bool)
        liked[makers[: TASTES // 2]] = True
        others = np.setdiff1d(np.arange(MAKERS), makers)
        own_maker = rng.choice(others, events)
        old = rng.permutation(int(events * OLD))[: TASTES * SHOWN]
        own_maker[old] = np.tile(makers, SHOWN)[: len(old)]
        new = np.sort(int(events * NEW) + rng.permutation(events - int(events * NEW))[:samples])
        own_maker[new] = rng.choice(makers, len(new))
        own_item = own_maker * OF_ONE + rng.integers(0, OF_ONE, events)
        chance = 1 / (1 + np.exp(-quality[own_item]))
        told = np.append(old, new)
        chance[told] = np.where(liked[own_maker[told]], SURE, 1 - SURE)
        item.append(own_item)
        value.append(np.where(rng.random(events) < chance, 4.0, 2.0) + rng.integers(0, 2, events))
        at.append(np.sort(rng.uniform(0, 900 * DAY, events)))
        rows.append(user * events + new)
        truth.append(chance[new])
    log = Log(
        users=[f"u{n}" for n in range(users)],
        items=[f"i{n}" for n in range(MAKERS * OF_ONE)],
        actions=["rate"],
        starts=np.arange(users + 1, dtype=np.int64) * events,
        user=np.repeat(np.arange(users, dtype=np.int32), events),
        item=np.concatenate(item).astype(np.int32),
        action=np.zeros(users * events, np.int32),
        seq=np.tile(np.arange(events, dtype=np.int64), users),
        at=np.concatenate(at),
        value=np.concatenate(value).astype(np.float32),
    )
    kinds = rng.integers(0, CATEGORIES, MAKERS * OF_ONE)
    catalogue = {
        name: Item(
            item_id=name, title=name, categories=(f"c{kinds[n]}",), attributes={"maker": f"m{n // OF_ONE}"}
        )
        for n, name in enumerate(log.items)
    }  # fmt: skip
    cut = np.array([TRAIN] * int(samples * 0.7) + [VALID] * int(samples * 0.1), np.int8)
    part = np.tile(np.append(cut, np.full(samples - len(cut), TEST, np.int8)), users)
    chosen = np.concatenate(rows)
    last = chosen.reshape(users, samples)[:, len(cut[cut == TRAIN])]  # each user's first row of the validation part
    train = np.arange(log.size) < last[log.user]
    return Source(
        log=log, catalogue=catalogue, rows=chosen, part=part, train=train, attributes=("maker",),
        truth=np.concatenate(truth),
    )  # fmt: skip


def long_users(folder: Path, users: int, least: int = 200, seed: int = 0) -> Source:
    """ML-1M users with 200 events and more, or a sample of them, with directors and languages of the catalogue."""
    import pandas as pd

    ratings, films = read_movielens("ml-1m", folder)
    size = ratings.groupby("user").size()
    every = size.index[size >= least].to_numpy()
    chosen = np.sort(np.random.default_rng(seed).permutation(every)[:users])
    ratings = ratings[ratings.user.isin(chosen)]
    rich = pd.read_parquet(folder / "ml1m_movies_rich.parquet")
    rich = rich.rename(columns={"movie_id": "film"}).set_index("film")
    names = [name for name in ("director", "directors", "language", "languages", "certificate") if name in rich.columns]
    user_codes, user_ids = pd.factorize(ratings.user)
    item_codes, item_ids = pd.factorize(ratings.film)
    log = Log(
        users=[str(one) for one in user_ids],
        items=[str(one) for one in item_ids],
        actions=["rate"],
        starts=np.searchsorted(user_codes, np.arange(len(user_ids) + 1)).astype(np.int64),
        user=user_codes.astype(np.int32),
        item=item_codes.astype(np.int32),
        action=np.zeros(len(ratings), np.int32),
        seq=np.arange(len(ratings)) - np.searchsorted(user_codes, user_codes),
        at=ratings.timestamp.to_numpy(np.float64),
        value=ratings.rating.to_numpy(np.float32),
    )
    films = films.set_index("film")
    catalogue = {}
    for film in item_ids:
        genres = films.loc[film, "genres"]
        told = {name: _first(rich.loc[film, name]) for name in names} if film in rich.index else {}
        catalogue[str(film)] = Item(
            item_id=str(film), title=str(films.loc[film, "title"]),
            categories=tuple(genres.split("|") if isinstance(genres, str) else genres),
            attributes={name: text for name, text in told.items() if text},
        )  # fmt: skip
    part = split(log, "user")
    rows = np.flatnonzero(eligible(log, 5))
    used = tuple(name for name in names if len({i.attributes.get(name, "") for i in catalogue.values()}) > 2)
    return Source(
        log=log, catalogue=catalogue, rows=rows, part=part[rows], train=part == TRAIN, attributes=used
    )  # fmt: skip


def _first(told: object) -> str:
    """Of a list the first: the main director, the language."""
    if isinstance(told, str):
        return told.split("|")[0].split(",")[0].strip()
    if isinstance(told, (list, tuple, np.ndarray)) and len(told):
        return str(told[0])
    return ""
