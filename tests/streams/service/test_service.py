"""The scoring service over its ASGI application: answers, scopes, limits, problems, durable writes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest

from fusion.serving.score import Scorer
from fusion.training.artifact import Artifact
from interest.errors import InputError
from interest.types import Behavior
from streams.client import AsyncClient, ServiceError
from streams.service.access import Keys, new_key
from streams.service.app import make_app
from streams.service.server import check_address, make_service
from streams.service.updates import updates
from streams.settings.schema import Secret, Settings
from streams.store.engine import open_store
from tests.support import live_world as live
from tests.support.ctr_world import DAY
from tests.support.service_rig import ITEMS, OFFERED, is_problem, of, running


def test_scores_are_the_scorers_and_unknowns_are_marked(settings: Settings, template: tuple[Path, Artifact]) -> None:
    async def run() -> None:
        async with running(settings) as client:
            found = (await client.post("/v1/score", json=OFFERED)).json()
            top = (await client.post("/v1/score", json={**OFFERED, "top": 3})).json()
            both = {"requests": [OFFERED, {"user_id": "nobody", "item_ids": ["i1"]}]}
            batch = (await client.post("/v1/score/batch", json=both)).json()["answers"]
        engine = open_store(settings.store)
        with engine.connect() as connection:
            pairs = [("u5", item) for item in ITEMS]
            anew = Scorer(template[1]).scores(connection, pairs, found["at"])
        engine.dispose()
        np.testing.assert_allclose([one["score"] for one in found["scores"]], anew.values, atol=1e-5)
        assert [one["item_id"] for one in found["scores"]] == ITEMS
        assert [one["item_id"] for one in found["scores"] if one["unknown_item"]] == ["never seen"]
        assert (found["user_id"], found["newest_seq"], found["unknown_user"]) == ("u5", 119, False)
        best = sorted(found["scores"], key=lambda one: -one["score"])[:3]
        assert [one["item_id"] for one in top["scores"]] == [one["item_id"] for one in best]
        assert top["held"]
        assert batch[0]["scores"] == found["scores"]
        assert batch[1]["unknown_user"]

    asyncio.run(run())


def test_a_behaviour_written_is_known_by_the_next_score_and_a_repeat_is_harmless(settings: Settings) -> None:
    rows = [
        {"user_id": "u5", "item_id": "i3", "action": "rate", "at": 229 * DAY, "value": 5.0, "event_id": "e1"},
        {"user_id": "u5", "item_id": "", "action": "rate", "at": 229 * DAY},
        {"user_id": "new", "item_id": "i4", "action": "rate", "at": 229 * DAY},
        {"user_id": "new", "item_id": "i4", "action": "rate", "at": 9e15},
        7,
    ]

    async def run() -> None:
        async with running(settings) as client:
            before = (await client.post("/v1/score", json=OFFERED)).json()
            written = (await client.post("/v1/behaviors", json=rows)).json()
            after = (await client.post("/v1/score", json=OFFERED)).json()
            assert (written["accepted"], written["duplicates"]) == (2, 0)
            assert [one["index"] for one in written["refused"]] == [1, 3, 4]
            assert "item_id is empty" in written["refused"][0]["reason"]
            assert after["newest_seq"] == before["newest_seq"] + 1
            assert after["scores"] != before["scores"]
            again = (await client.post("/v1/behaviors", json=rows[0])).json()
            assert (again["accepted"], again["duplicates"]) == (0, 1)
            lines = "\n".join(msgspec.json.encode(row).decode() for row in (rows[2] | {"item_id": "i9"}, rows[2]))
            ndjson = {"Content-Type": "application/x-ndjson"}
            assert (await client.post("/v1/behaviors", content=lines, headers=ndjson)).json()["accepted"] == 1
            shown = (await client.get("/v1/users/new/behaviors")).json()["items"]
            assert [one["item_id"] for one in shown] == ["i9", "i4"]

    asyncio.run(run())


def test_an_offer_is_kept_and_is_no_behaviour(settings: Settings) -> None:
    rows = [
        {"user_id": "u5", "item_id": "i3", "action": action, "at": 229 * DAY + n, "scene": "home"}
        for n, action in enumerate(("offered", "rate", "offered"))
    ]

    async def run() -> None:
        async with running(settings) as client:
            before = (await client.post("/v1/score", json=OFFERED)).json()["newest_seq"]
            written = (await client.post("/v1/behaviors", json=rows)).json()
            assert (written["accepted"], written["offers"], written["refused"]) == (1, 2, [])
            again = (await client.post("/v1/behaviors", json=rows[2])).json()  # the same offer: it is kept once
            assert (again["accepted"], again["offers"]) == (0, 1)
            assert (await client.post("/v1/score", json=OFFERED)).json()["newest_seq"] == before + 1
            stats = (await client.get("/v1/stats")).json()
            assert stats["offers"] == 2

    asyncio.run(run())


def test_interests_representation_and_behaviours_are_paged_newest_first(settings: Settings) -> None:
    async def run() -> None:
        async with running(settings) as client:
            first = (await client.get("/v1/users/u5/interests", params={"limit": 2})).json()
            second = (await client.get("/v1/users/u5/interests", params={"limit": 2, "before": first["next"]})).json()
            indexes = [one["index"] for one in first["items"] + second["items"]]
            assert indexes == sorted(indexes, reverse=True)
            assert len(set(indexes)) == 4
            page = (await client.get("/v1/users/u5/behaviors", params={"limit": 119})).json()
            rest = (await client.get("/v1/users/u5/behaviors", params={"before": page["next"]})).json()
            assert [one["seq"] for one in page["items"] + rest["items"]] == list(range(119, -1, -1))
            assert rest["next"] is None
            assert "no representation" in is_problem(await client.get("/v1/users/u5/representation"), 404, "user_id")
            is_problem(await client.get("/v1/users/nobody/interests"), 404, "user_id")

    asyncio.run(run())


def test_items_profiles_and_forgetting(settings: Settings) -> None:
    async def run() -> None:
        async with running(settings) as client:
            before = (await client.post("/v1/score", json=OFFERED)).json()["scores"]
            changed = {"title": "Another", "categories": ["Horror"], "attributes": {"release_year": "1996"}}
            assert (await client.put("/v1/items/i0", json=changed)).status_code == 204
            assert (await client.put("/v1/items/never seen", json=changed)).status_code == 204
            after = (await client.post("/v1/score", json=OFFERED)).json()["scores"]
            assert after[0] != before[0]
            assert not after[-1]["unknown_item"]
            assert (await client.put("/v1/users/u5", json={"attributes": {"gender": "M"}})).status_code == 204
            assert (await client.post("/v1/score", json=OFFERED)).json()["scores"] != after
            gone = (await client.delete("/v1/users/u5")).json()
            assert gone["behaviors"] == 120
            forgotten = (await client.post("/v1/score", json=OFFERED)).json()
            assert (forgotten["unknown_user"], forgotten["newest_seq"]) == (True, -1)
            is_problem(await client.delete("/v1/users/u5"), 404, "user_id")

    asyncio.run(run())


def test_errors_are_problems_that_name_the_field(settings: Settings) -> None:
    async def run() -> None:
        async with running(of(settings, body_mb=0.001)) as client:
            is_problem(await client.post("/v1/score", json={"user_id": "u5"}), 422, "item_ids")
            is_problem(await client.post("/v1/score", json={**OFFERED, "topp": 3}), 422, "topp")
            is_problem(await client.post("/v1/behaviors", content=b"{"), 422, "body")
            is_problem(await client.get("/v1/users/u5/behaviors", params={"limit": 0}), 422, "query.limit")
            is_problem(await client.get("/v1/nothing"), 404)
            is_problem(await client.post("/v1/score", content=b"x" * 2000), 413, "body")

            async def unmeasured() -> AsyncIterator[bytes]:
                for _ in range(3):
                    yield b"x" * 1000

            is_problem(await client.post("/v1/behaviors", content=unmeasured()), 413, "body")

    asyncio.run(run())


def test_scopes_and_rotation_without_a_restart(settings: Settings, tmp_path: Path) -> None:
    reader, line = new_key("shop", "read")
    other, other_line = new_key("etl", "write")
    file = tmp_path / "keys"
    file.write_text(line + " # the shop\n")

    async def run() -> None:
        keyed = of(settings, keys_file=str(file))
        assert check_address(of(keyed, host="0.0.0.0")) is None
        async with running(keyed, reader) as client:
            assert (await client.post("/v1/score", json=OFFERED)).status_code == 200
            row = {"user_id": "u5", "item_id": "i3", "action": "rate", "at": DAY}
            assert "may not write" in is_problem(await client.post("/v1/behaviors", json=row), 403)
            is_problem(await client.delete("/v1/users/u5"), 403)
            is_problem(await client.get("/v1/artifacts", headers={"Authorization": "Bearer wrong"}), 401)
            is_problem(await client.get("/v1/artifacts", headers={"Authorization": f"Bearer {other}"}), 401)
            file.write_text(other_line)
            await asyncio.sleep(1.1)
            is_problem(await client.post("/v1/score", json=OFFERED), 401)
            written = await client.post("/v1/behaviors", json=row, headers={"Authorization": f"Bearer {other}"})
            assert written.json()["accepted"] == 1
            assert (await client.get("/live")).status_code == 200

    asyncio.run(run())


def test_without_keys_others_are_not_let_in_and_a_bad_key_file_is_named(settings: Settings, tmp_path: Path) -> None:
    assert "no access keys" in str(check_address(settings))
    with pytest.raises(InputError, match="on this machine only"):
        check_address(of(settings, host="0.0.0.0"))
    bad = tmp_path / "keys"
    bad.write_text("shop read,fly " + hashlib.sha256(b"x").hexdigest())
    with pytest.raises(InputError, match="keys, line 1"):
        Keys(file=bad)
    with pytest.raises(InputError, match=r"serve\.keys, line 2"):
        check_address(of(settings, keys=Secret("# none;shop")))


def test_more_than_the_limit_at_once_are_told_to_come_again(settings: Settings) -> None:
    async def run() -> None:
        async with running(of(settings, concurrent=2)) as client:
            asked = [client.post("/v1/score", json=OFFERED) for _ in range(12)]
            found = await asyncio.gather(*asked)
            turned_away = [one for one in found if one.status_code == 503]
            assert {one.status_code for one in found} == {200, 503}
            assert all(one.headers["retry-after"] == "1" for one in turned_away)
            page = (await client.get("/metrics")).text
            assert f'interestream_serve_refused_total{{limit="concurrency"}} {len(turned_away)}.0' in page
            assert 'interestream_serve_seconds_count{route="/v1/score",status="200"}' in page
            assert "u5" not in page

    asyncio.run(run())


def test_the_client_speaks_to_the_service(settings: Settings) -> None:
    async def run() -> None:
        app = make_app(service := make_service(settings))
        service.scoring.refresh()
        async with (
            app.router.lifespan_context(app),
            AsyncClient("http://service", transport=httpx.ASGITransport(app)) as client,
        ):
            found = await client.score("u5", ITEMS, top=2)
            assert len(found.scores) == 2
            batch = await client.score_batch({"u5": ITEMS, "u4": ["i1"]})
            assert [one.user_id for one in batch] == ["u5", "u4"]
            row = Behavior(user_id="a/b ü", item_id="i3", action="rate", at=DAY, event_id="1")
            assert (await client.write([row, row])).duplicates == 1
            assert [one["item_id"] for one in (await client.behaviors("a/b ü")).items] == ["i3"]
            await client.put_item("x/y", title="An item", categories=["Drama"])
            await client.put_user("a/b ü", {"gender": "F"})
            assert (await client.interests("u5", limit=1)).next is not None
            assert (await client.forget("a/b ü"))["behaviors"] == 1
            assert (await client.artifacts())["scoring"]["kind"] == "srp4ctr"
            assert (await client.stats())["users"] == 6
            with pytest.raises(ServiceError, match="no such user") as caught:
                await client.interests("nobody")
            assert (caught.value.status, caught.value.field) == (404, "user_id")
        service.engine.dispose()

    asyncio.run(run())


def test_two_processes_on_one_store_score_alike_and_know_each_others_writes(settings: Settings) -> None:
    async def run() -> None:
        async with running(settings) as one, running(settings) as other:
            for client in (one, other):
                assert (await client.post("/v1/score", json=OFFERED)).status_code == 200
            row = {"user_id": "u5", "item_id": "i3", "action": "rate", "at": 229 * DAY, "value": 1.0}
            assert (await one.post("/v1/behaviors", json=row)).json()["accepted"] == 1
            found = [(await client.post("/v1/score", json=OFFERED)).json() for client in (one, other)]
            assert found[0] == found[1]
            assert found[0]["newest_seq"] == 120

    asyncio.run(run())


def test_updates_tell_of_behaviours_and_partitions_as_they_come(settings: Settings) -> None:
    async def run() -> None:
        engine = open_store(settings.store)
        told = updates(engine, "u5", poll_s=0.01)
        assert (await anext(told)).startswith(b"event: ready")
        live.append(engine, "u5", [("i3", 229 * DAY, 4.0, None)])
        first = (await anext(told)).decode()
        live.close_partition(engine, "u5", 0)
        second = (await anext(told)).decode()
        await told.aclose()
        engine.dispose()
        assert first.startswith("event: behavior\ndata: ")
        assert '"item_id":"i3"' in first
        assert '"seq":120' in first
        assert second.startswith("event: partition\ndata: ")
        assert '"last_seq":120' in second

    asyncio.run(run())


def test_many_updates_at_once_are_all_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.service.updates.MOST", 2)

    async def run() -> None:
        engine = open_store(settings.store)
        told = updates(engine, "u5", poll_s=0.01)
        await anext(told)
        live.append(engine, "u5", [(f"i{n}", (229 + n) * DAY, 4.0, None) for n in range(5)])
        found = [(await anext(told)).decode() for _ in range(5)]
        await told.aclose()
        engine.dispose()
        assert [f'"seq":{seq}' in event for seq, event in enumerate(found, 120)] == [True] * 5

    asyncio.run(asyncio.wait_for(run(), 60))
