"""In-process language model: any causal chat model that transformers loads, generating in batches.

Requests that are awaited together gather into batches (`interest.llm.gather`), padded on the left, and one thread
decodes them; rows that have ended leave the batch. Each row has its own temperature, penalty and seed, so an answer
never depends on which request it was sampled beside (rounding aside). torch and transformers are imported when the
model is loaded.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interest.errors import InputError
from interest.llm.gather import Gather, Row, end_tokens, fingerprint, open_tokenizer, shared_prefix
from interest.llm.protocol import Reply, Request
from interest.llm.transformers import load_whole

if TYPE_CHECKING:
    import torch

BATCH = 32  # on 2 shared cores 32 rows gave 4.6 times the tokens/s of one, 16 rows 3.0 times (benchmarks/llm.py)


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
        from transformers import AutoModelForCausalLM
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]   # loading takes a second; the bar would stand in logs
        tokenizer = open_tokenizer(folder)
        dtype = dtype or ("bfloat16" if torch.cpu._is_amx_tile_supported() else "float32")
        try:
            self._model = load_whole(AutoModelForCausalLM, folder, dtype=getattr(torch, dtype))
        except (OSError, ValueError) as error:
            raise InputError(
                f"the language model at {folder} does not load: {error}; run `interestream fetch`"
            ) from error
        self._model.train(False)
        self._ends = end_tokens(self._model.generation_config, tokenizer)
        context = self._model.config.max_position_embeddings
        self._gather = Gather(tokenizer, context, self._decode, batch=batch, gather_s=gather_s)
        self.name = f"{folder.name}:{fingerprint(folder)}:{dtype}"

    async def __call__(self, request: Request) -> Reply:
        return await self._gather(request)

    def _decode(self, rows: list[Row], stop: threading.Event) -> None:
        """Write every row to its end or its token limit. Sizes: B rows still writing, T tokens so far, V words."""
        import torch

        shared = shared_prefix([row.prompt for row in rows])
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


def _choose(logits: torch.Tensor, row: Row) -> int:
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
