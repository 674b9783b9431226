"""The errors a user can meet, and no others: the command line prints these as one sentence, without a traceback.

InterestreamError
├── InputError       a file, an option or a message that cannot be used as it is
├── StoreError       the store cannot be opened, is of another version, or belongs to another writer
├── LlmError         the language model
│   ├── Unavailable      not there now, worth trying again: connection refused, time-out, 429, 5xx
│   │   └── Failing          a fault of its own (500), which one prompt may cause
│   └── Refused          answered that it will not: 4xx, prompt too long
│       └── Denied           whatever is asked: a wrong key, model or address, no credit
│           └── Unreadable       answered what is not a completion; a reply that was not read is not an outcome
└── ArtifactError    a trained artifact that is missing, incomplete or of another layout
"""

from __future__ import annotations


class InterestreamError(Exception):
    """Base of all; its text names the place and the remedy."""


class InputError(InterestreamError):
    pass


class StoreError(InterestreamError):
    pass


class StoreMissing(StoreError):
    """There is no store where one was named."""


class LlmError(InterestreamError):
    pass


class Unavailable(LlmError):
    """Args: asked_s: the seconds that the server asks to be left alone for (Retry-After); 0 where it does not say."""

    def __init__(self, message: str, *, asked_s: float = 0.0) -> None:
        super().__init__(message)
        self.asked_s = asked_s


class Failing(Unavailable):
    pass


class Refused(LlmError):
    pass


class Denied(Refused):
    pass


class Unreadable(Denied):
    pass


class ArtifactError(InterestreamError):
    pass
