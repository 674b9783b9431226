"""Claim: plain-2's texts, and plain-3's of an adapted model, say what sets a user apart: at most a fifth are generic
or replaced; three quarters name what the user valued best, one in twenty at most calls liked what lies below the user's
mean; and plain-3's tell users apart better than statistics sentences do.

    python benchmarks/adaptation.py [--quick] [--log ml-100k|ml-1m] [--users 600] [--llm FOLDER]
        [--llm-backend int8|transformers] [--arm base] [--prompts plain-1,plain-2] [--work FOLDER]
        [--data ../shared/data] [--no-retrieval] [--report] [--save FILE]

ML-100K (fetched), partitions of 50; --quick: the first 100 ratings of 60 users. --log ml-1m: the first 100 ratings, two
partitions, of each of ML-1M's --users longest users, with directors, casts and plots in the catalogue. The LLM runs in
this process, in int8 (CTranslate2) unless told otherwise. Texts are kept in the store under --work: interrupted at any
point, the same command goes on from there; --report measures what there is. All measures are of summaries that the LLM
wrote and that were kept (`interest.review`), as `interestream review` has them; beside them, of the same partitions as
plain-2's, statistics sentences and a rich template of all facts but the user's profile and the months of the partition:
both are the same, or nearly, in a user's next partition, and would tell who it is. Differences to statistics sentences
are paired, with users resampled. `counts` is what no text about them can pass by much: the same retrievals by all
shares of categories, all their mean values, the mean value and the mean release year, as numbers. `mrr_masked` is the
retrieval by vectors of the same texts with titles masked; `titled` is the share of texts that name a title.

--arm names the model in the results: base, adapted for a model that was trained further, adapted-no-facts for one that
learnt no facts and sentences. Another model needs another --work. Prints one JSON line; --save puts the arm into the
file, as <log>.<prompt>.<arm>, beside those that are there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine, func, select

from benchmarks.rig.movielens import RICH, longest, read_movielens
from fusion.encoders.sentence import open_encoder
from fusion.interests.retrieval import encode, retrieve_next
from fusion.interests.text_vectors import Encoder
from fusion.worth.texts import Texts, Write, statistics, template
from interest.facts.among_others import Measure
from interest.facts.counts import Facts
from interest.llm.gather import fingerprint
from interest.llm.int8 import Int8Model
from interest.llm.local import LocalModel
from interest.llm.protocol import Complete
from interest.review.measures import masked, measure
from interest.review.report import company_of, review, share_of, strangers, trials_of
from interest.review.specificity import CANDIDATES, Array, Clue, groups_of, identify, told_of
from interest.review.texts import ReviewedText, read_texts
from interest.store.tables import interests, partitions
from interest.write.backfill import learn
from interest.write.backlog import Plan, Work, count_open
from interest.write.prompts import Style
from interest.write.rates import freeze_rates, with_rates
from streams.fetch.int8 import int8_weights
from streams.files.catalogue import ItemFile, UserFile, load_items, load_users
from streams.files.rows import BehaviorLog, LogOptions
from streams.progress import progress
from streams.replay.embedded import replay
from streams.settings.load import cache_folder, default_encoder, default_llm, sample_log
from streams.store.engine import open_store
from streams.store.text_review import read_cost
from streams.ubsp.policy import Policy

STYLE = Style(noun=("film", "films"))
K = 50
QUICK_USERS, FIRST_PARTITIONS = 60, 2
Say = Callable[[ReviewedText], str]
Hits = dict[str, list[float]]  # of each user's texts
REPEATS = 2000  # of the bootstrap
MOST = 10**9  # all texts


def of_taste_alone(work: Work, style: Style) -> Texts:
    """The template without the profile and the months."""
    evidence = replace(work.evidence, facts=replace(work.evidence.facts, profile={}))
    told = template(replace(work, evidence=evidence), style)
    return told._replace(summary=told.summary.replace(f" in {evidence.facts.period}.", ".", 1))


BESIDE: dict[str, Write] = {"statistics": statistics, "template": of_taste_alone}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="120 partitions")
    options.add_argument("--log", choices=("ml-100k", "ml-1m"), default="ml-100k")
    options.add_argument("--users", type=int, default=600, help="of ml-1m: those with the longest histories")
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--llm", type=Path, default=default_llm())
    options.add_argument("--llm-backend", choices=("int8", "transformers"), default="int8")
    options.add_argument("--arm", default="base", help="what the model is called in the results")
    options.add_argument("--prompts", default="plain-1,plain-2")
    options.add_argument("--work", type=Path, default=cache_folder() / "adaptation")
    options.add_argument("--no-retrieval", action="store_true", help="without the text encoder")
    options.add_argument("--report", action="store_true", help="write no texts")
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    if chosen.log == "ml-1m":
        store = open_longest(chosen.work, chosen.data, QUICK_USERS if chosen.quick else chosen.users)
    else:
        store = open_sample(chosen.work, quick=chosen.quick)
    model: Int8Model | LocalModel | None = None
    if not chosen.report:
        whole = chosen.llm_backend == "transformers"
        model = LocalModel(chosen.llm) if whole else Int8Model(chosen.llm, int8_weights(chosen.llm, say=say))
    name = model.name if model else only_model(store, chosen.llm)
    encoder = None if chosen.no_retrieval else open_encoder(default_encoder())
    found: dict[str, Any] = {}
    for family in chosen.prompts.split(","):
        version, rates = with_rates(store, family, freeze_new=freeze_rates)
        plan = Plan(prompt_version=version, rates=rates, style=STYLE)
        if model is not None:
            write(store, plan, model, name)
        arm = {"model": name, "partitions": closed(store)} | measured(store, version, name, encoder)
        found[family] = {chosen.arm: arm}
    store.dispose()
    line = {"benchmark": "adaptation", f"{chosen.log}{'-quick' * chosen.quick}": found}
    print(json.dumps(line))
    if chosen.save:
        held = json.loads(chosen.save.read_text()) if chosen.save.exists() else {}
        chosen.save.write_text(json.dumps(beside(held, line), indent=1) + "\n")


def beside(held: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What is held, down to <log>.<prompt>.<arm>, with what is new in its place."""
    if "texts" in new:  # an arm's own figures are of one run
        return new
    merged = dict(held)
    for name, value in new.items():
        merged[name] = beside(merged.get(name) or {}, value) if isinstance(value, dict) else value
    return merged


