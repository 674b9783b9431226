"""Lexicon of the claim check: words of polarity, amount and change, and the plain vocabulary of reporting.

A behaviour log records who did what to which item, when, and how it was valued. A word outside PLAIN that is not a
category, title, number or name of the catalogue therefore says something that nobody recorded ("acclaimed", "with
friends", "plot").
"""

from __future__ import annotations

import re

FLAGS = re.IGNORECASE


def _any(words: str) -> re.Pattern[str]:
    """Any of the words (each a regular expression; separated by commas), whole and in any case."""
    return re.compile(r"\b(?:" + "|".join(re.split(r",\s*", words.strip())) + r")\b", FLAGS)


# Where one stance may end and another begin.
SPLIT = re.compile(
    r";| – | — |,? (?:but|while|whereas|although|though|yet|however|except(?:ing)?)\b"
    r"|,? (?:rather than|instead of|as opposed to)\b"
    r"|,? with (?:a |an |the |one |some )?(?:\w+ )?exceptions?\b"
    r"|,? (?:which|who|where)\b|, (?:and )?(?:they|the user|he|she)\b"
    r"|,? (?:and )?(?:rarely|seldom|less|fewer|more|not)\b(?! than)",
    FLAGS,
)
NEGATION = _any(
    r"dislik\w*, not, \w+n['’]t, never, no, none, avoid\w*, except\w*, hat(?:e|es|ed|ing), worst, poor\w*, unlike, "
    r"rather than, instead of, as opposed to, cares? less, cared less, less (?:fond|interest\w*|keen|enthusias\w*), "
    r"disappoint\w*, weak\w*, without, little interest"
)
LOWER = _any("lower, lowest, below, least, lesser, low, less favou?rably, less well, less highly, less")
RARELY = _any("rarely, seldom, (?<!a )few, hardly, occasional, occasionally, a handful, a couple")
LIKING = _any(
    r"likes?, liked, liking, enjoy\w*, lov(?:e|es|ed|ing), prefer\w*, fond\w*, fans?, favou?r\w*, higher, highest, "
    r"highly,  best, top, appreciat\w*, passion\w*, keen, tastes?, appeal\w*, enthusias\w*, admir\w*, drawn, "
    r"attract\w*,  interest(?:s|ed)? in, well, leans?, affinity"
)
MOSTLY = _any(
    r"most, mostly, mainly, primarily, predominantly, particularly, especially, majority, dominat\w*, above all, "
    r"largely, chiefly, strong\w*, heavily, frequently, main, top, notabl\w*, significant\w*, prefer\w*, fond\w*, "
    r"focus\w*, emphasis"
)
FAVOURITE = _any(r"favou?rites?, best, highest, top choices?, above all")
# Of superlatives: given the highest values, and not one of several that were ("among the best").
HIGHEST = re.compile(r"(?<!among the )(?<!one of the )(?<!some of the )\b(?:highest|best|most highly)\b", FLAGS)
UP = _any(
    r"more(?! than before$), increas\w*, grew, grow\w*, ris(?:e|es|en|ing), rose, new, newly, turned to, towards?, "
    r"gain\w*,  expand\w*, up, began, started, added, emerg\w*, higher, into, greater, stronger"
)
DOWN = _any(
    r"less, fewer, decreas\w*, declin\w*, fell, fall\w*, drop\w*, away from, no longer, reduc\w*, down, lost, "
    r"los(?:e|es|ing), shr[aiu]nk\w*, stopped, left, lower, faded, instead of, rather than, smaller, weaker, over, "
    r"lessen\w*"
)
PAST = _any(r"before, previous(?:ly)?, earlier, used to, past, formerly")
STEADY = _any(r"still, remain\w*, continu\w*, same, steady, unchanged, consistent\w*, stay\w*, stable, both")
COMPARATIVE = _any("than, over, rather than, instead of, above")

YEAR = re.compile(r"\b(?:1[89]|20)\d\d\b(?!s|'s|’s)")
DECADE = re.compile(
    r"(?<!\w)['’]?(?P<digits>(?:(?:1[89]|20)\d|[1-9])0)['’]?s\b"
    r"|\b(?P<word>twenties|thirties|forties|fifties|sixties|seventies|eighties|nineties)\b",
    FLAGS,
)
_NUMBERS = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty"
)
NUMBER_WORDS = {word: number for number, word in enumerate(_NUMBERS.split(), start=2)}
_SPELLED = "|".join(sorted(NUMBER_WORDS, key=len, reverse=True))
NUMBER = re.compile(
    rf"(?<![\w.])(?:(?P<digits>\d{{1,3}}(?:,\d{{3}})+|\d+(?:\.\d+)?)|(?P<word>{_SPELLED}))(?!\w)", FLAGS
)
_MONTHS = "January February March April May June July August September October November December"
MONTHS = frozenset(_MONTHS.split())

