"""Resolves the behaviour bank of options and settings: the LLM's folder and the recipe of its vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from interest.errors import InputError
from streams.settings.load import cache_folder, default_llm, load_settings, model_folder
from streams.settings.schema import BankSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fusion.bank.vectors import BankEncoder
    from fusion.encoders.recipe import Recipe
    from fusion.encoders.split_llm import LowerLayers


def llm_folder(named: str | None) -> Path:
    """The folder named, else a fetched model of that name; without a name the fetched SmolLM2.

    Absolute: artifacts keep it, and are scored from anywhere.
    """
    if not named:
        return default_llm().resolve()
    folder = Path(named).expanduser()
    return (folder if folder.is_dir() or not model_folder(named).is_dir() else model_folder(named)).resolve()


def choose_recipe(
    llm: str | None, cut: int | None, pooling: str | None = None, precision: str | None = None
) -> tuple[Path, Recipe]:
    """The LLM's folder and the recipe by the options, else by [bank] of the settings.

    Raises InputError where there is no LLM, and where it cannot be split at that layer.
    """
    settings = load_settings().bank
    named = llm or settings.llm
    chosen = {
        "cut": settings.cut if cut is None and (llm is None or llm == settings.llm) else cut,
        "pooling": pooling or settings.pooling,
        "precision": precision or settings.precision,
    }
    return _recipe(named, settings, **chosen)  # type: ignore[arg-type]


def open_bank(settings: BankSettings) -> BankEncoder | None:
    """The encoder that the stream fills its bank with; None where no LLM is set. Raises InputError or ArtifactError."""
    configured = _configured(settings)
    if configured is None:
        return None
    from fusion.encoders.split_llm import open_lower_layers

    return open_lower_layers(*configured)


def open_bank_lazily(settings: BankSettings) -> BankEncoder | None:
    """The same, with an LLM that is loaded for the first text. Raises InputError."""
    configured = _configured(settings)
    return None if configured is None else LazyBankEncoder(*configured)


class LazyBankEncoder:
    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.recipe, self._folder = recipe, folder
        self._opened: LowerLayers | None = None

    @property
    def width(self) -> int:
        return self._lower.width

    @property
    def batch_texts(self) -> int:
        return self._lower.batch_texts

    def __call__(self, texts: Sequence[str], advance: Callable[[int], None], /) -> NDArray[np.float32]:
        return self._lower(texts, advance)

    @property
    def _lower(self) -> LowerLayers:
        if self._opened is None:
            from fusion.encoders.split_llm import open_lower_layers

            self._opened = open_lower_layers(self._folder, self.recipe)
        return self._opened


def _configured(settings: BankSettings) -> tuple[Path, Recipe] | None:
    if settings.llm is None:
        return None
    try:
        return _recipe(settings.llm, settings, settings.cut, settings.pooling, settings.precision)
    except InputError as error:
        raise InputError(f"INTERESTREAM_BANK_LLM: {error}") from None


def bank_files_folder() -> Path:
    """Where banks are mapped for training."""
    return cache_folder() / "banks"


def _recipe(
    named: str | None, settings: BankSettings, cut: int | None, pooling: str, precision: str
) -> tuple[Path, Recipe]:
    from fusion.encoders.behavior_text import Template
    from fusion.encoders.split_llm import recipe_of

    folder = llm_folder(named)
    template = Template(behavior=settings.behavior or Template().behavior, item=settings.item or Template().item)
    recipe = recipe_of(folder, cut, pooling=pooling, precision=precision, template=template)  # type: ignore[arg-type]
    return folder, recipe
