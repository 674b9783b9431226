"""What every test may use: a fresh store, the fetched sample and models (`make test` fetches them first), and real
servers (Kafka, PostgreSQL, vLLM) that are started once in a run, when the first test asks for them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4  # random is seeded by the test's name: tried again, it would meet its own topics

import pytest
from hypothesis import settings as hypothesis_settings
from kafka.errors import KafkaError as ClientError
from sqlalchemy import Engine
from xdist.scheduler import LoadScopeScheduling

from deploy.kafka.node import Node
from deploy.vllm.server import START_S, Server
from streams.kafka.clients import KafkaError, admin
from streams.settings import load as settings
from streams.settings.schema import KafkaSettings
from streams.store.engine import open_store
from tests.support.databases import Databases
from tests.support.servers import VLLM_KEY, Run, start_kafka, start_postgres, start_vllm

hypothesis_settings.register_profile("shared-cores", deadline=None)  # a slow machine is not a failing test
hypothesis_settings.load_profile("shared-cores")


RUN = pytest.StashKey[Run]()
BROWSER = "tests/streams/page/test_browser.py"
FORKED = ("test_distributed.py", "test_two_processes_", "test_a_killed_run_", "test_a_killed_filler_")
LONG = ("tests/faults/", "tests/contracts/test_vllm.py")
VLLM_S = START_S + 600.0  # the first of its tests waits for the server


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RUN] = Run.joined() if hasattr(config, "workerinput") else Run.begin()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[RUN].end()


@pytest.hookimpl(trylast=True)  # after pytest-randomly has shuffled them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long tests come first, so that no process is left with one when the others have ended."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
    for item in items:
        if "vllm" in getattr(item, "fixturenames", ()) or "[vllm]" in item.nodeid:
            item.add_marker(pytest.mark.timeout(VLLM_S))


class _Together(LoadScopeScheduling):
    """Tests that one test process has all of. Those of the vLLM server: it fills both cores as it is, and they count
    what it was asked. Those of the page: they share a service, a page and a browser. Those that train in forks: their
    server is made once, and takes fifteen seconds.

    xdist's own groups do nothing under pytest 9.2, which no longer reads the names that xdist 3.8 gives to tests.
    """

    def _split_scope(self, nodeid: str) -> str:
        if "test_vllm.py" in nodeid or "[vllm]" in nodeid:
            return "vllm"
        if BROWSER in nodeid:
            return "browser"
        return "forks" if any(name in nodeid for name in FORKED) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Together:
    return _Together(config, log)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite store, to be copied: a copy takes a hundredth of what all migrations take."""
    file = tmp_path_factory.mktemp("empty") / "store.db"
    open_store(f"sqlite:///{file}").dispose()
    return file


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Iterator[Engine]:
    """A fresh SQLite store in a file."""
    shutil.copy(empty_store, tmp_path / "store.db")
    engine = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    yield engine
    engine.dispose()


def _fetched(folder: Path) -> Path:
    if not folder.exists():
        pytest.fail(f"{folder.name} is not in the cache; run `interestream fetch` (make test does)")
    return folder


@pytest.fixture(scope="session")
def sample_log() -> Path:
    """The folder of ML-100K."""
    return _fetched(settings.sample_log())


@pytest.fixture(scope="session")
def llm_folder() -> Path:
    """SmolLM2-135M-Instruct."""
    return _fetched(settings.default_llm())


@pytest.fixture(scope="session")
def encoder_folder() -> Path:
    """all-MiniLM-L6-v2."""
    return _fetched(settings.default_encoder())


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Run:
    """What the processes of this run of tests share."""
    return request.config.stash[RUN]


@pytest.fixture(scope="session")
def postgres(run: Run) -> str:
    """The URL of a PostgreSQL server that all processes of the run share; one to be killed is the test's own."""
    return run.address("postgres", start_postgres)


@pytest.fixture(scope="session")
def databases(postgres: str) -> Iterator[Databases]:
    made = Databases(postgres)
    yield made
    made.end()


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of a store whose tables are still to be made, on either database."""
    yield from _fresh(request, tmp_path, tables=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of an empty store on either database."""
    yield from _fresh(request, tmp_path, tables=True)


def _fresh(request: pytest.FixtureRequest, folder: Path, *, tables: bool) -> Iterator[str]:
    if request.param == "sqlite":
        if tables:
            shutil.copy(request.getfixturevalue("empty_store"), folder / "store.db")
        yield f"sqlite:///{folder / 'store.db'}"
        return
    databases: Databases = request.getfixturevalue("databases")
    name = databases.made() if tables else databases.bare()
    yield databases.url(name)
    databases.drop(name)


@pytest.fixture(scope="session")
def kafka_node(run: Run) -> Node:
    """A broker that all processes of the run share; one to be killed is the test's own.

    TEST_KAFKA names a running one's port instead: quicker while a test is being written.
    """
    port = os.environ.get("TEST_KAFKA") or run.address("kafka", start_kafka)
    return Node(run.folder / "kafka", int(port))


@pytest.fixture
def own_node(run: Run) -> Iterator[Node]:
    """A broker that the test may kill."""
    node = Node(run.own_folder("kafka"), heap="256m", brief=True)
    node.start()
    yield node
    node.kill()


@pytest.fixture
def kafka(kafka_node: Node) -> Iterator[KafkaSettings]:
    """Settings for topics of the test's own on the shared broker; the test creates those it needs.

    They are deleted in the end: with those of a whole run, some 50,000 Kafka partitions, the broker answers no more.
    """
    given = KafkaSettings(brokers=kafka_node.bootstrap, prefix=f"t{uuid4().hex[:12]}.", session_timeout_s=6.0)
    yield given
    with contextlib.suppress(KafkaError, ClientError), admin(given) as client:
        if own := [name for name in client.list_topics() if name.startswith(given.prefix)]:
            client.delete_topics(own)


@pytest.fixture(scope="session")
def vllm(run: Run) -> Server:
    """A real vLLM server on the CPU with SmolLM2, and a key.

    TEST_VLLM names a running one's port instead (`make vllm` with INTERESTREAM_LLM_KEY=sk-contract).
    """
    port = os.environ.get("TEST_VLLM") or run.address("vllm", start_vllm)
    return Server(run.folder / "vllm", int(port), key=VLLM_KEY)
