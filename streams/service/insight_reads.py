"""What a person's page reads of a user: who there is, overview, cards sentence by sentence, open cache, shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, Connection, RowMapping, Table, collate, func, select, text

from interest.check import evidence as claims
from interest.check.sentence_support import sentence_support
from interest.facts.counts import Facts, facts_of
from interest.facts.values import Kind, kind_of, shown
from interest.llm.protocol import Reply
from interest.store.descriptions import read_descriptions
from interest.store.sql import behavior_of, behaviors_between, behaviors_inside, read_items
from interest.store.tables import answers, behaviors, interests, items, partitions
from interest.types import Behavior, Item, Partition, Source
from interest.write.backlog import read_usual
from streams.service import insight_models as models
from streams.service.reads import require_user
from streams.store.open_rows import last_of_scenes, read_last_of_scenes, still_open
from streams.store.tables import policies
from streams.store.timeline import History, read_history, read_knowledge
from streams.store.users import user_tables
from streams.ubsp.policy import Policy, Scenes

MOST_SHOWN = 500  # behaviours of one card: a partition that only time closes may have any number
MOST_SHARED = 20_000  # behaviours that one picture of shares is made of
OTHER = "other"


def user_list(
    connection: Connection, prefix: str, after: str | None, limit: int, *, with_interests: bool
) -> models.UserList:
    """Users whose id begins so, in the order of its bytes; the one with exactly this id first."""
    table = interests if with_interests else behaviors
    found: list[str] = []
    if after is None and prefix and _known(connection, prefix):
        found.append(prefix)
    following = _in_order if _compares_bytes(connection) else _sorted
    others = following(connection, table, prefix, after, limit + 1)
    found += [one for one in others if one not in found]
    more = len(found) > limit
    rows = [
        models.UserRow(
            user_id=one,
            behaviors=_next(connection, behaviors, "seq", one),
            partitions=_count(connection, partitions, one),
            interests=_count(connection, interests, one),
        )
        for one in found[:limit]
    ]
    return models.UserList(items=rows, next=rows[-1].user_id if more and rows else None)


def _compares_bytes(connection: Connection) -> bool:
    """Whether the store compares ids by their bytes; a PostgreSQL with a language's collation does not."""
    return bool(connection.scalar(text("select 'B' < 'a'")))


def _in_order(connection: Connection, table: Table, prefix: str, after: str | None, limit: int) -> list[str]:
    """One look at the index a user."""
    found: list[str] = []
    at, strict = (prefix, False) if after is None else (after, True)
    while len(found) < limit:
        column = table.c.user_id
        beyond = column > at if strict else column >= at
        following = connection.scalar(select(func.min(column)).where(beyond))
        if following is None or not following.startswith(prefix):
            break
        found.append(following)
        at, strict = following, True
    return found


def _sorted(connection: Connection, table: Table, prefix: str, after: str | None, limit: int) -> list[str]:
    """One look at the index for every user of the store: those who begin alike are not beside each other in it."""
    column = table.c.user_id
    every = select(func.min(column).label("user_id")).cte("every", recursive=True)
    beyond = select(func.min(column)).where(column > every.c.user_id).scalar_subquery()
    every = every.union_all(select(beyond).where(every.c.user_id.is_not(None)))
    by_bytes: ColumnElement[str] = collate(every.c.user_id, "C")
    query = select(every.c.user_id).where(func.starts_with(every.c.user_id, prefix)).order_by(by_bytes).limit(limit)
    return list(connection.scalars(query if after is None else query.where(by_bytes > after)))


def _known(connection: Connection, user_id: str) -> bool:
    return any(
        connection.execute(select(table.c.user_id).where(table.c.user_id == user_id).limit(1)).first()
        for table in user_tables()
    )


def _next(connection: Connection, table: Table, column: str, user_id: str) -> int:
    """The number after the user's newest row: how many there are, as numbers begin at 0 and none is left out."""
    newest = connection.scalar(select(func.max(table.c[column])).where(table.c.user_id == user_id))
    return 0 if newest is None else int(newest) + 1


def _count(connection: Connection, table: Table, user_id: str) -> int:
    counted = select(func.count(table.c["index"].distinct())).where(table.c.user_id == user_id)
    return int(connection.scalar(counted) or 0)


