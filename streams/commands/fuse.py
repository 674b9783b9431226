"""`interestream fuse`: turns interest texts into vectors, and vectors into user representations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streams.commands.options import Store

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from streams.resolve.encoder import EncoderWhenNeeded


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
        typer.Option(help="Represent users by the fusion network of this trained artifact instead of the pool."),
    ] = None,
    half_life: Annotated[
        float | None, typer.Option(help="Half-life of the pool's weights, in partitions. Default: 4.")
    ] = None,
    item_vectors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE.parquet",
            help="Bring vectors of items into the store, such as image=images.parquet (columns item_id and vector), "
            "for models that read them; repeat the option.",
        ),
    ] = None,
    drop_item_vectors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="First remove what --item-vectors brought into the store by this name; repeat it."
        ),
    ] = None,
) -> None:
    """Encode items' texts and interests that have no vectors yet, and write the users' representations.

    Every closed partition also gets the centroids of the items that its user liked and did not; after a change of the
    catalogue all are found again.
    Without --artifact, a representation is the recency-weighted pool of the user's partition vectors. If [bank] llm is
    set, new behaviours also go into the behaviour bank, as in the agent. Interrupt it at any point and run it again:
    nothing is computed twice.
    """
    from streams.settings.load import store_url
    from streams.store.engine import open_store

    engine = open_store(store_url(store), create=False)
    if drop_item_vectors:
        from streams.commands.item_vectors import drop_vectors

        drop_vectors(engine, drop_item_vectors)
    if item_vectors:
        from streams.commands.item_vectors import bring_files

        bring_files(engine, item_vectors)
    if artifact:
        _represent(engine, artifact)
    else:
        _pool(engine, encoder, prompt_version, half_life)
    _fill(engine)


def _pool(engine: Engine, encoder: str | None, prompt_version: str | None, half_life: float | None) -> None:
    from fusion.encoders.sentence import check_encoder, encoder_id
    from fusion.interests.backfill import FuseResult, catch_up, count_waiting
    from fusion.interests.backfill import fuse as run
    from fusion.interests.pool import HALF_LIFE
    from interest.errors import InputError
    from streams.progress import progress
    from streams.resolve.encoder import EncoderWhenNeeded, encoder_folder

    if half_life is not None and not half_life > 0:
        raise InputError(f"--half-life is a number of partitions above 0, not {half_life:g}")
    pool = half_life or HALF_LIFE
    folder = encoder_folder(encoder)
    check_encoder(folder)
    lazy = EncoderWhenNeeded(folder, encoder_id(folder))
    _encode_items(engine, lazy)
    _find_centroids(engine, lazy.id)
    total = count_waiting(engine, lazy.id, prompt_version)
    if total:
        with progress("Encoding interests", total, unit="interests") as advance:
            fused = run(engine, lazy, prompt_version, half_life=pool, advance=advance)
    else:
        fused = FuseResult(0, 0, *catch_up(engine, lazy.id, prompt_version, half_life=pool))
    print(f"{fused.encoded:,} interests encoded ({fused.texts:,} texts) by {lazy.id}")
    print(f"{fused.pooled:,} user representations: recency-weighted pools, nothing trained")
    for name in fused.artifacts:
        print(f"  {name}")


def _encode_items(engine: Engine, encoder: EncoderWhenNeeded) -> None:
    from fusion.interests.item_vectors import collect_item_garbage
    from streams.progress import progress
    from streams.resolve.encoder import item_template
    from streams.resolve.item_texts import encode_catalogue

    count = encode_catalogue(engine, encoder, lambda title, total, unit: progress(title, total, unit=unit))
    removed = collect_item_garbage(engine, item_template())
    gone = f"; {removed:,} of texts that the catalogue has no longer removed" if removed else ""
    print(f"{count:,} items' texts encoded by {encoder.id}{gone}")


def _find_centroids(engine: Engine, encoder_id: str) -> None:
    from streams.progress import progress
    from streams.resolve.centroids import CentroidPass
    from streams.resolve.encoder import item_template

    work = CentroidPass(engine, encoder_id, item_template())
    total = work.count()
    if total:
        with progress("Finding centroids", total, unit="partitions") as advance:
            while count := work.step():
                advance(count)
    print(f"{total:,} partitions' centroids of liked and of disliked items{work.told}")


def _represent(engine: Engine, artifact: Path) -> None:
    from fusion.serving.user_vectors import represent
    from fusion.training.artifact import load_artifact
    from streams.progress import progress

    loaded = load_artifact(artifact)
    with progress("Representing users", None, unit="partitions") as advance:
        count = represent(engine, loaded, advance)
    print(f"{count:,} partitions have a user representation by the trained artifact {loaded.id}")


def _fill(engine: Engine) -> None:
    from streams.progress import progress
    from streams.resolve.bank import open_bank_lazily
    from streams.settings.load import load_settings

    lower = open_bank_lazily(load_settings().bank)
    if lower is None:
        return
    from streams.resolve.bank_fill import FillPass

    fill_pass = FillPass(engine, lower, wait=True)
    with progress("Filling the bank", None, unit="behaviours") as advance:
        while not fill_pass.is_done:
            advance(fill_pass.step())
    print(
        f"{fill_pass.behaviors:,} new behaviours; {fill_pass.computed:,} of their texts computed "
        f"for bank {lower.recipe.id}"
    )
