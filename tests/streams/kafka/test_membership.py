"""Names of group members: one that is free is taken again, one whose process lives never is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import msgspec
import pytest

from streams.kafka.membership import Membership
from streams.settings.schema import KafkaSettings

SETTINGS = KafkaSettings(brokers="127.0.0.1:1")  # nobody is there: leaving says so, and frees the name
CHILD = """
import sys
from pathlib import Path
from streams.kafka.membership import Membership
from streams.settings.schema import KafkaSettings
print(Membership(KafkaSettings(brokers="127.0.0.1:1"), "ingest", Path(sys.argv[1])).claim(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child(tmp_path):
    """A process that holds a name until it is killed; and the name."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    yield process, process.stdout.readline().strip()
    process.kill()
    process.communicate()


@pytest.fixture
def member():
    """Makes members, and lets go of their names in the end."""
    made = []

    def make(*arguments):
        made.append(Membership(*arguments))
        return made[-1]

    yield make
    for one in made:
        one.leave()


def test_a_killed_workers_name_is_taken_and_a_live_ones_is_not(child, member, tmp_path):
    process, name = child
    other = member(SETTINGS, "ingest", tmp_path)
    assert other.claim() not in (None, name)
    process.send_signal(signal.SIGSTOP)  # frozen, not dead
    third = member(SETTINGS, "ingest", tmp_path)
    assert len({name, other.claim(), third.claim()}) == 3
    process.kill()
    process.wait()
    assert member(SETTINGS, "ingest", tmp_path).claim() == name


def test_stages_installations_and_machines_have_names_of_their_own(member, tmp_path):
    names = [
        member(SETTINGS, "ingest", tmp_path / "one").claim(),
        member(SETTINGS, "fusion", tmp_path / "one").claim(),
        member(SETTINGS, "ingest", tmp_path / "another machine").claim(),
    ]
    assert len(set(names)) == 3
    held = member(SETTINGS, "ingest", tmp_path / "two")
    elsewhere = member(msgspec.structs.replace(SETTINGS, prefix="other."), "ingest", tmp_path / "two")
    assert held.claim() == elsewhere.claim()  # another group: its numbers begin anew


def test_leaving_frees_the_name_even_without_a_broker(member, tmp_path):
    first = member(SETTINGS, "ingest", tmp_path)
    name = first.claim()
    first.leave()
    assert member(SETTINGS, "ingest", tmp_path).claim() == name


def test_where_no_file_can_be_written_the_worker_is_an_ordinary_member(member, tmp_path):
    (tmp_path / "file").write_text("")
    assert member(SETTINGS, "ingest", tmp_path / "file" / "below").claim() is None
