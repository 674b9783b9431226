"""Learning over a real store with a scripted model: what is left to do, crashes, the cache, and replaced texts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from interest.errors import Denied, InputError, Refused, Unavailable, Unreadable
from interest.llm.cache import Answers, read_usage
from interest.llm.protocol import Reply, Request
from interest.llm.scripted import Scripted, reply
from interest.store.sql import insert_new, item_row, partitions_of, user_row, writing
from interest.store.tables import answers, behaviors, interests, items, partitions, users
from interest.types import Item, Outcome, Partition, Reason, Source, User
from interest.write.backfill import Estimate, Learned, estimate, learn
from interest.write.backlog import Plan, count_open, load, read_usual
from streams.store.forget import forget
from streams.store.invalidate import delete_derived

SIZE = 6


def fill(store: Engine, histories: dict[str, int]) -> None:
    """Users with so many full partitions of 6 ratings; dramas in even partitions, comedies and dramas in odd ones."""
    catalogue = [
        Item(item_id="d", title="Hollow Reed", categories=("Drama",)),
        Item(item_id="c", title="Duck Soup", categories=("Comedy",)),
        Item(item_id="w", title="High Noon", categories=("Western",)),
    ]
    catalogue += [  # one favourite of its own for every partition, so that no two prompts are the same
        Item(item_id=f"{user}{index}", title=f"Film {user.upper()}{index}", categories=("Drama", "Comedy"))
        for user, count in histories.items()
        for index in range(count)
    ]
    rows, heads = [], []
    for user, count in histories.items():
        for index in range(count):
            for at in range(SIZE):
                item = f"{user}{index}" if at == 0 else "d" if index % 2 == 0 and at < 4 else "c"
                seq = index * SIZE + at
                rows.append(
                    {
                        "user_id": user,
                        "seq": seq,
                        "item_id": item,
                        "action": "rate",
                        "at": float(seq),
                        "value": (5.0, 4.0, 4.0, 4.0, 4.0, 2.0)[at],
                    }
                )
            first = index * SIZE
            heads.append(
                {"user_id": user, "generation": 0, "index": index, "first_seq": first, "last_seq": first + SIZE - 1}
                | {"opened_at": float(first), "closed_at": float(first + SIZE - 1), "reason": "count"}
            )
    with writing(store) as connection:
        insert_new(connection, behaviors, rows)
        insert_new(connection, partitions, heads)
        insert_new(connection, items, [item_row(item) for item in catalogue])
        insert_new(connection, users, [user_row(User(user_id=user)) for user in histories])


def answer(request: Request) -> str:
    """A true answer to whatever plain-1 asks of these histories."""
    asked = request.messages[-1].content
    if "change" not in asked:
        return "This user enjoyed dramas and comedies."
    return f"This user now chooses more {'dramas' if 'more dramas' in asked else 'comedies'}."


def rows(store: Engine) -> list[dict[str, Any]]:
    with store.connect() as connection:
        query = select(interests).order_by(interests.c.user_id, interests.c.index)
        return [dict(row) for row in connection.execute(query).mappings()]


def test_every_closed_partition_gets_a_summary_and_but_the_first_a_shift(store: Engine) -> None:
    fill(store, {"u": 3, "v": 1})
    seen: list[int] = []
    done = learn(store, Scripted(answer), model="m", advance=seen.append)
    found = rows(store)
    assert [(row["user_id"], row["index"]) for row in found] == [("u", 0), ("u", 1), ("u", 2), ("v", 0)]
    assert [bool(row["shift"]) for row in found] == [False, True, True, False]
    assert found[0]["summary_source"] == Source.LLM
    assert found[0]["at"] == SIZE - 1  # event time: the partition's closing
    assert (done.partitions, sum(seen), count_open(store, Plan(), llm=True)) == (4, 4, 0)


def test_a_second_run_asks_nothing(store: Engine) -> None:
    fill(store, {"u": 3})
    learn(store, Scripted(answer), model="m")
    model = Scripted(answer)
    assert learn(store, model, model="m").partitions == 0
    assert model.seen == []


@pytest.mark.parametrize("survived", range(0, 8, 2))
def test_a_run_that_breaks_off_anywhere_resumes_and_ends_the_same(store: Engine, survived: int, tmp_path: Any) -> None:
    fill(store, {"u": 3, "v": 2})
    script = [answer] * survived + [Unavailable("gone")]
    with pytest.raises(Unavailable):
        learn(store, Scripted(*script), model="m")
    again = Scripted(answer)
    learn(store, again, model="m")
    resumed = rows(store)

    from streams.store.engine import open_store

    other = open_store(f"sqlite:///{tmp_path / 'other.db'}")
    fill(other, {"u": 3, "v": 2})
    learn(other, Scripted(answer), model="m")
    assert resumed == rows(other)
    other.dispose()


@pytest.mark.parametrize("comes_back", [False, True])
def test_who_is_forgotten_while_the_llm_writes_stays_forgotten(store: Engine, comes_back: bool) -> None:
    fill(store, {"u": 2, "v": 1})
    asked: list[Request] = []

    def forgetting(request: Request) -> str:
        if not asked:
            forget(store, "u")
            if comes_back:  # with a first partition of other behaviours
                fresh = {"user_id": "u", "generation": 0, "index": 0, "first_seq": 0, "last_seq": 0}
                with writing(store) as connection:
                    insert_new(
                        connection, partitions, [fresh | {"opened_at": 90.0, "closed_at": 90.0, "reason": "count"}]
                    )
        asked.append(request)
        return answer(request)

    seen: list[int] = []
    done = learn(store, Scripted(forgetting), model="m", advance=seen.append, replaced=delete_derived)
    assert len(asked) > 2
    assert [row["user_id"] for row in rows(store)] == ["v"]
    with store.connect() as connection:
        assert set(connection.execute(select(answers.c.user_id)).scalars()) <= {"v"}
    assert (done.partitions, sum(seen)) == (1, 3)


def test_an_answer_that_is_stored_is_not_asked_again(store: Engine) -> None:
    fill(store, {"u": 3})
    first = Scripted(answer)
    learn(store, first, model="m")
    with writing(store) as connection:
        connection.execute(interests.delete())
    second = Scripted(answer)
    learn(store, second, model="m")
    assert second.seen == []
    with store.connect() as connection:
        spent = read_usage(connection, "m", "plain-1")
        assert connection.execute(select(func.count()).select_from(answers)).scalar() == len(
            {str(one) for one in first.seen}
        )
    assert sum(one.calls for one in spent.values()) == len(first.seen)
    assert sum(one.cached for one in spent.values()) >= len(first.seen)
    third = Scripted(answer)
    with writing(store) as connection:
        connection.execute(interests.delete())
    learn(store, third, model="another model")
    assert len(third.seen) == len(first.seen)


def test_statistics_are_written_without_a_model_and_replaced_by_one(store: Engine) -> None:
    fill(store, {"u": 2})
    learn(store, None)
    assert {row["summary_outcome"] for row in rows(store)} == {Outcome.STATISTICS}
    replaced: list[int] = []
    learn(
        store,
        Scripted(answer),
        model="m",
        replaced=lambda _connection, found: replaced.extend(one.index for one in found),
    )
    assert rows(store)[0]["summary_source"] == Source.LLM
    assert replaced == [0, 1]
    learn(store, None)
    assert rows(store)[0]["summary_source"] == Source.LLM


def test_another_prompt_version_is_learnt_beside_the_first(store: Engine) -> None:
    fill(store, {"u": 2})
    learn(store, None)
    learn(store, None, plan=Plan(prompt_version="json-1"))
    assert [row["prompt_version"] for row in rows(store)] == ["json-1", "plain-1"] * 2 or len(rows(store)) == 4
    with pytest.raises(InputError, match="plain-1"):
        learn(store, None, plan=Plan(prompt_version="plain-0"))


def test_only_some_users(store: Engine) -> None:
    fill(store, {"u": 1, "v": 3, "w": 2})
    learn(store, None, plan=Plan(users_limit=1))
    assert {row["user_id"] for row in rows(store)} == {"v"}
    learn(store, None, plan=Plan(users=("u",)))
    assert {row["user_id"] for row in rows(store)} == {"u", "v"}
    with pytest.raises(InputError, match="'nobody'"):
        learn(store, None, plan=Plan(users=("nobody",)))


def test_chained_summaries_read_the_one_before(store: Engine) -> None:
    fill(store, {"u": 3})
    model = Scripted(answer)
    learn(store, model, model="m", plan=Plan(chained=True))
    asked = [one.messages[-1].content for one in model.seen if "change" not in one.messages[-1].content]
    assert "Before: None" in asked[0]
    assert any("Before: This user" in content for content in asked[1:])


def test_the_estimate_keeps_what_it_asked(store: Engine) -> None:
    fill(store, {"u": 3})
    model = Scripted(answer)
    expected = estimate(store, model, "m", Plan())
    probed = len(model.seen)
    assert (expected.partitions, expected.measured, probed) == (3, True, 3)
    assert expected.prompt_tokens > 0
    learn(store, model, model="m")
    assert len({one.messages[-1].content for one in model.seen}) >= probed
    asked = [(one.messages, one.seed, one.temperature) for one in model.seen]
    assert len(asked) == len(set(asked))  # nothing twice


def test_calls_stay_constant_as_the_history_grows(store: Engine) -> None:
    fill(store, {"u": 4, "v": 12})
    per_partition = []
    for user in ("u", "v"):
        model = Scripted(answer)
        done = learn(store, model, model=user, plan=Plan(users=(user,)))
        per_partition.append(len(model.seen) / done.partitions)
    assert per_partition[1] <= per_partition[0] * 1.2


def test_what_is_usual_is_of_all_up_to_the_close_and_of_nothing_later(store: Engine) -> None:
    fill(store, {"u": 3, "v": 2})
    with writing(store) as connection:
        connection.execute(behaviors.update().where(behaviors.c.seq >= 2 * SIZE).values(value=1.0))
    with store.connect() as connection:
        heads = [*partitions_of(connection, "u"), partitions_of(connection, "v")[1]]
        together = read_usual(connection, heads)
        alone = {(head.user_id, head.index): read_usual(connection, [head])[head.user_id, head.index] for head in heads}
    assert together == alone  # whatever else is read: a replay and the stream see the same
    first, second, third = (together["u", index] for index in range(3))
    assert first == second == together["v", 1]
    assert first.mean == 3.83333
    assert third.mean == 2.88889
    heads = [Partition(user_id="u", index=0, first_seq=0, last_seq=5, opened_at=0, closed_at=5, reason=Reason.COUNT)]
    with store.connect() as connection:
        (work,) = load(connection, Plan(), heads, ())
    assert work.evidence.facts.usual == first


def test_refused_texts_are_written_once_more_when_asked_for(store: Engine) -> None:
    fill(store, {"u": 2})
    learn(store, Scripted(Refused("flagged")), model="m")
    assert {row["summary_outcome"] for row in rows(store)} == {Outcome.REFUSED}
    assert learn(store, Scripted(answer), model="m").partitions == 0
    again = Plan(again=(Outcome.REFUSED,))
    assert learn(store, Scripted(answer), model="m", plan=again).partitions == 2
    assert Outcome.REFUSED not in {row["summary_outcome"] for row in rows(store)}
    assert learn(store, Scripted(answer), model="m", plan=again).partitions == 0


def test_rows_are_stored_while_others_are_still_written(store: Engine) -> None:
    fill(store, {"u": 9, "v": 9})
    stored: list[int] = []

    async def slow(request: Request) -> Reply:
        stored.append(len(rows(store)))
        await asyncio.sleep(0.1)
        return reply(answer(request))

    learn(store, slow, model="m")
    assert any(0 < count < 18 for count in stored)
    assert len(rows(store)) == 18


def test_what_the_estimate_asked_is_told_as_it_comes_and_counts_as_calls(store: Engine) -> None:
    fill(store, {"u": 3})
    model, told = Scripted(answer), list[int]()

    @contextmanager
    def begin(count: int) -> Iterator[Callable[[int], None]]:
        told.append(-count)
        assert not model.seen
        yield told.append

    shared = Answers(store, model, model="m", prompt_version="plain-1")
    estimate(store, model, "m", Plan(), answers=shared, begin=begin)
    assert told == [-3, 1, 1, 1]
    done = learn(store, model, model="m", answers=shared)
    with store.connect() as connection:
        stored = read_usage(connection, "m", "plain-1")
    for usage in (done.usage, stored):
        assert sum(one.calls for one in usage.values()) == len(model.seen)
        assert sum(one.cached for one in usage.values()) == 0


def test_the_estimate_is_corrected_by_the_first_ten(store: Engine) -> None:
    fill(store, {"u": 12})
    corrected: list[Estimate] = []
    done = learn(store, Scripted(answer), model="m", corrected=corrected.append)
    (rest,) = corrected
    assert 0 < rest.partitions <= 2
    assert 0 < rest.calls <= sum(one.calls for one in done.usage.values())


def test_a_reply_that_cannot_be_read_leaves_its_partition_open(store: Engine) -> None:
    fill(store, {"u": 2, "v": 2})

    async def odd(request: Request) -> Reply:
        if "Film U1" in request.messages[-1].content:
            raise Unreadable("not a completion")
        return reply(answer(request))

    done = learn(store, odd, model="m")
    assert (done.unread, done.trouble) == (1, "not a completion")
    assert [(row["user_id"], row["index"]) for row in rows(store)] == [("u", 0), ("v", 0), ("v", 1)]


def test_an_llm_that_refuses_everything_ends_the_run_and_keeps_what_is_done(store: Engine) -> None:
    fill(store, {"u": 6})
    model = Scripted(*[answer] * 11, Denied("no credit"))
    done = Learned()
    with pytest.raises(Denied, match="no credit"):
        learn(store, model, model="m", done=done)
    assert 0 < done.partitions == len(rows(store)) < 6
    assert Outcome.REFUSED not in {row["summary_outcome"] for row in rows(store)}
