"""A user's side and candidates as samples, so that one way leads from samples to batches in training and in serving."""

from __future__ import annotations

import numpy as np

from fusion.features.counts import count_columns
from fusion.features.impressions import Impressions
from fusion.features.log import Array
from fusion.features.samples import Named, Samples
from fusion.features.scenes import offered_rows
from fusion.features.spec import profile_table
from fusion.serving.key_side import LiveKeys, empty_keys
from fusion.serving.known_items import KnownItems
from fusion.serving.match_side import empty_match, scalars
from fusion.serving.user_side import LastSeen, UserSide, empty_recent
from fusion.training.artifact import Artifact


def side_samples(
    artifact: Artifact,
    known: KnownItems,
    side: UserSide,
    last: LastSeen,
    places: Array,
    scene: str | None,
    *,
    texts: bool,
) -> Samples:
    """The candidates with these places (n,): a log of the behaviours that are read one by one, counts from the sums.

    texts: the model reads texts, so that items are named.
    """
    profile, vectors, at, _ = last
    spec, many = artifact.spec, len(places)
    recent = side.recent or empty_recent(spec, side.user_id)
    size, own = recent.log.size, len(recent.places)
    table = known.table(np.concatenate([recent.places, places]))
    impressions = Impressions(
        user=np.zeros(many, np.int32),
        item=(own + np.arange(many)).astype(np.int32),
        at=np.full(many, at),
        seq=np.full(many, side.newest + 1),
        first=np.zeros(many, np.int64),
        stop=np.full(many, size),
    )
    offered = known.categories[places, : known.most_categories]
    past = side.sums(spec, offered, known.slots[places])
    dense = count_columns(past, known.counts[places], impressions.at, spec.scale)
    if known.match is not None:
        own_match = side.match or empty_match(known.match)
        dense = np.hstack([dense, scalars(own_match, spec, known.match, places, impressions, vectors)])
    dense -= np.array(spec.dense_mean, np.float32)
    dense /= np.array(spec.dense_std, np.float32)
    keys = None
    if spec.keys is not None:
        named = np.concatenate([recent.places, places])
        keys = LiveKeys(spec, side.keys or empty_keys(spec.keys), table, named, known.row)
    ids = [*recent.log.items, *(known.ids[place] for place in places)] if texts else []
    return Samples(
        spec=spec,
        impressions=impressions,
        events=recent.events,
        items=table,
        profiles=profile_table(spec, [side.user_id], {} if profile is None else {side.user_id: profile}),
        dense=dense,
        interest_vectors=vectors,
        named=Named(recent.log, ids, known.catalogue),
        scene=offered_rows(spec, [scene]).repeat(many) if spec.offers_scenes else None,
        keys=keys,
    )
