"""The behaviour bank: the vector of every atomic behaviour and item, computed once by an LLM's lower layers.

Rows are keyed by a hash of the recipe (LLM, tokenizer, cut, pooling, template...) and the text, so several cuts lie
side by side and a changed recipe never finds an old vector. A filler claims texts before it computes them, in a short
transaction; a second filler passes claimed texts by. A filler that dies loses the batch in hand: its claims lapse.
Whoever writes to a bank holds its row in `banks` first, so that a removal comes before or after.

Decides nothing about what is read from it (fusion/bank/mmap_file.py, fusion/bank/index.py) or which texts there are
(fusion/bank/texts.py).
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, and_, bindparam, delete, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from fusion.bank.watermarks import read_watermarks
from fusion.encoders.recipe import Recipe
from fusion.tables import bank_marks, bank_vectors, banks
from interest.store.sql import insert_new, writing

KEYS_AT_ONCE = 500  # below every driver's limit on parameters
LEASE_S = 60.0  # a claim lapses after; it is renewed while its filler works
WAIT_S = 0.2  # between looks at what another filler is computing

OnRemoval = Callable[[Connection], object]


class BankEncoder(Protocol):
    """The encoder that fills a bank: texts to vectors by one recipe (`fusion.encoders.split_llm.LowerLayers`)."""

    recipe: Recipe

    @property
    def width(self) -> int: ...

    @property
    def batch_texts(self) -> int:
        """Texts that keep it busy; a filler claims so many, and a killed one loses them."""

    def __call__(self, texts: Sequence[str], advance: Callable[[int], None], /) -> NDArray[np.float32]: ...


class FillResult(NamedTuple):
    """What one fill of a bank came to."""

    asked: int  # distinct texts
    computed: int  # by this filler; the bank had the others, or another filler computed them
    left: int = 0  # claimed by other fillers, who had not written them when this one was done


@dataclass(slots=True)
class Claims:
    """One filler's claims on texts that it is about to compute."""

    engine: Engine
    recipe: Recipe
    width: int
    owner: str
    clock: Callable[[], float] = time.time
    renewed: float = 0.0

    @property
    def bank(self) -> str:
        return self.recipe.id

    def take(self, keys: Sequence[bytes]) -> list[bytes]:
        """Claim keys that nobody has computed and no living filler claims; return those claimed."""
        now = self.clock()
        rows = [{"bank": self.bank, "key": key, "owner": self.owner, "until": now + LEASE_S} for key in keys]
        with writing(self.engine) as connection:
            _lock_for_filling(
                connection, self.recipe, self.width
            )  # one filler at a time: none wait for each other's rows
            insert_new(connection, bank_vectors, rows)
            claimed: set[bytes] = set()
            for page in _pages(keys, KEYS_AT_ONCE):
                free = and_(_among(self.bank, page), bank_vectors.c.vector.is_(None))
                lapsed = update(bank_vectors).where(free, bank_vectors.c.until < now)
                connection.execute(lapsed.values(owner=self.owner, until=now + LEASE_S))
                ours = select(bank_vectors.c.key).where(free, bank_vectors.c.owner == self.owner)
                claimed.update(bytes(key) for key in connection.scalars(ours))
        self.renewed = now
        return [key for key in keys if key in claimed]

    def renew(self) -> None:
        """Renew the claims while work on them goes on; nearly always there is nothing to do."""
        now = self.clock()
        if now - self.renewed < LEASE_S / 3:
            return
        with writing(self.engine) as connection:
            _lock_shared(connection, self.bank)
            connection.execute(
                update(bank_vectors)
                .where(bank_vectors.c.bank == self.bank, bank_vectors.c.owner == self.owner)
                .values(until=now + LEASE_S)
            )
        self.renewed = now

    def keep(self, keys: Sequence[bytes], computed: NDArray[np.float32]) -> None:
        """Write vectors, whose claims may have been removed with their bank.

        Where a claim lapsed meanwhile and another filler was quicker, its vector stays.
        """
        statement = (
            update(bank_vectors)
            .where(
                bank_vectors.c.bank == self.bank, bank_vectors.c.key == bindparam("k"), bank_vectors.c.vector.is_(None)
            )
            .values(vector=bindparam("v"), owner=None, until=None)
        )
        packed = computed.astype("<f2")
        rows = [{"k": key, "v": row.tobytes()} for key, row in sorted(zip(keys, packed, strict=True), key=_first)]
        with writing(self.engine) as connection:
            _lock_for_filling(connection, self.recipe, self.width)
            _count_up(connection, self.bank, "computed", len(rows))
            insert_new(connection, bank_vectors, [{"bank": self.bank, "key": row["k"], "until": 0.0} for row in rows])
            connection.execute(statement, rows)

    def drop(self) -> None:
        """Give up every claim: others need not wait for it to lapse."""
        with writing(self.engine) as connection:
            _lock_shared(connection, self.bank)
            connection.execute(
                delete(bank_vectors).where(
                    bank_vectors.c.bank == self.bank,
                    bank_vectors.c.owner == self.owner,
                    bank_vectors.c.vector.is_(None),
                )
            )


