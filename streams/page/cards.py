"""A partition's card and the open cache as HTML. Pointing at a sentence lights its behaviours by CSS alone.

A sentence has a number on its card; each behaviour lists the numbers of the sentences that it supports, and a style
rule for each number joins the two. So nothing is asked of the server while a pointer moves.
"""

from __future__ import annotations

from streams.page.api import Card, OpenCache, ShownBehavior, ShownText
from streams.page.text import attribute, isolated, number, stretch

MOST_SENTENCES = 24  # of a card with style rules of their own
NAMED = 5  # behaviours that a screen reader is told of a sentence

REASONS = {
    "count": "closed by count",
    "gap": "closed after a pause",
    "span": "closed at the end of a calendar span",
    "tokens": "closed before its prompt became too long",
}
OUTCOMES = {
    "trimmed": "sentences that the behaviours do not support were cut",
    "rejected": "none of the LLM's stood",
    "generic": "the LLM's would do for a third of other users",
    "unchanged": "no change beyond chance, so no LLM was asked",
}


def rules() -> str:
    """The style rules that join sentences and behaviours."""
    lines = []
    for k in range(MOST_SENTENCES):
        pointed = f'.card:has(.said[data-k="{k}"]:hover)'
        focused = f'.card:not(:has(.said:hover)):has(.said[data-k="{k}"]:focus)'
        lines.append(f'{pointed} .did[data-k~="{k}"], {focused} .did[data-k~="{k}"] {{ --lit: 1; {_LIT} }}')
    return "\n".join(lines)


_LIT = "background: var(--lit-back); border-color: var(--lit-line); color: var(--ink); opacity: 1; order: -1;"


def card_html(card: Card, *, new: bool = False) -> str:
    """One partition. new: it has come while the page was open."""
    texts = [(which, text) for which, text in (("summary", card.summary), ("shift", card.shift)) if text is not None]
    support: dict[int, list[int]] = {}
    said, k = [], 0
    titles = {one.seq: one for one in card.behaviors}
    for which, text in texts:
        parts = []
        for sentence in text.sentences:
            for seq in sentence.seqs:
                support.setdefault(seq, []).append(k)
            behind = [titles[seq].title for seq in sentence.seqs if seq in titles]
            parts.append(
                f'<span class="said{"" if behind else " bare"}" data-k="{k}" tabindex="0" '
                f'aria-description="{attribute(_told(behind), 400)}">{isolated(sentence.text, 2000)}</span>'
            )
            k += 1
        said.append(f'<p class="text {which}"><span class="which">{which}</span> {" ".join(parts)} {_badge(text)}</p>')
    said.extend(_knowledge(card))
    body = "".join(said) or '<p class="text waiting">No text has been written for this partition yet.</p>'
    rest = card.total - len(card.behaviors)
    more = f'<li class="did rest">and {number(rest)} older ones</li>' if rest > 0 else ""
    chips = "".join(behavior_html(one, support.get(one.seq, [])) for one in reversed(card.behaviors))
    scene = f" · {isolated(card.scene, 80)}" if card.scene else ""
    closed = REASONS.get(card.reason, attribute(card.reason))
    return (
        f'<article class="card panel{" new" if new else ""}" data-index="{card.index}" '
        f'aria-label="Partition {card.index}"><header><h3>#{card.index}{scene}</h3>'
        f"<time>{stretch(card.opened_at, card.closed_at)}</time>"
        f'<span class="faint">{number(card.total)} behaviours, {closed}</span>'
        f'</header><div class="halves"><div class="texts">{body}</div>'
        f'<ul class="chips" aria-label="Behaviours">{chips}{more}</ul></div></article>'
    )


def _knowledge(card: Card) -> list[str]:
    """What the model says of titles, apart from what is said of the user; closed until somebody opens it."""
    if not card.knowledge:
        return []
    rows = "".join(
        f'<li><span class="name">{isolated(one.title, 200)}</span> '
        f'<span class="faint">{isolated(one.about, 20)}</span> {isolated(one.text, 400)}</li>'
        for one in card.knowledge
    )
    many = f"{number(len(card.knowledge))} statements about titles: the model's own knowledge, unchecked"
    return [f'<details class="text knows"><summary>{many}</summary><ul>{rows}</ul></details>']


def _told(behind: list[str]) -> str:
    if not behind:
        return "No single behaviour shows this."
    rest = len(behind) - NAMED
    named = ", ".join(title[:60] for title in behind[:NAMED])
    return f"Supported by {len(behind)} behaviours: {named}{f' and {rest} more' if rest > 0 else ''}"


def _badge(text: ShownText) -> str:
    name, look = ("LLM", "llm") if text.source == "llm" else ("statistics", "counted")
    why = OUTCOMES.get(text.outcome, "")
    title = f' title="{attribute(why)}"' if why else ""
    return f'<span class="badge {look}"{title}>{name}</span>'


def behavior_html(one: ShownBehavior, sentences: list[int]) -> str:
    value = f' <b class="value">{isolated(one.shown, 24)}</b>' if one.shown else ""
    kinds = ", ".join(one.categories)
    about = f"{one.action}: {one.title[:300]}{f' ({kinds})' if kinds else ''}"
    numbers = " ".join(map(str, sentences))
    return (
        f'<li class="did" data-seq="{one.seq}" data-k="{numbers}" title="{attribute(about, 500)}">'
        f'<span class="name">{isolated(one.title)}</span>{value}</li>'
    )


def open_html(cache: OpenCache) -> str:
    """The behaviours that no language model has read yet, newest first, and how far they are from closing."""
    after = cache.closes_after
    if after:
        share = min(100.0, 100 * cache.total / after)
        said = f"{number(cache.total)} of {number(after)} behaviours; at {number(after)} the partition closes"
        bar = (
            f'<div class="bar" role="progressbar" aria-label="Open partition" aria-valuemin="0" '
            f'aria-valuemax="{after}" aria-valuenow="{cache.total}"><span style="width:{share:.1f}%"></span></div>'
        )
    else:
        said, bar = f"{number(cache.total)} behaviours", ""
    chips = "".join(behavior_html(one, []) for one in reversed(cache.behaviors))
    rest = cache.total - len(cache.behaviors)
    more = f'<li class="did rest">and {number(rest)} older ones</li>' if rest > 0 else ""
    empty = "" if cache.total else '<p class="faint">Nothing since the newest partition closed.</p>'
    return (
        f'<article class="open panel" aria-label="Open partition"><header><h3>Open now</h3>'
        f'<span class="faint">{said}</span></header>{bar}{empty}<ul class="chips">{chips}{more}</ul></article>'
    )
