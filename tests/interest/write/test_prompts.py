"""The bytes of a published prompt version never change: they key the answers that stores already hold."""

from __future__ import annotations

import hashlib

import pytest

from interest.facts.counts import Facts
from interest.llm.cache import answer_key
from interest.write.prompts import PROMPTS, Style


@pytest.mark.parametrize(
    ("version", "keys"),
    [("json-1", "58287894aaf562aa"), ("plain-1", "08c838aec25549d8")],
)
def test_the_answer_keys_of_a_prompt_version_are_pinned(version: str, keys: str, march: Facts, february: Facts) -> None:
    prompt, style, films = PROMPTS[version], Style(), Style(noun=("film", "films"))
    digest = hashlib.sha256()
    for attempt in range(4):
        for request in (
            prompt.summary(march, None, attempt, style),
            prompt.summary(february, "None", attempt, films),
            prompt.shift(february, march, "a", "b", attempt, style),
            prompt.shift(march, march, "a", "b", attempt, style),
        ):
            digest.update(answer_key("m", version, request).encode())
    assert digest.hexdigest()[:16] == keys
