"""SRP4CTR (arXiv 2407.19658, section 3.2): candidates look into a pre-trained encoder of the user's history.

At every layer a candidate attends, with a query of its own, to the user's keys and values of the same layer: those that
the encoder's own projections made, so they are shared and made once per user (uni cross-attention). Users never look at
candidates. A few learnable queries, started from profile and counts, read the encoder's outputs (Querying Transformer).
Both join the other features of a CTR model: profile, lifelong counts, interests.

Ours, beyond the paper: a candidate's query, output and feed-forward block start as copies of the encoder's, and its
position where a masked behaviour stands, so that pre-training's question "what did the user make of this item?" is the
question it starts with; attention has learnt biases for how many events and how many days ago something was; the whole
past joins as two sums (fusion/models/lifelong.py); training also asks which value the user gives.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.features.events import GAP_ROWS, behavior_rows
from fusion.features.keys.vectors import KeyBatch
from fusion.features.packed_windows import USER_COUNTS, Candidates, Items, PackedBatch, PackedCollator, Users
from fusion.features.spec import FIRST, FeatureSpec
from fusion.features.tasks import main_task
from fusion.models.kv.reader import KeyReader
from fusion.models.lifelong import Lifelong
from fusion.models.protocol import Loss, ctr_only, loss_of
from fusion.models.scenes import offered_scene
from fusion.models.srp4ctr.cross import CrossLayer, UserProducts
from fusion.models.srp4ctr.fgbert import (
    FeedForward,
    FgBert,
    FgBertConfig,
    Layer,
    attend,
    hide,
    join_heads,
    split_heads,
    start,
)
from fusion.models.tower import Input, Shared, dense_paths, towers
from fusion.models.uif import WIDTH, InterestFusion

NO_CLASS = -100  # torch's number for rows that a cross-entropy leaves out


class Srp4CtrConfig(msgspec.Struct, frozen=True, kw_only=True):
    encoder: FgBertConfig
    # impressions of a user that share a window in training; `together` is its name in artifacts
    pack: int = msgspec.field(default=15, name="together")
    queries: int = 4  # of the Querying Transformer; 0: none
    cross: bool = True  # uni cross-attention
    pooled: bool = False  # MP: the mean of the encoder's outputs, which knows no candidate
    profile: int = 8
    hidden: tuple[int, ...] = (200, 80)
    dropout: float = 0.2
    dense_path: bool = False  # the dense features have a network of their own beside the tower, fitted first
    lifelong: bool = False  # sums over the whole past beside the encoded history
    value_task: float = 0.0  # weight of a second task in training: which value the user gives (0: none)
    interest: bool = False
    keys: bool = False  # the user's key-vector state beside the encoded history
    pretrained: str = ""  # id of the pre-training that the encoder came from


def ablations(encoder: FgBertConfig, **more: Any) -> dict[str, Srp4CtrConfig]:
    """The model and the ablations that the paper compares, by name."""
    full = Srp4CtrConfig(encoder=encoder, **more)
    change = msgspec.structs.replace
    return {
        "full": full,
        "no-cross": change(full, cross=False),
        "no-querying": change(full, queries=0),
        "mp": change(full, cross=False, queries=0, pooled=True),
    }


@dataclass(frozen=True, slots=True)
class UserState:
    """Everything about G users' histories that scoring a candidate needs."""

    mask: Tensor  # (G, T) bool
    keys: tuple[Tensor, ...]  # per layer (G, H, T, d / H)
    values: tuple[Tensor, ...]
    states: Tensor | None  # (G, T, d), for MP
    queried: Tensor | None  # (G, q d)
    interest: Tensor | None  # (G, 32)
    lifelong: Tensor | None  # (G, 2 d)


class Hidden(NamedTuple):
    """What the last layers read."""

    hidden: Tensor  # (B, h), of several tasks (B, T, h)
    dense: Tensor  # (B, F)


