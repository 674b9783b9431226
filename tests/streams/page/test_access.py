"""The guard before the page: other hosts, other sites, sessions, and a service without keys."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.types import ASGIApp, Message

from streams.page.access import COOKIE, Guard, Sessions
from streams.page.login import ServiceLogin, inside, login_router


class Says:
    """A service that wants a key, or does not."""

    def __init__(self, needed: bool) -> None:
        self._needed = needed

    async def needed(self) -> bool:
        return self._needed


def guarded(sessions: Sessions, *, host: str = "127.0.0.1", origin: str | None = None, needed: bool = True) -> ASGIApp:
    app = FastAPI()

    @app.get("/")
    async def shown(request: Request) -> dict[str, str | None]:
        return {"key": request.state.key}

    @app.post("/logout")
    async def posted() -> dict[str, bool]:
        return {"done": True}

    return Guard(app, sessions=sessions, host=host, origin=origin, login=Says(needed))


def ask(app: ASGIApp, method: str, path: str, headers: dict[str, str], base: str = "http://127.0.0.1:8091") -> Any:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(run())


def test_without_a_session_the_way_leads_to_the_login_and_back() -> None:
    sessions = Sessions()
    app = guarded(sessions)
    away = ask(app, "GET", "/?user=a%20b", {})
    assert (away.status_code, away.headers["location"]) == (303, "/login?back=/%3Fuser%3Da%2520b")
    cookie = {"cookie": f"{COOKIE}={sessions.begin('ist_x')}"}
    held = ask(app, "GET", "/", cookie)
    assert held.json() == {"key": "ist_x"}
    assert "frame-ancestors 'none'" in held.headers["content-security-policy"]
    assert held.headers["cache-control"] == "no-store"
    assert ask(app, "GET", "/", {"cookie": f"{COOKIE}=guessed"}).status_code == 303
    assert ask(guarded(sessions, needed=False), "GET", "/", {}).json() == {"key": None}


def test_a_session_ends_by_logging_out() -> None:
    sessions = Sessions()
    token = sessions.begin("ist_x")
    sessions.end(token)
    assert sessions.key(token) is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://127.0.0.1:8091"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({}, 403),
    ],
)
def test_other_sites_post_nothing(headers: dict[str, str], status: int) -> None:
    assert ask(guarded(Sessions(), needed=False), "POST", "/logout", headers).status_code == status


def test_another_name_for_this_machine_is_refused_and_a_proxys_origin_is_taken() -> None:
    """A name of another site may be made to lead to 127.0.0.1: the browser would take both for one site."""
    open_page = guarded(Sessions(), needed=False)
    assert ask(open_page, "GET", "/", {}, base="http://rebound.example:8091").status_code == 403
    assert ask(open_page, "GET", "/", {}, base="http://localhost:8091").status_code == 200
    behind = guarded(Sessions(), host="0.0.0.0", origin="https://interests.example", needed=False)
    own = {"origin": "https://interests.example"}
    assert ask(behind, "POST", "/logout", own, base="http://interests.example").status_code == 200
    other = {"origin": "http://interests.example"}
    assert ask(behind, "POST", "/logout", other, base="http://interests.example").status_code == 403


@pytest.mark.parametrize(("origin", "closed"), [("http://127.0.0.1:8091", False), ("http://evil.example", True)])
def test_other_sites_open_no_socket(origin: str, closed: bool) -> None:
    reached, sent = [], []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message["type"])

    guard = Guard(inner, sessions=Sessions(), host="127.0.0.1", origin=None, login=Says(False))
    headers = [(b"host", b"127.0.0.1:8091"), (b"origin", origin.encode())]
    scope = {"type": "websocket", "path": "/_nicegui_ws/socket.io", "headers": headers, "query_string": b""}
    asyncio.run(guard(scope, receive, send))
    assert sent == (["websocket.close"] if closed else [])
    assert reached == ([] if closed else ["/_nicegui_ws/socket.io"])


def test_a_service_without_keys_is_shown_to_this_machine_only() -> None:
    service = FastAPI()

    @service.get("/v1/artifacts")
    async def artifacts() -> dict[str, Any]:
        return {}

    def login(host: str) -> ServiceLogin:
        return ServiceLogin("http://service", host, transport=httpx.ASGITransport(service))

    assert not asyncio.run(login("127.0.0.1").needed())
    assert asyncio.run(login("0.0.0.0").needed())
    app = FastAPI()
    app.include_router(login_router(Sessions(), login("0.0.0.0"), secure=False))

    async def with_key() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as client:
            return await client.post("/login", data={"key": "anything"})

    refused = asyncio.run(with_key())
    assert refused.status_code == 401
    assert "answers without a key" in refused.text


@pytest.mark.parametrize(
    "back", ["//evil.example", "https://evil.example", "/\\evil.example", "%2F%2Fevil.example", ""]
)
def test_the_way_back_stays_on_the_page(back: str) -> None:
    assert inside(back) == "/"
    assert inside("/?user=a%26b") == "/?user=a%26b"
