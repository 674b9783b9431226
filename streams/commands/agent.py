"""`interestream agent`: the stream agent, one worker or several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interest.errors import InputError
from streams.commands.options import Store
from streams.kafka.topics import STAGES


def agent(
    stages: Annotated[str, typer.Option(help="Which of ingest, interest, fusion this process runs.")] = ",".join(
        STAGES
    ),
    workers: Annotated[int, typer.Option(help="Worker processes to run on this machine.", min=1)] = 1,
    store: Store = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file of settings; the environment overrides it. Default: INTERESTREAM_CONFIG."),
    ] = None,
    number: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run until stopped: read behaviours from Kafka, close partitions, learn interests, publish representations.

    Every stage is a consumer group of its own: run them in one process, in several, or on many machines. SIGTERM or
    Ctrl-C stops the agent within agent.drain_s plus two seconds, and no work is repeated afterwards. Settings are the
    INTERESTREAM_* variables that `interestream settings` lists.
    """
    import os

    import msgspec

    from streams.observability.logs import set_up_logs
    from streams.settings.load import load_settings
    from streams.worker.supervisor import supervise

    chosen = [name.strip() for name in stages.split(",") if name.strip()]
    if not chosen or any(name not in STAGES for name in chosen):
        raise InputError(f"--stages {stages!r}: the stages are {', '.join(STAGES)}; name one or more of them")
    settings = load_settings(config)
    if store:
        settings = msgspec.structs.replace(settings, store=store)
    set_up_logs(settings.agent.log, **({} if number is None else {"worker": number}))
    if workers > 1:
        os.environ["INTERESTREAM_STORE"] = settings.store
        if config:
            os.environ["INTERESTREAM_CONFIG"] = str(config.absolute())
        code = supervise(workers, chosen, settings.agent.port, settings.agent.drain_s)
        if code:
            raise typer.Exit(code)
        return
    from streams.worker.malloc import limit_to_one_arena
    from streams.worker.preflight import preflight
    from streams.worker.startup import wait_for_store, wait_for_topics

    limit_to_one_arena()
    wait_for_topics(settings.kafka)
    engine = wait_for_store(settings.store, settings.kafka.session_timeout_s)
    preflight(settings, engine, chosen)

    from streams.worker.app import Worker

    Worker(settings, engine, chosen).run()
