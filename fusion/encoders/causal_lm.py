"""Opens a causal LLM's folder with transformers, or makes its layers without weights; transformers is imported then.

An error about a broken folder names the file and what to do about it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError

from interest.errors import ArtifactError, InputError
from interest.llm.transformers import LOADING, load_whole

LONGEST = 100_000_000  # bytes of names and shapes, as safetensors itself has it
FETCH_AGAIN = "fetch or copy the language model anew"


def check_weights(folder: Path) -> None:
    """Raise ArtifactError where weights are missing or cut off, judged by the files' headers and sizes alone."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ArtifactError(f"{folder} has no weights, which are files that end in .safetensors; {FETCH_AGAIN}")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            parts = set(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values())
        except (OSError, msgspec.MsgspecError) as error:
            raise ArtifactError(f"{index} cannot be read ({error}); {FETCH_AGAIN}") from None
        absent = sorted(parts - {file.name for file in files})
        if absent:
            raise ArtifactError(f"{folder / absent[0]} is missing; {FETCH_AGAIN}")
    for file in files:
        size, wanted = file.stat().st_size, _size(file)
        if size != wanted:
            raise ArtifactError(f"{file} is broken, it has {size:,} of {wanted:,} bytes; {FETCH_AGAIN}")


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class _Weight(msgspec.Struct):
    data_offsets: tuple[int, int]


def _size(file: Path) -> int:
    """A safetensors file's size by its header: 8 bytes of length, the JSON of that length, the data."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            head = msgspec.json.decode(stream.read(min(length, LONGEST)), type=dict[str, msgspec.Raw])
        weights = [msgspec.json.decode(raw, type=_Weight) for name, raw in head.items() if name != "__metadata__"]
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtifactError(f"{file} is not a file of weights ({error}); {FETCH_AGAIN}") from None
    return 8 + length + max((weight.data_offsets[1] for weight in weights), default=0)


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer. Raises ArtifactError where it has none that can be read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ArtifactError(f"{_tokenizer_file(folder)} cannot be read ({_line(error)}); {FETCH_AGAIN}") from None


def _tokenizer_file(folder: Path) -> Path:
    """The file that a tokenizer is read from."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def load_llm(folder: Path, dtype: torch.dtype) -> Any:
    """The whole LLM, for inference. Raises ArtifactError where the folder cannot be loaded."""
    try:
        from transformers import AutoModel
        from transformers.utils import logging
    except ImportError as error:
        raise InputError(f"{error.name} is not installed: pip install 'interestream[models]'") from None
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with LOADING:  # the verbosity is everyone's too
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # that the head is left out is as it should be
        try:
            model = load_whole(AutoModel, folder, dtype=dtype, attn_implementation="sdpa")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            check_weights(folder)
            raise ArtifactError(
                f"{folder} cannot be loaded as a language model, its config.json and its weights do not fit "
                f"({_line(error)}); {FETCH_AGAIN}"
            ) from error
        finally:
            logging.set_verbosity(verbosity)
    return model.eval().requires_grad_(requires_grad=False)


def init_layers(architecture: dict[str, Any], layers: int) -> Any:
    """A causal LM of `layers` layers, fresh weights and a vocabulary of one; `architecture` is an LLM's config.json."""
    from transformers import AutoConfig, AutoModel

    change = {"num_hidden_layers": max(layers, 1), "vocab_size": 1, "layer_types": None}
    change |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    kept = {name: value for name, value in architecture.items() if name not in ("dtype", "torch_dtype")}
    config = AutoConfig.for_model(**(kept | change))
    from_config: Any = AutoModel.from_config
    with LOADING:
        model = from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    model.layers = model.layers[:layers]
    return model
