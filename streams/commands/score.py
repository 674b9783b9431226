"""`interestream score`: the probability of a positive for (user, item) pairs, from an artifact and the store."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interest.errors import InputError
from streams.commands.options import Store, event_time
from streams.progress import progress
from streams.settings.load import store_url

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from fusion.serving.requests import Scored
    from fusion.training.artifact import Artifact
    from streams.client import Client
    from streams.client_answers import Scores

DAY = 86_400.0


def score(
    artifact: Annotated[
        Path | None, typer.Argument(help="The folder that `interestream train` wrote.", show_default=False)
    ] = None,
    store: Store = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="A CSV or .parquet file with the columns user_id and item_id, and scene if wanted; may be large."
        ),
    ] = None,
    user: Annotated[str | None, typer.Option(help="One user, with --items or --items-file.")] = None,
    items: Annotated[
        list[str] | None,
        typer.Option(
            help="An item id; repeat the option for more. Given once, it may be a JSON list, or ids separated by "
            "commas, unless there is an item by the whole name."
        ),
    ] = None,
    items_file: Annotated[Path | None, typer.Option(help="A file of item ids: one a line, or a JSON list.")] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Score as of this event time, e.g. 2026-01-31T12:00 (UTC) or UTC seconds; item statistics are counted "
            "up to then, from the whole log. Default: the newest in the store, with the artifact's item statistics.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the scores to this file instead: .parquet, .csv, .jsonl or .ndjson.")
    ] = None,
    llm: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|NAME",
            help="Where the LLM of a BAHE artifact is now: a folder, or a fetched model. Default: where it was in "
            "training.",
        ),
    ] = None,
    blend: Annotated[
        str | None,
        typer.Option(
            metavar="SUM",
            help="Of an artifact of several tasks: the score is this sum of theirs, such as like*0.7+watched*0.3. "
            "Default: the probability of the first task that is a yes or no.",
        ),
    ] = None,
    scene: Annotated[
        str | None,
        typer.Option(
            help="Where the items would be offered: a page, a placement. With --pairs, of the pairs whose file has no "
            "column scene, or nothing in it."
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="Ask a running `interestream serve` instead, such as http://127.0.0.1:8090: one user's items, by its "
            "artifact. Its key is read from the environment variable SERVE_KEY."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Score items for users: the probability of a positive, given what the store knows of the user.

    Pairs are printed in the file's order, one user's items best first: user, item, score, title, separated by tabs. A
    user or an item that nothing is known of is scored too, and marked: "unknown user" and "unknown item" in a fifth
    column, unknown_user and unknown_item in JSON and files. Of several tasks each has its score too: before the title
    as NAME=SCORE, in JSON as the object `tasks`, in files as columns score_NAME.
    """
    if (pairs is None) == (user is None) or (user is None) != (not items and items_file is None):
        raise InputError("say what to score: either --pairs FILE, or --user U with --items I (or --items-file FILE)")
    past = None if at is None else event_time("--at", at)
    if url is not None:
        if artifact is not None or user is None or llm is not None or out is not None or store is not None:
            raise InputError("--url scores one user's items by the service's artifact and store: give --user and items")
        _ask(url, user, _listed(items or [], items_file), past, blend, scene, json=json)
        return
    if artifact is None:
        raise InputError("give the folder of an artifact, or --url of a running service")
    from fusion.features.log import newest_time
    from fusion.features.scenes import is_unknown
    from fusion.models.registry import KINDS
    from fusion.serving.by_task import on_two_scales, parse_blend
    from fusion.serving.pair_files import open_pairs, read_item_ids
    from fusion.serving.requests import rank_items, score_pairs
    from fusion.serving.score import Scorer
    from fusion.training.artifact import load_artifact
    from streams.resolve.bank import llm_folder
    from streams.store.engine import open_store

    file = None if pairs is None else open_pairs(pairs)
    ids = [] if items_file is None else read_item_ids(items_file)
    engine = open_store(store_url(store), create=False)
    model = load_artifact(artifact, llm_folder(llm) if llm else None)
    if llm and not KINDS[model.config.kind].reads_llm:
        raise InputError(
            f"--llm {llm}: {artifact} is a {model.config.kind} model, which needs no language model; leave --llm out"
        )
    scorer = Scorer(model, as_of_request=past is not None, blend=blend)
    mixed = None if blend is None else on_two_scales(parse_blend(blend, scorer.tasks), model.spec.tasks)
    if mixed:
        print(f"warning: {mixed}", file=sys.stderr, flush=True)
    strangers = _Strangers(model)
    with engine.connect() as connection, _writing(connection, out, scorer.tasks, json=json) as write:
        moment = newest_time(connection) if past is None else past
        print(_statistics(model, moment, past=past is not None), file=sys.stderr, flush=True)
        ids += _named_items(connection, model, items or [])
        with progress("Scoring", file.rows if file else len(ids), unit="pairs") as advance:
            if file is None:
                _say_unknown(Counter({scene: len(ids)} if scene and is_unknown(model.spec, scene) else {}), model)
                write(strangers.counted(rank_items(scorer, connection, user or "", ids, moment, scene)))
                advance(len(ids))
                strangers.warn()
                return
            strange = Counter[str]()
            for block, told in file.blocks_with_scenes():
                scenes = [own or scene for own in told]
                strange.update(own for own in scenes if own is not None and is_unknown(model.spec, own))
                for page in score_pairs(scorer, connection, block, moment, scenes=scenes, advance=advance):
                    write(strangers.counted(page))
        _say_unknown(strange, model)
        strangers.warn()


