"""Rows of a log become behaviours; a row that cannot be one is set aside with its line and the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from interest.types import MAX_ID, OFFERED, Behavior
from streams.files.entities import split_examples, with_entities
from streams.files.mapping import BEHAVIOR_NAMES, find_columns, time_columns
from streams.files.numbers import Floats, ValueRange, as_numbers, with_points
from streams.files.offer_log import LABELS, TAKEN, find_offers
from streams.files.readers import TableFile
from streams.files.rejects import RejectedRow
from streams.files.table import Chunk
from streams.files.text import Reasons, as_text, is_missing
from streams.files.time_column import TimeColumn, choose_time_column
from streams.files.times import as_times
from streams.files.understood import ColumnUse, Understood

READING = 2  # version of the rules by which a log is read: cells, ids, times, and names of columns. Part of its digest
FIRST = 200  # rows a chunk where one is looked for
_OPTIONAL_TEXTS = ("action", "scene", "event_id")
_NULL = "\1"  # a missing cell in a digest: no cell is this


class Rows(msgspec.Struct):
    """Usable neighbouring rows, as columns of one length; times are UTC seconds."""

    user_id: list[str]
    item_id: list[str]
    action: list[str]
    at: Floats
    value: list[float | None]
    scene: list[str | None]
    event_id: list[str | None]
    rejected: list[RejectedRow]

    def __len__(self) -> int:
        return len(self.user_id)

    def behaviors(self, start: int = 0) -> list[Behavior]:
        """Rows from `start` on as behaviours."""
        columns = (self.user_id, self.item_id, self.action, self.at.tolist(), self.value, self.scene, self.event_id)
        return [
            Behavior(user_id=user, item_id=item, action=action, at=at, value=value, scene=scene, event_id=event)
            for user, item, action, at, value, scene, event in zip(*(column[start:] for column in columns), strict=True)
        ]


class Digest:
    """Digest of the rows consumed so far, however they are chunked: a log whose past changed has another.

    It begins with the version of the reading rules. Those before versions had a digest of users, items and times only;
    it is kept beside, so that a log that was read by them and reads the same today is known again.
    """

    def __init__(self) -> None:
        self._columns = [hashlib.blake2b(digest_size=16) for _ in range(7)]

    def add(self, rows: Rows, start: int, stop: int) -> None:
        if start >= stop:
            return
        events: list[str | None] = rows.event_id
        if any(events[start:stop]):  # a name's own id is its item's: it says nothing more, and once there was none
            events = [None if event == item else event for event, item in zip(events, rows.item_id, strict=True)]
        texts: list[Sequence[str | None]] = [rows.user_id, rows.item_id, rows.action, rows.scene, events]
        *of_texts, times, values = self._columns
        for digest, column in zip(of_texts, texts, strict=True):
            digest.update(_joined(column, start, stop))
        times.update(np.ascontiguousarray(rows.at[start:stop]).tobytes())
        # None becomes NaN, which no value is
        values.update(np.array(rows.value[start:stop], dtype=np.float64).tobytes())

    def text(self) -> str:
        return f"{READING}:{_combined(self._columns)}"

    def matches(self, stored: str) -> bool:
        """Whether `stored` is the digest of these rows, by the rules of today or by those before versions."""
        users, items, _, _, _, times, _ = self._columns
        return stored == (self.text() if ":" in stored else _combined([users, items, times]))


def _combined(digests: list[hashlib.blake2b]) -> str:
    return hashlib.blake2b(b"".join(one.digest() for one in digests), digest_size=16).hexdigest()


def _joined(column: Sequence[str | None], start: int, stop: int) -> bytes:
    """Cells with NUL between, which none has."""
    cells = column[start:stop]
    return ("\0".join([_NULL if cell is None else cell for cell in cells] if None in cells else cells) + "\0").encode()  # type: ignore[arg-type]


class LogOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a log is read, where its file does not say it."""

    action: str | None = None  # of every row, if no column says it
    columns: tuple[str, ...] = ()  # of a file without a header
    allowed: ValueRange = ValueRange()  # values outside are rejected
    entities: bool = False  # what a log of offers knew of its users becomes behaviours (streams/files/entities.py)
    entity_separator: str | None = None  # between names in a cell; None: however a list may be written


