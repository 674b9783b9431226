"""Item statistics for requests in the past: what everybody had done with an item by then.

An artifact keeps the statistics of the end of its training log. A request at an earlier event time must not read those:
they tell of behaviours that were still to come, the very one that is scored among them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from fusion.features.counts import ItemHistory, ItemStatistics, event_columns
from fusion.features.log import Log
from fusion.features.spec import FeatureSpec


class PastStatistics:
    """The item statistics of a whole log, to be asked for any event time, as training asks for them.

    An event counts at `at` if it had arrived strictly before, so later ones change nothing. Some 80 bytes an event.
    """

    def __init__(self, log: Log, spec: FeatureSpec) -> None:
        self._spec, self._listed = spec, set(spec.items)
        self._number = {item: number for number, item in enumerate(log.items)}
        self._history = ItemHistory(log, event_columns(log, spec.label.labels(log), spec.scale))

    def at(self, at: float, items: Sequence[str]) -> tuple[FeatureSpec, ItemStatistics]:
        """The statistics at `at` by place in the spec's items, joined by those of `items` that are new since training.

        An item that nobody had met by then joins it no more than one that is in no log.
        """
        unlisted = [item for item in dict.fromkeys(items) if item in self._number and item not in self._listed]
        met = self._before(unlisted, at).first_at < at
        new = [item for item, known in zip(unlisted, met.tolist(), strict=True) if known]
        spec = msgspec.structs.replace(self._spec, items=(*self._spec.items, *new)) if new else self._spec
        return spec, self._before(spec.items, at)

    def _before(self, items: Sequence[str], at: float) -> ItemStatistics:
        numbers = np.array([self._number.get(item, -1) for item in items], np.int64)
        found = self._history.before(np.maximum(numbers, 0), np.full(len(numbers), at))
        return found.take(np.where(numbers >= 0, np.arange(len(numbers)), -1))
