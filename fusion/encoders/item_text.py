"""An item as a text: title, categories and every attribute that the catalogue has as text. What its vector is made of.

A template may also read what a language model says of the item, `{description}`.

"Heat (1995), Action, Crime; director Michael Mann" has its year in the title. Texts are normalised, so that what is
equal reads equal. Knows nothing of models or of the store.
"""

from __future__ import annotations

import hashlib
import string

from fusion.encoders.behavior_text import fill_in
from interest.errors import InputError
from interest.facts.past_tense import normalise
from interest.types import Item

ITEM_TEMPLATE = "{title}, {categories}; {attributes}"
FIELDS = ("title", "categories", "attributes", "description")
DESCRIPTION = "description"  # what a language model says of the item (`interestream describe`), not the catalogue
LONGEST = 400  # characters of one attribute: a plot's first sentences; an encoder reads some 1,000 of the whole text


def check_item_template(template: str) -> str:
    """The template. Raises InputError, naming the setting, where it cannot be filled in."""
    usable = ", ".join(f"{{{field}}}" for field in FIELDS)
    place = f"the item template {template!r} ([items] template in the settings)"
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"{place} cannot be read: {error}; there are {usable}, and {{{{ is a brace") from None
    used = [(field, form or conversion) for _, field, form, conversion in parsed if field is not None]
    if not used or any(field not in FIELDS or extra for field, extra in used):
        raise InputError(f"{place} can use {usable} as they stand, and must use one of them")
    return template


def uses_description(template: str) -> bool:
    """Whether a template reads what a language model says of an item."""
    return any(field == DESCRIPTION for _, field, _, _ in string.Formatter().parse(template))


def catalogue_text(template: str, item: Item | None, description: str = "") -> str:
    """What the catalogue says of an item, and the description where the template has it; empty where that is nothing.

    An attribute reads as its name and its text ("director Michael Mann"); a list inside it ("a|b") as a list, and a
    bare number, which a text encoder can make nothing of, is left out.
    """
    if item is None:
        return ""
    attributes = (
        f"{name.replace('_', ' ')} {normalise(text.replace('|', ', '))[:LONGEST]}"
        for name, text in sorted(item.attributes.items())
        if text.strip() and not _is_number(text)
    )
    fields = {
        "title": item.title,
        "categories": ", ".join(filter(None, map(normalise, item.categories))),
        "attributes": "; ".join(attributes),
        DESCRIPTION: description,
    }
    return fill_in(template, fields)


def text_key(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
