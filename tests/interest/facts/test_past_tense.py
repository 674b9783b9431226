"""Actions read in the past tense, whatever way a log writes them."""

from __future__ import annotations

import pytest

from interest.facts.past_tense import past_tense


@pytest.mark.parametrize(
    ("actions", "text"),
    [
        ("buy bought BUY", "bought"),
        ("listen", "listened to"),
        ("rate rated Rated", "rated"),
        ("click clicked", "clicked"),
        ("purchase purchased", "purchased"),
        ("see saw", "saw"),
        ("pay paid", "paid"),
        ("read", "read"),
        ("put", "put"),
        ("try tried", "tried"),
        ("play played", "played"),
        ("skip skipped", "skipped"),
        ("add added", "added"),
        ("view viewed pv pageview", "viewed"),
        ("open opened", "opened"),
        ("fix", "fixed"),
        ("need needed", "needed"),
        ("proceed proceeded", "proceeded"),
        ("agreed agree", "agreed"),
        ("submit", "submitted"),
        ("rent rented", "rented"),
        ("dislike", "disliked"),
        ("rating", "rating"),
        ("impression", "impression"),
        ("mention", "mentioned"),
        ("add_to_cart add-to-cart addToCart added_to_cart ADD_TO_CART cart", "added to cart"),
        ("remove_from_cart", "removed from cart"),
        ("view_item viewItem", "viewed item"),
        ("listen_to", "listened to"),
        ("begin_checkout", "began checkout"),
        ("sign_up signup", "signed up"),
        ("page_view", "page view"),
        ("rate5", "rate5"),
        ("купил", "купил"),
    ],
)
def test_what_was_done_reads_in_the_past_tense(actions: str, text: str) -> None:
    assert {past_tense(action) for action in actions.split()} == {text}
    assert past_tense(text) == text
