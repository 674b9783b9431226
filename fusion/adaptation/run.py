"""One adaptation from a base model and a store's rows to a folder: documents, packing, training, measures, the record.

Interrupted at any point, the same call goes on: what the base model said, its perplexities and the plan are kept in the
folder, and training goes on from its last checkpoint to the same weights.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from fusion.adaptation.document import Kind
from fusion.adaptation.encode import Encoded, Encoder, pack
from fusion.adaptation.facts import rates_of
from fusion.adaptation.general import general_documents, sample_general
from fusion.adaptation.learn import LearnConfig, add_lora, learn, low_precision, merged, perplexities, speed
from fusion.adaptation.material import Material, data_digest, default_cut, digest_of, divide, learnt_users
from fusion.adaptation.mixture import MIX, Filled, fill, first_of, makers_of
from fusion.adaptation.record import (
    Plan,
    Record,
    check_data,
    check_folder,
    hash_weights,
    read_plan,
    read_record,
    request_of,
    write_plan,
    write_record,
)
from fusion.adaptation.teacher import AMONG, Taught, Teacher, read_taught, teach, write_taught
from fusion.encoders.causal_lm import check_weights
from fusion.features.log import Log
from interest.errors import ArtifactError, InputError
from interest.llm.gather import open_tokenizer
from interest.llm.transformers import load_whole
from interest.types import Item
from interest.write.escape import Escape
from interest.write.prompts import Style

FAMILY = ("llama", "mistral", "qwen2", "qwen3")  # what shares Llama's decoder
OF_MINUTES = 0.75  # of a budget of time that training may take; the rest is for measuring and writing
HELD_GENERAL = 0.2  # share of the base model's answers that is not learnt
AN_ANSWER = 100  # tokens of one of these, question and all; most have more
LEAST_ANSWERS, LEAST_HELD = 8, 10
LEAST_TOKENS = 2_000
CPU = torch.device("cpu")
Shown = Callable[[str, int | None, str, int], AbstractContextManager[Callable[[int], None]]]
"""A job's progress: title, how much there is, its unit, how much of it an earlier run did."""


class AdaptConfig(msgspec.Struct, frozen=True, kw_only=True):
    tokens: int = 300_000  # learnt, all kinds together
    minutes: float | None = None  # given: as many tokens as that takes here, of `tokens` at most
    mix: dict[Kind, float] = msgspec.field(default_factory=lambda: dict(MIX))
    context: int = 512  # tokens
    answers: int = 120  # of the base model's own, replayed and held out; at most
    held: int = 60  # documents of each kind that perplexity is measured on; at most
    join_users: bool = False  # whether two users' histories may share a context
    before: float | None = None  # event time of the cut; None: the split's
    noun: tuple[str, str] = ("title", "titles")
    learn: LearnConfig = LearnConfig()


@dataclass(frozen=True, slots=True)
class Source:
    """What is learnt from, and what the store is called in the record."""

    log: Log
    catalogue: Mapping[str, Item]
    store: str = ""


