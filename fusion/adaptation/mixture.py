"""The mixture: how many tokens of each kind of document are learnt, and in which order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from fusion.adaptation.document import Document, Kind
from fusion.adaptation.encode import Encoded, Encoder
from fusion.adaptation.facts import facts_documents
from fusion.adaptation.histories import history_documents
from fusion.adaptation.items import item_documents
from fusion.adaptation.material import Material
from fusion.adaptation.reading import reading_documents
from fusion.adaptation.related import liked_next, related_documents, similarity
from fusion.adaptation.teacher import Taught, taught_documents
from interest.errors import InputError
from interest.facts.base_rates import BaseRates
from interest.write.escape import Escape
from interest.write.prompts import Style

MIX = {
    Kind.ITEM: 0.25,
    Kind.RELATED: 0.20,
    Kind.HISTORY: 0.15,
    Kind.READING: 0.20,
    Kind.FACTS: 0.10,
    Kind.GENERAL: 0.10,
}  # shares of the tokens
PASSES = 1_000  # over one kind's material at most
Makers = Mapping[Kind, Callable[[int], Iterable[Document]]]  # by kind the documents of a pass


@dataclass(frozen=True, slots=True)
class Filled:
    """Documents up to their shares, in the order in which they are packed."""

    documents: list[Encoded]
    tokens: dict[str, int]  # by kind
    empty: list[str]  # kinds that there is nothing of; the others have their share


def parse_mix(text: str) -> dict[Kind, float]:
    """`item=0.5,reading=0.5`: shares of the tokens; kinds not named get none. Raises InputError."""
    shares: dict[Kind, float] = {}
    known = ", ".join(kind.value for kind in Kind)
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, number = part.partition("=")
        try:
            kind, share = Kind(name.strip()), float(number)
        except ValueError:
            raise InputError(f"--mix {part}: write KIND=SHARE, such as item=0.3; kinds are {known}") from None
        if not 0.0 <= share < float("inf"):
            raise InputError(f"--mix {part}: a share is a number from 0 on")
        shares[kind] = share
    if not sum(shares.values()):
        raise InputError(f"--mix {text!r} gives every kind nothing; write for example item=0.5,reading=0.5")
    return shares


def makers_of(
    material: Material,
    escape: Escape,
    seed: int,
    general: Sequence[Document],
    style: Style | None = None,
    rates: BaseRates | None = None,
    taught: Taught | None = None,
    fits: Callable[[str], bool] = lambda _: True,
) -> Makers:
    """How the documents of every kind are made of the material.

    rates: of what is learnt, by which facts are told. taught: a teacher's summaries, of which every other document of
    reading comprehension is made as long as there are any. fits: whether a text goes into a context.
    """
    style = style or Style()
    likes = material.likes
    following: dict[str, tuple[str, float]] = {}
    if likes.size:
        until = float(likes.at.max())
        for item, then in liked_next(likes, material.liked).items():
            named = material.names.get(likes.items[then]) or material.catalogue.get(likes.items[then])
            if named is not None and named.title:
                following[likes.items[item]] = (named.title, until)
    common = similarity(likes, material.liked) if likes.size else None

    def reading(passed: int) -> Iterator[Document]:
        own = reading_documents(material.catalogue, escape, passed, seed, style.noun[0])
        if taught is None:
            return own
        told = taught_documents(taught, material.catalogue, escape, passed, seed, style.noun[0])
        return (one for pair in itertools.zip_longest(told, own) for one in pair if one is not None)

    made: dict[Kind, Callable[[int], Iterable[Document]]] = {
        Kind.ITEM: lambda passed: _shuffled(
            item_documents(material.catalogue, escape, passed, seed, following), seed, passed
        ),
        Kind.RELATED: lambda passed: (
            related_documents(material, common, escape, passed, seed, fits=fits) if common is not None else ()
        ),
        Kind.HISTORY: partial(history_documents, material, escape, seed=seed),
        Kind.READING: reading,
        Kind.FACTS: partial(facts_documents, material, escape, seed=seed, style=style, rates=rates),
        Kind.GENERAL: lambda passed: _shuffled(general, seed, passed),
    }
    return made


def fill(makers: Makers, mix: Mapping[Kind, float], tokens: int, encoder: Encoder, seed: int) -> Filled:
    """Documents of every kind, pass after pass, up to its share of the tokens; all of them shuffled together.

    Raises InputError where there is nothing at all.
    """
    wanted = {kind: share for kind, share in mix.items() if share > 0}
    empty = [kind for kind in wanted if next(_encoded(makers[kind](0), encoder), None) is None]
    shares = {kind: share for kind, share in wanted.items() if kind not in empty}
    if not shares:
        raise InputError(
            f"nothing to make documents of ({', '.join(empty)}): give a catalogue with --items, or replay a log"
        )
    documents: list[Encoded] = []
    held: dict[str, int] = {}
    for kind, share in shares.items():
        quota, had = tokens * share / sum(shares.values()), 0
        for passed in range(PASSES):
            for one in _encoded(makers[kind](passed), encoder):
                documents.append(one)
                had += len(one.ids)
                if had >= quota:
                    break
            if had >= quota:
                break
        held[kind.value] = had
    order = np.random.default_rng((seed, 5)).permutation(len(documents))
    return Filled([documents[int(at)] for at in order], held, [kind.value for kind in empty])


def first_of(makers: Makers, kind: Kind, encoder: Encoder, most: int) -> list[Encoded]:
    """At most so many documents of a kind's first pass."""
    return list(itertools.islice(_encoded(makers[kind](0), encoder), most))


def _encoded(documents: Iterable[Document], encoder: Encoder) -> Iterator[Encoded]:
    return filter(None, map(encoder, documents))


def _shuffled(documents: Sequence[Document], seed: int, passed: int) -> list[Document]:
    order = np.random.default_rng((seed, passed, 6)).permutation(len(documents))
    return [documents[int(at)] for at in order]
