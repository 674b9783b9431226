"""Resolves a text encoder's name to its folder."""

from __future__ import annotations

from pathlib import Path

from streams.settings.load import default_encoder, model_folder


def encoder_folder(named: str | None) -> Path:
    """The folder named, else a fetched model of that name; without a name MiniLM."""
    if not named:
        return default_encoder()
    folder = Path(named).expanduser()
    return folder if folder.is_dir() or not model_folder(named).is_dir() else model_folder(named)
