"""`interestream serve`: scores, interests and behaviours over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interest.errors import InputError, StoreMissing
from streams.commands.options import Store

if TYPE_CHECKING:
    from streams.settings.schema import Settings


def serve(
    artifact: Annotated[
        Path | None,
        typer.Option(help="The folder that `interestream train` wrote. Default: the one that is active in the store."),
    ] = None,
    store: Store = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Without access keys: loopback only.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", min=0, max=65535)] = None,
    workers: Annotated[int, typer.Option(help="Processes that answer.", min=1)] = 1,
    page: Annotated[
        bool, typer.Option("--page", help="Also show the live page, in a process of its own; see `interestream page`.")
    ] = False,
    page_port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 8091,
    learn: Annotated[
        bool,
        typer.Option(
            "--learn", help="Also write the texts and representations of what closes, in a process of its own."
        ),
    ] = False,
    llm: Annotated[
        str | None,
        typer.Option(
            help="With --learn: the folder of a checkpoint, the URL of an OpenAI-compatible server, or `statistics`. "
            "Default: INTERESTREAM_SERVE_LEARN_LLM or INTERESTREAM_LLM_URL, else sentences from the counts."
        ),
    ] = None,
    llm_model: Annotated[str | None, typer.Option(help="The model's name, where --llm is a server.")] = None,
    prompt_version: Annotated[
        str | None,
        typer.Option(
            help="With --learn: of the prompts. Default: that whose texts the artifact reads, else the LLM's."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file of settings; the environment overrides it. Default: INTERESTREAM_CONFIG."),
    ] = None,
    new_key: Annotated[
        str | None, typer.Option("--new-key", metavar="NAME", help="Make an access key, print it, and end.")
    ] = None,
    scopes: Annotated[str, typer.Option(help="Of the new key: read, write, admin, with commas.")] = "read",
) -> None:
    """Serve scores, interests and behaviours over HTTP until stopped; /docs describes the requests.

    Settings are the INTERESTREAM_SERVE_* variables that `interestream settings` lists. A user is scored in
    milliseconds however long the past: the first request reads it once. SIGTERM answers what is in flight, then ends.
    """
    if new_key is not None:
        _print_key(new_key, scopes)
        return
    import importlib.util

    if any(importlib.util.find_spec(name) is None for name in ("fastapi", "fastapi_offline", "uvicorn")):
        raise InputError("serve needs FastAPI and uvicorn; install them: pip install 'interestream[serve]'")
    import os
    import sys

    from streams.settings.load import load_settings

    given = {
        "INTERESTREAM_CONFIG": config and str(config.absolute()),
        "INTERESTREAM_STORE": store,
        "INTERESTREAM_SERVE_ARTIFACT": artifact and str(artifact.absolute()),
        "INTERESTREAM_SERVE_HOST": host,
        "INTERESTREAM_SERVE_PORT": None if port is None else str(port),
        "INTERESTREAM_SERVE_LEARN": "true" if learn else None,
        "INTERESTREAM_LLM_PROMPT_VERSION": prompt_version,
        **_llm(llm, llm_model),
    }
    # every process reads its settings from the environment
    os.environ.update({name: value for name, value in given.items() if value})
    settings = load_settings()
    _check(settings, artifact)
    _check_free(settings.serve.host, settings.serve.port, "--port")
    if page:
        _check_free(settings.serve.host, page_port, "--page-port")
    from streams.service.server import check_address
    from streams.service.server import serve as run

    warning = check_address(settings)
    if warning:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    if settings.serve.learn:
        from streams.service.learning import check_learning

        print(check_learning(settings), file=sys.stderr, flush=True)
    elif llm or llm_model or prompt_version:
        raise InputError("--llm, --llm-model and --prompt-version are for --learn, which writes the texts; add it")
    print(f"listening on http://{settings.serve.host}:{settings.serve.port}/docs", file=sys.stderr, flush=True)
    code: object = 0
    try:
        with _page_beside(settings.serve.host, settings.serve.port, page_port) if page else nullcontext():
            run(settings, workers)
    except SystemExit as end:  # SIGTERM, or uvicorn's, of a service that could not start
        code = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    # all is written and closed; with torch loaded the interpreter's own end takes many seconds
    os._exit(code if isinstance(code, int) else 0)


@contextmanager
def _page_beside(host: str, port: int, page_port: int) -> Iterator[None]:
    """The page in a process of its own, for as long as the service runs. It listens where the service does."""
    from streams.service.beside import Beside, end_by_exception

    end_by_exception()
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    api = f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"
    process = Beside("the page", _run_page, " ".join((api, host, str(page_port))))
    try:
        yield
    finally:
        process.stop()


def _run_page(told: str) -> None:
    """The page's process."""
    from streams.commands.page import page

    api, host, port = told.split(" ")
    page(api=api, host=host, port=int(port))


def _llm(option: str | None, model: str | None) -> dict[str, str | None]:
    """--llm as settings: a server, or what runs in the process that writes texts."""
    if option is not None and option.startswith(("http://", "https://")):
        if not model:
            raise InputError(f"name the model that {option} serves with --llm-model")
        return {"INTERESTREAM_LLM_URL": option, "INTERESTREAM_LLM_MODEL": model, "INTERESTREAM_SERVE_LEARN_LLM": "none"}
    return {"INTERESTREAM_SERVE_LEARN_LLM": option, "INTERESTREAM_LLM_MODEL": model}


def _check(settings: Settings, artifact: Path | None) -> None:
    """What would fail in every process is said once, before any is started; so is that the store is a new one."""
    import sys

    from fusion.training.artifact import load_artifact
    from streams.settings.load import shown_url
    from streams.store.engine import open_store

    try:
        open_store(settings.store, create=False).dispose()
    except StoreMissing:
        open_store(settings.store).dispose()
        print(f"made a new, empty store: {shown_url(settings.store)}", file=sys.stderr, flush=True)
    if artifact is not None:
        load_artifact(artifact)


def _check_free(host: str, port: int, option: str) -> None:
    """Raises InputError for an address that cannot be listened on, which a process would only log."""
    import socket

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        raise InputError(
            f"{option} {port} on {host} cannot be listened on ({error.strerror}); give another, or end what uses it"
        ) from None


def _print_key(name: str, scopes: str) -> None:
    import sys

    from streams.service.access import new_key

    token, line = new_key(name, scopes)
    print(token)
    print(f"the key is shown this once. Its line for the key file:\n{line}", file=sys.stderr)
