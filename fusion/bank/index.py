"""Which vector of the bank stands for every event of a log and for every item: from texts to rows, once per log."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fusion.bank.mmap_file import BankFile
from fusion.encoders.behavior_text import Template, behavior_text, item_text
from fusion.encoders.recipe import Recipe
from fusion.features.bank_index import BankIndex
from fusion.features.log import Array
from fusion.features.samples import Samples

NONE = -1  # an item of which nothing is known; the model has a vector for it


@dataclass(frozen=True, slots=True)
class LogTexts:
    """The distinct texts of a log of N events and I items, and which of them each has."""

    texts: list[str]
    event: Array  # (N,) int64, into the texts
    item: Array  # (I + 1,) int64; NONE where there is no text. Row 0 is padding, item i is row i + 1


def texts_of(samples: Samples, template: Template) -> LogTexts:
    log, catalogue = samples.named.log, samples.named.catalogue
    values, value = np.unique(log.value, return_inverse=True)  # all NaN are one
    code = (log.item.astype(np.int64) * max(len(log.actions), 1) + log.action) * max(len(values), 1) + value
    code = code[log.behaved]  # an offer is in no history: its text is never read
    distinct, event = np.unique(code, return_inverse=True)
    place: dict[str, int] = {}
    behaviors = np.empty(len(distinct), np.int64)
    for i, one in enumerate(distinct.tolist()):
        rest, v = divmod(one, len(values))
        item, action = divmod(rest, len(log.actions))
        text = behavior_text(template, log.actions[action], float(values[v]), catalogue.get(log.items[item]))
        behaviors[i] = place.setdefault(text, len(place))
    items = np.full(len(samples.named.items) + 1, NONE)
    for i, name in enumerate(samples.named.items, 1):
        text = item_text(template, catalogue.get(name))
        if text:
            items[i] = place.setdefault(text, len(place))
    read = np.full(log.size, NONE)
    read[log.behaved] = behaviors[event.ravel()]
    return LogTexts(list(place), read, items)


def with_bank(samples: Samples, recipe: Recipe, source: Callable[[list[str]], BankFile]) -> Samples:
    """The samples with their vectors. `source` gives a bank that has all of the texts handed to it."""
    found = texts_of(samples, recipe.template)
    file = source(found.texts)
    rows = np.append(file.find(recipe.keys(found.texts)), NONE)  # the last answers for NONE and for padding
    assert (rows[:-1] >= 0).all()
    index = BankIndex(file.vectors, np.append(rows[found.event], NONE), rows[found.item])
    return dataclasses.replace(samples, bank_index=index)
