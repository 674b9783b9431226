"""A catalogue of films, a user, and what a partition of ratings says, counted."""

from __future__ import annotations

from interest.facts.counts import Facts, facts_of
from interest.types import Behavior, Item, User

CATALOGUE = {
    item.item_id: item
    for item in (
        Item(item_id="1", title="Shining, The", categories=("Horror",), attributes={"release_year": "1980"}),
        Item(
            item_id="2", title="Fargo", categories=("Crime", "Drama", "Thriller"), attributes={"release_year": "1996"}
        ),
        Item(item_id="3", title="Taxi Driver (1976)", categories=("Drama", "Thriller")),
        Item(item_id="4", title="Duck Soup", categories=("Comedy", "War"), attributes={"release_year": "1933"}),
        Item(
            item_id="5", title="Babe", categories=("Children's", "Comedy", "Drama"), attributes={"release_year": "1995"}
        ),
        Item(item_id="6", title="One Fine Day", categories=("Drama", "Romance"), attributes={"release_year": "1996"}),
        Item(item_id="7", title="E.T. the Extra-Terrestrial", categories=("Drama", "Sci-Fi"), attributes={}),
        Item(item_id="8", title="Hollow Reed", categories=("Drama",), attributes={"release_year": "1996"}),
        Item(item_id="9", title="Speed", categories=("Action", "Thriller"), attributes={"release_year": "1994"}),
        Item(item_id="10", title="Twister", categories=("Action", "Thriller"), attributes={"release_year": "1996"}),
    )
}
PROFILE = User(user_id="u", attributes={"age": "24", "gender": "F", "occupation": "student"})
MARCH_1998 = 889_000_000.0


def facts(*rated: tuple[str, float], first_seq: int = 0) -> Facts:
    """The facts of a partition in which item ids were rated."""
    behaviors = [
        (first_seq + at, Behavior(user_id="u", item_id=item, action="rate", at=MARCH_1998 + at, value=value))
        for at, (item, value) in enumerate(rated)
    ]
    return facts_of(behaviors, CATALOGUE, PROFILE)
