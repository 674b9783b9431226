"""A user's page: header, shares, ranking, open cache and cards, brought up to date as the service tells of news."""

from __future__ import annotations

import asyncio

from nicegui import ui

from streams.client import ServiceError, Update
from streams.page.api import Api, Card, Overview
from streams.page.cards import card_html, open_html
from streams.page.charts import shares_chart
from streams.page.frame import panel, problem
from streams.page.live import Follower
from streams.page.ranking import Ranking, rank, ranking_html
from streams.page.text import day, isolated, number

CARDS = 8  # shown at first, and more at a time


class UserPage:
    """What one browser tab shows of one user. Build it inside the page, then `start` it."""

    def __init__(self, api: Api, user_id: str) -> None:
        self._api, self._user_id = api, user_id
        self._cards: dict[int, ui.html] = {}
        self._next: int | None = None
        self._ranking: Ranking | None = None
        self._changes = 0
        self._follower = Follower(api.client, user_id, self._changed, self._connected)

    async def build(self) -> None:
        """Read and show everything. Raises ServiceError for a user that there is not."""
        overview, shares, cache, page = await asyncio.gather(
            self._api.overview(self._user_id),
            self._api.shares(self._user_id),
            self._api.open_cache(self._user_id),
            self._api.cards(self._user_id, limit=CARDS),
        )
        self._header = ui.html(header_html(overview), sanitize=False, tag="section").classes("panel head")
        self._live = ui.html(_live_html(False), sanitize=False).classes("live").props('role="status"')
        with ui.element("div").classes("split"):
            with panel("What this user turns to"):
                self._chart = ui.echart(shares_chart(shares), renderer="svg").classes("chart")
            with panel("Would be ranked first now"):
                self._ranked = ui.html('<p class="faint">Scoring…</p>', sanitize=False)
        self._open = ui.html(open_html(cache), sanitize=False)
        self._list = ui.element("div").classes("cards")
        self._add(page.items)
        if not page.items:
            ui.html('<p class="faint none">No partition has closed yet.</p>', sanitize=False)
        self._next = page.next
        self._more = ui.element("button").classes("more primary").on("click", self._older)
        with self._more:
            ui.html("Older partitions", sanitize=False, tag="span")
        self._more.set_visibility(self._next is not None)

    def start(self) -> None:
        """Follow what is new, and fill in the ranking, which may take a while where the user is not held yet."""
        self._follower.start()

    async def stop(self) -> None:
        await self._follower.stop()
        await self._api.client.close()

    async def rank(self) -> None:
        self._ranking = await rank(self._api, self._user_id, self._ranking)
        self._ranked.set_content(ranking_html(self._ranking, moved=self._changes > 0))

    def _add(self, cards: list[Card], *, new: bool = False) -> None:
        """Show cards, those that are there in their places, others in the order of their index, newest first."""
        for card in cards:
            if card.index in self._cards:
                self._cards[card.index].set_content(card_html(card, new=new))
                continue
            newer = sum(other > card.index for other in self._cards)
            with self._list:
                made = ui.html(card_html(card, new=new), sanitize=False)
            if newer < len(self._cards):
                made.move(self._list, target_index=newer)
            self._cards[card.index] = made

    async def _older(self) -> None:
        try:
            page = await self._api.cards(self._user_id, limit=CARDS, before=self._next)
        except ServiceError as error:
            with self._list:
                problem(str(error))
            return
        self._add(page.items)
        self._next = page.next
        self._more.set_visibility(self._next is not None)

    def _connected(self, there: bool) -> None:
        self._live.set_content(_live_html(there))

    async def _changed(self, updates: list[Update]) -> None:
        """Read anew what the updates are about; without any, everything that may have changed during a break."""
        kinds = {one.kind for one in updates} or {"behavior", "partition"}
        if "behavior" in kinds or "partition" in kinds:
            self._changes += bool(updates)
            self._open.set_content(open_html(await self._api.open_cache(self._user_id)))
            self._header.set_content(header_html(await self._api.overview(self._user_id)))
        if "partition" in kinds:
            await self._newest_cards(new=bool(updates))
            self._chart.options.update(shares_chart(await self._api.shares(self._user_id)))
            self._chart.update()
        for index in sorted({one.told["index"] for one in updates if one.kind == "interest"}):
            if index in self._cards:
                page = await self._api.cards(self._user_id, limit=1, before=index + 1)
                self._add([card for card in page.items if card.index == index], new=True)
        if "behavior" in kinds or self._ranking is None:
            await self.rank()

    async def _newest_cards(self, *, new: bool) -> None:
        """Those that are not shown yet, the oldest of them first."""
        oldest = min(self._cards, default=-1)
        page = await self._api.cards(self._user_id, limit=CARDS)
        # where scenes are kept apart, one that was opened earlier may close later
        missing = [card for card in page.items if card.index > oldest and card.index not in self._cards]
        self._add(missing[::-1], new=new)


def header_html(one: Overview) -> str:
    profile = "".join(
        f'<span class="fact"><span class="faint">{isolated(name, 40)}</span> {isolated(value, 60)}</span>'
        for name, value in list(one.profile.items())[:12]
    )
    cost = one.cost
    per = "–" if cost.answers_per_1000_behaviors is None else f"{cost.answers_per_1000_behaviors:,.0f}"
    tokens = cost.prompt_tokens + cost.completion_tokens
    counts = (
        (number(one.behaviors), "behaviours", f"{day(one.first_at)} – {day(one.newest_at)}"),
        (number(one.partitions), "partitions", f"{one.by_llm} by the LLM, {one.by_statistics} by statistics"),
        (number(cost.answers), "LLM answers", f"{per} per 1,000 behaviours read"),
        (number(tokens), "tokens", f"{number(cost.prompt_tokens)} read, {number(cost.completion_tokens)} written"),
    )
    cells = "".join(
        f'<div class="count"><b>{value}</b><span>{name}</span><span class="faint">{more}</span></div>'
        for value, name, more in counts
    )
    return (
        f'<h1>User {isolated(one.user_id, 80)}</h1><div class="facts">{profile}</div><div class="counts">{cells}</div>'
    )


def _live_html(there: bool) -> str:
    return '<span class="dot on"></span>live' if there else '<span class="dot"></span>connecting…'
