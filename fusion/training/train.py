"""Trains any model that maps batches to logits: AdamW, selection on validation AUC alone, exact resume after a kill.

Every epoch seeds itself from (seed, epoch), so a run that was killed and resumed from its last checkpoint draws what
the uninterrupted run drew and ends with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from fusion.features.collate import BatchIndices, ModelBatch, to_device
from fusion.features.log import Array
from fusion.features.samples import Samples
from fusion.features.spec import UNKNOWN
from fusion.models.protocol import CtrModel, Network, predictions
from fusion.training.balance import Balance
from fusion.training.checkpoint import Checkpoint, Epoch, load_checkpoint, save_checkpoint
from fusion.training.dense_path import DenseSchedule, fit_dense_path
from fusion.training.distributed import ALONE, Processes
from fusion.training.processor import fast_cpu, return_freed
from fusion.training.task_gradients import Gradients

SHORT = 125_000  # samples for each pass: with fewer, embeddings know them by heart (fusion/models/tower.py)
DENSE_EPOCHS = 6
LOOKS_BACK = 0.42  # of a run's steps, at most, the average of the weights


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True):
    # 0 only until the samples are read: `suited_epochs` then
    epochs: int = 6  # validation AUC on ML-1M: .8068 after one, .8180 after six, no more after seven
    batch_size: int = 1024
    lr: float = 2e-3  # with four epochs at 1e-3 validation stopped at .8096
    floor: float = 0.1  # the rate decays along a cosine to this share of `lr`
    embedding_decay: float = 5e-2  # AdamW's decoupled decay, of embeddings
    decay: float = 1e-4  # of everything else
    unknown: float = 0.02  # share of items that a batch shows as unknown: its row learns what is out of vocabulary
    average: float = 0.999  # weights of validation, test and artifact are an exponential average; its memory: _memory
    patience: int = 2  # epochs without a better validation AUC
    seed: int = 0
    dense_epochs: int = DENSE_EPOCHS  # of a dense path, before the rest is trained; 0: it begins as it was built
    pretrained_rate: float = 1.0  # of a pre-trained encoder's learning rate; 0 freezes it
    balance: Balance | msgspec.UnsetType = msgspec.UNSET  # how several tasks share parameters; unset: their sum


def train(
    model: CtrModel,
    samples: Samples,
    labels: Array,
    parts: tuple[Array, Array],
    config: TrainConfig,
    *,
    folder: Path | None = None,
    fingerprint: str = "",
    advance: Callable[[int], None] = lambda _: None,
    report: Callable[[Epoch], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    dist: Processes = ALONE,
) -> list[Epoch]:
    """Fit in device; `model` ends with the averaged weights of the best epoch.

    labels: (n,) 0/1 of all samples, or targets (n, T) of several tasks, NaN where there is none. parts: sample numbers
    of the training and of the validation part. folder: where each epoch's checkpoint goes, and where an interrupted run
    with the same fingerprint is continued. Each process of `dist` learns from its share of every batch; `advance`
    counts the whole batch.
    Raises ArtifactError where the folder holds the checkpoint of another run.
    """
    training, validation = parts
    optimizer = torch.optim.AdamW(_groups(model, config), lr=config.lr)
    state = Checkpoint[Epoch](model=model, optimizer=optimizer, average=_copy(model), best=_copy(model))
    if folder is not None:
        load_checkpoint(folder, state, fingerprint, Epoch)
        advance(len(state.epochs) * len(training))
    if not state.epochs and model.dense_path is not None and config.dense_epochs:
        schedule = DenseSchedule(config.dense_epochs, config.batch_size, config.seed)
        auc = fit_dense_path(model, samples.spec.tasks, samples.dense, labels, parts, schedule, dist)
        say(f"the dense features alone: validation AUC {auc:.4f}")
        state.average, state.best = _copy(model), _copy(model)
    targets = torch.from_numpy(labels.astype(np.float32))
    collator, device = model.collator, device_of(model)
    steps = -(-len(training) // config.batch_size)
    tasks = Gradients(model, samples.spec.tasks, config.balance, config.seed, dist)
    with fast_cpu():
        while len(state.epochs) < config.epochs and not _stale(state.epochs, config.patience):
            epoch = len(state.epochs)
            torch.manual_seed(config.seed * 1_000_003 + epoch + dist.rank * 7919)
            rng = np.random.default_rng((config.seed, epoch))
            total = torch.zeros((), dtype=torch.float64)
            model.train()
            rows_done = 0
            for number, shares in enumerate(collator.epoch(samples, training, config.batch_size, rng, dist.count)):
                chosen, rows = shares[dist.rank], sum(len(share) for share in shares)
                step, every = epoch * steps + rows_done / config.batch_size, config.epochs * steps
                _set_rate(optimizer, config, step / every)
                batch = _with_unknown(to_device(collator.collate(samples, chosen), device), config.unknown)
                wanted = targets[torch.from_numpy(chosen.rows)].to(device)
                optimizer.zero_grad(set_to_none=True)
                loss = tasks.set(model.loss(batch, wanted), rows, epoch, rows_done // config.batch_size + 1)
                optimizer.step()
                _follow(state.average, model, _memory(config, step, every))
                total += loss.detach().cpu().double() * rows
                rows_done += rows
                advance(rows)
                return_freed(number)
            dist.sum_(total)
            with weights(model, state.average):
                scores = predict(model, samples, validation, dist=dist)
            auc, told = tasks.measure(labels[validation], scores)
            better = not any(auc <= earlier.auc for earlier in state.epochs)
            if better:
                state.best = {name: value.clone() for name, value in state.average.items()}
            state.epochs.append(Epoch(epoch, float(total) / max(len(training), 1), auc, better, *told))
            if folder is not None and dist.first:
                save_checkpoint(folder, state, fingerprint)
            report(state.epochs[-1])
    _load(model, state.best)
    return state.epochs


def suited_epochs(most: int, samples: int) -> int:
    """Passes over so many training samples: `most` on a long log, fewer on a short one, where one is enough."""
    return max(1, min(most, samples // SHORT))


@torch.no_grad()
def predict(
    model: CtrModel,
    samples: Samples,
    chosen: Array,
    advance: Callable[[int], None] = lambda _: None,
    dist: Processes = ALONE,
) -> Array:
    """Probabilities of the chosen moments: (n,) float64. Processes share the work and all return the whole.

    Of several tasks (n, T): each one's probability, or the number that it expects.
    """
    tasks = samples.spec.tasks
    shape = (len(chosen),) if len(tasks) == 1 else (len(chosen), len(tasks))
    was, out = model.training, torch.zeros(shape, dtype=torch.float64)
    collator, device = model.collator, device_of(model)
    model.eval()
    for number, part in enumerate(collator.score_batches(samples, chosen)):
        if number % dist.count != dist.rank:
            continue
        batch = to_device(collator.collate(samples, BatchIndices(chosen[part.rows], part.sizes)), device)
        out[torch.from_numpy(part.rows)] = predictions(tasks, model(batch)).cpu()
        advance(len(part))
        return_freed(number)
    model.train(was)
    return_freed()
    dist.sum_(out)
    return out.numpy()


def device_of(model: Network) -> torch.device:
    return next(model.parameters()).device


@contextmanager
def weights(model: Network, others: dict[str, Tensor]) -> Iterator[None]:
    """The model with other weights for a while."""
    kept = _copy(model)
    _load(model, others)
    yield
    _load(model, kept)


def _groups(model: CtrModel, config: TrainConfig) -> list[dict[str, object]]:
    """Embeddings and the rest decay differently; biases, norms and other vectors do not decay.

    A pre-trained encoder's parameters have the same three groups again, at their own rate.
    """
    slow = {id(p) for p in model.pretrained_parameters()} if config.pretrained_rate != 1.0 else set()
    for p in model.parameters():
        p.requires_grad_(config.pretrained_rate > 0 or id(p) not in slow)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    groups: list[dict[str, object]] = []
    for rate, pretrained in ((1.0, False), (config.pretrained_rate, True)):
        owned = [p for p in model.parameters() if (id(p) in slow) is pretrained and p.requires_grad]
        kinds = (
            ([p for p in owned if id(p) in embeddings], config.embedding_decay),
            ([p for p in owned if id(p) not in embeddings and p.dim() > 1], config.decay),
            ([p for p in owned if id(p) not in embeddings and p.dim() <= 1], 0.0),
        )
        groups += [{"params": params, "weight_decay": decay, "share": rate} for params, decay in kinds if params]
    return groups


def _set_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, done: float) -> None:
    share = config.floor + (1 - config.floor) * 0.5 * (1 + np.cos(np.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = config.lr * share * group["share"]


def _memory(config: TrainConfig, step: float, steps: int) -> float:
    """Share of the averaged weights that stays at a step of a run of so many: `config.average`, or less.

    At first all steps count the same. And what the average looks back on, 1 / (1 - memory) steps, is at most 42 % of
    the run's: else that of a short run would be the mean of its whole way, random start included. So .999 is .999 in
    runs of 2,381 steps or more (SRP4CTR's and DIN's on ML-1M have more) and .990 in one of 240.
    """
    return min(config.average, 1 - 1 / max(LOOKS_BACK * steps, 1.0), 1 - 1 / (1 + step))


B = TypeVar("B", bound=ModelBatch)


def _with_unknown(batch: B, share: float) -> B:
    """The batch with a random share of its items shown as unknown."""
    if not share:
        return batch
    hidden = (torch.rand(batch.item_row.shape, device=batch.item_row.device) < share) & (batch.item_row > 0)
    return batch.with_item_row(batch.item_row.masked_fill(hidden, UNKNOWN))


def _stale(epochs: list[Epoch], patience: int) -> bool:
    last = max((epoch.epoch for epoch in epochs if epoch.best), default=0)
    return len(epochs) - 1 - last >= patience


def _copy(model: Network) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _load(model: Network, others: dict[str, Tensor]) -> None:
    model.load_state_dict(others)


@torch.no_grad()
def _follow(average: dict[str, Tensor], model: Network, memory: float) -> None:
    current = model.state_dict()
    torch._foreach_lerp_(list(average.values()), [current[name] for name in average], 1 - memory)
