"""Workers come and go under load, and one that was thought dead comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from tests.support.fault_site import Site, assert_as_undisturbed, log_of, messages_of, until

ROWS = 12_000


def test_workers_that_start_together_on_an_empty_store(site: Site) -> None:
    log = log_of(3_000)
    workers = [site.start(wait=False) for _ in range(3)]
    site.produce(messages_of(log))
    for worker in workers:
        until(worker.ready, "every worker is ready")
    site.wait_for(3_000)
    assert_as_undisturbed(site, log)
    for worker in workers:
        worker.end()


def test_one_worker_three_and_one_again(site: Site) -> None:
    log = log_of(ROWS)
    messages = messages_of(log)
    first = site.start()
    site.produce(messages[:3_000])
    others = [site.start(), site.start()]
    for start in range(3_000, 9_000, 1_000):
        site.produce(messages[start : start + 1_000])
    for worker in (first, *others):
        until(
            lambda worker=worker: worker.metric("interestream_messages_total", stage="ingest") > 0,
            "every worker has a share of the work",
        )
    site.produce(messages[9_000:10_000])
    for worker in (first, others[0]):
        worker.end()
    site.produce(messages[10_000:])
    site.wait_for(ROWS)
    assert_as_undisturbed(site, log)
    others[1].end()


@contextmanager
def held(site: Site) -> Iterator[None]:
    """Nobody else can write offsets meanwhile."""
    with site.engine.connect() as connection:
        if site.engine.dialect.name == "sqlite":
            driver = connection.connection.driver_connection
            driver.isolation_level = None
            driver.execute("begin immediate")
            yield
            driver.execute("rollback")
        else:
            connection.execute(text("lock table offsets in exclusive mode"))
            yield
            connection.rollback()


def wait_for_its_write(site: Site) -> None:
    """Until somebody's statement waits for what `held` holds."""
    if site.engine.dialect.name == "sqlite":
        time.sleep(2.0)  # SQLite does not say who waits; a batch is fetched and folded in a tenth of that
        return

    def waits() -> bool:
        with site.engine.connect() as connection:
            query = text("select count(*) from pg_locks where not granted and relation = 'offsets'::regclass")
            return bool(connection.execute(query).scalar())

    until(waits, "a write waits")


def test_a_worker_frozen_in_its_write_is_fenced_when_it_wakes(site: Site) -> None:
    """It stops while its transaction waits for the store, past its session; another has gone on in the meantime."""
    log = log_of(ROWS)
    messages = messages_of(log)
    frozen = site.start()
    site.produce(messages[:4_000])
    site.wait_for(4_000)
    with held(site):
        site.produce(messages[4_000:8_000])
        wait_for_its_write(site)
        frozen.freeze()
    other = site.start()
    site.produce(messages[8_000:])
    until(lambda: site.consumed() == ROWS, "the other worker takes over")
    frozen.wake()
    # by the offset that has moved on, or, on PostgreSQL, as a transaction that stood still and was ended
    until(
        lambda: frozen.metric("interestream_fenced_total") + frozen.metric("interestream_retries_total") > 0,
        "the write of the frozen worker is refused",
    )
    site.wait_for(ROWS)
    assert_as_undisturbed(site, log)
    frozen.end()
    other.end()
