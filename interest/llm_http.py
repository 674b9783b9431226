"""The language model on a server that speaks the OpenAI protocol (POST /chat/completions), such as vLLM.

Bounded concurrency, retries with back-off where trying again can help, and the two typed errors otherwise. An answer's
opening is sent as a begun assistant message with vLLM's `continue_final_message`; a schema as `response_format`.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import httpx
import msgspec

from interest.errors import Refused, Unavailable
from interest.llm import Reply, Request

CONCURRENT = 64  # requests in flight; vLLM batches what is there together
ATTEMPTS = 5  # with back-off 0.5, 1, 2, 4 s: rides out a restart behind a load balancer, not an outage
TIMEOUT = httpx.Timeout(120.0, connect=10.0)  # a long queue on the server is no failure
_AGAIN = {408, 409, 425, 429}


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Tokens(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Tokens | None = None


class HttpModel:
    """A `Complete` over HTTP.

    Args:
        url: the API's root, with or without "/v1": http://localhost:8000/v1.
        model: the model's name there.
        key: sent as a bearer token; never shown, stored or logged.
        transport: for tests.

    Raises (at a call):
        Unavailable: connection refused, time-outs, 429 and 5xx, after all retries.
        Refused: any other 4xx, or an answer off the protocol.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        key: str | None = None,
        concurrent: int = CONCURRENT,
        attempts: int = ATTEMPTS,
        backoff_s: float = 0.5,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        root = url.rstrip("/")
        self._url = f"{root if root.endswith('/v1') else root + '/v1'}/chat/completions"
        self._model = model
        self._key = key
        self._concurrent = concurrent
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._transport = transport
        self._in_flight = 0
        self.name = model

    async def __call__(self, request: Request) -> Reply:
        """Connections live while requests are in flight: nothing to close, whatever event loop comes next."""
        if self._in_flight == 0:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            limits = httpx.Limits(max_connections=self._concurrent, max_keepalive_connections=self._concurrent)
            self._client = httpx.AsyncClient(headers=headers, timeout=TIMEOUT, limits=limits, transport=self._transport)
            self._slots = asyncio.Semaphore(self._concurrent)
        client, slots = self._client, self._slots
        self._in_flight += 1
        try:
            async with slots:
                return await self._ask_again(client, request)
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                await client.aclose()

    async def _ask_again(self, client: httpx.AsyncClient, request: Request) -> Reply:
        for attempt in range(self._attempts - 1):
            try:
                return await self._ask(client, request)
            except Unavailable:
                # with jitter, so that 64 requests do not come back together
                await asyncio.sleep(self._backoff_s * 2**attempt * (0.5 + random.random() / 2))
        return await self._ask(client, request)

    async def _ask(self, client: httpx.AsyncClient, request: Request) -> Reply:
        try:
            response = await client.post(self._url, json=self._body(request))
        except httpx.TransportError as error:
            raise Unavailable(
                f"the language model at {self._url} does not answer: {type(error).__name__} {error}"
            ) from error
        if response.status_code in _AGAIN or response.status_code >= 500:
            raise Unavailable(f"the language model at {self._url} answers {response.status_code}: {_said(response)}")
        if response.status_code >= 300:
            raise Refused(f"the language model at {self._url} refuses, {response.status_code}: {_said(response)}")
        try:
            completion = msgspec.json.decode(response.content, type=_Completion)
            choice = completion.choices[0]
        except (msgspec.DecodeError, IndexError) as error:
            raise Refused(f"{self._url} does not speak the OpenAI protocol ({error}); check --llm") from error
        text = choice.message.content or ""
        tokens = completion.usage or _Tokens()
        return Reply(
            text=text if not request.opening or text.startswith(request.opening) else request.opening + text,
            finish_reason=choice.finish_reason or "stop",
            prompt_tokens=tokens.prompt_tokens,
            completion_tokens=tokens.completion_tokens,
        )

    def _body(self, request: Request) -> dict[str, Any]:
        messages = [{"role": message.role, "content": message.content} for message in request.messages]
        body: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p if request.temperature > 0 else 1.0,
            "seed": request.seed,
            "repetition_penalty": request.repetition_penalty,
        }
        if request.opening:
            messages.append({"role": "assistant", "content": request.opening})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if request.schema is not None:
            schema = {"name": "answer", "strict": True, "schema": msgspec.json.decode(request.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body


def _said(response: httpx.Response) -> str:
    return " ".join(response.text.split())[:200]
