"""Facts and sentences: the questions of the interest prompts about a period, with answers that are true.

An answer begins as the prompt has it begin, and says all that the prompt tells, as far as `interest.check` keeps it
whole: nothing is said that was not told, and nothing told is left out. (A form that named two categories alone was
learnt by heart from thirty documents, and texts that say no more are true of too many.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fusion.adaptation.document import Document, Kind, Piece, dialogue
from fusion.adaptation.histories import escaped
from fusion.adaptation.material import Material
from fusion.features.log import Log
from interest.check.evidence import Evidence
from interest.check.sentences import check
from interest.facts.base_rates import LEAST as LEAST_PARTITIONS
from interest.facts.base_rates import BaseRates, freeze
from interest.facts.categories import listed, plural
from interest.facts.counts import Facts, facts_of
from interest.facts.values import Usual
from interest.types import Behavior, Item
from interest.write.apart import plain_2
from interest.write.escape import Escape
from interest.write.place import plain_3
from interest.write.prompts import PROMPTS, Prompt, Style

PERIOD = 50  # behaviours that are counted together
LEAST = 8
NAMED = 2  # categories that an answer begins with
WE_SAY, IT_SAYS, THEY_SAY = "The user", "This user", "They"  # how a prompt, an answer's opening and the rest name them
KIND = re.compile(r'("), an? [^"]*\.$')  # behind a favourite's title
SENTENCE = re.compile(r"(?<=\.) (?=The user |They |One of the favourites )")  # between two sentences of a prompt


def rates_of(material: Material, escape: Escape) -> BaseRates | None:
    """What users choose as a rule, by every learnt user's first period; None where there are too few of them."""
    log, names = material.told, escaped(material, escape)
    starts = [int(log.starts[user]) for user in np.unique(log.user)]
    ends = [int(log.starts[user + 1]) for user in np.unique(log.user)]
    periods = [
        period_facts(log, range(start, min(start + PERIOD, end)), names)
        for start, end in zip(starts, ends, strict=True)
        if end - start >= LEAST
    ]
    return freeze(periods) if len(periods) >= LEAST_PARTITIONS else None


def facts_documents(
    material: Material, escape: Escape, passed: int, seed: int, style: Style, rates: BaseRates | None = None
) -> Iterator[Document]:
    """One period of every user, as a prompt tells it, and what may be said of it; users of whom nothing may, left out.

    Asked as plain-1 does, or, with base rates, as plain-1, plain-2 or plain-3, each in a third of the documents.
    """
    log, rng = material.told, np.random.default_rng((seed, passed, 3))
    names = escaped(material, escape)
    categories = tuple(sorted({name for item in names.values() for name in item.categories}))
    prompts = [PROMPTS["plain-1"], *([plain_2(rates), plain_3(rates)] if rates else [])]
    for user in rng.permutation(np.unique(log.user)):
        first, end = int(log.starts[user]), int(log.starts[user + 1])
        if end - first < LEAST:
            continue
        start = int(rng.integers(first, max(end - PERIOD, first) + 1))
        rows = range(start, min(start + PERIOD, end))
        prompt = prompts[int(rng.integers(len(prompts)))]
        pair = sentence_pair(period_facts(log, rows, names), prompt, categories, style)
        if pair is not None:
            until = float(log.at[rows.start : rows.stop].max())
            yield Document(kind=Kind.FACTS, pieces=pair, chat=True, user=log.users[user], until=until)


def period_facts(log: Log, rows: range, names: Mapping[str, Item]) -> Facts:
    """The facts of these rows of one user, whose usual value is that of all they did up to the last of them."""
    user = int(log.user[rows.start])
    seen = log.value[int(log.starts[user]) : rows.stop]
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
    return facts_of(behaviors, names, usual=usual)


def sentence_pair(facts: Facts, prompt: Prompt, categories: Sequence[str], style: Style) -> tuple[Piece, ...] | None:
    """A prompt's turns and the answer to them; sentences that the claim check would cut are left out.

    None where it would cut the first, or all others: an answer of one sentence would teach to stop there.
    """
    if not facts.categories:
        return None
    request = prompt.summary(facts, None, 0, style)
    system = "".join(message.content for message in request.messages if message.role == "system")
    *example, question = [message.content for message in request.messages if message.role != "system"]
    if not request.opening:
        return None
    first, *others = SENTENCE.split(question.rpartition("\n")[2])
    if first.startswith(WE_SAY + request.opening.removeprefix(IT_SAYS)):
        begun = IT_SAYS + first.removeprefix(WE_SAY)
    elif groups := _groups(facts, first, style):
        begun = f"{request.opening} {listed(groups)}."
    else:
        return None
    told = [THEY_SAY + one.removeprefix(WE_SAY) if one.startswith(WE_SAY) else one for one in others]
    evidence, text = Evidence(facts, categories=tuple(categories), rates=prompt.rates, nouns=style.noun), ""
    for sentence in (begun, *told):
        # the check knows no title of two kinds at once
        for form in (sentence, KIND.sub(r"\1.", sentence)):
            longer = f"{text} {form}".lstrip()
            verdict = check(longer, evidence)
            if not verdict.trimmed and verdict.text == longer:
                text = longer
                break
        if not text:
            return None
    if told and text == begun:
        return None
    return dialogue(question, text, system=system, example=example)


def _groups(facts: Facts, statement: str, style: Style) -> list[str]:
    """Categories that the statement names, in its order; those valued above the user's mean, if there are any."""
    at = {category: statement.find(plural(category.name, style.noun[1])) for category in facts.categories}
    told = sorted((category for category in facts.categories if at[category] >= 0), key=lambda one: at[one])
    liked = [category for category in told if category.lift > 0] or told
    return [plural(category.name, style.noun[1]) for category in liked[:NAMED]]