def fill(
    engine: Engine,
    encoder: BankEncoder,
    texts: Iterable[str],
    *,
    advance: Callable[[int], None] = lambda _: None,
    clock: Callable[[], float] = time.time,
    chunk: int | None = None,
    wait: bool = True,
) -> FillResult:
    """Compute the vectors of those texts that the bank lacks; when it returns, it has them all.

    chunk: texts claimed and computed together, if not as many as the encoder wants.
    wait: False leaves to other fillers what they have claimed, and leaves out 5 and 6.

    1. Page by page, leave out what the bank has. 2. Claim a chunk. 3. Compute it. 4. Write it.
    5. Look again at what other fillers had claimed, until they have written it or their claims have lapsed.
    6. Look again at everything, which may have been removed meanwhile, until the bank has it.
    `advance` is called with texts that are done, whoever did them. An interrupted run leaves what it wrote.
    """
    recipe, chunk = encoder.recipe, chunk or encoder.batch_texts
    register(engine, recipe, encoder.width)
    claims = Claims(engine, recipe, encoder.width, uuid.uuid4().hex, clock)
    text_count = computed = 0
    wanted: dict[bytes, str] = {}
    claimed_elsewhere: dict[bytes, str] = {}
    try:
        for page in _pages(texts, max(KEYS_AT_ONCE, chunk)):
            wanted |= (known := dict(zip(recipe.keys(page), page, strict=True)))
            lacking = missing(engine, recipe.id, known)  # 1
            text_count += len(page)
            advance(len(page) - len(lacking))
            for part in _pages(lacking, chunk):
                claimed = _compute(claims, encoder, {key: lacking[key] for key in part})  # 2, 3, 4
                computed += len(claimed)
                advance(len(claimed))
                claimed_elsewhere |= {key: lacking[key] for key in part if key not in claimed}
        if wait:
            computed += _wait_for(claims, encoder, claimed_elsewhere, chunk, advance)  # 5
            while claimed_elsewhere := missing(engine, recipe.id, wanted):  # 6
                computed += _wait_for(claims, encoder, claimed_elsewhere, chunk, lambda _: None)
    except BaseException:
        with contextlib.suppress(SQLAlchemyError):  # the store may be what failed; then the claims lapse
            claims.drop()
        raise
    with writing(engine) as connection:
        _count_up(connection, recipe.id, "asked", text_count)
    return FillResult(text_count, computed, len(missing(engine, recipe.id, claimed_elsewhere)))


def _wait_for(
    claims: Claims, encoder: BankEncoder, texts: dict[bytes, str], chunk: int, advance: Callable[[int], None]
) -> int:
    """Wait until the bank has all of the texts; return how many were computed here."""
    computed = 0
    while texts:
        before = len(texts)
        texts = missing(claims.engine, claims.bank, texts)
        for part in _pages(texts, chunk):
            claimed = _compute(claims, encoder, {key: texts[key] for key in part})
            computed += len(claimed)
            texts = {key: text for key, text in texts.items() if key not in claimed}
        advance(before - len(texts))
        if len(texts) == before:
            time.sleep(WAIT_S)
    return computed


def _compute(claims: Claims, encoder: BankEncoder, texts: dict[bytes, str]) -> set[bytes]:
    claimed = claims.take(list(texts))
    if claimed:
        claims.keep(claimed, encoder([texts[key] for key in claimed], lambda _: claims.renew()))
    return set(claimed)


def register(engine: Engine, recipe: Recipe, width: int) -> None:
    """Register the bank, so that `stats` shows it and `gc` knows its template."""
    with writing(engine) as connection:
        _lock_for_filling(connection, recipe, width)


def read_vectors(connection: Connection, bank: str, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float16]]:
    """The vectors (d,) of those keys that the bank has."""
    out: dict[bytes, NDArray[np.float16]] = {}
    for page in _pages(keys, KEYS_AT_ONCE):
        query = select(bank_vectors.c.key, bank_vectors.c.vector).where(
            _among(bank, page), bank_vectors.c.vector.is_not(None)
        )
        out |= {bytes(key): np.frombuffer(vector, "<f2") for key, vector in connection.execute(query)}
    return out


def read_recipes(connection: Connection) -> dict[str, Recipe]:
    """Every bank's recipe, by id."""
    query = select(banks.c.id, banks.c.recipe).order_by(banks.c.id)
    return {row[0]: msgspec.json.decode(row[1], type=Recipe) for row in connection.execute(query)}


