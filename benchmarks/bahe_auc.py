"""Claim: BAHE's AUC is not below full text's with the same trained layers, and above DIN's without text on cold items.

    python benchmarks/bahe_auc.py [--users 300] [--cut 28] [--seeds 3] [--without-counts] [--sweep] [--quick]
                                  [--save benchmarks/results/bahe_auc.json]

A sample of ML-1M (benchmarks/text/sample.py): the same users, rows and epochs, the same trained layers of the LLM, the
same head, optimiser and selection on validation for full text and BAHE. Full text is made as fast as it honestly can
be: frozen states are kept, one pass over a user's tokens serves all of the user's moments. BAHE also runs with full
text's batches, whole users, so that what batches do is told from what texts do.

A run is one system with one seed; its line and its scores are kept in benchmarks/results/bahe_auc/ and not made twice,
so the benchmark can be stopped anywhere, even inside a run, and goes on. --sweep changes one setting of BAHE at a time
and looks at the validation part alone. --without-counts takes the lifelong counts from every system's head. Differences
are of the seeds' mean AUC, paired over users (bootstrap). Prints tables of what there is and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from benchmarks.ml1m.protocol import read_rows
from benchmarks.paired import bootstrap
from benchmarks.text.cost import estimate, shape_of
from benchmarks.text.sample import HISTORY, open_sample, read_sample, repeats
from benchmarks.text.systems import (
    BAHE,
    BAHE_USERS,
    DIN,
    FULL_TEXT,
    SYSTEMS,
    TOGETHER,
    TRAIN_DIN,
    TRAIN_TEXT,
    Setting,
    World,
    execute,
    name_of,
    say,
    scores_of,
)
from fusion.bank.index import texts_of
from fusion.encoders.behavior_text import Template
from fusion.encoders.split_llm import architecture
from fusion.features.dataset import Dataset
from fusion.features.log import Array
from fusion.features.splits import TEST, TRAIN, VALID
from fusion.models.bahe.collate import BaheCollator
from fusion.training import metrics
from streams.settings.load import cache_folder, default_llm

RESULTS = Path(__file__).parent / "results" / "bahe_auc"
COLUMNS = ("auc", "gauc", "log_loss", "warm", "cold", "unseen")
CUT = 28  # of 30 layers: two are trained, and a run of full text is about 40 processor minutes, not 80
LEAST_OF_A_CLASS = 30  # under this a slice has no AUC to speak of, and resampled users may have none
CUTS = (10, 15, 20, 24, 26)


@dataclass(frozen=True, slots=True)
class Place:
    results: Path
    work: Path

    def line(self, setting: Setting, seed: int, data: str) -> dict[str, Any] | None:
        """What was kept of a run on the same data."""
        path = self.results / f"{name_of(setting, seed)}.json"
        if not path.exists():
            return None
        line: dict[str, Any] = json.loads(path.read_text())
        return line if line["data"] == data else None

    def scores(self, setting: Setting, seed: int) -> Path:
        """Of the test part: 20 kB beside the line, so that differences are told again on any machine."""
        return self.results / f"{name_of(setting, seed)}.npz"

    def tell(self, name: str, value: dict[str, Any]) -> None:
        (self.results / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.results.glob(f"{kind}-*.json"))]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--llm", type=Path, default=default_llm())
    options.add_argument("--users", type=int, default=300)
    options.add_argument("--cut", type=int, default=CUT)
    options.add_argument("--epochs", type=int, default=TRAIN_TEXT.epochs, help="of full text and BAHE")
    options.add_argument("--lr", type=float, default=TRAIN_TEXT.lr, help="of full text and BAHE")
    options.add_argument("--rate", type=float, default=TRAIN_TEXT.pretrained_rate, help="the LLM's layers' share of it")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--only", default="*", help="patterns of system/seed or sweep/setting/seed, separated by |")
    options.add_argument("--sweep", action="store_true", help="BAHE alone, one setting at a time, on validation")
    options.add_argument("--without-counts", action="store_true")
    options.add_argument("--quick", action="store_true", help="12 users, one seed, one epoch; nothing kept")
    options.add_argument("--report", action="store_true", help="run nothing; the tables of what there is")
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    if chosen.quick:
        chosen.users, chosen.seeds, chosen.epochs = 12, 1, 1
        with tempfile.TemporaryDirectory() as folder:
            run(chosen, Place(Path(folder) / "results", Path(folder)))
        return
    run(chosen, Place(RESULTS, cache_folder() / "bahe_auc"))


def run(chosen: argparse.Namespace, place: Place) -> None:
    for folder in (place.work, place.results):
        folder.mkdir(parents=True, exist_ok=True)
    rows = read_rows(chosen.data)
    engine = open_sample(rows, chosen.data, chosen.users, place.work)
    world = World(read_sample(engine), engine, chosen.llm, place.work, place.tell)
    say(f"rows: {sizes(world.dataset)}")
    wanted = [
        (name, setting, seed)
        for name, setting in settings(chosen).items()
        for seed in range(chosen.seeds)
        if any(fnmatch(f"{name}/{seed}", pattern.strip()) for pattern in chosen.only.split("|"))
    ]
    compared = [own for name, own in both(chosen).items() if name in SYSTEMS]
    waiting = [one for one in wanted if place.line(one[1], one[2], world.digest) is None]
    for number, (name, setting, seed) in enumerate([] if chosen.report else waiting, 1):
        say(f"[{number}/{len(waiting)}] {name}/{seed}")
        tested = setting in compared  # what the sweep alone looks at is not tested
        line, scores = execute(setting, seed, world, tested=tested)
        if tested:
            np.savez_compressed(place.scores(setting, seed), test=scores["test"].astype(np.float32))
        place.tell(name_of(setting, seed), rounded(line))
        say(f"  validation AUC {line['valid']['auc']:.4f}" + (f", test {line['test']['auc']:.4f}" if tested else ""))
    report(chosen, place, world, rows)
    engine.dispose()


def settings(chosen: argparse.Namespace) -> dict[str, Setting]:
    """What is run, by name: the systems, or the sweep."""
    training = msgspec.structs.replace(TRAIN_TEXT, epochs=chosen.epochs, lr=chosen.lr, pretrained_rate=chosen.rate)
    base = Setting(
        users=chosen.users, llm=chosen.llm.name, cut=chosen.cut, counts=not chosen.without_counts, training=training
    )  # fmt: skip
    if not chosen.sweep:
        din = msgspec.structs.replace(TRAIN_DIN, epochs=1) if chosen.quick else TRAIN_DIN
        own = {name: msgspec.structs.replace(base, system=name) for name in SYSTEMS}
        return own | {DIN: msgspec.structs.replace(own[DIN], cut=0, training=din)}
    changes: list[tuple[str, Any]] = [
        *(("cut", cut) for cut in CUTS),
        ("text_pooling", "last"), ("pooling", "last"), ("mask", "bidirectional"),
    ]  # fmt: skip
    trainings = [("lr", 1e-3), ("lr", 4e-3), ("pretrained_rate", 0.0), ("pretrained_rate", 0.015)]
    trainings += [("pretrained_rate", 0.15), ("unknown", 0.02)]
    out = {"sweep/default": base}
    for name, value in changes:
        out[f"sweep/{name}={value}"] = msgspec.structs.replace(base, **{name: value})
    for name, value in trainings:
        own_training = msgspec.structs.replace(training, **{name: value})
        out[f"sweep/{name}={value}"] = msgspec.structs.replace(base, training=own_training)
    return out


def report(chosen: argparse.Namespace, place: Place, world: World, rows: Any) -> None:
    dataset = world.dataset
    found = {name: lines_of(place, setting, chosen.seeds, world.digest) for name, setting in both(chosen).items()}
    means = {name: mean_of(lines) for name, lines in found.items() if lines}
    systems = {name: own for name, own in means.items() if name in SYSTEMS}
    table(systems)
    sweep = {name: own for name, own in means.items() if name.startswith("sweep/")}
    if len(sweep) > 1:
        print(f"\n{'BAHE':36}{'valid AUC':>10}{'sd':>8}{'s a sample':>12}{'seeds':>6}")
        for name, own in sweep.items():
            cost = f"{own['seconds_a_sample']:>12.4f}" if "seconds_a_sample" in own else f"{'-':>12}"
            print(
                f"{name.removeprefix('sweep/'):36}{own['valid']['auc']:>10.4f}{own['valid']['auc_sd']:>8.4f}"
                f"{cost}{own['seeds']:>6}"
            )
    tokens = lengths(dataset, chosen.llm)
    repeated = repeats(dataset, rows)
    line: dict[str, Any] = {
        "benchmark": "bahe_auc",
        "command": "python benchmarks/bahe_auc.py"
        + " --without-counts" * chosen.without_counts
        + " --quick" * chosen.quick,
        "protocol": f"ML-1M, {chosen.users} users' first {HISTORY + 1} ratings, rating >= 4, 60/10/30 inside users",
        "rows": sizes(dataset),
        "counts": not chosen.without_counts,
        "systems": systems,
        "sweep": {name.removeprefix("sweep/"): own for name, own in sweep.items()},
        "differences": differences(chosen, place, world),
        "banks": place.told("bank"),
        "tokens": place.told("tokens"),
        "repeats": repeated,
        "bank_seconds_a_training_sample": amortised(place, chosen, repeated),
        "token_seconds_a_training_sample": tokens_amortised(place, chosen, dataset),
        "estimate": estimate(
            shape_of(architecture(chosen.llm), chosen.cut, tokens["behavior"], tokens["item"]),
            together=samples_a_window(dataset), shared=len(dataset.of(TRAIN)) / len(dataset.log.users),
            behaviors_a_text=repeated["ml-1m"]["behaviors_a_text"],
        ),
        "settings": {name: msgspec.to_builtins(own) for name, own in settings(chosen).items() if name in SYSTEMS},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers")},
    }  # fmt: skip
    print(json.dumps(rounded(line)))
    if chosen.save:
        chosen.save.write_text(json.dumps(rounded(line), indent=1) + "\n")


def both(chosen: argparse.Namespace) -> dict[str, Setting]:
    """The systems and the sweep."""
    return {
        name: own
        for sweep in (False, True)
        for name, own in settings(argparse.Namespace(**vars(chosen) | {"sweep": sweep})).items()
    }


def lines_of(place: Place, setting: Setting, seeds: int, data: str) -> list[dict[str, Any]]:
    return [line for seed in range(seeds) if (line := place.line(setting, seed, data)) is not None]


def mean_of(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Over seeds; the standard deviations beside the means."""
    out: dict[str, Any] = {"seeds": len(lines)}
    for part in ("valid", "test"):
        for name in COLUMNS:
            own = [line[part][name] for line in lines if line.get(part, {}).get(name) is not None]
            if own:
                out.setdefault(part, {})[name] = float(np.mean(own))
                out[part][f"{name}_sd"] = float(np.std(own, ddof=min(1, len(own) - 1)))
    for name in ("seconds_a_sample", "scoring_seconds_a_sample", "epochs", "parameters"):
        own = [line[name] for line in lines if name in line]
        if own:
            out[name] = float(np.mean(own))
    return out


