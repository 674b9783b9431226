"""The protocol of every language model: an async callable from one request to one reply.

Implementations: `interest.llm.local` and `interest.llm.int8` (a model in this process, by transformers or
in int8 by CTranslate2), `interest.llm.http` (a server that speaks the OpenAI protocol, such as vLLM),
`interest.llm.scripted` (tests). All raise `Unavailable` and `Refused`
(interest.errors).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec


class Message(msgspec.Struct, frozen=True):
    role: str  # "system", "user", or "assistant" for an example's answer
    content: str


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can change the answer, besides the model."""

    messages: tuple[Message, ...]
    opening: str = ""  # the words the answer begins with; the model goes on from there
    max_tokens: int = 64
    temperature: float = 0.0  # 0: greedy
    top_p: float = 0.9  # only where sampled
    repetition_penalty: float = 1.05  # the value of LIBER's family
    seed: int = 0  # only where sampled
    schema: str | None = None  # a JSON schema (as JSON) the answer must follow


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    text: str  # with the opening
    finish_reason: str  # "stop", or "length" where the token limit cut it
    prompt_tokens: int
    completion_tokens: int


Complete = Callable[[Request], Awaitable[Reply]]
