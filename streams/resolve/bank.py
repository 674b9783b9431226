"""Which bank the options and the settings mean: an LLM's folder and the recipe of its vectors."""

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
    """What the options say, and [bank] of the settings where they say nothing.

    Raises InputError where there is no LLM, or none that can be cut there.
    """
    own = load_settings().bank
    named = llm or own.llm
    chosen = {
        "cut": own.cut if cut is None and (llm is None or llm == own.llm) else cut,
        "pooling": pooling or own.pooling,
        "precision": precision or own.precision,
    }
    return _recipe(named, own, **chosen)  # type: ignore[arg-type]


def open_bank(settings: BankSettings) -> BankEncoder | None:
    """What the stream fills its bank with; None where no LLM is set. Raises InputError or ArtifactError."""
    found = _configured(settings)
    if found is None:
        return None
    from fusion.encoders.split_llm import open_lower_layers

    return open_lower_layers(*found)


def open_bank_lazily(settings: BankSettings) -> BankEncoder | None:
    """The same, whose LLM is loaded for the first text. Raises InputError."""
    found = _configured(settings)
    return None if found is None else LazyBankEncoder(*found)


class LazyBankEncoder:
    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.recipe, self._folder = recipe, folder
        self._opened: LowerLayers | None = None

    @property
    def width(self) -> int:
        return self._low.width

    @property
    def batch_texts(self) -> int:
        return self._low.batch_texts

    def __call__(self, texts: Sequence[str], advance: Callable[[int], None], /) -> NDArray[np.float32]:
        return self._low(texts, advance)

    @property
    def _low(self) -> LowerLayers:
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


def _recipe(named: str | None, own: BankSettings, cut: int | None, pooling: str, precision: str) -> tuple[Path, Recipe]:
    from fusion.encoders.behavior_text import Template
    from fusion.encoders.split_llm import recipe_of

    folder = llm_folder(named)
    template = Template(behavior=own.behavior or Template().behavior, item=own.item or Template().item)
    recipe = recipe_of(folder, cut, pooling=pooling, precision=precision, template=template)  # type: ignore[arg-type]
    return folder, recipe