def open_sample(work: Path, *, quick: bool) -> Engine:
    """The store of the sample's closed partitions, filled once."""
    work.mkdir(parents=True, exist_ok=True)
    store = open_store(f"sqlite:///{work / ('quick.db' if quick else 'full.db')}")
    folder, log = sample_log(), sample_log() / "ml-100k.inter"
    if quick:
        log = work / "quick.inter"
        if not log.exists():
            log.write_text("\n".join(first_rows(folder / "ml-100k.inter")) + "\n")
    load_items(store, ItemFile(folder / "ml-100k.item", {}))
    load_users(store, UserFile(folder / "ml-100k.user", {}))
    replay(store, BehaviorLog(log, {}, LogOptions(action="rate")), Policy(count=K))
    return store


def open_longest(work: Path, data: Path, users: int) -> Engine:
    """The store of the first ratings of ML-1M's longest users, filled once."""
    work.mkdir(parents=True, exist_ok=True)
    store = open_store(f"sqlite:///{work / f'ml-1m-{users}.db'}")
    log = work / f"ml-1m-{users}.csv"
    if not log.exists():
        ratings, _ = read_movielens("ml-1m", data)
        first = longest(ratings, users).groupby("user").head(K * FIRST_PARTITIONS)
        names = {"user": "user_id", "film": "item_id", "timestamp": "timestamp", "rating": "rating"}
        first[list(names)].rename(columns=names).to_csv(log, index=False)
    load_items(store, ItemFile(data / RICH, {}))
    replay(store, BehaviorLog(log, {}, LogOptions(action="rate")), Policy(count=K))
    return store


