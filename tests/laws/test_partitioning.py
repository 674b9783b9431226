"""Laws of partitioning: whatever the chunks, the crashes and the restarts, the store is the same."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event, update

from interest.errors import StoreError
from interest.types import Behavior, Partition
from streams.settings.durations import format_duration, parse_duration
from streams.settings.load import read_settings
from streams.stages.ingest.policy import policy_of
from streams.store.tables import policies as stored_policies
from streams.ubsp.fold import IDENTITY_BYTES, Cache, Verdict, contains, fold, identity, restore, sweep
from streams.ubsp.ingest import Ingest
from streams.ubsp.policy import Dedupe, Policy, Scenes, Span, as_options, as_settings
from tests.support.partitioning import DAY, content, either, empty, events, policies, run


@given(events, either, st.lists(st.integers(0, 40), max_size=6), st.sampled_from([0, 1_200, 1 << 20]))
@settings(deadline=None)
def test_any_chunking_gives_the_same_store(log: list[Behavior], policy: Policy, ends: list[int], memory: int) -> None:
    whole, chunked = empty(), empty()
    expected = run(whole, log, policy, [], memory=1 << 20)
    assert run(chunked, log, policy, [end for end in ends if end <= len(log)], memory=memory) == expected
    assert content(chunked) == content(whole)


class CrashError(Exception):
    """Scripted inside a transaction."""


@given(events, either, st.data())
@settings(deadline=None)
def test_any_crash_point_gives_the_same_store(log: list[Behavior], policy: Policy, data: st.DataObject) -> None:
    whole, crashed = empty(), empty()
    run(whole, log, policy, [], memory=1 << 20)
    statements = data.draw(st.lists(st.integers(0, 12), max_size=3), label="crash at statement")
    for crash_at in statements:
        seen = 0

        def count(*_: object, crash_at: int = crash_at) -> None:
            nonlocal seen
            seen += 1
            if seen > crash_at:
                raise CrashError

        event.listen(crashed, "before_cursor_execute", count)
        try:
            run(crashed, log, policy, [7, 14, 21], memory=2_000)
        except CrashError:
            pass
        finally:
            event.remove(crashed, "before_cursor_execute", count)
    run(crashed, log, policy, [], memory=1 << 20)
    assert content(crashed) == content(whole)


def recompute(log: list[Behavior], policy: Policy) -> dict[str, list[list[Behavior]]]:
    """Each user's partitions by a batch computation: all behaviours at hand, no cache, rules as defined."""
    out: dict[str, list[list[Behavior]]] = {}
    for user in {behavior.user_id for behavior in log}:
        groups: list[list[Behavior]] = [[]]
        for behavior in (one for one in log if one.user_id == user):
            near = [*groups[-1], *(groups[-2] if len(groups) > 1 else [])]
            if any(same(behavior, other, policy.dedupe) for other in near):
                continue
            clock = max((one.at for group in groups for one in group), default=-math.inf)
            breaks_gap = policy.gap_s is not None and behavior.at - clock > policy.gap_s
            breaks_span = (
                policy.span is not None
                and behavior.at > clock
                and label(behavior.at, policy.span) != label(clock, policy.span)
            )
            if groups[-1] and (breaks_gap or breaks_span):
                groups.append([])
            groups[-1].append(behavior)
            if policy.count is not None and len(groups[-1]) == policy.count:
                groups.append([])
        out[user] = groups[:-1]
    return out


def same(one: Behavior, other: Behavior, rule: Dedupe | None) -> bool:
    if rule is Dedupe.NONE:
        return False
    if rule is not Dedupe.ROW and (one.event_id or other.event_id or rule is Dedupe.EVENT_ID):
        return one.event_id is not None and one.event_id == other.event_id
    when = (one.item_id, one.action, one.at) == (other.item_id, other.action, other.at)
    return when and (rule is Dedupe.TIME or (one.value, one.scene) == (other.value, other.scene))


def label(at: float, span: Span) -> object:
    from datetime import UTC, datetime

    if at == -math.inf:
        return None
    day = datetime.fromtimestamp(at, UTC)
    return {
        Span.DAY: day.date(),
        Span.WEEK: day.isocalendar()[:2],
        Span.MONTH: (day.year, day.month),
        Span.YEAR: day.year,
    }[span]


@given(events, policies.filter(lambda policy: policy.tokens is None))
@settings(deadline=None)
def test_fold_equals_batch_recomputation(log: list[Behavior], policy: Policy) -> None:
    engine = empty()
    run(engine, log, policy, [], memory=1 << 20)
    rows, headers = content(engine)
    found: dict[str, list[list[tuple[Any, ...]]]] = {user: [] for user in {behavior.user_id for behavior in log}}
    for header in headers:
        user, _, _, first, last, opened, closed, *_ = header
        inside = [row for row in rows if row[0] == user and first <= row[1] <= last]
        assert (opened, closed) == (min(row[4] for row in inside), max(row[4] for row in inside))
        found[user].append([row[2:] for row in inside])
    expected = {
        user: [
            [(one.item_id, one.action, one.at, one.value, one.scene, one.event_id) for one in group] for group in groups
        ]
        for user, groups in recompute(log, policy).items()
    }
    assert found == expected


