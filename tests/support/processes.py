"""Functions that run in processes of their own: several that train together, or one that is killed.

They are forked from a server that has imported torch and the trainers once, which takes seconds in a new interpreter.
What runs there must be a function that a module holds, and what it takes and returns must be picklable.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from deploy.kafka.node import free_port

ROOT = Path(__file__).parents[2]
# the last two are imported at the first step of an optimiser and with the first Llama: nine seconds
PRELOADED = ["tests.support.training_jobs", "torch._dynamo", "transformers.models.llama.modeling_llama"]
PATIENCE_S = 300.0
_server = multiprocessing.get_context("forkserver")


def _ready() -> None:
    """Start the server where it does not run: it reads the path of modules from its environment."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path])
    try:
        multiprocessing.set_forkserver_preload(PRELOADED)
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _begin(environment: dict[str, str], answer: Connection, function: Callable[..., Any], arguments: Any) -> None:
    import torch

    os.environ |= environment
    torch.set_num_threads(1)
    try:
        answer.send((function(*arguments), ""))
    except BaseException:
        answer.send((None, traceback.format_exc()))
        raise


def together(count: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it in so many processes with the environment that torchrun gives them; return what the first returned."""
    _ready()
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = []
    for rank in range(count):
        own = group | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        receive, send = _server.Pipe(duplex=False)
        process = _server.Process(target=_begin, args=(own, send, function, arguments))
        process.start()
        send.close()
        started.append((process, receive))
    try:
        told = [receive.recv() if receive.poll(PATIENCE_S) else (None, "no answer") for _, receive in started]
    finally:
        for process, receive in started:
            process.join(5)
            process.kill()  # one whose neighbour failed waits for it
            process.join()
            process.close()
            receive.close()
    errors = [error for _, error in told if error]
    assert not errors, errors[0]
    return told[0][0]


def killed(function: Callable[..., Any], *arguments: Any) -> None:
    """Call it in a process that must end by SIGKILL."""
    _ready()
    receive, send = _server.Pipe(duplex=False)
    process = _server.Process(target=_begin, args=({}, send, function, arguments))
    process.start()
    send.close()
    process.join(PATIENCE_S)
    try:
        assert process.exitcode == -signal.SIGKILL, receive.recv() if receive.poll() else process.exitcode
    finally:
        process.kill()
        process.join()
        process.close()
        receive.close()
