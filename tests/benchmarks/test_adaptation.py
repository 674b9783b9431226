"""benchmarks/adaptation.py: what it draws from the log, and its paired differences."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from benchmarks.adaptation import (
    FIRST_PARTITIONS,
    QUICK_USERS,
    STYLE,
    K,
    beside,
    first_rows,
    of_taste_alone,
    only_model,
    paired,
)
from fusion.worth.texts import template
from interest.check.evidence import Evidence
from interest.llm.gather import fingerprint
from interest.store.sql import insert_new, writing
from interest.store.tables import interests
from interest.types import Partition
from interest.write.backlog import Work
from tests.support.films import facts
from tests.support.small_store import interest


def test_the_quick_sample_is_the_first_ratings_of_users_with_enough(tmp_path: Path) -> None:
    log, size = tmp_path / "log.inter", K * FIRST_PARTITIONS
    rows = [
        f"{user}\t{size - at}\t3\t{at}" for user in range(QUICK_USERS + 5) for at in reversed(range(size + user % 3))
    ]
    rows += [f"short\t{at}\t3\t{at}" for at in range(size - 1)]
    log.write_text("\n".join(["user\titem\trating\tat", *rows]) + "\n")
    head, *drawn = first_rows(log)
    assert head == "user\titem\trating\tat"
    users = [row.split("\t")[0] for row in drawn]
    assert len(set(users)) == QUICK_USERS
    assert {users.count(user) for user in users} == {size}
    times = [int(row.split("\t")[3]) for row in drawn if row.startswith(f"{users[0]}\t")]
    assert times == list(range(size))
    assert first_rows(log) == [head, *drawn]


def test_a_paired_difference_counts_users_whole() -> None:
    better = {str(user): [1.0, 1.0] for user in range(40)}
    worse = {str(user): [0.0, 1.0] for user in range(40)}
    assert paired(better, worse) == {"mean": 0.5, "low": 0.5, "high": 0.5}
    one = {"a": [1.0] * 50, **{str(user): [0.0] for user in range(40)}}
    gap = paired(one, {user: [0.0] * len(hits) for user, hits in one.items()})
    assert gap["low"] == 0.0  # one user's fifty texts are one user
    assert gap["mean"] == pytest.approx(50 / 90, abs=1e-4)


def test_an_arm_is_saved_beside_those_that_are_there() -> None:
    old = {"texts": 3, "mrr": 0.1, "beside": {"template": {"mrr": 0.2}}}
    held = {"benchmark": "adaptation", "ml-100k": {"plain-2": {"base": old}}}
    again = beside(held, {"benchmark": "adaptation", "ml-100k": {"plain-2": {"adapted": {"texts": 4}}}})
    assert again["ml-100k"]["plain-2"] == {"base": old, "adapted": {"texts": 4}}
    other = beside(
        again, {"ml-1m": {"plain-2": {"base": {"texts": 5}}}, "ml-100k": {"plain-2": {"base": {"texts": 6}}}}
    )
    assert other["ml-100k"]["plain-2"] == {"base": {"texts": 6}, "adapted": {"texts": 4}}  # the older run's mrr is gone
    assert other["ml-1m"] == {"plain-2": {"base": {"texts": 5}}}
    assert held["ml-100k"] == {"plain-2": {"base": old}}


def test_the_template_tells_neither_who_the_user_is_nor_when_it_was() -> None:
    told = facts(("2", 5), ("3", 2), ("5", 4))
    head = Partition(user_id="u", index=0, first_seq=0, last_seq=2, opened_at=0.0, closed_at=2.0, reason="count")
    work = Work(head, Evidence(told), None, b"", b"", None)
    assert "Profile: age 24" in template(work, STYLE).summary
    text = of_taste_alone(work, STYLE).summary
    assert text.startswith("The user rated 3 films.\nMean value 3.7.\nCategories (count, mean value): Drama 3 (3.7), ")
    assert not any(word in text for word in ("Profile", "1998", "student"))
    assert "Valued most: [0] Fargo" in text


def test_a_report_is_of_the_one_model_or_of_the_one_that_is_named(store: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    with pytest.raises(SystemExit, match="no texts"):
        only_model(store, folder)
    named = f"tiny:{fingerprint(folder)}:int8"
    with writing(store) as connection:
        insert_new(connection, interests, [interest("u", 0, model="big")])
    assert only_model(store, folder) == "big"
    with writing(store) as connection:
        insert_new(connection, interests, [interest("u", 1, model="other")])
    with pytest.raises(SystemExit, match="of big, other"):
        only_model(store, folder)
    with writing(store) as connection:
        insert_new(connection, interests, [interest("u", 2, model=named)])
    assert only_model(store, folder) == named
