"""Multi-field items (CPRM, arXiv 2412.01269): fields behind markers, whole fields and spans hidden and asked for.

The form is causal infilling (Donahue et al., ACL 2020): what is hidden leaves a numbered blank in its place, and stands
after the item, behind the same number, where alone the loss is:

    title: Heat (1995)
    categories: [blank 1]
    director: Michael [blank 2]

    [blank 1] Action, Crime
    [blank 2] Mann

CPRM's documents pair an item with the queries that led to it. A log of behaviours has no queries: the item that users
liked next stands in for it, as the field "liked next".
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fusion.adaptation.document import Document, Kind, Piece
from interest.types import Item
from interest.write.escape import Escape

WHOLE_EVERY = 3  # passes: every third time an item is told whole, and all of it is asked for
SPANS = 0.3  # probability that a further field loses a span of words
LONGEST_SPAN = 4  # words
NEXT = "liked next"

Fields = tuple[tuple[str, str], ...]  # name and text, in order


def fields_of(item: Item, escape: Escape, then: str = "") -> Fields:
    """The item's fields that have a text: title, categories, every attribute, and which item is liked next."""
    title = escape(item.title)
    categories = ", ".join(filter(None, map(escape, item.categories)))
    named = ((_name(name, escape), escape(text.replace("|", ", "))) for name, text in sorted(item.attributes.items()))
    found = (("title", title), ("categories", categories), *named, (NEXT, escape(then)))
    return tuple((name, text) for name, text in found if name and text)


def _name(name: str, escape: Escape) -> str:
    """An attribute's name as a marker; it cannot end early, for a colon is what ends it."""
    return escape(name.replace("_", " ").replace(":", " "), 40)


def item_text(fields: Fields) -> str:
    """The item whole, one field a line."""
    return "\n".join(f"{name}: {text}" for name, text in fields)


def whole(fields: Fields, until: float | None = None) -> Document:
    """The item, all of it asked for."""
    return Document(kind=Kind.ITEM, pieces=(Piece(item_text(fields), asked=True),), until=until)


def infill(
    fields: Fields, hidden: int, rng: np.random.Generator, until: float | None = None, *, spans: float = SPANS
) -> Document:
    """The item with the field of number `hidden` blank, and a span of words of some others; the blanks are asked for.

    spans: how probable it is that another field loses one.
    """
    lines: list[str] = []
    answers: list[str] = []
    for at, (name, text) in enumerate(fields):
        words = text.split(" ")
        if at == hidden:
            answers.append(text)
            lines.append(f"{name}: [blank {len(answers)}]")
        elif len(words) > 1 and rng.random() < spans:
            length = int(rng.integers(1, min(LONGEST_SPAN, len(words) - 1) + 1))
            start = int(rng.integers(0, len(words) - length + 1))
            answers.append(" ".join(words[start : start + length]))
            shown = [*words[:start], f"[blank {len(answers)}]", *words[start + length :]]
            lines.append(f"{name}: {' '.join(shown)}")
        else:
            lines.append(f"{name}: {text}")
    pieces = [Piece("\n".join(lines) + "\n", asked=False)]
    for number, answer in enumerate(answers, start=1):
        pieces += [Piece(f"\n[blank {number}]", asked=False), Piece(f" {answer}", asked=True)]
    return Document(kind=Kind.ITEM, pieces=tuple(pieces), until=until)


def item_documents(
    catalogue: Mapping[str, Item], escape: Escape, passed: int, seed: int, following: Mapping[str, tuple[str, float]]
) -> list[Document]:
    """One document an item in the pass of this number: whole at times, else with the fields hidden in turn.

    following: by item id the title that is liked next, and the time of the newest behaviour that says so.
    """
    made = []
    for number, (item_id, item) in enumerate(sorted(catalogue.items())):
        then, until = following.get(item_id, ("", None))
        fields = fields_of(item, escape, then)
        if len(fields) < 2:
            continue  # nothing to see beside what is hidden
        turn = passed + number
        if turn % WHOLE_EVERY == 0:
            made.append(whole(fields, until))
        else:
            rng = np.random.default_rng((seed, passed, number))
            hidden = turn - turn // WHOLE_EVERY - 1  # turns that hide one, counted by themselves: no field is left out
            made.append(infill(fields, hidden % len(fields), rng, until))
    return made