class BehaviorLog:
    """A log whose columns have been found."""

    def __init__(
        self,
        file: TableFile | Path,
        column_map: Mapping[str, str],
        options: LogOptions = LogOptions(),  # noqa: B008  frozen
    ) -> None:
        self.file = file if isinstance(file, TableFile) else TableFile(file, options.columns)
        self.options, self.column_map = options, dict(column_map)
        required = ("user_id", "item_id", "at")
        self.fields = find_columns(self.path, self.file.columns, BEHAVIOR_NAMES, required, column_map)
        self.time = TimeColumn(self.fields["at"])
        if "at" not in column_map:
            candidates = time_columns(self.file.columns)
            taken = {column for field, column in self.fields.items() if field != "at"}
            self.time = choose_time_column(self.file, [one for one in candidates if one not in taken] or candidates)
            self.fields["at"] = self.time.column
        # AntM2C's rows are offers: a label says which of them was taken
        self.offers = find_offers(
            self.file, column_map, action=options.action, action_column=self.fields.get("action", "")
        )
        self.label = self.offers.label if self.offers else ""
        self.entities = self.offers.known if self.offers and options.entities else {}
        # a log without an action column is of one action: ratings where it has values, else views
        self.action = options.action or ("rate" if "value" in self.fields else "view")
        self.rows = 0  # of the last whole reading of the times
        self.whole_minutes = False  # whether none of these times tells seconds

    @property
    def path(self) -> Path:
        return self.file.path

    def first_row(self) -> str:
        """The first usable row, as text: what tells one log from another, whatever its file's name and format."""
        for chunk in self.file.chunks(size=FIRST):
            rows = self._rows(chunk)
            if len(rows):
                return str((rows.user_id[0], rows.item_id[0], rows.action[0], float(rows.at[0])))
        return ""

    def times(self) -> Iterator[Floats]:
        """The usable times of each chunk, in file order; decodes that column only."""
        self.rows, self.whole_minutes, usable = 0, True, 0
        for chunk in self.file.chunks([self.fields["at"]]):
            times = as_times(chunk.columns[self.fields["at"]], "at", {})
            self.rows += len(times) + len(chunk.broken)
            times = times[~np.isnan(times)]
            usable += len(times)
            self.whole_minutes = self.whole_minutes and not np.any(times % 60.0)
            yield times
        self.whole_minutes = self.whole_minutes and usable > 1

    def chunks(self) -> Iterator[Rows]:
        """The whole log as chunks of usable rows, in file order; with what was known of users before each."""
        for chunk in self.file.chunks():
            rows = self._rows(chunk)
            if self.entities:
                rows = with_entities(rows, chunk, self.entities, self.options.entity_separator)
            yield rows

    def understood(self, *, catalogue: bool = True) -> Understood:
        """The columns as they are taken, each with a value of the first usable row; of names, with the longest cell.

        catalogue: whether what a log of offers says of its items is read.
        """
        read: dict[str, str] = {}
        taken: dict[str, str] = {}
        for chunk in self.file.chunks(size=FIRST):
            rows = self._rows(chunk)
            if len(rows):
                bad = {(one.file, one.line) for one in rows.rejected}
                file = chunk.file or self.path.name
                place = next(row for row, line in enumerate(chunk.lines) if (file, line) not in bad)
                read = {name: "" if is_missing(cell) else str(cell) for name, cell in chunk.row(place).items()}
                first = rows.behaviors()[0]
                taken = {field: str(getattr(first, field)) for field in self.fields if field not in ("value", "label")}
                taken["label"] = first.action
                taken["at"] = f"{datetime.fromtimestamp(first.at, UTC):%Y-%m-%d %H:%M:%S} UTC"
                break
        meaning = {column: field for field, column in self.fields.items()}
        names = dict(self.entities)
        if self.offers:
            meaning[self.label] = "label"
            if catalogue and self.offers.title:
                meaning[self.offers.title] = "title"
                names |= {self.offers.about: "about"} if self.offers.about else {}
        uses = [
            ColumnUse(name, meaning.get(name, ""), read.get(name, ""), taken.get(meaning.get(name, ""), ""))
            for name in self.file.columns
            if name not in names
        ]
        examples = split_examples(self.file, list(names), self.options.entity_separator) if names else {}
        uses += [ColumnUse(name, of, *examples.get(name, ("", ""))) for name, of in names.items()]
        return Understood(self.path.name, uses, self._notes())

    def _notes(self) -> list[str]:
        notes = [f"time: {self.time.column}, not {name}, which {what}" for name, what in self.time.others.items()]
        if self.label:
            how = "--map label" if "label" in self.column_map else "by their columns as AntM2C's"
            taken = f"by its {self.fields['action']}" if "action" in self.fields else repr(self.options.action or TAKEN)
            notes.append(
                f"rows are offers, {how}: {self.label} 1 is a behaviour, {taken}; "
                f"{self.label} 0 a sample to train on, and no history ({OFFERED!r})"
            )
            if self.entities:
                notes.append(
                    f"what {', '.join(self.entities)} name are behaviours of the user when they are first known, and "
                    "no samples (--no-entities); --entity-separator, if a cell was split wrongly"
                )
        elif "action" not in self.fields:
            notes.append(f"no column holds an action: every row is {self.action!r} (--action)")
        if "value" not in self.fields:
            notes.append("no column holds a value, such as a rating or a price (--map value=COLUMN)")
        return notes

    def _rows(self, chunk: Chunk) -> Rows:
        reasons: Reasons = {}
        count, fields, columns = len(chunk.lines), self.fields, chunk.columns
        user_id = as_text(columns[fields["user_id"]], fields["user_id"], reasons, required=True)
        item_id = as_text(columns[fields["item_id"]], fields["item_id"], reasons, required=True)
        limit_ids(user_id, fields["user_id"], reasons)
        limit_ids(item_id, fields["item_id"], reasons)
        at = as_times(columns[fields["at"]], fields["at"], reasons)
        value: list[float | None] = [None] * count
        if "value" in fields:
            numbers = with_points(columns[fields["value"]]) if self.file.decimal_comma else columns[fields["value"]]
            value = as_numbers(numbers, fields["value"], reasons, self.options.allowed)
        optional: dict[str, list[str | None]] = {}
        for field in _OPTIONAL_TEXTS:
            if field in fields:
                optional[field] = as_text(columns[fields[field]], fields[field], reasons, required=field == "action")
        if self.label:
            labels = as_numbers(columns[self.label], self.label, reasons, ValueRange())
            for row, label in enumerate(labels):
                if label not in LABELS and row not in reasons:
                    reasons[row] = f"{self.label} is not 0 or 1"
            taken = optional.get("action", [self.options.action or TAKEN] * count)
            optional["action"] = [done if label else OFFERED for done, label in zip(taken, labels, strict=True)]
        nothing: list[str | None] = [None] * count
        file = chunk.file or self.path.name
        rows = Rows(
            user_id,  # type: ignore[arg-type]  # rows without one have a reason and are dropped below
            item_id,  # type: ignore[arg-type]
            optional.get("action", [self.action] * count),  # type: ignore[arg-type]
            at,
            value,
            optional.get("scene", nothing),
            optional.get("event_id", nothing),
            [RejectedRow(file=file, line=one.line, reason=one.reason, row=one.raw) for one in chunk.broken],
        )
        return _without(rows, chunk, file, reasons) if reasons else rows


def _without(rows: Rows, chunk: Chunk, file: str, reasons: Reasons) -> Rows:
    """The rows that have no reason to be set aside."""
    keep = [row for row in range(len(chunk.lines)) if row not in reasons]
    for row, reason in sorted(reasons.items()):
        line = chunk.lines[row]
        rows.rejected.append(RejectedRow(file=file, line=line, reason=reason, row=chunk.row(row)))
    rows.rejected.sort(key=lambda one: one.line)
    picked = {
        name: [getattr(rows, name)[row] for row in keep]
        for name in ("user_id", "item_id", "action", "value", "scene", "event_id")
    }
    return Rows(**picked, at=rows.at[keep], rejected=rows.rejected)


def limit_ids(ids: list[str | None], name: str, reasons: Reasons) -> None:
    """An id that no index could hold is a reason."""
    if max(map(len, filter(None, ids)), default=0) > MAX_ID // 4:  # a character is 4 bytes at most
        for row, one in enumerate(ids):
            if one is not None and row not in reasons and len(one.encode()) > MAX_ID:
                reasons[row] = f"{name} has {len(one.encode()):,} bytes; {MAX_ID:,} is the most"
