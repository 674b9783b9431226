"""The recipe of a bank's vectors: which LLM, where it is split, how a text is pooled."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import msgspec

from fusion.encoders.behavior_text import Template
from fusion.encoders.sentence import Precision

NO_SINK = -1  # in banks of versions that had none; nothing finds their vectors


PLAIN = Template()


TextPooling = Literal["mean", "last"]


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can change the vector of a text. Two recipes that differ anywhere share no vector."""

    llm: str  # its folder's name and its weights' digest; only the digest counts
    config: str  # digest of the LLM's config.json
    tokenizer: str  # digest of the tokenizer's files
    cut: int  # k: the LLM is split after this layer
    pooling: TextPooling = "mean"
    precision: Precision = "float32"  # that the lower layers compute in
    sink: int = NO_SINK  # the token before every text
    max_tokens: int = 64  # of a text, after the sink; titles with categories have 10 to 30
    template: Template = PLAIN
    version: int = 0  # that of whoever makes the vectors; 0 in banks from before it was kept, which nothing finds

    @property
    def id(self) -> str:
        """16 hex digits. The folder's name is not in it: a moved model keeps its vectors."""
        nameless = msgspec.structs.replace(self, llm=self.llm.rpartition("@")[2])
        return hashlib.sha256(msgspec.json.encode(nameless)).hexdigest()[:16]

    def keys(self, texts: Sequence[str]) -> list[bytes]:
        """16 bytes a text, in which the whole recipe is hashed."""
        salt = self.id.encode()
        return [hashlib.blake2b(text.encode(), digest_size=16, key=salt).digest() for text in texts]
