"""A second log in AntM2C's columns: what a user likes is told by what is known of them, and by hardly anything else.

Users come one after the other and have few offers, so that most of those tested are new. Of twelve kinds of items each
user likes two; whether an offer is taken follows that, the item's appeal and chance. From the first offer on the entity
columns have four names, each of one of the two liked kinds, or by chance (one in eight) of any kind. They tell the kind
in words that no item has: tea is "green tea" on an item, "oolong" or "teapot" in a search, and where something was paid
for or visited with a town behind it, so that hardly two users share a name and ids of names tell little.

Only 66 pairs of kinds can be liked, so the best that can be known at an offer is computed: the chance under every pair,
weighed by how well it explains the user's earlier offers, and with what is known of the user by that as well.
Real: the columns, and what the words mean. Planted: all that is in them.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np

from benchmarks.rig.antm2c import BEGIN, DAYS, SCENES, Array, Planted

# of each kind: words of items, and words of what is known of users
WORDS = {
    "tea": (("green tea", "black tea", "herbal tea"), ("oolong", "teapot", "matcha", "chamomile infusion")),
    "football": (("football", "soccer jersey", "goalkeeper"), ("striker", "league match", "penalty kick", "stadium")),
    "travel": (("holiday flight", "beach vacation", "city trip"), ("airline", "suitcase", "hotel booking", "passport")),
    "music": (("guitar", "concert ticket", "vinyl record"), ("drummer", "orchestra", "songs", "piano lesson")),
    "books": (("novel", "poetry book", "library"), ("paperback", "author reading", "literature", "fiction")),
    "chess": (("chess set", "checkmate", "grandmaster"), ("rook", "chess opening", "bishop and knight", "endgame")),
    "garden": (("garden", "rose bush", "lawn mower"), ("tulip bulbs", "compost", "pruning shears", "seedlings")),
    "cars": (("sports car", "car tyres", "engine oil"), ("motor mechanic", "sedan", "gearbox", "windshield")),
    "dogs": (("dog food", "puppy", "dog leash"), ("veterinarian", "kennel", "terrier", "labrador")),
    "baking": (("cake", "bread oven", "pastry"), ("flour", "yeast dough", "croissant", "muffin")),
    "fishing": (("fishing rod", "trout", "fish hook"), ("angler", "bait and tackle", "salmon river", "carp")),
    "knitting": (("knitting wool", "yarn", "sweater pattern"), ("crochet", "needles and thread", "skein", "mohair")),
}
TOWNS = ("Ashford", "Bolton", "Dover", "Exeter", "Hexham", "Ilkley", "Lewes", "Malvern", "Oakham", "Penrith")
KNOWN = 4  # names a user: one paid for, one visited, two searched
LIKES = 2  # kinds a user
STRAY = 0.125  # of the names, those of any kind
BASE, LIKED = -1.6, 2.6  # in the logit of a chance


class Told(NamedTuple):
    """The log, and the best that can be known at each of its N offers."""

    planted: Planted
    without: Array  # (N,) the chance, given the user's earlier offers
    known: Array  # (N,) the chance, given what is known of the user as well


def plant_told(seed: int, *, users: int = 800, each: int = 8, items: int = 120) -> Told:
    """each: offers of a user, within half a day. items: over all scenes."""
    rng, kinds = np.random.default_rng(seed), list(WORDS)
    pairs = np.array(list(combinations(range(len(kinds)), LIKES)))  # (P, 2)
    kind, appeal = np.arange(items) % len(kinds), rng.normal(scale=0.3, size=items)
    liked = rng.integers(len(pairs), size=users)
    told = pairs[liked][np.arange(users)[:, None], rng.integers(LIKES, size=(users, KNOWN))]  # (U, KNOWN) kinds
    stray = rng.random((users, KNOWN)) < STRAY
    told = np.where(stray, rng.integers(len(kinds), size=told.shape), told)
    likes = np.zeros((len(pairs), len(kinds)))
    likes[np.arange(len(pairs))[:, None], pairs] = 1
    share = (1 - STRAY) * likes / LIKES + STRAY / len(kinds)  # (P, kinds): of a name
    user = np.repeat(np.arange(users), each)
    came = np.repeat(np.sort(rng.uniform(0, (DAYS - 1) * 86_400, users)), each)
    at = BEGIN + np.floor(came + np.sort(rng.uniform(0, 43_200, (users, each)), axis=1).ravel())
    item = rng.integers(items, size=len(user))
    by_pair = 1 / (1 + np.exp(-(BASE + LIKED * likes[:, kind[item]] + appeal[item])))  # (P, N)
    chance = by_pair[liked[user], np.arange(len(user))]
    label = (rng.random(len(user)) < chance).astype(np.int8)
    heard = np.log(share[:, told]).sum(axis=2)  # (P, U)
    seen = np.log(np.where(label, by_pair, 1 - by_pair)).reshape(len(pairs), users, each)
    before = (np.cumsum(seen, axis=2) - seen).reshape(len(pairs), -1)  # (P, N), of the user's earlier offers
    without, known = ((_shares(own) * by_pair).sum(axis=0) for own in (before, before + heard[:, user]))
    order = np.argsort(at, kind="stable")
    nouns = [rng.choice(WORDS[kinds[own]][0]) for own in kind]
    planted = Planted(
        user=user[order], item=item[order], at=at[order], label=label[order], chance=chance[order],
        items=[f"{number:05d}" for number in rng.permutation(items)],
        titles=[f"{noun} number {n}" for n, noun in enumerate(nouns)],
        scene=[SCENES[n] for n in rng.integers(len(SCENES), size=items)], new=np.zeros(items, bool),
        pictures=np.zeros((items, 0)),
        likes=[(kinds[one], kinds[other]) for one, other in pairs[liked]],
        known=[_cells(rng, [kinds[own] for own in names]) for names in told], since=0, about=nouns,
    )  # fmt: skip
    return Told(planted, without[order], known[order])


def _cells(rng: np.random.Generator, kinds: list[str]) -> tuple[str, str, str]:
    """A user's bills, visits and searches."""
    paid, visited, *searched = (str(rng.choice(WORDS[kind][1])) for kind in kinds)
    return f"{paid}, {rng.choice(TOWNS)}", f"{visited} in {rng.choice(TOWNS)}", "|".join(dict.fromkeys(searched))


def _shares(logs: Array) -> Array:
    """(P, N) of logarithms up to a constant of each column: shares that add up to 1."""
    shares = np.exp(logs - logs.max(axis=0))
    return np.asarray(shares / shares.sum(axis=0))
