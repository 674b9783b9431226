"""The text encoder, the real one: laws of padding and batching, and what it refuses."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.encoders.sentence import LENGTH_STEP, batches, encoder_id, open_encoder
from interest.errors import ArtifactError, InputError

pytest.importorskip("torch")

TEXTS = [
    "This user likes war films.",
    "Mostly dramas from the 1990s, rated high; thrillers are rated lower than in the period before.",
    "Comedy",
    "The interest moved from science fiction towards romance. " * 6,
    "They enjoy battle and military movies.",
    "She cooks pasta at home on Sundays.",
    "Drama " * 40,
    "Film noir and mystery, often by the same director.",
    "A taste for musicals.",
    "Animation for children, seen in the evening.",
]


@pytest.fixture(scope="module")
def encoder(encoder_folder):
    return open_encoder(encoder_folder, device="cpu")


def test_vectors_have_length_one_and_order_is_kept(encoder):
    done: list[int] = []
    vectors = encoder(TEXTS, done.append)
    assert vectors.shape == (len(TEXTS), encoder.width)
    assert sum(done) == len(TEXTS)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert encoder([]).shape == (0, encoder.width)


def test_a_text_has_one_vector_whatever_it_is_encoded_with(encoder):
    """Alone, in a batch, in another order: the same bytes. A store filled in two runs depends on it."""
    together = encoder(TEXTS)
    assert encoder(TEXTS[::-1])[::-1].tobytes() == together.tobytes()
    for text, vector in zip(TEXTS, together, strict=True):
        assert encoder([text])[0].tobytes() == vector.tobytes()


def test_padding_changes_nothing(encoder):
    """Against the model run on the text's own tokens, without any padding."""
    import torch

    for text, vector in zip(TEXTS, encoder(TEXTS), strict=True):
        tokens = torch.tensor([encoder._tokenizer(text, truncation=True, max_length=encoder.max_tokens)["input_ids"]])
        with torch.inference_mode():
            states = encoder._model(input_ids=tokens).last_hidden_state[0]
        mean = states.mean(0)
        assert np.allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)


def test_near_in_meaning_is_near_in_space(encoder):
    war, battle, pasta = encoder([TEXTS[0], TEXTS[4], TEXTS[5]])
    assert war @ battle > 0.6
    assert war @ pasta < 0.3


def test_longer_than_it_can_take_is_cut(encoder):
    longest = encoder(["word " * 5000])
    assert np.isfinite(longest).all()
    assert encoder.max_tokens == 256  # what MiniLM was trained with, by its own file


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_refused(encoder, text):
    with pytest.raises(ValueError, match="text 1 of 2 is empty"):
        encoder(["fine", text])


def test_bfloat16_is_near_and_has_another_id(encoder, encoder_folder):
    other = open_encoder(encoder_folder, precision="bfloat16", device="cpu")
    assert other.id == encoder.id + "+bfloat16"
    assert (encoder(TEXTS) * other(TEXTS)).sum(axis=1).min() > 0.99


def test_the_id_is_the_name_and_the_weights(encoder, encoder_folder, tmp_path):
    assert encoder.id == "all-minilm-l6-v2@53aa51172d14"
    copy = tmp_path / "mine"
    copy.mkdir()
    shutil.copy(encoder_folder / "model.safetensors", copy)
    assert encoder_id(copy) == "mine@53aa51172d14"
    with (copy / "model.safetensors").open("ab") as file:
        file.write(b"x")
    assert encoder_id(copy) != "mine@53aa51172d14"


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(InputError, match="interestream fetch encoder"):
        open_encoder(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="cannot be loaded as a text encoder"):
        open_encoder(tmp_path)


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 9))
def test_batches_hold_every_text_once_at_its_own_padded_length(lengths, rows):
    made = list(batches(lengths, rows, 256))
    assert sorted(position for _, batch in made for position in batch) == list(range(len(lengths)))
    for length, batch in made:
        assert len(batch) <= rows
        for position in batch:
            assert length == 256 or length - LENGTH_STEP < lengths[position] <= length
