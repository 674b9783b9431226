"""Claim: items' vectors of an encoder that was tuned to the log say more of what a user will like than the base's.

    interestream tune encoder --split user --out DIR    # on the store that `benchmarks/match.py` leaves in its --work
    python benchmarks/tuned_encoder.py --encoder DIR [--seeds 1] [--data ../shared/data] [--work DIR] [--save FILE]
    python benchmarks/tuned_encoder.py --quick

ml-latest-small, split inside users; how an item reads is `{title}. {categories}`, in tuning too
(INTERESTREAM_ITEMS_TEMPLATE). Of the vectors of each encoder: the AUC of every match scalar of texts by itself, on the
training, validation and test part (a scalar that says more only of what the encoder was tuned on has learnt it by
heart), cold items of validation apart; and of LightGBM on counts and these scalars. --quick tunes for a few steps on 60
users first. Prints one JSON line last.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.match import BOOSTING, PATIENCE, ROUNDS, TEXT, Data, measure, options_of, rounded, say
from fusion.features.counts import NAMES
from fusion.features.dataset import Dataset
from fusion.features.match.features import MatchSpec
from fusion.features.splits import TEST, TRAIN, VALID
from fusion.training import metrics

PARTS = {"train": TRAIN, "valid": VALID, "test": TEST}


def main() -> None:
    chosen = options_of(__doc__).parse_args()
    torch.set_num_threads(chosen.threads)
    chosen.log, chosen.split, tuned = "ml-small", "user", chosen.encoder
    with tempfile.TemporaryDirectory() as folder:
        if chosen.quick:
            chosen.work, chosen.encoder, chosen.seeds = Path(folder), None, 1
            tuned = tune(Data(chosen, chosen.work), Path(folder) / "tuned")
        if not tuned:
            sys.exit("name the tuned encoder's folder with --encoder")
        line: dict[str, Any] = {"benchmark": "tuned_encoder", "command": "python benchmarks/tuned_encoder.py"}
        line["command"] += " --quick" if chosen.quick else f" --encoder {Path(tuned).name} --seeds {chosen.seeds}"
        for name, encoder in (("base", None), ("tuned", tuned)):
            chosen.encoder = encoder
            line[name] = told(Data(chosen, chosen.work), chosen.seeds)
            say(f"{name}: {line[name]}")
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def tune(data: Data, out: Path) -> str:
    """A few steps on the store of `data`; the tuned encoder's folder."""
    store = data.engine.url.render_as_string(hide_password=False)
    command = ["tune", "encoder", "--store", store, "--split", "user", "--quick", "--out", str(out)]
    environment = os.environ | {"INTERESTREAM_ITEMS_TEMPLATE": TEXT}
    subprocess.run([sys.executable, "-m", "streams", *command], check=True, stdout=sys.stderr, env=environment)
    return str(out)


def told(data: Data, seeds: int) -> dict[str, Any]:
    assert data.engine is not None  # encodes what is not yet
    spec = MatchSpec(parts=("text",), encoder=data.encoder_id, template=TEXT)
    dataset = data.read(spec)
    scalars = dataset.samples.dense[:, len(NAMES) : len(NAMES) + len(spec.names)]
    cold = dataset.slices["cold_items"]
    alone = {}
    for number, name in enumerate(spec.names):
        each = {}
        for part, which in PARTS.items():
            rows = dataset.of(which)
            each[part] = metrics.auc(dataset.labels[rows], scalars[rows, number])
        rows = dataset.of(VALID)[cold[dataset.of(VALID)]]
        each["valid, cold items"] = metrics.auc(dataset.labels[rows], scalars[rows, number])
        alone[name] = rounded(each)
    boosted = [fitted(dataset, seed) for seed in range(seeds)]
    mean = {
        part: {key: float(np.mean([run[part][key] for run in boosted])) for key in boosted[0][part]}
        for part in ("valid", "test")
    }
    return {"encoder": data.encoder_id, "alone": alone, "LightGBM + text": rounded(mean)}


def fitted(dataset: Dataset, seed: int) -> dict[str, dict[str, float]]:
    """LightGBM on counts and the scalars of texts, as `match.py` fits it."""
    import lightgbm

    x, y = dataset.samples.dense, dataset.labels
    training, valid = dataset.of(TRAIN), dataset.of(VALID)
    model = lightgbm.train(
        BOOSTING | {"seed": seed},
        lightgbm.Dataset(x[training], y[training]),
        ROUNDS,
        valid_sets=[lightgbm.Dataset(x[valid], y[valid])],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
    return {
        part: measure(dataset, PARTS[part], np.asarray(model.predict(x[dataset.of(PARTS[part])])))
        for part in ("valid", "test")
    }


if __name__ == "__main__":
    main()
