"""`interestream score`: the probability of a positive for (user, item) pairs, from an artifact and the store."""

from __future__ import annotations

import json as jsons
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interest.errors import InputError
from streams.commands.options import Store
from streams.progress import progress
from streams.settings.load import store_url

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from fusion.serving.requests import Scored

LATEST = 4_102_444_800.0  # 2100-01-01


def score(
    artifact: Annotated[Path, typer.Argument(help="The folder that `interestream train` wrote.")],
    store: Store = None,
    pairs: Annotated[Path | None, typer.Option(help="CSV file with the columns user_id and item_id.")] = None,
    user: Annotated[str | None, typer.Option(help="One user, with --items.")] = None,
    items: Annotated[str | None, typer.Option(help="Item ids, separated by commas.")] = None,
    at: Annotated[
        float | None, typer.Option(help="Event time of the request, epoch seconds. Default: the newest in the store.")
    ] = None,
    llm: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|NAME",
            help="Where the LLM of a BAHE artifact is now: a folder, or a fetched model. Default: where it was in "
            "training.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Score items for users: the probability of a positive, given what the store knows of the user."""
    listed = [item.strip() for item in (items or "").split(",") if item.strip()]
    if (pairs is None) == (user is None) or (user is None) != (not listed):
        raise InputError("say what to score: either --pairs FILE, or --user U --items a,b,c")
    if at is not None and not 0 <= at < LATEST:
        raise InputError(f"--at {at:g} is not a time between 1970 and 2100 in epoch seconds")
    from fusion.features.log import newest_time
    from fusion.models.registry import KINDS
    from fusion.serving.pair_files import read_pairs
    from fusion.serving.requests import rank_items, score_pairs
    from fusion.serving.score import Scorer
    from fusion.training.artifact import load_artifact
    from streams.resolve.bank import llm_folder
    from streams.store.engine import open_store

    wanted = read_pairs(pairs) if pairs is not None else []
    engine = open_store(store_url(store), create=False)
    model = load_artifact(artifact, llm_folder(llm) if llm else None)
    if llm and not KINDS[model.config.kind].reads_llm:
        raise InputError(
            f"--llm {llm}: {artifact} is a {model.config.kind} model, which needs no language model; leave --llm out"
        )
    scorer = Scorer(model)
    with engine.connect() as connection:
        moment = newest_time(connection) if at is None else at
        with progress("Scoring", len(wanted) or len(listed), unit="pairs") as advance:
            if user is None:
                for page in score_pairs(scorer, connection, wanted, moment, advance=advance):
                    _print(connection, page, json=json)
            else:
                _print(connection, rank_items(scorer, connection, user, listed, moment), json=json)
                advance(len(listed))


def _print(connection: Connection, scored: list[Scored], *, json: bool) -> None:
    for line in _json_lines(scored) if json else _text_lines(connection, scored):
        print(line)


def _json_lines(scored: list[Scored]) -> Iterator[str]:
    for one in scored:
        yield jsons.dumps({"user_id": one.user_id, "item_id": one.item_id, "score": round(one.score, 6)})


def _text_lines(connection: Connection, scored: list[Scored]) -> Iterator[str]:
    from interest.store.sql import read_items

    catalogue = read_items(connection, {one.item_id for one in scored})
    for one in scored:
        title = catalogue[one.item_id].title if one.item_id in catalogue else ""
        yield f"{one.user_id}\t{one.item_id}\t{one.score:.4f}\t{title}".rstrip()
