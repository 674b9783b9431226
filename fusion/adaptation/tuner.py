"""Contrastive training of a sentence encoder's upper layers: items that the same users liked come to lie close.

The loss is the in-batch softmax over cosines, both ways (multiple negatives ranking: Henderson et al., arXiv
1705.00652, section 4.4; sentence-transformers' MultipleNegativesRankingLoss, symmetric). In-batch negatives come as
often as they are liked, so that what is learnt is how much more often than by chance two items are liked together, and
popular items do not come close to everything. Does not know where the pairs come from.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.adaptation.co_liked import CoLiked, Pairs, draw_pairs
from fusion.adaptation.learn import SAVE_EVERY_S, SAVED_SHARE, Steps
from fusion.encoders.sentence import LENGTH_STEP, Pooling, max_tokens_of, pooling_of
from fusion.features.log import Array
from fusion.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fusion.training.processor import fast_cpu, return_freed
from interest.errors import ArtifactError, InputError
from interest.llm.transformers import load_whole

SCALE = 20.0  # of cosines: sentence-transformers' default
AT_ONCE = 32  # texts encoded together where nothing is learnt
Shown = Callable[[str, int, str, int], AbstractContextManager[Callable[[int], None]]]
"""A job's progress: title, how much there is, its unit, how much of it an earlier run did."""


class TuneConfig(msgspec.Struct, frozen=True, kw_only=True):
    steps: int = 400
    batch: int = 64  # pairs of a step
    lr: float = 2e-4  # at its peak, after a tenth of the steps; then down in a line
    layers: int = 2  # the upper ones, which are trained; the rest, and the words, stay
    decay: float = 0.01
    clip: float = 1.0  # norm of the gradient
    seed: int = 0
    template: str = ""  # how an item reads
    split: str = "global"
    before: float | None = None  # event time of the cut, instead of a split


