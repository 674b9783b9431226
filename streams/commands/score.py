"""`interestream score`: probabilities for (user, item) pairs as of now, from an artifact and the store."""

from __future__ import annotations

import csv
import json as jsons
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interest.errors import InputError
from streams.commands.options import Store
from streams.progress import progress
from streams.settings.load import store_url

if TYPE_CHECKING:
    from fusion.serving.score import Pair

LATEST = 4_102_444_800.0  # 2100-01-01
AT_ONCE = 2000  # pairs read from the store and scored together


def score(
    artifact: Annotated[Path, typer.Argument(help="folder that `interestream train` wrote")],
    store: Store = None,
    pairs: Annotated[Path | None, typer.Option(help="CSV file with the columns user_id,item_id")] = None,
    user: Annotated[str | None, typer.Option(help="one user, with --items")] = None,
    items: Annotated[str | None, typer.Option(help="item ids, separated by commas")] = None,
    at: Annotated[
        float | None, typer.Option(help="event time of the request, epoch seconds; default: the newest stored")
    ] = None,
    llm: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|NAME",
            help="where the LLM of a BAHE artifact is now: a folder, or a fetched model; default: where it was in "
            "training",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object a line")] = False,
) -> None:
    """Score items for users: the probability of a positive, given everything the store knows of the user now."""
    wanted = _wanted(pairs, user, items)
    if at is not None and not 0 <= at < LATEST:
        raise InputError(f"--at {at:g} is no time between 1970 and 2100 in epoch seconds")
    from fusion.features.log import newest_time
    from fusion.serving.score import Scorer
    from fusion.training.artifact import load_artifact
    from interest.store.sql import read_items
    from streams.resolve.bank import llm_folder
    from streams.store.engine import open_store

    engine = open_store(store_url(store), create=False)
    model = load_artifact(artifact, llm_folder(llm) if llm else None)
    if llm and model.config.kind != "bahe":
        raise InputError(
            f"--llm {llm}: {artifact} is a {model.config.kind} model, which needs no language model; leave --llm out"
        )
    scorer = Scorer(model)
    order, told = _by_user(wanted), 0
    scores: dict[int, float] = {}  # those that wait for a pair before them in the file
    together = len(wanted) if user else AT_ONCE  # one user's items are ranked among each other
    with engine.connect() as connection, progress("Scoring", len(wanted), unit="pairs") as advance:
        moment = newest_time(connection) if at is None else at
        for start in range(0, len(order), together):
            part = order[start : start + together]
            found = scorer(connection, [wanted[i] for i in part], moment)
            scores |= zip(part, found.tolist(), strict=True)
            ready = next((i for i in range(told, len(wanted)) if i not in scores), len(wanted))
            ranked = [(*wanted[i], scores.pop(i)) for i in range(told, ready)]
            told = ready
            catalogue = {} if json else read_items(connection, {item_id for _, item_id, _ in ranked})
            for user_id, item_id, p in sorted(ranked, key=lambda row: -row[2]) if user else ranked:
                line = {"user_id": user_id, "item_id": item_id, "score": round(p, 6)}
                title = catalogue[item_id].title if item_id in catalogue else ""
                print(jsons.dumps(line) if json else f"{user_id}\t{item_id}\t{p:.4f}\t{title}".rstrip())
            advance(len(part))


def _by_user(wanted: list[Pair]) -> list[int]:
    """The pairs' numbers, each user's next to each other, so that a user's side is made once whatever their order."""
    own: dict[str, list[int]] = {}
    for number, (user_id, _) in enumerate(wanted):
        own.setdefault(user_id, []).append(number)
    return [number for numbers in own.values() for number in numbers]


def _wanted(pairs: Path | None, user: str | None, items: str | None) -> list[Pair]:
    if pairs is not None and user is None and items is None:
        return _read_pairs(pairs)
    if pairs is None and user and items and (listed := [item.strip() for item in items.split(",") if item.strip()]):
        return [(user, item) for item in listed]
    raise InputError("say what to score: either --pairs FILE, or --user U --items a,b,c")


def _read_pairs(path: Path) -> list[Pair]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if not {"user_id", "item_id"} <= set(columns):
                raise InputError(
                    f"{path} needs the columns user_id and item_id; it has: {', '.join(columns) or 'none'}"
                )
            out = []
            for row in reader:
                if not row["user_id"] or not row["item_id"]:
                    raise InputError(f"{path}, line {reader.line_num}: user_id or item_id is empty")
                out.append((row["user_id"], row["item_id"]))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    return out
