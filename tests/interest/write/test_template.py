"""The stand-in is grammatical and true whatever the counts are."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from interest.check.category_claims import claims_in
from interest.check.evidence import Evidence
from interest.facts.categories import counted, listed, plural
from interest.facts.counts import Facts, facts_of
from interest.types import Behavior, Item
from interest.write.template import moves, shift_sentence, summary_sentence

NAMES = ("Drama", "Comedy", "Sci-Fi", "Children's", "Action", "Film-Noir", "Mystery", "Kitchenware")


@st.composite
def partitions(draw: st.DrawFn, first_seq: int = 0) -> Facts:
    catalogue = {
        str(at): Item(item_id=str(at), title=f"Item {chr(65 + at)}", categories=tuple(sorted(names)))
        for at, names in enumerate(draw(st.lists(st.sets(st.sampled_from(NAMES), max_size=3), min_size=1, max_size=8)))
    }
    rated = draw(st.lists(st.tuples(st.sampled_from(sorted(catalogue)), st.none() | st.integers(1, 5)), max_size=40))
    return facts_of(
        [
            (first_seq + at, Behavior(user_id="u", item_id=item, action="rate", at=float(at), value=value))
            for at, (item, value) in enumerate(rated)
        ],
        catalogue,
    )


@given(partitions(), partitions())
def test_sentences_are_whole_and_their_numbers_agree(before: Facts, now: Facts) -> None:
    for text in (summary_sentence(now), shift_sentence(before, now), summary_sentence(now, ("song", "songs"))):
        assert re.fullmatch(r"This user.+\.", text)
        assert not re.search(r"  | ,|\(\)|, \.|\b1 titles\b|\b1 dramas\b|\ba [aeiou]|\band \.", text)


@given(partitions())
def test_every_category_a_summary_names_is_in_the_partition(facts: Facts) -> None:
    evidence = Evidence(facts, categories=NAMES)
    found = [claim for claim in claims_in(summary_sentence(facts), evidence) if claim.kind == "category"]
    assert all(facts.category(name) for claim in found for name in claim.about)


def test_a_summary_reads_like_english(march: Facts) -> None:
    assert summary_sentence(march, ("film", "films")) == (
        "This user rated 11 films, mostly dramas (6), thrillers (4) and comedies (3). They valued comedies (3 of 3 "
        "rated 5) higher than the rest, and thrillers lower. Among their favourites were Babe and Duck Soup."
    )


def test_a_shift_names_what_grew_and_what_fell(february: Facts, march: Facts) -> None:
    assert moves(february, march) == (["Comedy", "War"], ["Thriller", "Action"])
    assert shift_sentence(february, march) == (
        "This user turned from thrillers (from 10 to 4) and action titles (from 6 to 2) to comedies (from 0 to 3) and "
        "war titles (from 0 to 2)."
    )
    assert "much the same" in shift_sentence(march, march)


def test_singular_and_plural() -> None:
    assert counted("Drama", 1) == "1 drama"
    assert counted("Sci-Fi", 1) == "1 science-fiction title"
    assert counted("Sci-Fi", 5, ("film", "films")) == "5 science-fiction films"
    assert plural("Mystery") == "mysteries"
    assert plural("Kitchenware", "items") == "kitchenware items"
    assert [listed(words) for words in ((), ("a",), ("a", "b"), ("a", "b", "c"))] == ["", "a", "a and b", "a, b and c"]
