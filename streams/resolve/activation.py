"""The active artifact: which trained artifact the stream's representations come from, for every worker by the store.

An activation is a row; the newest is in force. Workers look for a newer one now and then
(streams/stages/fusion/stage.py), so nothing is restarted. An activation with an empty artifact means the pooled
vectors again. torch is imported by `activate`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Connection, Engine, func, insert, select
from sqlalchemy.exc import IntegrityError

from fusion.interests.pooled_rows import VectorSource
from fusion.tables import activations, vectors
from interest.errors import ArtifactError, StoreError
from interest.store.sql import writing

if TYPE_CHECKING:
    from fusion.training.artifact import Artifact

LISTED = 5  # kinds of vectors that an error names


class Activation(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `activations`; number 0 stands for a store in which nothing was ever activated."""

    number: int = 0
    artifact: str = ""  # its id; empty: pooled vectors
    folder: str = ""  # absolute; every worker must find the artifact there


POOLED = Activation()


def read_activations(engine: Engine) -> list[Activation]:
    """All of them, newest first; the first one is in force."""
    with engine.connect() as connection:
        rows = connection.execute(select(activations).order_by(activations.c.number.desc())).mappings()
        return [Activation(**row) for row in rows]


def activate(engine: Engine, folder: Path) -> tuple[Activation, bool]:
    """Put the artifact in a folder in force; returns the activation and whether anything changed.

    Raises ArtifactError where it cannot be loaded, makes no user vectors, or reads vectors that the store has none of.
    """
    from fusion.serving.user_vectors import fusion_of
    from fusion.training.artifact import load_artifact

    artifact = load_artifact(folder)
    fusion_of(artifact)
    with engine.connect() as connection:
        _check_vectors(connection, artifact)
    return _add(engine, artifact.id, str(folder.resolve()))


def activate_pooled(engine: Engine) -> tuple[Activation, bool]:
    """Put the pooled vectors in force again; returns the activation and whether anything changed."""
    return _add(engine, "", "")


def open_activated(activation: Activation, encoder_id: str) -> Artifact | None:
    """The artifact of an activation, loaded and fit for a worker with this encoder; none: pooled vectors.

    Raises ArtifactError, with the remedy.
    """
    if not activation.artifact:
        return None
    from fusion.serving.user_vectors import fusion_of
    from fusion.training.artifact import load_artifact

    folder = Path(activation.folder)
    try:
        artifact = load_artifact(folder)
    except ArtifactError as error:
        raise ArtifactError(
            f"{error}. The activation names artifact {activation.artifact} in that folder: put it into that folder on "
            "every machine with a fusion stage, or run `interestream activate` with another"
        ) from None
    if artifact.id != activation.artifact:
        raise ArtifactError(
            f"{folder} holds artifact {artifact.id}, but {activation.artifact} was activated; run "
            f"`interestream activate {folder}` if the new one is meant"
        )
    fusion_of(artifact)
    if artifact.spec.encoder != encoder_id:
        raise ArtifactError(
            f"artifact {artifact.id} reads vectors of the text encoder {artifact.spec.encoder}, this worker encodes by "
            f"{encoder_id}; set INTERESTREAM_FUSION_ENCODER to the former's folder, or train on the latter's vectors"
        )
    return artifact


def _check_vectors(connection: Connection, artifact: Artifact) -> None:
    spec = artifact.spec
    view = VectorSource(spec.encoder, spec.prompt_version)
    query = select(vectors.c.user_id).where(view.vectors, vectors.c.generation == spec.generation).limit(1)
    if connection.scalar(query) is not None:
        return
    kinds = (vectors.c.prompt_version, vectors.c.encoder, vectors.c.generation)
    kinds_in_store = connection.execute(select(*kinds).distinct().order_by(*kinds).limit(LISTED)).all()
    listed = "; ".join(f"{version} by {encoder} (generation {number})" for version, encoder, number in kinds_in_store)
    raise ArtifactError(
        f"artifact {artifact.id} reads the texts of prompt version {spec.prompt_version} encoded by {spec.encoder} "
        f"(generation {spec.generation}), of which the store has none; it has: {listed or 'no vectors at all'}. "
        "Train an artifact on this store, or run `interestream fuse` with that encoder first"
    )


def _add(engine: Engine, artifact: str, folder: str) -> tuple[Activation, bool]:
    try:
        with writing(engine) as connection:
            query = select(activations).order_by(activations.c.number.desc()).limit(1)
            row = connection.execute(query).mappings().first()
            before = POOLED if row is None else Activation(**row)
            if (before.artifact, before.folder) == (artifact, folder):
                return before, False
            number = (connection.scalar(select(func.max(activations.c.number))) or 0) + 1
            added = Activation(number=number, artifact=artifact, folder=folder)
            connection.execute(insert(activations).values(**msgspec.structs.asdict(added)))
    except IntegrityError:  # PostgreSQL, where two may read the same greatest number
        raise StoreError(
            "another `interestream activate` ran at the same moment; see `interestream activate --show`, then run "
            "this one again if it is still meant"
        ) from None
    return added, True
