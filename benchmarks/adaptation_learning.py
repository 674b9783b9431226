"""Claim: an adapted LLM knows the catalogue better than its base on what it has not read: items that are liked together
after the cut lie closer, and more of held-out items' hidden fields is recalled.

    python benchmarks/adaptation_learning.py [--log ml-100k|ml-1m] [--users 600] [--tokens 300000] [--lora RANK]
                                             [--mix KIND=SHARE,...] [--lr RATE] [--batch-size 4] [--answers 120]
                                             [--held 60] [--llm FOLDER] [--out FOLDER] [--data ../shared/data]
                                             [--save FILE] [--quick] [--speed]

The model is adapted as `interestream adapt` does it, into --out; a run that was stopped goes on, one that is finished
is only measured. --mix and --lr are that command's; without facts and sentences, for example:
`--mix item=0.3,related=0.2,history=0.15,reading=0.2,general=0.1`. ML-100K (genres; the log of `interestream fetch`) or
ML-1M's longest users with the rich catalogue.

liked together: an item's vector is the mean of the last states over its text, minus the mean of all items. For every
item, the one liked by most of the same users after the cut is ranked among 100 others drawn at random; the mean
reciprocal rank, for all items and for held-out ones. recall: of each field of a held-out item that is hidden, the share
of its words that the model writes, after two items in the same form. Both models see the same. Differences are paired
over items, with the 95 % interval of 2,000 bootstrap samples. Prints one JSON line last.

--speed trains nothing: it prints how many tokens a second of processor time the base model's passes take in float32 and
in bfloat16, in turns, on one thread, by how much their losses differ, and the process's memory after each turn.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rig.movielens import longest
from fusion.adaptation.document import Kind
from fusion.adaptation.encode import Encoded
from fusion.adaptation.items import Fields, fields_of, infill, item_text
from fusion.adaptation.learn import LearnConfig, gathered, losses
from fusion.adaptation.material import Material, divide, rows_of
from fusion.adaptation.mixture import MIX, parse_mix
from fusion.adaptation.related import similarity
from fusion.adaptation.run import AdaptConfig, Source, adapt, special_tokens
from fusion.features.log import Array, Log, read_log
from interest.errors import InputError
from interest.llm.gather import open_tokenizer
from interest.llm.transformers import load_whole
from interest.store.sql import read_items
from interest.types import Item
from interest.write.escape import Escape
from streams.files.catalogue import load_items
from streams.files.sources import SourceOptions, open_sources
from streams.progress import progress
from streams.replay.embedded import replay
from streams.settings.load import default_llm, sample_log
from streams.store.engine import open_store
from streams.ubsp.policy import Policy

OTHERS = 100
TOLD = 2  # items that stand in front of the one that is asked about
WRITTEN = 24  # tokens at most
BATCH = 16
LONGEST = 256  # tokens of an item's text


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--log", choices=("ml-100k", "ml-1m"), default="ml-100k")
    options.add_argument("--users", type=int, default=600, help="of ml-1m: those with the longest histories")
    options.add_argument("--llm", type=Path, default=default_llm())
    options.add_argument("--tokens", type=int, default=300_000)
    options.add_argument("--lora", type=int, default=0)
    options.add_argument("--mix", type=mix_of, default=MIX, help="shares of the tokens by kind of document")
    options.add_argument("--lr", type=float, help="at its peak; default: as `interestream adapt` has it")
    options.add_argument("--batch-size", type=int, default=4, help="contexts of a step")
    options.add_argument("--answers", type=int, default=120, help="of the base model's own, replayed")
    options.add_argument("--held", type=int, default=60, help="documents of a kind that perplexity is measured on")
    options.add_argument("--out", type=Path, help="where the adapted model stays; default: nowhere")
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--save", type=Path)
    options.add_argument("--quick", action="store_true", help="5,000 tokens, 100 items, fields of 25")
    options.add_argument("--speed", action="store_true", help="only how fast passes are")
    chosen = options.parse_args()
    if chosen.speed:
        print(json.dumps({"benchmark": "adaptation_learning", "speed": passes(chosen.llm)}))
        return
    with tempfile.TemporaryDirectory() as folder:
        log, catalogue = ml_1m(chosen.data, chosen.users) if chosen.log == "ml-1m" else ml_100k(Path(folder))
        out = chosen.out or Path(folder) / "adapted"
        config = AdaptConfig(
            tokens=5_000 if chosen.quick else chosen.tokens,
            answers=16 if chosen.quick else chosen.answers,
            held=10 if chosen.quick else chosen.held,
            noun=("film", "films"),
            mix=chosen.mix,
            learn=LearnConfig(batch=chosen.batch_size, rank=chosen.lora, lr=chosen.lr),
        )
        record = adapt(
            Source(log, catalogue, chosen.log), chosen.llm, out, config, shown=shown, say=tell,
            device=torch.device(chosen.device),
        )  # fmt: skip
        most = 100 if chosen.quick else 100_000
        found = {
            name: measure(path, log, catalogue, record.cut, record.seed, most, chosen.device)
            for name, path in (("base", chosen.llm), ("adapted", out))
        }
    line = {
        "benchmark": "adaptation_learning",
        "log": chosen.log,
        "tokens": sum(record.tokens.values()),
        "mix": record.mix,
        "lr": record.rate,
        "lora": record.rank,
        "perplexity": {"base": record.before, "adapted": record.after},
        **{name: compared(found["base"][name], found["adapted"][name]) for name in found["base"]},
    }
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


def passes(llm: Path, turns: int = 3) -> dict[str, Any]:
    """Forward and backward passes over four contexts of random tokens and sizes, in float32 and in bfloat16."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = load_whole(AutoModelForCausalLM, llm, dtype=torch.float32, attn_implementation="sdpa").train()
    device, rng = torch.device("cpu"), np.random.default_rng(0)
    took: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    found: dict[str, list[float]] = {name: [] for name in took}
    memory, tokens = [], []
    for _ in range(turns):
        contexts = []
        for _ in range(4):
            sizes = [int(size) for size in rng.integers(60, 170, size=3)]
            ids = [rng.integers(0, model.config.vocab_size, size).astype(np.int32) for size in sizes]
            contexts.append([Encoded(Kind.ITEM, None, one, rng.random(len(one)) < 0.5) for one in ids])
        tokens.append(sum(len(one.ids) for context in contexts for one in context))
        for name, own in took.items():
            low, began, total = name == "bfloat16", time.process_time(), 0.0
            for batch in gathered(contexts, device, low=low):
                summed, asked = losses(model, batch, low=low)
                (summed / asked).backward()
                total += float(summed.detach())
            own.append(time.process_time() - began)
            found[name].append(total)
            model.zero_grad(set_to_none=True)
        memory.append(round(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6))
    rates = {name: [round(count / each) for count, each in zip(tokens, own, strict=True)] for name, own in took.items()}
    apart = [low / whole - 1 for whole, low in zip(found["float32"], found["bfloat16"], strict=True)]
    return {"tokens_per_s": rates, "loss_apart": max(map(abs, apart)), "resident_mb": memory}


