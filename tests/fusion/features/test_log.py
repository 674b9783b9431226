"""The log as arrays is the log of the store."""

from __future__ import annotations

import numpy as np
import pytest
from sqlalchemy import Engine

from fusion.features.log import newest_time, read_log
from interest.errors import StoreError
from interest.store.sql import insert_new
from interest.store.tables import behaviors
from tests.support.ctr_world import fill, random_rows


def test_the_log_is_read_by_user_in_order_of_arrival(store: Engine) -> None:
    written = fill(store, random_rows(1))
    counted: list[int] = []
    with store.connect() as connection:
        log = read_log(connection, advance=counted.append)
        assert newest_time(connection) == written.at.max()
    assert sum(counted) == log.size == written.size
    assert log.users == sorted(written.users)
    for number, user in enumerate(log.users):
        own = slice(log.starts[number], log.starts[number + 1])
        theirs = slice(*written.starts[written.users.index(user) :][:2])
        assert [log.items[i] for i in log.item[own]] == [written.items[i] for i in written.item[theirs]]
        np.testing.assert_array_equal(log.seq[own], np.arange(25))
        np.testing.assert_array_equal(log.at[own], written.at[theirs])
        np.testing.assert_array_equal(log.value[own], written.value[theirs])


def test_some_users_keep_their_order_and_an_unknown_user_is_empty(store: Engine) -> None:
    written = fill(store, random_rows(1))
    with store.connect() as connection:
        log = read_log(connection, ["u7", "nobody", "u2"])
    assert log.users == ["u7", "nobody", "u2"]
    assert np.diff(log.starts).tolist() == [25, 0, 25]
    np.testing.assert_array_equal(log.at[:25], written.at[written.starts[7] : written.starts[8]])


def test_an_event_without_a_value_has_none(store: Engine) -> None:
    with store.begin() as connection:
        insert_new(connection, behaviors, [{"user_id": "u", "seq": 0, "item_id": "i", "action": "view", "at": 1.0}])
    with store.connect() as connection:
        log = read_log(connection)
    assert np.isnan(log.value).tolist() == [True]
    assert log.actions == ["view"]


def test_an_empty_store_is_an_empty_log_without_a_newest_time(store: Engine) -> None:
    with store.connect() as connection:
        assert read_log(connection).size == 0
        with pytest.raises(StoreError, match="interestream replay"):
            newest_time(connection)