def overview(connection: Connection, user_id: str) -> models.Overview:
    """Profile, counts and cost of one user."""
    require_user(connection, user_id)
    history = read_history(connection, user_id)
    ends = select(func.max(behaviors.c.seq), func.min(behaviors.c.at), func.max(behaviors.c.at))
    newest, first_at, newest_at = connection.execute(ends.where(behaviors.c.user_id == user_id)).one()
    sources = Counter(row["summary_source"] for row in history.texts.values())
    return models.Overview(
        user_id=user_id,
        profile=history.profile,
        behaviors=0 if newest is None else newest + 1,
        newest_seq=-1 if newest is None else newest,
        first_at=first_at,
        newest_at=newest_at,
        partitions=len(history.closed),
        by_llm=sources[Source.LLM],
        by_statistics=sources[Source.STATISTICS],
        prompt_version=history.prompt_version,
        closes_after=_closes_after(connection),
        cost=_cost(connection, history),
    )


def _cost(connection: Connection, history: History) -> models.Cost:
    kept = connection.scalars(select(answers.c.reply).where(answers.c.user_id == history.user_id))
    replies = [msgspec.json.decode(reply, type=Reply) for reply in kept]
    read = sum(one.size for one in history.closed if one.index in history.texts)
    return models.Cost(
        answers=len(replies),
        prompt_tokens=sum(one.prompt_tokens for one in replies),
        completion_tokens=sum(one.completion_tokens for one in replies),
        answers_per_1000_behaviors=round(1000 * len(replies) / read, 1) if read else None,
    )


def _closes_after(connection: Connection) -> int | None:
    """How many behaviours close the open cache; None where there may be several, as many as the user has scenes."""
    stored = connection.scalar(select(policies.c.policy).order_by(policies.c.generation.desc()).limit(1))
    policy = None if stored is None else msgspec.json.decode(stored, type=Policy)
    return None if policy is None or policy.scenes is Scenes.APART else policy.count


def cards(connection: Connection, user_id: str, limit: int, before: int | None) -> models.CardPage:
    """Closed partitions before an index, newest first, with their texts sentence by sentence."""
    require_user(connection, user_id)
    history = read_history(connection, user_id)
    there = [at for at, one in enumerate(history.closed) if before is None or one.index < before]
    wanted = there[-limit:]
    made = [_card(connection, history, at) for at in reversed(wanted)]
    more = bool(wanted) and wanted[0] > 0
    return models.CardPage(items=made, next=history.closed[wanted[0]].index if more else None)


def _card(connection: Connection, history: History, at: int) -> models.Card:
    one, row = history.closed[at], history.texts.get(history.closed[at].index)
    rows = behaviors_inside(connection, one, MOST_SHOWN)
    facts, catalogue = _facts(connection, history, one, rows)
    summary = shift = None
    if row is not None:
        evidence = claims.Evidence(facts)
        summary = _text(row, "summary", evidence)
        earlier = next((other for other in history.closed[:at] if other.index == one.before), None)
        if row["shift"] and earlier is not None:
            before, _ = _facts(connection, history, earlier, behaviors_inside(connection, earlier))
            shift = _text(row, "shift", claims.Evidence(facts, before))
    return models.Card(
        index=one.index,
        scene=one.scene,
        opened_at=one.opened_at,
        closed_at=one.closed_at,
        reason=one.reason.value,
        summary=summary,
        shift=shift,
        model=row["model"] if row is not None else None,
        knowledge=_knowledge(connection, row, one),
        behaviors=_shown(rows, catalogue, facts.kind),
        total=one.size,
    )


def _knowledge(connection: Connection, row: RowMapping | None, one: Partition) -> list[models.Statement]:
    stated = read_knowledge(connection, row, one) if row is not None else []
    return [models.Statement(**msgspec.structs.asdict(each)) for each in stated]


def _facts(
    connection: Connection, history: History, one: Partition, rows: Sequence[tuple[int, Behavior]]
) -> tuple[Facts, dict[str, Item]]:
    catalogue = read_items(connection, {behavior.item_id for _, behavior in rows})
    key = (history.user_id, one.index)
    return facts_of(rows, catalogue, usual=read_usual(connection, [one])[key]), catalogue


def _text(row: RowMapping, which: str, evidence: claims.Evidence) -> models.ShownText:
    accepted = msgspec.json.decode(row["evidence"], type=list[int])
    found = sentence_support(row[which], evidence, accepted)
    return models.ShownText(
        sentences=[models.Sentence(text=one.text, seqs=list(one.seqs)) for one in found],
        source=row[f"{which}_source"],
        outcome=row[f"{which}_outcome"],
    )


def _shown(rows: Sequence[tuple[int, Behavior]], catalogue: dict[str, Item], kind: Kind) -> list[models.ShownBehavior]:
    return [
        models.ShownBehavior(
            seq=seq,
            item_id=one.item_id,
            title=(item.title if (item := catalogue.get(one.item_id)) else "") or one.item_id,
            categories=list(item.categories) if item else [],
            action=one.action,
            value=one.value,
            shown=None if one.value is None else shown(one.value, kind),
            at=one.at,
        )
        for seq, one in rows
    ]