def first_rows(file: Path) -> list[str]:
    """The head, and the first ratings of users drawn by a hash of their ids among those with enough of them."""
    head, *lines = file.read_text().splitlines()
    by_user: dict[str, list[list[str]]] = {}
    for line in lines:
        by_user.setdefault(line.split("\t")[0], []).append(line.split("\t"))
    size = K * FIRST_PARTITIONS
    there = [user for user, rows in by_user.items() if len(rows) >= size]
    drawn = sorted(there, key=lambda user: hashlib.sha256(user.encode()).digest())[:QUICK_USERS]
    kept = [row for user in drawn for row in sorted(by_user[user], key=lambda row: (float(row[3]), row[1]))[:size]]
    return [head, *("\t".join(row) for row in kept)]


def closed(store: Engine) -> int:
    with store.connect() as connection:
        return connection.scalar(select(func.count()).select_from(partitions)) or 0


def only_model(store: Engine, folder: Path) -> str:
    """The model of the texts that are there; of several that of the checkpoint in `folder`."""
    with store.connect() as connection:
        names = list(connection.scalars(select(interests.c.model).distinct().order_by(interests.c.model)))
    if not names:
        sys.exit("--report: no texts are there yet; leave it out, and they are written")
    of_folder = [name for name in names if name.startswith(f"{folder.name}:{fingerprint(folder)}:")]
    if len(names) > 1 and len(of_folder) != 1:
        sys.exit(f"--report: the texts are of {', '.join(names)}; name the checkpoint of one by --llm")
    return str((of_folder or names)[0])


def write(store: Engine, plan: Plan, model: Complete, name: str) -> None:
    """Write what is missing of a version's texts."""
    left, total = count_open(store, plan, llm=True), closed(store)
    with progress(f"Writing by {plan.prompt_version}", total, unit="partitions", done=total - left) as advance:
        learn(store, model, model=name, plan=plan, advance=advance)


def measured(store: Engine, version: str, name: str, encoder: Encoder | None) -> dict[str, Any]:
    """The measures of one version's kept texts, and of what may stand in their place."""
    with store.connect() as connection:
        texts = read_texts(connection, version, name, 0, MOST, style=STYLE)
        cost = read_cost(connection, version, name, 0)
    if not texts:
        sys.exit(f"the store's texts by {version} are another model's than {name}; name another folder by --work")
    kept = [text for text in texts if text.kept]

    def begin(title: str, count: int) -> AbstractContextManager[Callable[[int], None]]:
        return progress(title, count, unit="texts")

    found = review(texts, prompt_version=version, model=name, style=STYLE, cost=cost, begin=begin)
    row: dict[str, Any] = {
        field: getattr(found, field)
        for field in ("texts", "kept", "generic", "coverage", "contradictions", "supported", "replaced", "distinct")
    }
    named = [masked(text.interest.summary, text.evidence) != text.interest.summary for text in kept]
    row["titled"] = share_of(named)
    row["calls_per_1000"] = cost.summary_calls_per_1000 if cost else None
    row["shift_calls_per_1000"] = cost.shift_calls_per_1000 if cost else None
    row["outcomes"] = found.outcomes
    row["shifts"] = dict(
        sorted(Counter(text.interest.shift_outcome.value for text in texts if text.interest.shift).items())
    )
    ours = tells_apart(kept, lambda text: text.interest.summary, encoder)
    others = {beside: tells_apart(kept, _written(write), encoder) for beside, write in BESIDE.items()}
    for name_of, hits in ours.items():
        row[name_of] = round(_mean(hits), 4)
        if not name_of.endswith("of_chance"):
            row[f"{name_of}_over_statistics"] = paired(hits, others["statistics"][name_of])
    row["beside"] = {}
    for beside, write in BESIDE.items():
        with begin(f"Measuring what {beside} would say", len(kept)) as advance:
            held = held_against(kept, texts, _written(write), advance)
        row["beside"][beside] = {each: round(_mean(hits), 4) for each, hits in others[beside].items()} | held
    row["beside"]["counts"] = {each: round(_mean(hits), 4) for each, hits in by_counts(kept).items()}
    return row


def _written(write: Write) -> Say:
    return lambda text: write(text.work, STYLE).summary


