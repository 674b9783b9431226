"""Users' sides of a folding model, kept between requests until the user does something.

A state is taken again while everything that it was made from is the same, item by item: the behaviours that the moment
sees and their items as the catalogue has them, the counts and the profile that the queries start from, the interests'
vectors. What is kept is a few hundred kB a user (2 layers, L = 200, width 64: 205 kB), so the oldest are dropped above
`limit`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from fusion.features.collate import BatchIndices
from fusion.features.counts import DAY
from fusion.features.events import buckets
from fusion.features.log import Array
from fusion.features.packed_windows import USER_COUNTS, Candidates, PackedBatch, of_one_moment
from fusion.features.samples import Samples, tensor
from fusion.models.srp4ctr.cross import UserProducts
from fusion.models.srp4ctr.model import Srp4Ctr, UserState

LIMIT = 1000  # users: 205 MB at L = 200
PRODUCTS = 64  # users: 14 MB at L = 50, 35 MB at L = 200; what they take is not there for other users' states


class UserStates:
    """One model's states, by user id."""

    def __init__(self, model: Srp4Ctr, limit: int = LIMIT) -> None:
        self._model, self._limit = model, limit
        self._held: OrderedDict[str, tuple[bytes, UserState]] = OrderedDict()
        self._products: OrderedDict[str, tuple[bytes, UserProducts]] = OrderedDict()
        self.made = self.taken = 0  # states encoded, states found

    @torch.no_grad()
    def score(self, samples: Samples, chosen: BatchIndices, names: list[str], lifelong: Tensor | None = None) -> Tensor:
        """(B,) logits of one part of a scoring job. names: the ids of the log's users.

        lifelong: (1, 2 d) of the one user, where the samples do not hold the whole past; else it is summed from them.
        """
        batch = self._model.collator.collate(samples, chosen)
        heads = chosen.rows[chosen.sizes.cumsum() - chosen.sizes]
        keys = [names[user] for user in samples.impressions.take(heads).user]
        stamps = _stamps(batch)
        if lifelong is not None:
            stamps = [stamp + lifelong.numpy().tobytes() for stamp in stamps]
        states = [self._take(key, stamp) for key, stamp in zip(keys, stamps, strict=True)]
        missing = [window for window, state in enumerate(states) if state is None]
        for window, state in zip(missing, self._encode(samples, heads[missing], lifelong), strict=True):
            states[window] = state
            self._keep(keys[window], stamps[window], state)
        state = _stack([state for state in states if state is not None], batch.candidates.age.shape[2])
        return self._model.score(state, of_one_moment(batch.candidates), batch.items)

    @torch.no_grad()
    def score_user(self, samples: Samples, name: str, newest: int, lifelong: Tensor | None, offered: Tensor) -> Tensor:
        """(n,) logits of samples that are one user's at one moment, from the encoder's vectors of their items (n, d).

        The first one stands for all in what they see, so that only their own numbers are gathered. newest: the sequence
        number up to which the user's log is in the samples. A state is taken again where that, the moment's counts, the
        profile and the interests are the same: whoever calls drops it when the items of the past change. What the state
        and the weights make together is kept for the users who were scored last, of a day and a scene.
        """
        look = samples.impressions.take(slice(0, 1))
        own = [samples.dense[0, USER_COUNTS], samples.profiles[0], *samples.visible_interests(look)]
        own += [] if lifelong is None else [lifelong.numpy()]
        stamp = f"{newest} ".encode() + b"".join(part.tobytes() for part in own)
        scene, day = None if samples.scene is None else samples.scene[:1], int(look.at[0] // DAY)
        moment = f"{day} {scene} ".encode() + stamp
        dense = tensor(samples.dense)
        keys = None
        if samples.keys is not None:
            keys = samples.keys.read(samples.impressions, samples.scene, together=True)
        products = self._products.get(name)
        if products is not None and products[0] == moment:
            self._products.move_to_end(name)
            return self._model.meet(products[1], offered, dense, keys)
        state = self._take(name, stamp)
        if state is None:
            one = np.zeros(1, np.int64)
            state = self._encoded(self._model.collator.collate(samples, BatchIndices(one, one + 1)), lifelong)[0]
            self._keep(name, stamp, state)
        columns, many = state.mask.shape[1], torch.arange(len(samples))
        events = samples.events
        rows = events.rows[np.arange(look.stop[0] - columns, look.stop[0])] if state.mask.any() else np.zeros(1, int)
        age = buckets(day - events.day[rows]) * state.mask.numpy()[0]
        candidates = Candidates(
            target=many[None],
            visible=torch.full((1, 1), columns, dtype=torch.int32),
            age=tensor(age.astype(np.int32)[None, None]),
            slot=many,
            profile=tensor(samples.profiles[:1]),
            dense=dense,
            value_bucket=torch.zeros(len(samples), dtype=torch.int64),
            scene=None if scene is None else tensor(scene)[None],
            keys=keys,
        )
        if not self._model.one_moment(state, candidates):
            return self._model.score(state, candidates, offered)
        made = self._model.products(state, candidates)
        self._products[name] = moment, made
        if len(self._products) > PRODUCTS:
            self._products.popitem(last=False)
        return self._model.meet(made, offered, dense, keys)

    def _encode(self, samples: Samples, heads: Array, lifelong: Tensor | None) -> list[UserState]:
        if not len(heads):
            return []
        return self._encoded(self._model.collator.collate(samples, BatchIndices(heads, heads * 0 + 1)), lifelong)

    def _encoded(self, batch: PackedBatch, lifelong: Tensor | None) -> list[UserState]:
        self.made += len(batch.users)
        own = None if lifelong is None else lifelong.float()
        return _apart(self._model.encode_user(batch.users, batch.items, own))

    def nbytes(self, key: str) -> int:
        """What is kept of a user."""
        held, products = self._held.get(key), self._products.get(key)
        made = 0 if products is None else products[1].nbytes
        return made + (0 if held is None else sum(tensor.nbytes for tensor in _tensors(held[1])))

    def drop(self, key: str) -> None:
        """Keep nothing of a user."""
        self._held.pop(key, None)
        self._products.pop(key, None)

    def _take(self, key: str, stamp: bytes) -> UserState | None:
        held = self._held.get(key)
        if held is None or held[0] != stamp:
            return None
        self._held.move_to_end(key)
        self.taken += 1
        return held[1]

    def _keep(self, key: str, stamp: bytes, state: UserState) -> None:
        self._held[key] = (stamp, state)
        self._held.move_to_end(key)
        while len(self._held) > self._limit:
            self._held.popitem(last=False)


def _stamps(batch: PackedBatch) -> list[bytes]:
    """Of everything that each window's state is made of; the padding is none of it."""
    users, items = batch.users, batch.items
    sizes = users.past_size.tolist()
    pasts = zip(torch.split(users.past, sizes), torch.split(users.past_positive, sizes), strict=True)
    out = []
    for window, (past, positive) in enumerate(pasts):
        mask = users.event[window] > 0
        slots = (users.partitions[window] >= 0).nonzero()[:, 0]
        told = users.interest_vectors[users.partitions[window, slots]]
        digest = hashlib.blake2b(f"{int(mask.sum())} {len(past)} {slots.tolist()}".encode(), digest_size=16)
        seen = torch.cat([users.event[window, mask], past])
        read = (items.row, items.categories, items.attributes, items.vectors)
        shown = [of_item[seen] for of_item in read if of_item is not None]
        own = (users.behavior[window, mask], positive, users.context[window], users.profile[window], told)
        for part in (*shown, *own):
            digest.update(part.numpy().tobytes())
        out.append(digest.digest())
    return out


def _tensors(state: UserState) -> list[Tensor]:
    every = [state.mask, *state.keys, *state.values, state.states, state.queried, state.interest, state.lifelong]
    return [tensor for tensor in every if tensor is not None]


def _apart(state: UserState) -> list[UserState]:
    """Each window's state on its own, without the padding on its left."""
    out = []
    for g in range(len(state.mask)):
        columns = max(int(state.mask[g].sum()), 1)
        out.append(
            UserState(
                mask=state.mask[g : g + 1, -columns:].clone(),
                keys=tuple(k[g : g + 1, :, -columns:].clone() for k in state.keys),
                values=tuple(v[g : g + 1, :, -columns:].clone() for v in state.values),
                states=None if state.states is None else state.states[g : g + 1, -columns:].clone(),
                queried=None if state.queried is None else state.queried[g : g + 1].clone(),
                interest=None if state.interest is None else state.interest[g : g + 1].clone(),
                lifelong=None if state.lifelong is None else state.lifelong[g : g + 1].clone(),
            )
        )
    return out


def _stack(states: list[UserState], columns: int) -> UserState:
    """States side by side, padded on the left to `columns`."""

    def left(own: list[Tensor], axis_from_end: int) -> Tensor:
        widths = [columns - x.shape[-axis_from_end] for x in own]
        return torch.cat(
            [pad(x, [0, 0] * (axis_from_end - 1) + [width, 0]) for x, width in zip(own, widths, strict=True)]
        )

    def optional(own: list[Tensor | None]) -> list[Tensor]:
        return [x for x in own if x is not None]

    states_, queried = optional([s.states for s in states]), optional([s.queried for s in states])
    interest, lifelong = optional([s.interest for s in states]), optional([s.lifelong for s in states])
    layers = range(len(states[0].keys))
    return UserState(
        mask=left([s.mask for s in states], 1),
        keys=tuple(left([s.keys[n] for s in states], 2) for n in layers),
        values=tuple(left([s.values[n] for s in states], 2) for n in layers),
        states=left(states_, 2) if states_ else None,
        queried=torch.cat(queried) if queried else None,
        interest=torch.cat(interest) if interest else None,
        lifelong=torch.cat(lifelong) if lifelong else None,
    )
