"""Reads logs, catalogues and profiles as chunks of columns: CSV, TSV, JSON, Parquet, RecBole; one file or a folder.

Decides what a row is and where it stands in its file. Knows nothing of what the columns mean.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

from interest.errors import InputError
from streams.files import delimited, json_rows, parquet
from streams.files.table import Chunk, Table
from streams.files.text import Column

CHUNK = 20_000  # rows a chunk; also the rows of one store transaction
KNOWN = (*delimited.SEPARATORS, *json_rows.SUFFIXES, *parquet.SUFFIXES)
_UNREADABLE = (EOFError, OSError, zlib.error, pa.ArrowException)


class TableFile:
    """One file, or a folder of files of one format; its columns are known at once, its rows are streamed.

    `names` are the columns of a delimited file that has no header; `encoding` is that of text without a mark.
    """

    def __init__(self, path: Path, names: Sequence[str] = (), encoding: str | None = None) -> None:
        self.path = path
        paths = _files_in(path) if path.is_dir() else [path]
        self.parts: list[Table] = [_open(one, names, encoding) for one in paths]
        # a folder's own columns, as Hive and Spark write them: date=2022-04-08/part-0.parquet
        self._fixed = [_folder_columns(path, one) for one in paths]
        self._names = [str(one.relative_to(path)) if path.is_dir() else None for one in paths]
        self.columns = list(
            dict.fromkeys(
                [name for part in self.parts for name in part.columns] + [name for one in self._fixed for name in one]
            )
        )
        self.decimal_comma = any(part.decimal_comma for part in self.parts)
        self.lists = {name for part in self.parts for name in part.lists}
        if not self.columns:
            text = kind_of(paths[0]) in delimited.SEPARATORS
            raise InputError(f"{path} is empty: it has no header line" if text else f"{path} has no rows with columns")

    def chunks(self, columns: Sequence[str] | None = None, size: int = CHUNK) -> Iterator[Chunk]:
        """The rows in file order; `columns` limits what is decoded (all of them by default)."""
        wanted = list(columns if columns is not None else self.columns)
        for part, fixed, name in zip(self.parts, self._fixed, self._names, strict=True):
            own = [column for column in wanted if column in part.columns]
            last = 0
            try:
                for chunk in part.chunks(own, size):
                    last = chunk.lines[-1] if chunk.lines else last
                    if name is not None:
                        chunk.file = name
                        chunk.columns = _filled(chunk, wanted, fixed)
                    yield chunk
            except _UNREADABLE as error:
                where = self.path / name if name else self.path
                raise InputError(f"{where} is damaged after line {last:,}: {error}; copy it anew") from error


def kind_of(path: Path) -> str:
    """The ending that says the format, without .gz; letters of either case."""
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] == ".gz":
        endings.pop()
    return endings[-1] if endings else ""


def _open(path: Path, names: Sequence[str], encoding: str | None) -> Table:
    kind = kind_of(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if kind not in KNOWN:
        raise InputError(f"{path}: the ending {kind or '(none)'} is not known; use one of {' '.join(KNOWN)}")
    if names and kind not in delimited.SEPARATORS:
        raise InputError(f"{path} names its columns itself: --columns is for CSV and TSV files without a header")
    try:
        if kind in parquet.SUFFIXES:
            return parquet.ParquetFile(path)
        if kind in json_rows.SUFFIXES:
            return json_rows.JsonFile(path, encoding)
        return delimited.DelimitedFile(path, kind, names, encoding)
    except _UNREADABLE as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _files_in(folder: Path) -> list[Path]:
    """The folder's files in order of their names; hidden ones, and those that begin with _, are Spark's own."""
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and kind_of(path) in KNOWN
        and not path.name.endswith(".rejected.jsonl")
        and not any(part[0] in "._" for part in path.relative_to(folder).parts)
    )
    kinds = sorted({kind_of(path) for path in found})
    if len(kinds) != 1:
        what = f"files of several formats ({', '.join(kinds)})" if kinds else f"no file that ends in {' '.join(KNOWN)}"
        raise InputError(f"the folder {folder} has {what}; a log is a file, or a folder of files of one format")
    return found


def _folder_columns(folder: Path, path: Path) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    if folder != path:
        for part in path.relative_to(folder).parts[:-1]:
            name, sign, value = part.partition("=")
            if sign and name:
                found[name] = None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)
    return found


def _filled(chunk: Chunk, wanted: Sequence[str], fixed: dict[str, str | None]) -> dict[str, Column]:
    """The columns wanted; what a file of a folder lacks is missing in its rows, or the folder's name has it."""
    count = len(chunk.lines)
    return {name: chunk.columns[name] if name in chunk.columns else [fixed.get(name)] * count for name in wanted}
