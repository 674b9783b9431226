"""Resolves a text encoder's name to its folder, and how items read to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from streams.settings.load import default_encoder, load_settings, model_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fusion.encoders.sentence import TextEncoder


def encoder_folder(named: str | None) -> Path:
    """The folder named, else a fetched model of that name; without a name MiniLM."""
    if not named:
        return default_encoder()
    folder = Path(named).expanduser()
    return folder if folder.is_dir() or not model_folder(named).is_dir() else model_folder(named)


def item_template() -> str:
    """How an item reads to the text encoder, by [items] of the settings. Raises InputError for one that cannot be."""
    from fusion.encoders.item_text import ITEM_TEMPLATE, check_item_template

    return check_item_template(load_settings().items.template or ITEM_TEMPLATE)


class EncoderWhenNeeded:
    """A text encoder that is loaded for the first text: importing torch takes ten seconds on a slow machine."""

    def __init__(self, folder: Path, encoder_id: str) -> None:
        self.id, self._folder = encoder_id, folder
        self._opened: TextEncoder | None = None

    def __call__(self, texts: list[str], /) -> NDArray[np.float32]:
        if self._opened is None:
            from fusion.encoders.sentence import open_encoder

            self._opened = open_encoder(self._folder)
        return self._opened(texts)
