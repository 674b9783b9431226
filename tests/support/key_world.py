"""The small world with keys: makers that group items, a spec that reads them, and behaviours as a fold takes them."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np

from fusion.features.counts import event_columns
from fusion.features.events import Events
from fusion.features.impressions import PastIndex, impressions_of
from fusion.features.keys.spec import KeyChoice
from fusion.features.keys.state import KeyedEvents
from fusion.features.keys.vectors import ItemKeys, KeyBatch, keyed_events
from fusion.features.log import Log
from fusion.features.samples import Samples, fit_samples, make_samples
from fusion.features.scenes import scene_names
from fusion.features.spec import FeatureSpec, item_table
from interest.types import Item
from tests.support.ctr_world import TASKS, catalogue, profiles

SMALL = {"recent": 2, "back": 4, "frequent": 3}  # so that random logs have more keys than are read


def scened(log: Log) -> Log:
    """Of three events the first has no scene, and the others are in two."""
    return dataclasses.replace(log, scenes=["home", "search"], scene=(np.arange(log.size) % 3 - 1).astype(np.int32))


def book(item_count: int) -> dict[str, Item]:
    """The catalogue, with a maker for every two items, and one or two players, of whom items share each with others."""
    held = catalogue(item_count)
    return {
        name: msgspec.structs.replace(item, attributes=item.attributes | _made(int(name[1:])))
        for name, item in held.items()
    }


def _made(number: int) -> dict[str, str]:
    players = {"players": "|".join(dict.fromkeys((f"p{number // 2}", f"p{number % 3}")))}
    return {"maker": f"m{number // 2}"} | players


def spec_of(log: Log, *, history: int = 5, window: int = 20_000, **changes: object) -> FeatureSpec:
    every = np.arange(log.size)
    spec = fit_samples(
        log, every, np.ones(log.size, bool), book(len(log.items)), profiles(len(log.users)),
        tasks=TASKS, history=history, min_history=1, keys=KeyChoice(("maker", "players")),
    ).spec  # fmt: skip
    assert spec.keys is not None
    return msgspec.structs.replace(
        spec, keys=msgspec.structs.replace(spec.keys, window=window, **SMALL), **changes
    )  # fmt: skip


def samples_of(spec: FeatureSpec, log: Log, rows: np.ndarray) -> Samples:
    impressions, past = impressions_of(log, rows)
    return make_samples(
        spec, log, impressions, past,
        items=log.items, catalogue=book(len(log.items)), profiles=profiles(len(log.users)),
        scenes=scene_names(log, rows),
    )  # fmt: skip


def events_of(spec: FeatureSpec, log: Log, rows: np.ndarray) -> KeyedEvents:
    """Some behaviours of a log, as a fold takes them: an item is called by its number."""
    labels = spec.label.labels(log)
    table = item_table(spec, log.items, book(len(log.items)))
    items = ItemKeys(spec, table, np.arange(-1, len(log.items)))
    own = Events(spec, log, labels, PastIndex(np.arange(log.size), log.user.astype(np.int64)))
    columns = event_columns(log, labels, spec.scale)
    scene = None if own.scene is None else own.scene[rows]
    return keyed_events(items, log.item[rows] + 1, columns[rows], own.action[rows], scene, log.at[rows])


def arrays(batch: KeyBatch) -> list[np.ndarray]:
    return [getattr(batch, name).numpy() for name in batch.__slots__]
