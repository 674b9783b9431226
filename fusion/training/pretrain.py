"""Pre-trains FG-BERT: Adam, a rate that decays as a polynomial, exact resume after a kill.

The loss is the cross-entropy of masked items plus one of every field of masked behaviours (SRP4CTR, section 3.1; the
paper gives no weights, all are 1). The item softmax is over all known items, or, in catalogues above
`full_softmax`, over a sample whose logits are corrected by the logarithm of how often they were expected in it, so that
the normaliser is unbiased (Bengio and Senecal, 2008).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.features.collate import to_device
from fusion.features.log import Array, Log
from fusion.features.spec import FIRST, FeatureSpec, ItemTable
from fusion.models.srp4ctr.fgbert import FgBert, FgBertConfig, FgBertHeads, hide
from fusion.models.srp4ctr.item_softmax import item_softmax
from fusion.models.srp4ctr.masking import LEAST, Masked, Sequences, batches, draw
from fusion.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fusion.training.distributed import ALONE, Processes
from fusion.training.finite import finite_loss
from fusion.training.processor import fast_cpu, return_freed
from interest.errors import InputError

TOP = 10  # of HR@10
VALID_BATCH = 128  # windows


class PretrainConfig(msgspec.Struct, frozen=True, kw_only=True):
    epochs: int = 20
    batch_size: int = 64  # windows
    lr: float = 2e-3
    power: float = 1.0  # of the decay to 0
    warm_up: float = 0.05  # of all steps
    item_masks: float = 0.2  # the paper gives no ratio
    behavior_masks: float = 0.2
    full_softmax: int = 50_000  # known items up to which the softmax is over all of them
    negatives: int = 2048  # sampled items per batch, above that
    flatten: float = 0.75  # negatives are drawn by training frequency to this power (word2vec's)
    seed: int = 0


class PretrainEpoch(msgspec.Struct, frozen=True):
    epoch: int
    loss: float  # mean over the training batches
    valid_loss: float | None  # these three: None where too little is masked in the validation part to measure
    valid_item_loss: float | None
    hit_rate: float | None  # HR@10 of masked validation items among all known items


class Pretraining(nn.Module):
    """FG-BERT with its heads."""

    def __init__(self, spec: FeatureSpec, config: FgBertConfig) -> None:
        super().__init__()
        self.encoder, self.heads = FgBert(spec, config), FgBertHeads(spec, config)

    def forward(self, batch: Masked, items: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """States (G, T, d) and item embeddings (M, d), which may be given."""
        encoder = self.encoder
        items = encoder.items(batch.items) if items is None else items
        x, s = F.embedding(batch.event, items), encoder.behaviors(batch.behavior)
        x = torch.where(batch.item_masks[..., None], encoder.hidden_item, x)
        s = torch.where(batch.behavior_masks[..., None], encoder.hidden_behavior, s)
        mask = batch.event > 0
        tokens = x + s + encoder.position.weight[: mask.shape[1]]
        states = encoder(tokens, hide(mask, mask.shape[1])).states
        assert states is not None
        return states, items

    def losses(self, batch: Masked, items: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Summed cross-entropy of the masked items and of all fields of the masked behaviours; each item's rank."""
        states, items = self(batch, items)
        asked = batch.item_masks & (batch.items.row[batch.event] >= FIRST)  # what is out of vocabulary is not a class
        wanted = batch.event[asked].long()
        item_loss, ranks = self._item_loss(states[asked], wanted, items, batch)
        masked, rows = states[batch.behavior_masks], batch.behavior[batch.behavior_masks].long()
        field_loss = states.new_zeros(())
        for field, head in enumerate(self.heads.fields):
            field_loss = field_loss + F.cross_entropy(head(masked), rows[:, field], reduction="sum")
        return item_loss, field_loss, ranks

    def _item_loss(self, states: Tensor, wanted: Tensor, items: Tensor, batch: Masked) -> tuple[Tensor, Tensor]:
        """Of m masked items (m, d), the loss and the ranks (m,)."""
        row, classes = batch.items.row, items[batch.classes]
        if batch.log_share is None:
            bias = self.heads.bias[row[batch.classes]]
            return item_softmax(self.heads.transform(states), classes, bias, row[wanted].long() - FIRST)
        logits = self.heads.item_logits(states, classes, row[batch.classes])  # (m, K)
        right = self.heads.own_logits(states, items[wanted], row[wanted])
        corrected = logits - batch.log_share - np.log(len(batch.classes))
        corrected = corrected.masked_fill(batch.classes == wanted[:, None], -1e9)
        normaliser = torch.logsumexp(torch.cat([right, corrected], dim=1), dim=1)
        return (normaliser - right[:, 0]).sum(), (logits > right).sum(dim=1)


@dataclass(frozen=True, slots=True)
class PretrainData:
    """A log, its parts and the numbers of its items."""

    spec: FeatureSpec
    log: Log
    table: ItemTable  # of the log's items
    train: Array  # (N,) bool
    valid: Array  # (N,) bool


