"""In-process language model: any causal chat model that transformers loads, generating in batches.

Requests that are awaited together gather into batches, sorted by length and padded on the left, and one thread
decodes them; rows that have ended leave the batch. Each row has its own temperature, penalty and seed, so an answer
never depends on which request it was sampled beside (rounding aside). torch and transformers are imported when the
model is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interest.errors import InputError, Refused
from interest.llm.protocol import Reply, Request
from interest.llm.transformers import load_whole

if TYPE_CHECKING:
    import torch

BATCH = 32  # on 2 shared cores 32 rows gave 4.6 times the tokens/s of one, 16 rows 3.0 times (benchmarks/llm.py)

SAME_KIND = 32  # tokens: past the system message, into the question


class LocalModel:
    """A `Complete` over a folder with a transformers checkpoint.

    Args:
        folder: config, safetensors and a tokenizer with a chat template.
        batch: the most requests decoded together.
        dtype: "float32" or "bfloat16"; None takes what is faster here: bfloat16 with AMX, else float32 (without AMX
            bfloat16 took twice as long to read a prompt and no less to write; benchmarks/llm.py).
        gather_s: how long the first request of a batch waits for company.

    Raises:
        InputError: the folder holds no loadable model (at construction).
        Refused: a prompt longer than the model's context (at a call).
    """

    def __init__(self, folder: Path, *, batch: int = BATCH, dtype: str | None = None, gather_s: float = 0.005) -> None:
        # read when torch is first loaded: threads that spin while they wait slow a step 15-fold on a shared machine
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]   # loading takes a second; the bar would stand in logs
        if not (folder / "config.json").is_file():
            raise InputError(
                f"there is no language model at {folder}; run `interestream fetch`, or name one with --llm"
            )
        dtype = dtype or ("bfloat16" if torch.cpu._is_amx_tile_supported() else "float32")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            self._model = load_whole(AutoModelForCausalLM, folder, dtype=getattr(torch, dtype))
        except (OSError, ValueError) as error:
            raise InputError(
                f"the language model at {folder} does not load: {error}; run `interestream fetch`"
            ) from error
        self._model.train(False)
        if not self._tokenizer.chat_template:
            raise InputError(f"the tokenizer at {folder} has no chat template; use an instruction-tuned model")
        self._ends = _end_tokens(self._model, self._tokenizer)
        self._context: int = self._model.config.max_position_embeddings
        self._batch = batch
        self._gather_s = gather_s
        self._waiting: list[_Row] = []
        self._worker: asyncio.Task[None] | None = None
        self.name = f"{folder.name}:{_fingerprint(folder)}:{dtype}"

    async def __call__(self, request: Request) -> Reply:
        row = _Row(request, self._encode(request), asyncio.get_running_loop().create_future())
        if len(row.prompt) + request.max_tokens > self._context:
            raise Refused(f"a prompt of {len(row.prompt)} tokens is longer than the model's context of {self._context}")
        self._waiting.append(row)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await row.done

    async def _work(self) -> None:
        await asyncio.sleep(self._gather_s)
        while self._waiting:
            self._waiting = [row for row in self._waiting if not row.done.done()]  # its caller gave up
            # prompts of one kind together (they share their beginning, which is read once), then by length
            self._waiting.sort(key=lambda row: (row.prompt[:SAME_KIND], len(row.prompt)))
            rows, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
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

    def _encode(self, request: Request) -> list[int]:
        messages = [{"role": message.role, "content": message.content} for message in request.messages]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids: list[int] = self._tokenizer(text + request.opening, add_special_tokens=False)["input_ids"]
        return ids

    def _reply(self, row: _Row) -> Reply:
        text = self._tokenizer.decode(row.written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Reply(
            text=row.request.opening + text,
            finish_reason="stop" if row.ended else "length",
            prompt_tokens=len(row.prompt),
            completion_tokens=len(row.written),
        )

    def _decode(self, rows: list[_Row], stop: threading.Event) -> None:
        """Write every row to its end or its token limit. Sizes: B rows still writing, T tokens so far, V words."""
        import torch

        shared = _shared_prefix([row.prompt for row in rows])
        rests = [row.prompt[shared:] for row in rows]
        longest = max(map(len, rests))
        with torch.inference_mode():
            cache: Any = None
            if shared:  # what all prompts begin with (system message, question) is read once
                prefix = torch.tensor([rows[0].prompt[:shared]])
                cache = self._model(input_ids=prefix, use_cache=True, logits_to_keep=1).past_key_values
                cache.batch_repeat_interleave(len(rows))
            inputs = torch.tensor([[0] * (longest - len(rest)) + rest for rest in rests])  # (B, T)
            mask = torch.tensor([[1] * shared + [0] * (longest - len(rest)) + [1] * len(rest) for rest in rests])
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
            writing = list(rows)
            while writing and not stop.is_set():
                out = self._model(
                    input_ids=inputs,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache = out.past_key_values
                chosen = [_choose(logits, row) for logits, row in zip(out.logits[:, -1].float(), writing, strict=True)]
                for row, token in zip(writing, chosen, strict=True):
                    row.ended = token in self._ends
                    if not row.ended:
                        row.written.append(token)
                stay = [
                    at for at, row in enumerate(writing) if not row.ended and len(row.written) < row.request.max_tokens
                ]
                if len(stay) < len(writing) and stay:
                    keep = torch.tensor(stay)
                    cache.batch_select_indices(keep)
                    mask, positions = mask[keep], positions[keep]
                writing = [writing[at] for at in stay]
                if writing:
                    inputs = torch.tensor([[row.written[-1]] for row in writing])  # (B, 1)
                    mask = torch.cat([mask, mask.new_ones(len(writing), 1)], dim=1)  # (B, T + 1)
                    positions = positions[:, -1:] + 1


@dataclass(slots=True, eq=False)
class _Row:
    request: Request
    prompt: list[int]
    done: asyncio.Future[Reply]
    written: list[int]
    ended: bool
    noise: Any

    def __init__(self, request: Request, prompt: list[int], done: asyncio.Future[Reply]) -> None:
        self.request, self.prompt, self.done = request, prompt, done
        self.written, self.ended, self.noise = [], False, None


def _choose(logits: torch.Tensor, row: _Row) -> int:
    """The next token of one row from its logits (V,): penalised for repetition (CTRL, section 4.1), greedy or
    nucleus.
    """
    import torch

    request = row.request
    if request.repetition_penalty != 1.0:
        repeated = torch.tensor(sorted({*row.prompt, *row.written}))
        penalised = logits[repeated]
        logits[repeated] = torch.where(
            penalised > 0, penalised / request.repetition_penalty, penalised * request.repetition_penalty
        )
    if request.temperature <= 0.0:
        return int(logits.argmax())
    if row.noise is None:
        row.noise = torch.Generator().manual_seed(request.seed)
    probabilities, order = torch.softmax(logits / request.temperature, dim=-1).topk(64)  # the nucleus is far smaller
    kept = probabilities * (probabilities.cumsum(-1) - probabilities < request.top_p)
    return int(order[torch.multinomial(kept, 1, generator=row.noise)])


STOP_S = 1.5  # for the step that is being computed when the run is interrupted


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


def _shared_prefix(prompts: list[list[int]]) -> int:
    """How many tokens all prompts begin with, leaving each at least one of its own."""
    if len(prompts) == 1:
        return 0
    first, last = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1
    return next((at for at in range(most) if first[at] != last[at]), most)


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a turn: the checkpoint's, the tokenizer's, and the usual marks of chat formats."""
    ends = model.generation_config.eos_token_id
    tokens = set(ends if isinstance(ends, list) else [ends])
    vocabulary = tokenizer.get_vocab()
    tokens |= {
        vocabulary[mark]
        for mark in ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "</s>")
        if mark in vocabulary
    }
    return frozenset(tokens - {None})


def _fingerprint(folder: Path) -> str:
    """Eight hex digits of the weights' names, sizes, first and last bytes: another checkpoint, another name."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as weights:
            size = file.stat().st_size
            digest.update(f"{file.name}:{size}:".encode() + weights.read(1 << 20))
            weights.seek(max(0, size - (1 << 20)))
            digest.update(weights.read())
    return digest.hexdigest()[:8]
