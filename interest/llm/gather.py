"""Gathers requests that are awaited together into batches for a model in this process, and decodes in one thread.

Decides which requests share a batch, and reads and writes tokens with the checkpoint's own tokenizer and chat template.
How a batch is decoded is the model's affair (`interest.llm.local`, `interest.llm.int8`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from interest.errors import InputError, Refused
from interest.llm.control_tokens import broken, control_tokens, pattern_of
from interest.llm.protocol import Reply, Request

SAME_KIND = 32  # tokens: past the system message, into the question

UNFINISHED = "plan.json"  # what a folder holds while a model is adapted into it (fusion/adaptation/record.py)

STOP_S = 1.5  # for the step that is being computed when the run is interrupted


class Row:
    """One request on its way through a model: its prompt's tokens, and those written so far."""

    __slots__ = ("done", "ended", "noise", "prompt", "request", "written")

    def __init__(self, request: Request, prompt: list[int], done: asyncio.Future[Reply]) -> None:
        self.request, self.prompt, self.done = request, prompt, done
        self.written: list[int] = []
        self.ended = False  # by the model itself, not by the token limit
        self.noise: Any = None  # the row's own random numbers, once it samples


Decode = Callable[[list[Row], threading.Event], None]
"""Writes every row to its end or its token limit; returns early where the event is set."""


class Gather:
    """A `Complete` over a function that decodes batches.

    Args:
        tokenizer: of transformers, with a chat template.
        context: the most tokens of a prompt and its answer.
        decode: called in a thread of its own, one batch at a time.
        batch: the most requests decoded together.
        gather_s: how long the first request of a batch waits for company.
        alike: what requests of one batch must agree in.

    A call raises Refused where prompt and answer are longer than the context.
    """

    def __init__(
        self,
        tokenizer: Any,
        context: int,
        decode: Decode,
        *,
        batch: int,
        gather_s: float,
        alike: Callable[[Request], tuple[float, ...]] = lambda _request: (),
    ) -> None:
        self._tokenizer = tokenizer
        self._control = pattern_of(control_tokens(tokenizer))
        self._context = context
        self._decode = decode
        self._batch = batch
        self._gather_s = gather_s
        self._alike = alike
        self._waiting: list[Row] = []
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, request: Request) -> Reply:
        row = Row(request, self._encode(request), asyncio.get_running_loop().create_future())
        if len(row.prompt) + request.max_tokens > self._context:
            raise Refused(f"a prompt of {len(row.prompt)} tokens is longer than the model's context of {self._context}")
        self._waiting.append(row)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await row.done

    async def _work(self) -> None:
        await asyncio.sleep(self._gather_s)
        while self._waiting:
            rows = self._next()
            try:
                await _in_thread(partial(self._decode, rows))
            except Exception as error:  # whatever it was belongs to the callers, who await these rows
                for row in rows:
                    if not row.done.done():
                        row.done.set_exception(error)
                continue
            for row in rows:
                if not row.done.done():
                    row.done.set_result(self._reply(row))
            await asyncio.sleep(0)  # let the callers ask on, so that their next requests join the next batch

    def _next(self) -> list[Row]:
        """The next batch: prompts of one kind together (they share their beginning, which is read once), by length."""
        waiting = [row for row in self._waiting if not row.done.done()]  # the others' callers gave up
        waiting.sort(key=lambda row: (self._alike(row.request), row.prompt[:SAME_KIND], len(row.prompt)))
        rows = [row for row in waiting[: self._batch] if self._alike(row.request) == self._alike(waiting[0].request)]
        self._waiting = waiting[len(rows) :]
        return rows

    def _encode(self, request: Request) -> list[int]:
        """The prompt's tokens. Control tokens are the template's alone: one that a message spells out is broken."""
        messages = [{"role": one.role, "content": broken(one.content, self._control)} for one in request.messages]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        text += broken(request.opening, self._control)
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _reply(self, row: Row) -> Reply:
        text = self._tokenizer.decode(row.written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Reply(
            text=row.request.opening + text,
            finish_reason="stop" if row.ended else "length",
            prompt_tokens=len(row.prompt),
            completion_tokens=len(row.written),
        )


async def _in_thread(work: Callable[[threading.Event], None]) -> None:
    """Run `work` in a thread of its own. Cancelled, it sets the event and waits for the thread no longer than STOP_S:
    asyncio's own threads would be waited for to the end of the batch, which takes minutes on a slow machine.
    """
    loop, stop = asyncio.get_running_loop(), threading.Event()
    done: asyncio.Future[None] = loop.create_future()

    def finish(error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            work(stop)
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            loop.call_soon_threadsafe(finish, error)

    thread = threading.Thread(target=run, name="llm-decode", daemon=True)
    thread.start()
    try:
        await done
    except asyncio.CancelledError:
        stop.set()
        thread.join(STOP_S)
        raise


def shared_prefix(prompts: list[list[int]]) -> int:
    """How many tokens all prompts begin with, leaving each at least one of its own."""
    if len(prompts) == 1:
        return 0
    first, last = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1
    return next((at for at in range(most) if first[at] != last[at]), most)


def has_none(folder: Path) -> bool:
    """Whether a folder holds no model, or one that is still to be made."""
    unfinished = (folder / UNFINISHED).is_file() and not (folder / "config.json").is_file()
    return unfinished or not folder.is_dir()


def no_model(folder: Path) -> InputError:
    """The error where a folder holds no language model, or one that is not finished."""
    if (folder / UNFINISHED).is_file():
        return InputError(
            f"the adaptation in {folder} is not finished; the same `interestream adapt --out {folder}` goes on with it"
        )
    return InputError(f"there is no language model at {folder}; run `interestream fetch`, or name one with --llm")


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a checkpoint. Raises InputError where there is no model, or none that chats."""
    from transformers import AutoTokenizer

    if not (folder / "config.json").is_file():
        raise no_model(folder)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"the language model at {folder} does not load: {error}; run `interestream fetch`") from error
    if not tokenizer.chat_template:
        raise InputError(f"the tokenizer at {folder} has no chat template; use an instruction-tuned model")
    return tokenizer


def end_tokens(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a turn: the checkpoint's, the tokenizer's, and the usual marks of chat formats."""
    ends = generation_config.eos_token_id
    tokens = set(ends if isinstance(ends, list) else [ends])
    vocabulary = tokenizer.get_vocab()
    tokens |= {
        vocabulary[mark]
        for mark in ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "</s>")
        if mark in vocabulary
    }
    return frozenset(tokens - {None})


def fingerprint(folder: Path) -> str:
    """Eight hex digits of the weights' names, sizes, first and last bytes: another checkpoint, another name."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as weights:
            size = file.stat().st_size
            digest.update(f"{file.name}:{size}:".encode() + weights.read(1 << 20))
            weights.seek(max(0, size - (1 << 20)))
            digest.update(weights.read())
    return digest.hexdigest()[:8]
