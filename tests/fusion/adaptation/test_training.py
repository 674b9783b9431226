"""Packing, masks, training and its resume, the finished folder, and what is refused."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sqlalchemy import Engine
from transformers import AutoModelForCausalLM

from fusion.adaptation import learn as learning
from fusion.adaptation.document import Document, Kind, Piece, dialogue
from fusion.adaptation.encode import IGNORED, Encoded, Encoder, collate, pack
from fusion.adaptation.learn import LENGTHS, TOGETHER, LearnConfig, add_lora, gathered, learn, losses, merged, rate_at
from fusion.adaptation.material import data_digest, default_cut, divide
from fusion.adaptation.record import read_record
from fusion.adaptation.run import AdaptConfig, Source, answers_asked, held_documents
from fusion.features.log import read_log
from interest.errors import ArtifactError, InputError
from interest.llm.gather import open_tokenizer
from interest.llm.int8 import Int8Model
from interest.llm.local import LocalModel
from interest.llm.protocol import Message, Request
from interest.llm.transformers import LOADING
from interest.store.sql import insert_new, writing
from interest.store.tables import behaviors
from streams.fetch.int8 import int8_weights
from tests.support.adapting import ITEMS, adapted, chat_model, films, short, watched
from tests.support.ctr_world import fill, log_of, random_rows
from tests.support.tiny_llm import save_llm

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_model(tmp_path_factory.mktemp("base") / "tiny")


def opened(folder: Path) -> Any:
    with LOADING:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")


def of(size: int, user: str | None = None) -> Encoded:
    return Encoded(Kind.HISTORY, user, np.arange(size, dtype=np.int32) % 200, np.ones(size, bool))


def test_the_loss_is_where_is_asked(base: Path) -> None:
    encoder = Encoder(open_tokenizer(base), 256)
    pieces = (Piece("title: [blank 1]\n\n[blank 1]", asked=False), Piece(" Fargo", asked=True))
    plain = encoder(Document(kind=Kind.ITEM, pieces=pieces))
    chat = encoder(Document(kind=Kind.READING, pieces=dialogue("What?", "That.", system="Be brief"), chat=True))
    assert plain is not None
    assert chat is not None
    read = open_tokenizer(base).decode
    assert read(plain.ids[plain.asked]) == " Fargo<|end|>"
    assert read(chat.ids) == "system: Be brief<|end|>\nuser: What?<|end|>\nassistant: That.<|end|>\n"
    assert read(chat.ids[chat.asked]) == "That.<|end|>\n"
    short_ = Encoder(open_tokenizer(base), 20)(Document(kind=Kind.ITEM, pieces=pieces))
    assert short_ is None  # what is asked for was cut off


@pytest.mark.parametrize("join", [False, True])
def test_no_two_users_share_a_context_unless_told_to(join: bool) -> None:
    rng = np.random.default_rng(0)
    made = [of(int(rng.integers(5, 60)), [None, "a", "b", "c"][int(rng.integers(4))]) for _ in range(300)]
    packed = pack(made, 128, join_users=join)
    assert sorted(id(one) for context in packed for one in context) == sorted(map(id, made))
    assert all(sum(len(one.ids) for one in context) <= 128 for context in packed)
    assert any(len({one.user for one in context}) > 1 for context in packed)  # an item beside a history
    mixed = [context for context in packed if len({one.user for one in context if one.user}) > 1]
    assert bool(mixed) == join
    assert len(packed) < 1.5 * sum(len(one.ids) for one in made) / 128


@torch.no_grad()
def test_packed_documents_do_not_see_each_other(base: Path) -> None:
    model = opened(base)
    documents = [of(size) for size in (9, 23, 14)]
    together, count = losses(model, collate([documents], CPU), low=False)
    alone = sum(losses(model, collate([[one]], CPU), low=False)[0] for one in documents)
    assert count == 9 + 23 + 14 - 3  # nothing predicts a document's first token
    assert float(together) == pytest.approx(float(alone), rel=1e-4)
    batch = collate([documents, documents[:1]], CPU)
    assert batch.labels[1, 9:].tolist() == [IGNORED] * (batch.labels.shape[1] - 9)


def test_passes_in_bfloat16_lose_what_those_in_float32_do(base: Path) -> None:
    """Contexts together, padded to lengths that come again; what pads them is neither seen nor asked for."""
    contexts = [[of(size), of(size + 9)] for size in (9, 23, 41)]
    found, gradients = {}, {}
    for low in (False, True):
        model = opened(base)
        batches = list(gathered(contexts, CPU, low=low))
        assert [len(batch.ids) for batch in batches] == ([TOGETHER, 1] if low else [1, 1, 1])
        assert all(batch.ids.shape[1] % LENGTHS == 0 for batch in batches) == low
        assert sum(batch.tokens for batch in batches) == 2 * (9 + 23 + 41) + 3 * 9
        summed = [losses(model, batch, low=low) for batch in batches]
        sum(loss for loss, _ in summed).backward()
        found[low] = sum(float(loss.detach()) for loss, _ in summed), sum(count for _, count in summed)
        gradients[low] = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    assert found[True][1] == found[False][1] == 2 * (9 + 23 + 41) + 3 * 9 - 6
    assert found[True][0] == pytest.approx(found[False][0], rel=4e-3)  # bfloat16 has 8 bits
    assert gradients[True].dtype == torch.float32
    assert torch.cosine_similarity(gradients[False], gradients[True], dim=0) > 0.99
    padded = collate(contexts, CPU, lengths=LENGTHS)
    together = losses(opened(base), padded, low=False)[0]
    assert float(together.detach()) == pytest.approx(found[False][0], rel=1e-4)


def test_the_rate_rises_then_falls_along_a_cosine() -> None:
    config = LearnConfig(lr=1.0, warm_up=0.1, least=0.1)
    rates = [rate_at(config, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


class _KilledError(BaseException):
    pass


@pytest.mark.parametrize("rank", [0, 4])
def test_killed_and_resumed_is_uninterrupted(base: Path, tmp_path: Path, rank: int, monkeypatch) -> None:
    """Killed after every third step, so that the last two of them are done again."""
    monkeypatch.setattr(learning, "SAVED_SHARE", 1e9)
    rng = np.random.default_rng(1)
    contexts = [
        [Encoded(Kind.ITEM, None, rng.integers(0, 200, 40).astype(np.int32), np.ones(40, bool))] for _ in range(14)
    ]
    config = LearnConfig(batch=2, lr=1e-2, rank=rank)

    def model() -> Any:
        plain = opened(base)
        return add_lora(plain, rank, 0) if rank else plain

    def weights(trained: Any) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in merged(trained).state_dict().items()}

    whole = model()
    began = weights(opened(base))
    learn(whole, contexts, config, folder=tmp_path / "whole", fingerprint="f", save_every_s=0.0)
    real, killed, steps = learning._step, 0, 0

    def step(*arguments: Any) -> float:
        nonlocal steps
        if steps == 3:
            raise _KilledError
        steps += 1
        return real(*arguments)

    monkeypatch.setattr(learning, "_step", step)
    while True:
        steps, again = 0, model()
        try:
            learn(again, contexts, config, folder=tmp_path / "parts", fingerprint="f", save_every_s=0.0)
        except _KilledError:
            killed += 1
        else:
            break
    assert killed == 2
    expected = weights(whole)
    resumed = weights(again)
    assert all(torch.equal(value, resumed[name]) for name, value in expected.items())
    assert any(not torch.equal(value, began[name]) for name, value in expected.items())
    with pytest.raises(ArtifactError, match="other data or settings"):
        learn(model(), contexts, config, folder=tmp_path / "parts", fingerprint="other")


def test_the_first_loss_that_is_not_finite_stops(base: Path, tmp_path: Path) -> None:
    model = opened(base)
    with torch.no_grad():
        model.get_output_embeddings().weight[5] = float("inf")
    before = model.base_model.layers[0].mlp.up_proj.weight.clone()
    with pytest.raises(InputError, match=r"the loss is .* at step 1; no model is written"):
        learn(model, [[of(30)]], LearnConfig(), folder=tmp_path / "out", fingerprint="f")
    assert torch.equal(model.base_model.layers[0].mlp.up_proj.weight, before)
    assert not list((tmp_path / "out").glob("*"))


def test_an_adapted_model_answers_in_process(base: Path, tmp_path: Path, monkeypatch) -> None:
    """Its folder is a checkpoint with tokenizer and record, without what the run worked with; users are not named."""
    monkeypatch.setenv("INTERESTREAM_CACHE", str(tmp_path / "cache"))
    noted: list[Any] = []
    out = tmp_path / "adapted"
    config = short(tokens=12_000, context=512, learn=LearnConfig(batch=2, lr=3e-3))
    record = adapted(base, out, config, note=lambda *told: noted.append(told))
    assert read_record(out) == record
    left = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "adaptation.json"} <= left
    assert not left & {"plan.json", "general.json", "checkpoint.safetensors"}
    assert set(record.tokens) == set(map(str, Kind))
    for kind, share in record.mix.items():
        assert record.tokens[kind] >= share * 12_000
    assert record.after["item"] < 0.5 * record.before["item"]
    assert record.after["history"] < 0.5 * record.before["history"]
    id_, cut, users = noted[0]
    assert (id_, cut, len(users)) == (record.id, record.cut, record.users)
    assert set(users) < set(watched().users)
    assert '"u1"' not in json.dumps(msgspec.to_builtins(record))
    model = LocalModel(out)
    request = Request(messages=(Message("user", "Hello"),), max_tokens=5)
    reply = asyncio.run(model(request))
    assert reply.completion_tokens
    assert model.name != LocalModel(base).name
    int8 = Int8Model(out, int8_weights(out, say=lambda _: None))
    assert asyncio.run(int8(request)).prompt_tokens == reply.prompt_tokens
    said: list[str] = []
    assert adapted(base, out, config, say=said.append) == record  # typed again
    assert "finished already" in said[0]
    for other in (Source(watched(seed=4), films()), Source(watched(), dict(list(films().items())[1:]))):
        with pytest.raises(InputError, match="other data"):
            adapted(base, out, config, other)


def test_what_comes_after_the_cut_is_the_same_data() -> None:
    """A store that goes on while a run is interrupted; not where an earlier behaviour or an item is another."""
    log = watched()
    cut = default_cut(log)
    later = [(30, ITEMS, cut + 5, 4.0), (2, 3, cut + 9, 1.0)]
    more = log_of([*random_rows(3, user_count=30, item_count=ITEMS), *later], 31, ITEMS + 1)
    data = data_digest(log, films(), cut)
    assert data_digest(more, films(), cut) == data
    assert data_digest(more, films(), float(more.at.max()) + 1) != data
    first = np.flatnonzero(log.at < cut)[0]
    other = dataclasses.replace(log, value=np.where(np.arange(log.size) == first, 9, log.value).astype(np.float32))
    assert data_digest(other, films(), cut) != data


def test_a_behaviour_that_gives_items_other_numbers_changes_no_data(store: Engine) -> None:
    """The store's first user meets, after the cut, what only later users had met: all are numbered anew."""
    fill(store, random_rows(3, user_count=30, item_count=ITEMS), 30, ITEMS)
    with store.connect() as connection:
        log = read_log(connection)
    cut = default_cut(log)
    met = {log.items[number] for number in log.item[log.user == 0]}
    late = next(item for item in reversed(log.items) if item not in met)
    row = {"user_id": log.users[0], "seq": 10_000, "item_id": late, "action": "view", "at": cut + 1, "value": 1.0}
    with writing(store) as connection:
        insert_new(connection, behaviors, [row])
        more = read_log(connection)
    assert more.items != log.items
    assert data_digest(more, films(), cut) == data_digest(log, films(), cut)
    for ours, theirs in zip(divide(log, films(), cut, 0), divide(more, films(), cut, 0), strict=True):
        for one, other in ((ours.told, theirs.told), (ours.likes, theirs.likes)):
            assert (one.users, one.items, one.actions) == (other.users, other.items, other.actions)
            assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one.content, other.content, strict=True))


