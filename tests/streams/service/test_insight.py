"""The routes that a page reads: users, overview, cards, open cache, shares, candidates, the stream's state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import pytest
from sqlalchemy import Engine

from interest.llm.protocol import Reply
from interest.store.sql import insert_new, item_row, upsert, writing
from interest.store.tables import answers, behaviors, item_descriptions, items
from interest.types import Item
from streams.page.api import Candidate, Knowledge
from streams.page.ranking import Ranked, Ranking, ranking_html
from streams.service import insight_models as models
from streams.service import insight_reads as reads
from streams.service.access import new_key
from streams.service.app import make_app
from streams.service.problems import ProblemError
from streams.service.server import make_service
from streams.settings.schema import Secret, ServeSettings, Settings
from streams.store.engine import open_store
from tests.support.small_store import ANN, AT, DAY, fill


@pytest.fixture
def small(store: Engine) -> Engine:
    fill(store)
    with writing(store) as connection:
        films = [
            Item(item_id="i0", title="Das Boot", categories=("War", "Drama")),
            Item(item_id="i1", title="Film 1", categories=("Drama",)),
            Item(item_id="i9", title="Unseen", categories=("Drama",)),
        ]
        upsert(connection, items, [item_row(one) for one in films])
        reply = Reply(text="x", finish_reason="stop", prompt_tokens=90, completion_tokens=10)
        upsert(connection, answers, [{"key": "k1", "user_id": ANN, "reply": msgspec.json.encode(reply)}])
    return store


def test_users_are_listed_by_the_beginning_of_their_ids_page_by_page(small: Engine) -> None:
    with small.connect() as connection:
        every = reads.user_list(connection, "", None, 1, with_interests=False)
        assert [(one.user_id, one.behaviors, one.partitions, one.interests) for one in every.items] == [(ANN, 14, 3, 2)]
        rest = reads.user_list(connection, "", every.next, 1, with_interests=False)
        assert [one.user_id for one in rest.items] == ["bob"]
        assert rest.next is None
        assert [one.user_id for one in reads.user_list(connection, "b", None, 9, with_interests=False).items] == ["bob"]
        assert [one.user_id for one in reads.user_list(connection, "", None, 9, with_interests=True).items] == [ANN]
        assert reads.user_list(connection, "bobby", None, 9, with_interests=False).items == []


def test_ids_are_in_the_order_of_their_bytes_whatever_the_databases_collation(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ["B", "a", "a-1", "a-2", "a1", "ab", "aé", "b"]
    with writing(engine := open_store(url)) as connection:
        own = {"seq": 0, "item_id": "i", "action": "rate", "at": 1.0, "value": None, "scene": None}
        insert_new(connection, behaviors, [own | {"user_id": user} for user in reversed(ids) for _ in range(2)])
    with engine.connect() as connection:

        def listed(prefix: str, after: str | None, limit: int) -> list[str]:
            found = reads.user_list(connection, prefix, after, limit, with_interests=False)
            return [one.user_id for one in found.items]

        asked = [("", None, 9), ("", "a", 3), ("a", None, 3), ("a", "a-1", 9), ("a-", None, 9), ("c", None, 9)]
        plain = [listed(*one) for one in asked]
        assert plain == [ids, ids[2:5], ids[1:4], ids[3:7], ids[2:4], []]
        if engine.dialect.name == "postgresql":  # as if it compared by a language's rules
            monkeypatch.setattr(reads, "_compares_bytes", lambda _connection: False)
            assert [listed(*one) for one in asked] == plain
    engine.dispose()


def test_an_overview_counts_and_says_what_the_llm_cost(small: Engine) -> None:
    with small.connect() as connection:
        found = reads.overview(connection, ANN)
        assert (found.behaviors, found.partitions, found.by_llm, found.by_statistics) == (14, 3, 1, 1)
        assert (found.first_at, found.newest_at) == (AT, AT + 13 * DAY)
        assert (found.cost.answers, found.cost.prompt_tokens, found.cost.completion_tokens) == (1, 90, 10)
        assert found.cost.answers_per_1000_behaviors == 125.0
        with pytest.raises(ProblemError):
            reads.overview(connection, "nobody")


def test_cards_are_paged_newest_first_with_what_stands_behind_each_sentence(small: Engine) -> None:
    with small.connect() as connection:
        first = reads.cards(connection, ANN, 2, None)
        second = reads.cards(connection, ANN, 2, first.next)
    assert [one.index for one in first.items + second.items] == [2, 1, 0]
    assert second.next is None
    assert first.items[0].summary is None
    (oldest,) = second.items
    assert [one.seq for one in oldest.behaviors] == [0, 1, 2, 3]
    assert oldest.behaviors[0].title == "Das Boot"
    assert oldest.summary is not None
    assert [one.text for one in oldest.summary.sentences] == ["Ann is fond of submarine operas, part 0."]


def test_the_open_cache_and_the_shares_of_categories(small: Engine) -> None:
    with small.connect() as connection:
        cache = reads.open_cache(connection, ANN)
        shares = reads.shares(connection, ANN, limit=2, most=1)
        fresh = reads.open_cache(connection, "bob")
    assert ([one.seq for one in cache.behaviors], cache.total) == ([12, 13], 2)
    assert (len(fresh.behaviors), fresh.total) == (3, 3)
    assert shares.labels == ["1", "2", "open"]
    # in each partition i0 is half a drama and half a war film, and i1 a drama
    assert shares.categories == {"Drama": [0.75, 0.75, 0.75], "other": [0.25, 0.25, 0.25]}


def test_candidates_are_what_the_user_has_not_had_the_most_popular_first(small: Engine) -> None:
    with small.connect() as connection:
        assert [one.item_id for one in reads.candidates(connection, ANN, [], 5).items] == ["i9"]
        popular = ["i1", "gone", "i9"]
        assert [one.item_id for one in reads.candidates(connection, "bob", popular, 5).items] == ["i9"]


@asynccontextmanager
async def running(settings: Settings, key: str) -> AsyncIterator[httpx.AsyncClient]:
    service = make_service(settings)
    app = make_app(service)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers) as client:
            yield client
    service.engine.dispose()


def test_every_route_answers_a_reader_and_nobody_else(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    engine = open_store(url)
    with writing(engine) as connection:
        insert_new(connection, items, [item_row(Item(item_id="i1", title="Film"))])
    engine.dispose()
    reader, reading = new_key("reader", "read")
    writer, writing_line = new_key("writer", "write")
    settings = Settings(store=url, serve=ServeSettings(keys=Secret(f"{reading};{writing_line}")))
    behavior = {"user_id": "a/b", "item_id": "i1", "action": "view", "at": AT}
    paths = ["", *(f"/a%2Fb/{what}" for what in ("overview", "cards", "open", "shares", "candidates"))]
    routes = [*(f"/v1/users{path}" for path in paths), "/v1/stream"]

    async def run() -> None:
        async with running(settings, writer) as client:
            assert (await client.post("/v1/behaviors", json=behavior)).json()["accepted"] == 1
            assert [(await client.get(route)).status_code for route in routes] == [403] * len(routes)
        async with running(settings, reader) as client:
            found = [await client.get(route) for route in routes]
            assert [one.status_code for one in found] == [200] * len(routes), [one.text for one in found]
            assert found[0].json()["items"][0]["user_id"] == "a/b"
            assert found[-1].json()["lag"] is None
            assert (await client.get("/v1/artifacts/0000")).json()["field"] == "artifact"
            assert (await client.get("/v1/users", params={"prefix": "a\0"})).status_code == 422

    asyncio.run(run())


def test_items_show_what_the_model_says_apart_from_the_catalogue(small: Engine) -> None:
    said = {"text": "A submarine, and fear.", "outcome": "ok", "model": "big", "prompt_version": "describe-1"}
    with writing(small) as connection:
        insert_new(connection, item_descriptions, [said | {"item_id": "i0", "told": "", "attempt": 0}])
        found = reads.item_entries(connection, ["i9", "nobody", "i0", "i9"]).items
    assert [(one.item_id, one.title, one.categories) for one in found] == [
        ("i9", "Unseen", ["Drama"]),
        ("i0", "Das Boot", ["War", "Drama"]),
    ]
    assert found[0].description is None
    assert found[1].description == models.ModelKnowledge(
        text="A submarine, and fear.", model="big", prompt_version="describe-1"
    )


def test_a_ranking_shows_what_the_model_says_as_the_models_word() -> None:
    item = Candidate(item_id="i0", title="Das Boot", categories=["War"])
    told = Ranked(item, 0.5, None, Knowledge(text='A <b>submarine"', model="big"))
    shown = ranking_html(Ranking((told,), "a", 1), moved=False)
    assert "model says: " in shown
    assert "What big knows of it, unchecked" in shown
    assert "<b>submarine" not in shown
    assert "model says" not in ranking_html(Ranking((Ranked(item, 0.5, None),), "a", 1), moved=False)
