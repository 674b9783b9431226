"""What SRP4CTR's windows gather, against the definition: late arrivals, equal times, pasts longer than the history."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from hypothesis import given, settings

from fusion.features.events import GAP_ROWS
from fusion.features.log import Log
from fusion.features.packed_windows import PackedCollator
from fusion.features.spec import FIRST, GAP_DAYS, UNKNOWN, FeatureSpec
from tests.support.ctr_world import DAY, RULE, log_of, samples_of, spec_of
from tests.support.random_logs import ITEMS, ROWS, USERS, visible

HISTORY = 5


def behavior(spec: FeatureSpec, log: Log, labels: np.ndarray, row: int, before: int | None) -> list[int]:
    """Rows of an event's action, value, outcome and days since the visible event before it."""
    value = float(log.value[row])
    bucket = UNKNOWN if np.isnan(value) else bisect_right(spec.value_edges, value) + FIRST
    since = GAP_ROWS
    if before is not None:
        days = int(log.at[row] // DAY) - int(log.at[before] // DAY)
        since = bisect_right(GAP_DAYS, max(days, 0)) + 1
    return [FIRST, bucket, int(labels[row]) + 2, since]


@settings(deadline=None, max_examples=60)
@given(rows=ROWS)
def test_a_window_shows_the_newest_visible_events_and_the_whole_past(rows: list) -> None:
    log = log_of(rows, USERS, ITEMS)
    spec = spec_of(log, history=HISTORY)
    samples, labels = samples_of(spec, log, np.arange(log.size)), RULE.labels(log)
    collator, table = PackedCollator(4, whole_past=True), samples.items.row[log.item + 1]
    met: list[int] = []
    for part in collator.score_batches(samples, np.arange(log.size)):
        batch = collator.collate(samples, part)
        item = batch.items.row.numpy()
        ends = batch.users.past_size.numpy().cumsum()[:-1]
        pasts = np.split(batch.users.past.numpy(), ends)
        positives = np.split(batch.users.past_positive.numpy(), ends)
        windows = np.split(part.rows, np.cumsum(part.sizes)[:-1])
        for number, (window, past, positive) in enumerate(zip(windows, pasts, positives, strict=True)):
            event = batch.users.event[number].numpy()
            told = batch.users.behavior[number].numpy()[event > 0]
            for row in window.tolist():
                before = visible(log, row).tolist()
                newest = list(zip(before, [None, *before], strict=False))[-HISTORY:]
                assert item[event[event > 0]].tolist() == [int(table[own]) for own, _ in newest]
                wanted = [behavior(spec, log, labels, *pair) for pair in newest]
                assert told.tolist() == wanted
                assert item[past].tolist() == table[before].tolist()
                assert positive.tolist() == (labels[before] == 1).tolist()
                met.append(row)
    assert sorted(met) == list(range(log.size))
