"""benchmarks/rig/antm2c.py: twins look alike under other ids, new items come late, and clicks follow the chances."""

from __future__ import annotations

import numpy as np

from benchmarks.rig.antm2c import BEGIN, DAYS, LATE, SCENES, plant
from fusion.training.metrics import auc


def test_the_planted_truth_is_what_the_file_says() -> None:
    truth, again = plant(3, users=60, each=50), plant(3, users=60, each=50)
    assert (truth.label == again.label).all()
    many = len(truth.items) // len(SCENES)
    assert len(set(truth.items)) == many * len(SCENES)
    near = np.linalg.norm(truth.pictures[:many] - truth.pictures[many : 2 * many], axis=1)
    apart = np.linalg.norm(truth.pictures[:many] - np.roll(truth.pictures[:many], 1, axis=0), axis=1)
    assert near.max() < apart.min()
    assert truth.titles[:many] == truth.titles[-many:]
    offered = truth.new[truth.item]
    assert offered.any()
    assert truth.at[offered].min() > BEGIN + LATE * DAYS * 86_400
    assert {truth.scene[item] for item in truth.item[offered]} == {SCENES[-1]}
    assert auc(truth.label, truth.chance) > 0.75
    assert abs(truth.label.mean() - truth.chance.mean()) < 0.03
