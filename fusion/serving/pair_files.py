"""Files of (user, item) pairs to score."""

from __future__ import annotations

import csv
from pathlib import Path

from fusion.serving.score import Pair
from interest.errors import InputError


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a CSV file with the columns user_id and item_id, in any order and among others.

    Raises InputError, with the line, where a file or a row cannot be used.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if not {"user_id", "item_id"} <= set(columns):
                raise InputError(
                    f"{path} needs the columns user_id and item_id; it has: {', '.join(columns) or 'none'}"
                )
            pairs = []
            for row in reader:
                if not row["user_id"] or not row["item_id"]:
                    raise InputError(f"{path}, line {reader.line_num}: user_id or item_id is empty")
                pairs.append((row["user_id"], row["item_id"]))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    return pairs