class Tuner:
    """An encoder whose upper layers are trained, without dropout: a step depends on nothing but its pairs."""

    def __init__(self, base: Path, layers: int, device: torch.device) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            self.model: Any = load_whole(AutoModel, base, dtype=torch.float32).to(device).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ArtifactError(f"{base} cannot be loaded as a text encoder: {error}") from None
        self.pooling: Pooling = pooling_of(base)
        self.max_tokens = max_tokens_of(base, self.model.config)
        blocks = getattr(getattr(self.model, "encoder", None), "layer", None)
        if blocks is None or not layers <= len(blocks):
            raise InputError(
                f"{base}: {type(self.model).__name__} has {'no layers like BERT' if blocks is None else len(blocks)}; "
                f"`tune encoder` trains the upper {layers} layers of an encoder like BERT (--layers)"
            )
        self.model.requires_grad_(requires_grad=False)
        for block in blocks[len(blocks) - layers :]:
            block.requires_grad_(requires_grad=True)
        self.trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.width = int(self.model.config.hidden_size)
        self.device = device

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        return ids

    def __call__(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """(n, d) of length 1, with gradients."""
        length = -(-max(map(len, rows)) // LENGTH_STEP) * LENGTH_STEP
        ids = torch.full((len(rows), min(length, self.max_tokens)), self.tokenizer.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state  # (n, T, d)
        weights = mask.unsqueeze(-1)
        pooled = states[:, 0] if self.pooling == "cls" else (states * weights).sum(1) / weights.sum(1)
        return F.normalize(pooled, dim=-1)

    @torch.no_grad()
    def encode(self, rows: Sequence[Sequence[int]], advance: Callable[[int], None] = lambda _: None) -> Array:
        """(n, d) float32 of length 1, by the encoder as it is now."""
        out = np.zeros((len(rows), self.width), np.float32)
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        for start in range(0, len(order), AT_ONCE):
            some = order[start : start + AT_ONCE]
            out[some] = self([rows[row] for row in some]).cpu().numpy()
            advance(len(some))
        return out


def loss_of(first: Tensor, second: Tensor, liked: Tensor) -> Tensor:
    """Mean cross-entropy of finding each pair's other text in the batch, (B, d) each, both ways.

    liked: (B, B) bool, the pairs of texts that are not negatives, as in `Pairs`.
    """
    scores = (SCALE * first @ second.T).masked_fill(liked, -torch.inf)  # (B, B)
    right = torch.arange(len(first), device=first.device)
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


def learn(
    tuner: Tuner,
    tokens: Sequence[Sequence[int]],
    data: CoLiked,
    config: TuneConfig,
    folder: Path,
    request: str,
    shown: Shown,
) -> list[Steps]:
    """Fit the tuner's upper layers in place, going on where a run with the same settings and data stopped in `folder`.

    Raises ArtifactError where the folder holds the checkpoint of other data.
    """
    optimizer = torch.optim.AdamW(tuner.trained, lr=config.lr, weight_decay=config.decay)
    state = Checkpoint[Steps](model=nn.ParameterList(tuner.trained), optimizer=optimizer, average={}, best={})
    fingerprint = _fingerprint(data, request)
    load_checkpoint(folder, state, fingerprint, Steps)
    step = state.epochs[-1].step if state.epochs else 0
    total, since, saved, took = 0.0, 0, time.monotonic(), 0.0
    with fast_cpu(), shown("Tuning", config.steps, "steps", step) as advance:
        while step < config.steps:
            for group in optimizer.param_groups:
                group["lr"] = config.lr * _warmth(step, config.steps)
            total += _step(tuner, tokens, draw_pairs(data, config.batch, config.seed, step), optimizer, config, step)
            step, since = step + 1, since + 1
            advance(1)
            return_freed(step)
            now = time.monotonic()
            if step == config.steps or now - saved >= max(SAVE_EVERY_S, took / SAVED_SHARE):
                state.epochs.append(Steps(step, total / since))
                total, since = 0.0, 0
                save_checkpoint(folder, state, fingerprint)
                saved = time.monotonic()
                took = saved - now
    return state.epochs


def _step(
    tuner: Tuner,
    tokens: Sequence[Sequence[int]],
    pairs: Pairs,
    optimizer: torch.optim.Optimizer,
    config: TuneConfig,
    step: int,
) -> float:
    """One step of the optimiser; its mean loss. A text that comes up twice is encoded once."""
    distinct, place = np.unique(np.concatenate([pairs.first, pairs.second]), return_inverse=True)
    vectors = tuner([tokens[text] for text in distinct])[torch.from_numpy(place).to(tuner.device)]
    size = len(pairs.first)
    loss = loss_of(vectors[:size], vectors[size:], torch.from_numpy(pairs.liked).to(tuner.device))
    value = float(loss.detach())
    if not math.isfinite(value):
        raise InputError(f"the loss is {value} at step {step + 1:,}; no encoder is written. Try a lower --lr")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(tuner.trained, config.clip)
    optimizer.step()
    return value


def _warmth(step: int, steps: int) -> float:
    """The rate's share of its peak: up in a line for a tenth of the steps, then down to nearly nothing."""
    return min((step + 1) / max(1.0, 0.1 * steps), (steps - step) / max(1.0, 0.9 * steps))


def _fingerprint(data: CoLiked, request: str) -> str:
    """What a checkpoint must agree on to be gone on from: the settings, the texts and who liked what."""
    return hashlib.sha256((request + data_digest(data)).encode()).hexdigest()


def data_digest(data: CoLiked) -> str:
    """SHA-256 of the texts, of who liked what, and of the pairs that are held out."""
    digest = hashlib.sha256(msgspec.json.encode([data.texts, data.users]))
    for array in (data.likes.indptr, data.likes.indices, data.held):
        digest.update(np.ascontiguousarray(array).astype(np.int64).data)
    return digest.hexdigest()