def differences(chosen: argparse.Namespace, place: Place, world: World) -> dict[str, Any]:
    """BAHE, with either batches, against the others in AUC, on the test part and its slices, by the seeds' mean AUC.

    The standard error is of users (`sd`) and of seeds.
    """
    dataset, own = world.dataset, {k: s for k, s in both(chosen).items() if k in SYSTEMS}
    scores = {}
    for name, setting in own.items():
        held = [s for s in range(chosen.seeds) if place.line(setting, s, world.digest)]
        files = [file for seed in held if (file := place.scores(setting, seed)).exists()]
        if files:
            scores[name] = scores_of(files, "test")
    out: dict[str, Any] = {}
    ours = [name for name in (BAHE, BAHE_USERS) if name in scores]
    for name, other in ((a, b) for a in ours for b in scores if a != b and (a == BAHE or b != BAHE)):
        out[f"{name} - {other}"] = by_slice(dataset, scores[name], scores[other])
    compared = [(name, out[f"{name} - {FULL_TEXT}"]["all"]) for name in ours if f"{name} - {FULL_TEXT}" in out]
    if compared:
        out["not_below_full_text"] = {name: told["mean"] >= -told["standard_error"] for name, told in compared}
    if "cold" in (against := out.get(f"{BAHE} - {DIN}", {})):
        out["above_din_on_cold_items"] = against["cold"]["mean"] > 0
    return out


