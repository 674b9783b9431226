"""The full-text LLM-CTR baseline: BAHE's trained layers and head, over the tokens of all that a user did.

A user's behaviours are lines of one text, tokenised together. The frozen layers are causal and never change, so they
run once a user and their states are kept in files (float16, memory-mapped), as are those of item texts. The trained
layers are causal too: one pass over a user's tokens serves all of the user's moments, each of which pools the tokens of
the lines before it. An item's text goes through the trained layers once for all of its offers in a batch.

What BAHE's head sees beside that, it sees here too: what was read (the tokens' mean, without what became an attention
sink), sizes and liked shares, and the matching of lines, each the mean of its tokens, with the item's text.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fusion.bank.index import texts_of
from fusion.encoders.sentence import batches
from fusion.encoders.split_llm import FURTHER_SINK, LARGEST, LowerLayers, pool
from fusion.features.collate import BatchIndices, cut
from fusion.features.events import LABEL_ROWS
from fusion.features.log import Array
from fusion.features.samples import Samples, tensor
from fusion.features.spec import FIRST, UNKNOWN, FeatureSpec
from fusion.models.bahe.collate import BaheCollator
from fusion.models.bahe.model import Bahe, BaheConfig
from interest.errors import ArtifactError

USERS_AT_ONCE = 4  # in scoring: 10 MB of the widest activations of a small LLM


@dataclass(frozen=True, slots=True)
class TokenStates:
    """States after the cut, float16 memory maps, of the texts of U users and of I items."""

    user: list[Array]  # (T, d) each
    ends: list[Array]  # (n + 1,) int64 each: how many tokens the user's first 0..n lines have
    item: list[Array]  # (T, d) each; by the log's number of the item
    read: list[Array] = field(init=False)  # (n, d) float32 each: the sum of a line's tokens but for sinks
    count: list[Array] = field(init=False)  # (n,) int64 each: tokens in that sum
    text: Array = field(init=False)  # (I, d) float32, the mean of an item's

    def __post_init__(self) -> None:
        lines = [[sum_of(own[a:b]) for a, b in pairwise(ends)] for own, ends in zip(self.user, self.ends, strict=True)]
        width = self.item[0].shape[1]
        own = [np.stack([total for total, _ in line]) if line else np.empty((0, width), np.float32) for line in lines]
        items = [total / count for total, count in map(sum_of, self.item)]
        object.__setattr__(self, "read", own)
        object.__setattr__(self, "count", [np.array([count for _, count in line], np.int64) for line in lines])
        object.__setattr__(self, "text", np.stack(items).astype(np.float32))

    def lines_of(self, user: int | None) -> Array:
        """(n, d) the mean of each of a user's lines; of nobody, one of zeros."""
        if user is None:
            return np.zeros((1, self.text.shape[1]), np.float32)
        return np.asarray(self.read[user] / self.count[user][:, None], np.float32)

    def mean_of(self, user: int, lines: int) -> Array:
        """(d,) of all tokens of a user's first lines but for sinks."""
        count = max(int(self.count[user][:lines].sum()), 1)
        return np.asarray(self.read[user][:lines].sum(axis=0) / count, np.float32)


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """B samples of G users, O distinct items. Lists stay on the processor: this baseline is for one without a GPU."""

    item_row: Tensor  # (O,) int32: 1 unknown, 2 known
    users: list[Tensor]  # G times (T, d) float16
    moments: list[int]  # (G,) samples of each
    visible: Tensor  # (B,) int64: tokens of a moment's past
    read: Tensor  # (B, d) float32: their mean but for sinks; zero where there are none
    lines: Tensor  # (L, d) float32: every user's lines, the mean of each; the first stands for none
    newest: Tensor  # (B, M) int64 into the L: the lines of a moment's past, 0 for none
    feedback: Tensor  # (B, M) int32: what the user made of them (fusion/models/bahe/target_attention.py)
    items: list[Tensor]  # (O', T', d) float16 each: items of like lengths, padding on the right; O in all
    sizes: Tensor  # (O,) int64, tokens
    item_texts: Tensor  # (O, d) float32
    target: Tensor  # (B,) int64 into the O
    past: Tensor  # (B,) int64: every sample has a past of its own
    profile: Tensor  # (B, A') int32
    dense: Tensor  # (B, F) float32

    def __len__(self) -> int:
        return len(self.target)

    def with_item_row(self, item_row: Tensor) -> TokenBatch:
        return dataclasses.replace(self, item_row=item_row)


