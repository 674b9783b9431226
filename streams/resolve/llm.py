"""Opens the language model an option names: a folder, the URL of a server, or none. Light at import.

Decides nothing about what is asked of it (`interest.write.prompts`). Used by `interestream learn`,
`interestream replay`, `interestream serve --learn` and the stream agent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interest.errors import InputError
from interest.llm.protocol import Complete
from streams.settings.load import default_llm, load_settings
from streams.settings.schema import Backend, LlmSettings, Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from interest.llm.http import HttpModel
    from interest.llm.int8 import Int8Model
    from interest.llm.local import LocalModel
    from interest.write.backlog import Plan

STATISTICS = "statistics"  # the option's value that asks for plain sentences from the counts


@dataclass(frozen=True, slots=True)
class OpenLlm:
    """A language model ready to be asked; `complete` is None where no LLM is wanted."""

    complete: Complete | None
    name: str  # what interests and counters are stored under: model and weights
    prompt_version: str  # the one that suits it, unless another is asked for


@contextmanager
def open_llm(
    option: str | None = None,
    *,
    model: str | None = None,
    batch: int = 32,
    system_role: bool = True,
    backend: Backend | None = None,
) -> Iterator[OpenLlm]:
    """The LLM that `--llm` names: "statistics", an http(s) URL of an OpenAI-compatible server, or a checkpoint's
    folder.

    Args:
        option: None means the fetched SmolLM2 (`interestream fetch`).
        model: the model's name on a server; needed with a URL.
        batch: requests decoded together, in process.
        system_role: false for a server whose model takes no system message.
        backend: what decodes a checkpoint's folder in this process; None: the setting INTERESTREAM_LLM_BACKEND.

    Raises:
        InputError: no model there, a server without a model name, or a backend that is not installed.
    """
    check_llm(option, model)
    if option == STATISTICS:
        yield OpenLlm(None, STATISTICS, "plain-1")
    elif _is_server(option):
        assert option is not None
        assert model is not None
        from interest.llm.http import HttpModel
        from interest.llm.refusals import RefusalPolicy

        key = os.environ.get("INTERESTREAM_LLM_KEY")
        http = HttpModel(option, model=model, key=key, system_role=system_role)
        yield OpenLlm(RefusalPolicy(http), http.name, "json-1")
    else:
        local = _in_process(_folder(option), batch, backend or load_settings().llm.backend)
        yield OpenLlm(local, local.name, "plain-1")


def check_llm(option: str | None, model: str | None) -> None:
    """Raise InputError for what `open_llm` would not open: said before work that takes long."""
    from interest.llm.gather import has_none, no_model

    if _is_server(option):
        if not model:
            raise InputError(f"name the model that {option} serves with --llm-model")
    elif option != STATISTICS and has_none(_folder(option)):
        raise no_model(_folder(option))


def _is_server(option: str | None) -> bool:
    return bool(option) and str(option).startswith(("http://", "https://"))


def _folder(option: str | None) -> Path:
    return Path(option).expanduser() if option else default_llm()


def _in_process(folder: Path, batch: int, backend: Backend) -> LocalModel | Int8Model:
    """The model in `folder`: in int8 where that is wanted, or can be had; else as transformers loads it."""
    from interest.llm.int8 import Int8Model, installed
    from interest.llm.local import LocalModel
    from streams.fetch.int8 import int8_weights

    if backend == "int8" or (backend == "auto" and installed()):
        try:
            return Int8Model(folder, int8_weights(folder, say=_say), batch=batch)
        except InputError as error:
            if backend == "int8":
                raise
            _say(f"{error}; transformers runs it instead")
    return LocalModel(folder, batch=batch)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def nouns(text: str) -> tuple[str, str]:
    """The singular and the plural noun of "film,films", or of "film"."""
    singular, _, plural = (part.strip() for part in text.partition(","))
    return singular, plural or singular + "s"


def service_llm(settings: Settings) -> AbstractContextManager[OpenLlm]:
    """What `serve --learn` writes with: the checkpoint of serve.learn_llm, else the server of [llm], else the counts.

    Raises InputError for what is not there.
    """
    own, llm = settings.serve.learn_llm, settings.llm
    if own is not None:
        return open_llm(own, backend=llm.backend)
    if llm.url is None:
        return open_llm(STATISTICS)
    from interest.llm.http import ATTEMPTS
    from interest.llm.refusals import RefusalPolicy

    server = _server(llm, llm.url, ATTEMPTS)
    return nullcontext(OpenLlm(RefusalPolicy(server), server.name, "json-1"))


@dataclass(frozen=True, slots=True)
class AgentLlm:
    """What the stream's interest stage writes with; `model` is None where plain sentences are wanted."""

    model: HttpModel | None
    name: str  # what interests and counters are stored under
    plan: Plan


def agent_llm(settings: LlmSettings, engine: Engine) -> AgentLlm:
    """The LLM and the plan that the settings name.

    Raises InputError for a server without a model's name, for an unknown prompt version, and for one whose base rates
    are not named or not in the store.
    """
    from interest.write.backlog import Plan
    from interest.write.prompts import Style
    from interest.write.rates import with_rates

    wanted = settings.prompt_version or ("json-1" if settings.url else "plain-1")
    version, rates = with_rates(engine, wanted)
    if version != wanted:  # a worker that starts after others were frozen would go on with those
        raise InputError(f"name the base rates too, so that every worker reads the same: prompt_version = {version!r}")
    plan = Plan(prompt_version=version, rates=rates, chained=settings.chained, style=Style(noun=nouns(settings.noun)))
    plan.prompt()
    if settings.url is None:
        return AgentLlm(None, STATISTICS, plan)
    model = _server(settings, settings.url, attempts=1)  # the stage retries for as long as it takes
    return AgentLlm(model, model.name, plan)


def _server(settings: LlmSettings, url: str, attempts: int) -> HttpModel:
    if not settings.model:
        raise InputError(f"name the model that {url} serves: set INTERESTREAM_LLM_MODEL")
    from interest.llm.http import HttpModel

    return HttpModel(
        url,
        model=settings.model,
        key=settings.key.value if settings.key else None,
        concurrent=settings.concurrent,
        attempts=attempts,
        timeout_s=settings.timeout_s,
        system_role=settings.system_role,
    )