class _Strangers:
    """Whether anything of what was scored is known: if not, it is likely another store, or ids of another kind."""

    def __init__(self, model: Artifact) -> None:
        self._items = frozenset(model.spec.items)
        self._first = ", ".join(model.spec.items[:3])
        self._scored, self._known_item, self._known_user = 0, False, False

    def counted(self, scored: Sequence[Scored]) -> Sequence[Scored]:
        self._scored += len(scored)
        self._known_item = self._known_item or any(one.item_id in self._items for one in scored)
        self._known_user = self._known_user or any(not one.unknown_user for one in scored)
        return scored

    def warn(self) -> None:
        if not self._scored:
            return
        if not self._known_item:
            print(
                f"warning: the artifact has met none of these items, and scores them as new ones; it has met "
                f"{len(self._items):,}, such as {self._first}. Is --store the store that it was trained on, and are "
                "these its item ids?",
                file=sys.stderr,
                flush=True,
            )
        if not self._known_user:
            print(
                "warning: the store has no behaviour of any of these users, who are scored as new ones. Is --store the "
                "store that is meant, and are these its user ids?",
                file=sys.stderr,
                flush=True,
            )


def _say_unknown(scenes: Counter[str], model: Artifact) -> None:
    """Scenes that were named and that the model makes nothing of."""
    if not scenes:
        return
    listed = ", ".join(f"{name} ({many:,})" for name, many in scenes.most_common(5))
    known = ", ".join(model.spec.scenes.texts[:10]) if model.spec.offers_scenes else ""
    why = f"the artifact knows {known}" if known else "the artifact reads no scene of an offer"
    print(f"scored as in an unknown scene: {listed}; {why}", file=sys.stderr, flush=True)


def _listed(given: Sequence[str], file: Path | None) -> list[str]:
    """Item ids without a catalogue to look at."""
    from fusion.serving.pair_files import json_list, read_item_ids

    ids = [] if file is None else read_item_ids(file)
    alone = json_list(given[0]) if len(given) == 1 else None
    return [*ids, *(given if alone is None else alone)]


