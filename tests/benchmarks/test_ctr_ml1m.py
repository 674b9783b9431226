"""benchmarks/ctr_ml1m.py: a paired difference outlives the scores that it came from, and not the models' settings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ctr_ml1m
from benchmarks.ml1m.runs import Run, settings_of

OURS, OTHER = "SRP4CTR, 50", "Interestream DIN, 50"
RUNS = [
    Run("user", model, 50, seed) for model, seeds in (("SRP4CTR", 2), ("Interestream DIN", 1)) for seed in range(seeds)
]


def test_a_paired_difference_is_kept_while_the_settings_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, scores = tmp_path / "results", tmp_path / "scores"
    results.mkdir()
    scores.mkdir()
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    np.savez(scores / "user.npz", labels=labels, users=np.arange(400) // 10)
    for run in RUNS:
        (results / f"{run.file}.json").write_text(json.dumps({"settings": settings_of(run)}))
        noise = 1.0 if run.model == "SRP4CTR" else 3.0
        np.savez(scores / f"{run.file}.npz", test=labels + rng.normal(size=400) * noise)

    def paired() -> dict[str, object] | None:
        return ctr_ml1m._paired("user", OURS, OTHER, tmp_path, results, RUNS)

    made = paired()
    assert made is not None
    assert made["low"] > 0  # type: ignore[operator]
    assert made["seeds"] == [[0, 1], [0]]
    (scores / f"{RUNS[1].file}.npz").unlink()  # as on another machine
    assert paired() == made
    kept = json.loads((results / "paired.json").read_text())
    kept[f"user: {OURS} - {OTHER}"]["settings"][1] = "another"
    (results / "paired.json").write_text(json.dumps(kept))
    assert paired() is None
