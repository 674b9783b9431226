"""Controls keep which partitions there are, when they closed and which have a shift, and change what they say."""

from __future__ import annotations

import numpy as np
from sqlalchemy import Engine

from fusion.features.interest_vectors import read_interest_vectors
from fusion.features.splits import split
from fusion.worth import controls
from fusion.worth.texts import statistics, template, vectors_of
from fusion.worth.variants import variants
from interest.write.prompts import Style
from tests.support.ctr_world import WIDTH, fill, interest_vectors_of, log_of, random_rows


def test_shuffled_texts_are_other_users_of_the_same_part() -> None:
    log = log_of(random_rows(3), 30, 40)
    held = interest_vectors_of(log)
    held.vectors[held.index == 0, WIDTH:] = 0
    part = split(log, "global")
    changed = controls.shuffled(held, log, part)
    owner = np.repeat(np.arange(30), np.diff(held.starts))
    source = np.array([int(np.flatnonzero((held.vectors == row).all(axis=1))[0]) for row in changed.vectors])
    assert sorted(source) == list(range(len(owner)))  # every text stands somewhere, once
    assert (owner[source] != owner).all()
    of_partition = part[log.starts[owner] + held.last_seq]
    assert len(set(of_partition)) == 3
    assert (of_partition[source] == of_partition).all()
    assert ((changed.vectors[:, WIDTH:] != 0).any(axis=1) == (held.index > 0)).all()
    for name in ("starts", "index", "last_seq", "closed_at"):
        assert np.array_equal(getattr(changed, name), getattr(held, name))


def test_a_user_alone_keeps_its_texts() -> None:
    log = log_of([(0, i % 7, 86_400.0 * i, 4.0) for i in range(40)], 1, 7)
    held = interest_vectors_of(log)
    changed = controls.shuffled(held, log, np.zeros(40, np.int8))
    assert sorted(map(bytes, changed.vectors)) == sorted(map(bytes, held.vectors))


def test_random_vectors_are_as_large_as_the_texts_and_no_shift_stays_none() -> None:
    log = log_of(random_rows(4, each=60), 30, 40)
    held = interest_vectors_of(log, seed=7)
    held.vectors[held.index == 0, WIDTH:] = 0
    held.vectors[:, 0] += 3
    changed = controls.random(held).vectors.astype(np.float32)
    assert abs(changed[:, 0].mean() - 3) < 0.3
    assert abs(changed[held.index > 0, WIDTH:].std() - 1) < 0.1
    assert not changed[held.index == 0, WIDTH:].any()
    assert abs(np.corrcoef(changed[:, 1], held.vectors[:, 1].astype(np.float32))[0, 1]) < 0.2


def test_texts_without_an_llm_are_about_their_own_partition(store: Engine) -> None:
    log = fill(store, random_rows(5, user_count=6), user_count=6, interests=True)
    seen: list[str] = []

    class Lengths:
        """An encoder that remembers: a text becomes its number."""

        id = "e1"

        def __call__(self, texts: list[str], /) -> np.ndarray:
            seen.extend(texts)
            return np.array([[len(seen) - len(texts) + i + 1] * WIDTH for i in range(len(texts))], np.float32)

    with store.connect() as connection:
        held = read_interest_vectors(connection, log.users, generation=0, prompt_version="p1", encoder="e1")
        for write in (statistics, template):
            seen.clear()
            summaries, shifts = vectors_of(connection, log.users, held, write, Style(), Lengths())
            assert summaries.shape == shifts.shape == (len(held.index), WIDTH)
            assert (shifts.any(axis=1) == (held.index > 0)).all()
            assert all("5 titles" in seen[int(number) - 1] for number in summaries[:, 0])
            assert "What does this user like?" not in "".join(seen)
            changed = controls.of_texts(held, summaries, shifts)
            assert np.array_equal(changed.last_seq, held.last_seq)


def test_no_model_is_trained_twice() -> None:
    one = variants(["interest text"], ["shuffled", "random"])
    assert [own.name for own in one] == [
        "nothing", "all parts", "all, interest text of other users", "all, random vectors",
    ]  # fmt: skip
    three = variants(["item text", "centroids", "interest text"], [])
    assert len(three) == len({own.parts for own in three}) == 8