class FullText(Bahe):
    """Scores impressions: `forward(batch) -> (B,)` logits. What it trains is what BAHE trains, its heads too.

    Users go one by one and items by length: on a processor that is as fast as a batch, and nothing is spent on padding.
    """

    def __init__(self, spec: FeatureSpec, config: BaheConfig, tokens: TokenStates) -> None:
        super().__init__(spec, config, Texts(tokens, config.history))

    def logits(self, batch: TokenBatch) -> Tensor:  # type: ignore[override]
        pooled = torch.cat(
            [
                self.high.prefixes(states.float()[None], torch.zeros_like(seen), seen)
                for states, seen in zip(batch.users, batch.visible.split(batch.moments), strict=True)
            ]
        )  # (B, 2 d), of which the second half has the sinks in it
        pooled = torch.cat([pooled[:, : batch.read.shape[1]], batch.read], dim=1)
        times = torch.bincount(batch.newest[batch.newest > 0], minlength=len(batch.lines))
        keys = self.keys_of(batch.lines, torch.arange(len(batch.lines)) > 0, (times > 0).long())
        lines = torch.nn.functional.embedding(batch.newest, keys.flatten(1)).unflatten(-1, keys.shape[1:])
        users = self.users_of(pooled[:, None], lines[:, None], batch.feedback[:, None])
        return self.judge(users, self._offered(batch), None, batch)  # type: ignore[arg-type]

    def _offered(self, batch: TokenBatch) -> Tensor:
        """(O, 2 d)."""
        shares = [len(states) for states in batch.items]
        pooled = []
        for given, sizes, row in zip(batch.items, batch.sizes.split(shares), batch.item_row.split(shares), strict=True):
            states, unknown = given.float(), (row == UNKNOWN)[:, None, None]
            if unknown.any():
                states = torch.where(unknown, self.unknown, states)
            pooled.append(pool(self.high.states(states), sizes, self.config.pooling))
        return self.items_of(torch.cat(pooled), batch.item_texts, batch.item_row == FIRST, batch.target)


