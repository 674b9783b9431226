"""Retrieval of a user's next text: laws of the measure."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.interests.retrieval import encode, retrieve_next
from tests.support.hashed_encoder import HashedEncoder

USERS = [f"u{number}" for number in range(20) for _ in range(2)]
INDICES = [0, 1] * 20


def test_users_whose_texts_stay_are_found_first_whatever_all_texts_share() -> None:
    own = np.repeat(np.random.default_rng(0).normal(size=(20, 8)), 2, axis=0).astype(np.float32)
    for shared in (0.0, 50.0):
        found = retrieve_next(USERS, INDICES, own + np.float32(shared))
        assert found is not None
        assert (found.texts, found.mrr) == (20, 1.0)
        assert found.chance == pytest.approx(sum(1 / rank for rank in range(1, 21)) / 20)


def test_equal_texts_share_their_ranks() -> None:
    found = retrieve_next(USERS, INDICES, np.ones((40, 4), np.float32))
    assert found is not None
    assert found.mrr == pytest.approx(1 / 10.5)


def test_who_has_no_next_text_is_left_out() -> None:
    assert retrieve_next(["a", "b", "b"], [0, 0, 1], np.eye(3, dtype=np.float32)) is None


def test_where_scenes_are_kept_apart_the_next_text_is_the_same_scene_s() -> None:
    """Twenty users with two texts a scene, of which one alone stays as it was."""
    rng = np.random.default_rng(0)
    stays, changes = np.repeat(rng.normal(size=(20, 8)), 2, axis=0), rng.normal(size=(40, 8))
    vectors = np.concatenate([stays, changes]).astype(np.float32)
    scenes = ["home"] * 40 + ["shop"] * 40
    found = retrieve_next(USERS * 2, INDICES * 2, vectors, scenes)
    shop = retrieve_next(USERS, INDICES, changes.astype(np.float32), ["shop"] * 40)
    assert found is not None
    assert shop is not None
    assert found.texts == 40
    assert found.chance == pytest.approx(sum(1 / rank for rank in range(1, 21)) / 20)  # ranked among its scene's
    assert [home for home, _ in found.ranks.values()] == [1.0] * 20
    assert shop.mrr < 0.5


def test_equal_texts_are_encoded_once() -> None:
    encoder, counted = HashedEncoder(), []
    rows = encode(encoder, ["a", "b", "a"], counted.append)
    assert (encoder.seen, sum(counted)) == (["a", "b"], 2)
    assert np.array_equal(rows[0], rows[2])
