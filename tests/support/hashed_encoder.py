"""A text encoder without a meaning, for tests of what is done with vectors."""

from __future__ import annotations

import hashlib

import numpy as np


class HashedEncoder:
    """Four numbers from the text's hash; `seen` holds every text it was given."""

    id = "hashed"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.seen += texts
        rows = [[byte - 128 for byte in hashlib.sha256(text.encode()).digest()[:4]] for text in texts]
        numbers = np.array(rows, dtype=np.float32).reshape(len(texts), 4) + 0.5
        return numbers / np.linalg.norm(numbers, axis=1, keepdims=True)