def test_a_short_run_asks_and_measures_less() -> None:
    """Answers of the base model, and documents of perplexity, go with the tokens."""
    config = AdaptConfig(tokens=3_000)
    assert answers_asked(config) < 10
    assert held_documents(config) == 10
    whole = AdaptConfig()
    assert (answers_asked(whole), held_documents(whole)) == (whole.answers, whole.held)
    assert answers_asked(AdaptConfig(mix={Kind.ITEM: 1.0})) == 0


def test_a_cut_before_everything_is_refused_before_anything_is_asked(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing lies before --before"):
        adapted(base, tmp_path / "out", short(before=1.0), shown=lambda *_: pytest.fail("it began"))


def test_an_interrupted_adaptation_goes_on_to_the_same_weights(base: Path, tmp_path: Path, monkeypatch) -> None:
    adapted(base, tmp_path / "whole", short(learn=LearnConfig(rank=2)))
    real, steps = learning._step, 0

    def step(*arguments: Any) -> float:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise _KilledError
        return real(*arguments)

    monkeypatch.setattr(learning, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(learning, "_step", step)
    with pytest.raises(_KilledError):
        adapted(base, tmp_path / "parts", short(learn=LearnConfig(rank=2)))
    assert (tmp_path / "parts" / "plan.json").exists()
    with pytest.raises(InputError, match="other settings"):
        adapted(base, tmp_path / "parts", short(learn=LearnConfig(rank=3)))
    adapted(base, tmp_path / "parts", short(learn=LearnConfig(rank=2)))
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert not [name for name in whole if "lora" in name]
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_what_cannot_be_adapted_is_said(base: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt, not an adaptation"):
        adapted(base, tmp_path / "full")
    other = chat_model(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(InputError, match="is a gpt2 model"):
        adapted(other, tmp_path / "out")
    with pytest.raises(InputError, match="no chat template"):
        adapted(save_llm(tmp_path / "mute"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_budget_of_time_becomes_tokens_or_is_refused(base: Path, tmp_path: Path) -> None:
    """Measuring changes no weight; where the time is enough for all the tokens, all are learnt."""
    with pytest.raises(InputError, match="which teach nothing; give more"):
        adapted(base, tmp_path / "short", short(minutes=1e-6))
    said: list[str] = []
    adapted(base, tmp_path / "long", short(minutes=1e6), say=said.append)
    assert any("tokens a second here: 4,000 tokens in" in line for line in said)
    adapted(base, tmp_path / "all", short())
    long, every = (load_file(tmp_path / name / "model.safetensors") for name in ("long", "all"))
    assert all(torch.equal(value, every[name]) for name, value in long.items())
