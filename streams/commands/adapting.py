"""What `adapt` and `tune encoder` have in common: where they compute, the store they learn from, who was forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from streams.settings.load import store_url

if TYPE_CHECKING:
    import torch
    from sqlalchemy import Engine

    from streams.commands.training_options import ComputeOptions


def device_and_store(compute: ComputeOptions, store: str | None) -> tuple[torch.device, Engine, str]:
    """The device, with as many threads as were asked for; the store, which must be there; its URL."""
    import torch

    from fusion.training.distributed import choose_device
    from streams.store.engine import open_store

    device = choose_device(compute.device)
    if compute.threads:
        torch.set_num_threads(compute.threads)
    url = store_url(store)
    return device, open_store(url, create=False), url


def say_forgotten(engine: Engine, record_id: str, out: Path, again: str) -> None:
    """Say how many of those it learnt from were forgotten since. again: what to do, such as "adapt it anew"."""
    from fusion.adaptation.register import forgotten_of

    if gone := forgotten_of(engine, record_id, out):
        print(f"{gone:,} of its users were forgotten since it began to learn: {again}, or remove it")
