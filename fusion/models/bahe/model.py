"""BAHE (arXiv 2403.19347): an LLM's upper layers read a user's behaviours, one vector each, and are trained for CTR.

Each of N sequences goes through the same layers separately ("feature parallel"), is pooled, and the N vectors are
concatenated; the offered item, a sequence of one, goes through them too. Beside what the layers make of something is
what they read, for a user's sequence its mean, and all is standardised (fusion/models/bahe/standardise.py). The heads
(fusion/models/bahe/head.py) see users, item, the sequences' sizes and liked shares, what the user made of behaviours
like the item (fusion/models/bahe/target_attention.py), the interests (UIF), profile and the lifelong counts. No item
has an embedding of its own: an item that nobody has met is as good as its text.

Paper silent, chosen here: mask, positions, sink and pooling (fusion/encoders/split_llm.py), what is standardised, how
many heads, and all that they see beside users and item.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, cast

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.encoders.lora import add_lora
from fusion.encoders.recipe import Recipe, TextPooling
from fusion.encoders.sentence import Precision
from fusion.encoders.split_llm import Architecture, Mask, UpperLayers, check_same_llm, set_weights, upper_weights
from fusion.features.collate import Collator
from fusion.features.spec import FIRST, UNKNOWN, FeatureSpec
from fusion.models.bahe.collate import BaheBatch, BaheCollator
from fusion.models.bahe.head import Head
from fusion.models.bahe.standardise import Standardise
from fusion.models.bahe.target_attention import SHARE, UserSide, sizes_of
from fusion.models.modalities import item_modalities
from fusion.models.protocol import Loss, ctr_only
from fusion.models.uif import InterestFusion


class BaheConfig(msgspec.Struct, frozen=True, kw_only=True):
    recipe: Recipe  # of the vectors it reads: LLM, cut, tokenizer, template
    folder: str  # where that LLM was; another place can be named when the artifact is loaded
    architecture: Architecture  # the LLM's config.json
    sequences: tuple[str, ...] = ("recent",)
    history: int = 50  # M, of each sequence
    mask: Mask = "causal"
    # Moments of a user that share a pass in training; 1 where the mask is not causal, at most an eighth of a batch.
    # SmolLM2, M = 50: 4.6 samples per processor second alone, 13.8 by fours (batch 32), 35.7 by sixteens (batch 128).
    # Batches of fewer users learn a little less per epoch: in a short run of 5,171 samples by fours 0.004 to 0.009 AUC
    pack: int = msgspec.field(default=16, name="together")  # as artifacts name it
    pooling: TextPooling = "mean"
    tune: Literal["full", "lora"] = "full"
    rank: int = 8  # of LoRA
    alpha: float = 16.0
    checkpointing: bool = False
    precision: Precision = "float32"
    heads: int = 4
    width: int = 64  # of a user's and an item's part in a head
    keys: int = 64  # width in which behaviours and items are compared; trials: target_attention.py
    profile: int = 8
    hidden: tuple[int, ...] = (200, 80)
    dropout: float = 0.2
    interest: bool = False
    until: float = 0.0  # event time after which a refresh finds what is new to it (fusion.training.bahe.newest)
    continued_from: str = ""  # id of the artifact whose weights it began with


class Bahe(nn.Module):
    """Scores impressions: `forward(batch) -> (B,)` logits, which are `score(users, items, batch)`."""

    def __init__(self, spec: FeatureSpec, config: BaheConfig, collator: Collator | None = None) -> None:
        """collator: another way to make batches of samples, if not `BaheCollator` as the config says."""
        super().__init__()
        self.config, self.tasks = config, spec.tasks
        # a state that has seen what comes later cannot serve an earlier moment
        pack = config.pack if config.mask == "causal" else 1
        self.collator = collator or BaheCollator(config.sequences, config.history, pack)
        self.high = UpperLayers(
            config.architecture, config.recipe.cut, mask=config.mask, pooling=config.pooling,
            checkpointing=config.checkpointing, precision=config.precision,
        )  # fmt: skip
        if config.tune == "lora":
            add_lora(self.high, config.rank, config.alpha)
        d, w, many = self.high.width, config.width, len(config.sequences)
        self.unknown = nn.Parameter(torch.zeros(d))  # an item of which nothing is known
        self.nothing = nn.Parameter(torch.zeros(many, 2 * d))  # a sequence without behaviours
        self.users, self.sizes = Standardise(many, 2 * d), Standardise(many, 2)
        self.items, self.texts, self.behaved = Standardise(d), Standardise(d), Standardise(d)
        self.fusion = InterestFusion(spec.text_width, d, spec.partitions) if config.interest else None
        self.heads = nn.ModuleList(
            Head(
                spec, d, many, width=w, keys=config.keys, profile=config.profile, hidden=config.hidden,
                dropout=config.dropout, interest=config.interest,
            )
            for _ in range(config.heads)
        )  # fmt: skip
        self.modalities = item_modalities(spec.item_modalities, d, start=0.0)  # begins as the texts alone
        self.spread = None if self.modalities is None else Standardise(d)  # of texts alone

    @property
    def dense_path(self) -> None:
        """None: what the heads shared would be no head's own."""

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        return self.high.parameters()

    def load_outside(self, llm: Path | None) -> BaheConfig:
        """With LoRA, the layers that it stands on. The LLM is else only needed for texts that the bank lacks.

        So it need not be there, but a folder that is named must be the right one. Raises ArtifactError for another
        LLM, InputError where there is none.
        """
        folder = Path(self.config.folder) if llm is None else llm
        if self.config.tune == "lora" or llm is not None:
            check_same_llm(folder, self.config.recipe)
        if self.config.tune == "lora":
            self.take_llm(upper_weights(folder, self.config.recipe.cut))
        return msgspec.structs.replace(self.config, folder=str(folder))

    def take_llm(self, weights: dict[str, Tensor]) -> None:
        """Begin with an LLM's layers (`fusion/encoders/split_llm.py`); with LoRA they also stay."""
        set_weights(self.high, weights)

    def forward(self, batch: BaheBatch) -> Tensor:
        return self.logits(batch).mean(dim=1)

    def loss(self, batch: BaheBatch, labels: Tensor) -> Loss:
        """The heads learn each for itself."""
        return ctr_only(self.tasks, self.logits(batch), labels)

    def logits(self, batch: BaheBatch) -> Tensor:
        """(B, heads), of several tasks (B, heads, T)."""
        vectors = self._vectors(batch)
        users = self._encode(batch, vectors)
        return self.judge(users, self._items(batch, vectors), self.interest(batch), batch)

    def encode_users(self, batch: BaheBatch) -> UserSide:
        """The users' side, once for any number of candidates."""
        return self._encode(batch, self._vectors(batch))

    def encode_items(self, batch: BaheBatch) -> Tensor:
        """(O, 2 d)."""
        return self._items(batch, self._vectors(batch))

    def interest(self, batch: BaheBatch) -> Tensor | None:
        """(S, 32), where the model reads interests."""
        return None if self.fusion is None else self.fusion.user(batch)

    def score(self, users: UserSide, items: Tensor, interest: Tensor | None, batch: BaheBatch) -> Tensor:
        """(B,) logits, or (B, T), from users, items (O, 2 d) and interests (S, 32): the mean of the heads'."""
        return self.judge(users, items, interest, batch).mean(dim=1)

    def judge(self, users: UserSide, items: Tensor, interest: Tensor | None, batch: BaheBatch) -> Tensor:
        """(B, heads), of several tasks (B, heads, T)."""
        offered = items[batch.target]  # (B, 2 d)
        interests = []
        if self.fusion is not None and interest is not None:
            interests.append(self.fusion.join(interest[batch.past], offered.chunk(2, dim=1)[0]))
        logits = [head(users, users.keys[..., n, :], offered, interests, batch) for n, head in enumerate(self.heads)]
        return torch.stack(logits, dim=1)

    def _vectors(self, batch: BaheBatch) -> Tensor:
        vectors = torch.where((batch.item_row == UNKNOWN)[:, None], self.unknown, batch.vectors.float())
        if self.modalities is None or self.spread is None or batch.item_vectors is None:
            return vectors
        # As if they were added to standardised texts: an LLM's texts deviate by 4 in a dimension, and whatever reads
        # the sum divides by its deviation. It learns at a tenth (`Slow`), and the modalities ten times as fast
        spread = self.spread.deviation(vectors, batch.item_row == FIRST)
        joined: Tensor = vectors + spread / SHARE * self.modalities(batch.item_vectors)
        return joined

    def _encode(self, batch: BaheBatch, vectors: Tensor) -> UserSide:
        many, windows, longest = batch.history.shape
        rows = batch.history.reshape(many * windows, longest)
        x = F.embedding(rows, vectors)
        if self.config.mask == "causal":
            row = batch.window + windows * torch.arange(many, device=rows.device)[:, None]  # (N, S)
            pooled = self.high.prefixes(x, row.flatten(), batch.visible.flatten(), self.config.history)
        else:
            pooled = self.high(x, rows > 0)  # every past has a window of its own
        pooled = pooled.view(many, len(batch.window), -1).transpose(0, 1)  # (S, N, 2 d)
        return self.users_of(pooled, *self.behaviors(batch, vectors))

    def behaviors(self, batch: BaheBatch, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (S, N, M, heads, k) and outcomes (S, N, M) of the newest M behaviours that each past has seen."""
        times = torch.bincount(batch.history.flatten(), minlength=len(vectors))
        keys = self.keys_of(vectors, batch.item_row == FIRST, times)
        device = batch.history.device
        column = batch.visible[..., None] + torch.arange(-self.config.history, 0, device=device)  # (N, S, M)
        sequence = torch.arange(len(column), device=device)[:, None, None]
        at = sequence, batch.window[:, None], column.clamp(min=0)
        newest, feedback = (
            torch.where(column < 0, 0, field[at]).transpose(0, 1) for field in (batch.history, batch.feedback)
        )
        return F.embedding(newest, keys.flatten(1)).view(*newest.shape, *keys.shape[1:]), feedback

    def keys_of(self, vectors: Tensor, known: Tensor, times: Tensor) -> Tensor:
        """(V, heads, k) of behaviours' vectors (V, d); zero where not `known` (V,). In training each counts `times`."""
        standard = self.behaved(vectors, times * known)
        return torch.stack([cast(Head, head).matching.keys(standard, known) for head in self.heads], dim=1)

    def users_of(self, pooled: Tensor, keys: Tensor, feedback: Tensor) -> UserSide:
        """From pooled sequences (S, N, 2 d), and their behaviours' keys (S, N, M, heads, k) and outcomes (S, N, M)."""
        mask = (feedback > 0).any(dim=-1)
        standard = torch.where(mask[..., None], self.users(pooled, mask), self.nothing)
        return UserSide(standard, self.sizes(sizes_of(feedback)), keys, feedback)

    def _items(self, batch: BaheBatch, vectors: Tensor) -> Tensor:
        single = F.embedding(batch.offered, vectors)  # (O, d)
        known = batch.item_row[batch.offered] == FIRST
        return self.items_of(self.high.encode_items(single), single, known, batch.target)

    def items_of(self, pooled: Tensor, texts: Tensor, known: Tensor, target: Tensor) -> Tensor:
        """(O, 2 d): the items' side, of what the layers made of them and of their texts, (O, d) each.

        A text that is not `known` (O,) is as the mean of all. In training an item counts as often as it is offered:
        target (B,) into the O.
        """
        times = torch.bincount(target, minlength=len(pooled))
        text = self.texts(texts, times * known) * known[:, None]
        return torch.cat([self.items(pooled, times), text], dim=1)
