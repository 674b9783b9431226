"""Documents as tokens with loss masks, packed into contexts: as many whole documents as fit, each seeing itself alone.

Attention is block-diagonal: positions begin anew with every document of a context and no document sees another. Still
no two users' private histories share a context unless told to, so that this does not rest on the mask alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusion.adaptation.document import Document, Kind
from fusion.features.log import Array
from interest.errors import ArtifactError

OPEN = 64  # contexts that are tried for a document before a new one is begun
IGNORED = -100  # a label that carries no loss


@dataclass(frozen=True, slots=True)
class Encoded:
    """A document of T tokens."""

    kind: Kind
    user: str | None
    ids: Array  # (T,) int32
    asked: Array  # (T,) bool: carries loss, as the token that the ones before it predict


class Encoder:
    """Documents to tokens, by the model's own tokenizer and chat template.

    Plain documents begin and end as the tokenizer has it (its beginning where it adds one, its end token, which is
    asked for); conversations are the chat template's alone. Raises ArtifactError for a tokenizer that cannot say which
    letters a token stands for.
    """

    def __init__(self, tokenizer: Any, context: int) -> None:
        if not tokenizer.is_fast:
            raise ArtifactError(
                f"the tokenizer of {tokenizer.name_or_path} has no tokenizer.json, which exact loss masks need; "
                "convert it with transformers first"
            )
        self._tokenizer, self.context = tokenizer, context
        end = tokenizer.eos_token_id
        self._end = [] if end is None else [int(end)]
        added = [int(token) for token in tokenizer("")["input_ids"]]
        self._begin = [token for token in added if token not in self._end]

    def __call__(self, document: Document) -> Encoded | None:
        """The document, cut to the context; None where nothing that is asked for remains."""
        text, spans = self._chat(document) if document.chat else _plain(document)
        out = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = list(out["input_ids"])
        starts = np.array([start for start, _ in out["offset_mapping"]], np.int64)
        asked = np.zeros(len(ids), bool)
        for first, end in spans:
            asked |= (starts >= first) & (starts < end)
        if not document.chat:
            ids = [*self._begin, *ids, *self._end]
            asked = np.concatenate([np.zeros(len(self._begin), bool), asked, np.ones(len(self._end), bool)])
        ids, asked = ids[: self.context], asked[: self.context]
        if not asked[1 : len(ids) - len(self._end)].any():
            return None
        return Encoded(document.kind, document.user, np.array(ids, np.int32), asked)

    def fits(self, text: str) -> bool:
        """Whether a plain document of this text is not cut."""
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return len(self._begin) + len(ids) + len(self._end) <= self.context

    def _chat(self, document: Document) -> tuple[str, list[tuple[int, int]]]:
        """The conversation by the template, and where the answer and the end of its turn stand."""
        many = len(document.pieces)
        roles = [*["system"] * (many % 2), *["user", "assistant"] * (many // 2)]
        turns = [{"role": role, "content": piece.text} for role, piece in zip(roles, document.pieces, strict=True)]
        render = self._tokenizer.apply_chat_template
        before: str = render(turns[:-1], tokenize=False, add_generation_prompt=True)
        text: str = render(turns, tokenize=False)
        if not text.startswith(before):  # a template that writes past answers otherwise than it asks for new ones
            text = before + document.pieces[-1].text + (self._tokenizer.eos_token or "")
        return text, [(len(before), len(text))]


def _plain(document: Document) -> tuple[str, list[tuple[int, int]]]:
    spans, at = [], 0
    for piece in document.pieces:
        if piece.asked:
            spans.append((at, at + len(piece.text)))
        at += len(piece.text)
    return document.text, spans


def pack(documents: Sequence[Encoded], context: int, *, join_users: bool = False) -> list[list[Encoded]]:
    """First-fit: each document goes into the first open context that has room and may hold it."""
    packed: list[list[Encoded]] = []
    open_: list[tuple[list[Encoded], set[str]]] = []
    room: list[int] = []
    for document in documents:
        size = len(document.ids)
        for at, (_, others) in enumerate(open_):
            stranger = document.user is not None and bool(others - {document.user})
            if size <= room[at] and (join_users or not stranger):
                break
        else:
            at = len(open_)
            open_.append(([], set()))
            packed.append(open_[at][0])
            room.append(context)
        held, users = open_[at]
        held.append(document)
        if document.user is not None:
            users.add(document.user)
        room[at] -= size
        if len(open_) > OPEN:
            full = int(np.argmin(room))
            del open_[full], room[full]
    return packed


@dataclass(frozen=True, slots=True)
class Batch:
    """B contexts, padded to T tokens."""

    ids: Tensor  # (B, T) int64
    labels: Tensor  # (B, T) int64: the token itself where it is asked for, else IGNORED
    positions: Tensor  # (B, T) int64: inside each document
    mask: Tensor  # (B, 1, T, T) bool: what a token sees, itself and what came before it in its own document
    tokens: int  # without padding


def collate(contexts: Iterable[Sequence[Encoded]], device: torch.device, *, lengths: int = 1) -> Batch:
    """The contexts side by side, padded to the longest's next multiple of `lengths`."""
    rows = list(contexts)
    sizes = [sum(len(one.ids) for one in row) for row in rows]
    longest = -(-max(sizes) // lengths) * lengths
    shape = (len(rows), longest)
    ids, positions, owner = (np.zeros(shape, np.int64) for _ in range(3))
    labels = np.full(shape, IGNORED, np.int64)
    for row, documents in enumerate(rows):
        at = 0
        for number, one in enumerate(documents, start=1):
            place = slice(at, at + len(one.ids))
            ids[row, place], positions[row, place], owner[row, place] = one.ids, np.arange(len(one.ids)), number
            labels[row, place] = np.where(one.asked, one.ids, IGNORED)
            labels[row, at] = IGNORED  # nothing of its own document comes before it
            at += len(one.ids)
    owned = torch.from_numpy(owner)
    same = owned[:, None, :, None] == owned[:, None, None, :]
    mask = same & torch.ones(longest, longest, dtype=torch.bool).tril()
    return Batch(
        ids=torch.from_numpy(ids).to(device),
        labels=torch.from_numpy(labels).to(device),
        positions=torch.from_numpy(positions).to(device),
        mask=mask.to(device),
        tokens=sum(sizes),
    )