@given(events, policies, st.integers(0, 60).map(lambda day: day * DAY))
@settings(deadline=None)
def test_a_restored_cache_folds_and_sweeps_like_the_one_in_memory(
    log: list[Behavior], policy: Policy, watermark: float
) -> None:
    cache, kept, closed = Cache("ann"), [], []
    for behavior in log:
        cache, verdict, ended = fold(cache, behavior, policy, 3)
        if verdict is not Verdict.DUPLICATE:
            key = identity(behavior, policy.dedupe or Dedupe.AUTO)
            kept.append((key, behavior.at, 3))
        closed.extend(ended)
    newest: Partition | None = closed[-1] if closed else None
    end = max((partition.closed_at for partition in closed), default=-math.inf)
    restored = restore("ann", newest, end, kept[newest.first_seq if newest else 0 :])
    assert restored == cache
    assert sweep(restored, watermark, policy) == sweep(cache, watermark, policy)


@given(events, either.filter(lambda policy: policy.tokens is None), st.integers(0, 40))
@settings(deadline=None)
def test_a_sweep_in_between_changes_nothing(log: list[Behavior], policy: Policy, cut: int) -> None:
    log = sorted(log, key=lambda behavior: behavior.at)
    whole, twice = empty(), empty()
    run(whole, log, policy, [], memory=1 << 20)
    for part in (log[:cut], log):
        run(twice, part, policy, [], memory=1 << 20)
        Ingest(twice, policy).sweep(max((behavior.at for behavior in part), default=0.0))
    Ingest(whole, policy).sweep(max((behavior.at for behavior in log), default=0.0))
    assert content(twice) == content(whole)


@given(events, policies)
@settings(deadline=None)
def test_partitions_cover_the_past_without_gap_or_overlap(log: list[Behavior], policy: Policy) -> None:
    engine = empty()
    position = run(engine, log, policy, [], memory=1 << 20)
    rows, headers = content(engine)
    assert position.accepted == len(rows)
    assert position.accepted + position.duplicates == len(log)
    expected: dict[str, tuple[int, int]] = {}
    for user, _, index, first, last, *_ in headers:
        assert (index, first) == expected.get(user, (0, 0))
        assert last >= first
        expected[user] = (index + 1, last + 1)


@given(st.lists(st.binary(min_size=IDENTITY_BYTES, max_size=IDENTITY_BYTES), max_size=6), st.integers(0, 40))
def test_an_identity_is_found_only_where_one_stands(held: list[bytes], place: int) -> None:
    joined = b"".join(held)
    across = joined[place : place + IDENTITY_BYTES]  # parts of two neighbours, most of the time
    if len(across) == IDENTITY_BYTES:
        assert contains(joined, across) == (across in held)
    assert all(contains(joined, key) for key in held)


@given(either)
def test_a_policy_is_shown_as_what_is_typed_to_get_it(policy: Policy) -> None:
    words = as_options(policy).split()
    typed = dict(zip(words[::2], words[1::2], strict=True))
    assert policy == Policy(
        count=int(typed["--partition"]) or None,
        gap_s=parse_duration(typed["--gap"]) if "--gap" in typed else None,
        span=Span(typed["--span"]) if "--span" in typed else None,
        tokens=int(typed["--tokens"]) if "--tokens" in typed else None,
        dedupe=Dedupe(typed["--dedupe"]) if "--dedupe" in typed else None,
        scenes=Scenes(typed.get("--scenes", "joined")),
    )
    environment = dict(word.split("=") for word in as_settings(policy).split())
    assert policy_of(read_settings(None, environment)[0].ingest) == policy


@given(st.floats(0, 1e12, exclude_min=True) | st.integers(1, 10**9).map(float))
def test_a_duration_is_written_as_it_is_read(length: float) -> None:
    assert parse_duration(format_duration(length)) == length


def test_the_rule_of_duplicates_is_kept_with_the_generation_and_an_old_store_goes_on_by_its_own() -> None:
    plays = [
        Behavior(user_id="u", item_id="i", action="play", at=60.0, value=value, scene="home")
        for value in (30.0, 31.0, 30.0)
    ]
    counts: dict[Dedupe | None, int] = {}
    for rule in (None, *Dedupe):
        engine = empty()
        counts[rule] = run(engine, plays, Policy(dedupe=rule), [], memory=1 << 20).accepted
        assert Ingest(engine, Policy()).policy.dedupe is (rule or Dedupe.AUTO)  # who does not say takes the store's
    assert counts == {
        None: 2, Dedupe.AUTO: 2, Dedupe.EVENT_ID: 3, Dedupe.ROW: 2, Dedupe.NONE: 3, Dedupe.TIME: 1,
    }  # fmt: skip

    old = empty()
    run(old, plays[:1], Policy(), [], memory=1 << 20)
    with old.begin() as connection:  # as a version before the rules wrote it
        connection.execute(update(stored_policies).values(policy='{"count":50,"gap_s":null,"span":null,"tokens":null}'))
    assert Ingest(old, Policy()).fold(plays[1:]).accepted == 0
    with pytest.raises(StoreError, match=r"--partition 50 --dedupe time, not by --partition 50 --dedupe none"):
        Ingest(old, Policy(dedupe=Dedupe.NONE))


def test_a_duplicate_is_told_by_example() -> None:
    engine = empty()
    one = Behavior(user_id="u", item_id="i", action="play", at=60.0)
    folded = Ingest(engine, Policy()).fold([one, one, one])
    assert (folded.accepted, folded.duplicates, folded.duplicate, folded.names) == (1, 2, one, 0)
    name = Behavior(user_id="u", item_id="tea bill", action="pay", at=60.0, event_id="tea bill")
    folded = Ingest(engine, Policy()).fold([name, name])
    assert (folded.accepted, folded.duplicates, folded.duplicate, folded.names) == (1, 1, None, 1)
