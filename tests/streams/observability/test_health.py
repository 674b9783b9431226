"""What /ready says, for every state that a worker can be in."""

from __future__ import annotations

from streams.observability.health import Health


def health() -> Health:
    ready = Health(expected=frozenset({"ingest", "fusion"}))
    ready.begun |= {"ingest", "fusion"}
    return ready


def test_a_worker_is_ready_when_every_stage_has_begun() -> None:
    one = Health(expected=frozenset({"ingest", "fusion"}))
    assert one.reasons_not_ready(0.0) == ["starting: fusion, ingest not given partitions yet"]
    one.begun.add("ingest")
    assert one.reasons_not_ready(0.0) == ["starting: fusion not given partitions yet"]
    one.begun.add("fusion")
    assert not one.reasons_not_ready(0.0)


def test_what_is_down_is_named_until_it_is_up() -> None:
    one = health()
    one.failed("store", "OperationalError")
    one.failed("llm", "answers 500")
    assert one.reasons_not_ready(0.0) == ["llm is down: answers 500", "store is down: OperationalError"]
    one.up("llm")
    one.up("kafka")  # never was down
    assert one.reasons_not_ready(0.0) == ["store is down: OperationalError"]


def test_a_partition_with_work_left_must_move() -> None:
    one = health()
    one.progressed("ingest", "behaviors", 3, done=10, left=5, now=100.0)
    one.progressed("ingest", "behaviors", 3, done=10, left=9, now=150.0)
    assert not one.reasons_not_ready(160.0)
    assert one.reasons_not_ready(161.0) == [
        "ingest stands at offset 10 of behaviors[3] for 61 s with 9 messages to come"
    ]
    assert one.stuck_for(161.0) == 61.0
    one.progressed("ingest", "behaviors", 3, done=11, left=8, now=161.0)
    assert not one.reasons_not_ready(161.0)


def test_no_work_is_no_standstill_and_a_partition_given_up_is_none_of_ours() -> None:
    one = health()
    one.progressed("ingest", "behaviors", 0, done=10, left=0, now=0.0)
    one.progressed("ingest", "behaviors", 1, done=10, left=1, now=0.0)
    one.unassigned("ingest", "behaviors", 1)
    assert not one.reasons_not_ready(1000.0)
    one.progressed("ingest", "behaviors", 0, done=10, left=4, now=1000.0)  # work came after a long silence
    assert one.stuck_for(1001.0) == 1.0


def test_a_refusal_is_said() -> None:
    one = health()
    one.refused = "the topic behaviors was made again"
    assert one.reasons_not_ready(0.0) == ["the topic behaviors was made again"]
