"""The prompts, versioned: what is asked of the LLM about one partition, and about two that follow each other.

Pure: facts in, requests out. A change of any word here is a new version, because the version keys the stored interests.
Prompts are short (about 100 tokens): on a CPU the reading of a prompt costs as much as the writing of the answer.

plain-1  for small models. It tells only what may be repeated (a 135M model turns "likes comedies less" into "also likes
         comedies"), asks one question, and begins the answer. Attempts escalate: greedy with a favourite title,
         greedy without, then sampled.
json-1   for capable models behind a server. All the facts, and an answer in a flat JSON schema with evidence numbers.

plain-2 and json-2, which ask for what sets a user apart, are in `interest.write.apart`, plain-3, which also tells what
comes back in a user's next partition, in `interest.write.place`, and knowledge-1, which also asks for what the model
knows of the titles, in `interest.write.knowledge`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from interest.check.sentences import MIN_CLAIMS
from interest.facts.base_rates import BaseRates
from interest.facts.categories import listed, plural, qualifier
from interest.facts.counts import Facts, Title
from interest.llm.protocol import Message, Request
from interest.types import ItemStatement
from interest.write.escape import escaped, in_field
from interest.write.template import moves

TITLES = 10  # enough to name what a period of 50 is about


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How prompts and sentences are worded: the nouns, how many titles, how many attempts."""

    noun: tuple[str, str] = ("title", "titles")  # what the items are called: ("film", "films"), ("song", "songs")
    groups: str = "genres"  # what its categories are called
    titles: int = TITLES  # the most telling titles shown by json-1; plain-1 shows one
    attempts: int = 4  # greedy first, then sampled


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What json-1 asks for: the text, and the numbers of the behaviours behind it."""

    text: str
    evidence: list[int]


def _answer_schema() -> str:
    schema = msgspec.json.schema(Answer)["$defs"]["Answer"]
    # as many as titles are shown: without an end, a small model under the schema counts until it is cut off
    schema["properties"]["evidence"]["maxItems"] = TITLES
    return msgspec.json.encode(schema, order="deterministic").decode()


ANSWER_SCHEMA = _answer_schema()

SummaryPrompt = Callable[[Facts, str | None, int, Style], Request]
ShiftPrompt = Callable[[Facts, Facts, str, str, int, Style], Request]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One version. `summary(facts, previous summary | None, attempt, style)`, `shift(before, now, s_(k-1), s_k,
    attempt, style)`.

    The previous summary is given in chained mode only ("None" at first).
    """

    version: str
    summary: SummaryPrompt
    shift: ShiftPrompt
    rates: BaseRates | None = None  # that it reads; a text may compare with others then
    strangers: tuple[Facts, ...] = ()  # a summary that would do for a third of these partitions is asked for again
    statements: Callable[[str, Facts], tuple[ItemStatement, ...]] | None = None  # read beside the summary's text
    repeated: bool = False  # its last line is what the answer is to say; an answer copies the prompt elsewhere
    least: Callable[[Facts], int] = lambda _facts: MIN_CLAIMS  # categories, titles and comparisons in a kept summary
    tested: bool = False  # a shift is asked for only where the change is beyond chance


def inside_fields(prompt: Prompt) -> Prompt:
    """The prompt, told titles, categories, people, profiles and earlier texts that cannot leave their fields.

    No request about a harmless catalogue changes by it.
    """

    def summary(facts: Facts, previous: str | None, attempt: int, style: Style) -> Request:
        return prompt.summary(escaped(facts), None if previous is None else in_field(previous), attempt, style)

    def shift(before: Facts, now: Facts, s_before: str, s_now: str, attempt: int, style: Style) -> Request:
        return prompt.shift(escaped(before), escaped(now), in_field(s_before), in_field(s_now), attempt, style)

    return replace(prompt, summary=summary, shift=shift)


SAMPLED = 0.6  # temperature of the attempts after the greedy ones; 0.5 in LIBER's family
MAX_TOKENS = 64  # two sentences are 20 to 50 tokens


def _plain_summary(facts: Facts, previous: str | None, attempt: int, style: Style) -> Request:
    many = style.noun[1]
    liked = [category for category in facts.categories if category.liked or not facts.spread]
    kept = [category.name for category in liked if category.lift >= 0 and category.count >= 2][:3]
    best = [category.name for category in facts.categories if category.lift > 0][:2]
    lines = [f"What kind of {many} does this user like? Name the {style.groups}. Answer in two short sentences.\n"]
    if previous is not None:
        lines.append(f"Before: {previous}")
    shown = listed(plural(name, many) for name in kept or [facts.categories[0].name])
    statement = f"The user {facts.verb} {facts.size} {many}, many of them {shown}."
    if best:
        statement += f" The user gave {listed(plural(name, many) for name in best)} higher ratings than other {many}."
    if attempt == 0 and (favourites := [title for title in facts.top(1) if title.feeling > 0]):
        statement += f" One of the favourites was {_described(favourites[0], style)}."
    return plain_request("\n".join([*lines, statement]), "This user enjoyed", attempt)


