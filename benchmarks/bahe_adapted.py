"""Claim: an LLM that was adapted to what a log says before the test part lifts BAHE's AUC above that on its base model.

    python benchmarks/bahe_adapted.py [--users 300] [--cut 28] [--seeds 3] [--tokens 100000] [--data ../shared/data]
                                      [--adapted FOLDER] [--report] [--quick] [--save FILE]

The sample of `bahe_auc.py` (ML-1M, the first 51 ratings of 300 users). SmolLM2 is adapted (`interestream adapt`) to the
films' fields and to the training part of those users alone: the first 60 % of each, the rest of the log is not there.
Then BAHE is trained on the bank and the upper layers of either model, everything else the same, and selected on
validation. Differences are of the seeds' mean AUC, paired over users (bootstrap). --adapted takes a model that is there
already. Finished runs are kept in benchmarks/results/bahe_adapted/, by the name of the model's folder, and not made
twice. --quick: 12 users, one seed, one epoch, 2,000 tokens, nothing kept. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from benchmarks.adaptation_learning import shown, tell
from benchmarks.bahe_auc import CUT, Place, by_slice, mean_of, rounded, sizes
from benchmarks.ml1m.protocol import read_rows
from benchmarks.text.sample import open_sample, open_training_part, read_sample
from benchmarks.text.systems import TRAIN_TEXT, Setting, World, execute, name_of, say, scores_of
from fusion.adaptation.run import AdaptConfig, Source, adapt
from fusion.features.log import read_log
from interest.store.sql import read_items
from streams.commands.options import LATEST
from streams.settings.load import cache_folder, default_llm

RESULTS = Path(__file__).parent / "results" / "bahe_adapted"
BASE, ADAPTED = "base", "adapted"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--llm", type=Path, default=default_llm())
    options.add_argument("--adapted", type=Path, help="default: under the cache folder, made where it is not there")
    options.add_argument("--users", type=int, default=300)
    options.add_argument("--cut", type=int, default=CUT)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--tokens", type=int, default=100_000)
    options.add_argument("--report", action="store_true", help="run nothing; what there is")
    options.add_argument("--quick", action="store_true")
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    if chosen.quick:
        chosen.users, chosen.seeds, chosen.tokens = 12, 1, 2_000
        with tempfile.TemporaryDirectory() as folder:
            run(chosen, Place(Path(folder) / "results", Path(folder)))
        return
    run(chosen, Place(RESULTS, cache_folder() / "bahe_adapted"))


def run(chosen: argparse.Namespace, place: Place) -> None:
    for folder in (place.work, place.results):
        folder.mkdir(parents=True, exist_ok=True)
    rows = read_rows(chosen.data)
    adapted = chosen.adapted or place.work / f"adapted-{chosen.users}-{chosen.tokens}"
    if not chosen.report:
        learnt(chosen, place, rows, adapted)
    engine = open_sample(rows, chosen.data, chosen.users, place.work)
    held: dict[str, list[tuple[dict[str, Any], Path]]] = {}
    for arm, llm in ((BASE, chosen.llm), (ADAPTED, adapted)):
        world = World(read_sample(engine), engine, llm, place.work, place.tell)
        training = msgspec.structs.replace(TRAIN_TEXT, epochs=1) if chosen.quick else TRAIN_TEXT
        setting = Setting(users=chosen.users, llm=llm.name, cut=chosen.cut, counts=False, training=training)
        for seed in range(chosen.seeds):
            line = place.line(setting, seed, world.digest)
            if line is None and not chosen.report:
                say(f"{arm}, seed {seed}")
                line, tested = execute(setting, seed, world)
                line = rounded(line)
                np.savez_compressed(place.scores(setting, seed), test=tested["test"].astype(np.float32))
                place.tell(name_of(setting, seed), line)
                say(f"  validation AUC {line['valid']['auc']:.4f}, test {line['test']['auc']:.4f}")
            if line is not None:
                held.setdefault(arm, []).append((line, place.scores(setting, seed)))
    scores = [scores_of([file for _, file in held[arm]], "test") for arm in (ADAPTED, BASE) if arm in held]
    found = {
        "benchmark": "bahe_adapted",
        "command": f"python benchmarks/bahe_adapted.py --users {chosen.users} --tokens {chosen.tokens}",
        "rows": sizes(world.dataset),
        "arms": {arm: mean_of([line for line, _ in own]) for arm, own in held.items()},
        "differences": by_slice(world.dataset, *scores) if len(scores) == 2 else {},
    }
    print(json.dumps(rounded(found)))
    if chosen.save:
        chosen.save.write_text(json.dumps(rounded(found), indent=1) + "\n")
    engine.dispose()


def learnt(chosen: argparse.Namespace, place: Place, rows: Any, adapted: Path) -> None:
    """Adapt the base model to the training part, unless that is done."""
    if (adapted / "model.safetensors").exists():
        return
    engine = open_training_part(rows, chosen.data, chosen.users, place.work)
    with engine.connect() as connection:
        log, catalogue = read_log(connection), read_items(connection)
    engine.dispose()
    config = AdaptConfig(tokens=chosen.tokens, before=LATEST, noun=("film", "films"))
    if chosen.quick:
        config = msgspec.structs.replace(config, answers=8, held=5)
    adapt(
        Source(log, catalogue, "ml-1m"), chosen.llm, adapted, config, shown=shown, say=tell,
        device=torch.device("cpu"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
