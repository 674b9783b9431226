"""Facts are counts of the behaviours, and titles read as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interest.facts.counts import Facts, facts_of, readable_title
from interest.types import Behavior, Item


def test_categories_are_counted_most_frequent_first(march: Facts) -> None:
    assert (march.categories[0].name, march.categories[0].count) == ("Drama", 6)
    comedy = march.category("comedy")
    assert comedy is not None
    assert (comedy.count, comedy.liked, comedy.mean) == (3, 3, 5.0)
    assert march.category("Thriller").lift == -1  # type: ignore[union-attr]
    assert march.share("Western") == 0.0


def test_liked_is_relative_to_the_users_own_scale() -> None:
    harsh = facts_of(
        [
            (at, Behavior(user_id="u", item_id=str(at), action="rate", at=at, value=value))
            for at, value in enumerate((1, 1, 2))
        ],
        {str(at): Item(item_id=str(at), title=f"T{at}", categories=("Drama",)) for at in range(3)},
    )
    assert [title.feeling for title in harsh.titles] == [-1, -1, 1]


def test_without_values_nothing_is_liked_or_disliked() -> None:
    rows = [(0, Behavior(user_id="u", item_id="1", action="play", at=0.0))]
    facts = facts_of(rows, {"1": Item(item_id="1", title="Song", categories=("Jazz",))})
    assert (facts.verb, facts.mean, facts.titles[0].feeling, facts.bottom(3)) == ("played", None, 0, [])


def test_top_titles_are_the_best_valued_and_keep_their_sequence_numbers(march: Facts) -> None:
    assert [(title.name, title.seq) for title in march.top(2)] == [("Babe", 52), ("Duck Soup", 60)]
    assert {title.name for title in march.bottom(3)} == {"Twister", "Speed", "Taxi Driver"}


@pytest.mark.parametrize(
    ("title", "attributes", "readable"),
    [
        ("Usual Suspects, The", {"release_year": "1995"}, ("The Usual Suspects", 1995)),
        ("Usual Suspects, The (1995)", {}, ("The Usual Suspects", 1995)),
        ("Postino, Il", {}, ("Il Postino", None)),
        ("Misérables, Les", {"Release Year": "1995-01-01"}, ("Les Misérables", 1995)),
        ("I, Robot", {}, ("I, Robot", None)),
        ("", {}, ("", None)),
    ],
)
def test_titles_read_as_people_write_them(
    title: str, attributes: dict[str, str], readable: tuple[str, int | None]
) -> None:
    assert readable_title(Item(item_id="1", title=title, attributes=attributes)) == readable


@given(st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.floats(1, 5)), max_size=30))
def test_counts_add_up(rated: list[tuple[str, float | None]]) -> None:
    catalogue = {"a": Item(item_id="a", title="A", categories=("X", "Y")), "b": Item(item_id="b", title="B")}
    rows = [
        (at, Behavior(user_id="u", item_id=item, action="rate", at=at, value=v)) for at, (item, v) in enumerate(rated)
    ]
    facts = facts_of(rows, catalogue)
    assert facts.size == len(rated)
    assert facts.known == sum(item == "a" for item, _ in rated)
    assert sum(category.count for category in facts.categories) == 2 * facts.known
    assert all(category.liked + category.disliked <= category.count for category in facts.categories)
