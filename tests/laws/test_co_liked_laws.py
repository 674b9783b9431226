"""Laws of co-liked pairs: no event outside the training part, both texts liked by the user, no user on both sides."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.adaptation.co_liked import CoLiked, co_liked, draw_pairs, reciprocal_rank
from fusion.adaptation.document import drawn
from fusion.adaptation.material import HELD_USERS, liked, rows_of
from fusion.features.splits import TRAIN, split
from tests.support.ctr_world import log_of, random_rows
from tests.support.tiny_encoder import colour_log, texts

ITEMS = 40
NAMES = [f"text {item // 2}" if item % 7 else "" for item in range(ITEMS)]  # two items read alike, some have no text


def told(data: CoLiked) -> list[object]:
    matrices = [array.tolist() for m in (data.likes, data.hidden) for array in (m.indptr, m.indices)]
    return [data.texts, data.users, data.held.tolist(), data.among.tolist(), *matrices]


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), how=st.sampled_from(["global", "user"]), draw=st.integers(0, 5))
def test_events_outside_the_training_part_change_nothing(seed: int, how: str, draw: int) -> None:
    log = log_of(random_rows(seed, user_count=60, each=10), 60, ITEMS)
    training = split(log, how) == TRAIN  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    moved = dataclasses.replace(
        log,
        item=np.where(training, log.item, rng.integers(0, ITEMS, log.size)).astype(np.int32),
        value=np.where(training, log.value, rng.integers(1, 6, log.size)).astype(np.float32),
        at=np.where(training, log.at, log.at + rng.uniform(0, 1e6, log.size)),
    )
    before = co_liked(log, training, NAMES, draw)
    assert told(co_liked(moved, training, NAMES, draw)) == told(before)
    assert told(co_liked(rows_of(log, training), np.ones(training.sum(), bool), NAMES, draw)) == told(before)
    if len(before.users):
        pairs = [draw_pairs(data, 8, draw, 3) for data in (before, co_liked(moved, training, NAMES, draw))]
        assert pairs[0].first.tolist() == pairs[1].first.tolist()
        assert pairs[0].second.tolist() == pairs[1].second.tolist()


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), step=st.integers(0, 100))
def test_a_pair_is_of_two_texts_that_one_user_liked(seed: int, step: int) -> None:
    log = log_of(random_rows(seed, user_count=60, each=10), 60, ITEMS)
    data = co_liked(log, np.ones(log.size, bool), NAMES, seed)
    theirs: dict[str, set[int]] = {}
    for row in np.flatnonzero(liked(log)):
        if name := NAMES[log.item[row]]:
            theirs.setdefault(log.users[log.user[row]], set()).add(data.texts.index(name))
    assert [set(data.likes[row].indices) for row in range(len(data.users))] == [theirs[user] for user in data.users]
    assert all(not drawn(f"user {user}", seed, HELD_USERS) for user in data.users)
    held = [own for user, own in theirs.items() if user not in data.users and len(own) > 1]
    assert all(set(pair) in [{*pair} & own for own in held] for pair in data.held.tolist())
    pairs = draw_pairs(data, 16, seed, step)
    assert (pairs.first != pairs.second).all()
    assert all(any({a, b} <= own for own in theirs.values()) for a, b in zip(pairs.first, pairs.second, strict=True))
    assert not pairs.liked.diagonal().any()
    same = (pairs.first[:, None] == pairs.second[None]) | (pairs.second[:, None] == pairs.second[None])
    np.fill_diagonal(same, val=False)
    assert (pairs.liked | ~same).all()  # no text is its own wrong answer


def test_the_rank_leaves_out_what_else_the_user_liked() -> None:
    log = colour_log(200)
    data = co_liked(log, np.ones(log.size, bool), texts(), 0)
    assert len(data.held) > 10
    colour = np.array([[text.startswith(name) for name in ("red", "blue", "green", "black")] for text in data.texts])
    by_colour = colour[data.among].astype(np.float32)
    place = np.searchsorted(data.among, data.held)
    rivals = ~data.hidden[:, data.among].toarray() & (by_colour[place[:, 0]] @ by_colour.T > 0)  # (H, C)
    assert rivals.any()
    level = np.mean(1 / (1 + rivals.sum(axis=1) / 2))  # of one colour all are level, and none is above
    assert reciprocal_rank(by_colour, data) == pytest.approx(level)
    others = (~data.hidden[:, data.among].toarray()).sum(axis=1)
    collapsed = reciprocal_rank(np.ones((len(data.among), 1), np.float32), data)
    assert collapsed == pytest.approx(np.mean(1 / (1 + others / 2)))
    assert collapsed < level
    name = np.array([text.split()[1] for text in data.texts])[data.among]
    by_name = np.hstack([name[:, None] == np.unique(name)[None], 0.1 * by_colour]).astype(np.float32)
    three = np.mean(1 / (1 + 3 + rivals.sum(axis=1) / 2))  # before the partner are the three of the other colours
    assert reciprocal_rank(by_name, data) == pytest.approx(three)
