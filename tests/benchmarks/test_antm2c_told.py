"""benchmarks/rig/antm2c_told.py: names tell what a user likes in words of their own, and the optimum is computed."""

from __future__ import annotations

import numpy as np

from benchmarks.rig.antm2c_told import KNOWN, WORDS, plant_told
from fusion.training.metrics import auc


def test_the_planted_truth_is_what_the_file_says() -> None:
    told = plant_told(3, users=400)
    truth = told.planted
    kind_of = {word: kind for kind, (_, words) in WORDS.items() for word in words}
    nouns = {noun for nouns, _ in WORDS.values() for noun in nouns}
    assert not nouns & set(kind_of)
    fitting = []
    for (paid, visited, searched), likes in zip(truth.known, truth.likes, strict=True):
        names = [paid.split(",")[0], visited.rsplit(" in ", 1)[0], *searched.split("|")]
        assert len(names) in (KNOWN - 1, KNOWN)  # the same name twice is one
        fitting += [kind_of[name] in likes for name in names]
    assert 0.85 < np.mean(fitting) < 0.95
    assert {about in nouns for about in truth.about} == {True}
    assert (np.diff(truth.at) >= 0).all()


def test_the_best_that_can_be_known_is_calibrated_and_names_make_it_better() -> None:
    told = plant_told(5, users=1500)
    truth = told.planted
    first = np.unique(truth.user, return_index=True)[1]
    by_item: dict[int, set[float]] = {}
    for row in first:  # without names nothing is known of anybody then
        by_item.setdefault(int(truth.item[row]), set()).add(round(float(told.without[row]), 12))
    assert max(map(len, by_item.values())) == 1
    for best in (told.without, told.known):
        for part in np.array_split(np.argsort(best), 4):
            assert abs(truth.label[part].mean() - best[part].mean()) < 0.05
    order = [auc(truth.label, best) for best in (told.without, told.known, truth.chance)]
    assert order[0] + 0.05 < order[1] < order[2]
