"""Claim: with the user's side folded over n = 100 candidates, a candidate costs at least 30 times less than alone.

    python benchmarks/folding.py [--quick] [--history 200] [--save benchmarks/results/folding.json]

Counts FLOPs with torch's own counter and compares them with the analytic count (2 layers, width 64, L = 200: the
candidate's branch is 0.45 % of the user's), then measures milliseconds per candidate at n = 1, 10, 100 and 1000, for
one user whose state is not cached, as the minimum over repetitions. Untrained weights: nothing here depends on them.
Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from fusion.features.collate import BatchIndices
from fusion.features.impressions import impressions_at
from fusion.features.log import Log
from fusion.features.packed_windows import PackedBatch
from fusion.features.samples import make_samples
from fusion.features.spec import fit_spec
from fusion.features.tasks import Task
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import Srp4Ctr, Srp4CtrConfig
from fusion.training.processor import fast_cpu

NUMBERS = (1, 10, 100, 1000)
ITEMS, DAY = 4000, 86_400.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="20 repetitions instead of 200")
    options.add_argument("--history", type=int, default=200)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)

    length = chosen.history
    model, batches = world(length)
    counted, analytic = flops(model, batches[1]), formula(model.config.encoder, length)
    errors = {branch: counted[branch] / analytic[branch] - 1 for branch in analytic}
    repeat = 20 if chosen.quick else 200
    with fast_cpu(), torch.inference_mode():
        per_candidate = {n: fastest(lambda n=n: model(batches[n]), repeat) / n for n in NUMBERS}
        only_score = {}
        for n in NUMBERS:
            state = model.encode_user(batches[n].users, batches[n].items)
            own = batches[n]
            only_score[n] = fastest(lambda s=state, b=own: model.score(s, b.candidates, b.items), repeat) / n
    print(f"{'n':>6}{'ms a candidate':>18}{'state cached':>16}{'against n = 1':>16}")
    for n in NUMBERS:
        ratio = per_candidate[1] / per_candidate[n]
        print(f"{n:>6}{per_candidate[n]:>18.4f}{only_score[n]:>16.4f}{ratio:>15.1f}x")
    line = {
        "benchmark": "folding",
        "command": "python benchmarks/folding.py" + " --quick" * chosen.quick,
        "history": length,
        "ratio_n100": round(per_candidate[1] / per_candidate[100], 1),
        "flops_error": round(max(abs(error) for error in errors.values()), 4),
        "flops": {"counted": counted, "analytic": analytic},
        "candidate_share": round(counted["candidate"] / counted["user"], 5),
        "flops_ratio_n100": round(
            (counted["user"] + counted["candidate"]) / (counted["user"] / 100 + counted["candidate"]), 1
        ),
        "ms_per_candidate": {str(n): round(per_candidate[n], 5) for n in NUMBERS},
        "ms_per_candidate_state_cached": {str(n): round(only_score[n], 5) for n in NUMBERS},
        "threads": chosen.threads,
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def formula(config: FgBertConfig, length: int) -> dict[str, float]:
    """Multiply-adds times two, per layer: projections 2 d^2 each, attention 4 L d per row, FFN 2 * 2 * 4 d^2.

    A user's row has four projections (query, key, value, output); a candidate's two (query, output).
    """
    d, inner = config.width, config.inner
    user = length * (8 * d**2 + 4 * length * d + 4 * inner * d**2)
    candidate = 4 * d**2 + 4 * length * d + 4 * inner * d**2
    return {"user": config.layers * user, "candidate": config.layers * candidate}


def flops(model: Srp4Ctr, batch: PackedBatch) -> dict[str, float]:
    """What torch counts in the encoder's layers and in the candidate's, for one user and one candidate."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(batch)
    totals = {name: float(sum(own.values())) for name, own in counter.get_flop_counts().items()}
    layers = range(model.config.encoder.layers)
    # the encoder's modules, its keys and values included, are counted under the encoder
    parts = {
        "user": totals["Srp4Ctr.encoder"],
        "candidate": sum(totals[f"Srp4Ctr.cross.{number}"] for number in layers),
        "querying": totals["Srp4Ctr.querying"],
        "lifelong": totals["Srp4Ctr.lifelong.taste"],
    }
    return parts | {"head": totals["Srp4Ctr"] - sum(parts.values())}  # the tower, which is not called as a module


def fastest(step: Any, repeat: int) -> float:
    """Milliseconds of the fastest of `repeat` calls: what others do on the machine only ever adds."""
    step()
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - start)
    return best * 1000


def world(length: int) -> tuple[Srp4Ctr, dict[int, PackedBatch]]:
    """A model over a random catalogue, and one user with a full history who is offered n items."""
    rng = np.random.default_rng(0)
    size = length + 50
    log = Log(
        users=["u"],
        items=[str(i) for i in range(ITEMS)],
        actions=["rate"],
        starts=np.array([0, size]),
        user=np.zeros(size, np.int32),
        item=rng.permutation(ITEMS)[:size].astype(np.int32),
        action=np.zeros(size, np.int32),
        seq=np.arange(size),
        at=np.sort(rng.uniform(0, 300 * DAY, size)),
        value=rng.integers(1, 6, size).astype(np.float32),
    )
    task, train = Task.parse("value>=4"), np.ones(size, bool)
    spec = fit_spec(log, task.rule.labels(log), train, {}, {}, tasks=(task,), history=length, min_history=5)
    torch.manual_seed(0)
    model = Srp4Ctr(spec, Srp4CtrConfig(encoder=FgBertConfig(positions=length), pack=1, lifelong=True)).eval()
    batches = {}
    for n in NUMBERS:
        impressions, past = impressions_at(
            log, np.zeros(n, np.int32), rng.permutation(ITEMS)[:n].astype(np.int32), 301 * DAY
        )
        samples = make_samples(spec, log, impressions, past, items=log.items, catalogue={}, profiles={})
        batches[n] = model.collator.collate(samples, BatchIndices(np.arange(n), np.array([n])))
    return model, batches


if __name__ == "__main__":
    main()
