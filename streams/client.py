"""Python client of the scoring service, for calling it plainly or with asyncio; the words are the command line's.

    with Client("http://127.0.0.1:8090", key="ist_...") as client:
        for one in client.score("405", ["50", "100"], top=10).scores: ...

What is safe to repeat is tried again where the service is busy or away: everything but behaviours without an event_id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Generic, Self, TypeAlias, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from interest.errors import InterestreamError
from interest.types import Behavior
from streams.client_answers import Batch, Page, Refused, Representation, Score, Scores, Told, Update, Written

__all__ = [
    "AsyncClient", "Call", "Client", "Page", "Refused", "Representation", "Score", "Scores", "ServiceError", "Update",
    "Written",
]  # fmt: skip

T = TypeVar("T")
Outcome: TypeAlias = httpx.Response | httpx.TransportError  # of one attempt
ATTEMPTS = 4
WAIT_S = 0.2  # before the second attempt; doubled each time, where the service does not name a time
LONGEST_S = 5.0
BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
TIMEOUT = httpx.Timeout(30.0, connect=5.0)
SILENT_S = 45.0  # a stream of updates is silent for 15 s at most: after this its connection is gone


class ServiceError(InterestreamError):
    """The service has refused, or does not answer. `status` 0: it does not answer."""

    def __init__(self, status: int, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.field = status, field


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and what its answer is."""

    kind: type[T]
    method: str
    path: str
    body: Any = None
    query: Mapping[str, Any] | None = None
    repeatable: bool = True

    def request(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        content = None if self.body is None else msgspec.json.encode(self.body)
        query = {name: value for name, value in (self.query or {}).items() if value is not None}
        headers = {} if content is None else {"Content-Type": "application/json"}
        return client.build_request(self.method, self.path, params=query, content=content, headers=headers)

    def decode(self, response: httpx.Response) -> T:
        """Raises ServiceError for an answer that is a problem."""
        if response.is_success:
            return msgspec.json.decode(response.content or b"null", type=self.kind)
        try:
            problem = msgspec.json.decode(response.content, type=dict[str, Any])
        except msgspec.MsgspecError:
            problem = {}
        detail = problem.get("detail") or f"the service answered {response.status_code} to {self.method} {self.path}"
        raise ServiceError(response.status_code, str(detail), problem.get("field"))

    def waits(self) -> Iterator[float]:
        """Seconds before each further attempt."""
        if self.repeatable:
            yield from (WAIT_S * 2**n for n in range(ATTEMPTS - 1))

    def result(self, client: httpx.Client | httpx.AsyncClient, outcome: Outcome) -> T:
        """What the last attempt's outcome is to the caller. Raises ServiceError."""
        if isinstance(outcome, httpx.Response):
            return self.decode(outcome)
        raise _no_service(client, outcome) from outcome


def _pause(outcome: Outcome, wait: float | None) -> float | None:
    """Seconds until the next attempt, `wait` where the service names no time; None: the outcome stands."""
    if wait is None or (isinstance(outcome, httpx.Response) and outcome.status_code not in BUSY):
        return None
    given = outcome.headers.get("retry-after", "") if isinstance(outcome, httpx.Response) else ""
    return min(float(given), LONGEST_S) if given.isdigit() else wait


def _options(url: str, key: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return {"base_url": url, "headers": headers, "timeout": TIMEOUT} | dict(options)


def _no_service(client: httpx.Client | httpx.AsyncClient, error: httpx.TransportError) -> ServiceError:
    return ServiceError(0, f"no service answers at {client.base_url} ({type(error).__name__}: {error})")


def _stream(call: Call[None], client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
    request = call.request(client)
    request.extensions["timeout"] = httpx.Timeout(TIMEOUT.connect, read=SILENT_S).as_dict()
    return request


# --- what can be asked for, once for both clients ------------------------------------------------------------------


def score(
    user_id: str, item_ids: Sequence[str], *, top: int | None, at: float | None, blend: str | None, scene: str | None
) -> Call[Scores]:
    return Call(Scores, "POST", "/v1/score", _score(user_id, item_ids, top, at, blend, scene))


def score_batch(
    pairs: Mapping[str, Sequence[str]], *, top: int | None, at: float | None, blend: str | None, scene: str | None
) -> Call[Batch]:
    requests = [_score(user_id, item_ids, top, at, blend, scene) for user_id, item_ids in pairs.items()]
    return Call(Batch, "POST", "/v1/score/batch", {"requests": requests})


def _score(
    user_id: str, item_ids: Sequence[str], top: int | None, at: float | None, blend: str | None, scene: str | None
) -> dict[str, Any]:
    asked: dict[str, Any] = {"user_id": user_id, "item_ids": list(item_ids)}
    more = (("top", top), ("at", at), ("blend", blend), ("scene", scene))
    return asked | {name: value for name, value in more if value is not None}


def write(behaviors: Sequence[Behavior]) -> Call[Written]:
    safe = all(one.event_id is not None for one in behaviors)
    return Call(Written, "POST", "/v1/behaviors", list(behaviors), repeatable=safe)


def page(user_id: str, what: str, limit: int | None, before: int | None) -> Call[Page]:
    return Call(Page, "GET", f"{_user(user_id)}/{what}", query={"limit": limit, "before": before})


def updates(user_id: str) -> Call[None]:
    return Call(type(None), "GET", f"{_user(user_id)}/updates", repeatable=False)


def representation(user_id: str) -> Call[Representation]:
    return Call(Representation, "GET", f"{_user(user_id)}/representation")


def put_item(item_id: str, title: str, categories: Sequence[str], attributes: Mapping[str, str] | None) -> Call[None]:
    body = {"title": title, "categories": list(categories), "attributes": dict(attributes or {})}
    return Call(type(None), "PUT", f"/v1/items/{quote(item_id, safe='')}", body)


def put_user(user_id: str, attributes: Mapping[str, str]) -> Call[None]:
    return Call(type(None), "PUT", _user(user_id), {"attributes": dict(attributes)})


def forget(user_id: str) -> Call[dict[str, int]]:
    return Call(dict[str, int], "DELETE", _user(user_id), repeatable=False)


def artifacts() -> Call[dict[str, Any]]:
    return Call(dict[str, Any], "GET", "/v1/artifacts")


def stats() -> Call[dict[str, Any]]:
    return Call(dict[str, Any], "GET", "/v1/stats")


def _user(user_id: str) -> str:
    return f"/v1/users/{quote(user_id, safe='')}"


class Client:
    """Calls that wait. Every method raises ServiceError."""

    def __init__(self, url: str, key: str | None = None, **options: Any) -> None:
        """options: further ones of httpx.Client, such as `timeout` or `transport`."""
        self._http = httpx.Client(**_options(url, key, options))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def run(self, call: Call[T]) -> T:
        """Ask, again where that is safe and the service is busy or away."""
        waits = call.waits()
        while True:
            outcome: Outcome
            try:
                outcome = self._http.send(call.request(self._http))
            except httpx.TransportError as error:
                outcome = error
            if (pause := _pause(outcome, next(waits, None))) is None:
                return call.result(self._http, outcome)
            time.sleep(pause)

    def score(
        self,
        user_id: str,
        item_ids: Sequence[str],
        *,
        top: int | None = None,
        at: float | None = None,
        blend: str | None = None,
        scene: str | None = None,
    ) -> Scores:
        """blend: one score of several tasks', such as like*0.7+watched*0.3; default: the main task's.

        scene: where the items would be offered, where that is known.
        """
        return self.run(score(user_id, item_ids, top=top, at=at, blend=blend, scene=scene))

    def score_batch(
        self,
        pairs: Mapping[str, Sequence[str]],
        *,
        top: int | None = None,
        at: float | None = None,
        blend: str | None = None,
        scene: str | None = None,
    ) -> list[Scores]:
        """Items by user."""
        return self.run(score_batch(pairs, top=top, at=at, blend=blend, scene=scene)).answers

    def write(self, behaviors: Sequence[Behavior]) -> Written:
        """Returns once they are durable."""
        return self.run(write(behaviors))

    def interests(self, user_id: str, *, limit: int | None = None, before: int | None = None) -> Page:
        return self.run(page(user_id, "interests", limit, before))

    def behaviors(self, user_id: str, *, limit: int | None = None, before: int | None = None) -> Page:
        return self.run(page(user_id, "behaviors", limit, before))

    def representation(self, user_id: str) -> Representation:
        return self.run(representation(user_id))

    def put_item(
        self,
        item_id: str,
        *,
        title: str = "",
        categories: Sequence[str] = (),
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        self.run(put_item(item_id, title, categories, attributes))

    def put_user(self, user_id: str, attributes: Mapping[str, str]) -> None:
        self.run(put_user(user_id, attributes))

    def forget(self, user_id: str) -> dict[str, int]:
        """Rows deleted, by table."""
        return self.run(forget(user_id))

    def artifacts(self) -> dict[str, Any]:
        return self.run(artifacts())

    def stats(self) -> dict[str, Any]:
        return self.run(stats())

    def updates(self, user_id: str) -> Iterator[Update]:
        """See `AsyncClient.updates`. Closing the iterator ends the stream."""
        call = updates(user_id)
        try:
            response = self._http.send(_stream(call, self._http), stream=True)
            try:
                if not response.is_success:
                    response.read()
                    call.decode(response)
                told = Told()
                for line in response.iter_lines():
                    if (update := told.read(line)) is not None:
                        yield update
            finally:
                response.close()
        except httpx.TransportError as error:
            raise _no_service(self._http, error) from error


class AsyncClient:
    """The same with asyncio. Every method raises ServiceError."""

    def __init__(self, url: str, key: str | None = None, **options: Any) -> None:
        self._http = httpx.AsyncClient(**_options(url, key, options))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def run(self, call: Call[T]) -> T:
        """See `Client.run`."""
        waits = call.waits()
        while True:
            outcome: Outcome
            try:
                outcome = await self._http.send(call.request(self._http))
            except httpx.TransportError as error:
                outcome = error
            if (pause := _pause(outcome, next(waits, None))) is None:
                return call.result(self._http, outcome)
            await asyncio.sleep(pause)

    async def score(
        self,
        user_id: str,
        item_ids: Sequence[str],
        *,
        top: int | None = None,
        at: float | None = None,
        blend: str | None = None,
        scene: str | None = None,
    ) -> Scores:
        return await self.run(score(user_id, item_ids, top=top, at=at, blend=blend, scene=scene))

    async def score_batch(
        self,
        pairs: Mapping[str, Sequence[str]],
        *,
        top: int | None = None,
        at: float | None = None,
        blend: str | None = None,
        scene: str | None = None,
    ) -> list[Scores]:
        return (await self.run(score_batch(pairs, top=top, at=at, blend=blend, scene=scene))).answers

    async def write(self, behaviors: Sequence[Behavior]) -> Written:
        return await self.run(write(behaviors))

    async def interests(self, user_id: str, *, limit: int | None = None, before: int | None = None) -> Page:
        return await self.run(page(user_id, "interests", limit, before))

    async def behaviors(self, user_id: str, *, limit: int | None = None, before: int | None = None) -> Page:
        return await self.run(page(user_id, "behaviors", limit, before))

    async def representation(self, user_id: str) -> Representation:
        return await self.run(representation(user_id))

    async def put_item(
        self,
        item_id: str,
        *,
        title: str = "",
        categories: Sequence[str] = (),
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        await self.run(put_item(item_id, title, categories, attributes))

    async def put_user(self, user_id: str, attributes: Mapping[str, str]) -> None:
        await self.run(put_user(user_id, attributes))

    async def forget(self, user_id: str) -> dict[str, int]:
        return await self.run(forget(user_id))

    async def artifacts(self) -> dict[str, Any]:
        return await self.run(artifacts())

    async def stats(self) -> dict[str, Any]:
        return await self.run(stats())

    async def updates(self, user_id: str) -> AsyncIterator[Update]:
        """What is new about a user, as it comes; ends where the service ends the stream.

        What was told before a break is not told again: read the user anew after calling this again.
        """
        call = updates(user_id)
        try:
            response = await self._http.send(_stream(call, self._http), stream=True)
            try:
                if not response.is_success:
                    await response.aread()
                    call.decode(response)
                told = Told()
                async for line in response.aiter_lines():
                    if (update := told.read(line)) is not None:
                        yield update
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            raise _no_service(self._http, error) from error
