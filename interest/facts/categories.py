"""How category names read in English: as nouns in a sentence, and in which forms a text may mention them.

Catalogues write "Sci-Fi" and "Children's"; people write "science fiction" and "children's titles". Known names have an
entry below; any other name is used as it stands, in lower case. Pure; knows no catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

# Name -> (plural noun or None where the name only qualifies, qualifier, other forms a text may use).
_KNOWN: dict[str, tuple[str | None, str, tuple[str, ...]]] = {
    "action": (None, "action", ("action-packed",)),
    "adventure": (None, "adventure", ("adventures", "adventurous")),
    "animation": (None, "animated", ("animation", "animations", "cartoon", "cartoons")),
    "biography": ("biographies", "biographical", ("biography", "biopic", "biopics")),
    "children's": (None, "children's", ("childrens", "children’s")),
    "children": (None, "children's", ("childrens", "children’s")),
    "comedy": ("comedies", "comedy", ("comedic", "humor", "humour", "humorous", "funny", "rom-com", "rom-coms")),
    "crime": (None, "crime", ("crimes",)),
    "documentary": ("documentaries", "documentary", ("documentarian",)),
    "drama": ("dramas", "drama", ("dramatic",)),
    "family": (None, "family", ("families",)),
    "fantasy": (None, "fantasy", ("fantasies", "fantastical")),
    "film-noir": (None, "film-noir", ("film noir", "film noirs", "noir", "noirs")),
    "history": (None, "history", ("historical", "historic")),
    "horror": (None, "horror", ("horrors", "scary", "slasher", "slashers")),
    "music": (None, "music", ("musical", "musicals")),
    "musical": ("musicals", "musical", ()),
    "mystery": ("mysteries", "mystery", ("mysterious",)),
    "romance": ("romances", "romance", ("romantic", "rom-com", "rom-coms", "love story", "love stories")),
    "sci-fi": (None, "science-fiction", ("sci-fi", "scifi", "science fiction", "sci fi", "futuristic")),
    "sport": (None, "sport", ("sports",)),
    "superhero": (None, "superhero", ("superheroes",)),
    "thriller": ("thrillers", "thriller", ("suspense", "suspenseful", "thrilling")),
    "war": (None, "war", ("wars", "wartime")),
    "western": ("westerns", "western", ()),
}


def qualifier(name: str) -> str:
    """The category before a noun: "science-fiction" (titles), "drama" (titles)."""
    known = _KNOWN.get(name.lower())
    return known[1] if known else name.lower()


def plural(name: str, noun: str = "titles") -> str:
    """The category's members: "dramas", "science-fiction titles"."""
    known = _KNOWN.get(name.lower())
    return known[0] if known and known[0] else f"{qualifier(name)} {noun}"


def counted(name: str, count: int, noun: tuple[str, str] = ("title", "titles")) -> str:
    """ "1 drama", "31 dramas", "1 science-fiction title", "5 science-fiction titles"."""
    known = _KNOWN.get(name.lower())
    if count == 1:
        return f"1 {qualifier(name)}" if known and known[0] else f"1 {qualifier(name)} {noun[0]}"
    return f"{count:,} {plural(name, noun[1])}"


@lru_cache(maxsize=4096)
def forms(name: str) -> tuple[str, ...]:
    """Every form, in lower case and longest first, in which a text may mention the category."""
    low = name.lower()
    spellings = {low, low.replace("-", " "), low + "s"}
    if low.endswith("y"):
        spellings.add(low[:-1] + "ies")
    if known := _KNOWN.get(low):
        spellings.update((known[1], *known[2]))
        if known[0]:
            spellings.add(known[0])
    return tuple(sorted(spellings, key=lambda form: (-len(form), form)))


@lru_cache(maxsize=64)
def mentions(names: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, tuple[str, ...]]]:
    """A pattern that finds any of the categories in a text, and which categories each matched form (lower case) means.

    The commonly known categories are always among them, so that a text naming one the catalogue lacks is noticed.
    """
    meaning: dict[str, set[str]] = {}
    given = {name.lower() for name in names}
    builtin = [name for name in _KNOWN if name not in given and not (given & set(forms(name)))]
    for name in (*names, *builtin):
        for form in forms(name):
            meaning.setdefault(form, set()).add(name)
    longest_first = sorted(meaning, key=lambda form: (-len(form), form))
    alternatives = "|".join(map(re.escape, longest_first))
    pattern = re.compile(rf"(?<![\w'’])(?:{alternatives})(?![\w’]|'\w)", re.IGNORECASE)
    return pattern, {form: tuple(sorted(categories)) for form, categories in meaning.items()}


def listed(words: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *rest, last = list(words) or [""]
    return f"{', '.join(rest)} and {last}" if rest else last