def open_cache(connection: Connection, user_id: str) -> models.OpenCache:
    """The behaviours that are in no closed partition."""
    require_user(connection, user_id)
    mine = (behaviors.c.user_id == user_id, still_open(read_last_of_scenes(connection, user_id)))
    total = connection.execute(select(func.count()).select_from(behaviors).where(*mine)).scalar_one()
    query = select(behaviors).where(*mine).order_by(behaviors.c.seq.desc()).limit(MOST_SHOWN)
    rows = [(row["seq"], behavior_of(row)) for row in connection.execute(query).mappings()][::-1]
    catalogue = read_items(connection, {one.item_id for _, one in rows})
    values = [one.value for _, one in rows if one.value is not None]
    kind = kind_of(rows[-1][1].action if rows else "", values, max(values, default=0.0))
    return models.OpenCache(
        behaviors=_shown(rows, catalogue, kind), total=total, closes_after=_closes_after(connection)
    )


def shares(connection: Connection, user_id: str, limit: int, most: int) -> models.Shares:
    """Shares of the `most` commonest categories over the newest `limit` partitions and the open cache, and of the rest.

    An item of two categories counts half in each, so that a partition's shares sum to 1.
    """
    require_user(connection, user_id)
    closed = read_history(connection, user_id).closed
    newest = _next(connection, behaviors, "seq", user_id) - 1
    least = newest + 1 - MOST_SHARED
    chosen = [one for one in closed[-limit:] if one.last_seq >= least]
    first = max(min((one.first_seq for one in chosen), default=0), least)
    rows = behaviors_between(connection, user_id, first, newest)
    catalogue = read_items(connection, {one.item_id for _, one in rows})
    labels, times = [str(one.index) for one in chosen], [one.closed_at for one in chosen]
    runs = [[one for seq, one in rows if _is_inside(seq, one, partition)] for partition in chosen]
    last = last_of_scenes(closed)
    left = [one for seq, one in rows if seq > last.get(None if None in last else one.scene or "", -1)]
    if left:
        labels, times, runs = [*labels, "open"], [*times, rows[-1][1].at], [*runs, left]
    counted = [_weights(run, catalogue) for run in runs]
    total = sum(counted, Counter[str]())
    named = [name for name, _ in sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))][:most]
    series = {name: [_share(one[name], one) for one in counted] for name in named}
    rest = [_share(sum(value for name, value in one.items() if name not in named), one) for one in counted]
    if any(rest):
        series[OTHER] = rest
    return models.Shares(labels=labels, closed_at=times, categories=series)


def _is_inside(seq: int, one: Behavior, partition: Partition) -> bool:
    own = partition.scene is None or (one.scene or "") == partition.scene
    return own and partition.first_seq <= seq <= partition.last_seq


def _weights(rows: Sequence[Behavior], catalogue: dict[str, Item]) -> Counter[str]:
    weights: Counter[str] = Counter()
    for one in rows:
        item = catalogue.get(one.item_id)
        for name in item.categories if item else ():
            weights[name] += 1 / len(item.categories)  # type: ignore[assignment, union-attr]
    return weights


def _share(weight: float, of: Counter[str]) -> float:
    total = sum(of.values())
    return round(weight / total, 4) if total else 0.0


def item_entries(connection: Connection, ids: Sequence[str]) -> models.ItemEntries:
    """Items of the catalogue, each with what a language model says of it."""
    catalogue, described = read_items(connection, ids), read_descriptions(connection, ids)
    return models.ItemEntries(
        items=[
            models.ItemEntry(
                item_id=one,
                title=item.title,
                categories=list(item.categories),
                attributes=item.attributes,
                description=models.ModelKnowledge(**msgspec.structs.asdict(described[one]))
                if one in described
                else None,
            )
            for one in dict.fromkeys(ids)
            if (item := catalogue.get(one)) is not None
        ]
    )


def candidates(connection: Connection, user_id: str, popular: Sequence[str], limit: int) -> models.Candidates:
    """The first `limit` of the items, most popular first, that the catalogue has and the user has not had."""
    require_user(connection, user_id)
    had = set(connection.scalars(select(behaviors.c.item_id).where(behaviors.c.user_id == user_id).distinct()))
    ordered = popular or connection.scalars(select(items.c.item_id).order_by(items.c.item_id).limit(limit + len(had)))
    wanted = [one for one in ordered if one not in had][:limit]
    catalogue = read_items(connection, wanted)
    made = [
        models.Candidate(item_id=one, title=item.title or one, categories=list(item.categories))
        for one in wanted
        if (item := catalogue.get(one)) is not None
    ]
    return models.Candidates(items=made)
