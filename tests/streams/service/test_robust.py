"""What callers and servers may do to the service: slow and dropped connections, crowds, other writers, any request."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
import schemathesis
from aiokafka import AIOKafkaConsumer
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fusion.serving.score import Scorer
from fusion.training.artifact import Artifact
from interest.types import Behavior
from streams.client import AsyncClient, Client, ServiceError, Update
from streams.kafka.provision import create_topics
from streams.service.app import make_app
from streams.service.forward import writer_app
from streams.service.server import make_service, make_writer
from streams.settings.schema import KafkaSettings, Settings
from streams.store.engine import open_store
from tests.support import stage_rig
from tests.support.ctr_world import DAY
from tests.support.service_rig import ITEMS, OFFERED, is_problem, listening, of, running, small_service

ROW = {"user_id": "u5", "item_id": "i3", "action": "rate", "at": 229 * DAY, "value": 1.0}


def test_who_sends_slowly_or_hangs_up_takes_nobodys_place(settings: Settings) -> None:
    async def run() -> None:
        service = make_service(of(settings, body_s=0.3, concurrent=2))
        app = make_app(service)
        service.scoring.refresh()
        async with listening(app, port=0) as server:
            port = server.servers[0].sockets[0].getsockname()[1]

            opened: list[asyncio.StreamWriter] = []

            async def send(text: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                opened.append(writer)
                writer.write(text)
                await writer.drain()
                return reader, writer

            head = (
                b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{"
            )
            slow = [await send(head) for _ in range(2)]
            answers = [(await reader.readline()).decode() for reader, _ in slow]
            assert all("408" in answer for answer in answers)
            for _, writer in slow:
                writer.close()
            for _ in range(3):
                _, gone = await send(head)
                gone.close()
            for _ in range(3):  # as many as may be in flight, and one more: they stay open
                stream, _ = await send(b"GET /v1/users/u5/updates HTTP/1.1\r\nHost: x\r\n\r\n")
                while b"event: ready" not in await stream.readline():
                    pass
            body = msgspec.json.encode(OFFERED)
            ask = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
            for _ in range(200):  # until the server has seen that they are gone
                reader, _ = await send(ask + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
                status = (await reader.readline()).decode()
                if "200" in status:
                    break
                await asyncio.sleep(0.05)
            assert "200" in status
            reader, _ = await send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            page = (await reader.read()).decode()
            assert 'refused_total{limit="slow"} 2.0' in page
            assert "interestream_serve_streams 3.0" in page
            for writer in opened:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for writer in opened), return_exceptions=True)
        service.engine.dispose()

    asyncio.run(asyncio.wait_for(run(), 120))


def test_a_hundred_writers_and_readers_of_one_user(settings: Settings, template: tuple[Path, Artifact]) -> None:
    async def run() -> None:
        async with running(of(settings, concurrent=200)) as client:
            asked = [client.post("/v1/behaviors", json=ROW | {"item_id": f"i{n}"}) for n in range(50)]
            asked += [client.post("/v1/score", json=OFFERED) for _ in range(50)]
            found = await asyncio.gather(*asked)
            assert {one.status_code for one in found} == {200}
            assert sum(one.json()["accepted"] for one in found[:50]) == 50
            last = (await client.post("/v1/score", json=OFFERED)).json()
        assert last["newest_seq"] == 169
        assert_anew(settings.store, template[1], last["scores"], last["at"])

    asyncio.run(run())


def assert_anew(url: str, artifact: Artifact, scores: list[dict[str, float]], at: float) -> None:
    engine = open_store(url)
    with engine.connect() as connection:
        anew = Scorer(artifact)(connection, [("u5", item) for item in ITEMS], at)
    engine.dispose()
    np.testing.assert_allclose([one["score"] for one in scores], anew, atol=1e-5)


def test_on_every_database(url: str, tmp_path: Path) -> None:
    artifact = small_service(url, tmp_path / "model")
    settings = of(Settings(store=url), artifact=str(tmp_path / "model"))

    async def run() -> None:
        async with running(settings) as client:
            assert (await client.post("/v1/score", json=OFFERED)).json()["newest_seq"] == 119
            assert (await client.post("/v1/behaviors", json=ROW)).json()["accepted"] == 1
            changed = {"title": "Another", "categories": ["Horror"]}
            assert (await client.put("/v1/items/i2", json=changed)).status_code == 204
            found = (await client.post("/v1/score", json=OFFERED)).json()
            assert (found["newest_seq"], found["held"], found["stale_s"]) == (120, False, None)
            assert_anew(url, artifact, found["scores"], found["at"])
            shown = (await client.get("/v1/users/u5/interests", params={"limit": 3})).json()
            assert len(shown["items"]) == 3
            assert (await client.delete("/v1/users/u5")).json()["behaviors"] == 121

    asyncio.run(run())


def test_workers_hand_what_is_written_to_one_process(settings: Settings, tmp_path: Path) -> None:
    socket = str(tmp_path / "w.sock")

    async def run() -> None:
        async with (
            listening(writer_app(make_writer(settings)), uds=socket),
            running(settings, socket=socket) as one,
            running(settings, socket=socket) as other,
        ):
            assert (await one.post("/v1/behaviors", json=ROW)).json()["accepted"] == 1
            assert (await other.put("/v1/items/i0", json={"title": "Another"})).status_code == 204
            assert (await other.put("/v1/users/u5", json={"attributes": {"gender": "M"}})).status_code == 204
            found = [(await client.post("/v1/score", json=OFFERED)).json() for client in (one, other)]
            assert found[0] == found[1]
            assert found[0]["newest_seq"] == 120
            assert (await other.delete("/v1/users/u5")).json()["behaviors"] == 121
            is_problem(await one.delete("/v1/users/u5"), 404, "user_id")
            assert (await one.post("/v1/score", json=OFFERED)).json()["unknown_user"]
        async with running(settings, socket=socket) as alone:
            refused = await alone.post("/v1/behaviors", json=ROW)
            assert "does not answer" in is_problem(refused, 503)
            assert refused.headers["retry-after"] == "1"

    asyncio.run(run())


def test_what_is_written_goes_to_kafka(settings: Settings, kafka: KafkaSettings) -> None:
    create_topics(kafka)
    keyed = of(msgspec.structs.replace(settings, kafka=kafka), writes="kafka")

    async def run() -> None:
        async with running(keyed) as client:
            written = (await client.post("/v1/behaviors", json=[ROW, ROW | {"user_id": "new"}, {"user_id": 7}])).json()
            assert (written["accepted"], [one["index"] for one in written["refused"]]) == (2, [2])
            assert (await client.put("/v1/items/i0", json={"title": "Another"})).status_code == 204
            assert (await client.put("/v1/users/u5", json={"attributes": {"gender": "M"}})).status_code == 204
        topics = [f"{kafka.prefix}{name}" for name in ("behaviors", "items", "users")]
        consumer = AIOKafkaConsumer(*topics, bootstrap_servers=kafka.brokers, auto_offset_reset="earliest")
        await consumer.start()
        messages = [await asyncio.wait_for(consumer.getone(), 60) for _ in range(4)]
        await consumer.stop()
        told = {(one.topic.removeprefix(kafka.prefix), one.key.decode()) for one in messages}
        assert told == {("behaviors", "u5"), ("behaviors", "new"), ("items", "i0"), ("users", "u5")}
        row = next(one.value for one in messages if one.key == b"new")
        assert msgspec.json.decode(row)["item_id"] == "i3"

    asyncio.run(run())


def test_a_user_whose_behaviours_are_still_to_be_read_is_not_forgotten_by_halves(
    settings: Settings, kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_topics(kafka)
    monkeypatch.setattr("streams.service.writers.SETTLE_S", 0.5)
    context = stage_rig.make_context(open_store(settings.store), kafka)
    keyed = of(msgspec.structs.replace(settings, kafka=kafka), writes="kafka")

    async def run() -> None:
        async with running(keyed) as client:
            assert (await client.post("/v1/behaviors", json=ROW | {"user_id": "new"})).status_code == 200
            refused = await client.delete("/v1/users/new")
            assert "still to read" in is_problem(refused, 503)
            async with stage_rig.running(context):
                await stage_rig.drained(context.engine, kafka)
            assert (await client.delete("/v1/users/new")).json()["behaviors"] == 1
            async with stage_rig.running(context):  # which reads nothing of the user again
                await stage_rig.drained(context.engine, kafka)
            is_problem(await client.delete("/v1/users/new"), 404, "user_id")
        context.engine.dispose()

    asyncio.run(asyncio.wait_for(run(), 120))


def test_the_page_of_documents_loads_nothing_from_outside(settings: Settings) -> None:
    async def run() -> None:
        async with running(settings) as client:
            page = (await client.get("/docs")).text
            loaded = re.findall(r'(?:src|href)="([^"]*)"', page)
            assert len(loaded) >= 3
            for place in loaded:
                assert place.startswith("/")
                assert (await client.get(place)).status_code == 200
            assert "https://" not in page

    asyncio.run(run())


CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)


FEW = examples(max_examples=2, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE])  # bad ones: not every operation has any
def test_every_endpoint_keeps_to_its_openapi(settings: Settings, mode: GenerationMode) -> None:
    """Generated requests, good and bad: no server error, and answers as documented. Streams are tested elsewhere."""
    with asyncio.Runner() as runner:
        service = running(settings)
        client = runner.run(service.__aenter__())
        document = runner.run(client.get("/openapi.json")).json()
        answered = set()
        for result in schemathesis.openapi.from_dict(document).exclude(path_regex="/updates$").get_all_operations():
            operation = result.ok()
            if mode is GenerationMode.NEGATIVE and not (operation.body or list(operation.iter_parameters())):
                continue

            def holds(case: schemathesis.Case) -> None:
                asked = case.as_transport_kwargs(base_url="http://service")
                wanted = {name: asked[name] for name in ("method", "url", "headers", "params", "json") if name in asked}
                answer = runner.run(client.request(**wanted, content=asked.get("data")))
                case.validate_response(answer, checks=CHECKS)
                answered.add((case.operation.label, answer.status_code // 100))

            strategy = operation.as_strategy(generation_mode=mode)
            FEW(given(strategy)(holds))()
        runner.run(service.__aexit__(None, None, None))
    kinds = {status for _, status in answered}
    assert len({label for label, _ in answered}) >= (10 if mode is GenerationMode.POSITIVE else 7)
    assert kinds >= ({2, 4} if mode is GenerationMode.POSITIVE else {4})


def test_both_clients_follow_a_user(settings: Settings) -> None:
    def written(event: str) -> Behavior:
        return Behavior(user_id="u5", item_id="i3", action="rate", at=229 * DAY, value=4.0, event_id=event)

    def waiting(url: str) -> list[Update]:
        with Client(url) as client:
            told = client.updates("u5")
            ready = next(told)
            client.write([written("by one that waits")])
            found = [ready, next(told)]
            told.close()
        with Client("http://127.0.0.1:9") as client, pytest.raises(ServiceError, match="no service answers"):
            next(client.updates("u5"))
        return found

    async def run() -> None:
        app = make_app(service := make_service(settings))
        async with listening(app, port=0) as server:
            url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            found = await asyncio.to_thread(waiting, url)
            async with AsyncClient(url) as client:
                told = client.updates("u5")
                found.append(await anext(told))
                await client.write([written("by asyncio")])
                found.append(await anext(told))
        service.engine.dispose()
        assert [one.kind for one in found] == ["ready", "behavior"] * 2
        assert [one.told["event_id"] for one in found[1::2]] == ["by one that waits", "by asyncio"]

    asyncio.run(asyncio.wait_for(run(), 120))
