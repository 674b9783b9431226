"""Laws of the key-vector state: it merges, never sees its future, and a moment reads what a fold of its past says."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.features.impressions import impressions_of
from fusion.features.keys.spec import attribute_rows, fit_keys
from fusion.features.keys.state import KeyState, fold, merge
from fusion.features.keys.vectors import Layout
from fusion.features.spec import FIRST, UNKNOWN, FeatureSpec, item_table
from fusion.serving.key_side import LiveKeys, empty_keys, read_on
from interest.types import Item
from tests.support.ctr_world import DAY, log_of, random_rows
from tests.support.key_world import arrays, book, events_of, samples_of, scened, spec_of
from tests.support.random_logs import ITEMS, ROWS, USERS, visible

WINDOW = st.sampled_from([2, 5, 20_000])


def same(one: KeyState, other: KeyState) -> None:
    assert (one.size, one.newest) == (other.size, other.newest)
    np.testing.assert_array_equal(one.cell, other.cell)
    np.testing.assert_allclose(one.cells, other.cells, atol=1e-9)
    for left, right in zip(one.kinds, other.kinds, strict=True):
        for name in left.__slots__:
            np.testing.assert_allclose(getattr(left, name), getattr(right, name), atol=1e-9, err_msg=name)


@settings(deadline=None, max_examples=60)
@given(rows=ROWS, cuts=st.tuples(st.integers(0, 60), st.integers(0, 60)), window=WINDOW)
def test_the_fold_of_a_whole_is_the_merge_of_its_parts_folds_however_they_are_grouped(
    rows: list, cuts: tuple[int, int], window: int
) -> None:
    log = log_of([(0, *rest) for _, *rest in rows], 1, ITEMS)
    spec = spec_of(log, window=window)
    assert spec.keys is not None
    grid, a, b = spec.keys.grid, *sorted(cuts)
    whole, parts = np.arange(log.size), np.split(np.arange(log.size), [min(a, log.size), min(b, log.size)])
    folded = [fold(events_of(spec, log, part), window) for part in parts]
    one, two, three = folded
    same(merge(merge(one, two, window, grid), three, window, grid), fold(events_of(spec, log, whole), window))
    same(merge(one, merge(two, three, window, grid), window, grid), fold(events_of(spec, log, whole), window))
    assert all(len(kind.key) <= window * 8 for kind in folded[0].kinds)


@settings(deadline=None, max_examples=40)
@given(rows=ROWS, pick=st.integers(0, 10**6), seed=st.integers(0, 10**6), told=st.booleans())
def test_a_later_event_and_a_rows_own_outcome_change_none_of_its_keys(
    rows: list, pick: int, seed: int, told: bool
) -> None:
    log = log_of(rows, USERS, ITEMS)
    log = scened(log) if told else log
    spec, row, rng = spec_of(log), pick % log.size, np.random.default_rng(seed)
    later = (log.user == log.user[row]) & ((log.seq > log.seq[row]) | (log.at > log.at[row]))
    later |= log.user != log.user[row]  # nobody else's behaviours are read at all
    own = later.copy()
    own[row] = True
    changed = dataclasses.replace(
        log,
        at=np.where(later, log.at + rng.integers(1, 50, log.size) * DAY, log.at),
        item=np.where(later, rng.integers(0, ITEMS, log.size), log.item).astype(np.int32),
        scene=np.where(later, (log.scene + 2) % 3 - 1, log.scene).astype(np.int32) if told else log.scene,
        value=np.where(own, 6 - np.nan_to_num(log.value, nan=3.0), log.value).astype(np.float32),
    )
    before = samples_of(spec, log, np.array([row])).batch(np.array([0])).keys
    after = samples_of(spec, changed, np.array([row])).batch(np.array([0])).keys
    assert before is not None
    assert after is not None
    for left, right in zip(arrays(before), arrays(after), strict=True):
        np.testing.assert_array_equal(left, right)


@settings(deadline=None, max_examples=30)
@given(rows=ROWS, window=WINDOW, piece=st.integers(1, 7), seed=st.integers(0, 10**6), told=st.booleans())
def test_every_row_reads_what_a_fold_of_its_past_says(
    rows: list, window: int, piece: int, seed: int, told: bool
) -> None:
    """The index of all users, and a state that is carried forward in pieces, say the same of every moment."""
    log = log_of(rows, USERS, ITEMS)
    log = scened(log) if told else log
    spec = spec_of(log, window=window)
    samples = samples_of(spec, log, np.arange(log.size))
    table, places = item_table(spec, log.items, book(ITEMS)), np.arange(ITEMS)
    impressions, _ = impressions_of(log, np.arange(log.size))
    batch = samples.batch(np.arange(log.size)).keys
    assert batch is not None
    assert spec.keys is not None
    for row in np.random.default_rng(seed).choice(log.size, min(log.size, 6), replace=False):
        side, seen = empty_keys(spec.keys), visible(log, row)
        for part in np.split(seen, range(piece, len(seen), piece)):
            if len(part):
                side = read_on(side, spec, table, places, _only(log, part))
        scene = None if samples.scene is None else samples.scene[[row]]
        live = LiveKeys(spec, side, table, places, table.row[1:]).read(impressions.take(np.array([row])), scene)
        for left, right in zip(arrays(live), arrays(batch), strict=True):
            np.testing.assert_allclose(left[0], right[row], atol=1e-5)


def test_the_keys_are_those_that_a_slow_count_finds() -> None:
    """One user who met items 0, 0, 2 and 1: items 0 and 1 are of one maker."""
    log = log_of([(0, 0, 0.0, 5.0), (0, 0, DAY, 5.0), (0, 2, 2 * DAY, 1.0), (0, 1, 9 * DAY, 5.0)], 1, 4)
    spec: FeatureSpec = spec_of(log)
    assert spec.keys is not None
    assert spec.keys.kinds == ("item", "categories", "maker", "players")
    keys = samples_of(spec, log, np.arange(4)).batch(np.array([3])).keys
    assert keys is not None
    matched = keys.matched[0].numpy()  # item 1, eight categories, its maker
    assert matched[0, 0] == 0.0  # was not met
    assert matched[9, 0] == 1.0
    np.testing.assert_allclose(matched[9, 1], np.log1p(2) / 2, rtol=1e-6)
    np.testing.assert_allclose(matched[9, 8], np.log1p(8) / 4, rtol=1e-6)  # days since
    np.testing.assert_allclose(matched[9, 10], np.log1p(1) / 4, rtol=1e-6)  # behaviours since
    attended = (keys.attended[0, :, 0].numpy() > 0).reshape(4, 5).sum(axis=1)
    assert attended[0] == 4  # items 2 and 0, as recent and as frequent


def test_the_texts_of_a_list_are_keys_each() -> None:
    """One user who met items 0 (p0), 2 (p1, p2) and 3 (p1, p0); items 1 (p0, p1) and 2 are offered."""
    log = log_of(
        [(0, 0, 0.0, 5.0), (0, 2, DAY, 5.0), (0, 3, 2 * DAY, 1.0), (0, 1, 3 * DAY, 5.0), (0, 2, 4 * DAY, 5.0)], 1, 5
    )
    spec = spec_of(log)
    assert spec.keys is not None
    assert spec.keys.attributes["players"] == ("p0", "p1", "p2")
    keys = samples_of(spec, log, np.arange(5)).batch(np.array([3, 4])).keys
    assert keys is not None
    row = Layout(spec).offsets[3] + FIRST
    for candidate, met in enumerate(({0: 2, 1: 2}, {1: 3, 2: 1})):
        found = dict(
            zip(keys.matched_row[candidate, 10:].tolist(), keys.matched[candidate, 10:, 1].tolist(), strict=True)
        )
        assert found == {row + player: pytest.approx(np.log1p(times) / 2) for player, times in met.items()}


def test_a_spec_of_before_lists_were_several_keys_has_each_text_as_one() -> None:
    log = log_of(random_rows(1, 4, 8), 4, 8)
    spec = spec_of(log)
    assert spec.keys is not None
    old = msgspec.to_builtins(spec)
    del old["keys"]["listed"]
    old["keys"]["attributes"]["players"] = ["p0|p1", "p1|p2"]  # as they were fitted
    before = msgspec.convert(old, FeatureSpec)
    assert Layout(before).slots == [1, 8, 1, 1]
    table = item_table(before, log.items, book(8))
    assert table.keys[1:4, 1].tolist() == [0, FIRST, FIRST + 1]  # items 0 (p0), 1 (p0|p1), 2 (p1|p2)


def test_attributes_of_lists_are_kinds_where_their_texts_group_items() -> None:
    """No two items have the same list, and each text is of several: until now such an attribute was not a kind."""
    items = {
        f"i{n}": Item(
            item_id=f"i{n}", title="", attributes={"cast": f"a{n % 4}| b{n // 4} |a{n % 4}|", "only": f"o{n}"}
        )
        for n in range(12)
    }
    found = fit_keys(list(items), items, (), 1, scenes=False, offered=False, first=FIRST)
    assert found.kinds == ("item", "cast")
    assert found.attributes["cast"] == ("a0", "a1", "a2", "a3", "b0", "b1", "b2")
    assert found.listed == {"cast": 2}  # and of `only` no two items have the same
    rows = attribute_rows(found, ["i5", "i99"], items, FIRST)
    assert rows.tolist() == [[0, 0], [FIRST + 1, FIRST + 5], [0, 0]]


def test_the_scene_of_the_offer_is_a_key_of_the_candidate() -> None:
    """One user who was three times in one scene, once in another, and once in none; offered in all of them."""
    days = [(0, n, n * DAY, 5.0 if n < 3 else 1.0) for n in range(6)]
    log = log_of(days, 1, 6)
    log = dataclasses.replace(log, scenes=["home", "search"], scene=np.array([0, 0, 0, 1, -1, 0], np.int32))
    spec = spec_of(log)
    assert spec.keys is not None
    assert spec.keys.kinds[-1] == "scene"
    samples, first = samples_of(spec, log, np.array([5])), Layout(spec).offsets[-2]
    for row, count in ((FIRST, 3), (FIRST + 1, 1)):
        keys = dataclasses.replace(samples, scene=np.array([row], np.int32)).batch(np.array([0])).keys
        assert keys is not None
        assert keys.matched_row[0, -1] == first + row
        assert keys.matched[0, -1, 0] == 1.0
        np.testing.assert_allclose(keys.matched[0, -1, 1], np.log1p(count) / 2, rtol=1e-6)
    keys = dataclasses.replace(samples, scene=np.array([UNKNOWN], np.int32)).batch(np.array([0])).keys
    assert keys is not None
    assert keys.matched_row[0, -1] == 0
    assert not keys.matched[0, -1].any()


def test_a_spec_of_before_the_scene_of_the_offer_was_a_key_has_the_layout_that_it_had() -> None:
    log = scened(log_of(random_rows(1, 4, 8), 4, 8))
    spec = spec_of(log)
    old = msgspec.to_builtins(spec)
    del old["keys"]["scene_matched"]
    before = msgspec.convert(old, FeatureSpec)
    slots = [Layout(one).slots for one in (spec, before)]
    assert slots == [[1, 8, 1, 2, 1], [1, 8, 1, 2, 0]]
    keys = samples_of(before, log, np.arange(5)).batch(np.arange(5)).keys
    assert keys is not None
    assert keys.matched_row.shape == (5, 12)


def _only(log, rows):  # type: ignore[no-untyped-def]
    return dataclasses.replace(
        log,
        users=log.users[:1],
        starts=np.array([0, len(rows)]),
        user=log.user[rows] * 0,
        **{name: getattr(log, name)[rows] for name in ("item", "action", "seq", "at", "value")},
        scene=log.scene[rows] if len(log.scene) else log.scene,
    )
