"""The common space for others: its products are the match scalar `taste`, and its nearest items are like the liked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sqlalchemy import Engine

from fusion.serving.common_space import CommonSpace
from fusion.serving.score import current_samples
from interest.errors import ArtifactError, InputError
from tests.support.ctr_world import DAY
from tests.support.live_world import ITEMS, artifact_of, fit, world
from tests.support.small_models import DIN


def test_a_product_is_the_match_scalar_that_models_read(store: Engine) -> None:
    log = world(store)
    spec, space = fit(log, store)
    artifact = artifact_of(log, spec, DIN, space)
    items, user = [f"i{number}" for number in range(ITEMS)], log.users[-1]
    with store.connect() as connection:
        pairs = [(user, item) for item in items]
        samples = current_samples(connection, spec, artifact.statistics, pairs, 500 * DAY, space=space)
        found = CommonSpace(artifact).nearest(connection, user, ITEMS, seen=True)
    column = spec.dense.index("place_taste")
    taste = samples.dense[:, column] * spec.dense_std[column] + spec.dense_mean[column]
    products = {one.item_id: one.product for one in found}
    assert [products[item] for item in items if item in products] == pytest.approx(
        [value for item, value in zip(items, taste.tolist(), strict=True) if item in products], abs=1e-5
    )
    assert len(products) > ITEMS / 2
    assert list(products.values()) == sorted(products.values(), reverse=True)
    assert np.ptp(taste) > 0.01


def test_items_that_the_user_has_acted_on_are_left_out_unless_asked_for(store: Engine) -> None:
    log = world(store)
    spec, space = fit(log, store)
    common = CommonSpace(artifact_of(log, spec, DIN, space))
    user = log.users[0]
    own = {log.items[number] for number in log.item[log.user == 0]}
    with store.connect() as connection:
        every = [one.item_id for one in common.nearest(connection, user, ITEMS, seen=True)]
        new = [one.item_id for one in common.nearest(connection, user, ITEMS)]
        assert new == [item for item in every if item not in own]
        assert len(common.nearest(connection, user, 3)) == 3
        with pytest.raises(InputError, match="user nobody has no behaviours"):
            common.nearest(connection, "nobody", 3)


def test_an_artifact_without_a_space_is_refused(store: Engine) -> None:
    log = world(store)
    spec, _ = fit(log)
    with pytest.raises(ArtifactError, match="has no common space; train one without --match no"):
        CommonSpace(dataclasses.replace(artifact_of(log, spec, DIN), space=None))
