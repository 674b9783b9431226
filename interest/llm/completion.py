"""Reads what OpenAI-compatible servers answer: completions in the forms that are met in practice, and error bodies.

Accepts what can be used (content in chunks, think blocks, a null usage, an event stream, invalid UTF-8) and says of
the rest why it cannot. Pure; `interest.llm.http` decides what follows from it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

WORDS = 300  # characters of a provider's message that are shown


class NotACompletionError(ValueError):
    """A body that is neither an answer nor an error; its text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer; `text` is None where the server sent no content."""

    text: str | None
    finish_reason: str  # "stop", "length", "content_filter"...
    reasoned: bool = False  # the model thought before it answered, or instead
    refusal: str = ""  # the model's own words where it declined
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBody:
    """An error that came where a completion was expected (OpenRouter sends them under status 200)."""

    words: str
    status: int | None  # the status it should have had, where it says so


def read_completion(content: bytes) -> Completion | ErrorBody:
    """The answer in a body that came under status 200. Raises NotACompletionError."""
    try:
        body = _decode(content)
    except ValueError as fault:
        raise NotACompletionError(f"the body is not JSON: {fault}") from fault
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        raise NotACompletionError("the body is not a JSON object")
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    error = body.get("error") or (choice.get("error") if isinstance(choice, dict) else None)
    if error or (choice is None and (body.get("detail") or body.get("message"))):
        return ErrorBody(words=_words(error or body), status=_status(error))
    if not isinstance(choice, dict):
        raise NotACompletionError("the body has no choices")
    message = choice.get("message") or choice.get("delta")
    if not isinstance(message, dict):
        if not isinstance(choice.get("text"), str):
            raise NotACompletionError("the choice has no message")
        message = {"content": choice["text"]}  # the older /completions form
    text, thought = _without_thoughts(_text(message.get("content")))
    usage = body.get("usage")
    tokens: dict[str, Any] = usage if isinstance(usage, dict) else {}
    return Completion(
        text=text,
        finish_reason=_finish(choice.get("finish_reason")),
        reasoned=thought or any(message.get(name) for name in ("reasoning", "reasoning_content", "thinking")),
        refusal=message["refusal"] if isinstance(message.get("refusal"), str) else "",
        prompt_tokens=_count(tokens.get("prompt_tokens")),
        completion_tokens=_count(tokens.get("completion_tokens")),
    )


def provider_words(content: bytes) -> str:
    """What an error body says, without its JSON, on one line."""
    try:
        return _words(_decode(content)) or _line(content.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return _line(content.decode("utf-8", "replace"))


def _decode(content: bytes) -> Any:
    text = content.decode("utf-8", "replace").lstrip("\ufeff").strip()
    if text.startswith(("data:", "event:", ":")):
        return _joined(text)
    try:
        return json.loads(text, strict=False)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _joined(stream: str) -> dict[str, Any]:
    """The completion that an event stream adds up to, from a server that streams unasked."""
    merged: dict[str, Any] = {"content": "", "reasoning": ""}
    body: dict[str, Any] = {}
    finish = None
    for line in stream.splitlines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data in ("", "[DONE]"):
            continue
        event = json.loads(data, strict=False)
        if not isinstance(event, dict):
            continue
        body |= {name: event[name] for name in ("usage", "error") if event.get(name)}
        choices = event.get("choices")
        for choice in choices[:1] if isinstance(choices, list) else []:
            part = choice.get("delta") or choice.get("message") if isinstance(choice, dict) else None
            if not isinstance(part, dict):
                continue
            merged["content"] += _text(part.get("content")) or ""
            merged["reasoning"] += _text(part.get("reasoning") or part.get("reasoning_content")) or ""
            finish = choice.get("finish_reason") or finish
    choice = {"message": merged | {"content": merged["content"] or None}, "finish_reason": finish}
    return body if "error" in body else body | {"choices": [choice]}


def _text(content: Any) -> str | None:
    """The text of a message's content: a string, or a list of typed chunks of which the thoughts are left out."""
    if isinstance(content, str):
        return content.encode("utf-8", "replace").decode().replace("\0", "")  # no store can hold NUL or half a pair
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return None
    parts = []
    for chunk in content:
        if isinstance(chunk, dict) and chunk.get("type", "text") in ("text", "output_text"):
            inner = chunk.get("text", chunk.get("content"))
            parts.append(_text(inner.get("value") if isinstance(inner, dict) else inner))
        elif isinstance(chunk, str):
            parts.append(_text(chunk))
    said = [part for part in parts if part is not None]
    return "".join(said) if said else None


