"""`interestream tune encoder` as a user meets it: the cut, `fuse` with what it made, and `forget` naming it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from fusion.adaptation.tune import read_tuned
from fusion.encoders.sentence import encoder_id
from fusion.tables import adaptation_users, item_vectors
from interest.errors import InputError
from interest.store.tables import behaviors
from tests.support.command_line import output_of, run
from tests.support.ctr_world import fill, random_rows
from tests.support.tiny_encoder import save_encoder


def test_tune_then_fuse_then_forget(store: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERESTREAM_ITEMS_TEMPLATE", "{title}. {categories}")
    fill(store, random_rows(5, user_count=60), 60)
    base, out, url = (
        save_encoder(tmp_path / "tiny"),
        tmp_path / "tuned",
        store.url.render_as_string(hide_password=False),
    )
    given = ("--encoder", base, "--store", url, "--out", out, "--quick", "--before", "1970-05-01")
    said = output_of("tune", "encoder", *given)
    record = read_tuned(out)
    assert record is not None
    assert "mean reciprocal rank of" in said
    assert f"{record.before:.4f} by {record.base}, {record.after:.4f} tuned" in said.replace("\n", "")
    assert record.config.template == "{title}. {categories}"
    with store.connect() as connection:
        before = set(connection.scalars(select(behaviors.c.user_id).where(behaviors.c.at < 120 * 86_400.0)))
        newest = max(connection.scalars(select(behaviors.c.at).where(behaviors.c.at < 120 * 86_400.0)))
        users = set(connection.scalars(select(adaptation_users.c.user_id)))
    assert newest < record.cut <= 120 * 86_400.0
    assert users < before
    assert len(users) == record.users
    assert "nothing is left to do" in output_of("tune", "encoder", *given)

    output_of("fuse", "--store", url, "--encoder", out)
    with store.connect() as connection:
        assert set(connection.scalars(select(item_vectors.c.encoder))) == {encoder_id(out)}
    held = sorted(before - users)[0]
    assert str(out) not in output_of("forget", held, "--yes", "--store", url)
    told = output_of("forget", sorted(users)[0], "--yes", "--store", url).replace("\n", "")
    assert f"{out.resolve()}: this model learnt from the user; make it anew" in told
    again = run("tune", "encoder", *given)
    assert "users were forgotten; give another folder" in str(again.exception)
    assert f"users: {out.resolve()} (1 forgotten since: make it anew)" in output_of("stats", "--store", url)


def test_refusals(store: Engine, tmp_path: Path) -> None:
    url, out = store.url.render_as_string(hide_password=False), tmp_path / "out"
    none = run("tune", "encoder", "--encoder", tmp_path / "nowhere", "--store", url, "--out", out)
    assert isinstance(none.exception, InputError)
    assert "there is no text encoder" in str(none.exception)
    base = save_encoder(tmp_path / "tiny")
    empty = run("tune", "encoder", "--encoder", base, "--store", url, "--out", out)
    assert "no behaviour is in the training part" in str(empty.exception)
    fill(store, random_rows(5, user_count=6), 6)
    few = run("tune", "encoder", "--encoder", base, "--store", url, "--out", out, "--split", "user")
    assert "an encoder is tuned on 10 at least" in str(few.exception)
    assert not out.exists()
