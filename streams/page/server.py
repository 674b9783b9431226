"""Runs the page in a process of its own, until SIGTERM or Ctrl-C."""

from __future__ import annotations

from pathlib import Path

import uvicorn

from streams.observability.logs import set_up_logs
from streams.page.app import make_page
from streams.page.sessions import read_secrets
from streams.settings.schema import PageSettings


def run_page(config: PageSettings, cache: Path) -> None:
    """Serve the page. Raises InputError for a secret that cannot be used."""
    set_up_logs("text")
    page = make_page(config, read_secrets(config, cache), cache / "page.ended")
    server = uvicorn.Config(
        page, host=config.host, port=config.port, log_config=None,
        access_log=False, server_header=False,
        timeout_graceful_shutdown=3,
    )  # fmt: skip
    uvicorn.Server(server).run()