def check_base(folder: Path) -> None:
    """Raises InputError or ArtifactError where the folder is not a Llama-family causal model with a chat template."""
    open_tokenizer(folder)
    try:
        config = msgspec.json.decode((folder / "config.json").read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtifactError(f"{folder / 'config.json'} cannot be read ({error})") from None
    kind = config.get("model_type")
    if kind not in FAMILY:
        raise InputError(
            f"--llm {folder} is a {kind} model; `adapt` trains causal models of Llama's family: {', '.join(FAMILY)}"
        )
    check_weights(folder)


def adapt(
    source: Source,
    base: Path,
    out: Path,
    config: AdaptConfig,
    *,
    shown: Shown,
    say: Callable[[str], None],
    note: Callable[[str, float, Sequence[str]], None] = lambda *_: None,
    device: torch.device = CPU,
    teacher: Teacher | None = None,
) -> Record:
    """Adapt the model of `base` into the folder `out`; of a run that is finished already, its record.

    note: is told the run's id, its cut and the users it learns from, before it learns.
    teacher: whose summaries of items are learnt too; it is asked once, and they are kept in the folder until the end.
    Raises InputError and ArtifactError for what cannot be adapted, learnt from or written to.
    """
    check_base(base)
    if not source.catalogue:
        raise InputError("there is no catalogue: give the items with --items, or replay a log with --items first")
    base_hash = hash_weights(base)
    request = request_of(config, base_hash, teacher.key if teacher else "")
    done, plan = _held_in(out, request, source, config)
    if done:
        say(f"{out} is finished already; nothing is left to do")
        return done
    tokenizer = open_tokenizer(base)
    cut = plan.cut
    learnt, held = divide(source.log, source.catalogue, cut, config.learn.seed)
    users = learnt_users(learnt.likes)
    model = _open(base, device)
    encoder = Encoder(tokenizer, min(config.context, int(model.config.max_position_embeddings)))
    out.mkdir(parents=True, exist_ok=True)
    write_plan(out, plan)
    escape = Escape(special_tokens(tokenizer))
    replayed, kept = _general(model, tokenizer, config, out, shown)
    taught = _taught(teacher, learnt, out, config, say) if teacher else None
    style, rates = Style(noun=config.noun), rates_of(learnt, escape)
    ours = general_documents(replayed)
    makers = makers_of(learnt, escape, config.learn.seed, ours, style, rates, taught, encoder.fits)
    if not plan.tokens:
        plan = msgspec.structs.replace(plan, tokens=_affordable(model, makers, encoder, config, say))
        write_plan(out, plan)
    filled = fill(makers, config.mix, plan.tokens, encoder, config.learn.seed)
    _tell(filled, plan, say)
    held_makers = makers_of(held, escape, config.learn.seed, general_documents(kept), style, rates, fits=encoder.fits)
    measured = {kind.value: first_of(held_makers, kind, encoder, held_documents(config)) for kind in Kind}
    count = sum(map(len, measured.values()))
    if not plan.before:
        with shown("Perplexity before", count, "documents", 0) as advance:
            plan = msgspec.structs.replace(plan, before=perplexities(model, measured, advance))
        write_plan(out, plan)

    contexts = pack(filled.documents, encoder.context, join_users=config.join_users)
    if config.learn.rank:
        model = add_lora(model, config.learn.rank, config.learn.seed)
    note(request, cut, users)
    learn(
        model,
        contexts,
        config.learn,
        folder=out,
        fingerprint=fingerprint_of(request, contexts),
        shown=lambda total, done: shown("Adapting", total, "tokens", done),
    )
    model = merged(model)
    with shown("Perplexity after", count, "documents", 0) as advance:
        after = perplexities(model, measured, advance)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    record = Record(
        id=request, base=base.name, base_hash=base_hash, store=source.store, cut=cut, users=len(users),
        users_digest=digest_of(users), items=len(learnt.catalogue), held_items=len(held.catalogue),
        held_users=len(learnt_users(held.told)), seed=config.learn.seed, rank=config.learn.rank,
        rate=config.learn.peak, steps=-(-len(contexts) // config.learn.batch), context=encoder.context,
        mix={kind.value: share for kind, share in config.mix.items()}, tokens=filled.tokens,
        join_users=config.join_users, before=plan.before, after=after,
        teacher=teacher.name if teacher else "", taught=len(taught.kept) if taught else 0,
        dropped=taught.dropped if taught else 0, data=plan.data,
    )  # fmt: skip
    write_record(out, record)
    return record


def _held_in(out: Path, request: str, source: Source, config: AdaptConfig) -> tuple[Record | None, Plan]:
    """The record of the folder's finished run, and the plan of the one under way, or of a new one.

    Raises InputError where the folder is another's, or a run's on other data.
    """
    check_folder(out, request)
    done, plan = read_record(out), read_plan(out)
    # a log may grow while a run is interrupted, and goes on from the cut that it had
    cut = plan.cut if plan and not done else _cut_of(source.log, config)
    data = data_digest(source.log, source.catalogue, cut)
    check_data(out, done, plan.data if plan else "", data)
    return done, plan or Plan(request=request, cut=cut, tokens=0 if config.minutes else config.tokens, data=data)


def _cut_of(log: Log, config: AdaptConfig) -> float:
    """Raises InputError for a cut that nothing lies before."""
    if config.before is None:
        return default_cut(log)
    if log.size and not (log.at < config.before).any():
        first = f"{datetime.fromtimestamp(float(log.at.min()), UTC):%Y-%m-%d %H:%M:%S} UTC"
        raise InputError(f"nothing lies before --before; the first behaviour is of {first}")
    return config.before


def answers_asked(config: AdaptConfig) -> int:
    """As many of the base model's answers as the tokens have room for, held-out ones on top; `answers` at most."""
    if not sum(config.mix.values()):
        return 0
    share = config.mix.get(Kind.GENERAL, 0.0) / sum(config.mix.values())
    room = share * config.tokens / (1 - HELD_GENERAL) / AN_ANSWER
    return min(config.answers, max(LEAST_ANSWERS, math.ceil(room))) if share else 0


def held_documents(config: AdaptConfig) -> int:
    """A short run is measured on fewer documents: reading them twice would take longer than learning."""
    return min(config.held, max(LEAST_HELD, config.tokens // 1_000))


def _taught(teacher: Teacher, learnt: Material, out: Path, config: AdaptConfig, say: Callable[[str], None]) -> Taught:
    """The teacher's summaries of items that are learnt; those that an interrupted run was taught already."""
    taught = read_taught(out)
    if taught is None:
        counts = np.bincount(learnt.likes.item, minlength=len(learnt.likes.items))
        often = {item_id: int(count) for item_id, count in zip(learnt.likes.items, counts, strict=True)}
        taught = teach(teacher, learnt.catalogue, often, config.learn.seed)
        write_taught(out, taught)
    say(
        f"{len(taught.kept):,} of {teacher.name}'s summaries are learnt; {taught.dropped:,} did not lead back to their "
        f"item among {AMONG}, {taught.silent:,} items have none"
    )
    return taught


def special_tokens(tokenizer: Any) -> list[str]:
    """Every text that the tokenizer reads as one of its special tokens."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return sorted({*tokenizer.all_special_tokens, *added})


def fingerprint_of(request: str, contexts: Sequence[Sequence[Encoded]]) -> str:
    """What a checkpoint must agree on to be gone on from: the settings and every token that is learnt, in order."""
    digest = hashlib.sha256(request.encode())
    for context in contexts:
        for one in context:
            digest.update(one.ids.tobytes() + one.asked.tobytes())
        digest.update(b"|")
    return digest.hexdigest()


def _open(base: Path, device: torch.device) -> Any:
    """The base model in float32: what a step changes would be rounded away in bfloat16."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = load_whole(AutoModelForCausalLM, base, dtype=torch.float32, attn_implementation="sdpa")
    except (OSError, ValueError) as error:
        raise ArtifactError(f"the language model at {base} does not load: {error}; fetch or copy it anew") from None
    return model.to(device)


def _general(
    model: Any, tokenizer: Any, config: AdaptConfig, out: Path, shown: Shown
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The base model's answers that are replayed, and those held out; none where none are wanted."""
    count = answers_asked(config)
    if not count:
        return [], []
    # nothing is learnt here, and as on a GPU's tensor cores a processor with AMX answers several times as fast so
    asked = copy.deepcopy(model).to(torch.bfloat16) if low_precision(next(model.parameters()).device) else model
    with shown("Asking the base model", count, "answers", 0) as advance:
        pairs = sample_general(asked, tokenizer, count, config.learn.seed, out, advance)
    held = max(1, round(HELD_GENERAL * len(pairs)))
    return pairs[held:], pairs[:held]


def _affordable(model: Any, makers: Any, encoder: Encoder, config: AdaptConfig, say: Callable[[str], None]) -> int:
    """How many tokens the budget of time allows, by a few steps here that change nothing."""
    assert config.minutes is not None
    some = fill(makers, config.mix, 20 * encoder.context, encoder, config.learn.seed)
    rate = speed(model, pack(some.documents, encoder.context))
    tokens = min(config.tokens, int(OF_MINUTES * config.minutes * 60 * rate))
    if tokens < LEAST_TOKENS:
        raise InputError(
            f"--minutes {config.minutes:g} is enough for {tokens:,} tokens here ({rate:.0f} a second), which teach "
            f"nothing; give more, for {LEAST_TOKENS:,} at least"
        )
    say(f"{rate:,.0f} tokens a second here: {tokens:,} tokens in {config.minutes:g} minutes")
    return tokens


def _tell(filled: Filled, plan: Plan, say: Callable[[str], None]) -> None:
    if filled.empty:
        say(f"there is nothing of: {', '.join(filled.empty)}; the other kinds have its share")
    parts = ", ".join(f"{kind} {tokens:,}" for kind, tokens in filled.tokens.items())
    cut = f"{datetime.fromtimestamp(plan.cut, UTC):%Y-%m-%d %H:%M:%S} UTC"
    say(f"{len(filled.documents):,} documents, tokens by kind: {parts}; only behaviours before {cut}")
