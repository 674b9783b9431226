"""Claim: at 50 behaviours a training step costs BAHE at least 20 times less than full text, at 100 at least 4 times
less memory, with the same trainable layers.

    python benchmarks/bahe.py [--quick] [--llm FOLDER] [--cut 15] [--save benchmarks/results/bahe.json]

Both systems train the LLM's layers above the cut, on the same users, with the same CTR head and the same optimiser
(fusion/models/bahe). Full text concatenates the behaviours' texts, tokenised together, and loses nothing of them. It is
made as fast as it honestly can be: its frozen layers have run before the clock starts and their states are kept, as are
BAHE's vectors, so that only the trained layers are paid for, over all tokens; item texts go once per distinct item.
BAHE reads one vector a behaviour from the bank. Histories of 25, 50 and 100 behaviours are about 512, 1,024 and 2,048
tokens.

Each measurement is a process of its own: seconds are the fastest of some steps, memory is the peak of the resident set
in a step beyond model and optimiser, which are the same for both (the whole process's is told too); --quick has one
step at 100, so no time there. What filling the bank costs comes on top of BAHE's steps: seconds a text, paid once for
every distinct text however many behaviours and epochs there are, and what that is for each training sample of the whole
sample log, whose repeats of a text are counted. Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fusion.bank.index import texts_of, with_bank
from fusion.bank.mmap_file import KEY, BankFile
from fusion.encoders.behavior_text import Template, behavior_text, item_text
from fusion.encoders.split_llm import LowerLayers, architecture, open_lower_layers, recipe_of
from fusion.features.collate import BatchIndices
from fusion.features.impressions import impressions_of
from fusion.features.log import Log
from fusion.features.samples import Samples, make_samples
from fusion.features.spec import fit_spec
from fusion.features.tasks import Task
from fusion.models.bahe.collate import BaheBatch
from fusion.models.bahe.model import Bahe, BaheConfig
from fusion.training.bahe import begin_with_llm
from fusion.training.processor import fast_cpu
from interest.types import Item
from streams.files.catalogue import ItemFile
from streams.files.rejects import RejectWriter
from streams.settings.load import default_llm, sample_log

HISTORIES = (25, 50, 100)
TRAINING = 0.8  # of a log's behaviours (fusion/features/splits.py)
DAY = 86_400.0
TASK = Task.parse("value>=4")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="fewer steps, at 100 behaviours one, no 25")
    options.add_argument("--llm", type=Path, default=default_llm())
    options.add_argument("--cut", type=int, help="default: half of the layers")
    options.add_argument("--batch", type=int, default=8, help="users of a step, for both; default: 8")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--tune", choices=("full", "lora"), default="full", help="how the layers above are trained")
    options.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options.add_argument("--histories", type=int, nargs="+")
    options.add_argument("--steps", type=int, help="beyond a first one; default: 2")
    options.add_argument("--save", type=Path)
    options.add_argument("--one", choices=tuple(SYSTEMS), help=argparse.SUPPRESS)  # what a child process measures
    chosen = options.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.one, chosen)))
        return
    histories = chosen.histories or ((50, 100) if chosen.quick else HISTORIES)
    found: dict[str, dict[int, dict[str, float]]] = {name: {} for name in SYSTEMS}
    print(f"{'history':>8}{'tokens':>8}{'system':>12}{'s a sample':>14}{'MB a sample':>14}")
    for history in histories:
        for name in SYSTEMS:
            steps = steps_of(chosen, history)
            own = child(name, history, steps, chosen)
            found[name][history] = own
            shown = f"{own['seconds']:>14.4f}{own['megabytes']:>14.1f}"
            print(f"{history:>8}{own['tokens']:>8.0f}{name:>12}{shown}", flush=True)
    line = {
        "benchmark": "bahe",
        "command": "python benchmarks/bahe.py" + " --quick" * chosen.quick,
        **{f"time_ratio_{m}": ratio(found, m, "seconds") for m in histories if steps_of(chosen, m)},
        **{f"memory_ratio_{m}": ratio(found, m, "megabytes") for m in histories},
        "bank": bank_cost(float(found["bahe"][histories[0]]["seconds_a_text"])),
        "measured": found,
        "llm": recipe_of(chosen.llm, chosen.cut).llm,
        "cut": recipe_of(chosen.llm, chosen.cut).cut,
        "batch": chosen.batch,
        "threads": chosen.threads,
        "precision": chosen.precision,
        "tune": chosen.tune,
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def ratio(found: dict[str, Any], history: int, what: str) -> float:
    return round(found["full-text"][history][what] / found["bahe"][history][what], 2)


def steps_of(chosen: argparse.Namespace, history: int) -> int:
    """Beyond a first one, which is slower than the others: without more there is no time to tell."""
    if chosen.steps is not None:
        return int(chosen.steps)
    if chosen.quick:
        return 1 if history == 50 else 0
    return 2


def bank_cost(seconds_a_text: float) -> dict[str, float]:
    """What the bank of the whole sample log costs: its texts are those of its ratings and of its films."""
    films, template = catalogue_of(), Template()
    rows = [line.split("\t") for line in (sample_log() / "ml-100k.inter").read_text().splitlines()[1:]]
    done = {(item, float(value)) for _, item, value, _ in rows}
    own = {behavior_text(template, "rate", value, films.get(item)) for item, value in done}
    texts = own | {text for item in films.values() if (text := item_text(template, item))}
    return {
        "seconds_a_text": round(seconds_a_text, 5),
        "texts": len(texts),
        "behaviors": len(rows),
        "behaviors_a_text": round(len(rows) / len(own), 2),
        "seconds_a_training_sample": round(seconds_a_text * len(texts) / (TRAINING * len(rows)), 5),
    }


def child(name: str, history: int, steps: int, chosen: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", name, "--histories", str(history), "--steps", str(steps)]
    command += ["--llm", str(chosen.llm), "--batch", str(chosen.batch), "--threads", str(chosen.threads)]
    command += ["--precision", chosen.precision, "--tune", chosen.tune]
    command += ["--cut", str(chosen.cut)] if chosen.cut is not None else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    own: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return own


def measure(name: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Seconds and megabytes a sample of one system at one history, in this process alone."""
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    history, batch = chosen.histories[0], chosen.batch
    model, step, told = SYSTEMS[name](history, batch, chosen)
    before = reset_peak()
    times = [timed(step)]  # before the allocator is told to keep what is freed
    peak = memory("VmHWM")
    with fast_cpu():
        times += [timed(step) for _ in range(chosen.steps)]
    trained = sum(weight.numel() for weight in model.parameters())
    return {
        "seconds": min(times) / batch,
        "megabytes": (peak - before) / batch,
        "process_megabytes": peak,
        "trained_parameters": trained,
        **told,
    }


