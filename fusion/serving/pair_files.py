"""Files of (user, item) pairs to score, and of their scores: CSV, Parquet, JSON lines. In blocks, never whole."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion.serving.requests import Scored
from fusion.serving.score import Pair
from interest.errors import InputError

BLOCK = 100_000  # pairs held at once: 20 MB; users whose pairs are further apart may be computed twice
COLUMNS = ("user_id", "item_id")
SCENE = "scene"  # a column that may be there: where the item would be offered
Block = tuple[list[Pair], list[str | None]]  # pairs and their scenes
Write = Callable[[Sequence[Scored]], None]


@dataclass(frozen=True, slots=True)
class PairFile:
    """A file that can be read as pairs, and how many."""

    path: Path
    rows: int

    def blocks(self) -> Iterator[list[Pair]]:
        """The pairs, in the file's order, at most BLOCK at a time."""
        yield from (pairs for pairs, _ in self.blocks_with_scenes())

    def blocks_with_scenes(self) -> Iterator[Block]:
        """The same, each with its pairs' scenes."""
        pairs = _parquet_pairs if self.path.suffix == ".parquet" else _csv_blocks
        yield from pairs(self.path)


def open_pairs(path: Path) -> PairFile:
    """A CSV or .parquet file with the columns user_id and item_id, perhaps scene, in any order and among others.

    A CSV file is read through once, so that a bad row is found before anything is scored; a Parquet file's rows are
    looked at as they are scored. Raises InputError, with the line, where a file or a row cannot be used.
    """
    if path.suffix == ".parquet":
        return PairFile(path, _parquet(path).metadata.num_rows)
    return PairFile(path, sum(len(pairs) for pairs, _ in _csv_blocks(path)))


def _csv_blocks(path: Path) -> Iterator[Block]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _check_columns(path, reader.fieldnames or ())
            told = SCENE in (reader.fieldnames or ())
            pairs: list[Pair] = []
            scenes: list[str | None] = []
            for row in reader:
                if not row["user_id"] or not row["item_id"]:
                    raise InputError(f"{path}, line {reader.line_num}: user_id or item_id is empty")
                pairs.append((row["user_id"], row["item_id"]))
                scenes.append(row[SCENE] or None if told else None)
                if len(pairs) == BLOCK:
                    yield pairs, scenes
                    pairs, scenes = [], []
            if pairs:
                yield pairs, scenes
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}") from None


def _parquet(path: Path) -> Any:
    """The open file, its columns checked. Ids are texts or whole numbers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    _check_columns(path, file.schema_arrow.names)
    for name in (*COLUMNS, *({SCENE} & set(file.schema_arrow.names))):
        kind = file.schema_arrow.field(name).type
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_integer(value)):
            raise InputError(f"{path}: column {name} is {kind}; ids are texts or whole numbers")
    return file


def _parquet_pairs(path: Path) -> Iterator[Block]:
    import pyarrow as pa

    done, file = 0, _parquet(path)
    told = SCENE in file.schema_arrow.names
    for batch in file.iter_batches(batch_size=BLOCK, columns=[*COLUMNS, *([SCENE] if told else [])]):
        users, items = (batch.column(name).cast(pa.string()).to_pylist() for name in COLUMNS)
        for row, pair in enumerate(zip(users, items, strict=True), done + 1):
            if not all(pair):
                raise InputError(f"{path}, row {row}: user_id or item_id is empty")
        scenes = batch.column(SCENE).cast(pa.string()).to_pylist() if told else [None] * len(batch)
        yield list(zip(users, items, strict=True)), [scene or None for scene in scenes]
        done += len(batch)


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if not set(COLUMNS) <= set(columns):
        raise InputError(f"{path} needs the columns user_id and item_id; it has: {', '.join(columns) or 'none'}")


def read_item_ids(path: Path) -> list[str]:
    """Item ids, one a line, or as one JSON list. Raises InputError where there are none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    found = json_list(text)
    ids = [line.strip() for line in text.splitlines() if line.strip()] if found is None else found
    if not ids:
        raise InputError(f"{path} has no item ids; write one a line, or a JSON list")
    return ids


def json_list(text: str) -> list[str] | None:
    """The ids of a JSON list of texts and whole numbers; None if the text is not such a list."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, list) or not all(type(one) in (str, int) for one in found):
        return None
    return [str(one) for one in found]


@contextmanager
def open_scores(path: Path, tasks: Sequence[str] = ()) -> Iterator[Write]:
    """Write scores to a .parquet, .csv, .jsonl or .ndjson file; it is there once all are written, and whole.

    tasks: the names of several, whose scores are columns named score_NAME, in JSON lines an object `tasks`.
    """
    writers = {".parquet": _parquet_writer, ".csv": _csv_writer, ".jsonl": _json_writer, ".ndjson": _json_writer}
    if path.suffix not in writers:
        raise InputError(f"--out {path}: give a name that ends with {', '.join(writers)}")
    partial = path.with_name(f"{path.name}.partial")
    try:
        with writers[path.suffix](partial, tasks) as write:
            yield write
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; make room or name another --out") from None
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _parquet_writer(path: Path, tasks: Sequence[str]) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = (pa.string(), pa.string(), pa.float64(), pa.bool_(), pa.bool_(), *[pa.float64()] * len(tasks))
    schema = pa.schema(list(zip(_columns(tasks), types, strict=True)))
    with pq.ParquetWriter(path, schema) as writer:
        yield lambda scored: writer.write_table(
            pa.table(
                [list(column) for column in zip(*(_row(one) for one in scored), strict=True)] or [[] for _ in types],
                schema=schema,
            )
        )


@contextmanager
def _csv_writer(path: Path, tasks: Sequence[str]) -> Iterator[Write]:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_columns(tasks))
        yield lambda scored: writer.writerows(
            [f"{cell:.6f}" if isinstance(cell, float) else str(cell).lower() if isinstance(cell, bool) else cell
             for cell in _row(one)]
            for one in scored
        )  # fmt: skip


@contextmanager
def _json_writer(path: Path, _tasks: Sequence[str]) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda scored: file.writelines(f"{json_line(one)}\n" for one in scored)


def _columns(tasks: Sequence[str]) -> list[str]:
    return [*Scored._fields[:-1], *(f"score_{task}" for task in tasks)]


def _row(scored: Scored) -> list[str | float | bool]:
    return [*scored[:-1], *(scored.tasks or {}).values()]


def json_line(scored: Scored) -> str:
    """One JSON object; scores have six decimals. `tasks` is there where there are several."""
    told = scored._asdict() | {"score": round(scored.score, 6)}
    if scored.tasks is None:
        del told["tasks"]
    else:
        told["tasks"] = {name: round(value, 6) for name, value in scored.tasks.items()}
    return json.dumps(told)
