"""What the fusion stage writes: vectors, representations and their announcements, each call inside a transaction.

Everything comes from the store's own rows; a message only says which interest to look at. Knows nothing of Kafka's
clients.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Connection, select

from fusion.encoders.item_text import ITEM_TEMPLATE
from fusion.interests.backfill import first_changed
from fusion.interests.centroids import items_of, partitions_at, read_centroids, write_centroids
from fusion.interests.item_vectors import texts_without_vectors
from fusion.interests.pool import HALF_LIFE
from fusion.interests.pooled_rows import VectorSource, lock_users, newest_of, pooled_id, unrepresented, write_pooled
from fusion.interests.text_vectors import EncodedInterest, Encoder, InterestKey, write_vectors
from fusion.tables import vectors
from streams.kafka.messages import RepresentationUpdate
from streams.store.outbox import Announcement

if TYPE_CHECKING:
    from fusion.serving.common_space import CommonSpace
    from fusion.training.artifact import Artifact


class RewrittenError(Exception):
    """A text was replaced, or its user forgotten, while it was being encoded: begin again with what is there now."""


@dataclass(frozen=True, slots=True)
class RepresentationConfig:
    """What representations are made with."""

    encoder: Encoder
    half_life: float = HALF_LIFE
    template: str = ITEM_TEMPLATE  # how items read
    artifact: Artifact | None = None  # none: pooled vectors are what is announced
    common: CommonSpace | None = None  # the artifact's

    def pooled(self, prompt_version: str) -> str:
        return pooled_id(self.encoder.id, prompt_version, self.half_life)


@dataclass(frozen=True, slots=True)
class MessagePosition:
    """Where in Kafka an announcement comes from."""

    partition: int
    offset: int
    n: int = 0


def write_batch(
    connection: Connection,
    config: RepresentationConfig,
    keys: Collection[InterestKey],
    encoded: Sequence[EncodedInterest],
) -> int:
    """Write vectors, centroids and every representation that they change; return how many representations.

    keys: all the interests at hand that are in the store; encoded: those of them that had no vectors. Those that had
    are represented again too, which changes nothing unless a crash or another program left it undone.
    Raises RewrittenError where the store has changed meanwhile: the transaction must not be committed.
    """
    lock_users(connection, (key.user_id for key in keys))
    if len(write_vectors(connection, config.encoder.id, encoded)) < len(encoded):
        raise RewrittenError
    write_centroids(connection, config.encoder.id, config.template, partitions_at(connection, map(_partition, keys)))
    written = 0
    for view, firsts in first_changed(config.encoder.id, keys).items():
        written += write_pooled(connection, view, config.half_life, firsts)
        if config.artifact is not None and view == _view(config.artifact):
            from fusion.serving.user_vectors import write_fused

            written += write_fused(connection, config.artifact, config.common, firsts)
    return written


def item_texts_waiting(
    connection: Connection, config: RepresentationConfig, keys: Collection[InterestKey]
) -> list[str]:
    """Texts without a vector of the items in these interests' partitions.

    They are to be encoded first, so that what is written of a partition does not depend on how far other work has come.
    """
    items = items_of(connection, partitions_at(connection, map(_partition, keys)))
    return texts_without_vectors(connection, config.encoder.id, config.template, sorted(items)) if items else []


def write_missing(connection: Connection, config: RepresentationConfig, users: Collection[str]) -> int:
    """Write the representations by the artifact that these users lack; return how many. Pools are never lacking."""
    if config.artifact is None:
        return 0
    from fusion.serving.user_vectors import write_fused

    lock_users(connection, users)
    view, placed = _view(config.artifact), config.common is not None
    firsts = unrepresented(connection, view, config.artifact.id, users, common=placed)
    return write_fused(connection, config.artifact, config.common, firsts)


def announcement(
    connection: Connection,
    config: RepresentationConfig,
    topic: str,
    user_id: str,
    place: MessagePosition,
    prompt_version: str | None = None,
) -> Announcement | None:
    """The message with a user's newest representation: by the artifact, else pooled; none where there is neither.

    prompt_version: of the pool; none: that of the user's newest vectors.
    """
    found = artifact = None
    if config.artifact is not None:
        artifact = config.artifact.id
        found = newest_of(connection, artifact, user_id)
    version = prompt_version or _newest_version(connection, config.encoder.id, user_id)
    if found is None and version is not None:
        artifact = config.pooled(version)
        found = newest_of(connection, artifact, user_id)
    if found is None or artifact is None:
        return None
    generation, index = found.history.generation, found.partition
    centroids = read_centroids(connection, (user_id, generation, index), config.encoder.id)
    update = RepresentationUpdate(
        user_id=user_id,
        index=index,
        generation=generation,
        artifact=artifact,
        vector=found.vector,
        common=found.common,
        encoder="" if centroids is None else centroids.encoder,
        liked=None if centroids is None else centroids.liked,
        disliked=None if centroids is None else centroids.disliked,
    )
    return Announcement(
        topic=topic,
        partition=place.partition,
        offset=place.offset,
        n=place.n,
        user_id=user_id,
        message=msgspec.json.encode(update),
    )


def announce_all(
    connection: Connection,
    config: RepresentationConfig,
    topic: str,
    users: Iterable[tuple[str, MessagePosition, str | None]],
) -> list[Announcement]:
    """The announcements of several users, each with its place and prompt version."""
    made = (announcement(connection, config, topic, user, place, version) for user, place, version in users)
    return [one for one in made if one is not None]


def _partition(key: InterestKey) -> tuple[str, int, int]:
    return key.user_id, key.generation, key.index


def _view(artifact: Artifact) -> VectorSource:
    return VectorSource(artifact.spec.encoder, artifact.spec.prompt_version)


def _newest_version(connection: Connection, encoder_id: str, user_id: str) -> str | None:
    query = (
        select(vectors.c.prompt_version)
        .where(vectors.c.user_id == user_id, vectors.c.encoder == encoder_id)
        .order_by(vectors.c.generation.desc(), vectors.c.index.desc(), vectors.c.prompt_version.desc())
        .limit(1)
    )
    return connection.scalar(query)
