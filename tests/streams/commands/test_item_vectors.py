"""`--item-vectors`: vectors that users bring, from the file to a score, and files that cannot be used."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, delete, update

from fusion.features.modalities import widths_in
from fusion.training.artifact import load_artifact
from interest.errors import InputError
from interest.store.tables import behaviors
from interest.store.tables import items as items_table
from streams.commands.item_vectors import bring_files, drop_vectors
from streams.files.item_vectors import open_vectors
from tests.support.command_line import run
from tests.support.ctr_world import fill, random_rows

OWN = ("--epochs", 2, "--batch-size", 32, "--history", 10, "--interest", "no", "--match", "no")


def vectors(path: Path, items: list[object], rows: list[object]) -> Path:
    pq.write_table(pa.table({"item_id": items, "vector": rows}), path)
    return path


@pytest.fixture
def url(store: Engine) -> str:
    fill(store, random_rows(11))
    with store.begin() as connection:
        for number, scene in enumerate(("home", "search")):
            connection.execute(update(behaviors).where(behaviors.c.seq % 2 == number).values(scene=scene))
    return store.url.render_as_string(hide_password=False)


def test_scenes_and_vectors_are_trained_told_and_scored(url: str, tmp_path: Path) -> None:
    file = vectors(tmp_path / "a.parquet", [f"i{n}" for n in range(0, 40, 2)], [[n, 1.0, -n / 2] for n in range(20)])
    trained = run("train", "din", "--store", url, "--out", tmp_path / "m", *OWN, "--item-vectors", f"image={file}")
    assert trained.exit_code == 0, trained.output
    for told in (
        "20 image vectors of 3 numbers",
        "20 of 36 items of the catalogue have one",
        "modalities of items: image",
        "scene home auc",
        "scene search gauc",
    ):
        assert told in trained.output
    spec = load_artifact(tmp_path / "m").spec
    assert [(one.name, one.width) for one in spec.item_modalities] == [("image", 3)]

    asked = ("score", tmp_path / "m", "--store", url, "--user", "u1", "--items", "i1,i2", "--json")

    def scores(*more: object) -> dict[str, float]:
        found = run(*asked, *more)
        assert found.exit_code == 0, found.output
        return {line["item_id"]: line["score"] for line in map(json.loads, found.stdout.splitlines())}

    assert scores("--scene", "home") != scores("--scene", "search")
    told = run(*asked, "--scene", "moon")
    assert "scored as in an unknown scene: moon (2); the artifact knows home, search" in told.stderr
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("user_id,item_id,scene\nu1,i1,home\nu1,i2,\nu1,i1,moon\n")
    paired = run("score", tmp_path / "m", "--store", url, "--pairs", pairs, "--scene", "search", "--json")
    lines = [json.loads(line)["score"] for line in paired.stdout.splitlines()]
    assert lines[0] == pytest.approx(scores("--scene", "home")["i1"], abs=2e-6)
    assert lines[1] == pytest.approx(scores("--scene", "search")["i2"], abs=2e-6)
    assert "moon (1)" in paired.stderr

    before = scores()
    other = vectors(tmp_path / "b.parquet", ["i1"], [[9.0, -9.0, 9.0]])
    more = ("--store", url, "--out", tmp_path / "n", *OWN, "--modality", "image", "--item-vectors", f"image={other}")
    assert run("train", "din", *more).exit_code == 0
    after = scores()
    assert after["i1"] != before["i1"]
    assert after["i2"] == before["i2"]


def test_a_modality_that_is_not_there_is_told(url: str, tmp_path: Path) -> None:
    for name, told in (
        ("image", "the store has no such vectors of items; it has none. Bring them with --item-vectors image=FILE"),
        ("text", "the store has no vectors of items' texts; `interestream fuse` makes them"),
    ):
        result = run("train", "din", "--store", url, "--out", tmp_path / "m", *OWN, "--modality", name)
        assert isinstance(result.exception, InputError)
        assert told in str(result.exception)


@pytest.mark.parametrize(
    ("items", "rows", "told"),
    [
        (["a", "b"], [[1.0, 2.0], [1.0]], "row 2: the vector of item 'b' has 1 numbers and the first row's 2"),
        (["a", ""], [[1.0], [1.0]], "row 2: item_id is empty"),
        (["a", "b"], [[1.0], [float("nan")]], "row 2: the vector of item 'b' has a number that is not finite"),
        (["a", "b"], [[1.0], [1e6]], "above 65,504; scale the vectors"),
        (["a", "b"], [[1.0], [1e-9]], "row 2: the vector of item 'b' has no number above 6e-05"),
        (["a", "b"], [[1.0], [None]], "row 2: the vector of item 'b' has an empty number"),
        (["a"], [None], "column vector is null"),
        (["a"], ["1 2"], "column vector is string; it must be a list of numbers"),
        ([1.5], [[1.0]], "column item_id is double"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_with_its_place(
    tmp_path: Path, items: list[object], rows: list[object], told: str
) -> None:
    file = vectors(tmp_path / "v.parquet", items, rows)
    with pytest.raises(InputError, match=r"v\.parquet") as refused:
        list(open_vectors(f"image={file}").chunks())
    assert told in str(refused.value)


def test_rows_without_a_vector_are_items_without_one_and_the_later_of_two_rows_counts(tmp_path: Path) -> None:
    file = vectors(tmp_path / "v.parquet", ["a", "b", "a"], [[1.0], None, [2.0]])
    opened = open_vectors(f"image={file}")
    ((ids, found),) = opened.chunks()
    assert (opened.width, ids, found.tolist()) == (1, ["a"], [[2.0]])
    assert opened.found().repeated == 1


def test_a_file_of_other_items_or_of_another_width_leaves_the_store_as_it_was(
    url: str, store: Engine, tmp_path: Path
) -> None:
    other = vectors(tmp_path / "other.parquet", ["x1", "x2"], [[1.0], [2.0]])
    bad = vectors(tmp_path / "bad.parquet", ["i1", *["i2"] * 3_000, "i3"], [*[[1.0]] * 3_001, [float("nan")]])
    for file, told in (
        (other, "names no item of the store's catalogue: it has x1, x2, the catalogue i0"),
        (bad, "3002"),
    ):
        with pytest.raises(InputError, match=told):
            bring_files(store, [f"image={file}"])
        with store.connect() as connection:
            assert widths_in(connection) == {}
    narrow = vectors(tmp_path / "narrow.parquet", ["i1", "x1"], [[1.0], [2.0]])
    bring_files(store, [f"image={narrow}"])
    wide = vectors(tmp_path / "wide.parquet", ["i1"], [[1.0, 2.0]])
    with pytest.raises(InputError, match="remove the store's with `fuse --drop-item-vectors image`"):
        bring_files(store, [f"image={wide}"])
    drop_vectors(store, ["image"])
    bring_files(store, [f"image={wide}"])
    with store.connect() as connection:
        assert widths_in(connection) == {"image": 2}
    with pytest.raises(InputError, match=r"--drop-item-vectors sound: .* it has image"):
        drop_vectors(store, ["sound"])


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([[1.0, 2.0]] * 4, "warning: .*v.parquet: all vectors are the same"),
        ([[1.0, 2.0], [0.0, 0.0], [1.0, 3.0], [1.0, 1.0]], "warning: .*1 of 4 vectors are 0; leave out those"),
        ([[1.0, 2.0], [0.5, 0.0], [1.0, 3.0], [1.0, 1.0]], ""),
        ([[1.0, 2.0], [0.5, 0.0], [1.0, 3.0], [1.0, 1.0], [2.0, 2.0]], "warning: .*1 rows are of items that a later"),
    ],
)
def test_vectors_that_tell_no_items_apart_are_warned_of(
    url: str, store: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[object], told: str
) -> None:
    file = vectors(tmp_path / "v.parquet", [f"i{number % 4}" for number in range(len(rows))], rows)
    bring_files(store, [f"image={file}"])
    shown = capsys.readouterr()
    assert "4 of 36 items of the catalogue have one" in shown.out
    assert re.search(told, shown.err)
    assert ("warning" in shown.err) == bool(told)


def test_vectors_of_a_log_without_a_catalogue_are_measured_by_the_log(
    url: str, store: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with store.begin() as connection:
        connection.execute(delete(items_table))
    bring_files(store, [f"image={vectors(tmp_path / 'v.parquet', ['i1', 'x'], [[1.0], [2.0]])}"])
    assert "1 of 40 items of the log have one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("images.parquet", "is not NAME=FILE.parquet"),
        ("text=a.parquet", "take another"),
        ("image=/nowhere.parquet", "cannot read /nowhere.parquet"),
    ],
)
def test_an_option_that_names_no_file_of_vectors_is_told(given: str, told: str) -> None:
    with pytest.raises(InputError) as refused:
        open_vectors(given)
    assert told in str(refused.value)
