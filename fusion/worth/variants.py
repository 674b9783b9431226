"""Which models are compared: each part alone, each left out of the whole, and controls for the interest text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

Part = Literal["item text", "centroids", "interest text"]
Control = Literal["shuffled", "statistics", "template", "random"]
PARTS: tuple[Part, ...] = get_args(Part)
CONTROLS: tuple[Control, ...] = get_args(Control)
INTEREST: Part = "interest text"
NOTHING, ALL = "nothing", "all parts"
IN_PLACE: dict[Control, str] = {
    "shuffled": "interest text of other users",
    "statistics": "statistics sentences",
    "template": "a rich template of the facts",
    "random": "random vectors",
}


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the comparison. With a control, its vectors stand where those of the interest text would."""

    name: str
    parts: tuple[Part, ...]
    control: Control | None = None

    @property
    def folder(self) -> str:
        """A file name of its own."""
        return self.name.replace(" ", "-").replace(",", "")


def variants(parts: Sequence[Part], controls: Sequence[Control]) -> list[Variant]:
    """The models to train, none twice: with one part, alone is all; with two, one alone is the other left out."""
    every = tuple(part for part in PARTS if part in parts)
    wanted = [Variant(name=NOTHING, parts=()), Variant(name=ALL, parts=every)]
    wanted += [Variant(name=f"{part} alone", parts=(part,)) for part in every]
    wanted += [
        Variant(name=f"all but {part}", parts=tuple(other for other in every if other != part)) for part in every
    ]
    if INTEREST in every:
        wanted += [
            Variant(name=f"all, {IN_PLACE[own]}", parts=every, control=own) for own in CONTROLS if own in controls
        ]
    found: dict[tuple[tuple[Part, ...], Control | None], Variant] = {}
    for variant in wanted:
        found.setdefault((variant.parts, variant.control), variant)
    return list(found.values())


def of_parts(models: Sequence[Variant], *parts: Part, control: Control | None = None) -> Variant | None:
    """The model with exactly these parts; None where it is not among them."""
    return next((own for own in models if set(own.parts) == set(parts) and own.control == control), None)