def timed(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


System = tuple[Bahe, Callable[[], None], dict[str, Any]]


def bahe_step(history: int, batch: int, chosen: argparse.Namespace) -> System:
    model, samples, lower = world(history, batch, chosen)
    recipe = lower.recipe
    made: list[float] = []  # seconds a text

    def source(texts: list[str]) -> BankFile:
        began = time.perf_counter()
        vectors = lower(texts).astype(np.float16)
        made.append((time.perf_counter() - began) / len(texts))
        keys = np.array(recipe.keys(texts), KEY)
        order = np.argsort(keys)
        return BankFile(keys[order], vectors[order])

    samples = with_bank(samples, recipe, source)
    rows = samples_rows(samples, batch)
    tokens = sum(map(len, lower.tokens(history_texts_of(samples, model, rows)[0])))
    step = stepper(model, lambda: model.logits(model.collator.collate(samples, rows)), batch)
    assert samples.bank_index is not None
    return model, step, {"tokens": tokens, "seconds_a_text": made[0], "texts_made": len(samples.bank_index.vectors)}


def full_text_step(history: int, batch: int, chosen: argparse.Namespace) -> System:
    """The same head and trained layers, over the tokens of the whole history."""
    model, samples, lower = world(history, batch, chosen)
    samples = with_bank(samples, lower.recipe, lambda texts: nothing(lower, texts))
    rows = samples_rows(samples, batch)
    read = model.collator.collate(samples, rows)
    ids_of = lambda texts: lower._tokenizer("\n".join(texts), add_special_tokens=False)["input_ids"]  # noqa: E731
    texts = [ids_of(texts) for texts in history_texts_of(samples, model, rows)]
    users = kept_states(model, lower, texts)
    items = kept_states(model, lower, lower.tokens(item_texts(samples, model, rows)))

    def forward() -> Tensor:
        pooled = read_tokens(model, *users)[:, None]  # (G, 1, 2 d)
        # as many keys as BAHE makes of its bank; what they hold is nothing to the clock
        side = model.users_of(pooled, *model.behaviors(read, read.vectors.float()))
        made, means = read_tokens(model, *items).chunk(2, dim=1)
        offered = model.items_of(made, means, torch.ones(batch), torch.arange(batch))
        own = BaheBatch(**{name: getattr(read, name) for name in BaheBatch.__slots__} | {"target": torch.arange(batch)})
        return model.judge(side, offered, None, own)

    return model, stepper(model, forward, batch), {"tokens": len(texts[0])}


@torch.no_grad()
def kept_states(model: Bahe, lower: LowerLayers, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """States (B, T, d) float16 of token sequences after the frozen layers, padded on the right, and sizes (B,)."""
    sizes = torch.tensor([len(row) for row in rows])
    out = torch.zeros((len(rows), int(sizes.max()), lower.width), dtype=torch.float16)
    for row, own in enumerate(rows):  # one by one: what this takes of memory is no part of a step's
        with torch.autocast("cpu", torch.bfloat16, enabled=model.config.precision == "bfloat16"):
            out[row, : len(own)] = lower.states(torch.tensor([own]))[0].half()
    return out, sizes


def read_tokens(model: Bahe, states: Tensor, sizes: Tensor) -> Tensor:
    """(B, 2 d): what the trained layers make of kept states, and the states' mean."""
    pooled: Tensor = model.high(states.float(), torch.arange(states.shape[1]) < sizes[:, None])
    return pooled


def stepper(model: Bahe, forward: Callable[[], Tensor], batch: int) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()  # makes its state, which both systems hold whatever they read
    optimizer.zero_grad(set_to_none=True)
    targets = torch.arange(batch).remainder(2).float()
    model.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = forward()  # (B, heads)
        loss = F.binary_cross_entropy_with_logits(logits, targets[:, None].expand_as(logits))
        loss.backward()
        optimizer.step()

    return step


SYSTEMS = {"full-text": full_text_step, "bahe": bahe_step}


def catalogue_of() -> dict[str, Item]:
    """The sample log's films, by id."""
    path = sample_log() / "ml-100k.item"
    return {
        item.item_id: msgspec.structs.replace(item, title=f"{item.title} ({item.attributes.get('release_year', '')})")
        for items in ItemFile(path, {}).items(RejectWriter(path))
        for item in items
    }


def world(history: int, batch: int, chosen: argparse.Namespace) -> tuple[Bahe, Samples, LowerLayers]:
    """`batch` users with full histories of films of the sample log, drawn at random; titles are MovieLens's."""
    films, rng, size = catalogue_of(), np.random.default_rng(0), history + 1
    drawn = np.concatenate([rng.permutation(len(films))[:size] for _ in range(batch)])
    kept, item = np.unique(drawn, return_inverse=True)  # no other film costs a text
    names = list(films)
    catalogue = {names[k]: films[names[k]] for k in kept}
    log = Log(
        users=[str(user) for user in range(batch)],
        items=list(catalogue),
        actions=["rate"],
        starts=np.arange(batch + 1) * size,
        user=np.repeat(np.arange(batch, dtype=np.int32), size),
        item=item.astype(np.int32),
        action=np.zeros(batch * size, np.int32),
        seq=np.tile(np.arange(size), batch),
        at=np.tile(np.arange(size) * DAY, batch),
        value=rng.integers(1, 6, batch * size).astype(np.float32),
    )
    spec = fit_spec(
        log,
        TASK.rule.labels(log),
        np.ones(log.size, bool),
        catalogue,
        {},
        tasks=(TASK,),
        history=history,
        min_history=5,
    )
    impressions, past = impressions_of(log, np.arange(log.size))
    samples = make_samples(spec, log, impressions, past, items=log.items, catalogue=catalogue, profiles={})
    recipe = recipe_of(chosen.llm, chosen.cut, precision=chosen.precision)
    config = BaheConfig(
        recipe=recipe, folder=str(chosen.llm), architecture=architecture(chosen.llm), history=history,
        precision=chosen.precision, tune=chosen.tune,
    )  # fmt: skip
    model = Bahe(spec, config)
    begin_with_llm(model, config)
    return model, samples, open_lower_layers(chosen.llm, recipe, device="cpu")


def samples_rows(samples: Samples, batch: int) -> BatchIndices:
    """Every user's newest moment."""
    last = np.cumsum(np.diff(samples.named.log.starts)) - 1
    return BatchIndices(last, np.ones(batch, np.int64))


def history_texts_of(samples: Samples, model: Bahe, rows: BatchIndices) -> list[list[str]]:
    found = texts_of(samples, model.config.recipe.template)
    return [
        [found.texts[text] for text in found.event[row - model.config.history : row].tolist()]
        for row in rows.rows.tolist()
    ]


def item_texts(samples: Samples, model: Bahe, rows: BatchIndices) -> list[str]:
    found = texts_of(samples, model.config.recipe.template)
    return [found.texts[found.item[item + 1]] for item in samples.impressions.take(rows.rows).item.tolist()]


def nothing(lower: LowerLayers, texts: list[str]) -> BankFile:
    """A bank of zeros: full text reads none of it."""
    keys = np.sort(np.array(lower.recipe.keys(texts), KEY))
    return BankFile(keys, np.zeros((len(keys), lower.width), np.float16))


def reset_peak() -> float:
    """Forget the peak so far; what is resident now, MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
