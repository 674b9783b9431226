"""In-context documents (CPRM; Shi et al., ICLR 2024): items that the same users liked, the like beside the like.

Similarity is the cosine of the sets of users who liked two items. A document tells of no user: only pairs that two or
more users have in common count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fusion.adaptation.document import Document, Kind, Piece
from fusion.adaptation.items import fields_of, item_text
from fusion.adaptation.material import Material, liked
from fusion.features.log import Array, Log
from interest.write.escape import Escape

TOGETHER = 2  # users who must have liked both of two items: one alone could be recognised by them
NEWEST = 200  # of a user's likes: pairs grow with the square
ITEMS = 6  # of one document


def similarity(log: Log, shown: Array | None = None) -> Any:
    """(I, I) scipy CSR: the cosine of the likers of two items, where TOGETHER or more users liked both.

    shown: (N,) bool, which behaviours show liking; None: by the values of these alone.
    """
    from scipy.sparse import csr_matrix

    user, item = _likes(log, liked(log) if shown is None else shown)
    shape = (len(log.users), len(log.items))
    both = csr_matrix((np.ones(len(user), np.float32), (user, item)), shape=shape)
    both.data[:] = 1.0  # an item liked twice by a user is liked once
    counts = np.asarray(both.sum(axis=0)).ravel()
    common = (both.T @ both).tocsr()
    common.setdiag(0)
    common.data[common.data < TOGETHER] = 0
    common.eliminate_zeros()
    root = 1 / np.sqrt(np.maximum(counts, 1))
    common.data *= np.repeat(root, np.diff(common.indptr)) * root[common.indices]
    return common


def liked_next(log: Log, shown: Array) -> dict[int, int]:
    """By item the one that most users liked right after it, for how often it is liked at all; TOGETHER at least.

    shown: (N,) bool, which behaviours show liking.
    """
    rows = np.flatnonzero(shown)
    first, then = rows[:-1], rows[1:]
    same = (log.user[first] == log.user[then]) & (log.item[first] != log.item[then])
    triples = np.stack([log.item[first[same]], log.item[then[same]], log.user[first[same]]], axis=1)
    pairs, counts = np.unique(np.unique(triples, axis=0)[:, :2], axis=0, return_counts=True)
    popular = np.sqrt(np.maximum(np.bincount(log.item[rows], minlength=len(log.items)), 1))
    best: dict[int, tuple[float, int]] = {}
    for (item, following), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        score = (count / float(popular[following]), -following)
        if count >= TOGETHER and score > best.get(item, (0.0, 0)):
            best[item] = score
    return {item: -following for item, (_, following) in best.items()}


def chains(common: Any, known: Array, rng: np.random.Generator) -> Iterator[list[int]]:
    """Walks over the items that go to the most similar one not visited yet, each item once; `known`: (I,) bool."""
    free = known.copy()
    starts = np.flatnonzero(known & (np.diff(common.indptr) > 0))
    for start in rng.permutation(starts):
        chain: list[int] = []
        at: int | None = int(start) if free[start] else None
        while at is not None:
            free[at] = False
            chain.append(at)
            near = slice(common.indptr[at], common.indptr[at + 1])
            others, weights = common.indices[near], common.data[near]
            open_ = free[others]
            at = int(others[open_][np.lexsort((others[open_], -weights[open_]))[0]]) if open_.any() else None
        if len(chain) > 1:
            yield chain


def related_documents(
    material: Material,
    common: Any,
    escape: Escape,
    passed: int,
    seed: int,
    *,
    items: int = ITEMS,
    fits: Callable[[str], bool] = lambda _: True,
) -> Iterator[Document]:
    """Chains cut into documents of at most some items, in an order of this pass.

    common: the material's `similarity`. fits: whether a text goes into a context; two items are told where they do not.
    """
    log = material.likes
    known = np.array([item_id in material.catalogue for item_id in log.items], bool)
    if not log.size or not known.any():
        return
    until = float(log.at.max())
    for chain in chains(common, known, np.random.default_rng((seed, passed, 1))):
        texts = [item_text(fields_of(material.catalogue[log.items[number]], escape)) for number in chain]
        for together in _cut(list(filter(None, texts)), items, fits):
            yield Document(kind=Kind.RELATED, pieces=(Piece("\n\n".join(together), asked=True),), until=until)


def _cut(texts: Sequence[str], most: int, fits: Callable[[str], bool]) -> Iterator[list[str]]:
    """Runs of two texts and more, as many as fit together."""
    held: list[str] = []
    for text in texts:
        if len(held) == most or (len(held) > 1 and not fits("\n\n".join([*held, text]))):
            yield held
            held = []
        held.append(text)
    if len(held) > 1:
        yield held


def _likes(log: Log, shown: Array) -> tuple[Array, Array]:
    """Users and items of every user's NEWEST likes, each pair once."""
    rows = np.flatnonzero(shown)
    user = log.user[rows]
    ends = np.searchsorted(user, user, side="right")
    rows = rows[ends - np.arange(len(rows)) <= NEWEST]
    pairs = np.unique(np.stack([log.user[rows], log.item[rows]], axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1]