class Querying(nn.Module):
    """q learnable queries, moved by what is known of the user, read the encoder's outputs (section 3.3)."""

    def __init__(self, config: FgBertConfig, queries: int, features: int) -> None:
        super().__init__()
        d = config.width
        self.heads, self.queries = config.heads, queries
        self.seek = nn.Parameter(torch.empty(queries, d))
        self.move = nn.Linear(features, queries * d)
        self.norm, self.query, self.key, self.value = nn.LayerNorm(d), nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.out = nn.Linear(d, d)
        self.feed = FeedForward(config)
        start(self)
        nn.init.normal_(self.seek, std=0.5)  # apart from each other from the start

    def forward(self, states: Tensor, mask: Tensor, features: Tensor) -> Tensor:
        """(G, q d), from states (G, T, d) and the user's features (G, f)."""
        x = self.seek + self.move(features).view(len(features), *self.seek.shape)  # (G, q, d)
        queries = split_heads(self.query(self.norm(x)), self.heads)
        keys, values = split_heads(self.key(states), self.heads), split_heads(self.value(states), self.heads)
        hidden = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -1e9)[:, None, None, :]
        attended = join_heads(attend(queries, keys, values, hidden)) * mask.any(dim=1)[:, None, None]
        return cast(Tensor, self.feed(x + self.out(attended))).flatten(1)


