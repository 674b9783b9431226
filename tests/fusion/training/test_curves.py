"""What is kept of a training run for people: the learning curve and the points of a calibration plot."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fusion.training.curves import Bin, Curves, calibration_bins, read_curves, save_curves


def test_curves_are_those_of_the_artifact_that_they_name(tmp_path: Path) -> None:
    scores, labels = np.linspace(0, 1, 40), np.arange(40) % 2
    bins = calibration_bins(labels, scores, bins=4)
    assert [one.rows for one in bins] == [10, 10, 10, 10]
    assert [one.observed for one in bins] == [0.5] * 4
    assert bins == sorted(bins, key=lambda one: one.predicted)
    save_curves(tmp_path, Curves(artifact="a1", epochs=[], calibration={"test": bins}))
    found = read_curves(tmp_path, "a1")
    assert found is not None
    assert found.calibration["test"][0] == Bin(bins[0].predicted, 0.5, 10)
    assert read_curves(tmp_path, "a2") is None
