"""`interestream forget`: deletes every trace of one user from the store and from the compacted topics."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from interest.errors import InputError, StoreError
from streams.commands.options import Store

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from streams.admin.forget_topics import ForgottenOnTopics
    from streams.settings.schema import KafkaSettings


def forget(
    user: Annotated[str | None, typer.Argument(help="The user's id.", show_default=False)] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    erase: Annotated[
        bool, typer.Option("--erase", help="Only rewrite the store's file, after a forget that could not do it.")
    ] = False,
    kafka: Annotated[
        bool | None,
        typer.Option(
            "--kafka/--no-kafka", help="Also delete from Kafka's topics. Default: if INTERESTREAM_KAFKA is set."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="With Kafka: send the tombstones even if the user is unknown.")
    ] = False,
    store: Store = None,
) -> None:
    """Delete every trace of USER: behaviours, partitions, interests, answers, vectors, representations, profile.

    All tables are cleared in one transaction; then the store's file is rewritten, so that none of the deleted text is
    left in it. The agent's workers notice and drop what they hold in memory; a running replay does not, so stop it
    first. With Kafka, the topics users, interest-latest and representations get tombstones for the user, and the
    user's dead letters are discarded. A message that a worker was just sending may arrive after the tombstones, so
    repeat the command if workers are running. If Kafka does not answer, or the command is interrupted, run the same
    command later to do the rest.

    A user whom neither the store nor those topics know is an error, and nothing is written: check the spelling.

    The topics behaviors, partitions and interest-updates keep the user's messages until their retention has passed.
    The store still knows how far each log was read: replaying the same log does not bring the user back, but rows not
    read yet, or the same log under another name, would. Log files, their .rejected.jsonl files and trained artifacts
    are not in the store and are left alone.
    """
    from streams.settings.load import read_settings, store_url
    from streams.store.engine import open_store
    from streams.store.forget import erase as erase_store

    if (user is None) != erase:
        raise InputError("name one user to forget, or give --erase alone")
    settings, origins = read_settings(None, os.environ)
    engine = open_store(store_url(store), create=False)
    if user is None:
        erase_store(engine)
        print("the store's file is rewritten")
    elif kafka is True or (kafka is None and "kafka.brokers" in origins):
        _forget_everywhere(engine, settings.kafka, user, yes=yes, force=force)
    else:
        _check(engine, user)
        _ask(f"Delete everything about user {user} from {_shown(engine)}?", yes=yes)
        _forget(engine, user)


def _forget_everywhere(engine: Engine, settings: KafkaSettings, user: str, *, yes: bool, force: bool) -> None:
    """The store first, then the topics; a user the store does not know may be one whose topics are still to do."""
    from streams.admin.forget_topics import forget_on_topics, topics_not_told
    from streams.kafka.clients import KafkaError
    from streams.store.forget import erase as erase_store

    left: StoreError | None = None
    try:
        _check(engine, user)
    except InputError as unknown:
        if not force:
            _look_on_topics(settings, user, unknown)
        print(unknown)
        _ask(f"Forget {user} on the topics at {settings.brokers} all the same?", yes=yes)
        try:
            erase_store(engine)  # an earlier run may have been interrupted before it did
        except StoreError as error:
            left = error
    else:
        _ask(
            f"Delete everything about user {user} from {_shown(engine)} and the topics at {settings.brokers}?", yes=yes
        )
        try:
            _forget(engine, user)
        except StoreError as error:  # the rows are gone, their bytes are not: told after the topics are done
            left = error
    try:
        done = forget_on_topics(settings, user)
    except KafkaError as error:
        raise topics_not_told(error) from error
    print("\n".join(said(done)))
    if left:
        raise left


def _look_on_topics(settings: KafkaSettings, user: str, unknown: InputError) -> None:
    """Raise InputError where the topics do not know the user either."""
    from streams.admin.forget_topics import known_on_topics, messages_on_topics
    from streams.progress import progress

    with progress("Looking on the topics", messages_on_topics(settings), unit="messages") as bar:
        known = known_on_topics(settings, user, bar)
    if not known:
        raise InputError(
            f"nothing was changed, for nobody knows {user!r}: at {settings.brokers} neither users, interest-latest and "
            "representations nor the dead letters have it (behaviours that no worker has read yet are not looked at: "
            "`interestream lag`). Of a forget that was interrupted, only the store's file can be left: `interestream "
            f"forget --erase`. And {unknown}"
        )


def said(done: ForgottenOnTopics) -> Iterator[str]:
    """What was done on the topics, and what only time does."""
    for topic, partitions in done.tombstones.items():
        yield f"{topic}: tombstones in all {partitions} partitions; Kafka drops the user's messages within a day"
    if done.letters:
        yield f"dead letters: {done.letters:,} of the user discarded"
    for topic, days in done.held.items():
        until = "for ever: it has no retention" if days is None else f"for {days:g} days at most"
        yield f"{topic}: a log; it holds what the user's messages said {until}"


def _check(engine: Engine, user: str) -> None:
    from streams.store.users import check_user

    with engine.connect() as connection:
        check_user(connection, user)


def _ask(question: str, *, yes: bool) -> None:
    if not yes and not typer.confirm(question):
        raise typer.Exit(1)


def _forget(engine: Engine, user: str) -> None:
    from fusion.adaptation.register import learnt_from
    from interest.write.rates import versions
    from streams.store.forget import forget as forget_user

    with engine.connect() as connection:
        adapted, frozen = learnt_from(connection, user), versions(connection)
    for table, rows in forget_user(engine, user).items():
        print(f"{table:<16}{rows:>10,} rows deleted")
    for one in adapted:
        how = "`interestream adapt`, or `tune encoder` where it is an encoder"
        print(f"{one.folder}: this model learnt from the user; make it anew ({how}), or remove it")
    if frozen:
        print(
            f"base rates {', '.join(frozen)} stay: counts of sampled partitions, without users, items, titles or "
            "times, by which texts were written; `interestream rates --freeze` makes new ones without the user"
        )


def _shown(engine: Engine) -> str:
    from streams.settings.load import shown_url

    return shown_url(engine.url.render_as_string(hide_password=False))