# Only of the user: "a female lead" says something else, and is a detail nobody recorded.
GENDER = re.compile(
    r"\b(?:(?P<female>she|her|hers|herself|female(?= (?:user|viewer))|woman(?= who))"
    r"|(?P<male>he|him|his|himself|male(?= (?:user|viewer))|man(?= who)))\b",
    FLAGS,
)

# The vocabulary of reporting. Verb and noun endings are taken off before a word is looked up (`plain`).
_PLAIN = """
a about above above-average across action activity affinity after again all almost along also although always among an
and another any apart appeal appreciate appreciation are around as aside at attract attracted attraction average avoid
avoided away balance be became because been before began behind being below below-average beside besides best better
between both bought broad broadly but by called came can care catch category center centre choice choose chose chosen
clear clearly click clicked close combination combine common compare compared comparison consider consist consistent
consistently continue decline decrease describe devote did different disinterest dislike disliked diverse do does down
draw drawn drop dropped during each eager earlier eclectic either elements else elsewhere emphasis enjoy enjoyable
enjoyment enthusiasm enthusiast enthusiastic enthusiastically entire equal equally especially even evenly ever every
except exception expand fall familiar fan fascinated fascination favor favorable favorably favorite favour favourable
favourably favourite feature fell felt few fewer film first focus followed fond fondness for form former found
frequent frequently from fully further furthermore gave general generally genre genres get give given gone good
gravitate great greater greatest grew group grow growing growth habit had half handful hardly has hate have having
held here high higher highest highly hold how however if in inclination inclined include increase increasing
increasingly instead interest interested into is it item its itself just keen keep kept kind large largely larger
largest last lately later latest lean leaning least left less lessen lesser lighter like likelihood likely liking list
listen listened little long longer lose lost lot love loved lover low lower lowest main mainly majority many may mean
meanwhile might mix mixed mixture moderate moderately more moreover most mostly move movie moving much name named
narrow near nearly neither never new newly next no nor not notable notably note nothing now number occasional
occasionally of off often on once one only onto open opt or order other otherwise out over overall own part particular
particularly passion passionate past pattern per perhaps period pick picked place play played plenty plus point
population positive possibly prefer preference preferred previous previously primarily primary product proportion
purchase purchased put quite range rank rare rarely rate rated rather rating read realm receive received record reduce
regard relative relatively release remain replace respond rest rise rose same save saved score second seek seem select
selection sense series-free set several share shift show shown side significant significantly similar similarly since
single slight slightly small smaller so solid some somewhat sort split spread star stay steady still strong stronger
strongest strongly such taste tend tendency than that the their theirs them themselves then there these they thing
third this those though through throughout thus time times title titled to together told too took top total toward
towards track trend try turn type typical typically unchanged under unlike until up used user usual usually value
valued varied variety various very view viewed viewer viewing was watch watched watching way weight well went were
what when whenever where whereas whether which while who whole whom whose wide widely wider will with within without
work would yet
song book game article video product podcast album episode
"""
PLAIN = frozenset(_PLAIN.split()) | NUMBER_WORDS.keys()
_ENDINGS = ("", "s", "es", "ed", "d", "ing", "ly", "'s", "’s", "n't")


def plain(word: str) -> bool:
    """Whether a word (any case) belongs to the plain vocabulary, bare or with a common ending."""
    low = word.lower().strip("'’")
    if low in PLAIN or re.fullmatch(r"\w+n['’]t|they['’](?:re|ve|d|ll)|it['’]s|that['’]s", low):
        return True
    for ending in _ENDINGS[1:]:
        stem = low.removesuffix(ending)
        if stem != low and (
            stem in PLAIN or stem + "e" in PLAIN or stem + "y" in PLAIN or stem.removesuffix("i") + "y" in PLAIN
        ):
            return True
    return all(part in PLAIN or part.isdecimal() for part in low.split("-")) if "-" in low else False
