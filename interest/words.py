"""The words by which the claim check reads a sentence: polarity, amount, change, and the plain vocabulary of reporting.

A behaviour log records who did what to which item, when, and how it was valued. A word outside PLAIN that is no category,
title, number or name of the catalogue therefore says something that nobody recorded ("acclaimed", "with friends", "plot").
"""

from __future__ import annotations

import re

FLAGS = re.IGNORECASE


def _any(words: str) -> re.Pattern[str]:
    """Any of the words (each a regular expression; separated by commas), whole and in any case."""
    return re.compile(r"\b(?:" + "|".join(re.split(r",\s*", words.strip())) + r")\b", FLAGS)


# Where one stance may end and another begin.
SPLIT = re.compile(
    r";| – | — |,? (?:but|while|whereas|although|though|yet|however|except(?:ing)?|rather than|instead of|as opposed to)\b"
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
RARELY = _any("rarely, seldom, few, hardly, occasional, occasionally, a handful, a couple")
LIKING = _any(
    r"likes?, liked, liking, enjoy\w*, lov(?:e|es|ed|ing), prefer\w*, fond\w*, fans?, favou?r\w*, higher, highest, highly, "
    r"best, top, appreciat\w*, passion\w*, keen, tastes?, appeal\w*, enthusias\w*, admir\w*, drawn, attract\w*, "
    r"interest(?:s|ed)? in, well, leans?, affinity"
)
MOSTLY = _any(
    r"most, mostly, mainly, primarily, predominantly, particularly, especially, majority, dominat\w*, above all, largely, "
    r"chiefly, strong\w*, heavily, frequently, main, top, notabl\w*, significant\w*"
)
FAVOURITE = _any(r"favou?rites?, best, highest, top choices?, above all")
UP = _any(
    r"more(?! than before$), increas\w*, grew, grow\w*, ris(?:e|es|en|ing), rose, new, newly, turned to, towards?, gain\w*, "
    r"expand\w*, up, began, started, added, emerg\w*, higher, into, greater, stronger"
)
DOWN = _any(
    r"less, fewer, decreas\w*, declin\w*, fell, fall\w*, drop\w*, away from, no longer, reduc\w*, down, lost, "
    r"los(?:e|es|ing), shr[aiu]nk\w*, stopped, left, lower, faded, instead of, rather than, smaller, weaker"
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

GENDER = re.compile(
    r"\b(?:(?P<female>she|her|hers|herself|woman|women|female|girl|lady|mother|wife)"
    r"|(?P<male>he|him|his|himself|man|men|male|boy|gentleman|father|husband|guy))\b",
    FLAGS,
)

# The vocabulary of reporting. Verb and noun endings are taken off before a word is looked up (`plain`).
_PLAIN = """
a about above across after again all almost along also although always among an and another any apart are around as aside at
away be became because been before began behind being below beside besides best better between both broad broadly but by came
can clear clearly close common compared comparison consistent consistently did different diverse do does down drawn during each
earlier either else elsewhere equal equally especially even evenly ever every except few fewer first followed for former found
frequent frequently from fully further furthermore gave general generally give given gone good great greater greatest group half
had hardly has have having here high higher highest highly how however if in increasing increasingly instead into is it its
itself just keen kind large largely larger largest last lately later latest lead leading least left less lesser like likely
little long longer lot low lower lowest main mainly majority many may mean meanwhile might mix mixed mixture moderate
moderately more moreover most mostly moving much narrow near nearly neither never new newly next no nor not notable notably
nothing now number occasional occasionally of off often on once one only onto or other otherwise out over overall own part
particular particularly past per perhaps period place plenty plus point positive possibly previous previously primarily primary
quite range rare rarely rather realm rest same second seem sense set several share shift show significant significantly similar
similarly since single slight slightly small smaller so solid some somewhat sort spread steady still strong stronger strongest
strongly such tend than that the their theirs them themselves then there these they thing third this those though through
throughout thus time times to together too top total toward towards turn type typical typically under unlike until up usual
usually variety varied various very was way well went were what when whenever where whereas whether which while who whole whom
whose wide widely wider will with within without work would yet above-average below-average
action activity affinity appeal appreciate appreciation attract attracted attraction average avoid avoided balance care
category catch centre center choice choose chose chosen click clicked combination combine consider consist continue decline
decrease describe devote dislike disliked disinterest draw drop dropped eager eclectic elements emphasis enjoy enjoyable
enjoyment enthusiasm enthusiast enthusiastic enthusiastically entire exception expand explore fall familiar fan fascination
fascinated favor favorable favorably favorite favour favourable favourably favourite feature fell felt film focus fond fondness
form genre get gone gravitate grew grow growing growth habit handful hate held hold include inclination inclined increase
interest interested item keep kept lean leaning likelihood liking lighter list listen listened lose lost love loved lover
month movie name named note number open opt order passion passionate pattern pick picked play played played
population preference prefer preferred product proportion purchase purchased bought put rank rate rated rating read receive
received record reduce regard relative relatively remain replace respond rise rose save saved score seek select selection shown
side split star stay taste tendency their title titled told took track trend try try unchanged used user value valued view viewed
viewer viewing watch watched watching weight year genres series-free called
month week day year
"""
PLAIN = frozenset(_PLAIN.split())
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
