"""What would be ranked first now for a user, as rows whose scores move while behaviours come in."""

from __future__ import annotations

from dataclasses import dataclass

from streams.client import ServiceError
from streams.page.api import Api, Candidate, Knowledge
from streams.page.text import attribute, isolated, number

CANDIDATES = 1000  # the items with most behaviours that the user has not had
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Ranked:
    item: Candidate
    score: float
    before: float | None  # its score when it was shown last; none: it was not among the first
    knows: Knowledge | None = None  # what a language model says of it


@dataclass(frozen=True, slots=True)
class Ranking:
    rows: tuple[Ranked, ...]
    artifact: str
    of: int  # candidates
    problem: str | None = None


async def rank(api: Api, user_id: str, last: Ranking | None) -> Ranking:
    """Score the candidates anew; where that cannot be, say why."""
    try:
        found = {one.item_id: one for one in await api.candidates(user_id, CANDIDATES)}
        if not found:
            return Ranking((), "", 0, "This user has had every item of the catalogue.")
        scored = await api.client.score(user_id, list(found), top=SHOWN)
        known = await api.knowledge([one.item_id for one in scored.scores]) if scored.scores else {}
    except ServiceError as error:
        return Ranking((), "", 0, str(error))
    before = {row.item.item_id: row.score for row in last.rows} if last else {}
    rows = [
        Ranked(found[one.item_id], one.score, before.get(one.item_id), known.get(one.item_id)) for one in scored.scores
    ]
    return Ranking(tuple(rows), scored.artifact, len(found))


def ranking_html(ranking: Ranking, *, moved: bool) -> str:
    """moved: behaviours have come since the ranking was shown first, so that changes are worth marking."""
    if ranking.problem:
        return f'<p class="faint">{isolated(ranking.problem, 600)}</p>'
    best = max(row.score for row in ranking.rows)
    rows = "".join(_row(place, row, row.score / best, moved=moved) for place, row in enumerate(ranking.rows, 1))
    said = f"the best {len(ranking.rows)} of {number(ranking.of)} items, by artifact {ranking.artifact[:8]}"
    return f'<ol class="ranked">{rows}</ol><p class="faint">{said}</p>'


def _row(place: int, row: Ranked, share: float, *, moved: bool) -> str:
    """share: of the best score, 0 to 1."""
    change = ""
    if moved and row.before is None:
        change = '<span class="move up">new</span>'
    elif moved and row.before is not None and abs(row.score - row.before) >= 5e-5:
        look, mark = ("up", "▲") if row.score > row.before else ("down", "▼")
        change = f'<span class="move {look}">{mark} {abs(row.score - row.before):.4f}</span>'
    kinds = ", ".join(row.item.categories)
    knows = ""
    if row.knows is not None:
        whole = f"What {row.knows.model} knows of it, unchecked: {row.knows.text}"
        said = f"model says: {isolated(row.knows.text, 200)}"
        knows = f'<span class="faint kinds" title="{attribute(whole, 1200)}">{said}</span>'
    return (
        f'<li data-item="{attribute(row.item.item_id, 1024)}"><span class="place">{place}</span>'
        f'<span class="what"><span class="name">{isolated(row.item.title)}</span>'
        f'<span class="faint kinds">{isolated(kinds, 60)}</span>{knows}</span>'
        f'<span class="meter" aria-hidden="true"><span style="width:{100 * share:.1f}%"></span></span>'
        f'<span class="score">{row.score:.4f}</span>{change}</li>'
    )
