"""`interestream page`: the live interest page, over a service that runs elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interest.errors import InputError


def page(
    api: Annotated[
        str | None,
        typer.Option(help="Address of the service, as this process reaches it. Default: http://127.0.0.1:8090."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. Default: 8091.", min=0, max=65535)] = None,
    origin: Annotated[
        str | None,
        typer.Option(
            help="The page's address as browsers see it, where a proxy stands before it: https://interests.example"
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file of settings; the environment overrides it. Default: INTERESTREAM_CONFIG."),
    ] = None,
) -> None:
    """Show users, models and the stream in a browser, over the service that `interestream serve` runs.

    Whoever opens it logs in with an access key of the service and sees what that key may read. A service without keys
    is shown to this machine only. `interestream serve --page` starts both. Settings are the INTERESTREAM_PAGE_*
    variables that `interestream settings` lists.
    """
    import importlib.util
    import os
    import sys

    from streams.settings.load import cache_folder, load_settings

    given = {
        "INTERESTREAM_CONFIG": config and str(config.absolute()),
        "INTERESTREAM_PAGE_API": api,
        "INTERESTREAM_PAGE_HOST": host,
        "INTERESTREAM_PAGE_PORT": None if port is None else str(port),
        "INTERESTREAM_PAGE_ORIGIN": origin,
    }
    os.environ.update({name: value for name, value in given.items() if value})
    settings = load_settings().page
    if importlib.util.find_spec("nicegui") is None:
        raise InputError("page needs NiceGUI; install it: pip install 'interestream[serve]'")
    if settings.origin is not None and not _is_origin(settings.origin):
        raise InputError(
            f"page.origin is {settings.origin!r}: write the scheme and the host alone, such as https://interests.example"
        )
    if not settings.api.startswith(("http://", "https://")):
        raise InputError(f"page.api is {settings.api!r}: write the service's address, such as http://127.0.0.1:8090")
    from streams.page.server import run_page

    print(
        f"the page is at {settings.origin or f'http://{settings.host}:{settings.port}'}/", file=sys.stderr, flush=True
    )
    run_page(settings, cache_folder())


def _is_origin(text: str) -> bool:
    from urllib.parse import urlsplit

    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.netloc) and text == f"{parts.scheme}://{parts.netloc}"
