"""One process folds, the others hand it what they were given: a writer's side and a worker's side of a Unix socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import httpx
import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from interest.errors import InputError, StoreError
from interest.types import Behavior, Item, User
from streams.service.writers import BusyError, Verdicts, Writer

log = structlog.get_logger()
TIMEOUT_S = 60.0  # of one transaction, with those before it


class Changes(msgspec.Struct, frozen=True):
    """Items and profiles by id; None: removed."""

    items: dict[str, Item | None]
    users: dict[str, User | None]


_ROWS = msgspec.json.Decoder(list[Behavior])
_CHANGES = msgspec.json.Decoder(Changes)
_VERDICTS = msgspec.json.Decoder(Verdicts)
_COUNTS = msgspec.json.Decoder(dict[str, int])


def writer_app(writer: Writer) -> Starlette:
    """The writing process. Nothing but the socket's file mode guards it: it is the workers' alone."""

    async def behaviors(request: Request) -> Response:
        return await _answered(writer.behaviors(_ROWS.decode(await request.body())))

    async def catalogue(request: Request) -> Response:
        changes = _CHANGES.decode(await request.body())
        return await _answered(writer.catalogue(changes.items, changes.users))

    async def forget(request: Request) -> Response:
        return await _answered(writer.forget(msgspec.json.decode(await request.body(), type=str)))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await writer.start()
        yield
        await writer.stop()

    routes = [Route(f"/{one.__name__}", one, methods=["POST"]) for one in (behaviors, catalogue, forget)]
    return Starlette(routes=routes, lifespan=lifespan)


async def _answered(work: object) -> Response:
    try:
        return Response(msgspec.json.encode(await work))  # type: ignore[misc]
    except BusyError as error:
        return Response(str(error), 429)
    except InputError as error:
        return Response(str(error), 422)
    except Exception as error:
        log.exception("the store did not take what was written")
        return Response(f"the store did not take it: {type(error).__name__}", 503)


class ForwardingWriter:
    """A worker's writer (`Writer`): the writing process behind a socket."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    async def start(self) -> None:
        transport = httpx.AsyncHTTPTransport(uds=self._socket)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://writer", timeout=TIMEOUT_S)

    async def stop(self) -> None:
        await self._client.aclose()

    async def behaviors(self, rows: Sequence[Behavior]) -> Verdicts:
        return _VERDICTS.decode(await self._ask("behaviors", rows))

    async def catalogue(self, items: Mapping[str, Item | None], users: Mapping[str, User | None]) -> None:
        await self._ask("catalogue", Changes(dict(items), dict(users)))

    async def settle(self) -> None:
        """They are answered once they are there."""

    async def forget(self, user_id: str) -> dict[str, int]:
        return _COUNTS.decode(await self._ask("forget", user_id))

    async def _ask(self, what: str, body: object) -> bytes:
        try:
            found = await self._client.post(f"/{what}", content=msgspec.json.encode(body))
        except httpx.HTTPError as error:
            raise StoreError(f"the writing process does not answer ({type(error).__name__}); try again") from None
        if found.status_code == 200:
            return found.content
        kinds: dict[int, type[Exception]] = {429: BusyError, 422: InputError}
        raise kinds.get(found.status_code, StoreError)(found.text)
