"""Opens the teacher of `interestream adapt`: a larger model behind a URL, and the encoder that judges its words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from interest.errors import InputError, Unreadable
from interest.llm.protocol import Complete
from interest.types import Item
from interest.write.describe import Told, Wanted, ask_about
from interest.write.item_prompt import Description, item_lines
from streams.progress import progress
from streams.resolve.encoder import encoder_folder
from streams.resolve.llm import open_llm
from streams.settings.load import load_settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fusion.adaptation.teacher import Teacher


@contextmanager
def open_teacher(
    engine: Engine, url: str | None, model: str | None, items: int, noun: tuple[str, str]
) -> Iterator[Teacher | None]:
    """The teacher that a URL names; None without one. Its answers are cached in the store, like those of `describe`.

    Raises InputError for what is no URL, and where there is no text encoder.
    """
    from fusion.adaptation.teacher import Teacher
    from fusion.encoders.sentence import check_encoder, open_encoder

    if url is None:
        if model is not None:
            raise InputError(f"--teacher-model {model}: name the server too, with --teacher URL")
        yield None
        return
    if not url.startswith(("http://", "https://")):
        raise InputError(
            f"--teacher {url}: give the URL of an OpenAI-compatible server, such as http://localhost:8000/v1"
        )
    if not model:
        raise InputError(f"name the model that {url} serves with --teacher-model")
    folder = encoder_folder(load_settings().fusion.encoder)
    check_encoder(folder)

    def encode(texts: list[str]) -> NDArray[np.float32]:
        with progress("Reading the summaries", len(texts), unit="texts") as advance:
            return open_encoder(folder)(texts, advance)

    with open_llm(url, model=model) as opened:
        complete = opened.complete
        assert complete is not None
        yield Teacher(
            name=opened.name,
            items=items,
            ask=lambda wanted: summaries(engine, complete, opened.name, wanted, noun[0]),
            encode=encode,
        )


def summaries(engine: Engine, complete: Complete, model: str, items: Sequence[Item], noun: str) -> Mapping[str, str]:
    """What a model says of items, by item id; those of which it says nothing are left out.

    Raises Unreadable where replies could not be read: asking again goes on from the cache.
    """
    wanted = [Wanted(item.item_id, lines) for item in items if (lines := item_lines(item))]
    said: dict[str, str] = {}
    told = Told()
    with progress("Asking the teacher", len(wanted), unit="items") as advance:

        def took(one: Wanted, description: Description) -> None:
            told.outcomes[description.outcome] += 1
            if description.text:
                said[one.item_id] = description.text
            advance(1)

        ask_about(engine, complete, wanted, model=model, noun=noun, told=told, took=took)
    if told.unread:
        raise Unreadable(
            f"{told.unread:,} of the teacher's replies could not be read: {told.trouble}; the same command asks again"
        )
    return said
