"""Who may look: a guard before the page that asks for a login, and refuses other sites' requests.

The browser has a cookie that scripts cannot read (streams/page/sessions.py). Decides on host, origin and session before
anything else sees a request; knows nothing of what is shown.
"""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from typing import Protocol
from urllib.parse import quote, urlsplit

from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streams.page.sessions import Sessions

COOKIE = "interestream_session"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
OPEN = ("/login", "/live", "/style.css", "/_nicegui/")  # paths that need no session: nothing of the store is there
# The page's framework writes its own scripts into the page and compiles templates, so scripts may be inline and made
# by eval; what is forbidden is everything from elsewhere, and being framed.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; form-action 'self'; "
    "base-uri 'none'; object-src 'none'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"referrer-policy": b"same-origin",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
}


class Login(Protocol):
    """Says whether the service wants a key."""

    async def needed(self) -> bool: ...


class Guard:
    """ASGI middleware: refuses other hosts' and other sites' requests, asks for a login, sets the page's headers.

    host: the address that the page listens on. On loopback the request must name a loopback host, so that no other
    site's name can be made to lead here. origin: the page's own address as browsers see it, where a proxy stands before
    it; without, a request's origin must be the host that it names.
    """

    def __init__(self, app: ASGIApp, *, sessions: Sessions, host: str, origin: str | None, login: Login) -> None:
        self._app, self._sessions, self._login = app, sessions, login
        self._loopback, self._origin = host in LOOPBACK and origin is None, origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if (why := self._refused(scope, headers)) is not None:
            await _end(scope, receive, send, PlainTextResponse(why, 403))
            return
        token = _cookie(headers.get("cookie", ""))
        key = self._sessions.key(token)
        scope.setdefault("state", {}).update(key=key, token=token)
        if key is None and not scope["path"].startswith(OPEN) and await self._login.needed():
            back = quote(scope["path"] + (f"?{query}" if (query := scope["query_string"].decode("latin-1")) else ""))
            away = RedirectResponse(f"/login?back={back}" if scope.get("method") == "GET" else "/login", 303)
            await _end(scope, receive, send, away)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS.items()]
                if not scope["path"].startswith(("/_nicegui/", "/style.css")):
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        await self._app(scope, receive, with_headers)

    def _refused(self, scope: Scope, headers: dict[str, str]) -> str | None:
        """Why a request is not taken at all."""
        host = headers.get("host", "")
        if self._loopback and urlsplit(f"//{host}").hostname not in LOOPBACK:
            return "this page answers to the names of this machine only: open it at http://127.0.0.1\n"
        safe = scope["type"] == "http" and scope["method"] in ("GET", "HEAD", "OPTIONS")
        origin = headers.get("origin")
        if safe and (origin is None or not scope["path"].startswith("/_nicegui_ws")):
            return None
        own = origin == self._origin if self._origin else origin is not None and urlsplit(origin).netloc == host
        return None if own else "the request comes from another site\n"


def _cookie(text: str) -> str:
    try:
        morsel = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


async def _end(scope: Scope, receive: Receive, send: Send, response: PlainTextResponse | RedirectResponse) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    await response(scope, receive, send)
