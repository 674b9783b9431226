"""Resolves a text encoder's name to its folder, and how items read to it."""

from __future__ import annotations

from pathlib import Path

from streams.settings.load import default_encoder, load_settings, model_folder


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
