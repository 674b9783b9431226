"""Users' and items' sides of a BAHE model, kept between requests; and where their texts' vectors come from.

A user's side is kept under what it was made of (the vectors of the behaviours, what the user made of them, the
interests' vectors), so it is taken again exactly until the user does something. It is small (SmolLM2 and 50 behaviours:
56 kB a sequence), an item's a tenth of that.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from sqlalchemy import Connection
from torch import Tensor

from fusion.bank.mmap_file import KEY, BankFile
from fusion.bank.vectors import read_vectors
from fusion.encoders.recipe import Recipe
from fusion.encoders.split_llm import LowerLayers, open_lower_layers
from fusion.features.collate import BatchIndices
from fusion.features.samples import Samples
from fusion.models.bahe.collate import BaheBatch
from fusion.models.bahe.model import Bahe
from fusion.models.bahe.target_attention import UserSide

LIMIT = 10_000  # users, items, and texts that the bank lacked: 560, 46 and 12 MB with a small LLM


class LackingTextError(LookupError):
    """A text's vector is not at hand."""


class StoredTexts:
    """Vectors from the store's bank; what the bank lacks is computed, and the newest of it kept here."""

    def __init__(
        self, recipe: Recipe, folder: Path, width: int, *, kept: int = LIMIT, keep_found: bool = False
    ) -> None:
        """width: of a vector, which a bank without any has too. kept: texts whose vectors stay here.

        keep_found: keep those of the bank too, for who asks for the same texts again and again: a text's never change.
        """
        self._recipe, self._folder, self._width = recipe, folder, width
        self._kept, self._keep_found = kept, keep_found
        self._lower: LowerLayers | None = None
        self._made: dict[bytes, np.ndarray] = {}

    def __call__(self, connection: Connection | None, texts: Sequence[str]) -> BankFile:
        """Raises InputError or ArtifactError where a text has to be computed and the LLM is not there.

        connection: None raises LackingTextError for a text that is not kept here.
        """
        text_of = dict(zip(self._recipe.keys(texts), texts, strict=True))
        asked = [key for key in text_of if key not in self._made] if self._keep_found else list(text_of)
        if connection is None:
            if asked:
                raise LackingTextError(f"{len(asked)} texts are not kept here")
            return self._file(text_of, {})
        found = read_vectors(connection, self._recipe.id, asked)
        lacking = [key for key in text_of if key not in found and key not in self._made]
        if lacking:
            self._lower = self._lower or open_lower_layers(self._folder, self._recipe)
            made = self._lower([text_of[key] for key in lacking]).astype(np.float16)
            self._made |= dict(zip(lacking, made, strict=True))
        if self._keep_found:
            self._made |= found
        file = self._file(text_of, found)
        for key in list(self._made)[: max(0, len(self._made) - self._kept)]:  # the oldest; those of this call are held
            del self._made[key]
        return file

    def _file(self, keys: Iterable[bytes], found: Mapping[bytes, np.ndarray]) -> BankFile:
        ordered = sorted(keys)
        held = [found[key] if key in found else self._made[key] for key in ordered]
        return BankFile(np.array(ordered, KEY), np.stack(held) if held else np.zeros((0, self._width), np.float16))


class BaheStates:
    """One model's users and items, by what they are made of."""

    def __init__(self, model: Bahe, limit: int = LIMIT) -> None:
        self._model, self._limit = model, limit
        self._users: OrderedDict[str, tuple[bytes, UserSide, Tensor | None]] = OrderedDict()
        self._items: OrderedDict[bytes, Tensor] = OrderedDict()
        self.made = self.taken = 0  # users encoded, users found

    @torch.no_grad()
    def score(self, samples: Samples, chosen: BatchIndices, names: list[str]) -> Tensor:
        """(B,) logits of one part of a scoring job. names: the ids of the log's users."""
        batch = self._model.collator.collate(samples, chosen)
        heads = chosen.rows[chosen.sizes.cumsum() - chosen.sizes]
        keys = [names[user] for user in samples.impressions.take(heads).user]
        stamps = [_stamp(batch, window) for window in range(len(keys))]
        fresh = [w for w in range(len(keys)) if self._users.get(keys[w], (b"",))[0] != stamps[w]]
        self._encode(batch, fresh, keys, stamps)
        self.made += len(fresh)
        self.taken += len(keys) - len(fresh)
        held = [self._users[key] for key in keys]
        interests = [interest for _, _, interest in held if interest is not None]
        users = UserSide(*map(torch.stack, zip(*(user for _, user, _ in held), strict=True)))
        logits = self._model.score(users, self._offered(batch), torch.stack(interests) if interests else None, batch)
        for kept in (self._users, self._items):
            while len(kept) > self._limit:
                kept.popitem(last=False)
        return logits

    def nbytes(self, key: str) -> int:
        """What is kept of a user."""
        if key not in self._users:
            return 0
        _, user, interest = self._users[key]
        return sum(side.nbytes for side in user) + (0 if interest is None else interest.nbytes)

    def drop(self, key: str) -> None:
        """Keep nothing of a user."""
        self._users.pop(key, None)

    def _encode(self, batch: BaheBatch, fresh: list[int], keys: list[str], stamps: list[bytes]) -> None:
        if fresh:
            own = dataclasses.replace(  # in scoring every past has a window of its own
                batch,
                history=batch.history[:, fresh],
                feedback=batch.feedback[:, fresh],
                visible=batch.visible[:, fresh],
                window=torch.arange(len(fresh)),
                partitions=batch.partitions[fresh],
            )
            users, interests = self._model.encode_users(own), self._model.interest(own)
            for place, window in enumerate(fresh):
                interest = None if interests is None else interests[place]
                user = UserSide(*(side[place] for side in users))
                self._users[keys[window]] = (stamps[window], user, interest)
        for key in keys:
            self._users.move_to_end(key)

    def _offered(self, batch: BaheBatch) -> Tensor:
        """(O, 2 d)."""
        rows = batch.offered.tolist()
        keys = [b"" if batch.item_row[row] == 1 else batch.vectors[row].numpy().tobytes() for row in rows]
        if batch.item_vectors is not None:
            keys = [key + batch.item_vectors[row].numpy().tobytes() for key, row in zip(keys, rows, strict=True)]
        fresh = [o for o, key in enumerate(keys) if key not in self._items]
        if fresh:
            own = dataclasses.replace(batch, offered=batch.offered[fresh], target=torch.arange(len(fresh)))
            made = self._model.encode_items(own)
            self._items |= {keys[o]: item for o, item in zip(fresh, made, strict=True)}
        for key in keys:
            self._items.move_to_end(key)
        return torch.stack([self._items[key] for key in keys])


def _stamp(batch: BaheBatch, window: int) -> bytes:
    """Of everything that a user's side is made of; the padding is none of it."""
    digest = hashlib.blake2b(digest_size=16)
    for sequence, feedback in zip(batch.history[:, window], batch.feedback[:, window], strict=True):
        own = sequence[sequence > 0].long()
        digest.update(f"{len(own)}".encode())
        digest.update(batch.item_row[own].numpy().tobytes() + batch.vectors[own].numpy().tobytes())
        if batch.item_vectors is not None:
            digest.update(batch.item_vectors[own].numpy().tobytes())
        digest.update(feedback[sequence > 0].numpy().tobytes())
    slots = (batch.partitions[window] >= 0).nonzero()[:, 0]  # a partition's age tells too
    digest.update(f"{slots.tolist()}".encode())
    digest.update(batch.interest_vectors[batch.partitions[window, slots]].numpy().tobytes())
    return digest.digest()
