"""In-process language model with int8 weights: a transformers checkpoint, converted once, and decoded by CTranslate2.

Requests gather into batches as in `interest.llm.gather`. Greedy answers are CTranslate2's. Its sampler cannot be seeded
for one answer, so a request with a temperature gets a first token drawn with the request's own seed, never the
likeliest one, and goes on greedily: another answer than the greedy one, the same at every run, whatever it is decoded
beside (rounding aside, and int8 rounds coarsely). A repetition penalty counts what was written, not the prompt.

ctranslate2, torch and transformers are imported when a model is converted or loaded.
"""

from __future__ import annotations

import gc
import os
import threading
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from interest.errors import InputError
from interest.llm.gather import Gather, Row, end_tokens, fingerprint, open_tokenizer, shared_prefix
from interest.llm.protocol import Reply, Request
from interest.llm.transformers import LOADING, load_whole

BATCH = 32
RECIPE = 1  # raised when the same checkpoint is to be converted otherwise
NUCLEUS = 64  # tokens that a first one is drawn from, at most; it is far smaller with top_p
AGREE = 0.95  # least correlation of logits with the checkpoint's at three quarters of the places; SmolLM2's is .99
AGREE_ANYWHERE = 0.9  # at any place: rounding alone has brought one to .947
_PROBE = (
    "The user rated 50 films, many of them dramas, comedies and thrillers, and gave dramas higher ratings than others."
)


def installed() -> bool:
    """Whether CTranslate2 is there to be used."""
    return find_spec("ctranslate2") is not None


class Int8Model:
    """A `Complete` over a checkpoint that `convert` has converted.

    Args:
        folder: the transformers checkpoint, for its tokenizer and its name.
        weights: what `convert` made of it.
        batch: the most requests decoded together.
        gather_s: how long the first request of a batch waits for company.

    Raises:
        InputError: CTranslate2 is not installed, or the weights do not load (at construction).
        Refused: a prompt longer than the model's context (at a call).
    """

    def __init__(self, folder: Path, weights: Path, *, batch: int = BATCH, gather_s: float = 0.005) -> None:
        library = _library()
        from transformers import AutoConfig, GenerationConfig

        tokenizer = open_tokenizer(folder)
        config = AutoConfig.from_pretrained(folder)
        try:
            generation = GenerationConfig.from_pretrained(folder)
        except OSError:  # older checkpoints keep these in config.json
            generation = GenerationConfig.from_model_config(config)
        try:
            self._model = library.Generator(
                str(weights), device="cpu", compute_type="int8_float32", intra_threads=_threads()
            )
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"the int8 weights at {weights} do not load: {error}; remove that folder, and they are made anew"
            ) from error
        self._tokens: list[str] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self._ends = sorted(end_tokens(generation, tokenizer))
        self._gather = Gather(
            tokenizer, config.max_position_embeddings, self._decode, batch=batch, gather_s=gather_s, alike=_alike
        )
        self.name = f"{folder.name}:{fingerprint(folder)}:int8"

    async def __call__(self, request: Request) -> Reply:
        return await self._gather(request)

    def _decode(self, rows: list[Row], stop: threading.Event) -> None:
        """Write every row to its end or its token limit. All rows agree in `_alike`."""
        request = rows[0].request
        if request.temperature > 0.0:
            for row, token in zip(rows, self._first_tokens(rows), strict=True):
                row.ended = token in self._ends
                if not row.ended:
                    row.written.append(token)
        writing = [row for row in rows if not row.ended and len(row.written) < request.max_tokens]
        if not writing:
            return
        limit = request.max_tokens - len(writing[0].written)
        answers = self._generate(
            [row.prompt + row.written for row in writing],
            limit,
            repetition_penalty=request.repetition_penalty,
            callback=lambda _step: stop.is_set(),
        )
        for row, answer in zip(writing, answers, strict=True):
            row.ended = len(answer.tokens) < limit
            row.written += answer.tokens

    def _first_tokens(self, rows: list[Row]) -> list[int]:
        """One token a row, drawn from its nucleus without the likeliest token, with the row's own seed."""
        answers = self._generate([row.prompt for row in rows], 1, return_logits_vocab=True)
        return [
            _draw(np.array(answer.logits[0], dtype=np.float64).reshape(-1), row.request)
            for row, answer in zip(rows, answers, strict=True)
        ]

    def _generate(self, prompts: list[list[int]], limit: int, **options: Any) -> list[_Answer]:
        """Greedy continuations of at most `limit` tokens; what all prompts begin with (system message, question) is
        read once.

        Prompts are read together as far as the shortest goes. What the longer ones have beyond it CTranslate2 (4.8)
        feeds step by step, counts as written and gives back before the answer, whatever `include_prompt_in_result`
        says; so there are that many steps more, and it is taken off here.
        """
        shared, shortest = shared_prefix(prompts), min(map(len, prompts))
        texts = [[self._tokens[token] for token in prompt] for prompt in prompts]
        results = self._model.generate_batch(
            [text[shared:] for text in texts],
            static_prompt=texts[0][:shared] or None,
            include_prompt_in_result=False,
            sampling_topk=1,
            end_token=self._ends,
            max_length=limit + max(map(len, prompts)) - shortest,
            **options,
        )
        answers = []
        for prompt, result in zip(prompts, results, strict=True):
            fed, tokens = prompt[shortest:], result.sequences_ids[0]
            start = len(fed) if tokens[: len(fed)] == fed else 0
            answers.append(_Answer(tokens[start : start + limit], result.logits[0][start:] if result.logits else []))
        return answers


