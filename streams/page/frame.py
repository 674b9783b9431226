"""What every page has: the bar with the search and the ways to the others, light or dark, and a place for problems."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

from nicegui import ui
from starlette.requests import Request

from streams.page.text import attribute, isolated

THEME = "interestream_theme"
THEMES = {"light": False, "dark": True}  # anything else: as the browser's owner has it everywhere
PAGES = (("/", "Users"), ("/models", "Models"), ("/stream", "Stream"))
_NEXT = {"": "dark", "dark": "light", "light": "auto"}
_MARK = {"": "◐", "dark": "●", "light": "○"}


@contextmanager
def frame(request: Request, title: str, *, user: str = "") -> Iterator[None]:
    """The page around what is put in it. user: whom the search field shows."""
    theme = request.cookies.get(THEME, "")
    theme = theme if theme in THEMES else ""
    ui.page_title(f"{title[:80]} · Interestream")
    ui.add_head_html('<link rel="stylesheet" href="/style.css">')
    ui.dark_mode(THEMES.get(theme))
    name = theme or "auto"
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    leave = '<form method="post" action="/logout"><button class="quiet">Log out</button></form>'
    ways = "".join(f'<a href="{path}"{_here(request, path)}>{what}</a>' for path, what in PAGES)
    ui.html(
        '<a class="skip" href="#content">To the content</a><div class="inner">'
        f'<a class="brand" href="/">Interestream</a><nav aria-label="Pages">{ways}</nav>'
        '<form class="find" role="search" action="/" method="get">'
        f'<input name="user" value="{attribute(user, 1024)}" placeholder="Find a user by id" aria-label="User id" '
        'autocomplete="off" spellcheck="false"></form>'
        f'<a class="quiet" href="/theme?to={_NEXT[theme]}&amp;back={quote(here, safe="")}" '
        f'aria-label="Colours: {name}; change">{_MARK[theme]}<span class="name"> {name}</span></a>'
        f'{leave if request.state.key else ""}</div>',
        sanitize=False, tag="header",
    ).classes("topbar")  # fmt: skip
    with ui.element("main").classes("page").props('id="content"'):
        yield


def _here(request: Request, path: str) -> str:
    own = request.url.path
    return ' aria-current="page"' if own == path or (path != "/" and own.startswith(path)) else ""


def problem(text: str) -> None:
    """Something could not be shown; the service's own words say what to do."""
    ui.html(f'<p class="problem" role="alert">{isolated(text, 600)}</p>', sanitize=False)


def panel(title: str) -> ui.element:
    """A box with a heading; use it as a context."""
    box = ui.element("section").classes("panel").props(f'aria-label="{attribute(title)}"')
    with box:
        ui.html(f"<h2>{attribute(title)}</h2>", sanitize=False)
    return box
