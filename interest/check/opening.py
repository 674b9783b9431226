"""How a kept text begins: with the user, where the sentence that named them was cut. Pure."""

from __future__ import annotations

import re

_SINGULAR = {"are": "is", "have": "has", "do": "does", "were": "was"}
_EITHER = (
    r"(?!\w*eed\b)\w+ed|gave|chose|bought|read|saw|found|kept|had|did|went|grew|fell|rose|became|began|took|left|felt|"
    r"made|spent|held|put|sold|won|drew|can|could|will|would|may|might"
)
_ADVERB = r"now|then|also|still|generally|mostly|mainly|often|rarely|seldom|usually|especially|particularly|never"
_PLURAL = (  # a second verb of the same subject, which would have to change too
    rf"\b(?:and|or|but),?(?: (?:{_ADVERB}))* (?:are|have|do|were|like|enjoy|love|prefer|rate|watch|tend|lean|choose|"
    r"show|favou?r|care|dislike|avoid|gravitate|seem|appear|pick|remain|stay|value|play|view|listen|click|save|buy)\b"
)


def of_this_user(sentence: str, verb: str) -> str:
    """ "They rated dramas" as "This user rated dramas", where the verbs that follow go with both or are known.

    verb: what the partition's behaviours did, in the past tense ("listened").
    """
    did = re.escape(verb.partition(" ")[0])
    match = re.match(rf"They (?P<adverbs>(?:(?:{_ADVERB}) )*)(?P<verb>are|have|do|were|{did}|{_EITHER})\b", sentence)
    if not match or re.search(_PLURAL, sentence):
        return sentence
    return f"This user {match['adverbs']}{_SINGULAR.get(match['verb'], match['verb'])}{sentence[match.end() :]}"
