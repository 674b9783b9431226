"""Past behaviours as rows of embeddings: what item, and what the user made of it. Stored once, gathered per batch.

The behaviour fields are those of the FeatureSpec: action, value bucket, outcome by the label rule, whole days since the
user's behaviour before it, and the scene where the log tells scenes apart. None depends on the moment that looks, so
one encoded history serves many moments.
"""

from __future__ import annotations

import numpy as np

from fusion.features.counts import DAY
from fusion.features.impressions import PastIndex
from fusion.features.labels import UNLABELLED
from fusion.features.log import Array, Log
from fusion.features.spec import FIRST, GAP_DAYS, UNKNOWN, FeatureSpec

LABEL_ROWS = 4  # padding, unlabelled, negative, positive
GAP_ROWS = len(GAP_DAYS) + 2  # padding, then one per gap
LONGEST = GAP_DAYS[-1] + 1
BUCKET = np.append(np.searchsorted(GAP_DAYS, np.arange(LONGEST), side="right") + 1, 0).astype(np.int32)  # of days


def behavior_rows(spec: FeatureSpec) -> dict[str, int]:
    """Embedding rows of every behaviour field, by its name; `since` has one more than gaps: a first event."""
    rows = {"action": spec.actions.size, "value": spec.value_rows, "label": LABEL_ROWS, "since": GAP_ROWS + 1}
    return rows | ({"scene": spec.scenes.size} if spec.scenes.texts else {})


class Events:
    """Columns of the log's N events, each with one entry more at the end: the padding event."""

    def __init__(self, spec: FeatureSpec, log: Log, labels: Array, past: PastIndex) -> None:
        actions = spec.actions.rows()
        action = np.array([actions.get(text, UNKNOWN) for text in log.actions], np.int32)
        value = np.searchsorted(np.array(spec.value_edges), log.value.astype(np.float64), side="right") + FIRST
        self.item = _padded(log.item + 1)  # into the item table, whose row 0 is padding
        self.value = _padded(np.where(np.isnan(log.value), UNKNOWN, value))
        self.label = _padded(labels.astype(np.int32) - UNLABELLED + 1)
        self.action = _padded(action[log.action])
        self.scene: Array | None = None
        if spec.scenes.texts:
            rows = spec.scenes.rows()
            scene = np.array([*(rows.get(text, UNKNOWN) for text in log.scenes), UNKNOWN], np.int32)  # -1: the last
            self.scene = _padded(scene[log.scene] if len(log.scene) else np.full(log.size, UNKNOWN))
        self.day = np.append(log.at // DAY, 0).astype(np.int32)
        self.rows = np.append(past.rows, log.size)  # (E + 1,) the log's row of every entry of the past
        # Computed inside each run: what a moment cannot see does not change what it sees.
        new = np.append(True, past.run[1:] != past.run[:-1])[: len(past.run)]
        days = np.diff(self.day[past.rows], prepend=0)
        self.since = np.append(np.where(new, GAP_ROWS, buckets(days)), 0).astype(np.int32)  # (E + 1,)

    @property
    def nothing(self) -> int:
        """The entry that is padding."""
        return len(self.rows) - 1

    def behavior(self, entry: Array) -> Array:
        """(..., F) int32: the rows of every field of `behavior_rows`, of entries of the past."""
        row = self.rows[entry]
        fields = [self.action[row], self.value[row], self.label[row], self.since[entry]]
        return np.stack(fields if self.scene is None else [*fields, self.scene[row]], axis=-1)


def buckets(days: Array) -> Array:
    """Gap bucket of whole days; a negative gap is none."""
    return np.asarray(BUCKET[np.clip(days, 0, LONGEST - 1)])


def _padded(column: Array) -> Array:
    return np.append(column, 0).astype(np.int32)
