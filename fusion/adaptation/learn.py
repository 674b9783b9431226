"""Continual pre-training: AdamW, a cosine rate with warm-up, clipped gradients, exact resume.

The loss is the mean cross-entropy of the tokens that are asked for, of a whole step. The head is computed at these
alone. All of the model's weights are trained, or LoRA's (Hu et al., ICLR 2022) by the peft library, merged at the end.
Weights and the optimiser's state are float32 everywhere; products are bfloat16 where that is faster (`low_precision`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.adaptation.encode import IGNORED, Batch, Encoded, collate
from fusion.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fusion.training.processor import fast_cpu, return_freed
from interest.errors import InputError

SAVE_EVERY_S = 60.0
SAVED_SHARE = 0.05  # of the time at most that checkpoints may take
BETAS = (0.9, 0.95)
TOGETHER = 2  # contexts of one pass on a processor with AMX: what a pass costs whatever its size is casting all weights
LENGTHS = 64  # lengths there are multiples of it, as oneDNN compiles and keeps each product for every length it meets
FUSED = ("cpu", "cuda")  # devices on which a step of AdamW is one pass over each weight
FULL_RATE, LORA_RATE = 2e-4, 1e-3


class LearnConfig(msgspec.Struct, frozen=True, kw_only=True):
    batch: int = 4  # contexts of a step
    lr: float | None = None  # at its peak; None: FULL_RATE, or LORA_RATE
    warm_up: float = 0.05  # of all steps
    least: float = 0.1  # of the peak, that the cosine ends at
    decay: float = 0.01
    clip: float = 1.0  # norm of the gradient
    rank: int = 0  # of LoRA; 0 trains everything
    seed: int = 0

    @property
    def peak(self) -> float:
        return self.lr if self.lr is not None else (LORA_RATE if self.rank else FULL_RATE)


class Steps(msgspec.Struct, frozen=True):
    """How far a run has come."""

    step: int
    loss: float  # mean since the checkpoint before


def add_lora(model: Any, rank: int, seed: int) -> Any:
    """The model with LoRA in all its linear layers but the head, wrapped by peft. Raises InputError without peft."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise InputError("peft is not installed: pip install 'interestream[models]', or train without --lora") from None
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", bias="none")
    return get_peft_model(model, config)


def merged(model: Any) -> Any:
    """The plain transformers model, LoRA's differences added to its weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def low_precision(device: torch.device) -> bool:
    """Whether products are bfloat16, by autocast: on a GPU, and on a processor with AMX, which computes them faster."""
    return device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_amx_tile_supported())


def gathered(
    contexts: Sequence[Sequence[Encoded]], device: torch.device, *, each: int | None = None, low: bool | None = None
) -> Iterator[Batch]:
    """The contexts as batches of one pass each, of `each` of them (None: as many as are best here).

    low: whether they are for products in bfloat16; None: where `low_precision` says so.
    """
    amx = device.type == "cpu" and (low_precision(device) if low is None else low)
    size = each or (TOGETHER if amx else 1)
    for start in range(0, len(contexts), size):
        yield collate(contexts[start : start + size], device, lengths=LENGTHS if amx else 1)


def losses(model: Any, batch: Batch, *, low: bool | None = None) -> tuple[Tensor, int]:
    """The summed cross-entropy of what is asked for, and how many tokens that is.

    low: whether products are bfloat16; None: where `low_precision` says so.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    device = batch.ids.device
    bfloat16 = low_precision(device) if low is None else low
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        states = plain.base_model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        wanted = batch.labels[:, 1:]
        asked = wanted != IGNORED
        count = int(asked.sum())
        of, right = states[:, :-1][asked], wanted[asked]
        if device.type == "cpu" and bfloat16:
            spare = -count % LENGTHS
            of, right = F.pad(of, (0, 0, 0, spare)), F.pad(right, (0, spare), value=IGNORED)
        logits = plain.get_output_embeddings()(of)
    return F.cross_entropy(logits.float(), right, reduction="sum", ignore_index=IGNORED), count


def rate_at(config: LearnConfig, step: int, steps: int) -> float:
    """Up in a line during the warm-up, then down along half a cosine to `least` of the peak."""
    warm = max(1, round(config.warm_up * steps))
    if step < warm:
        return config.peak * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return config.peak * (config.least + (1 - config.least) * 0.5 * (1 + math.cos(math.pi * done)))


