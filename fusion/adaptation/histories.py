"""Histories of behaviours as documents: what one user did in the order of arrival, with the values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fusion.adaptation.document import Document, Kind, Piece
from fusion.adaptation.material import Material
from fusion.encoders.behavior_text import Template, behavior_text
from interest.types import Item
from interest.write.escape import Escape

LENGTH = 16  # behaviours of one history
HEAD = "What one user did, in order:\n"


def history_documents(material: Material, escape: Escape, passed: int, seed: int) -> Iterator[Document]:
    """Every user's behaviours in pieces of LENGTH, cut elsewhere in every pass; the first line only begins.

    The pieces of all users are shuffled, so that those who did most are not all that a short run reads.
    """
    log, rng, template = material.told, np.random.default_rng((seed, passed, 2)), Template()
    names = escaped(material, escape)
    cuts: list[tuple[int, int]] = []  # first row and the one behind the last
    for user in np.unique(log.user):
        first, end = int(log.starts[user]), int(log.starts[user + 1])
        begin = first - int(rng.integers(0, LENGTH))
        cuts += [(max(start, first), min(start + LENGTH, end)) for start in range(begin, end, LENGTH)]
    for place in rng.permutation(len(cuts)):
        start, stop = cuts[place]
        if stop - start < 2:
            continue
        lines = [
            behavior_text(
                template,
                escape(log.actions[log.action[row]], 40),
                float(log.value[row]),
                names.get(log.items[log.item[row]]),
            )
            for row in range(start, stop)
        ]
        pieces = (Piece(HEAD + lines[0] + "\n", asked=False), Piece("\n".join(lines[1:]), asked=True))
        until = float(log.at[start:stop].max())
        yield Document(kind=Kind.HISTORY, pieces=pieces, user=log.users[log.user[start]], until=until)


def escaped(material: Material, escape: Escape) -> dict[str, Item]:
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
