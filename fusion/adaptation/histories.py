"""Histories of behaviours as documents: what one user did in the order of arrival, with the values.

And facts with their sentences: the question that the interest prompts ask about a period, and an answer that a template
made of its counts and `interest.check` accepted, so that the form is learnt from sentences that are true.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fusion.adaptation.document import Document, Escape, Kind, Piece, dialogue
from fusion.adaptation.material import Material
from fusion.encoders.behavior_text import Template, behavior_text
from interest.check.evidence import Evidence
from interest.check.sentences import check
from interest.facts.categories import listed, plural
from interest.facts.counts import Facts, facts_of
from interest.facts.groups import best_valued, worst_valued
from interest.facts.values import Kind as Values
from interest.facts.values import Usual
from interest.types import Behavior, Item
from interest.write.prompts import PROMPTS, Style

LENGTH = 16  # behaviours of one history
PERIOD = 50  # behaviours that facts are counted over
LEAST = 8
PROMPT = "plain-1"  # whose question is asked
HEAD = "What one user did, in order:\n"


def history_documents(material: Material, escape: Escape, passed: int, seed: int) -> Iterator[Document]:
    """Every user's behaviours in pieces of LENGTH, cut elsewhere in every pass; the first line only begins."""
    log, rng, template = material.told, np.random.default_rng((seed, passed, 2)), Template()
    names = _escaped(material, escape)
    for user in rng.permutation(np.unique(log.user)):
        first, end = int(log.starts[user]), int(log.starts[user + 1])
        begin = first - int(rng.integers(0, LENGTH))
        for start in range(begin, end, LENGTH):
            rows = range(max(start, first), min(start + LENGTH, end))
            lines = [
                behavior_text(
                    template,
                    escape(log.actions[log.action[row]], 40),
                    float(log.value[row]),
                    names.get(log.items[log.item[row]]),
                )
                for row in rows
            ]
            if len(lines) < 2:
                continue
            pieces = (Piece(HEAD + lines[0] + "\n", asked=False), Piece("\n".join(lines[1:]), asked=True))
            until = float(log.at[rows.start : rows.stop].max())
            yield Document(kind=Kind.HISTORY, pieces=pieces, user=log.users[user], until=until)


def facts_documents(material: Material, escape: Escape, passed: int, seed: int, style: Style) -> Iterator[Document]:
    """One period of every user, as the prompt tells it, and what a template says of it where the check keeps all."""
    log, rng = material.told, np.random.default_rng((seed, passed, 3))
    names = _escaped(material, escape)
    categories = tuple(sorted({name for item in names.values() for name in item.categories}))
    for user in rng.permutation(np.unique(log.user)):
        first, end = int(log.starts[user]), int(log.starts[user + 1])
        if end - first < LEAST:
            continue
        start = int(rng.integers(first, max(end - PERIOD, first) + 1))
        rows = range(start, min(start + PERIOD, end))
        seen = log.value[first : rows.stop]
        seen = seen[~np.isnan(seen)].astype(np.float64)
        usual = Usual.of(len(seen), float(seen.sum()), float(max(seen, default=0.0)))
        behaviors = [
            (
                int(log.seq[row]),
                Behavior(
                    user_id=log.users[user],
                    item_id=log.items[log.item[row]],
                    action=log.actions[log.action[row]],
                    at=float(log.at[row]),
                    value=None if np.isnan(log.value[row]) else float(log.value[row]),
                ),
            )
            for row in rows
        ]
        facts = facts_of(behaviors, names, usual=usual)
        pair = sentence_pair(facts, categories, style, int(rng.integers(len(FORMS))))
        if pair is not None:
            until = float(log.at[rows.start : rows.stop].max())
            yield Document(kind=Kind.FACTS, pieces=pair, chat=True, user=log.users[user], until=until)


LOWER = "They gave {worst} lower ratings than other {many}."
FORMS = (
    ("This user enjoyed {best}{titles}.", LOWER),
    ("This user valued {best} higher than the rest{titles}.", LOWER),
)


def sentence_pair(facts: Facts, categories: tuple[str, ...], style: Style, form: int) -> tuple[Piece, ...] | None:
    """A prompt's turns with the template's sentences as the answer; None where the check cuts any of it."""
    best = [category.name for category in best_valued(facts) if category.lift > 0][:2]
    if not facts.categories or not best:
        return None
    many = style.noun[1]
    worst = [category.name for category in worst_valued(facts) if category.lift < 0 and category.name not in best][:1]
    titles = [title.name for title in facts.top(2) if title.feeling > 0 and facts.supports(title)]
    verb = "was" if len(titles) == 1 else "were"
    told = {
        "best": listed(plural(name, many) for name in best),
        "titles": f", and among their favourites {verb} {listed(titles)}" if titles else "",
        "worst": listed(plural(name, many) for name in worst) if worst else "",
        "many": many,
    }
    text = " ".join(
        sentence.format(**told) for sentence in FORMS[form][: 1 + (bool(worst) and facts.kind is Values.RATING)]
    )
    verdict = check(text, Evidence(facts, categories=categories))
    if verdict.trimmed or verdict.text != text:
        return None
    request = PROMPTS[PROMPT].summary(facts, None, 0, style)
    asked = {message.role: message.content for message in request.messages}
    return dialogue(asked["user"], text, system=asked.get("system", ""))


def _escaped(material: Material, escape: Escape) -> dict[str, Item]:
    """The catalogue with texts that stay in their fields."""
    return {
        item_id: Item(
            item_id=item_id,
            title=escape(item.title),
            categories=tuple(filter(None, map(escape, item.categories))),
            attributes={name: escape(text) for name, text in item.attributes.items() if "year" in name.lower()},
        )
        for item_id, item in material.names.items()
    }
