"""OpenAI-compatible HTTP client (POST /chat/completions), for vLLM and other servers.

Bounded concurrency, retries with back-off where trying again can help, and typed errors otherwise. How a request is
written is `interest.llm.dialect`'s, how an answer is read `interest.llm.completion`'s.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import httpx

from interest.errors import Denied, Failing, InputError, LlmError, Refused, Unavailable, Unreadable
from interest.llm.completion import (
    Completion,
    ErrorBody,
    NotACompletionError,
    provider_words,
    read_completion,
    shortened,
)
from interest.llm.dialect import Dialect
from interest.llm.protocol import Reply, Request
from interest.llm.retry_after import asked_to_wait_s
from interest.retry import Backoff, retry

CONCURRENT = 64  # requests in flight; vLLM batches what is there together
ATTEMPTS = 5  # with back-off 0.5, 1, 2, 4 s: rides out a restart behind a load balancer, not an outage
JITTER = 0.5  # so that 64 requests do not come back together
LONGEST_WAIT_S = 60.0  # that a server may ask for (Retry-After) within one call; a longer one is the caller's to know
TIMEOUT_S = 120.0  # of one call: a long queue on the server is not a failure
CONNECT_S = 10.0
PROBE_S = 5.0  # a server at work answers /models in milliseconds
_AGAIN = {408, 409, 425, 429}
_DENIED = {401, 402, 404, 405, 407}  # not 403: moderation of one prompt has it too
_FAILING = {500, 501}  # other 5xx are of gateways and overload, and never of one prompt
log = logging.getLogger(__name__)


class HttpModel:
    """A `Complete` over HTTP.

    Args:
        url: the API's root, used as it is given (https://host/v1beta/openai); a host alone gets "/v1".
        model: the model's name there.
        key: sent as a bearer token; never shown, stored or logged.
        system_role: false for a model that takes no system message.
        transport: for tests.

    Raises (at a call), each in the provider's words:
        Unavailable: connection refused, time-outs, 408, 409, 425, 429 and 5xx, after all retries; Failing for a 500.
        Denied: 3xx, 401, 402, 404, 405: the address, the model's name or the key is wrong, or the credit is spent.
        Unreadable: a body that is not a chat completion.
        Refused: any other 4xx, or a completion without content. `interest.llm.refusals` tells whose refusal it is.

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
        system_role: bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        root = api_root(url)
        self._chat, self._models = _below(root, "/chat/completions"), _below(root, "/models")
        self._root, self._url = _shown(root), _shown(self._chat)  # as errors name them
        self._dialect = Dialect(system_role=system_role)
        self._model = model
        self._key = key
        self._concurrent = concurrent
        self._attempts = attempts
        self._backoff = Backoff(first_s=backoff_s, jitter=JITTER)
        self._timeout_s = timeout_s
        self._transport = transport
        self._told_room = 0
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
            response = await client.get(self._models, timeout=PROBE_S)
        except httpx.TransportError as error:
            raise self._silent(error) from error
        finally:
            await self._close()
        if response.status_code >= 500 or response.status_code in _AGAIN:
            raise Unavailable(f"the language model at {self._root} answers {response.status_code}: {_said(response)}")
        if response.status_code in (401, 402, 403):
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
        return await retry(
            partial(self._ask, client, request),
            retriable=lambda error: isinstance(error, Unavailable) and error.asked_s <= LONGEST_WAIT_S,
            failed=lambda *_: None,
            backoff=self._backoff,
            attempts=self._attempts,
            asked_s=lambda error: error.asked_s if isinstance(error, Unavailable) else 0.0,
        )

    async def _ask(self, client: httpx.AsyncClient, request: Request) -> Reply:
        """One answer; asked again at once where the server refuses a field, or the model needs room to reason."""
        while True:
            room, body = self._dialect.room, self._dialect.body(request, self._model)
            response = await self._post(client, body)
            completion = self._read(response)
            if isinstance(completion, ErrorBody):
                status = completion.status or 400
                if status in (400, 422) and self._dialect.adapt(body, completion.words):
                    continue
                raise self._error(status, completion.words, asked_to_wait_s(response.headers))
            if _thought_only(completion):
                if not self._dialect.more_room(room):
                    raise Refused(
                        f"the language model at {self._url} reasons through {room:,} tokens without an answer; turn "
                        "its reasoning off on the server, or name another model"
                    )
                self._say_reasons(request.max_tokens)
                continue
            return self._reply(request, completion)

    def _say_reasons(self, tokens: int) -> None:
        if self._told_room < (room := self._dialect.room):
            self._told_room = room
            log.warning("%s reasons before it answers: %d tokens were too few, %d more", self._model, tokens, room)

    async def _post(self, client: httpx.AsyncClient, body: dict[str, object]) -> httpx.Response:
        try:
            async with asyncio.timeout(self._timeout_s):  # httpx alone bounds each read, not the whole
                return await client.post(self._chat, json=body)
        except TimeoutError as error:
            raise Unavailable(f"the language model at {self._url} gave no answer in {self._timeout_s:g} s") from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise self._silent(error) from error

    def _error(self, status: int, words: str, asked_s: float) -> LlmError:
        words = shortened(words) or "without a word"
        if status in _AGAIN or status >= 500:
            kind = Failing if status in _FAILING else Unavailable
            asks = f"; it asks to wait for {asked_s:,.0f} s" if asked_s > LONGEST_WAIT_S else ""
            return kind(f"the language model at {self._url} answers {status}: {words}{asks}", asked_s=asked_s)
        refuses = f"the language model at {self._url} refuses, {status}: {words}"
        if status in _DENIED or 300 <= status < 400:
            check = "; check the address, the key, and that it serves a model named"
            return Denied(f"{refuses}{check if status != 402 else '; check the credit of the key for'} {self._model!r}")
        return Refused(refuses)

    def _read(self, response: httpx.Response) -> Completion | ErrorBody:
        if response.status_code >= 300:
            return ErrorBody(words=provider_words(response.content), status=response.status_code)
        try:
            return read_completion(response.content)
        except NotACompletionError as error:
            raise Unreadable(
                f"{self._url} does not speak the OpenAI protocol ({error}); check --llm. It answered: "
                f"{shortened(provider_words(response.content))}"
            ) from error

    def _reply(self, request: Request, completion: Completion) -> Reply:
        text = completion.text
        if not text and (text is None or not request.opening or completion.finish_reason == "content_filter"):
            words = shortened(completion.refusal) or f"no content, finish_reason {completion.finish_reason!r}"
            raise Refused(f"the language model at {self._url} answers without a text: {words}")
        text = text or ""
        if request.opening and not text.startswith(request.opening):
            if self._dialect.continues:
                text = request.opening + text
            elif not text[:1].isupper():  # else it is a sentence of its own
                text = f"{request.opening} {text.lstrip()}"
        return Reply(
            text=text,
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
        )


def _thought_only(completion: Completion) -> bool:
    """Whether the token limit ended the reasoning, or an answer that the reasoning had left too little room."""
    if completion.finish_reason != "length":
        return False
    return completion.reasoned or not completion.text


def api_root(url: str) -> httpx.URL:
    """The base URL as it is given; "/v1" is added to a host alone. Raises InputError."""
    try:
        root = httpx.URL(url.strip())
    except httpx.InvalidURL as error:
        raise InputError(f"{url!r} is not the address of a server: {error}") from None
    path = root.path.rstrip("/").removesuffix("/chat/completions")
    return root.copy_with(path=path or "/v1")


def _below(root: httpx.URL, path: str) -> httpx.URL:
    return root.copy_with(path=root.path + path)


def _shown(url: httpx.URL) -> str:
    """Without what may be secret."""
    return str(url.copy_with(userinfo=b"", query=None))


def _said(response: httpx.Response) -> str:
    return shortened(provider_words(response.content))
