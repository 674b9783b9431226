"""Where things are, from the environment: the store and the cache of fetched models and logs."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT_STORE = "sqlite:///interestream.db"


def store_url(option: str | None = None) -> str:
    """The store's SQLAlchemy URL: the option, else INTERESTREAM_STORE, else a file in the working folder."""
    return option or os.environ.get("INTERESTREAM_STORE") or DEFAULT_STORE


def cache_folder() -> Path:
    """The folder of fetched things: INTERESTREAM_CACHE, else ~/.cache/interestream."""
    return Path(os.environ.get("INTERESTREAM_CACHE") or Path.home() / ".cache" / "interestream").expanduser()


def sample_log() -> Path:
    """ML-100K's folder: ml-100k.inter, ml-100k.item, ml-100k.user (RecBole atomic files)."""
    return cache_folder() / "ml-100k"


def default_llm() -> Path:
    """SmolLM2-135M-Instruct as a transformers checkpoint."""
    return cache_folder() / "smollm2-135m-instruct"


def default_encoder() -> Path:
    """The all-MiniLM-L6-v2 text encoder."""
    return cache_folder() / "all-minilm-l6-v2"


def model_folder(name: str) -> Path:
    """Where `interestream fetch --model NAME` puts a model of a hub: BAAI/bge-m3 in models/BAAI--bge-m3."""
    return cache_folder() / "models" / name.replace("/", "--")
