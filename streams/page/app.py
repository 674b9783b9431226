"""The page as an application: its routes, the guard before them, and for every tab a client with the person's key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from nicegui import ui

from streams.client import AsyncClient, ServiceError
from streams.page.access import Guard
from streams.page.api import Api
from streams.page.cards import rules
from streams.page.frame import THEME, frame, problem
from streams.page.home import home
from streams.page.login import ServiceLogin, inside, login_router
from streams.page.model_page import model_page
from streams.page.sessions import Sessions
from streams.page.stream_page import stream_page
from streams.page.user_page import UserPage
from streams.settings.schema import PageSettings

READ_S = 60.0  # for what a page shows at first: a user of many partitions, a busy service
STYLE = Path(__file__).parent / "style.css"


def make_page(config: PageSettings, secrets: Sequence[str] = (), ended: Path | None = None) -> FastAPI:
    """The ASGI application. The framework keeps its pages by process: make one of it. For the rest see `Sessions`."""
    sessions, login = Sessions(secrets, ended), ServiceLogin(config.api, config.host)
    app = FastAPI(title="Interestream's page", openapi_url=None)
    _plain_routes(app)
    secure = config.origin is not None and urlsplit(config.origin).scheme == "https"
    app.include_router(login_router(sessions, login, secure=secure))
    _pages(config)
    ui.run_with(
        app, title="Interestream", favicon=_ICON, tailwind=False, show_welcome_message=False, dark=None,
        reconnect_timeout=10.0, binding_refresh_interval=None,
    )  # fmt: skip
    app.add_middleware(Guard, sessions=sessions, host=config.host, origin=config.origin, login=login)
    return app


_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#4e5bd6"/>'
    '<path d="M5 20q5.5-12 11-4t11-4" fill="none" stroke="#fff" stroke-width="3" stroke-linecap="round"/>'
    '<circle cx="16" cy="16" r="3" fill="#ffd166"/></svg>'
)


def _plain_routes(app: FastAPI) -> None:
    style = STYLE.read_text() + rules()

    @app.get("/style.css")
    async def stylesheet() -> Response:
        return Response(style, media_type="text/css", headers={"Cache-Control": "max-age=300"})

    @app.get("/live")
    async def live() -> Response:
        return JSONResponse({"live": True})

    @app.get("/theme")
    async def theme(to: str = "auto", back: str = "/") -> Response:
        answer = RedirectResponse(inside(back), 303)
        answer.set_cookie(THEME, to if to in ("light", "dark") else "auto", max_age=31_536_000, samesite="lax")
        return answer


def _pages(config: PageSettings) -> None:
    async def shown(request: Request, title: str, make: Callable[[Api], Awaitable[None]], *, user: str = "") -> None:
        api = Api(AsyncClient(config.api, request.state.key))
        ui.context.client.on_delete(api.client.close)
        with frame(request, title, user=user):
            try:
                await make(api)
            except ServiceError as error:
                problem(str(error))

    @ui.page("/", response_timeout=READ_S)
    async def first(request: Request, user: Annotated[str, Query(max_length=1024)] = "") -> None:
        async def make(api: Api) -> None:
            if not user:
                await home(api)
                return
            page = UserPage(api, user)
            try:
                await page.build()
            except ServiceError as error:
                if error.status != 404:
                    raise
                await home(api, asked=user)
                return
            ui.context.client.on_connect(page.start)
            ui.context.client.on_delete(page.stop)

        await shown(request, f"User {user}" if user else "Users", make, user=user)

    @ui.page("/models", response_timeout=READ_S)
    async def models(
        request: Request,
        id: Annotated[str, Query(max_length=64)] = "",  # noqa: A002  (the address's own word)
        beside: Annotated[str, Query(max_length=64)] = "",
    ) -> None:
        await shown(request, "Models", lambda api: model_page(api, id, beside))

    @ui.page("/stream", response_timeout=READ_S)
    async def stream(request: Request) -> None:
        await shown(request, "Stream", stream_page)
