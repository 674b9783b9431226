"""Workers killed at random moments: the store and the announcements end as if nothing had happened."""

from __future__ import annotations

import random
import time

import pytest
from conftest import SOAK
from harness import Site, assert_as_undisturbed, log_of, messages_of, until

KILLS, ROWS = (30, 200_000) if SOAK else (6, 60_000)


@pytest.mark.timeout(3600 if SOAK else 600)
def test_the_store_is_that_of_an_undisturbed_run_whenever_a_worker_was_killed(site: Site) -> None:
    log = log_of(ROWS)
    messages = messages_of(log)
    chosen = random.Random()
    share = ROWS // (KILLS + 1)
    in_hand = 0
    worker = site.start()
    for kill in range(KILLS):
        before = site.consumed() if kill else 0
        site.produce(messages[kill * share : (kill + 1) * share])
        if chosen.random() < 0.75:  # killed at work; else maybe while it starts or joins its group
            until(lambda before=before: site.consumed() > before, "the worker goes on")
            time.sleep(chosen.uniform(0, 0.3))
        else:
            time.sleep(chosen.uniform(0, 3))
        worker.kill()
        in_hand += before < site.consumed() < (kill + 1) * share
        worker = site.start(wait=chosen.random() < 0.5)
    site.produce(messages[KILLS * share :])
    site.wait_for(ROWS)
    assert_as_undisturbed(site, log)
    assert in_hand  # else no kill has fallen between two transactions, and this has tested little
    worker.end()