_TAG = r"think|thinking|thought|thoughts|reasoning|reflection|analysis|seed:think"
_BLOCK = re.compile(
    rf"(?:<(?P<tag>{_TAG})>.*?</(?P=tag)>|\[THINK\].*?\[/THINK\]|◁think▷.*?◁/think▷)\s*", re.DOTALL | re.IGNORECASE
)
_CLOSING = re.compile(rf"^.*(?:</(?:{_TAG})>|\[/THINK\]|◁/think▷)\s*", re.DOTALL | re.IGNORECASE)
_OPEN = re.compile(rf"\s*(?:<(?:{_TAG})>|\[THINK\]|◁think▷)", re.IGNORECASE)
_CHANNEL = re.compile(r"^.*<\|channel\|>\s*final\b[^<]*<\|message\|>", re.DOTALL)  # the marks of gpt-oss
_ANALYSIS = re.compile(r"\s*(?:<\|start\|>\w*)?<\|channel\|>")
_MARKS = re.compile(r"<\|[a-z_]+\|>\s*$")


def _without_thoughts(text: str | None) -> tuple[str | None, bool]:
    """The answer after the thoughts, and whether there were any; None where the thoughts do not end."""
    if text is None:
        return None, False
    answer = _CHANNEL.sub("", text)
    if answer == text and _ANALYSIS.match(text):
        return None, True
    answer = _CLOSING.sub("", _BLOCK.sub("", answer))  # a template may hold the opening mark itself
    if _OPEN.match(answer):
        return None, True
    thought = answer != text
    return (_MARKS.sub("", answer), True) if thought else (text, False)


_FINISH = {
    "max_tokens": "length",
    "model_length": "length",
    "max_output_tokens": "length",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "safety": "content_filter",
    "prohibited_content": "content_filter",
}


def _finish(reason: Any) -> str:
    low = reason.lower() if isinstance(reason, str) and reason else "stop"
    return _FINISH.get(low, low)


def _count(tokens: Any) -> int:
    return int(tokens) if isinstance(tokens, int | float) and 0 <= tokens < 1e12 else 0


def _status(error: Any) -> int | None:
    for name in ("status", "code", "status_code"):
        value = error.get(name) if isinstance(error, dict) else None
        text = str(value)
        if text.isdecimal() and 400 <= int(text) < 600:
            return int(text)
    return None


def _words(error: Any) -> str:
    """The message inside an error: {"error": {"message": ...}}, {"detail": [{"loc": ..., "msg": ...}]}, and so on."""
    if isinstance(error, str):
        return _line(error)
    if isinstance(error, list):
        return "; ".join(filter(None, map(_words, error)))
    if not isinstance(error, dict):
        return ""
    if "msg" in error:  # pydantic's: which field, and what of it
        place = ".".join(map(str, error.get("loc") or ()))
        return _line(f"{place}: {error['msg']}" if place else str(error["msg"]))
    said = next((words for name in ("message", "error", "detail", "errors") if (words := _words(error.get(name)))), "")
    code = error.get("code") or error.get("type")
    raw = error.get("metadata")
    more = _words(raw.get("raw")) if isinstance(raw, dict) else ""
    parts = [said, more if more != said else "", f"({code})" if isinstance(code, str) and code not in said else ""]
    return " ".join(filter(None, parts)) if said else ""


def _line(text: str) -> str:
    return " ".join(text.split())


def shortened(words: str) -> str:
    return words if len(words) <= WORDS else words[: WORDS - 1] + "…"