class WholeUsers(BaheCollator):
    """Training batches of whole users: all training moments of each share one pass."""

    def epoch(
        self, samples: Samples, /, rows: Array, size: int, rng: np.random.Generator, processes: int
    ) -> Iterator[list[BatchIndices]]:
        users = [rows[places] for places in by_user(samples, rows)]
        each = max(size // max(map(len, users)), processes)
        for batch in cut(rng.permutation(len(users)), each, processes):
            yield [joined([users[user] for user in share]) for share in np.array_split(batch, processes)]


class Texts(WholeUsers):
    """How full text reads samples (a `Collator`)."""

    def __init__(self, tokens: TokenStates, history: int) -> None:
        super().__init__(("recent",), history)
        self._tokens, self._longest = tokens, history

    def score_batches(self, samples: Samples, /, rows: Array) -> Iterator[BatchIndices]:
        users = by_user(samples, rows)
        for start in range(0, len(users), USERS_AT_ONCE):
            yield joined(users[start : start + USERS_AT_ONCE])

    def collate(self, samples: Samples, chosen: BatchIndices) -> TokenBatch:  # type: ignore[override]
        own, tokens = samples.impressions.take(chosen.rows), self._tokens
        lines = own.stop - own.first
        whole = own.first == samples.named.log.starts[own.user]
        if not whole.all() or lines.max(initial=0) > self._longest:
            raise ValueError("a moment's past is not the beginning of its user's text")
        seen = np.array([tokens.ends[u][n] for u, n in zip(own.user, lines, strict=True)], np.int64)
        begin = np.cumsum(chosen.sizes) - chosen.sizes
        users, which = np.unique(own.user, return_inverse=True)
        before = np.cumsum([1, *(len(tokens.count[user]) for user in users)])[which]  # (B,) a user's first line
        place = lines[:, None] - np.arange(self._longest, 0, -1)  # (B, M), the newest last
        row = samples.events.rows[np.where(place >= 0, own.first[:, None] + place, samples.events.nothing)]
        needed = np.maximum.reduceat(seen, begin)  # (G,) tokens; at least one, so that there is something to read
        offered, target = np.unique(own.item, return_inverse=True)
        sizes = np.array([len(tokens.item[item]) for item in offered], np.int64)
        groups = [np.array(places) for _, places in batches(sizes.tolist(), len(sizes), int(sizes.max()))]
        order = np.concatenate(groups)
        return TokenBatch(
            item_row=torch.full((len(offered),), FIRST, dtype=torch.int32),
            users=[tensor(tokens.user[u][: max(n, 1)].copy()) for u, n in zip(own.user[begin], needed, strict=True)],
            moments=chosen.sizes.tolist(),
            visible=tensor(seen),
            read=tensor(np.stack([tokens.mean_of(u, n) for u, n in zip(own.user, lines, strict=True)])),
            lines=tensor(np.concatenate([tokens.lines_of(user) for user in [None, *users]])),
            newest=tensor(np.where(place >= 0, before[:, None] + place, 0)),
            feedback=tensor(samples.events.value[row] * LABEL_ROWS + samples.events.label[row]),
            items=[_padded([tokens.item[item] for item in offered[group]]) for group in groups],
            sizes=tensor(sizes[order]),
            item_texts=tensor(tokens.text[offered[order]]),
            target=tensor(np.argsort(order)[target.ravel()]),
            past=torch.arange(len(chosen)),
            profile=tensor(samples.profiles[own.user]),
            dense=tensor(samples.dense[chosen.rows]),
        )


def by_user(samples: Samples, rows: Array) -> list[Array]:
    """Places in `rows`, every user's together, oldest first."""
    own = samples.impressions.take(rows)
    order = np.lexsort((own.stop, own.user))
    return np.split(order, np.flatnonzero(np.diff(own.user[order])) + 1)


def joined(windows: list[Array]) -> BatchIndices:
    return BatchIndices(np.concatenate(windows), np.array([len(window) for window in windows], np.int64))


def tokenise(lower: LowerLayers, lines: Sequence[str]) -> tuple[list[int], Array]:
    """Token ids of lines put together, and how many of them the first 0..n lines have: (n + 1,).

    Raises ValueError where a token reaches over the end of a line: a moment would see what came after it.
    """
    text = "".join(line + "\n" for line in lines)
    made = lower._tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    ends = np.cumsum([0, *(len(line) + 1 for line in lines)])
    spans = np.array(made["offset_mapping"], np.int64).reshape(-1, 2)
    line = np.searchsorted(ends, spans[:, 1], side="left")  # which line a token ends in, from 1
    if (spans[:, 0] < ends[np.maximum(line - 1, 0)]).any():
        raise ValueError("this tokenizer joins the end of a line with the beginning of the next")
    return made["input_ids"], np.searchsorted(line, np.arange(len(lines) + 1), side="right")


def token_states(
    samples: Samples, lower: LowerLayers, folder: Path, history: int, advance: Callable[[int], None] = lambda _: None
) -> TokenStates:
    """The states of every user's first `history` behaviours and of every item; what is not in `folder` is computed.

    Files are named by what they hold, so an interrupted run goes on and no setting is mistaken for another. The
    processor seconds that they took are in cost.json, by file. `advance` is called with the tokens of each one made.
    """
    log, found = samples.named.log, texts_of(samples, lower.recipe.template)
    folder.mkdir(parents=True, exist_ok=True)
    users, ends = [], []
    for first, stop in pairwise(log.starts):
        lines = [found.texts[text] for text in found.event[first : min(stop, first + history)]]
        ids, until = tokenise(lower, lines)
        users.append(_kept(lower, [ids], folder, advance))
        ends.append(until)
    ids_of = lower.tokens([found.texts[text] for text in found.item[1:]])
    every = _kept(lower, ids_of, folder, advance)
    sizes = np.cumsum([0, *map(len, ids_of)])
    items = [every[start:stop] for start, stop in pairwise(sizes)]
    return TokenStates(users, ends, items)


def _kept(lower: LowerLayers, rows: list[list[int]], folder: Path, advance: Callable[[int], None]) -> Array:
    """(T, d) float16: the states of some texts, one after the other, as a memory map."""
    key = hashlib.blake2b(lower.recipe.id.encode() + json.dumps(rows).encode(), digest_size=16).hexdigest()
    path, costs = folder / f"{key}.npy", folder / "cost.json"
    if not path.exists():
        began = time.process_time()
        states = _computed(lower, rows)
        partial = folder / "partial.npy"
        np.save(partial, states)
        cost = json.loads(costs.read_text()) if costs.exists() else {}
        cost[key] = {"tokens": len(states), "seconds": round(time.process_time() - began, 3)}
        costs.write_text(json.dumps(cost))
        partial.replace(path)
        advance(len(states))
    held: Array = np.load(path, mmap_mode="r")
    return held


def _computed(lower: LowerLayers, rows: list[list[int]]) -> Array:
    sizes = np.array([len(row) for row in rows])
    starts = np.cumsum(sizes) - sizes
    out = np.empty((int(sizes.sum()), lower.width), np.float16)
    for length, chosen in batches(sizes.tolist(), 1 if len(rows) == 1 else 16, int(sizes.max())):
        ids = torch.zeros((len(chosen), max(length, 1)), dtype=torch.long)
        for k, row in enumerate(chosen):
            ids[k, : sizes[row]] = torch.tensor(rows[row])
        states = lower.states(ids).float().numpy()
        if not np.abs(states).max() <= LARGEST:
            raise ArtifactError(f"states after layer {lower.recipe.cut} exceed what float16 holds")
        for k, row in enumerate(chosen):
            out[starts[row] : starts[row] + sizes[row]] = states[k, : sizes[row]]
    return out


def sum_of(states: Array) -> tuple[Array, int]:
    """(d,) float32, the sum of a text's states (T, d), and of how many: sinks are left out as in the bank."""
    own = states.astype(np.float32)
    length = np.linalg.norm(own, axis=1)
    read = length <= FURTHER_SINK * np.sort(length)[max(len(own) - 1, 0) // 2] if len(own) else length > 0
    return own[read].sum(axis=0), max(int(read.sum()), 1)


def _padded(rows: list[Array]) -> Tensor:
    longest = max(1, *(len(row) for row in rows))
    out = np.zeros((len(rows), longest, rows[0].shape[1]), rows[0].dtype)
    for k, row in enumerate(rows):
        out[k, : len(row)] = row
    return tensor(out)
