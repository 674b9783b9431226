"""Login by an access key of the service: the form, the session's cookie, and whether a key is wanted at all."""

from __future__ import annotations

import time
from html import escape
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from streams.client import AsyncClient, ServiceError
from streams.page.access import COOKIE, LOOPBACK
from streams.page.sessions import LASTS_S, Sessions

ASK_S = 5.0  # between two questions to the service whether it wants a key


class ServiceLogin:
    """Asks the service whether it answers without a key. One that does not answer is taken to want one."""

    def __init__(self, api: str, host: str, **options: Any) -> None:
        """options: of the HTTP client."""
        self._api, self.local = api, host in LOOPBACK
        self._options = options
        self._needed, self._asked = True, -ASK_S

    async def needed(self) -> bool:
        if time.monotonic() - self._asked >= ASK_S:
            self._needed = not await self.accepts(None)
            self._asked = time.monotonic()
        # a service without keys trusts whoever is on its machine; through this page others would be trusted too
        return self._needed or not self.local

    async def accepts(self, key: str | None) -> bool:
        return await self.problem(key) is None

    async def problem(self, key: str | None) -> str | None:
        """Why this key does not open the page; none: it does."""
        async with AsyncClient(self._api, key, **self._options) as client:
            try:
                await client.artifacts()
            except ServiceError as error:
                return str(error) if error.status != 401 or key is None else "The service does not know this key."
        return None


def login_router(sessions: Sessions, login: ServiceLogin, *, secure: bool) -> APIRouter:
    """secure: the page is reached by https, so that its cookie is sent by https alone."""
    router = APIRouter()

    @router.get("/login")
    async def form(back: str = "/") -> Response:
        return HTMLResponse(_form(back, ""))

    @router.post("/login")
    async def enter(key: Annotated[str, Form()] = "", back: Annotated[str, Form()] = "/") -> Response:
        key = key.strip()
        why = await login.problem(key) if key else "Give a key."
        if why is None and not login.local and await login.accepts(None):
            why = "The service answers without a key. Set access keys before the page is shown beyond this machine."
        if why is not None:
            return HTMLResponse(_form(back, why), 401)
        answer = RedirectResponse(inside(back), 303)
        answer.set_cookie(
            COOKIE, sessions.begin(key), max_age=LASTS_S, httponly=True, samesite="lax", secure=secure, path="/"
        )
        return answer

    @router.post("/logout")
    async def leave(request: Request) -> Response:
        sessions.end(request.state.token)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, path="/")
        return answer

    return router


def inside(back: str) -> str:
    """Where to go on: a path of this page, never another site."""
    return back if back.startswith("/") and not back.startswith(("//", "/\\")) else "/"


def _form(back: str, why: str) -> str:
    said = f'<p class="problem" role="alert">{escape(why)}</p>' if why else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Log in · Interestream</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<link rel="stylesheet" href="/style.css"></head>
<body class="plain"><main class="login panel"><h1>Interestream</h1>{said}
<form method="post" action="/login"><label for="key">Access key</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>
<input type="hidden" name="back" value="{escape(back)}"><button class="primary">Log in</button></form>
<p class="faint">A key of the service, with the scope read. Whoever runs it makes one with
<code>interestream serve --new-key NAME</code>.</p></main></body></html>"""