class _Answer(NamedTuple):
    """What was written after a prompt, and the logits of each token, where these were wanted."""

    tokens: list[int]
    logits: list[Any]


def _alike(request: Request) -> tuple[float, ...]:
    return request.max_tokens, request.repetition_penalty, float(request.temperature > 0.0)


def _draw(logits: np.ndarray[Any, np.dtype[np.float64]], request: Request) -> int:
    """A token of the nucleus (Holtzman et al., arXiv 1904.09751) other than the likeliest; logits (V,)."""
    order = np.argsort(-logits, kind="stable")[:NUCLEUS]
    scaled = logits[order] / request.temperature
    weights = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    kept = weights * (np.cumsum(weights) - weights < request.top_p)
    kept[0] = 0.0
    if not kept.any():  # the nucleus is the likeliest token alone
        return int(order[1 + request.seed % 2])
    return int(np.random.default_rng(request.seed).choice(order, p=kept / kept.sum()))


def convert(folder: Path, result: Path) -> None:
    """Make int8 weights for CTranslate2 of the checkpoint in `folder`, in the new folder `result`.

    The result is asked for the logits of a sentence: a family that the converter reads otherwise than transformers does
    (positions, norms) would write nonsense without an error.

    Raises InputError: CTranslate2 is not installed, the model's family has no conversion, or the result disagrees.
    """
    library = _library()
    import torch
    from ctranslate2.converters import TransformersConverter

    tokenizer = open_tokenizer(folder)
    ids: list[int] = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    expected: list[np.ndarray[Any, Any]] = []

    class Converter(TransformersConverter):  # type: ignore[misc]  # it has no types
        def load_model(self, kind: Any, _path: str, **options: Any) -> Any:
            loaded = load_whole(kind, folder, **options | {"dtype": torch.float32})  # of bfloat16 it takes far longer
            expected.append(loaded(input_ids=torch.tensor([ids])).logits[0].numpy())
            theta = (getattr(loaded.config, "rope_parameters", None) or {}).get("rope_theta")
            if theta is not None:  # where transformers 5 keeps it; several of the converter's families look here
                loaded.config.rope_theta = theta
            return loaded

        def load_tokenizer(self, _kind: Any, _path: str, **_options: Any) -> Any:
            for name in ("bos_token", "eos_token", "unk_token"):  # it must name some, and none of them is used here
                if getattr(tokenizer, name) is None:
                    setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(0))
            return tokenizer

    gc.freeze()  # it collects garbage after every layer, which took two thirds of the time
    try:
        with LOADING, redirect_stderr(StringIO()):  # its own progress bars
            Converter(str(folder)).convert(str(result), quantization="int8_float32", force=True)
    except (OSError, ValueError, NotImplementedError, AttributeError) as error:
        raise InputError(f"the language model at {folder} cannot be converted to int8: {error}") from error
    finally:
        gc.unfreeze()
    try:
        quick = library.Generator(str(result), device="cpu", compute_type="int8_float32", intra_threads=_threads())
        found = np.array(quick.forward_batch([tokenizer.convert_ids_to_tokens(ids)]))[0]
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the language model at {folder} cannot be run in int8: {error}") from error
    pairs = zip(expected[0], found[:, : expected[0].shape[1]], strict=True)
    agreed = [float(np.corrcoef(*pair)[0, 1]) for pair in pairs]
    if not (np.quantile(agreed, 0.25) >= AGREE and min(agreed) >= AGREE_ANYWHERE):
        raise InputError(
            f"the language model at {folder}, converted to int8, does not say what the checkpoint says "
            f"(their logits correlate by {min(agreed):.2f} at worst); use --llm-backend transformers"
        )


def _library() -> Any:
    """The module ctranslate2. Raises InputError where it is not installed."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in interest.llm.local
    try:
        import ctranslate2
    except ImportError:
        raise InputError(
            "ctranslate2 is not installed and int8 needs it: pip install 'interestream[models]', "
            "or use --llm-backend transformers"
        ) from None
    return ctranslate2


def _threads() -> int:
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdigit() and int(named) else len(os.sched_getaffinity(0))
