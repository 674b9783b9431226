"""One tuning from a base encoder and co-liked pairs to a folder: measures before and after, training, the record.

The folder is opened like the base one (`fusion.encoders.sentence.open_encoder`). Interrupted at any point, the same
call goes on to the same weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch

from fusion.adaptation.co_liked import CoLiked, reciprocal_rank
from fusion.adaptation.material import digest_of
from fusion.adaptation.record import OTHERWISE, LearntFrom, check_data, read_struct, request_of, write_struct
from fusion.adaptation.tuner import Shown, TuneConfig, Tuner, data_digest, learn
from fusion.encoders.sentence import encoder_id
from fusion.training.checkpoint import remove_checkpoint
from interest.errors import InputError

RECORD, PLAN = "tuning.json", "tuning_plan.json"
BESIDE = ("modules.json", "sentence_bert_config.json", "1_Pooling")  # how the base is pooled, and its longest text
LEAST_USERS = 10
CPU = torch.device("cpu")


class Tuned(LearntFrom, frozen=True, kw_only=True):
    """`tuning.json`: what made a tuned encoder."""

    config: TuneConfig
    likes: int
    texts: int
    held_pairs: int
    before: float | None  # mean reciprocal rank of held-out pairs, base and tuned; None: there are none
    after: float | None


class _Plan(msgspec.Struct, frozen=True):
    """`tuning_plan.json`: what a run under way must keep to, and what it has measured."""

    request: str
    before: float | None
    data: str = ""  # digest of what is learnt from


def tune(
    data: CoLiked,
    cut: float,
    base: Path,
    out: Path,
    config: TuneConfig,
    *,
    shown: Shown,
    say: Callable[[str], None],
    note: Callable[[str, str], None] = lambda *_: None,
    store: str = "",
    device: torch.device = CPU,
) -> Tuned:
    """Tune the encoder of `base` into the folder `out`; of a run that is finished already, its record.

    Interrupted at any point, the same call goes on to the same weights. note: is told the run's id and the base's
    before anything is learnt. Raises InputError where there is too little to learn from or the folder is another's, and
    ArtifactError where the base cannot be loaded.
    """
    base_id = encoder_id(base)
    request = request_of(config, base_id)
    plan, done, learnt = _check_folder(out, request), read_tuned(out), data_digest(data)
    check_data(out, done, plan.data if plan else "", learnt)
    if done is not None:
        _remove_working_files(out)
        say(f"{out} is finished already; nothing is left to do")
        return done
    if len(data.users) < LEAST_USERS:
        raise InputError(
            f"{len(data.users):,} users liked two items that have a text, of the training part and not held out; an "
            f"encoder is tuned on {LEAST_USERS} at least. Replay more behaviours, or a catalogue with titles (--items)"
        )
    tuner = Tuner(base, config.layers, device)
    tokens = tuner.tokens(data.texts)
    if plan is None:
        plan = _Plan(request, _measure(tuner, tokens, data, "Measuring the base", shown), learnt)
        write_struct(out / PLAN, plan)
    note(request, base_id)
    learn(tuner, tokens, data, config, out, request, shown)
    after = _measure(tuner, tokens, data, "Measuring the tuned one", shown)
    tuner.model.save_pretrained(out)
    tuner.tokenizer.save_pretrained(out)
    _copy_beside(base, out)
    record = Tuned(
        id=request, base=base_id, store=store, config=config, cut=cut, users=len(data.users),
        users_digest=digest_of(data.users), likes=int(data.likes.nnz), texts=len(data.texts),
        held_pairs=len(data.held), before=plan.before, after=after, data=learnt,
    )  # fmt: skip
    write_struct(out / RECORD, record)
    _remove_working_files(out)
    return record


def _remove_working_files(out: Path) -> None:
    """A checkpoint beside the weights would count as some of them (`encoder_id`)."""
    remove_checkpoint(out)
    (out / PLAN).unlink(missing_ok=True)


def read_tuned(folder: Path) -> Tuned | None:
    """The record of a finished tuning; None where there is none. Raises ArtifactError for a broken one."""
    return read_struct(folder / RECORD, Tuned)


def _measure(tuner: Tuner, tokens: list[list[int]], data: CoLiked, title: str, shown: Shown) -> float | None:
    """Mean reciprocal rank of the held-out pairs by the encoder as it is now; None without such pairs."""
    if not len(data.held):
        return None
    with shown(title, len(data.among), "texts", 0) as advance:
        return reciprocal_rank(tuner.encode([tokens[text] for text in data.among], advance), data)


def _check_folder(folder: Path, request: str) -> _Plan | None:
    """The plan of a run of this request. Raises InputError where the folder is another's."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file; give a folder")
    done, plan = read_tuned(folder), read_struct(folder / PLAN, _Plan)
    held = done.id if done else plan.request if plan else None
    if held is not None and held != request:
        raise InputError(f"--out {folder} holds a tuning by other settings or of another base encoder; {OTHERWISE}")
    if held is None and folder.exists() and (names := sorted(path.name for path in folder.iterdir())):
        raise InputError(f"--out {folder} holds {', '.join(names[:3])}, not a tuned encoder; {OTHERWISE}")
    return plan


def _copy_beside(base: Path, out: Path) -> None:
    """How texts are pooled and cut, as the base's folder says it."""
    for name in BESIDE:
        source = base / name
        if source.is_dir():
            shutil.copytree(source, out / name, dirs_exist_ok=True)
        elif source.is_file():
            shutil.copyfile(source, out / name)
