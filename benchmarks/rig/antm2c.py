"""A log in the schema of AntM2C (arXiv 2308.16437) with a planted truth: made, as the data is not to be had.

Users have a taste, items one of eight kinds and a nature near it, all vectors; whether an offer is taken follows their
product, the item's appeal and the scene alone, so that a preference carries over scenes. Every item of one scene has a
twin in the next, of the same nature and title and almost the same picture, under an id of its own. A share of the last
scene's items is offered in the last days only: there the twin is all that is known of them. From a user's tenth offer
on the entity columns name the two kinds that the user likes best: what was paid for, visited and searched. That tells a
model next to nothing, for the user's clicks tell it as well (benchmarks/rig/antm2c_told.py is a log where they do not).
Real: the columns. Planted: all that is in them.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
COLUMNS = (
    "user_id", "item_id", "log_time", "label", "bill_entity_seq", "service_entity_seq", "query_entity_seq",
    "item_entity_names", "item_title", "scene",
)  # fmt: skip
SCENES = ("adverts", "contents", "videos")
BEGIN = datetime(2023, 8, 6, 8, tzinfo=UTC).timestamp()
DAYS = 30
LATE = 0.85  # of the time: when the new items of the last scene begin
UNKNOWN = 10  # offers of a user before anything is known of them
KINDS = ("tea", "sport", "travel", "music", "books", "games", "garden", "cars")


@dataclass(frozen=True, slots=True)
class Planted:
    """N offers in order of time, and the truth behind them."""

    user: npt.NDArray[np.int64]  # (N,)
    item: npt.NDArray[np.int64]  # (N,) into `items`
    at: Array  # (N,) UTC seconds
    label: npt.NDArray[np.int8]  # (N,)
    chance: Array  # (N,) of being taken: the planted optimum
    items: list[str]
    titles: list[str]
    scene: list[str]  # of each item
    new: npt.NDArray[np.bool_]  # (I,) whether it is offered in the last days only
    pictures: Array  # (I, w)
    likes: list[tuple[str, str]]  # the two kinds that each user likes best
    known: list[tuple[str, str, str]]  # each user's bills, services and searches
    since: int  # offers of a user before anything is known of them
    about: list[str]  # of each item: its entity names

    def write(self, path: Path) -> None:
        """As AntM2C's CSV."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            offered = np.zeros(len(self.likes), np.int64)
            for user, item, at, label in zip(self.user, self.item, self.at, self.label, strict=True):
                time = f"{datetime.fromtimestamp(float(at), UTC):%Y-%m-%d %H:%M:%S}"
                known = self.known[user] if offered[user] >= self.since else ("",) * 3
                offered[user] += 1
                entities = (*known, self.about[item])
                own = (f"u{user}", self.items[item], time, label, *entities, self.titles[item], self.scene[item])
                writer.writerow(own)


def plant(
    seed: int, *, users: int = 240, each: int = 100, natures: int = 60, width: int = 6, looks: int = 16
) -> Planted:
    """each: offers of a user. natures: items of a scene. looks: width of a picture."""
    rng = np.random.default_rng(seed)
    taste, centre = rng.normal(size=(users, width)), rng.normal(size=(len(KINDS), width))
    kind = np.arange(natures) % len(KINDS)
    nature = centre[kind] + rng.normal(scale=0.3, size=(natures, width))
    appeal, of_scene = rng.normal(scale=0.3, size=natures), rng.normal(scale=0.3, size=len(SCENES))
    eye = rng.normal(size=(width, looks)) / width**0.5
    many = natures * len(SCENES)
    of_nature, in_scene = np.arange(many) % natures, np.arange(many) // natures
    pictures = nature[of_nature] @ eye + rng.normal(scale=0.05, size=(many, looks))
    new = (in_scene == len(SCENES) - 1) & (of_nature % 3 == 0)
    at = np.sort(BEGIN + np.floor(rng.uniform(0, DAYS * 86_400, users * each)))
    user = rng.permutation(np.repeat(np.arange(users), each))
    late = at > BEGIN + LATE * DAYS * 86_400
    old = np.flatnonzero(~new)
    item = rng.choice(old, len(at))
    swap = late & (rng.random(len(at)) < 0.4)
    item[swap] = rng.choice(np.flatnonzero(new), int(swap.sum()))
    logit = 2.0 * (taste[user] * nature[of_nature[item]]).sum(axis=1) / width**0.5 + appeal[of_nature[item]]
    chance = 1 / (1 + np.exp(-(logit + of_scene[in_scene[item]] - 0.8)))
    # an id says nothing of twins
    names = [f"{number:05d}" for number in rng.permutation(many)]
    titles = [f"{KINDS[kind[n]]} number {n}" for n in of_nature]
    likes = [(KINDS[best], KINDS[second]) for best, second in np.argsort(-(taste @ centre.T), axis=1)[:, :2]]
    return Planted(
        user=user, item=item, at=at, label=(rng.random(len(at)) < chance).astype(np.int8), chance=chance, items=names,
        likes=likes, since=UNKNOWN,
        known=[(f"{best} shop", f"{second} club", f"{best}|{second}") for best, second in likes],
        about=[title.split()[0] for title in titles], titles=titles, scene=[SCENES[n] for n in in_scene], new=new,
        pictures=pictures,
    )  # fmt: skip