class Srp4Ctr(nn.Module):
    """Scores impressions: `forward(batch) -> (B,)` logits, which are `score(encode_user(users), candidates)`.

    Of T tasks they are (B, T).
    """

    def __init__(self, spec: FeatureSpec, config: Srp4CtrConfig) -> None:
        super().__init__()
        encoder = config.encoder
        d = encoder.width
        self.config, self.history, self.tasks = config, spec.history, spec.tasks
        self.main = main_task(spec.tasks)
        self.collator = PackedCollator(config.pack, whole_past=config.lifelong)
        self.encoder = FgBert(spec, encoder)
        self.profile = nn.ModuleList(nn.Embedding(column.size, config.profile) for column in spec.user_columns)
        profile_width = config.profile * len(spec.user_columns)
        inputs = d + profile_width + len(spec.dense)
        if config.cross:
            self.position = nn.Parameter(torch.zeros(d))  # the candidate's
            self.cross = nn.ModuleList(CrossLayer(encoder) for _ in range(encoder.layers))
            self.ago = nn.Embedding(spec.history + 1, encoder.layers * encoder.heads)  # events ago
            self.age = nn.Embedding(GAP_ROWS, encoder.layers * encoder.heads)  # days ago
            self.norm = nn.LayerNorm(d)
            inputs += d
        if config.queries:
            self.querying = Querying(encoder, config.queries, profile_width + len(USER_COUNTS))
            inputs += config.queries * d
        if config.pooled:
            inputs += d
        self.lifelong = Lifelong(d) if config.lifelong else None
        inputs += 4 * d if config.lifelong else 0
        self.fusion = InterestFusion(spec.text_width, d, spec.partitions) if config.interest else None
        inputs += 3 * WIDTH if config.interest else 0
        self.scene = offered_scene(spec, config.profile)
        self.scene_field = list(behavior_rows(spec)).index("scene") if self.scene is not None else 0
        inputs += config.profile if self.scene is not None else 0
        self.keys = KeyReader(spec) if config.keys else None
        inputs += self.keys.width if self.keys is not None else 0
        many, ends = len(spec.tasks), (len(spec.dense), config.hidden, config.dropout)
        self.tower = towers(many, inputs, *ends)
        self.dense_path = dense_paths(many, *ends) if config.dense_path else None
        self.value = nn.Linear(self.tower.width, spec.value_rows) if config.value_task else None
        for embedding in self.profile:
            nn.init.normal_(cast(nn.Embedding, embedding).weight, std=0.01)
        self.follow_encoder()

    @torch.no_grad()
    def follow_encoder(self) -> None:
        """Start the candidate's side from the encoder's."""
        if not self.config.cross:
            return
        for cross, layer in zip(self.cross, self.encoder.layers, strict=True):
            cast(CrossLayer, cross).copy(cast(Layer, layer))
        self.norm.load_state_dict(self.encoder.norm.state_dict())
        here = min(self.history, self.encoder.config.positions - 1)  # right after the newest event
        self.position.copy_(self.encoder.hidden_behavior + self.encoder.position.weight[here])
        nn.init.zeros_(self.ago.weight)
        nn.init.zeros_(self.age.weight)

    def forward(self, batch: PackedBatch) -> Tensor:
        return self._logits(self._read(batch))

    def loss(self, batch: PackedBatch, labels: Tensor) -> Loss:
        """Beside its tasks it is asked which value the user gives, by what the main task's tower has read, on rows of
        which that task says something.
        """
        read = self._read(batch)
        logits = self._logits(read)
        if self.value is None:
            return ctr_only(self.tasks, logits, labels)
        bucket = batch.candidates.value_bucket
        silent = bucket < FIRST
        if labels.dim() == 2:
            silent = silent | labels[:, self.main].isnan()
        wanted = bucket.masked_fill(silent, NO_CLASS)
        hidden = read.hidden if len(self.tasks) == 1 else read.hidden[:, self.main]
        extra = F.cross_entropy(self.value(hidden), wanted, ignore_index=NO_CLASS, reduction="sum")
        return Loss(loss_of(self.tasks, logits, labels), self.config.value_task * extra)

    def pretrained_parameters(self) -> Iterable[nn.Parameter]:
        return self.encoder.parameters()

    def load_outside(self, _llm: Path | None) -> Srp4CtrConfig:
        return self.config

    def _read(self, batch: PackedBatch) -> Hidden:
        items = self.encoder.items(batch.items)  # (M, d)
        return self._hidden(self._encode(batch.users, items), batch.candidates, items)

    def _logits(self, read: Hidden) -> Tensor:
        logits = self.tower.logits(*read)
        return logits if self.dense_path is None else logits + self.dense_path(read.dense)

    def encode_user(self, users: Users, items: Items, lifelong: Tensor | None = None) -> UserState:
        """The users' side, once for any number of candidates.

        lifelong: (G, 2 d), where the users' pasts are not there to be summed.
        """
        return self._encode(users, self.encoder.items(items), lifelong)

    def score(self, state: UserState, candidates: Candidates, items: Items | Tensor) -> Tensor:
        """(B,) logits of candidates, in as many windows as the state has. items: or the encoder's of them, (M, d)."""
        vectors = items if isinstance(items, Tensor) else self.encoder.items(items)
        if self.one_moment(state, candidates):
            offered = F.embedding(candidates.target[0], vectors)
            return self.meet(self.products(state, candidates), offered, candidates.dense, candidates.keys)
        return self._logits(self._hidden(state, candidates, vectors))

    def one_moment(self, state: UserState, candidates: Candidates) -> bool:
        """Whether `products` says all that these candidates have in common: one user, moment and scene, in scoring."""
        common = (candidates.visible, *([] if candidates.scene is None else [candidates.scene]))
        many, alike = candidates.target.shape, all(shown.shape == (1, 1) for shown in common)
        fitting = self.config.cross and not self.config.pooled and bool(self.config.hidden) and not self.training
        return fitting and alike and many == (1, len(candidates)) and len(candidates.profile) == len(state.mask)

    def products(self, state: UserState, candidates: Candidates) -> UserProducts:
        """Of `one_moment`: for any number of candidates and requests."""
        ago, sees = self._seen(state, candidates)
        start, scene, layers = self.position, self._scene(candidates), []
        if scene is not None:
            start = start + self.encoder.behavior[self.scene_field](scene)[0, 0]
        some = sees.any(dim=2, keepdim=True)
        for number, bias in enumerate(self._bias(ago, candidates.age, sees)):
            layer = cast(CrossLayer, self.cross[number])
            layers.append(layer.products(state.keys[number], state.values[number], bias, some))
        nobody = start.new_zeros(0, len(start))
        more: list[Input] = [] if self.keys is None else [start.new_zeros(0, self.keys.width)]
        if self.scene is not None and scene is not None:
            more.append(Shared(self.scene(scene)[0], nobody))
        profile = [Shared(part, nobody) for part in self._profile(candidates.profile)]
        inputs = [nobody, nobody.clone(), *self._of_user(state, nobody, nobody), *more, *profile, candidates.dense[:0]]
        return UserProducts(start, tuple(layers), self.tower.fold(inputs))

    def meet(self, user: UserProducts, offered: Tensor, dense: Tensor, keys: KeyBatch | None = None) -> Tensor:
        """(B,) logits of `one_moment`, of offered (B, d), the encoder's vectors of the candidates' items."""
        x = offered + user.start
        for layer, own in zip(self.cross, user.layers, strict=True):
            x = cast(CrossLayer, layer).meet(x, own)
        more = [] if self.keys is None else [self.keys(keys)]
        read = torch.cat([offered, self.norm(x), *more, dense], dim=1)
        return self._logits(Hidden(self.tower.read_folded(read, user.tower), dense))

    def _encode(self, users: Users, items: Tensor, lifelong: Tensor | None = None) -> UserState:
        mask = users.event > 0
        columns = torch.arange(mask.shape[1], device=mask.device)
        tokens = F.embedding(users.event, items) + self.encoder.behaviors(users.behavior)
        tokens = tokens + self.encoder.position(columns + (self.history - users.prefix))
        needed = bool(self.config.queries or self.config.pooled)
        encoded = self.encoder(tokens, hide(mask, users.prefix), states=needed)
        queried = None
        if self.config.queries and encoded.states is not None:
            # the prefix alone: what is shared by all moments of the window
            features = torch.cat([*self._profile(users.profile), users.context], dim=1)
            queried = self.querying(encoded.states[:, : users.prefix], mask[:, : users.prefix], features)
        return UserState(
            mask=mask,
            keys=encoded.keys,
            values=encoded.values,
            states=encoded.states if self.config.pooled else None,
            queried=queried,
            interest=None if self.fusion is None else self.fusion.user(users),
            lifelong=self.lifelong.user(users, items) if self.lifelong is not None and lifelong is None else lifelong,
        )

    def _hidden(self, state: UserState, candidates: Candidates, items: Tensor) -> Hidden:
        offered = F.embedding(candidates.target, items)  # (G, C, d); what is seen may be there once, C = 1
        ago, sees = self._seen(state, candidates)
        slot = candidates.slot
        full = len(slot) == offered.shape[0] * offered.shape[1]  # then slots are in order: nothing is to be gathered
        window = slot // candidates.target.shape[1]

        def rows(x: Tensor) -> Tensor:
            """(G, C, w) -> (B, w)."""
            flat = x.flatten(0, 1)
            return flat if full else flat[slot]

        scene = self._scene(candidates)
        mine = rows(offered)  # (B, d)
        inputs: list[Input] = [mine]
        if self.config.cross:
            bias = self._bias(ago, candidates.age, sees)
            some = sees.any(dim=2, keepdim=True)
            x = offered + self.position
            if scene is not None:  # as the encoder's tokens say where a behaviour was
                x = x + self.encoder.behavior[self.scene_field](scene)
            for number, layer in enumerate(self.cross):
                x = layer(x, state.keys[number], state.values[number], bias[number], some)
            inputs.append(rows(self.norm(x)))
        if state.states is not None:
            even = sees / sees.sum(dim=2, keepdim=True).clamp(min=1)
            inputs.append(rows((even @ state.states).expand(-1, offered.shape[1], -1)))
        inputs += self._of_user(state, window, mine)
        if self.keys is not None:
            shown = None if scene is None else scene.expand_as(candidates.target).flatten()[slot]
            inputs.append(self.keys(candidates.keys, shown))
        if self.scene is not None and scene is not None:
            inputs.append(rows(self.scene(scene)))
        profile = self._profile(candidates.profile)
        inputs += profile if len(candidates.profile) == len(slot) else [Shared(part, window) for part in profile]
        inputs.append(candidates.dense)
        return Hidden(self.tower.read(inputs), candidates.dense)

    def _seen(self, state: UserState, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """(G, C, T): how many events ago, 1 is the newest; and whether the offer sees it."""
        columns = torch.arange(state.mask.shape[1], device=state.mask.device, dtype=torch.int32)
        ago = candidates.visible[:, :, None] - columns
        return ago, (ago > 0) & (ago <= self.history) & state.mask[:, None, :]

    def _scene(self, candidates: Candidates) -> Tensor | None:
        if self.scene is None or candidates.scene is None:
            return None
        return self.scene.hide(candidates.scene)

    def _of_user(self, state: UserState, window: Tensor, mine: Tensor) -> list[Input]:
        """What the tower reads of users, and of them with the candidates (B, d) that they meet in these windows."""

        def own(x: Tensor) -> Tensor:
            """(G, w) -> (B, w), or (1, w) of one user."""
            return x if len(x) == 1 else F.embedding(window, x)

        inputs: list[Input] = [] if state.queried is None else [Shared(state.queried, window)]
        if self.fusion is not None and state.interest is not None:
            inputs += [Shared(state.interest, window), self.fusion.meet(own(state.interest), mine)]
        if self.lifelong is not None and state.lifelong is not None:
            inputs += [Shared(state.lifelong, window), self.lifelong.meet(own(state.lifelong), mine)]
        return inputs

    def _bias(self, ago: Tensor, age: Tensor, sees: Tensor) -> list[Tensor]:
        """Per layer (G, H, C, T): what distance adds to attention, and -1e9 where there is nothing to see."""
        heads = self.encoder.config.heads
        far = F.embedding(ago.clamp(0, self.history), self.ago.weight) + F.embedding(age, self.age.weight)
        far = far.masked_fill(~sees[..., None], -1e9).permute(0, 3, 1, 2)  # (G, layers H, C, T)
        return list(torch.split(far, heads, dim=1))

    def _profile(self, rows: Tensor) -> list[Tensor]:
        return [embedding(rows[:, column]) for column, embedding in enumerate(self.profile)]
