"""`streams.subscribe`: the call by which a Python program follows interests."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal, overload

from interest.errors import InputError
from interest.types import check_id
from streams.kafka.messages import InterestUpdate, RepresentationUpdate
from streams.kafka.topics import Topics, TopicSpec
from streams.settings.load import load_settings
from streams.settings.schema import KafkaSettings, Settings
from streams.subscription.start import Start
from streams.subscription.subscription import Subscription, log

Topic = Literal["updates", "latest", "representations"]


@overload
def subscribe(
    users: Collection[str] | str | None = None,
    start: Start = "now",
    group: str | None = None,
    *,
    topic: Literal["updates", "latest"] = "updates",
    settings: Settings | KafkaSettings | None = None,
    follow: bool = True,
    warn: Callable[[str], object] = log.warning,
) -> Subscription[InterestUpdate]: ...
@overload
def subscribe(
    users: Collection[str] | str | None = None,
    start: Start = "now",
    group: str | None = None,
    *,
    topic: Literal["representations"],
    settings: Settings | KafkaSettings | None = None,
    follow: bool = True,
    warn: Callable[[str], object] = log.warning,
) -> Subscription[RepresentationUpdate]: ...
def subscribe(
    users: Collection[str] | str | None = None,
    start: Start = "now",
    group: str | None = None,
    *,
    topic: Topic = "updates",
    settings: Settings | KafkaSettings | None = None,
    follow: bool = True,
    warn: Callable[[str], object] = log.warning,
) -> Any:
    """Subscribe to what is learnt about users: all of them, or those named.

    `topic`: "updates" has every update (as long as retention keeps them), "latest" each user's newest one,
    "representations" each user's newest vector. `start`: "beginning", "now", a moment (datetime with a time zone, or
    UTC seconds; the first message produced then or later), or the `positions()` of an earlier subscription.

    Of the two topics with the newest, what is there already comes once a user: when the subscription is opened they are
    read from `start` to their ends, to find which messages Kafka will keep when it compacts them, and only those are
    handed out; then every new one follows. A user who was forgotten since (a tombstone) does not come at all; of one
    forgotten while you follow nothing is handed out, and what you hold of the user is yours to delete. With a group all
    messages come, older ones too.

    Without a group, where to go on is in the caller's hands: save `positions()`. With one, Kafka keeps it: an update
    counts as done once the next one is asked for, so after a crash the last ones may come again (at least once), and
    processes with the same group share the users out. `start` then only counts where the group has no position yet.

    `follow=False` ends where the topic ended when the subscription was opened. `settings` default to the environment's.
    A broker that goes away is waited for, and `warn` hears of it. Raises KafkaError where no broker answers at the
    beginning, for a missing topic, and where retention has passed the position.
    """
    spec = getattr(Topics, topic, None)
    if not isinstance(spec, TopicSpec) or not spec.subscribed:
        raise InputError(f"there is no topic {topic!r} to subscribe to; there are updates, latest and representations")
    configured = settings or load_settings()
    kafka = configured.kafka if isinstance(configured, Settings) else configured
    kind: Any = spec.message
    wanted = {users} if isinstance(users, str) else None if users is None else set(users)
    if wanted is not None and not wanted:
        raise InputError("users names nobody; leave it out to follow everybody")
    for user in wanted or ():
        check_id(user)
    return Subscription(
        kafka,
        getattr(Topics(kafka.prefix), topic),
        kind,
        users=wanted,
        start=start,
        group=group,
        follow=follow,
        newest=spec.is_compacted,
        warn=warn,
    )
