"""The review as pages to read: HTML with a table and the worst examples, and Markdown with texts beside behaviours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from interest.facts.counts import Title
from interest.facts.groups import best_group, worst_valued
from interest.facts.support import support_of
from interest.facts.values import shown
from interest.review.report import Review
from interest.review.texts import ReviewedText

SHOWN = 60  # behaviours beside a text; partitions closed by span or gap may have thousands

MEASURES: tuple[tuple[str, str, str], ...] = (  # field, what it is called, what it means
    ("texts", "summaries", "reviewed"),
    ("kept", "kept", "written by the LLM and kept: what is measured below"),
    ("replaced", "replaced", "asked of the LLM, and a statistics sentence stands there"),
    ("distinct", "distinct", "different texts, of the kept"),
    ("patterns", "in three patterns", "titles, categories and numbers masked"),
    ("generic", "generic", "every claim holds for a third of other users"),
    ("coverage", "coverage", "name the category that this user valued best"),
    ("contradictions", "contradictions", "call liked what lies below the user's mean"),
    ("with_title", "with a title", "name a title of the partition"),
    ("words", "words", "median"),
    ("supported", "supported", "claims, before cutting"),
)


def cell(review: Review, field: str) -> str:
    """A measure as people read it: 12.3 %, 1,204, -."""
    value = getattr(review, field)
    if value is None:
        return "-"
    return f"{value:,.0f}" if field in ("texts", "kept", "words") else f"{100 * value:.1f} %"


def more_cells(review: Review) -> Iterator[tuple[str, str, str]]:
    """Name, value and meaning of the measures that have parts."""
    if (found := review.specificity) is not None:
        note = f"the text finds its user's next partition; statistics sentences {100 * found.statistics:.1f} %, chance "
        yield (
            "specificity",
            f"{100 * found.accuracy:.1f} %",
            note + f"{100 * found.chance:.1f} %, {found.texts:,} texts",
        )
    if (ranked := review.retrieval) is not None:
        note = f"mean reciprocal rank of the next text by vectors; chance {ranked.chance:.3f}, {ranked.texts:,} texts"
        yield "retrieval", f"{ranked.mrr:.3f}", note
    if (cost := review.cost) is not None:
        yield "calls", f"{cost.calls:,}", f"{cost.tokens:,} tokens, {cost.seconds:,.0f} s"
        if cost.summary_calls_per_1000 is not None:
            note = f"behaviours, for summaries; {cost.shift_calls_per_1000:.1f} for shifts"
            yield "calls per 1,000", f"{cost.summary_calls_per_1000:.1f}", note


def endings(review: Review) -> Iterator[tuple[str, str]]:
    """How the texts ended: of summaries, and of shifts where there are some."""
    for name, outcomes in (("outcomes", review.outcomes), ("shifts", review.shift_outcomes)):
        if outcomes:
            yield name, ", ".join(f"{outcome} {count:,}" for outcome, count in outcomes.items())


def html_page(reviews: Sequence[Review], title: str = "Review of interest texts") -> str:
    """One page that stands alone. Everything from the store is escaped."""
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>",
    ]
    for review in reviews:
        parts.append(f"<h2>{escape(review.prompt_version)} by {escape(review.model)}, {escape(review.language)}</h2>")
        rows = [(name, cell(review, field), note) for field, name, note in MEASURES]
        rows += more_cells(review)
        rows += [(name, "", told) for name, told in endings(review)]
        body = "".join(f"<tr><th>{escape(a)}</th><td>{escape(b)}</td><td>{escape(c)}</td></tr>" for a, b, c in rows)
        parts.append(f"<table>{body}</table>")
        if review.worst:
            parts.append("<h3>Worst examples</h3><ol>")
            for one in review.worst:
                faults = "; ".join(one.faults)
                where = f"{one.user_id}#{one.index}"
                parts.append(f"<li><p>{escape(one.text)}</p><p class=why>{escape(where)}: {escape(faults)}</p></li>")
            parts.append("</ol>")
    return "\n".join([*parts, "</body></html>"]) + "\n"


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}th{text-align:left;padding:.2rem 1rem .2rem 0}td{padding:.2rem 1rem .2rem 0}"
    "tr{vertical-align:baseline}th,td:nth-child(2){white-space:nowrap}"
    "td:nth-child(2){text-align:right;font-variant-numeric:tabular-nums}.why{color:#667}li p{margin:.2rem 0}"
)


def sample_page(texts: Sequence[ReviewedText]) -> str:
    """Markdown for reading by eye: each text beside the behaviours that it is about, best valued first."""
    parts = [f"# {len(texts)} texts beside their behaviours\n"]
    for number, text in enumerate(texts, 1):
        facts, interest = text.evidence.facts, text.interest
        parts.append(f"## {number}. {_plain(interest.user_id)}#{interest.index}, {_plain(interest.prompt_version)}\n")
        parts.append(f"> {_plain(interest.summary)}\n")
        if interest.shift:
            parts.append(f"> {_plain(interest.shift)}\n")
        parts.append(
            f"By {interest.summary_source}, {interest.summary_outcome}; {facts.size} behaviours, {facts.period}."
        )
        if facts.mean is not None and facts.usual.mean is not None:
            parts.append(f"Mean {shown(facts.mean, facts.kind)} here, {shown(facts.usual.mean, facts.kind)} so far.")
        groups = ", ".join(f"{_plain(one.name)} {one.count}{_mean(one.mean)}" for one in facts.categories[:12])
        parts.append(f"Groups: {groups}.")
        best = [one for name in best_group(facts) if (one := facts.category(name))]
        if best:
            parts.append(f"Valued best: {', '.join(f'{_plain(one.name)} ({support_of(one, facts)})' for one in best)}.")
        if worst := worst_valued(facts)[:3]:
            parts.append(f"Valued worst: {', '.join(_plain(one.name) for one in worst)}.")
        ordered = sorted(facts.titles, key=lambda title: (-(title.value or 0.0), title.seq))
        parts.append("")
        parts += [f"- {_behavior(title)}" for title in ordered[:SHOWN]]
        if len(ordered) > SHOWN:
            parts.append(f"- and {len(ordered) - SHOWN:,} more")
        parts.append("")
    return "\n".join(parts)


def _behavior(title: Title) -> str:
    value = "" if title.value is None else f"{title.value:g} "
    year = f" ({title.year})" if title.year else ""
    return f"{value}{_plain(title.name)}{year}: {_plain(', '.join(title.categories))}"


def _mean(mean: float | None) -> str:
    return "" if mean is None else f" ({mean:.1f})"


def _plain(text: str) -> str:
    """Text of the store as Markdown that shows it as it is: one line, nothing of it read as markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|~" else letter for letter in " ".join(text.split()))
