"""The guard before the page: other hosts, other sites, sessions, and a service without keys."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.types import ASGIApp, Message

from interest.errors import InputError
from streams.page.access import COOKIE, Guard
from streams.page.login import ServiceLogin, inside, login_router
from streams.page.sessions import LASTS_S, Sessions, read_secrets
from streams.settings.schema import PageSettings, Secret


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
    spelt = [token, f"{token}.", f"{token[:9]}!{token[9:]}", f"{token}\u00e9", f"{token}="]
    assert {sessions.key(one) for one in spelt} == {"ist_x"}  # base64 passes over what is not its own
    sessions.end(token)
    assert {sessions.key(one) for one in spelt} == {None}


def test_a_page_that_is_started_again_knows_who_is_logged_in_and_its_secret_may_change(tmp_path: Path) -> None:
    settings = PageSettings()
    first = Sessions(secrets := read_secrets(settings, tmp_path / "cache"))
    token = first.begin("ist_x")
    again = Sessions(read_secrets(settings, tmp_path / "cache"))
    assert again.key(token) == "ist_x"
    assert "ist_x" not in token
    assert Sessions().key(token) is None  # of another page
    changed = Sessions(["another secret, long enough", *secrets])
    assert changed.key(token) == "ist_x"
    assert again.key(changed.begin("ist_y")) is None
    assert Sessions(["another secret, long enough"]).key(token) is None


def test_a_log_out_is_known_to_other_pages_and_after_another_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets, file = ["a secret, long enough"], tmp_path / "page.ended"
    first, other = Sessions(secrets, file), Sessions(secrets, file)
    tokens = [first.begin(f"key {n}") for n in range(4)]
    assert [other.key(token) for token in tokens] == [f"key {n}" for n in range(4)]
    first.end(tokens[0])
    first.end("not a cookie of this page")
    other.end(tokens[1])
    for sessions in (first, other, Sessions(secrets, file)):
        assert [sessions.key(token) for token in tokens] == [None, None, "key 2", "key 3"]
    assert file.stat().st_mode & 0o077 == 0
    assert len(file.read_text().splitlines()) == 2
    assert not any(token in file.read_text() for token in tokens)
    with file.open("a") as cut:
        cut.write("a line that was cut o")
    assert Sessions(secrets, file).key(tokens[2]) == "key 2"
    at = time.time()
    monkeypatch.setattr("streams.page.sessions.time.time", lambda: at + LASTS_S + 60)
    Sessions(secrets, file)  # what they were about has ended by itself
    assert file.read_text() == ""


def test_of_many_log_outs_the_newest_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.page.sessions.MOST", 6)
    sessions = Sessions(["a secret, long enough"], tmp_path / "page.ended")
    tokens = [sessions.begin(f"key {n}") for n in range(7)]
    for token in tokens:
        sessions.end(token)
    assert [sessions.key(token) is None for token in tokens] == [False] * 4 + [True] * 3
    assert len((tmp_path / "page.ended").read_text().splitlines()) == 3


def test_a_session_lasts_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions()
    token = sessions.begin("ist_x")
    at = time.time()
    monkeypatch.setattr("streams.page.sessions.time.time", lambda: at + LASTS_S - 60)
    assert sessions.key(token) == "ist_x"
    monkeypatch.setattr("streams.page.sessions.time.time", lambda: at + LASTS_S + 60)
    assert sessions.key(token) is None


def test_a_secret_is_nobody_elses_to_read(tmp_path: Path) -> None:
    read_secrets(PageSettings(), tmp_path)
    made = tmp_path / "page.secret"
    assert made.stat().st_mode & 0o777 == 0o600
    made.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        read_secrets(PageSettings(), tmp_path)
    with pytest.raises(InputError, match="16 characters"):
        read_secrets(PageSettings(secret=Secret("short")), tmp_path)
    two = PageSettings(secret=Secret("a new secret, long enough; an old secret, long enough"))
    assert read_secrets(two, tmp_path) == ["a new secret, long enough", "an old secret, long enough"]
    with pytest.raises(InputError, match="cannot be read"):
        read_secrets(PageSettings(secret_file=str(tmp_path / "none")), tmp_path)
    (tmp_path / "file").touch()
    assert read_secrets(PageSettings(), tmp_path / "file") == []  # nothing can be written there


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