def learn(
    model: Any,
    contexts: Sequence[Sequence[Encoded]],
    config: LearnConfig,
    *,
    folder: Path | None = None,
    fingerprint: str = "",
    shown: Callable[[int, int], AbstractContextManager[Callable[[int], None]]] = lambda *_: nullcontext(lambda _: None),
    save_every_s: float = SAVE_EVERY_S,
) -> list[Steps]:
    """Fit in device, in the order of the contexts, going on in `folder` where a run with this fingerprint stopped.

    shown: the progress bar of so many tokens, of which an earlier run has learnt so many.

    Raises ArtifactError where the folder holds the checkpoint of another run, and InputError at the first loss that is
    not finite, before any weight has taken a step from it.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    device = trained[0].device
    matrices = [weight for weight in trained if weight.ndim > 1]
    others = [weight for weight in trained if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.peak, betas=BETAS, fused=device.type in FUSED
    )
    state = Checkpoint[Steps](model=nn.ParameterList(trained), optimizer=optimizer, average={}, best={})
    if folder is not None:
        load_checkpoint(folder, state, fingerprint, Steps)
    steps = math.ceil(len(contexts) / config.batch)
    step = state.epochs[-1].step if state.epochs else 0
    done, every = (_tokens(some) for some in (contexts[: step * config.batch], contexts))
    total, since, saved = 0.0, 0, time.monotonic()
    took = 0.0
    model.train()
    with fast_cpu(), shown(every, done) as advance:
        while step < steps:
            some = contexts[step * config.batch : (step + 1) * config.batch]
            for group in optimizer.param_groups:
                group["lr"] = rate_at(config, step, steps)
            total += _step(model, trained, optimizer, some, config, step, device)
            step, since = step + 1, since + 1
            advance(_tokens(some))
            return_freed(step)
            now = time.monotonic()
            if step == steps or now - saved >= max(save_every_s, took / SAVED_SHARE):
                state.epochs.append(Steps(step, total / since))
                total, since = 0.0, 0
                if folder is not None:
                    save_checkpoint(folder, state, fingerprint)
                saved = time.monotonic()
                took = saved - now
    model.eval()
    return state.epochs


def _tokens(contexts: Sequence[Sequence[Encoded]]) -> int:
    return sum(len(one.ids) for context in contexts for one in context)


def _step(
    model: Any,
    trained: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    contexts: Sequence[Sequence[Encoded]],
    config: LearnConfig,
    step: int,
    device: torch.device,
) -> float:
    """One step of the optimiser from a few contexts, computed one or two at a time; its mean loss."""
    asked = max(1, sum(int(one.asked[1:].sum()) for context in contexts for one in context))
    optimizer.zero_grad(set_to_none=True)
    whole = 0.0
    for batch in gathered(contexts, device):
        summed, _ = losses(model, batch)
        loss = summed / asked
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InputError(
                f"the loss is {value} at step {step + 1:,}; no model is written. Try a lower --lr, and look at whether "
                "the base model's own weights are finite"
            )
        whole += value
        loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(trained, config.clip)
    optimizer.step()
    return whole


@torch.no_grad()
def perplexities(
    model: Any, held: Mapping[str, Sequence[Encoded]], advance: Callable[[int], None] = lambda _: None, *, each: int = 8
) -> dict[str, float]:
    """By kind exp of the mean cross-entropy of what held-out documents ask for; kinds that have none are left out."""
    device = next(model.parameters()).device
    model.eval()
    found = {}
    for kind, documents in held.items():
        total, count = 0.0, 0
        ordered = sorted(documents, key=lambda one: len(one.ids))
        for batch in gathered([[one] for one in ordered], device, each=each):
            summed, asked = losses(model, batch)
            total, count = total + float(summed), count + asked
            advance(len(batch.ids))
        if count:
            found[kind] = math.exp(min(total / count, 50.0))
    return found


def speed(model: Any, contexts: Sequence[Sequence[Encoded]], least_s: float = 3.0) -> float:
    """Tokens a second of forward and backward passes over some contexts; no weight changes."""
    device = next(model.parameters()).device
    began, tokens = time.monotonic(), 0
    model.train()
    for number, batch in enumerate(gathered(contexts, device)):
        summed, asked = losses(model, batch)
        (summed / max(asked, 1)).backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)
        tokens += batch.tokens
        if number and time.monotonic() - began > least_s:
            break
    return tokens / max(time.monotonic() - began, 1e-6)
