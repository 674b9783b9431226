"""That documents of a kind tell of everybody and everything they are made of, and that what they teach is right."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from fusion.adaptation.encode import Encoder
from fusion.adaptation.general import sample_general, up_to_a_sentence
from fusion.adaptation.histories import history_documents
from fusion.adaptation.items import item_documents
from fusion.adaptation.material import default_cut, divide
from fusion.adaptation.reading import QUESTIONS, Row, rows_of
from fusion.adaptation.related import related_documents, similarity
from interest.llm.gather import open_tokenizer
from interest.llm.transformers import load_whole
from interest.types import Item
from interest.write.escape import Escape
from tests.support.adapting import END, chat_model, films, watched
from tests.support.ctr_world import log_of

ESCAPE = Escape([END])


def test_a_short_run_reads_histories_of_most_users() -> None:
    log = log_of([(user, at % 40, float(at), 5.0) for user in range(20) for at in range(320)], 20, 40)
    catalogue = {item_id: Item(item_id=item_id, title=f"T{item_id}") for item_id in log.items}
    learnt, _ = divide(log, catalogue, 1e9, 0)
    told = {one.user for one in islice(history_documents(learnt, ESCAPE, 0, 0), 20)}
    assert len(told) >= 10  # of pieces that came one user after the other it would be one or two


@pytest.mark.parametrize("fields", range(2, 10))
def test_every_field_is_hidden_in_its_turn(fields: int) -> None:
    attributes = {f"a{number}": "word" for number in range(fields - 2)}
    catalogue = {
        str(key): Item(item_id=str(key), title="word", categories=("word",), attributes=attributes) for key in range(6)
    }
    hidden = Counter[str]()
    for passed in range(60):
        for one in item_documents(catalogue, ESCAPE, passed, 0, {}):
            hidden.update(
                line.partition(":")[0] for line in one.pieces[0].text.splitlines() if line.endswith("[blank 1]")
            )
    assert len(hidden) == fields
    assert max(hidden.values()) <= 1.5 * min(hidden.values())


def test_a_question_which_has_a_value_offers_none_that_has_it_beside_another() -> None:
    languages = ["English", "English|Français", "Français|English", "Deutsch", "Italiano", "Deutsch|Italiano"]
    rows = rows_of(
        {
            str(n): Item(item_id=str(n), title=f"T{n}", attributes={"languages": text})
            for n, text in enumerate(languages)
        },
        ESCAPE,
    )
    rng, asked = np.random.default_rng(0), 0
    (which_has,) = [question for question in QUESTIONS if question.__name__ == "_which_has"]
    for row in rows * 20:
        pair = which_has(row, rows, rng, "film")
        if pair is None:
            continue
        asked += 1
        offered = pair[0].rpartition(": ")[2]
        right = [one.title for one in rows if f'"{one.title}"' in offered and _has(one, row)]
        assert right == [row.title]
    assert asked > 50


def _has(one: Row, asked: Row) -> bool:
    return set(asked.attributes["languages"].split(", ")) <= set(one.attributes["languages"].split(", "))


def test_an_answer_that_was_cut_off_ends_with_its_last_sentence() -> None:
    assert up_to_a_sentence('It rose. "Why?" she said. Then numbers began to') == 'It rose. "Why?" she said.'
    assert up_to_a_sentence("Pi is 3.14 and goes on") == ""


def test_a_model_that_knows_no_end_of_a_turn_is_asked_too(tmp_path: Path) -> None:
    """All that it says is cut off; nothing is taken for whole."""
    folder = chat_model(tmp_path)
    model, tokenizer = load_whole(AutoModelForCausalLM, folder), open_tokenizer(folder)
    model.generation_config.eos_token_id = tokenizer.eos_token = None
    for _, answer in sample_general(model, tokenizer, 2, 0, tmp_path):
        assert up_to_a_sentence(answer) == answer


def test_related_items_are_told_whole(tmp_path: Path) -> None:
    learnt, _ = divide(watched(), films(), default_cut(watched()), 0)
    encoder = Encoder(open_tokenizer(chat_model(tmp_path)), 256)
    common = similarity(learnt.likes, learnt.liked)
    made = list(related_documents(learnt, common, ESCAPE, 0, 0, fits=encoder.fits))
    longer = list(related_documents(learnt, common, ESCAPE, 0, 0))
    assert any(not encoder.fits(one.text) for one in longer)
    assert all(encoder.fits(one.text) for one in made if one.text.count("title: ") > 2)
    assert sum(one.text.count("title: ") for one in made) >= 0.9 * sum(one.text.count("title: ") for one in longer)


def test_an_item_under_two_ids_is_on_one_side() -> None:
    catalogue = {
        f"{number}{copy}": Item(item_id=f"{number}{copy}", title=f"T{number}") for number in range(60) for copy in "ab"
    }
    learnt, held = divide(watched(), catalogue, default_cut(watched()), 0)
    assert held.catalogue
    titles = [{item.title for item in side.catalogue.values()} for side in (learnt, held)]
    assert not titles[0] & titles[1]


def test_liking_is_beside_all_that_a_user_did_before_the_cut_on_either_side() -> None:
    rows = [(user, item, float(item), 5.0 if item < 20 else 1.0) for user in range(40) for item in range(40)]
    log = log_of(rows, 40, 40)
    catalogue = {item_id: Item(item_id=item_id, title=f"T{item_id}") for item_id in log.items}
    for side in divide(log, catalogue, 1e9, 0):
        np.testing.assert_array_equal(side.liked, side.likes.value > 3)
    cut_off = divide(dataclasses.replace(log, value=np.where(log.at >= 30, 5.0, log.value)), catalogue, 30.0, 0)
    np.testing.assert_array_equal(cut_off[0].liked, cut_off[0].likes.value > 3)
