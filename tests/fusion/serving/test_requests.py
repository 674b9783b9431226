"""Pages of pairs keep the order given; one user's items come best first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from fusion.serving.pair_files import read_pairs
from fusion.serving.requests import rank_items, score_pairs
from fusion.serving.score import Scorer, score
from fusion.training.artifact import load_artifact
from interest.errors import InputError


def test_pages_change_neither_the_order_nor_a_score(
    store: Engine, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusion.serving.requests.PAGE", 4)
    loaded = load_artifact(artifact)
    pairs = [(f"u{user}", f"i{item}") for item in (3, 5, 9) for user in (0, 4, 2)] + [("u4", "i3")]
    advanced: list[int] = []
    with store.connect() as connection:
        pages = list(score_pairs(Scorer(loaded), connection, pairs, 1e9, advance=advanced.append))
        whole = score(connection, loaded, pairs, 1e9)
    scored = [one for page in pages for one in page]
    assert [(one.user_id, one.item_id) for one in scored] == pairs
    np.testing.assert_allclose([one.score for one in scored], whole, atol=1e-6)
    assert advanced == [4, 4, 2]


def test_one_users_items_are_ranked(store: Engine, artifact: Path) -> None:
    items = [f"i{item}" for item in range(12)]
    loaded = load_artifact(artifact)
    with store.connect() as connection:
        ranked = rank_items(Scorer(loaded), connection, "u3", items, 1e9)
        scores = dict(zip(items, score(connection, loaded, [("u3", item) for item in items], 1e9), strict=True))
        assert rank_items(Scorer(loaded), connection, "u3", [], 1e9) == []
    assert [one.item_id for one in ranked] == sorted(items, key=lambda item: -scores[item])
    assert {one.user_id for one in ranked} == {"u3"}


def test_pairs_are_read_from_csv_whatever_else_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_bytes(b'\xef\xbb\xbfitem_id,note,user_id\ni2,x,u1\n"a,b",,u2\n')
    assert read_pairs(file) == [("u1", "i2"), ("u2", "a,b")]
    file.write_text("user_id,item_id\nu1,i1\nu1,\n")
    with pytest.raises(InputError, match="line 3: user_id or item_id is empty"):
        read_pairs(file)
    with pytest.raises(InputError, match="cannot read"):
        read_pairs(tmp_path / "nothing.csv")
