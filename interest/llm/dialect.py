"""The dialect of one server: how a request is written for it, by what it has refused so far.

The OpenAI protocol is spoken with differences. Fields that are not OpenAI's are sent only where a request sets them off
their default, and any field that a 400 or 422 names is left out from then on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from interest.llm.protocol import Request

ROOM = (0, 1_024, 4_096, 16_384)  # tokens beside the answer's own, for a model that reasons before it answers
_REPETITION = {1.0, Request(messages=()).repetition_penalty}  # the field's neutral value, and the requests' default
_OPTIONAL = (
    "repetition_penalty",
    "continue_final_message",
    "add_generation_prompt",
    "response_format",
    "seed",
    "top_p",
    "temperature",
)
_ALSO = {"response_format": "json_schema|guided_json|structured outputs?"}  # other names in servers' words
_RENAMED = re.compile(r"max_completion_tokens.*instead|instead.*max_completion_tokens|unsupported.*max_tokens", re.I)


class Dialect:
    """What one server takes.

    Args:
        system_role: whether the model takes a system message; else it stands in front of the user's.
    """

    def __init__(self, *, system_role: bool = True) -> None:
        self._system_role = system_role
        self._dropped: set[str] = set()
        self._limit = "max_tokens"
        self._room = 0  # an index into ROOM

    @property
    def room(self) -> int:
        return ROOM[self._room]

    def body(self, request: Request, model: str) -> dict[str, Any]:
        """The JSON body of POST /chat/completions."""
        messages = [{"role": message.role, "content": message.content} for message in request.messages]
        body: dict[str, Any] = {
            "model": model,
            "messages": messages,
            self._limit: request.max_tokens + self.room,
            "temperature": request.temperature,
            "top_p": request.top_p if request.temperature > 0 else 1.0,
            "seed": request.seed,
        }
        if request.repetition_penalty not in _REPETITION:
            body["repetition_penalty"] = request.repetition_penalty
        if request.opening and self.continues:
            messages.append({"role": "assistant", "content": request.opening})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        elif request.opening:
            messages[-1]["content"] += f'\n\nBegin your answer with "{request.opening}".'
        if request.schema is not None:
            schema = msgspec.json.decode(request.schema)
            form = {"name": "answer", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
            if "response_format" in self._dropped:
                messages[-1]["content"] += f"\n\nAnswer with one JSON object of this schema: {request.schema}"
        if not self._system_role and messages[0]["role"] == "system":
            first = messages.pop(0)["content"]
            messages[0]["content"] = f"{first}\n\n{messages[0]['content']}"
        return {name: value for name, value in body.items() if name not in self._dropped}

    @property
    def continues(self) -> bool:
        """Whether the server goes on from a begun answer, as vLLM does."""
        return "continue_final_message" not in self._dropped

    def adapt(self, sent: Mapping[str, Any], words: str) -> bool:
        """Leave out what a refusal of `sent` names; whether the same request is now written otherwise."""
        named = {name for name in _OPTIONAL if name in sent and _names(words, name)}
        if named & {"continue_final_message", "add_generation_prompt"}:
            named |= {"continue_final_message", "add_generation_prompt"}
        self._dropped |= named
        renamed = "max_tokens" in sent and bool(_RENAMED.search(words))
        if renamed:
            self._limit = "max_completion_tokens"
        return bool(named) or renamed

    def more_room(self, sent: int) -> bool:
        """Leave more tokens for reasoning than the `sent` room; False where that was the most."""
        if sent >= ROOM[-1]:
            return False
        self._room = max(self._room, ROOM.index(sent) + 1)
        return True


def _names(words: str, field: str) -> bool:
    also = f"|{_ALSO[field]}" if field in _ALSO else ""
    return re.search(rf"(?<!\w)(?:{field}{also})(?!\w)", words, re.IGNORECASE) is not None
