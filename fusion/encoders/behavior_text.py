"""Atomic behaviours (BAHE, arXiv 2403.19347, section 3.2): one text for everything that was done in the same way.

"rated 5: Toy Story (1995), Animation, Comedy" stands for every such rating of that film, whoever gave it and
whenever; an item by itself is "Toy Story (1995), Animation, Comedy". Texts are normalised, so that what is equal reads
equal.
Knows nothing of models; the bank (fusion/bank/vectors.py) keys vectors by these texts.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping

import msgspec
import numpy as np

from interest.errors import InputError
from interest.facts.past_tense import normalise, past_tense
from interest.types import Item

VERSION = 1  # of everything below that can change a text and is not a field of Template
FIELDS = ("did", "value", "title", "categories")
_GAPS = re.compile(r"\s+([,:;.])")  # a space that an empty field left before a mark
_MARKS = re.compile(r"([,:;])(\s*[,:;])+")  # and marks with nothing between them


class Template(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How behaviours and items read: {did} and {value} (of a behaviour), {title} and {categories} (of an item)."""

    behavior: str = "{did} {value}: {title}, {categories}"
    item: str = "{title}, {categories}"
    version: int = VERSION

    def check(self) -> None:
        """Raises InputError, naming the setting, for an unknown field and for one with a format or conversion."""
        for name, text, fields in (("behavior", self.behavior, FIELDS), ("item", self.item, FIELDS[2:])):
            usable = ", ".join(f"{{{field}}}" for field in fields)
            template = f"the {name} template {text!r} ([bank] {name} in the settings)"
            try:
                used = [part[1:] for part in string.Formatter().parse(text) if part[1] is not None]
            except ValueError as error:
                raise InputError(
                    f"{template} cannot be read: {error}; there are {usable}, and {{{{ is a brace"
                ) from None
            if any(form or conversion for _, form, conversion in used):
                raise InputError(f"{template} can use {usable} as they stand, without a format after : or !")
            if not used or any(field not in fields for field, _, _ in used):
                raise InputError(f"{template} can use {usable}, and must use one of them")
        if self.version != VERSION:
            raise InputError(f"texts of template version {self.version} are not made here; this is version {VERSION}")


def behavior_text(template: Template, action: str, value: float | None, item: Item | None) -> str:
    """What was done to an item; never empty, for the action is known even where the catalogue lacks the item."""
    text = fill_in(template.behavior, {"did": past_tense(action), "value": format_value(value), **_item_fields(item)})
    return text or past_tense(action)


def item_text(template: Template, item: Item | None) -> str:
    """What an item is; empty where nothing is known of it."""
    return "" if item is None else fill_in(template.item, _item_fields(item))


def format_value(value: float | None) -> str:
    """A value as text, with two significant digits: ratings stay exact, seconds played get coarse enough to repeat.

    A value is read from the store as a double and from the log as a float32; both give one text.
    """
    if value is None or np.isnan(value):
        return ""
    return f"{float(f'{float(np.float32(value)):.2g}') + 0.0:.15g}"  # + 0.0: no -0


def _item_fields(item: Item | None) -> Mapping[str, str]:
    if item is None:
        return {"title": "", "categories": ""}
    return {"title": item.title, "categories": ", ".join(filter(None, map(normalise, item.categories)))}


def fill_in(template: str, fields: Mapping[str, str]) -> str:
    """The template with its fields filled in; punctuation around an empty field goes, that inside a title stays."""
    values: list[str] = []
    pieces: list[str] = []
    for literal, field, _, _ in string.Formatter().parse(template):
        pieces.append(literal.replace("\0", " "))
        if field is not None and (value := normalise(fields[field])):
            values.append(value)
            pieces.append(f"\0{len(values) - 1}\0")
    text = _MARKS.sub(r"\1", _GAPS.sub(r"\1", " ".join("".join(pieces).split())))
    text = text.strip(" ,:;")
    return re.sub(r"\0(\d+)\0", lambda match: values[int(match[1])], text)
