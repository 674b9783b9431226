"""Texts to vectors: any sentence encoder that transformers loads, pooled over tokens, length 1.

A text's vector is the same to the last bit whatever it is encoded with: every batch has one fixed number of rows and
a length rounded up to 8 tokens, so the matrix products keep their shape and with it their order of summation (on one
machine with one number of threads). Without that, a store filled in two runs would differ from one filled in one.

Does not know whose text it is. torch and transformers are imported when an encoder is opened.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from interest.errors import ArtifactError, InputError
from interest.llm.transformers import load_whole

Precision = Literal["float32", "bfloat16"]
Pooling = Literal["mean", "cls"]
LENGTH_STEP = 8  # tokens; a batch is as long as its texts, rounded up to this
ROWS_CPU = 8  # rows a batch: on 1-2 cores more gain nothing, and a lone text is padded with empty rows up to this
ROWS_CUDA = 128


class TextEncoder:
    """A text encoder held in memory: `encoder(texts) -> (n, d)`."""

    def __init__(self, model: Any, tokenizer: Any, *, encoder_id: str, max_tokens: int, pooling: Pooling, rows: int):
        self.id = encoder_id  # name, hash of the weights, precision: what can change a vector
        self.width = int(model.config.hidden_size)
        self.max_tokens = max_tokens
        self._model = model
        self._tokenizer = tokenizer
        self._pooling = pooling
        self._rows = rows

    def __call__(self, texts: Sequence[str], advance: Callable[[int], None] = lambda _: None) -> NDArray[np.float32]:
        """Encode texts; returns (n, d), rows of length 1, in the order given. A text longer than `max_tokens` is cut.

        An empty text is a ValueError: a vector for it would look like one that means something. `advance` is called
        with the number of texts in each finished batch.
        """
        empty = next((number for number, text in enumerate(texts) if not text.strip()), None)
        if empty is not None:
            raise ValueError(f"text {empty} of {len(texts)} is empty; leave it out")
        vectors = np.empty((len(texts), self.width), dtype=np.float32)
        if not texts:
            return vectors
        tokens = self._tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        for length, batch in batches([len(ids) for ids in tokens], self._rows, self.max_tokens):
            vectors[batch] = self._encode([tokens[position] for position in batch], length)
            advance(len(batch))
        return vectors

    def _encode(self, rows: list[list[int]], length: int) -> NDArray[np.float32]:
        import torch

        ids = torch.full((self._rows, length), self._tokenizer.pad_token_id or 0)  # (B, T)
        mask = torch.zeros((self._rows, length), dtype=torch.long)
        mask[:, 0] = 1  # an empty row attends to its one padding token: no softmax over nothing
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        device = self._model.device
        ids, mask = ids.to(device), mask.to(device)
        with torch.inference_mode():
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()  # (B, T, d)
        if self._pooling == "cls":
            pooled = states[:, 0]
        else:
            weights = mask.unsqueeze(-1)  # (B, T, 1)
            pooled = (states * weights).sum(1) / weights.sum(1)  # (B, d)
        vectors: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
        return vectors[: len(rows)]


def batches(lengths: Sequence[int], rows: int, longest: int) -> Iterator[tuple[int, list[int]]]:
    """Batch texts by length, rounded up to LENGTH_STEP, at most `longest`: (padded length, up to `rows` positions)."""
    padded = [min(-(-length // LENGTH_STEP) * LENGTH_STEP, longest) for length in lengths]
    for length, group in groupby(sorted(range(len(padded)), key=padded.__getitem__), key=padded.__getitem__):
        positions = list(group)
        for start in range(0, len(positions), rows):
            yield length, positions[start : start + rows]


def open_encoder(folder: Path, *, precision: Precision = "float32", device: str | None = None) -> TextEncoder:
    """Load the sentence encoder in a folder.

    `precision`: float32 (on a CPU without matrix units 1.6 times as fast as bfloat16 for MiniLM) or bfloat16;
    `device`: CUDA where present. Raises InputError where there is nothing, ArtifactError where it cannot be loaded.
    """
    check_encoder(folder)
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise InputError(f"{error.name} is not installed: pip install 'interestream[models]'") from None
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = load_whole(AutoModel, folder, dtype=getattr(torch, precision))
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{folder} cannot be loaded as a text encoder: {error}") from error
    device_name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return TextEncoder(
        model.eval().requires_grad_(requires_grad=False).to(device_name),
        tokenizer,
        encoder_id=encoder_id(folder, precision),
        max_tokens=max_tokens_of(folder, model.config),
        pooling=pooling_of(folder),
        rows=ROWS_CPU if device_name == "cpu" else ROWS_CUDA,
    )


def check_encoder(folder: Path) -> None:
    """Raise InputError where there is no such folder."""
    if not folder.is_dir():
        raise InputError(
            f"there is no text encoder at {folder}; run `interestream fetch encoder`, or name a folder with --encoder"
        )


def encoder_id(folder: Path, precision: Precision = "float32") -> str:
    """The folder's name and twelve digits of the sha256 over its weights: "all-minilm-l6-v2@53aa51172d14"."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ArtifactError(f"{folder} has no safetensors weights")
    stats = tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return f"{folder.resolve().name}@{_hash(stats)[:12]}" + ("" if precision == "float32" else f"+{precision}")


@functools.lru_cache(maxsize=8)
def _hash(files: tuple[tuple[Path, int, int], ...]) -> str:
    digests = []
    for file, _, _ in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256"))
    if len(digests) == 1:
        return digests[0].hexdigest()  # the sha256 that a hub or `sha256sum` shows
    return hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()


def max_tokens_of(folder: Path, config: Any) -> int:
    """The maximum sequence length it was trained with (sentence-transformers' file), else what the model can take."""
    file = folder / "sentence_bert_config.json"
    trained = msgspec.json.decode(file.read_bytes()).get("max_seq_length") if file.is_file() else None
    return min(trained or 512, getattr(config, "max_position_embeddings", 512))


def pooling_of(folder: Path) -> Pooling:
    """The pooling that the folder names (sentence-transformers' file); mean where it names none."""
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    modes = msgspec.json.decode(file.read_bytes())
    chosen = [name for name, value in modes.items() if name.startswith("pooling_mode_") and value is True]
    if chosen == ["pooling_mode_mean_tokens"]:
        return "mean"
    if chosen == ["pooling_mode_cls_token"]:
        return "cls"
    raise ArtifactError(f"{file}: pooling by {', '.join(chosen) or 'nothing'} is not supported; mean and cls are")