def remove(engine: Engine, bank: str, on_removal: OnRemoval = lambda _: None) -> int:
    """Remove a bank with its watermarks; return how many vectors went. Whoever is filling it makes it anew.

    on_removal: called first in the transaction, for whoever remembers what the bank held.
    """
    with writing(engine) as connection:
        on_removal(connection)
        _lock_for_removal(connection, bank)
        removed = count(connection, bank)
        connection.execute(delete(bank_vectors).where(bank_vectors.c.bank == bank))
        connection.execute(delete(bank_marks).where(bank_marks.c.bank == bank))
        connection.execute(delete(banks).where(banks.c.id == bank))
    return removed


def remove_keys(
    engine: Engine,
    bank: str,
    keys: Sequence[bytes],
    watermarks: Mapping[str, int],
    on_removal: OnRemoval = lambda _: None,
) -> int:
    """Remove vectors and lapsed claims that nothing led to at the given watermarks; return how many went.

    What came in since may lead to them again, and counts as filled: watermarks that are newer go too.
    """
    if not keys:
        return 0
    removed, lapsed = 0, or_(bank_vectors.c.vector.is_not(None), bank_vectors.c.until < time.time())
    with writing(engine) as connection:
        on_removal(connection)
        _lock_for_removal(connection, bank)
        for page in _pages(keys, KEYS_AT_ONCE):
            removed += connection.execute(delete(bank_vectors).where(_among(bank, page), lapsed)).rowcount
        newer = [{"u": user} for user, seq in read_watermarks(connection, bank).items() if watermarks.get(user) != seq]
        if newer:
            of_user = and_(bank_marks.c.bank == bank, bank_marks.c.user_id == bindparam("u"))
            connection.execute(delete(bank_marks).where(of_user), newer)
    return removed


def note_size(engine: Engine, bank: str, behaviors: int, texts: int) -> None:
    """Keep how many behaviours the store has and how many distinct texts they make, for the repeat rate."""
    with writing(engine) as connection:
        connection.execute(update(banks).where(banks.c.id == bank).values(behaviors=behaviors, texts=texts))


def read_keys(connection: Connection, bank: str) -> set[bytes]:
    """Every key of a bank, claims included: 100 bytes each."""
    return {bytes(key) for key in connection.scalars(select(bank_vectors.c.key).where(bank_vectors.c.bank == bank))}


def count(connection: Connection, bank: str) -> int:
    query = select(func.count()).where(bank_vectors.c.bank == bank, bank_vectors.c.vector.is_not(None))
    return connection.scalar(query) or 0


def missing(engine: Engine, bank: str, texts: dict[bytes, str]) -> dict[bytes, str]:
    """Those of the texts, by key, that have no vector yet; reads no vector."""
    present: set[bytes] = set()
    with engine.connect() as connection:
        for page in _pages(texts, KEYS_AT_ONCE):
            query = select(bank_vectors.c.key).where(_among(bank, page), bank_vectors.c.vector.is_not(None))
            present.update(bytes(key) for key in connection.scalars(query))
    return {key: text for key, text in texts.items() if key not in present}


def _among(bank: str, keys: Sequence[bytes]) -> Any:
    return and_(bank_vectors.c.bank == bank, bank_vectors.c.key.in_(keys))


def _lock_for_filling(connection: Connection, recipe: Recipe, width: int) -> None:
    """Lock the bank against other writers until the caller's transaction ends; register it where it is new or gone."""
    zero = {"asked": 0, "computed": 0, "behaviors": 0, "texts": 0}
    row = {"id": recipe.id, "recipe": msgspec.json.encode(recipe).decode(), "width": width} | zero
    locked = 0
    while not locked:  # until no removal comes between the two
        insert_new(connection, banks, [row])
        locked = connection.execute(update(banks).where(banks.c.id == recipe.id).values(width=width)).rowcount


def _lock_shared(connection: Connection, bank: str) -> None:
    """Lock the bank against removals until the caller's transaction ends.

    PostgreSQL locks its row for other writers to share; SQLite has one writer at a time anyway.
    """
    connection.execute(select(banks.c.id).where(banks.c.id == bank).with_for_update(read=True))


def _lock_for_removal(connection: Connection, bank: str) -> None:
    """Lock the bank for a removal: wait for its writers, and let later ones wait."""
    connection.execute(select(banks.c.id).where(banks.c.id == bank).with_for_update())


def _count_up(connection: Connection, bank: str, column: str, more: int) -> None:
    connection.execute(update(banks).where(banks.c.id == bank).values({column: banks.c[column] + more}))


def _first(row: tuple[bytes, Any]) -> bytes:
    return row[0]


def _pages(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    remaining = iter(values)
    while page := list(islice(remaining, size)):
        yield page