def _ask(
    url: str, user: str, ids: list[str], at: float | None, blend: str | None, scene: str | None, *, json: bool
) -> None:
    """Scores by a running service, the best first."""
    import os

    import msgspec

    from streams.client import Client

    with Client(url, os.environ.get("SERVE_KEY")) as client:

        def asked(some: list[str]) -> Scores:
            return client.score(user, some, top=len(some) or None, at=at, blend=blend, scene=scene)

        found = asked(ids)
        if len(ids) == 1 and found.scores[0].unknown_item and len(several := _split(ids[0])) > 1:
            found = asked(several)  # as without --url: what no item is called is a list
        if blend is not None:
            _warn_of_scales(client, blend)
    for one in found.scores:
        if json:
            told = msgspec.to_builtins(one) | {"user_id": user, "unknown_user": found.unknown_user}
            if one.tasks is None:
                del told["tasks"]
            print(msgspec.json.encode(told).decode())
        else:
            marks = (("unknown user", found.unknown_user), ("unknown item", one.unknown_item))
            marked = ", ".join(mark for mark, holds in marks if holds)
            print(f"{user}\t{one.item_id}\t{one.score:.4f}{_by_task(one.tasks)}\t\t{marked}".rstrip())


def _warn_of_scales(client: Client, blend: str) -> None:
    """As without --url; where the key may not read what scores, nothing is said."""
    from fusion.features.tasks import parse_tasks
    from fusion.serving.by_task import on_two_scales, parse_blend
    from streams.client import ServiceError

    try:
        scoring = client.artifacts()["scoring"] or {}
    except ServiceError:
        return
    tasks = parse_tasks([f"{name}={rule}@1" for name, rule in scoring.get("tasks", {}).items()])
    if told := on_two_scales(parse_blend(blend, [task.name for task in tasks]), tasks):
        print(f"warning: {told}", file=sys.stderr, flush=True)


def _split(alone: str) -> list[str]:
    return [item.strip() for item in alone.split(",") if item.strip()]


def _named_items(connection: Connection, model: Artifact, given: Sequence[str]) -> list[str]:
    """What --items names: each as it is; one alone may be a list of them."""
    from fusion.serving.pair_files import json_list
    from interest.store.sql import read_items

    if len(given) != 1:
        return list(given)
    alone = given[0]
    listed = json_list(alone)
    if listed is not None:
        return listed
    if alone.strip() and ("," not in alone or alone in model.spec.items or read_items(connection, [alone])):
        return [alone]
    if not (several := _split(alone)):
        raise InputError(f"--items {alone!r} names no item")
    return several


def _statistics(model: Artifact, moment: float, *, past: bool) -> str:
    """Which item statistics are read, and how old they are."""
    from streams.store.timeline import format_time

    if past:
        return f"item statistics: of the store's behaviours before {format_time(moment)}"
    until = model.config.statistics_at
    if not isinstance(until, float):
        return "item statistics: the artifact's, of an age that it does not say; --at TIME counts the store's"
    days = max(0.0, (moment - until) / DAY)
    age = f"{days:,.1f} days older than the request; --at TIME counts the store's" if days >= 0.05 else "up to date"
    return f"item statistics: the artifact's, of behaviours up to {format_time(until)}, {age}"


@contextmanager
def _writing(
    connection: Connection, out: Path | None, tasks: Sequence[str], *, json: bool
) -> Iterator[Callable[[Sequence[Scored]], None]]:
    """Where scores go: a file, or standard output as JSON or text."""
    from fusion.serving.pair_files import json_line, open_scores

    if out is not None:
        with open_scores(out, tasks) as write:
            yield write
        return

    def printed(scored: Sequence[Scored]) -> None:
        for line in map(json_line, scored) if json else _text_lines(connection, scored):
            print(line)

    yield printed


def _text_lines(connection: Connection, scored: Sequence[Scored]) -> Iterator[str]:
    from interest.store.sql import read_items

    catalogue = read_items(connection, {one.item_id for one in scored})
    for one in scored:
        title = catalogue[one.item_id].title if one.item_id in catalogue else ""
        marks = (("unknown user", one.unknown_user), ("unknown item", one.unknown_item))
        marked = ", ".join(mark for mark, holds in marks if holds)
        yield f"{one.user_id}\t{one.item_id}\t{one.score:.4f}{_by_task(one.tasks)}\t{title}\t{marked}".rstrip()


def _by_task(scores: dict[str, float] | None) -> str:
    """A column, where there are several tasks."""
    return "" if scores is None else "\t" + " ".join(f"{name}={value:.4f}" for name, value in scores.items())
