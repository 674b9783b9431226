"""No sample sees its future: whatever happens later, or arrives later, the sample reads the same."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.features.counts import count_features
from fusion.features.impressions import impressions_of
from fusion.features.spec import item_table
from tests.support.ctr_world import DAY, RULE, catalogue, interest_vectors_of, log_of, meaning, samples_of, spec_of
from tests.support.random_logs import ITEMS, ROWS, USERS, visible


@settings(deadline=None, max_examples=60)
@given(rows=ROWS, pick=st.integers(0, 10**6), seed=st.integers(0, 10**6))
def test_shifting_every_later_event_changes_nothing(rows: list, pick: int, seed: int) -> None:
    log = log_of(rows, USERS, ITEMS)
    spec = spec_of(log, history=5, partitions=3, text_width=32)
    row = pick % log.size
    rng = np.random.default_rng(seed)
    own = log.user == log.user[row]
    later = np.where(own, (log.seq > log.seq[row]) | (log.at > log.at[row]), log.at >= log.at[row])
    later[row] = False
    other_value = later.copy()
    other_value[row] = True  # its own outcome is what is to be predicted
    changed = dataclasses.replace(
        log,
        at=np.where(later, log.at + rng.integers(1, 50, log.size) * DAY, log.at),
        item=np.where(later, rng.integers(0, ITEMS, log.size), log.item).astype(np.int32),
        value=np.where(other_value, rng.integers(1, 6, log.size), log.value).astype(np.float32),
    )
    held, other = interest_vectors_of(log), interest_vectors_of(changed)
    same = (held.last_seq < log.seq[row]) & (held.closed_at <= log.at[row])  # the others may say anything
    other.vectors[same] = held.vectors[same]
    other.vectors[~same] = rng.normal(size=other.vectors[~same].shape)
    before = samples_of(spec, log, np.array([row]), held).batch(np.array([0]))
    after = samples_of(spec, changed, np.array([row]), other).batch(np.array([0]))
    for left, right in zip(meaning(before), meaning(after), strict=True):
        np.testing.assert_array_equal(left, right)


@settings(deadline=None, max_examples=60)
@given(rows=ROWS)
def test_the_history_is_the_newest_visible_events_and_the_partitions_those_closed_before(rows: list) -> None:
    log = log_of(rows, USERS, ITEMS)
    spec = spec_of(log, history=5, partitions=2, text_width=32)
    stored = interest_vectors_of(log, each=3)
    batch = samples_of(spec, log, np.arange(log.size), stored).batch(np.arange(log.size))
    item_row, history = batch.item_row.numpy(), batch.history.numpy()
    book = samples_of(spec, log, np.arange(log.size))
    offered = dict(
        zip(log.item.tolist(), book.batch(np.arange(log.size)).item_row.numpy()[batch.target.numpy()], strict=True)
    )
    for row in range(log.size):
        newest = visible(log, row)[::-1][:5]
        assert item_row[history[row]].tolist()[: len(newest)] == [offered[log.item[i]] for i in newest]
        assert not history[row][len(newest) :].any()
        owner = np.repeat(np.arange(USERS), np.diff(stored.starts))
        may = (owner == log.user[row]) & (stored.last_seq < log.seq[row])
        window = np.flatnonzero(may)[::-1][:2]
        seen = [q for q in window if stored.closed_at[q] <= log.at[row]]
        held = [int(q) for q in batch.partitions[row] if q >= 0]
        np.testing.assert_array_equal(batch.interest_vectors.numpy()[held], stored.vectors[seen].astype(np.float32))


@settings(deadline=None, max_examples=40)
@given(rows=ROWS)
def test_the_counts_are_those_of_a_slow_count(rows: list) -> None:
    log = log_of(rows, USERS, ITEMS)
    spec = spec_of(log)
    table = item_table(spec, log.items, catalogue(ITEMS))
    impressions, past = impressions_of(log, np.arange(log.size))
    dense = count_features(log, RULE.labels(log), spec.scale, table.categories[1:], impressions, past)
    column = {name: dense[:, i] for i, name in enumerate(spec.dense)}
    known = {
        u: np.maximum.accumulate(log.at[log.starts[u] : log.starts[u + 1]])
        for u in range(USERS)
        if np.any(log.user == u)
    }
    for row in range(log.size):
        seen = visible(log, row)
        rated = seen[~np.isnan(log.value[seen])]
        mean = (np.sum(log.value[rated] >= 4) + 5 * spec.scale.prior) / (len(rated) + 5)
        assert np.isclose(column["user_mean"][row], np.log(mean / (1 - mean)), atol=1e-5)
        assert np.isclose(column["user_count"][row], np.log1p(len(seen)), atol=1e-5)
        others = [
            i for i in range(log.size) if log.item[i] == log.item[row] and known[log.user[i]][log.seq[i]] < log.at[row]
        ]
        labelled = [i for i in others if not np.isnan(log.value[i])]
        item = (sum(log.value[i] >= 4 for i in labelled) + 20 * spec.scale.prior) / (len(labelled) + 20)
        assert np.isclose(column["item_mean"][row], np.log(item / (1 - item)), atol=1e-5)
