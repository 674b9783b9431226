"""What closes while the service runs gets texts and representations: the rows of `learn` and `fuse`, newest first."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
from sqlalchemy import Engine, select, text

from fusion.interests.backfill import fuse
from fusion.serving.user_vectors import represent
from fusion.tables import centroids, representations, vectors
from fusion.training.artifact import Artifact, load_artifact, save_artifact
from interest.errors import Denied, InputError, StoreError, Unavailable
from interest.llm.scripted import Scripted
from interest.store.tables import interests, partitions
from interest.types import Behavior, Outcome
from interest.write.backfill import learn
from interest.write.backlog import Plan
from streams.resolve.centroids import CentroidPass
from streams.resolve.encoder import item_template
from streams.resolve.llm import STATISTICS, OpenLlm, service_llm
from streams.service import learner as learner_module
from streams.service.learner import Learner
from streams.service.learner_state import LEARNER_STATE, StateFile, learner_state
from streams.service.learning import ANOTHER_S, LearnerLoop, check_learning, learning
from streams.service.server import make_writer
from streams.settings.load import load_settings
from streams.settings.schema import IngestSettings, LlmSettings, ServeSettings, Settings
from streams.store.engine import open_store
from streams.store.sole import Sole
from tests.support import live_world as live
from tests.support.chat_server import Body, ChatServer
from tests.support.ctr_world import DAY
from tests.support.llm_world import answer
from tests.support.service_rig import OFFERED, running

AT = 230 * DAY
CLOSES = 4
PLAIN = OpenLlm(None, STATISTICS, "plain-1")
WITHIN_S = 300.0  # a shared core may be busy


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifact]:
    """A store with partitions that have no texts, and an artifact that reads texts by plain-1."""
    folder = tmp_path_factory.mktemp("learner")
    engine = open_store(f"sqlite:///{folder / 'store.db'}")
    log = live.world(engine)
    live.encode(engine)
    engine.dispose()
    spec = msgspec.structs.replace(live.spec_of(log), prompt_version="plain-1", encoder=live.TextEncoder.id)
    made = live.artifact_of(log, spec, live.SRP4CTR)
    save_artifact(folder / "model", made.model, spec, made.statistics, made.config, {})
    return folder, load_artifact(folder / "model")


@pytest.fixture
def settings(world: tuple[Path, Artifact], tmp_path: Path) -> Settings:
    (tmp_path / "store.db").write_bytes((world[0] / "store.db").read_bytes())
    return Settings(
        store=f"sqlite:///{tmp_path / 'store.db'}",
        serve=ServeSettings(artifact=str(world[0] / "model")),
        ingest=IngestSettings(count=CLOSES),
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    opened = open_store(settings.store)
    yield opened
    opened.dispose()


def rows(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    with engine.connect() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]
            for table in (interests, vectors, representations, centroids)
        }


def texts_of(engine: Engine, user_id: str) -> list[tuple[int, str]]:
    with engine.connect() as connection:
        query = select(interests.c.index, interests.c.summary_outcome).where(interests.c.user_id == user_id)
        return [(row[0], row[1]) for row in connection.execute(query.order_by(interests.c.index))]


def to_the_end(learner: Learner) -> None:
    while learner.step():
        pass


def test_its_rows_are_those_of_learn_and_fuse(
    engine: Engine, settings: Settings, world: tuple[Path, Artifact], tmp_path: Path
) -> None:
    (tmp_path / "other.db").write_bytes((world[0] / "store.db").read_bytes())
    other = open_store(f"sqlite:///{tmp_path / 'other.db'}")
    learn(other, None, model=STATISTICS, plan=Plan(prompt_version="plain-1"))
    fuse(other, live.TextEncoder(), "plain-1")
    represent(other, world[1])
    found_all = CentroidPass(other, live.TextEncoder.id, item_template())
    while found_all.step():
        pass
    learner = Learner(engine, settings, PLAIN, live.TextEncoder())
    to_the_end(learner)
    mine = rows(engine)
    assert mine == rows(other)
    assert (learner.waiting, learner.written) == (0, len(mine["interests"]))
    assert learner.notes == ()
    other.dispose()


def test_who_closed_last_comes_first_and_the_oldest_partition_of_each(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner_module, "PLAIN", 2)
    with engine.connect() as connection:
        query = select(partitions.c.user_id).order_by(partitions.c.closed_at.desc()).limit(1)
        last = connection.execute(query).scalar_one()
    learner = Learner(engine, settings, PLAIN, live.TextEncoder())
    assert learner.step()
    with engine.connect() as connection:
        found = connection.execute(select(interests.c.user_id, interests.c.index)).all()
    assert sorted(found) == [(last, 0), (last, 1)]
    # as after a look: the user is forgotten before the texts are written
    monkeypatch.setattr(learner_module, "users_waiting", lambda *_given, **_named: [("forgotten", 1)])
    learner.step()
    assert learner.written == 2
    monkeypatch.undo()
    to_the_end(learner)
    assert learner.waiting == 0


def test_a_partition_that_closes_is_told_and_scored_with(
    engine: Engine, settings: Settings, world: tuple[Path, Artifact]
) -> None:
    learner = Learner(engine, settings, PLAIN, live.TextEncoder())
    to_the_end(learner)

    async def run() -> None:
        async with running(settings) as client:
            for n in range(CLOSES):
                row = {"user_id": "new", "item_id": f"i{n}", "action": "rate", "at": AT + n, "value": 5.0}
                assert (await client.post("/v1/behaviors", json=row)).json()["accepted"] == 1
            asked = OFFERED | {"user_id": "new"}
            before = (await client.post("/v1/score", json=asked)).json()
            assert (await client.get("/v1/users/new/representation")).status_code == 404
            learner._look_at = 0.0  # whatever the last look took
            assert learner.step()
            after = (await client.post("/v1/score", json=asked)).json()
            assert after["newest_seq"] == before["newest_seq"] == CLOSES - 1
            assert after["scores"] != before["scores"]
            told = (await client.get("/v1/users/new/representation")).json()
            assert (told["artifact"], told["index"]) == (world[1].id, 0)
            shown = (await client.get("/v1/users/new/interests")).json()["items"]
            assert shown[0]["summary"]

    asyncio.run(run())
    assert texts_of(engine, "new") == [(0, Outcome.STATISTICS)]


async def shown_by(settings: Settings) -> tuple[dict, str]:
    async with running(settings) as client:
        return (await client.get("/v1/stream")).json()["learner"], (await client.get("/metrics")).text


def test_an_llm_that_is_away_is_waited_for(
    engine: Engine, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = StateFile(tmp_path / "state.json")
    monkeypatch.setenv(LEARNER_STATE, str(tmp_path / "state.json"))
    llm = OpenLlm(Scripted(Unavailable("connection refused"), "They watch films."), "scripted", "plain-1")
    sole = Sole(engine, "learner")
    work = LearnerLoop(engine, settings, file, llm, live.TextEncoder(), sole)
    beside = Sole(engine, "learner")
    assert beside.held()
    assert work.step() == ANOTHER_S
    told, metrics = asyncio.run(shown_by(settings))
    assert (told["standing_by"], told["trouble"]) == (True, None)
    assert "interestream_serve_learn_standing_by 1.0" in metrics
    assert "interestream_serve_learn_troubled 0.0" in metrics
    beside.close()
    work.step()
    said = learner_state()
    assert said is not None
    assert said.trouble == "connection refused"
    assert said.waiting > 0
    told, metrics = asyncio.run(shown_by(settings))
    assert (told["standing_by"], told["trouble"]) == (False, said.trouble)
    assert "interestream_serve_learn_troubled 1.0" in metrics
    while work.step() == 0.0:
        pass
    told, metrics = asyncio.run(shown_by(settings))
    assert (told["trouble"], told["waiting"], told["model"]) == (None, 0, "scripted")
    assert told["written"] == told["represented"] == len(rows(engine)["interests"])
    assert "interestream_serve_learn_waiting 0.0" in metrics
    sole.close()


def test_a_refused_key_is_waited_for_and_a_reply_that_cannot_be_read_holds_up_nobody(
    engine: Engine, settings: Settings
) -> None:
    asked: list[str] = []

    def refusing(_body: Body) -> tuple[int, bytes]:
        return 401, b'{"error": {"message": "no such key"}}'

    def mumbling(body: Body) -> tuple[int, bytes] | None:
        """Its third prompt is never answered so that it can be read."""
        told = str(body["messages"][-1]["content"])
        asked.extend([] if told in asked else [told])
        return (200, b"<html>") if told == asked[min(2, len(asked) - 1)] and len(asked) > 2 else None

    with ChatServer(Scripted(answer), odd=refusing) as server:
        served = LlmSettings(url=server.url, model="m", prompt_version="json-1", concurrent=1)
        own = msgspec.structs.replace(settings, llm=served)
        with service_llm(own) as llm:
            learner = Learner(engine, own, llm, live.TextEncoder())
            assert "by json-1: scores do not know of it" in learner.notes[0]
            with pytest.raises(Denied, match="no such key"):
                to_the_end(learner)
            before = learner.waiting
            server.odd = mumbling
            while learner.trouble is None:
                assert learner.step()
            to_the_end(learner)
            assert "1 partitions could not be read" in learner.trouble
    assert 0 < learner.waiting < before
    assert len(asked) > 3


def test_one_process_works_on_a_store(url: str) -> None:
    engine = open_store(url)
    first, second, another = Sole(engine, "learner"), Sole(engine, "learner"), Sole(engine, "other")
    assert [first.held(), second.held(), first.held(), another.held()] == [True, False, True, True]
    if engine.dialect.name == "postgresql":  # its session is gone, and with it the lock
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            others = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
            connection.execute(text(f"{others} and pid <> pg_backend_pid()"))
        assert first.held()
    first.close()
    assert second.held()
    if engine.dialect.name == "sqlite":
        file = Path(str(engine.url.database))
        (link := file.with_name("link.db")).symlink_to(file)
        assert not Sole(open_store(f"sqlite:///{link}"), "learner").held()
        file.with_name(f"{file.name}-odd").mkdir()
        with pytest.raises(
            StoreError, match=r"-odd, by which one process at a time works, cannot be opened \(Is a dir"
        ):
            Sole(engine, "odd").held()
    second.close()
    another.close()
    engine.dispose()


def test_what_cannot_work_is_refused_at_the_start(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder_folder: Path
) -> None:
    def of(**changes: object) -> Settings:
        return msgspec.structs.replace(settings, **changes)

    counts = "texts are sentences from the counts, as plain-1"
    assert check_learning(settings) == f"{counts}: no language model is set (--llm)"
    asked_for = of(serve=msgspec.structs.replace(settings.serve, learn_llm=STATISTICS))
    assert check_learning(asked_for) == counts
    served = LlmSettings(url="http://127.0.0.1:1", model="m", prompt_version="json-1")
    assert check_learning(of(llm=served)) == "texts are written by m, by the prompts json-1"
    with pytest.raises(InputError, match="no prompt version 'other-1'"):
        check_learning(of(llm=LlmSettings(prompt_version="other-1")))
    with pytest.raises(InputError, match="no language model at /nowhere"):
        check_learning(of(serve=msgspec.structs.replace(settings.serve, learn_llm="/nowhere")))
    with pytest.raises(InputError, match="the agent's interest and fusion stages write the texts"):
        check_learning(of(serve=ServeSettings(writes="kafka")))
    monkeypatch.setenv("INTERESTREAM_SERVE_LEARN_LLM", "http://127.0.0.1:8000")
    with pytest.raises(
        InputError, match=r"LEARN_LLM: must be a checkpoint's folder or statistics; a server goes into llm.url"
    ):
        load_settings()


def rate(settings: Settings, user_id: str, count: int) -> None:
    """Behaviours of a user, as the writing process takes them."""

    async def run() -> None:
        writer = make_writer(settings)
        await writer.start()
        await writer.behaviors(
            [Behavior(user_id=user_id, item_id=f"i{n}", action="rate", at=AT + n, value=5.0) for n in range(count)]
        )
        await writer.stop()

    asyncio.run(run())


def wait_for(holds: Callable[[], object]) -> None:
    until = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def working(known: set[int]) -> psutil.Process:
    """The process that writes texts: a new child of this one."""
    children = [one for one in psutil.Process().children() if one.pid not in known]
    return next(one for one in children if "multiprocessing.spawn" in " ".join(one.cmdline()))


def test_its_process_is_started_again_and_ends_with_the_service(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, encoder_folder: Path
) -> None:
    monkeypatch.setenv("INTERESTREAM_STORE", settings.store)
    monkeypatch.setenv("INTERESTREAM_SERVE_ARTIFACT", str(settings.serve.artifact))
    monkeypatch.setenv(LEARNER_STATE, "")  # so that what is set there ends with the test
    before = {one.pid for one in psutil.Process().children()}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with learning():
            working(before).kill()
            wait_for(lambda: "ended (-9)" in str(getattr(learner_state(), "trouble", "")))
            rate(settings, "late", CLOSES)
            wait_for(lambda: (said := learner_state()) is not None and said.written and not said.waiting)
            said = learner_state()
            assert said is not None
            assert "reads vectors by the encoder hashed" in said.notes[0]
            assert said.trouble is None
            process = working(before)
        assert not process.is_running()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert texts_of(engine, "late") == [(0, Outcome.STATISTICS)]
    assert not Path(os.environ[LEARNER_STATE]).exists()
