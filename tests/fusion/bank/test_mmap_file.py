"""A bank's memory-mapped file: it is the bank, and exports at once, killed ones and removed ones harm nobody."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Connection, Engine, event

from fusion.bank import vectors as bank
from fusion.bank.mmap_file import ABANDONED_S, BankFile, open_bank_file
from fusion.bank.vectors import fill
from fusion.encoders.split_llm import LowerLayers, open_lower_layers, recipe_of
from fusion.tables import bank_vectors
from interest.errors import ArtifactError
from interest.store.sql import insert_new, writing
from streams.store.engine import open_store
from tests.support.bank_world import TEXTS, read_held


@pytest.fixture(scope="module")
def lower(llm: Path) -> LowerLayers:
    return open_lower_layers(llm, recipe_of(llm, 2))


def test_a_mapped_bank_is_the_bank(store: Engine, lower: LowerLayers, tmp_path: Path) -> None:
    fill(store, lower, TEXTS)
    keys = lower.recipe.keys(TEXTS)
    with store.connect() as connection:
        file = open_bank_file(connection, lower.recipe.id, keys, tmp_path)
        assert isinstance(file.vectors, np.memmap)
        assert file.vectors.dtype == np.float16
        found = read_held(store, lower.recipe, TEXTS)
        np.testing.assert_array_equal(file.vectors[file.find(keys)], np.stack([found[text] for text in TEXTS]))
        assert file.find(lower.recipe.keys(["never", "seen"])).tolist() == [-1, -1]
        written: list[int] = []
        again = open_bank_file(connection, lower.recipe.id, keys[:5], tmp_path, written.append)
        assert len(again.keys) == len(TEXTS)
        assert not written  # vectors never change
    fill(store, lower, [*TEXTS, "new"])
    more = [*keys, *lower.recipe.keys(["new"])]
    with store.connect() as connection:
        wider = open_bank_file(connection, lower.recipe.id, more, tmp_path)
        assert len(wider.keys) == 31
        assert (wider.find(more) >= 0).all()
        np.testing.assert_array_equal(file.vectors[file.find(keys)], wider.vectors[wider.find(keys)])
        assert len(list((tmp_path / lower.recipe.id).iterdir())) == 1
        with pytest.raises(ArtifactError, match="lacks 1 of 1 vectors"):
            open_bank_file(connection, lower.recipe.id, lower.recipe.keys(["never"]), tmp_path)
        with pytest.raises(ArtifactError, match="is empty"):
            open_bank_file(connection, "another", keys, tmp_path)


def test_what_is_added_while_a_bank_is_mapped_pushes_nothing_out(url: str, lower: LowerLayers, tmp_path: Path) -> None:
    """Another process writes after each of the export's queries, in the order of keys before all others."""
    engine, other = open_store(url), open_store(url)
    fill(engine, lower, TEXTS)
    added: list[bytes] = []

    def add(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if "bank_vectors" in statement:
            added.append(bytes(15) + bytes([len(added)]))
            row = {"bank": lower.recipe.id, "key": added[-1], "vector": np.zeros(lower.width, "<f2").tobytes()}
            with writing(other) as connection:
                insert_new(connection, bank_vectors, [row])

    event.listen(engine, "after_cursor_execute", add)
    keys = lower.recipe.keys(TEXTS)
    with engine.connect() as connection:
        file = open_bank_file(connection, lower.recipe.id, keys, tmp_path)
    assert added
    found = read_held(other, lower.recipe, TEXTS)
    np.testing.assert_array_equal(file.vectors[file.find(keys)], np.stack([found[text] for text in TEXTS]))
    engine.dispose()
    other.dispose()


def test_what_a_killed_export_left_is_neither_read_nor_kept(store: Engine, lower: LowerLayers, tmp_path: Path) -> None:
    fill(store, lower, TEXTS)
    keys, folder = lower.recipe.keys(TEXTS), tmp_path / lower.recipe.id
    with store.connect() as connection:
        open_bank_file(connection, lower.recipe.id, keys, tmp_path)
    (place,) = folder.iterdir()
    np.save(place / "vectors.npy", np.zeros((len(TEXTS), lower.width), "<f2"))
    shutil.copytree(place, folder / ".dead")
    for path in (*(folder / ".dead").iterdir(), folder / ".dead"):
        os.utime(path, (time.time() - 2 * ABANDONED_S,) * 2)
    place.rename(folder / ".at_work")
    with store.connect() as connection:
        file = open_bank_file(connection, lower.recipe.id, keys, tmp_path)
    assert (np.abs(file.vectors).max(axis=1) > 0).all()
    assert sorted(path.name for path in folder.iterdir()) == [".at_work", place.name]


def test_keys_are_told_apart_to_the_last_byte(store: Engine, lower: LowerLayers, tmp_path: Path) -> None:
    """Keys may end in zeros, which numpy's byte strings do not show."""
    bank.register(store, lower.recipe, lower.width)
    ends = [bytes(15) + bytes([last]) for last in range(3)] + [bytes(14) + b"\1\0", bytes(14) + b"\1\1"]
    rows = [
        {"bank": lower.recipe.id, "key": key, "vector": np.full(lower.width, n, "<f2").tobytes()}
        for n, key in enumerate(ends)
    ]
    with store.begin() as connection:
        insert_new(connection, bank_vectors, rows)
    with store.connect() as connection:
        file = open_bank_file(connection, lower.recipe.id, ends, tmp_path)
    assert [float(file.vectors[row][0]) for row in file.find(ends)] == [0.0, 1.0, 2.0, 3.0, 4.0]


def mapped(store: Engine, lower: LowerLayers, texts: list[str], folder: Path) -> BankFile:
    with store.connect() as connection:
        return open_bank_file(connection, lower.recipe.id, lower.recipe.keys(texts), folder)


def check(file: BankFile, store: Engine, lower: LowerLayers, texts: list[str]) -> None:
    """Right to the last bit, also where the files have been removed since."""
    found = read_held(store, lower.recipe, texts)
    np.testing.assert_array_equal(
        file.vectors[file.find(lower.recipe.keys(texts))], np.stack([found[text] for text in texts])
    )


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("more", [[], ["new"]])
def test_an_export_that_ends_while_another_is_moved_to_its_place_harms_neither(
    store: Engine, lower: LowerLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, more: list[str]
) -> None:
    fill(store, lower, TEXTS)
    rename, inner = Path.rename, list[BankFile]()

    def meanwhile() -> None:
        if not inner:
            inner.append(BankFile(np.empty(0), np.empty(0)))
            fill(store, lower, more)
            inner[0] = mapped(store, lower, [*TEXTS, *more], tmp_path)

    def renamed(own: Path, target: Path) -> Path:
        if when == "before":
            meanwhile()
        out = rename(own, target)
        if when == "after":
            meanwhile()
        return out

    monkeypatch.setattr(Path, "rename", renamed)
    outer = mapped(store, lower, TEXTS, tmp_path)
    check(outer, store, lower, TEXTS)
    check(inner[0], store, lower, [*TEXTS, *more])
    check(mapped(store, lower, [*TEXTS, *more], tmp_path), store, lower, [*TEXTS, *more])
    assert len(list((tmp_path / lower.recipe.id).iterdir())) == 1


def test_many_exports_at_once_while_the_bank_grows(url: str, lower: LowerLayers, tmp_path: Path) -> None:
    engine = open_store(url)
    fill(engine, lower, TEXTS)

    def work(worker: int) -> None:
        texts = list(TEXTS)
        for turn in range(8):
            texts.append(f"worker {worker}, {turn}")
            fill(engine, lower, texts)
            check(mapped(engine, lower, texts, tmp_path), engine, lower, texts)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    engine.dispose()


@pytest.mark.parametrize("lost", ["keys.npy", "vectors.npy"])
def test_a_folder_that_lacks_a_file_is_written_anew(
    store: Engine, lower: LowerLayers, tmp_path: Path, lost: str
) -> None:
    fill(store, lower, TEXTS)
    mapped(store, lower, TEXTS, tmp_path)
    (place,) = (tmp_path / lower.recipe.id).iterdir()
    (place / lost).unlink()
    check(mapped(store, lower, TEXTS, tmp_path), store, lower, TEXTS)
    assert sorted(path.name for path in place.iterdir()) == ["keys.npy", "vectors.npy"]
