"""Texts of behaviours and items as BAHE reads them."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.encoders.behavior_text import Template, behavior_text, format_value, item_text
from interest.errors import InputError
from interest.types import Item

TOY = Item(item_id="1", title="Toy Story (1995)", categories=("Animation", "Comedy"))
PLAIN = Template()


@pytest.mark.parametrize(
    ("action", "value", "item", "text"),
    [
        ("rate", 5.0, TOY, "rated 5: Toy Story (1995), Animation, Comedy"),
        ("view", None, TOY, "viewed: Toy Story (1995), Animation, Comedy"),
        ("rate", 4.5, Item(item_id="1", title="Heat"), "rated 4.5: Heat"),
        ("rate", 4.5, Item(item_id="1", title="Alien:  ,the  one"), "rated 4.5: Alien: ,the one"),
        ("rate", 2.0, Item(item_id="1", categories=("Drama",)), "rated 2: Drama"),
        ("purchase", None, None, "purchased"),
        ("add_to_cart", 183.2, TOY, "added to cart 180: Toy Story (1995), Animation, Comedy"),
        ("rate", 2.0, Item(item_id="1", title=" \t\u00a0", categories=("Drama",)), "rated 2: Drama"),
        ("rate", 2.0, Item(item_id="1", title="\0", categories=(" ", "Drama", "")), "rated 2: Drama"),
        ("rate", 2.0, Item(item_id="1", title=" ", categories=(" ",)), "rated 2"),
    ],
)
def test_behaviour_texts(action: str, value: float | None, item: Item | None, text: str) -> None:
    assert behavior_text(PLAIN, action, value, item) == text


def test_item_texts_and_values() -> None:
    assert item_text(PLAIN, TOY) == "Toy Story (1995), Animation, Comedy"
    assert item_text(PLAIN, None) == item_text(PLAIN, Item(item_id="1")) == ""
    assert item_text(PLAIN, Item(item_id="1", title="  ", categories=("", " "))) == ""
    assert item_text(PLAIN, Item(item_id="1", title="Ame\u0301lie")) == "Amélie"
    assert [format_value(value) for value in (3.7, float(np.float32(3.7)), 0.0, -0.0, 1234.5, float("nan"), None)] == [
        "3.7", "3.7", "0", "0", "1200", "", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["{author}", "no field", "{title", "title}", "{}", "{0}", "{title} {value}", "{title!r}", "{title:>9}",
     "{title.upper}", "{title[0]}", "{title!}", "{title:{categories}}", " "],
)  # fmt: skip
@pytest.mark.parametrize("name", ["behavior", "item"])
def test_a_template_that_cannot_be_filled_is_refused(name: str, text: str) -> None:
    if name == "behavior":
        text = text.replace("{value}", "{values}")
    with pytest.raises(InputError, match=rf"{name} template .*\[bank\] {name}.*{{title}}, {{categories}}"):
        Template(**{name: text}).check()


def test_a_format_is_refused_and_braces_are_text() -> None:
    with pytest.raises(InputError, match=r"can use \{did\}, \{value\}, .* without a format"):
        Template(behavior="{did} {value:.1f}").check()
    own = Template(behavior="{{{did}}} {title}")
    own.check()
    assert behavior_text(own, "rate", 1.0, TOY) == "{rated} Toy Story (1995)"
