"""The sums over the whole past: as a slow loop makes them, however long the past, and never of what comes later."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion.features import packed_windows as windows
from fusion.features.collate import BatchIndices
from fusion.features.labels import POSITIVE
from fusion.models.lifelong import Lifelong
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import Srp4Ctr, Srp4CtrConfig
from tests.support.ctr_world import RULE, log_of, random_rows, samples_of, spec_of

LOG = log_of(random_rows(1), 30, 40)
HISTORY = 10  # of 25 behaviours each: the sums read what attention does not


def test_the_sums_are_those_of_a_slow_loop() -> None:
    spec = spec_of(LOG, history=HISTORY)
    torch.manual_seed(0)
    model = Srp4Ctr(spec, Srp4CtrConfig(encoder=FgBertConfig(positions=14, width=16), pack=5, lifelong=True))
    assert isinstance(model.lifelong, Lifelong)
    samples = samples_of(spec, LOG, np.arange(LOG.size))
    rows = np.array([0, 1, 7, 8, 9, 24, 25, 49, 600])
    sizes = np.array([1, 1, 3, 1, 1, 1, 1])  # three moments share a window, whose past is the first one's
    batch = model.collator.collate(samples, BatchIndices(rows, sizes))
    positive = RULE.labels(LOG) == POSITIVE
    every = samples.items
    with torch.no_grad():
        items = model.encoder.items(batch.items)
        made = model.lifelong.user(batch.users, items)
        for window, row in enumerate(rows[np.cumsum(sizes) - sizes].tolist()):
            past = np.arange(LOG.starts[LOG.user[row]], row)
            for half, chosen in enumerate((past[positive[past]], past[~positive[past]])):
                total = torch.zeros(16)
                for item in LOG.item[chosen].tolist():
                    place = np.flatnonzero(batch.items.row.numpy() == every.row[item + 1])[0]
                    total += items[place]
                wanted = total / (1 + len(chosen)) ** 0.5
                torch.testing.assert_close(made[window, half * 16 : half * 16 + 16], wanted)
    assert batch.users.past_size.tolist() == [0, 1, 7, 24, 0, 24, 0]


def test_the_sums_teach_the_embeddings_of_items_beyond_the_history() -> None:
    spec = spec_of(LOG, history=HISTORY)
    model = Srp4Ctr(spec, Srp4CtrConfig(encoder=FgBertConfig(positions=14, width=16), pack=5, lifelong=True))
    samples = samples_of(spec, LOG, np.arange(LOG.size))
    batch = model.collator.collate(samples, BatchIndices(np.array([24]), np.array([1])))
    model(batch).sum().backward()
    grad = model.encoder.item.weight.grad
    assert grad is not None
    newest = set(LOG.item[24 - HISTORY : 25].tolist())
    oldest = [item for item in LOG.item[: 24 - HISTORY].tolist() if item not in newest]
    assert oldest
    for item in oldest:
        assert grad[samples.items.row[item + 1]].abs().sum() > 0


def test_scoring_holds_no_more_of_whole_pasts_at_once_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "PAST_AT_ONCE", 60)
    samples = samples_of(spec_of(LOG, history=HISTORY), LOG, np.arange(LOG.size))
    collator = windows.PackedCollator(5, whole_past=True)
    parts = list(collator.score_batches(samples, np.arange(LOG.size)))
    assert np.array_equal(np.sort(np.concatenate([part.rows for part in parts])), np.arange(LOG.size))
    assert max(len(collator.collate(samples, part).users.past) for part in parts) <= 60
    assert len(parts) > LOG.size * 12 / 60  # moments have 12 events behind them