def _plain_shift(before: Facts, now: Facts, _s_before: str, _s_now: str, attempt: int, style: Style) -> Request:
    """From the counts behind s_(k-1) and s_k, not from the texts: given those, the model copied them (3 of 16
    usable).
    """
    many = style.noun[1]
    grew, fell = (listed(plural(name, many) for name in names) if names else "" for names in moves(before, now))
    wording = attempt % 2
    if grew or fell:
        change = " and fewer ".join(part for part in (f"more {grew}" if grew else "", fell) if part)
        change = change if grew else f"fewer {fell}"
        statement = (f"Lately the user has been choosing {change}.", f"There are {change} than in the period before.")[
            wording
        ]
        opening = f"This user now chooses {'more' if grew else 'fewer'}"
    else:
        statement = (
            f"The user's taste is the same: {listed(plural(category.name, many) for category in now.categories[:2])}."
        )
        opening = "This user still chooses"
    question = f"How did this user's taste in {many} change? Answer in one or two short sentences.\n"
    return plain_request(f"{question}\n{statement}", opening, attempt)


def plain_request(content: str, opening: str, attempt: int) -> Request:
    """Two greedy attempts (the prompts differ), then sampled ones with their own seeds.

    No repetition penalty: the answer is to repeat what it was told, and with 1.05 half as many greedy answers were
    usable.
    """
    return Request(
        messages=(Message("system", "You write plain, factual English."), Message("user", content)),
        opening=opening,
        max_tokens=MAX_TOKENS,
        repetition_penalty=1.0,
        temperature=0.0 if attempt < 2 else SAMPLED,
        seed=attempt,
    )


def _described(title: Title, style: Style) -> str:
    kind = " ".join(qualifier(name) for name in title.categories[:2])
    article = "an" if kind[:1] in tuple("aeiou") else "a"
    return f'"{title.name}", {article} {kind} {style.noun[0]}' if kind else f'"{title.name}"'


_RULES = (
    "You describe what a user of a catalogue likes, from a table of facts. Two or three plain sentences in English, in "
    "the third person. Say only what the facts show: categories, how often, how valued, a title or two. No people, no "
    "places, no plot, no guesses. In `evidence` give the numbers of the titles that show it best."
)


def _json_summary(facts: Facts, previous: str | None, attempt: int, style: Style) -> Request:
    content = _table(facts, style)
    if previous is not None:
        content = f"Summary of the period before: {previous}\n\n{content}"
    return json_request(content + "\n\nWhat does this user like?", attempt)


def _json_shift(before: Facts, now: Facts, s_before: str, s_now: str, attempt: int, style: Style) -> Request:
    content = (
        f"The period before: {s_before}\nCategories then: {_counts(before)}.\n\n"
        f"Now: {s_now}\nCategories now: {_counts(now)}.\n{titles_valued(now, style)}\n\n"
        "How did this user's interests shift? One or two sentences: what grew, what fell, what is new."
    )
    return json_request(content, attempt)


def json_request(content: str, attempt: int, rules: str = _RULES) -> Request:
    """One greedy attempt, then sampled ones; the answer is in the schema of `Answer`."""
    return Request(
        messages=(Message("system", rules), Message("user", content)),
        max_tokens=256,
        temperature=0.0 if attempt == 0 else SAMPLED,
        seed=attempt,
        schema=ANSWER_SCHEMA,
    )


def _table(facts: Facts, style: Style) -> str:
    lines = [f"The user {facts.verb} {facts.size} {style.noun[1]} in {facts.period}."]
    if facts.mean is not None:
        lines.append(f"Mean value {facts.mean:.1f}.")
    profile = ", ".join(f"{key} {text}" for key, text in sorted(facts.profile.items()) if key != "zip_code")
    if profile:
        lines.append(f"Profile: {profile}.")
    lines.append(f"Categories (count, mean value): {_counts(facts)}.")
    return "\n".join([*lines, titles_valued(facts, style)])


def _counts(facts: Facts) -> str:
    return ", ".join(
        f"{category.name} {category.count}" + (f" ({category.mean:.1f})" if category.mean is not None else "")
        for category in facts.categories[:10]
    )


def titles_valued(facts: Facts, style: Style) -> str:
    most, least = facts.top(style.titles), facts.bottom(max(1, style.titles // 4))
    lines = [f"Valued most: {'; '.join(_numbered(title) for title in most)}."]
    if least := [title for title in least if title not in most]:
        lines.append(f"Valued least: {'; '.join(_numbered(title) for title in least)}.")
    return "\n".join(lines)


def _numbered(title: Title) -> str:
    year = f", {title.year}" if title.year else ""
    kind = f": {_in_row('/'.join(title.categories))}" if title.categories else ""
    value = "" if title.value is None else f"{title.value:g}"
    return f"[{title.seq}] {_in_row(title.name)} ({value}{year}{kind})".replace("(, ", "(")


_ROW = re.compile(r"\[\s*(\d+)\s*\]|;")


def _in_row(text: str) -> str:
    """The text without what numbers and divides the titles: "Up; [7] Cats (5)" would be two of them."""
    return _ROW.sub(lambda match: match[1] or ",", text) if "[" in text or ";" in text else text


PROMPTS: dict[str, Prompt] = {
    "plain-1": inside_fields(Prompt("plain-1", _plain_summary, _plain_shift)),
    "json-1": inside_fields(Prompt("json-1", _json_summary, _json_shift)),
}