def ml_100k(folder: Path) -> tuple[Log, dict[str, Item]]:
    """The sample log through a store, as `interestream replay` reads it."""
    sample = sample_log()
    if not sample.is_dir():
        sys.exit("the sample log is not there; run `interestream fetch`")
    sources = open_sources(sample / "ml-100k.inter", sample / "ml-100k.item", None, SourceOptions())
    engine = open_store(f"sqlite:///{folder / 'store.db'}")
    assert sources.items is not None
    load_items(engine, sources.items)
    replay(engine, sources.log, Policy(count=50))
    with engine.connect() as connection:
        return read_log(connection), read_items(connection)


def mix_of(text: str) -> dict[Kind, float]:
    try:
        return parse_mix(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def ml_1m(data: Path, users: int) -> tuple[Log, dict[str, Item]]:
    """The users with the longest histories, and the catalogue with directors, casts and plots."""
    import pandas as pd

    files = [data / name for name in ("ml1m_ratings.parquet", "ml1m_movies_rich.parquet")]
    if missing := [str(path) for path in files if not path.exists()]:
        sys.exit(f"{', '.join(missing)} not there; benchmarks/README.md says which files, --data where")
    ratings, films = (pd.read_parquet(path) for path in files)
    kept = longest(ratings, users, "user_id").sort_values(["user_id", "seq"], kind="stable")
    user, user_ids = pd.factorize(kept.user_id)
    item, item_ids = pd.factorize(kept.movie_id)
    starts = np.searchsorted(user, np.arange(len(user_ids) + 1)).astype(np.int64)
    log = Log(
        users=[str(one) for one in user_ids],
        items=[str(one) for one in item_ids],
        actions=["rate"],
        starts=starts,
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        action=np.zeros(len(kept), np.int32),
        seq=(np.arange(len(kept)) - starts[user]).astype(np.int64),
        at=kept.timestamp.to_numpy(np.float64),
        value=kept.rating.to_numpy(np.float32),
    )
    named = ("director", "cast", "languages", "certificate", "plot")
    catalogue = {
        str(row["movie_id"]): Item(
            item_id=str(row["movie_id"]),
            title=row["title"],
            categories=tuple(row["genres"].split("|")),
            attributes={name: row[name] for name in named if isinstance(row[name], str) and row[name]},
        )
        for row in films.to_dict("records")
    }
    return log, catalogue


def measure(
    folder: Path, log: Log, catalogue: dict[str, Item], cut: float, seed: int, most: int, device: str
) -> dict[str, Array]:
    """By measure one figure an item (or a hidden field), in the same order for every model."""
    from transformers import AutoModelForCausalLM

    tokenizer = open_tokenizer(folder)
    model = load_whole(AutoModelForCausalLM, folder, dtype=torch.float32, attn_implementation="sdpa")
    model.train(mode=False).to(device)
    escape = Escape(special_tokens(tokenizer))
    learnt, held = divide(log, catalogue, cut, seed)
    found = liked_together(model, tokenizer, log, catalogue, set(held.catalogue), cut, escape, most)
    return found | recall(model, tokenizer, learnt, held, escape, seed, most // 4)


def liked_together(
    model: Any, tokenizer: Any, log: Log, catalogue: dict[str, Item], held: set[str], cut: float, escape: Escape,
    most: int,
) -> dict[str, Array]:  # fmt: skip
    """The reciprocal rank of the item liked together most after the cut, among OTHERS."""
    common = similarity(rows_of(log, log.at >= cut))
    known = np.array([item_id in catalogue for item_id in log.items], bool)
    rng = np.random.default_rng(0)
    anchors: list[tuple[int, int, Array]] = []
    for item in rng.permutation(np.flatnonzero(known & (np.diff(common.indptr) > 0)))[:most]:
        near = slice(common.indptr[item], common.indptr[item + 1])
        ranked = common.indices[near][np.lexsort((common.indices[near], -common.data[near]))]
        together = [int(one) for one in ranked if known[one]]
        strange = np.setdiff1d(np.flatnonzero(known), [item, *ranked])
        if together and len(strange) >= OTHERS:
            anchors.append((int(item), together[0], rng.choice(strange, OTHERS, replace=False)))
    needed = sorted({int(one) for item, right, others in anchors for one in (item, right, *others)})
    texts = [item_text(fields_of(catalogue[log.items[one]], escape)) for one in needed]
    vectors = dict(zip(needed, centred(states(model, tokenizer, texts)), strict=True))
    found: dict[str, list[float]] = {"together": [], "together_held_out": []}
    for item, right, others in anchors:
        beside = np.stack([vectors[int(one)] for one in others]) @ vectors[item]
        rank = 1 / (1 + int((beside >= vectors[right] @ vectors[item]).sum()))
        found["together"].append(rank)
        if log.items[item] in held:
            found["together_held_out"].append(rank)
    return {name: np.array(ranks) for name, ranks in found.items() if ranks}


@torch.no_grad()
def states(model: Any, tokenizer: Any, texts: Sequence[str]) -> Array:
    """(n, d): the mean of the last states over each text, the first token's left out (it is an attention sink)."""
    made = []
    device = next(model.parameters()).device
    with progress("Item vectors", len(texts), unit="items") as advance:
        for start in range(0, len(texts), BATCH):
            some = [
                tokenizer(text, add_special_tokens=False)["input_ids"][:256] for text in texts[start : start + BATCH]
            ]
            longest = max(map(len, some))
            ids = torch.tensor([own + [0] * (longest - len(own)) for own in some], device=device)
            mask = torch.tensor([[1] * len(own) + [0] * (longest - len(own)) for own in some], device=device)
            last = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
            weight = mask.clone()
            weight[:, 0] = 0
            made.append(((last * weight[..., None]).sum(1) / weight.sum(1, keepdim=True).clamp(min=1)).cpu().numpy())
            advance(len(some))
    return np.concatenate(made)


def centred(vectors: Array) -> Array:
    moved = vectors - vectors.mean(0)
    return np.asarray(moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9))


@torch.no_grad()
def recall(
    model: Any, tokenizer: Any, learnt: Material, held: Material, escape: Escape, seed: int, most: int
) -> dict[str, Array]:
    """The share of its words that is written, of every field of held-out items, hidden in turn; by field and of all."""
    rng = np.random.default_rng((seed, 9))
    known = [fields_of(item, escape) for _, item in sorted(learnt.catalogue.items())]
    asked: list[tuple[str, str, str]] = []  # field, prompt, answer
    for _, item in sorted(held.catalogue.items())[:most]:
        fields = fields_of(item, escape)
        for at, (name, answer) in enumerate(fields):
            if name == "title" or len(fields) < 2:
                continue  # nothing else says which item it is
            told = [one for one in (known[int(n)] for n in rng.integers(len(known), size=50)) if name in dict(one)][
                :TOLD
            ]
            before = "".join(f"{hidden(one, [key for key, _ in one].index(name))}{dict(one)[name]}\n\n" for one in told)
            asked.append((name, before + hidden(fields, at).rstrip(" "), answer))
    device = next(model.parameters()).device
    found: dict[str, list[float]] = {"recall": []}
    asked.sort(key=lambda one: len(one[1]))
    with progress("Hidden fields", len(asked), unit="fields") as advance:
        for start in range(0, len(asked), BATCH):
            some = asked[start : start + BATCH]
            prompts = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for _, prompt, _ in some]
            longest = max(map(len, prompts))
            ids = torch.tensor([[0] * (longest - len(own)) + own for own in prompts], device=device)
            mask = torch.tensor([[0] * (longest - len(own)) + [1] * len(own) for own in prompts], device=device)
            out = model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=WRITTEN,
                pad_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
            texts = tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
            for (name, _, answer), text in zip(some, texts, strict=True):
                right = words(answer)
                share = len(right & words(text.strip().split("\n")[0])) / max(len(right), 1)
                found["recall"].append(share)
                found.setdefault(f"recall_{name.replace(' ', '_')}", []).append(share)
            advance(len(some))
    return {name: np.array(shares) for name, shares in found.items() if shares}


def hidden(fields: Fields, at: int) -> str:
    """The item with one field blank, up to where its text is asked for."""
    whole = infill(fields, at, np.random.default_rng(0), spans=0.0)
    return "".join(piece.text for piece in whole.pieces if not piece.asked) + " "


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def compared(base: Array, adapted: Array) -> dict[str, float]:
    rng = np.random.default_rng(0)
    gap = adapted - base
    drawn = gap[rng.integers(len(gap), size=(2_000, len(gap)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    told = {"base": base.mean(), "adapted": adapted.mean(), "gain": gap.mean(), "low": low, "high": high, "n": len(gap)}
    return {name: round(float(value), 4) for name, value in told.items()}


def shown(title: str, total: int | None, unit: str, done: int) -> AbstractContextManager[Any]:
    return progress(title, total, unit=unit, done=done)


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
