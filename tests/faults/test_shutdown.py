"""SIGTERM under load: a quick, clean end, and nothing is done twice."""

from __future__ import annotations

from tests.support.fault_site import Site, assert_as_undisturbed, log_of, messages_of, until

ROWS = 20_000
PROMISED_S, SLACK_S = 10.0, 3.0  # the promise, and what a machine with other work to do may add


def test_a_worker_told_to_end_ends_in_time_and_nothing_is_redone(site: Site) -> None:
    log = log_of(ROWS)
    site.extra["INTERESTREAM_INGEST_BATCH"] = "50"  # many small transactions: the signal comes between two of them
    site.produce(messages_of(log))  # all there before the worker is: it can only be interrupted
    first = site.start(wait=False)
    until(lambda: site.consumed() > 1_000, "the worker is at work", every_s=0.02)
    assert first.end() <= PROMISED_S + SLACK_S
    done = site.consumed()
    assert 0 < done < ROWS  # else it was not interrupted
    assert site.unsent() == 0
    site.extra.clear()
    second = site.start()
    site.wait_for(ROWS)
    assert second.metric("interestream_messages_total", stage="ingest") == ROWS - done
    assert_as_undisturbed(site, log)
    with_partitions = site.announced()
    assert len(with_partitions) == len({(one["user_id"], one["index"]) for one in with_partitions})
    second.end()


def test_an_idle_worker_ends_at_once(site: Site) -> None:
    worker = site.start()
    until(worker.ready, "the worker is ready")
    assert worker.end() <= PROMISED_S
