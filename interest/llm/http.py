"""OpenAI-compatible HTTP client (POST /chat/completions), for vLLM and other servers.

Bounded concurrency, retries with back-off where trying again can help, and the two typed errors otherwise. An answer's
opening is sent as a begun assistant message with vLLM's `continue_final_message`; a schema as `response_format`.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import httpx
import msgspec

from interest.errors import Denied, Refused, Unavailable
from interest.llm.protocol import Reply, Request

CONCURRENT = 64  # requests in flight; vLLM batches what is there together
ATTEMPTS = 5  # with back-off 0.5, 1, 2, 4 s: rides out a restart behind a load balancer, not an outage
TIMEOUT_S = 120.0  # of one call: a long queue on the server is no failure
CONNECT_S = 10.0
PROBE_S = 5.0  # a server at work answers /models in milliseconds
_AGAIN = {408, 409, 425, 429}
_DENIED = {401, 403, 404, 405}


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
        Denied: 3xx, 401, 403, 404, 405, or a body that is no chat completion at all: the address, the model's name or
            the key is wrong.
        Refused: any other 4xx, or a completion without an answer.

    Connections live while requests are in flight, so that there is nothing to close whatever event loop comes next; in
    `async with model:` they live until its end.
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
        timeout_s: float = TIMEOUT_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        root = url.rstrip("/")
        self._root = root if root.endswith("/v1") else root + "/v1"
        self._url = f"{self._root}/chat/completions"
        self._model = model
        self._key = key
        self._concurrent = concurrent
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._timeout_s = timeout_s
        self._transport = transport
        self._users = 0  # requests in flight, and `async with` once
        self.name = model

    async def __aenter__(self) -> HttpModel:
        self._open()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._close()

    async def __call__(self, request: Request) -> Reply:
        client, slots = self._open()
        try:
            async with slots:
                return await self._ask_again(client, request)
        finally:
            await self._close()

    async def probe(self) -> None:
        """Ask whether the server is there (GET /models). Raises Unavailable, or Denied for a wrong key."""
        client, _ = self._open()
        try:
            response = await client.get(f"{self._root}/models", timeout=PROBE_S)
        except httpx.TransportError as error:
            raise self._silent(error) from error
        finally:
            await self._close()
        if response.status_code >= 500 or response.status_code in _AGAIN:
            raise Unavailable(f"the language model at {self._root} answers {response.status_code}: {_said(response)}")
        if response.status_code in (401, 403):
            raise Denied(f"the language model at {self._root} refuses, {response.status_code}: {_said(response)}")

    def _open(self) -> tuple[httpx.AsyncClient, asyncio.Semaphore]:
        if self._users == 0:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            # one more connection than there are calls: the probe does not queue behind them
            limits = httpx.Limits(max_connections=self._concurrent + 1, max_keepalive_connections=self._concurrent + 1)
            timeout = httpx.Timeout(self._timeout_s, connect=min(CONNECT_S, self._timeout_s))
            self._client = httpx.AsyncClient(headers=headers, timeout=timeout, limits=limits, transport=self._transport)
            self._slots = asyncio.Semaphore(self._concurrent)
        self._users += 1
        return self._client, self._slots

    async def _close(self) -> None:
        self._users -= 1
        if self._users == 0:
            await self._client.aclose()

    def _silent(self, error: Exception) -> Unavailable:
        return Unavailable(f"the language model at {self._root} does not answer: {type(error).__name__} {error}")

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
            async with asyncio.timeout(self._timeout_s):  # httpx alone bounds each read, not the whole
                response = await client.post(self._url, json=self._body(request))
        except TimeoutError as error:
            raise Unavailable(f"the language model at {self._url} gave no answer in {self._timeout_s:g} s") from error
        except httpx.TransportError as error:
            raise self._silent(error) from error
        if response.status_code in _AGAIN or response.status_code >= 500:
            raise Unavailable(f"the language model at {self._url} answers {response.status_code}: {_said(response)}")
        if response.status_code in _DENIED or 300 <= response.status_code < 400:
            raise Denied(
                f"the language model at {self._url} refuses, {response.status_code}: {_said(response)}; "
                f"check the address, the key, and that it serves a model named {self._model!r}"
            )
        if response.status_code >= 400:
            raise Refused(f"the language model at {self._url} refuses, {response.status_code}: {_said(response)}")
        choice, tokens = self._choice(response)
        text = (choice.message.content or "").replace("\0", "")  # which no store can hold
        return Reply(
            text=text if not request.opening or text.startswith(request.opening) else request.opening + text,
            finish_reason=choice.finish_reason or "stop",
            prompt_tokens=tokens.prompt_tokens,
            completion_tokens=tokens.completion_tokens,
        )

    def _choice(self, response: httpx.Response) -> tuple[_Choice, _Tokens]:
        try:
            completion = msgspec.json.decode(response.content, type=_Completion)
            return completion.choices[0], completion.usage or _Tokens()
        except (msgspec.DecodeError, IndexError) as error:
            kind = Refused if b'"choices"' in response.content else Denied
            raise kind(f"{self._url} does not speak the OpenAI protocol ({error}); check --llm") from error

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
