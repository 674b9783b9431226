"""Atomic behaviours (BAHE, arXiv 2403.19347, section 3.2): one text for everything that was done in the same way.

"rated 5: Toy Story (1995), Animation, Comedy" stands for every such rating of that film, whoever gave it and
whenever; an item by itself is "Toy Story (1995), Animation, Comedy". Texts are normalised, so that what is equal reads
equal.
Knows nothing of models; the bank (fusion/bank/vectors.py) keys vectors by these texts.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping

import msgspec
import numpy as np

from interest.errors import InputError
from interest.types import Item

VERSION = 1  # of everything below that can change a text but is no field of Template
FIELDS = ("did", "value", "title", "categories")
_PAST = {  # where "ed" at the end would be wrong
    "begin": "began", "bid": "bid", "buy": "bought", "cart": "added to cart", "checkout": "checked out",
    "choose": "chose", "commit": "committed", "eat": "ate", "embed": "embedded", "fav": "favorited", "feed": "fed",
    "find": "found", "get": "got", "give": "gave", "go": "went", "hear": "heard", "hide": "hid", "hold": "held",
    "keep": "kept", "leave": "left", "listen": "listened to", "login": "logged in", "logout": "logged out",
    "make": "made", "pageview": "viewed", "pay": "paid", "put": "put", "pv": "viewed", "quit": "quit", "read": "read",
    "see": "saw", "sell": "sold", "send": "sent", "signup": "signed up", "spend": "spent", "submit": "submitted",
    "take": "took", "think": "thought", "win": "won", "write": "wrote",
}  # fmt: skip
_DONE = frozenset(past for past in _PAST.values() if " " not in past) | frozenset(
    ("agreed", "chosen", "done", "eaten", "given", "guaranteed", "hidden", "seen", "taken", "written")
)
_NOUN = re.compile(r"(?!mention|question|auction|bring|ring).*(ing|ion)|[^aeiouy]+")  # rating, impression, ctr
_SHORT = re.compile(r"[^aeiou]*[aeiou][^aeiouwxy]")  # skip: one syllable whose last letter is doubled
_AFTER = frozenset(("at", "for", "from", "in", "into", "off", "on", "out", "to", "up", "with"))  # add_to_cart
_FIRST = frozenset(  # verbs that begin an action's name: view_item, but not page_view
    ("add", "begin", "buy", "click", "complete", "download", "finish", "like", "listen", "open", "play", "purchase",
     "rate", "read", "remove", "save", "search", "see", "select", "share", "skip", "start", "view", "watch")
)  # fmt: skip
_BREAKS = re.compile(r"[\s_-]+|(?<=[a-z])(?=[A-Z])")
_GAPS = re.compile(r"\s+([,:;.])")  # a space that an empty field left before a mark
_MARKS = re.compile(r"([,:;])(\s*[,:;])+")  # and marks with nothing between them


class Template(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How behaviours and items read: {did} and {value} (of a behaviour), {title} and {categories} (of an item)."""

    behavior: str = "{did} {value}: {title}, {categories}"
    item: str = "{title}, {categories}"
    version: int = VERSION

    def check(self) -> None:
        """Raises InputError, naming the setting, for a field that there is not, or one with a format or conversion."""
        for name, text, fields in (("behavior", self.behavior, FIELDS), ("item", self.item, FIELDS[2:])):
            there = ", ".join(f"{{{field}}}" for field in fields)
            said = f"the {name} template {text!r} ([bank] {name} in the settings)"
            try:
                used = [part[1:] for part in string.Formatter().parse(text) if part[1] is not None]
            except ValueError as error:
                raise InputError(f"{said} cannot be read: {error}; there are {there}, and {{{{ is a brace") from None
            if any(form or conversion for _, form, conversion in used):
                raise InputError(f"{said} can use {there} as they stand, without a format after : or !")
            if not used or any(field not in fields for field, _, _ in used):
                raise InputError(f"{said} can use {there}, and must use one of them")
        if self.version != VERSION:
            raise InputError(f"texts of template version {self.version} are not made here; this is version {VERSION}")


def behavior_text(template: Template, action: str, value: float | None, item: Item | None) -> str:
    """What was done to an item; never empty, for the action is known even where the catalogue lacks the item."""
    text = _fill(template.behavior, {"did": did(action), "value": shown(value), **_item_fields(item)})
    return text or did(action)


def item_text(template: Template, item: Item | None) -> str:
    """What an item is; empty where nothing is known of it."""
    return "" if item is None else _fill(template.item, _item_fields(item))


def did(action: str) -> str:
    """ "rated" of "rate", "added to cart" of "add_to_cart"; what is in the past tense or no verb stays as it is."""
    first, *rest = words = [word for word in _BREAKS.split(normalise(action)) if word] or [""]
    if not all(word.isalpha() and word.isascii() for word in words):
        return normalise(action)
    if not rest:
        return _past(first.lower())
    if rest[0].lower() in _AFTER or first.lower() in _FIRST:
        done = _past(first.lower()).removesuffix(" to")  # "listened to" has what it needs
        return " ".join([done, *rest]).lower()
    return " ".join(words).lower()


def shown(value: float | None) -> str:
    """A value with two significant digits: ratings as they are, seconds played coarse enough for texts to repeat.

    A value is read from the store as a double and from the log as a float32; both give one text.
    """
    if value is None or np.isnan(value):
        return ""
    return f"{float(f'{float(np.float32(value)):.2g}') + 0.0:.15g}"  # + 0.0: no -0


def normalise(text: str) -> str:
    """Unicode in its composed form, one space between words."""
    return " ".join(unicodedata.normalize("NFC", text.replace("\0", " ")).split())


def _past(verb: str) -> str:
    if verb in _PAST:
        return _PAST[verb]
    ended = verb.endswith("ed") and not verb.endswith("eed")  # need, proceed
    if ended or verb in _DONE or _NOUN.fullmatch(verb):
        return verb
    if verb.endswith("y") and verb[-2:-1] not in tuple("aeiou"):
        return verb[:-1] + "ied"
    if verb.endswith("e"):
        return verb + "d"
    return verb + (verb[-1] if _SHORT.fullmatch(verb) else "") + "ed"


def _item_fields(item: Item | None) -> Mapping[str, str]:
    if item is None:
        return {"title": "", "categories": ""}
    return {"title": item.title, "categories": ", ".join(filter(None, map(normalise, item.categories)))}


def _fill(template: str, fields: Mapping[str, str]) -> str:
    """Fields in their places; marks around an empty one go, those inside a title stay."""
    held: list[str] = []
    pieces: list[str] = []
    for literal, field, _, _ in string.Formatter().parse(template):
        pieces.append(literal.replace("\0", " "))
        if field is not None and (own := normalise(fields[field])):
            held.append(own)
            pieces.append(f"\0{len(held) - 1}\0")
    text = _MARKS.sub(r"\1", _GAPS.sub(r"\1", " ".join("".join(pieces).split())))
    text = text.strip(" ,:;")
    return re.sub(r"\0(\d+)\0", lambda found: held[int(found[1])], text)
