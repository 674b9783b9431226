"""Reading comprehension (CPRM): questions about the catalogue and answers, both made from its rows alone.

What kind an item is, which of four is of a kind, when it is from, what an attribute says (who directed it), which of
four has it, what kinds five of them are. Questions and answers are in the model's own chat format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fusion.adaptation.document import Document, Kind, dialogue
from interest.facts.categories import listed, qualifier
from interest.facts.counts import readable_title
from interest.types import Item
from interest.write.escape import Escape

CHOICES = 4
TOGETHER = 5
SHORT = 80  # characters of an attribute that a question may name

Pair = tuple[str, str]  # question, answer


@dataclass(frozen=True, slots=True)
class Row:
    """An item as questions name it."""

    title: str
    year: int | None
    categories: tuple[str, ...]
    attributes: Mapping[str, str]


Question = Callable[[Row, Sequence[Row], np.random.Generator, str], Pair | None]


def rows_of(catalogue: Mapping[str, Item], escape: Escape) -> list[Row]:
    """The items that have a title, by id."""
    found = []
    for _, item in sorted(catalogue.items()):
        title, year = readable_title(item)
        attributes = {
            escape(name.replace("_", " "), 40): text
            for name, raw in sorted(item.attributes.items())
            if "year" not in name.lower() and (text := escape(raw.replace("|", ", ")))
        }
        categories = tuple(filter(None, map(escape, item.categories)))
        if title := escape(title).replace('"', "'"):  # questions put titles between quotation marks
            found.append(Row(title, year, categories, attributes))
    return found


def reading_documents(
    catalogue: Mapping[str, Item], escape: Escape, passed: int, seed: int, noun: str = "title"
) -> Iterator[Document]:
    """One question an item, of another sort in every pass."""
    rows = rows_of(catalogue, escape)
    rng = np.random.default_rng((seed, passed, 4))
    for number in rng.permutation(len(rows)):
        pair = None
        for turn in range(len(QUESTIONS)):  # the next sort, where the item's row does not carry this one
            question = QUESTIONS[(passed + int(number) + turn) % len(QUESTIONS)]
            pair = question(rows[number], rows, rng, noun)
            if pair is not None:
                break
        if pair is not None:
            yield Document(kind=Kind.READING, pieces=dialogue(*pair), chat=True)


def _kind(row: Row, _rows: Sequence[Row], _rng: np.random.Generator, noun: str) -> Pair | None:
    if not row.categories:
        return None
    return f'What kind of {noun} is "{row.title}"?', f'"{row.title}" is {_kinds(row)}.'


def _which(row: Row, rows: Sequence[Row], rng: np.random.Generator, noun: str) -> Pair | None:
    if not row.categories:
        return None
    asked = row.categories[int(rng.integers(len(row.categories)))]
    offered = _offered(row, rows, rng, lambda other: bool(other.categories) and asked not in other.categories)
    if offered is None:
        return None
    kind = f"{_article(qualifier(asked))} {qualifier(asked)} {noun}"
    return f"Which of these is {kind}: {offered}?", f'"{row.title}" is {kind}.'


def _year(row: Row, _rows: Sequence[Row], _rng: np.random.Generator, _noun: str) -> Pair | None:
    return (f'In which year did "{row.title}" come out?', f"In {row.year}.") if row.year else None


def _attribute(row: Row, _rows: Sequence[Row], rng: np.random.Generator, _noun: str) -> Pair | None:
    if not row.attributes:
        return None
    name = sorted(row.attributes)[int(rng.integers(len(row.attributes)))]
    if name.lower() == "director":
        return f'Who directed "{row.title}"?', f'{row.attributes[name]} directed "{row.title}".'
    return f'What does the catalogue say of "{row.title}" under {name}?', row.attributes[name]


def _which_has(row: Row, rows: Sequence[Row], rng: np.random.Generator, _noun: str) -> Pair | None:
    short = [name for name in sorted(row.attributes) if len(row.attributes[name]) <= SHORT]
    if not short:
        return None
    name = short[int(rng.integers(len(short)))]
    asked = set(row.attributes[name].split(", "))  # one that has more beside it would be right too
    offered = _offered(
        row,
        rows,
        rng,
        lambda other: name in other.attributes and not asked <= set(other.attributes[name].split(", ")),
    )
    if offered is None:
        return None
    return f"Which of these has the {name} {row.attributes[name]}: {offered}?", f'"{row.title}".'


def _five(row: Row, rows: Sequence[Row], rng: np.random.Generator, noun: str) -> Pair | None:
    others = [rows[int(at)] for at in rng.integers(len(rows), size=TOGETHER - 1)]
    shown = list(dict.fromkeys((row.title, *(other.title for other in others))))
    by_title = {one.title: one for one in (*others, row)}
    if len(shown) < 2 or not all(by_title[title].categories for title in shown):
        return None
    asked = ", ".join(f'"{title}"' for title in shown)
    answer = " ".join(f'"{title}" is {_kinds(by_title[title])}.' for title in shown)
    return f"What kind of {noun} is each of these: {asked}?", answer


def _kinds(row: Row) -> str:
    """ "of the kinds drama and thriller"."""
    names = [qualifier(name) for name in row.categories]
    return f"of the kind{'s' if len(names) > 1 else ''} {listed(names)}"


def _article(word: str) -> str:
    return "an" if word[:1] in tuple("aeiou") else "a"


def _offered(row: Row, rows: Sequence[Row], rng: np.random.Generator, wrong: Callable[[Row], bool]) -> str | None:
    """CHOICES titles in a drawn order, of which this row's alone is right; None where there are not enough others."""
    others: dict[str, None] = {}
    for at in rng.integers(len(rows), size=8 * CHOICES):
        other = rows[int(at)]
        if other.title != row.title and wrong(other):
            others[other.title] = None
        if len(others) == CHOICES - 1:
            break
    if not others:
        return None
    shown = [row.title, *others]
    return ", ".join(f'"{shown[int(at)]}"' for at in rng.permutation(len(shown)))


QUESTIONS: tuple[Question, ...] = (_kind, _which, _year, _attribute, _which_has, _five)
