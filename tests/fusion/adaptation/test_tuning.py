"""Tuning a sentence encoder: it learns what is planted, goes on to the same weights, and opens like any encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusion.adaptation import tuner as tuning
from fusion.adaptation.co_liked import CoLiked, co_liked
from fusion.adaptation.tune import Tuned, read_tuned, tune
from fusion.adaptation.tuner import TuneConfig, loss_of
from fusion.encoders.sentence import encoder_id, open_encoder
from interest.errors import ArtifactError, InputError
from tests.support.tiny_encoder import colour_log, save_encoder, texts

CONFIG = TuneConfig(steps=40, batch=16, lr=3e-3, layers=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("base") / "tiny")


def data() -> CoLiked:
    log = colour_log()
    return co_liked(log, np.ones(log.size, bool), texts(), 0)


def tuned(base: Path, out: Path, config: TuneConfig = CONFIG, **more: Any) -> Tuned:
    quiet: dict[str, Any] = {"shown": lambda *_: nullcontext(lambda _: None), "say": lambda _: None}
    return tune(data(), 1.0, base, out, config, **(quiet | more))


class StoppedError(Exception):
    pass


def stopping(after: int) -> Callable[..., Any]:
    """A progress bar that ends the run after so many steps."""

    @contextmanager
    def shown(title: str, _total: int, _unit: str, done: int) -> Iterator[Callable[[int], None]]:
        steps = [done]

        def advance(count: int) -> None:
            steps[0] += count
            if title == "Tuning" and steps[0] == after:
                raise StoppedError

        yield advance

    return shown


def test_texts_that_the_same_users_like_come_close(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    record = tuned(base, out)
    assert record.before is not None
    assert record.after is not None
    assert record.after > 1.5 * record.before
    vectors = {name: open_encoder(folder, device="cpu")(texts()) for name, folder in (("base", base), ("tuned", out))}
    alike = np.add.outer(np.arange(48), -np.arange(48)) % 4 == 0
    apart = {name: own @ own.T for name, own in vectors.items()}
    gaps = {name: own[alike & ~np.eye(48, dtype=bool)].mean() - own[~alike].mean() for name, own in apart.items()}
    assert gaps["tuned"] > gaps["base"] + 0.3
    assert encoder_id(out) != encoder_id(base)
    assert read_tuned(out) == record
    assert sorted(path.name for path in out.glob("*.safetensors")) == ["model.safetensors"]


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "SAVE_EVERY_S", 0.0)
    config = TuneConfig(steps=8, batch=8, lr=1e-3, layers=1)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = tuned(base, whole, config)
    noted: list[str] = []
    with pytest.raises(StoppedError):
        tuned(base, parts, config, shown=stopping(5), note=lambda id_, _: noted.append(id_))
    assert read_tuned(parts) is None
    assert tuned(base, parts, config) == expected
    assert noted == [expected.id]
    assert encoder_id(parts).split("@")[1] == encoder_id(whole).split("@")[1]


def test_refusals(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tuned(base, out, TuneConfig(steps=1, batch=4, layers=1))
    with pytest.raises(InputError, match="by other settings"):
        tuned(base, out, TuneConfig(steps=2, batch=4, layers=1))
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt, not a tuned encoder"):
        tuned(base, full)
    with pytest.raises(InputError, match="an encoder like BERT"):
        tuned(save_encoder(tmp_path / "other", kind="distilbert"), tmp_path / "new")
    with pytest.raises(InputError, match="--layers"):
        tuned(base, tmp_path / "new", TuneConfig(layers=3))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        tuned(tmp_path / "broken", tmp_path / "new")


def test_what_a_user_liked_as_well_is_not_a_negative() -> None:
    rng = torch.Generator().manual_seed(0)
    first, second = (torch.nn.functional.normalize(torch.randn(4, 8, generator=rng), dim=-1) for _ in range(2))
    liked = torch.zeros((4, 4), dtype=torch.bool)
    liked[0, 1:] = True  # nothing is left to confuse the first pair with, one way
    scores = tuning.SCALE * first @ second.T
    rest = torch.stack([scores[row, row] - scores[row].logsumexp(0) for row in (1, 2, 3)]).sum()
    back = torch.stack([scores[row, row] - scores[(~liked)[:, row], row].logsumexp(0) for row in range(4)]).sum()
    assert float(loss_of(first, second, liked)) == pytest.approx(float(-(rest + back) / 8), abs=1e-5)
