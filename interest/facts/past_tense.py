"""The past tense of actions: "rated" of "rate", "added to cart" of "add_to_cart". Pure; knows no catalogue."""

from __future__ import annotations

import re
import unicodedata

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


def past_tense(action: str) -> str:
    """The past tense of an action's name; what is in the past tense already, or is not a verb, stays as it is."""
    first, *rest = words = [word for word in _BREAKS.split(normalise(action)) if word] or [""]
    if not all(word.isalpha() and word.isascii() for word in words):
        return normalise(action)
    if not rest:
        return _past(first.lower())
    if rest[0].lower() in _AFTER or first.lower() in _FIRST:
        done = _past(first.lower()).removesuffix(" to")  # "listened to" has what it needs
        return " ".join([done, *rest]).lower()
    return " ".join(words).lower()


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
