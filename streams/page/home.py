"""The page on which a user is found: by the beginning of an id, or among those with texts."""

from __future__ import annotations

from urllib.parse import quote

from nicegui import ui

from streams.client import ServiceError
from streams.page.api import Api, UserList
from streams.page.frame import panel, problem
from streams.page.text import attribute, counted, isolated, number


async def home(api: Api, asked: str = "") -> None:
    """asked: an id that no user has; those that begin alike are shown."""
    ui.html(
        "<h1>What do they like, and why do we say so?</h1><p class=\"faint lead\">Find a user. Point at a sentence of "
        "an interest text to see the behaviours that it rests on.</p>",
        sanitize=False, tag="section",
    ).classes("hero")  # fmt: skip
    if asked:
        problem(f"There is no user {asked[:80]!r}.")
    written = await api.users(limit=24, interests=True)
    if written.items:
        with panel("Users with interest texts"):
            ui.html(users_html(written, ""), sanitize=False)
    with panel("Find a user"):
        field = ui.input(placeholder="The beginning of an id", value=asked).props(
            'outlined dense debounce=200 aria-label="The beginning of a user id" autofocus'
        ).classes("finder")  # fmt: skip
        found = ui.html("", sanitize=False)

        async def look() -> None:
            prefix = str(field.value or "")
            try:
                users = await api.users(prefix, limit=24)
            except ServiceError as error:
                found.set_content(f'<p class="problem">{isolated(str(error), 600)}</p>')
                return
            found.set_content(users_html(users, f"No user's id begins with {prefix[:80]}."))

        field.on_value_change(look)
        await look()


def users_html(users: UserList, none: str) -> str:
    if not users.items:
        return f'<p class="faint">{attribute(none, 200)}</p>'
    rows = "".join(
        f'<li><a href="/?user={quote(one.user_id, safe="")}"><b>{isolated(one.user_id, 60)}</b>'
        f'<span class="faint">{counted(one.behaviors, "behaviour", "behaviours")} · '
        f"{counted(one.partitions, 'partition', 'partitions')}"
        f"{f' · {number(one.interests)} with texts' if one.interests else ''}</span></a></li>"
        for one in users.items
    )
    more = '<p class="faint">There are more: type on.</p>' if users.next else ""
    return f'<ul class="users">{rows}</ul>{more}'