def by_slice(dataset: Dataset, ours: Array, other: Array) -> dict[str, Any]:
    """What the test part and each of its slices say of two systems' scores, (S, n) each: `ours` over the `other`."""
    test = dataset.of(TEST)
    labels, users = dataset.labels[test] > 0, dataset.log.user[dataset.rows[test]]
    out: dict[str, Any] = {}
    for part, rows in {"all": np.ones(len(test), bool), **{n: own[test] for n, own in dataset.slices.items()}}.items():
        if min(labels[rows].sum(), (~labels[rows]).sum()) < LEAST_OF_A_CLASS:
            continue
        pair = ours[:, rows], other[:, rows]
        found = bootstrap(labels[rows], users[rows], *pair) | {"rows": rows.sum()}
        out[part] = found | {"standard_error": math.hypot(found["sd"], seeds_error(labels[rows], *pair))}
    return out


def seeds_error(labels: Array, ours: Array, other: Array) -> float:
    """Standard error of the difference of two means over seeds; 0 where a side has one seed, and nothing is known."""
    areas = [[metrics.auc(labels, own) for own in scores] for scores in (ours, other)]
    return math.sqrt(sum(np.var(own, ddof=1) / len(own) for own in areas if len(own) > 1))


def amortised(place: Place, chosen: argparse.Namespace, repeated: dict[str, Any]) -> dict[str, float]:
    """Seconds of bank filling for each training sample of one epoch: in the sample, and on all of ML-1M."""
    own = [bank for bank in place.told("bank") if (bank["cut"], bank["pooling"]) == (chosen.cut, "mean")]
    return {n: own[0]["seconds_a_text"] * had["texts"] / had["training_rows"] for n, had in repeated.items() if own}


