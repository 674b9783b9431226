"""Scenes: where an item is offered (a page, a placement, a product), as rows of the spec's vocabulary, and as slices.

The scene of an offer is known before the user answers, unlike what becomes of it. It is read where the log tells scenes
apart and no task asks for it. Who asks without naming a scene, or names one that training has not met, has the row of
the unknown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusion.features.log import Array, Log
from fusion.features.spec import UNKNOWN, FeatureSpec

SCENE = "scene_"  # how the slices of single scenes begin
MOST = 20  # scenes whose metrics are told apart: the largest by samples


def scene_names(log: Log, rows: Array) -> list[str | None]:
    """The scenes of these events (n,); None where one has none."""
    if not len(log.scene):
        return [None] * len(rows)
    return [None if number < 0 else log.scenes[number] for number in log.scene[rows].tolist()]


def offered_rows(spec: FeatureSpec, names: Sequence[str | None]) -> Array:
    """(n,) int32: the vocabulary's rows of scenes in which items are offered."""
    rows = spec.scenes.rows()
    return np.array([UNKNOWN if name is None else rows.get(name, UNKNOWN) for name in names], np.int32)


def is_unknown(spec: FeatureSpec, name: str | None) -> bool:
    """Whether a scene was named that the model makes nothing of: it met no such scene, or reads none."""
    return name is not None and not (spec.offers_scenes and name in spec.scenes.texts)


def scene_slices(log: Log, rows: Array, *, items: Array, users: Array) -> dict[str, Array]:
    """(n,) bool of the samples `rows`: those of each scene, and cold start in one. Nothing where there is one scene.

    `items` and `users` are rows of the log that training has met (fusion/features/dataset.py). new_in_scene_items:
    training has met the item, but not in the sample's scene; new_in_scene_users: the same of the user. A / in a scene's
    name is shown as |, for in the names of metrics it ends a task's; of scenes that would then read alike those with
    a / have a number behind them.
    """
    if not len(log.scene) or len(np.unique(log.scene[items])) < 2:
        return {}
    scene, many = log.scene.astype(np.int64) + 1, len(log.scenes) + 1
    own = scene[rows]
    counts = np.bincount(own, minlength=many)
    counts[0] = 0
    largest = [one for one in np.argsort(-counts, kind="stable")[:MOST] if counts[one]]
    shown = dict(zip(largest, _shown([log.scenes[one - 1] for one in largest]), strict=True))
    out = {f"{SCENE}{shown[one]}": own == one for one in sorted(largest, key=lambda one: shown[one])}
    for name, ids, met in (("items", log.item, items), ("users", log.user, users)):
        there = ids.astype(np.int64) * many + scene
        known_here = np.isin(there[rows], there[met])
        out[f"new_in_scene_{name}"] = np.isin(ids[rows], ids[met]) & ~known_here & (own > 0)
    return out


def _shown(names: Sequence[str]) -> list[str]:
    """Scenes as metrics name them, no two alike."""
    taken = {name for name in names if "/" not in name}
    out = {name: name for name in taken}
    for name in sorted(set(names) - taken):
        plain = own = name.replace("/", "|")
        number = 1
        while own in taken:
            number += 1
            own = f"{plain} ({number})"
        taken.add(own)
        out[name] = own
    return [out[name] for name in names]
