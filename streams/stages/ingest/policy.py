"""The partitioning policy that the ingest settings ask for."""

from __future__ import annotations

from interest.errors import InputError
from streams.settings.durations import parse_duration
from streams.settings.schema import IngestSettings
from streams.ubsp.policy import Dedupe, Policy, Scenes, Span


def policy_of(settings: IngestSettings) -> Policy:
    """The policy that the settings name. Raises InputError for one that cannot be."""
    try:
        return Policy(
            count=settings.count or None,  # 0 is how the environment says none
            gap_s=parse_duration(settings.gap) if settings.gap else None,
            span=Span(settings.span) if settings.span else None,
            tokens=settings.tokens,
            dedupe=None if settings.dedupe == "store" else Dedupe(settings.dedupe),
            scenes=Scenes(settings.scenes),
        )
    except ValueError as error:
        raise InputError(f"the settings of ingest make no policy: {error}") from error