def tokens_amortised(place: Place, chosen: argparse.Namespace, dataset: Dataset) -> float | None:
    """Seconds that full text's kept states took for each training sample of one epoch, in the sample."""
    own = [tokens for tokens in place.told("tokens") if tokens["cut"] == chosen.cut]
    return own[0]["seconds"] / len(dataset.of(TRAIN)) if own else None


def samples_a_window(dataset: Dataset) -> float:
    """Mean of an epoch of BAHE; the most is TOGETHER."""
    rows = dataset.of(TRAIN)
    epoch = BaheCollator(("recent",), HISTORY, TOGETHER).epoch(
        dataset.samples, rows, TRAIN_TEXT.batch_size, np.random.default_rng(0), 1
    )
    return len(rows) / sum(len(share.sizes) for shares in epoch for share in shares)


def lengths(dataset: Dataset, llm: Path) -> dict[str, float]:
    """Mean tokens of a behaviour's line and of an item's text."""
    from transformers import AutoTokenizer

    found = texts_of(dataset.samples, Template())
    read = AutoTokenizer.from_pretrained(llm, local_files_only=True)
    texts_by = {"behavior": [found.texts[text] + "\n" for text in found.event]}
    texts_by["item"] = [found.texts[text] for text in found.item[1:]]
    return {name: float(np.mean([len(ids) for ids in read(texts)["input_ids"]])) for name, texts in texts_by.items()}


def sizes(dataset: Dataset) -> dict[str, int]:
    test = dataset.of(TEST)
    cold = {f"test, {name}": int(own[test].sum()) for name, own in dataset.slices.items()}
    return (
        {"users": len(dataset.log.users)}
        | {name: len(dataset.of(part)) for name, part in (("train", TRAIN), ("valid", VALID), ("test", TEST))}
        | cold
    )


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(own) for key, own in value.items()}
    if isinstance(value, list):
        return [rounded(own) for own in value]
    if isinstance(value, np.integer | np.bool_):
        return value.item()
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.5g}")
    return value


def table(models: dict[str, Any]) -> None:
    print(f"\n{'test':26}{'valid':>8}" + "".join(f"{name:>16}" for name in COLUMNS) + f"{'s a sample':>12}{'seeds':>6}")
    for name, own in models.items():
        test = own["test"]
        cells = "".join(
            f"{test[key]:>9.4f} ± {test[f'{key}_sd']:.3f}" if key in test else f"{'-':>16}" for key in COLUMNS
        )
        cost = f"{own['seconds_a_sample']:>12.4f}" if "seconds_a_sample" in own else f"{'-':>12}"
        print(f"{name:26}{own['valid']['auc']:>8.4f}{cells}{cost}{own['seeds']:>6}")


if __name__ == "__main__":
    main()