def pretrain(
    model: Pretraining,
    data: PretrainData,
    config: PretrainConfig,
    *,
    folder: Path | None = None,
    fingerprint: str = "",
    advance: Callable[[int], None] = lambda _: None,
    report: Callable[[PretrainEpoch], None] = lambda _: None,
    dist: Processes = ALONE,
) -> list[PretrainEpoch]:
    """Fit in device, going on in `folder` where a run with the same fingerprint was interrupted.

    `advance` counts events. Raises ArtifactError where the folder holds the checkpoint of another run, and InputError
    where there is nothing to learn from: an element to hide needs another to see.
    """
    columns = model.encoder.config.positions
    device = next(model.parameters()).device
    sequences = Sequences(data.spec, data.log, np.flatnonzero(data.train), data.table, columns)
    if columns < LEAST or not sequences.cut(np.zeros(len(data.log.users), np.int64)):
        raise InputError(f"nothing to learn from: no window has {LEAST} behaviours; replay more of the log")
    measured = _Validation(data, columns, config)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    state = Checkpoint[PretrainEpoch](model=model, optimizer=optimizer, average={}, best={})
    events = len(sequences.row)
    if folder is not None:
        load_checkpoint(folder, state, fingerprint, PretrainEpoch)
        advance(len(state.epochs) * events)
    known = data.spec.trained_items
    share = (sequences.counts + 1e-9) ** config.flatten
    share = share / share.sum()
    with fast_cpu():
        while len(state.epochs) < config.epochs:
            epoch = len(state.epochs)
            torch.manual_seed(config.seed * 1_000_003 + epoch + dist.rank * 7919)
            rng = np.random.default_rng((config.seed, epoch))
            masks = draw(events, (config.item_masks, config.behavior_masks), rng)
            while not (windows := sequences.cut(rng.integers(0, columns, len(data.log.users)))):
                pass  # every short history was cut to single behaviours: again, elsewhere
            drawn = batches(windows, config.batch_size, rng, dist.count)
            steps = len(drawn)
            total = torch.zeros((), dtype=torch.float64)
            model.train()
            for step, chosen in enumerate(drawn):
                offsets = np.array([rng.integers(0, columns - len(window) + 1) for window in chosen])
                sampled = rng.choice(known, config.negatives, p=share) if known > config.full_softmax else None
                entries = np.concatenate(chosen)
                hidden = (masks[0] & (sequences.row >= FIRST), masks[1])
                items, behaviors = (max(int(own[entries].sum()), 1) for own in hidden)
                mine = slice(dist.rank, None, dist.count)
                gathered = sequences.gather(chosen[mine], masks, offsets[mine], sampled, np.log(share))
                item_loss, field_loss, _ = model.losses(to_device(gathered, device))
                loss = item_loss / items + field_loss / behaviors
                _set_rate(optimizer, config, (epoch * steps + step) / (config.epochs * steps))
                optimizer.zero_grad(set_to_none=True)
                finite_loss(loss, epoch, step + 1).backward()  # type: ignore[no-untyped-call]
                dist.sum_gradients(model)
                optimizer.step()
                total += loss.detach().cpu().double()
                advance(len(entries))
                return_freed(step)
            dist.sum_(total)
            state.epochs.append(PretrainEpoch(epoch, float(total) / steps, *measured(model)))
            if folder is not None and dist.first:
                save_checkpoint(folder, state, fingerprint)
            report(state.epochs[-1])
    return state.epochs


class _Validation:
    """The loss and HR@10 on masked elements of the validation part, the same ones in every epoch."""

    def __init__(self, data: PretrainData, columns: int, config: PretrainConfig) -> None:
        rows = np.flatnonzero(data.train | data.valid)
        self._sequences = Sequences(data.spec, data.log, rows, data.table, columns)
        rng = np.random.default_rng(config.seed)
        masks = draw(len(rows), (config.item_masks, config.behavior_masks), rng)
        valid = data.valid[rows]
        self._masks = masks[0] & valid, masks[1] & valid
        # every user's newest event ends a window
        sizes = np.bincount(data.log.user[rows], minlength=len(data.log.users))
        windows = self._sequences.cut(-sizes % columns)
        self._windows = [window for window in windows if (self._masks[0] | self._masks[1])[window].any()]

    @torch.no_grad()
    def __call__(self, model: Pretraining) -> tuple[float | None, float | None, float | None]:
        """Loss, its item part, HR@10; None where nothing is masked."""
        model.eval()
        device = next(model.parameters()).device
        items = fields = hits = 0.0
        asked = 0
        embedded: Tensor | None = None  # every batch has all of the log's items, and the same
        for start in range(0, len(self._windows), VALID_BATCH):
            windows = self._windows[start : start + VALID_BATCH]
            offsets = np.array([self._sequences.columns - len(window) for window in windows])
            batch = to_device(self._sequences.gather(windows, self._masks, offsets, None, np.empty(0)), device)
            embedded = model.encoder.items(batch.items) if embedded is None else embedded
            item_loss, field_loss, ranks = model.losses(batch, embedded)
            items, fields, hits = items + float(item_loss), fields + float(field_loss), hits + int((ranks < TOP).sum())
            asked += len(ranks)
        behaviors = sum(int(self._masks[1][window].sum()) for window in self._windows)
        if not asked:
            return None, None, None
        return (items / asked + fields / behaviors if behaviors else None), items / asked, hits / asked


def _set_rate(optimizer: torch.optim.Optimizer, config: PretrainConfig, done: float) -> None:
    """Up in a line during `warm_up`, then down to 0 as (1 - done)^power."""
    share = min(done / config.warm_up, 1.0) if config.warm_up else 1.0
    for group in optimizer.param_groups:
        group["lr"] = config.lr * min(share, 1.0) * (1 - done) ** config.power
