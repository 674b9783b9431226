"""Rows of a log become behaviours; a row that cannot be one is set aside with its line and the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from interest.errors import InputError
from interest.types import MAX_ID, Behavior
from streams.files.columns import Floats, Reasons, as_numbers, as_text, as_times
from streams.files.mapping import BEHAVIOR_NAMES, find_columns
from streams.files.readers import Chunk, TableFile


class RejectedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row that is not a behaviour, with the reason."""

    file: str
    line: int
    reason: str
    row: Any  # the row as read: columns, or the raw text where it could not be split


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
    """Digest of the rows consumed so far, however they are chunked: a log whose past changed has another."""

    def __init__(self) -> None:
        self._columns = [hashlib.blake2b(digest_size=16) for _ in range(3)]

    def add(self, rows: Rows, start: int, stop: int) -> None:
        users, items, times = self._columns
        if start < stop:
            users.update(("\0".join(rows.user_id[start:stop]) + "\0").encode())
            items.update(("\0".join(rows.item_id[start:stop]) + "\0").encode())
            times.update(np.ascontiguousarray(rows.at[start:stop]).tobytes())

    def text(self) -> str:
        return hashlib.blake2b(b"".join(column.digest() for column in self._columns), digest_size=16).hexdigest()


class BehaviorLog:
    """A log whose columns have been found."""

    def __init__(self, path: Path, column_map: Mapping[str, str], action: str | None = None) -> None:
        self.file = TableFile(path)
        self.field_columns = find_columns(
            path, self.file.columns, BEHAVIOR_NAMES, ("user_id", "item_id", "at"), column_map
        )
        # a log without an action column is of one action: ratings where it has values, else views
        self.action = action or ("rate" if "value" in self.field_columns else "view")
        self.rows = 0  # of the last whole reading of the times

    @property
    def path(self) -> Path:
        return self.file.path

    def first_row(self) -> str:
        """The first usable row, as text: what tells one log from another, whatever its file's name and format."""
        for rows in self.chunks():
            if len(rows):
                return str((rows.user_id[0], rows.item_id[0], rows.action[0], float(rows.at[0])))
        return ""

    def times(self) -> Iterator[Floats]:
        """The usable times of each chunk, in file order; decodes that column only."""
        self.rows = 0
        for chunk in self.file.chunks([self.field_columns["at"]]):
            times = as_times(chunk.columns[self.field_columns["at"]], "at", {})
            self.rows += len(times) + len(chunk.broken)
            yield times[~np.isnan(times)]

    def chunks(self) -> Iterator[Rows]:
        """The whole log as chunks of usable rows, in file order."""
        for chunk in self.file.chunks():
            yield self._rows(chunk)

    def _rows(self, chunk: Chunk) -> Rows:
        reasons: Reasons = {}
        count, fields, columns = len(chunk.lines), self.field_columns, chunk.columns
        user_id = as_text(columns[fields["user_id"]], fields["user_id"], reasons, required=True)
        item_id = as_text(columns[fields["item_id"]], fields["item_id"], reasons, required=True)
        _limit(user_id, fields["user_id"], reasons)
        _limit(item_id, fields["item_id"], reasons)
        at = as_times(columns[fields["at"]], fields["at"], reasons)
        value: list[float | None] = [None] * count
        if "value" in fields:
            value = as_numbers(columns[fields["value"]], fields["value"], reasons)
        optional: dict[str, list[str | None]] = {}
        for field in ("action", "scene", "event_id"):
            if field in fields:
                optional[field] = as_text(columns[fields[field]], fields[field], reasons, required=field == "action")
        nothing: list[str | None] = [None] * count
        rows = Rows(
            user_id,  # type: ignore[arg-type]  # rows without one have a reason and are dropped below
            item_id,  # type: ignore[arg-type]
            optional.get("action", [self.action] * count),  # type: ignore[arg-type]
            at,
            value,
            optional.get("scene", nothing),
            optional.get("event_id", nothing),
            [RejectedRow(file=self.path.name, line=one.line, reason=one.reason, row=one.raw) for one in chunk.broken],
        )
        return self._without(rows, chunk, reasons) if reasons else rows

    def _without(self, rows: Rows, chunk: Chunk, reasons: Reasons) -> Rows:
        keep = [row for row in range(len(chunk.lines)) if row not in reasons]
        for row, reason in sorted(reasons.items()):
            line = chunk.lines[row]
            rows.rejected.append(RejectedRow(file=self.path.name, line=line, reason=reason, row=chunk.row(row)))
        rows.rejected.sort(key=lambda one: one.line)
        picked = {
            name: [getattr(rows, name)[row] for row in keep]
            for name in ("user_id", "item_id", "action", "value", "scene", "event_id")
        }
        return Rows(**picked, at=rows.at[keep], rejected=rows.rejected)


def _limit(ids: list[str | None], name: str, reasons: Reasons) -> None:
    """An id that no index could hold is a reason."""
    if max(map(len, filter(None, ids)), default=0) > MAX_ID // 4:  # a character is 4 bytes at most
        for row, one in enumerate(ids):
            if one is not None and row not in reasons and len(one.encode()) > MAX_ID:
                reasons[row] = f"{name} has {len(one.encode()):,} bytes; {MAX_ID:,} is the most"


def refuse(rejected: RejectedRow) -> InputError:
    """What --strict says of the first bad row."""
    return InputError(
        f"{rejected.file}, line {rejected.line}: {rejected.reason} (--strict stops at the first bad row; "
        "what came before it may be in the store already, the same command goes on from there)"
    )
