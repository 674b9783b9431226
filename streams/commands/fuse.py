"""`interestream fuse`: interest texts to vectors, vectors to user representations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streams.commands.options import Store

if TYPE_CHECKING:
    from sqlalchemy import Engine


def fuse(
    store: Store = None,
    encoder: Annotated[
        str | None,
        typer.Option(metavar="PATH|NAME", help="The text encoder: a folder, or a fetched model. Default: MiniLM."),
    ] = None,
    prompt_version: Annotated[
        str | None, typer.Option(help="Only interests written by this version of the prompts. Default: all.")
    ] = None,
    artifact: Annotated[
        Path | None,
        typer.Option(help="Represent users by the fusion network of this trained artifact, not by the pool."),
    ] = None,
    half_life: Annotated[float | None, typer.Option(help="Of the pool, in partitions. Default: 4.")] = None,
) -> None:
    """Encode interests that have no vectors yet, and write the users' representations.

    Without --artifact these are the recency-weighted pool of the partitions' vectors. Interrupt it anywhere and run it
    again; what is there is not made twice.
    """
    from streams.settings import store_url
    from streams.store import open_store

    engine = open_store(store_url(store), create=False)
    if artifact:
        _represent(engine, artifact)
    else:
        _pool(engine, encoder, prompt_version, half_life)


def _pool(engine: Engine, encoder: str | None, prompt_version: str | None, half_life: float | None) -> None:
    from fusion.encoder import encoder_id, open_encoder
    from fusion.fuse import fuse as run
    from fusion.fuse import waiting
    from fusion.pool import HALF_LIFE
    from interest.errors import InputError
    from streams.progress import progress
    from streams.settings import default_encoder, model_folder

    if half_life is not None and not half_life > 0:
        raise InputError(f"--half-life is a number of partitions above 0, not {half_life:g}")
    folder = default_encoder() if encoder is None else Path(encoder)
    if encoder and not folder.is_dir() and model_folder(encoder).is_dir():
        folder = model_folder(encoder)
    opened = open_encoder(folder)
    total = waiting(engine, encoder_id(folder), prompt_version)
    with progress("Encoding interests", total, unit="interests") as advance:
        fused = run(engine, opened, prompt_version, half_life=half_life or HALF_LIFE, advance=advance)
    print(f"{fused.encoded:,} interests encoded ({fused.texts:,} texts) by {opened.id}")
    print(f"{fused.pooled:,} user representations: recency-weighted pools, nothing trained")
    for name in fused.artifacts:
        print(f"  {name}")


def _represent(engine: Engine, artifact: Path) -> None:
    from fusion.artifact import load_artifact
    from fusion.represent import represent
    from streams.progress import progress

    loaded = load_artifact(artifact)
    with progress("Representing users", None, unit="partitions") as advance:
        count = represent(engine, loaded, advance)
    print(f"{count:,} partitions have a user representation by the trained artifact {loaded.id}")