def tells_apart(kept: Sequence[ReviewedText], say_of: Say, encoder: Encoder | None) -> dict[str, Hits]:
    """Specificity and reciprocal ranks of what is said about each partition, by user."""
    found: dict[str, Hits] = {}
    if (named := identify(trials_of(kept, say_of))) is not None:
        found["specificity"] = named.hits
    places = [(text.interest.user_id, text.ordinal) for text in kept]
    for name, say in (("mrr", say_of), ("mrr_masked", lambda text: masked(say_of(text), text.evidence))):
        if encoder is None or not kept:
            continue
        vectors = encode(encoder, [say(text) for text in kept])
        ranked = retrieve_next([user for user, _ in places], [index for _, index in places], vectors)
        if ranked is not None:
            found[name] = ranked.ranks
            found["mrr_of_chance"] = {"all": [ranked.chance]}
    if named is not None:
        found["specificity_of_chance"] = {"all": [named.chance]}
    return found


def by_counts(kept: Sequence[ReviewedText]) -> dict[str, Hits]:
    """Specificity and reciprocal ranks where the reader has all counts of partition k, in place of a text about it."""
    if not kept:
        return {}
    names = sorted({one.name for text in kept for one in text.evidence.facts.categories})
    own = {(text.interest.user_id, text.ordinal): _numbers(text.evidence.facts, names) for text in kept}
    found: dict[str, Hits] = {"specificity": {}}
    for group in groups_of(trials_of(kept, lambda text: text.interest.summary), CANDIDATES):
        told = standardised(np.stack([own[trial.user_id, trial.ordinal] for trial in group]))
        after = standardised(np.stack([_numbers(trial.after, names) for trial in group]))
        alike = told @ after.T
        for trial, row in zip(group, alike - np.diag(alike)[:, None], strict=True):
            found["specificity"].setdefault(trial.user_id, []).append(float(row.max() <= 0))
    users, indices = zip(*own, strict=True)
    ranked = retrieve_next(users, indices, standardised(np.stack(list(own.values()))).astype(np.float32))
    return found if ranked is None else found | {"mrr": ranked.ranks}


def _numbers(facts: Facts, names: Sequence[str]) -> Array:
    """(2 C + 2,): each category's share, its mean value against the user's, and what is compared of whole partitions,
    as the reader of texts has them.
    """
    clues = [Clue(name, 1) for name in names]
    whole = [told_of(facts, Clue(measure.name, 1, measure=measure), valued=False) for measure in Measure]
    return np.array([told_of(facts, clue, valued) for valued in (False, True) for clue in clues] + whole)


def standardised(table: Array) -> Array:
    """(N, C), each column to mean 0 and deviation 1; what is not known to 0."""
    known = ~np.isnan(table)
    means = np.where(known, table, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    table = np.where(known, table, means)
    spread = table.std(axis=0)
    return np.asarray((table - table.mean(axis=0)) / np.where(spread > 1e-12, spread, 1.0))


def held_against(
    kept: Sequence[ReviewedText], texts: Sequence[ReviewedText], say_of: Say, advance: Callable[[int], None]
) -> dict[str, float | None]:
    """Generic share, coverage and contradictions of what is said about the same partitions."""
    others, rows = strangers(texts), []
    for text in kept:
        rows.append(measure(say_of(text), text.evidence, company_of(text.interest.user_id, others)))
        advance(1)
    return {
        "generic": share_of([row.generic for row in rows]),
        "coverage": share_of([row.covers for row in rows]),
        "contradictions": share_of([bool(row.contradicts) for row in rows]),
    }


def paired(ours: Hits, theirs: Hits) -> dict[str, float]:
    """The mean difference over texts and its 95 % interval, users resampled."""
    users = sorted(set(ours) & set(theirs))
    gaps = np.array([sum(ours[user]) - sum(theirs[user]) for user in users])
    sizes = np.array([len(ours[user]) for user in users])
    drawn = np.random.default_rng(0).integers(len(users), size=(REPEATS, len(users)))  # (R, U)
    means = gaps[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "mean": round(float(gaps.sum() / sizes.sum()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def _mean(hits: Hits) -> float:
    return float(np.mean([hit for own in hits.values() for hit in own]))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
