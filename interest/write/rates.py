"""Frozen base rates in the store: made once from what it holds, named by their version, never changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable

import msgspec
from sqlalchemy import Connection, Engine, func, select

from interest.errors import InputError, StoreError
from interest.facts.base_rates import LEAST, BaseRates, decode, encode, freeze
from interest.facts.counts import Facts
from interest.store.sql import insert_new, partition_of, writing
from interest.store.tables import base_rates, partitions
from interest.types import Partition
from interest.write.backlog import CHAINED, FROZEN, Plan, load, read_categories
from interest.write.knowledge import BY_RATES

SAMPLED = 1000  # users; a rate of a tenth is then known to a point
AT_ONCE = 100  # partitions whose facts are read together
Advance = Callable[[int], None]


def with_rates(
    engine: Engine,
    prompt_version: str,
    *,
    freeze_new: Callable[[Engine], BaseRates] | None = None,
) -> tuple[str, BaseRates | None]:
    """The whole name of a prompt version, and the base rates that it reads; none where it reads none.

    "plain-2" alone names the rates frozen last. freeze_new: makes them where the store has none.

    Raises InputError where the store does not have what is named.
    """
    name, chained = prompt_version.removesuffix(CHAINED), prompt_version.endswith(CHAINED)
    family, _, version = name.partition(FROZEN)
    if family not in BY_RATES:
        return prompt_version, None
    with engine.connect() as connection:
        rates = read_rates(connection, version or None)
    if rates is None and not version and freeze_new is not None:
        rates = freeze_new(engine)
    if rates is None:
        what = f"base rates {version!r}" if version else "frozen base rates"
        raise InputError(
            f"the prompt version {prompt_version!r} reads base rates, and this store has no {what}; "
            "`interestream rates` shows what it has, and freezes or imports others"
        )
    return f"{family}{FROZEN}{rates.version}{CHAINED if chained else ''}", rates


def read_rates(connection: Connection, version: str | None = None) -> BaseRates | None:
    """The base rates of that version, or those that were frozen last; none where there are none."""
    query = select(base_rates.c.version, base_rates.c.body).order_by(base_rates.c.number.desc()).limit(1)
    row = connection.execute(query if version is None else query.where(base_rates.c.version == version)).one_or_none()
    if row is None:
        return None
    try:
        rates = decode(row.body)
    except msgspec.DecodeError as error:
        raise StoreError(f"the base rates {row.version} cannot be read: {error}; freeze others") from error
    if rates.version != row.version:
        raise StoreError(f"the base rates {row.version} are not what was frozen; import them anew, or freeze others")
    return rates


def rates_of(connection: Connection, prompt_version: str) -> BaseRates | None:
    """The base rates that the texts of a version were written by; none where it reads none, or the store lost them."""
    family, _, version = prompt_version.removesuffix(CHAINED).partition(FROZEN)
    return read_rates(connection, version) if family in BY_RATES and version else None


def versions_named(asked: str, found: Iterable[str]) -> list[str]:
    """The versions among `found` that a user means by `asked`: that one; else those of its name, whatever base rates
    they read and chained or not ("plain-3" of "plain-3@1f0c52aa").
    """
    if asked in (there := sorted(found)):
        return [asked]
    named = [(version, re.sub(rf"{FROZEN}[^+]*", "", version)) for version in there]
    return [version for version, name in named if asked in (name, name.removesuffix(CHAINED))]


def versions(connection: Connection) -> list[str]:
    """The versions that the store has, the last one frozen first."""
    return list(connection.execute(select(base_rates.c.version).order_by(base_rates.c.number.desc())).scalars())


def write_rates(engine: Engine, rates: BaseRates) -> None:
    """Store base rates as the newest; rates that are there already stay where they are."""
    with writing(engine) as connection:
        number = connection.scalar(select(func.max(base_rates.c.number))) or 0
        row = {"version": rates.version, "number": number + 1, "body": encode(rates).decode()}
        insert_new(connection, base_rates, [row])


def freeze_rates(engine: Engine, advance: Advance = lambda _count: None) -> BaseRates:
    """Freeze the base rates of this store as it is now: of one partition each of up to SAMPLED users.

    Users and their partitions are drawn by a hash of the ids: the same store gives the same rates. `advance` is called
    with the number of partitions read.

    Raises InputError where too few users have a closed partition.
    """
    facts: list[Facts] = []
    with engine.connect() as connection:
        generation = connection.scalar(select(func.max(partitions.c.generation))) or 0
        heads = _draw(connection, generation)
        if len(heads) < LEAST:
            raise InputError(
                f"{len(heads)} users have a closed partition, and base rates take {LEAST} at least: replay more of the "
                "log, or import rates that were frozen elsewhere (`interestream rates --import FILE`)"
            )
        categories = read_categories(connection)
        for start in range(0, len(heads), AT_ONCE):
            works = load(connection, Plan(), heads[start : start + AT_ONCE], categories)
            facts += [work.evidence.facts for work in works]
            advance(len(works))
    rates = freeze(facts)
    write_rates(engine, rates)
    return rates


def _draw(connection: Connection, generation: int) -> list[Partition]:
    """One partition of each drawn user, in the order of the draw."""
    counts = select(partitions.c.user_id, func.count()).where(partitions.c.generation == generation)
    users = {row[0]: int(row[1]) for row in connection.execute(counts.group_by(partitions.c.user_id))}
    digests = {user: hashlib.sha256(user.encode(errors="surrogatepass")).digest() for user in users}
    chosen = sorted(users, key=digests.__getitem__)[:SAMPLED]
    heads = []
    for user in chosen:
        place = int.from_bytes(digests[user][:8]) % users[user]
        query = select(partitions).where(partitions.c.user_id == user, partitions.c.generation == generation)
        row = connection.execute(query.order_by(partitions.c.index).offset(place).limit(1)).mappings().one_or_none()
        if row is not None:  # else the user is being forgotten
            heads.append(partition_of(row))
    return heads
