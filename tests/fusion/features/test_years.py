"""Release years as match scalars: near years are alike, nothing of the future is read, and without them all stays."""

from __future__ import annotations

import numpy as np
import pytest
from sqlalchemy import Engine

from fusion.features.labels import NEGATIVE, POSITIVE
from fusion.features.match.features import MatchSpec, divided, match_features, trained_numbers
from fusion.features.match.item_vectors import read_item_vectors
from fusion.features.match.years import ANGLES, WIDTH, share_with_year, year_of, year_vectors
from interest.types import Item
from tests.support.command_line import run
from tests.support.ctr_world import RULE, fill, random_rows
from tests.support.match_world import MatchWorld, item_texts

SPEC = MatchSpec(parts=("text", "places", "year"), encoder="e", template="t")


class YearWorld(MatchWorld):
    """Items of even number are from the forties, the others from the nineties; item 0 has no year."""

    def __init__(self, spec: MatchSpec = SPEC) -> None:
        super().__init__(spec=spec)
        catalogue = {
            item: Item(item_id=item, title=f"Item ({1940 + 50 * (at % 2)})")
            for at, item in enumerate(self.log.items)
            if at
        }
        years = year_vectors(self.log.items, catalogue)
        texts = item_texts(len(self.log.items))
        self.text = np.hstack([texts, years]) if "year" in spec.parts else texts


def test_a_year_is_read_from_a_column_or_a_title_and_near_years_are_alike() -> None:
    catalogue = {
        "a": Item(item_id="a", title="Heat (1995)"),
        "b": Item(item_id="b", title="Heat", attributes={"release_year": "1997-01-01"}),
        "c": Item(item_id="c", title="Metropolis (1927)"),
        "d": Item(item_id="d", title="Heat 2", attributes={"year": "0"}),
        "e": Item(item_id="e", title="Heat 3", attributes={"model_year": "95"}),
    }
    assert [year_of(catalogue.get(one)) for one in "abcdex"] == [1995, 1997, 1927, None, None, None]
    assert share_with_year(catalogue) == pytest.approx(0.6)
    whole = year_vectors(list("abcdx"), catalogue)
    assert whole[:, ANGLES] == pytest.approx([-0.1, -0.06, -1.46, 0.0, 0.0])
    vectors = whole[:, :ANGLES]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 0, 0])
    near = vectors @ vectors[0]
    assert near[1] > 0.9
    assert near[2] < 0.3
    products = [
        float(year_vectors(["y"], {"y": Item(item_id="y", title=f"T ({1995 + gap})")})[0, :ANGLES] @ vectors[0])
        for gap in range(18)
    ]
    assert products == sorted(products, reverse=True)


def test_liking_of_near_years_is_told_of_the_candidate_and_unknown_years_say_nothing() -> None:
    world = YearWorld()
    features = world.features(world.fit())
    assert features.shape[1] == len(world.spec.names)
    first = np.flatnonzero(world.log.seq == 0)
    said = [world.spec.names.index(f"year_{name}") for name in ("close", "closest", "lean")]
    assert not features[first][:, said].any()
    without = world.log.item == 0
    assert (world.column(features, "year_known") == ~without).all()
    assert not features[without][:, [*said, -1]].any()
    lean, labels, years = world.column(features, "year_lean"), RULE.labels(world.log), world.text[:, -WIDTH:-1]
    for row in np.flatnonzero(~without & (world.log.seq >= 5))[:50]:
        past = np.flatnonzero((world.log.user == world.log.user[row]) & (world.log.seq < world.log.seq[row]))[-200:]
        near = years[world.log.item[past]] @ years[world.log.item[row]]
        liked, disliked = (max(near[labels[past] == which], default=0.0) for which in (POSITIVE, NEGATIVE))
        assert lean[row] == pytest.approx(liked - disliked, abs=1e-5)


def test_without_years_every_number_is_as_it_was() -> None:
    plain, dated = YearWorld(MatchSpec(parts=("text", "places"), encoder="e", template="t")), YearWorld()
    before, after = plain.features(plain.fit()), dated.features(dated.fit())
    np.testing.assert_array_equal(before, after[:, : before.shape[1]])
    assert plain.spec.names == dated.spec.names[: before.shape[1]]


def test_nothing_of_the_future_is_read() -> None:
    world = YearWorld()
    match, rows = world.fit(), np.flatnonzero(world.log.seq <= 6)
    impressions, past = world.impressions(rows)
    told = {"number": trained_numbers(world.log, world.train), "text": world.text, "training": world.train[rows]}
    before = match_features(match, world.log, RULE, impressions, past, **told)
    later = world.log.seq > 6
    world.log.value[later] = 6.0 - world.log.value[later]
    np.testing.assert_array_equal(before, match_features(match, world.log, RULE, impressions, past, **told))


def test_the_store_gives_years_behind_texts(store: Engine) -> None:
    catalogue = {"a": Item(item_id="a", title="Heat (1995)")}
    with store.connect() as connection:
        alone = read_item_vectors(connection, MatchSpec(parts=("places", "year")), ["a", "b"], catalogue)
        both = read_item_vectors(connection, SPEC, ["a", "b"], catalogue)
        assert read_item_vectors(connection, MatchSpec(parts=("places",)), ["a"], catalogue) is None
    assert alone is not None
    assert both is not None
    np.testing.assert_array_equal(alone, both)  # the store has no vector of a text
    text, year = divided(SPEC, both, 2)
    assert text is not None
    assert (text.shape, year.shape) == ((2, 0), (2, WIDTH))


def test_train_reads_years_and_says_where_there_are_none(store: Engine, tmp_path: object) -> None:
    fill(store, random_rows(5))
    url, out = store.url.render_as_string(hide_password=False), f"{tmp_path}/din"
    given = ("train", "din", "--store", url, "--out", out, "--epochs", 1, "--label", "value>=4", "--min-history", 2)
    both = run(*given, "--year", "--match", "no")
    assert "give one of them" in str(both.exception)
    done = run(*given, "--year")
    assert done.exit_code == 0, done.output
    assert "years: read, of 100% of the catalogue's items" in done.output
    scored = run("score", out, "--store", url, "--user", "u1", "--items", "i1,i2")
    assert scored.exit_code == 0, scored.output
