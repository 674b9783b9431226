"""A log for the ingest stage, what the embedded replay makes of it, and a store of either kind."""

from __future__ import annotations

import pytest

from streams.files.rows import BehaviorLog
from streams.replay.embedded import replay
from streams.store.engine import open_store
from streams.ubsp.policy import Policy
from tests.support.stage_rig import behaviors_of, content


@pytest.fixture
def engine(url):
    engine = open_store(url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def log_file(sample_log, tmp_path_factory):
    """A third of ML-100K's users with all that they did: 34,000 ratings. `make bench` streams the whole log."""
    header, *rows = (sample_log / "ml-100k.inter").read_text().splitlines()
    file = tmp_path_factory.mktemp("third") / "ml-100k.inter"
    file.write_text("\n".join([header, *(row for row in rows if int(row.split("\t")[0]) % 3 == 0)]) + "\n")
    return file


@pytest.fixture(scope="session")
def embedded(log_file, tmp_path_factory):
    """What the embedded replay makes of the log."""
    engine = open_store(f"sqlite:///{tmp_path_factory.mktemp('embedded') / 'store.db'}")
    replayed = replay(engine, BehaviorLog(log_file, {}), Policy())
    yield content(engine), replayed
    engine.dispose()


@pytest.fixture(scope="session")
def log(log_file):
    return behaviors_of(log_file)
