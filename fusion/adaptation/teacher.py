"""A teacher's summaries as reading comprehension (CPRM's third part): kept where the text leads back to its item.

A larger model has said what it knows of the items that are learnt. A summary round-trips if, among its own item and 99
others, the sentence encoder finds its item nearest; the others are dropped and counted. Asks nobody itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from fusion.adaptation.document import Document, Kind, dialogue
from fusion.encoders.item_text import ITEM_TEMPLATE, catalogue_text
from fusion.features.log import Array
from interest.errors import ArtifactError
from interest.facts.counts import readable_title
from interest.types import Item
from interest.write.escape import Escape

AMONG = 100  # items, its own counted
LONGEST = 1_000  # characters of a summary
LEAST_TOLD = 40  # characters of one without its title, of which its item is asked for
NAME = "teacher.json"


@dataclass(frozen=True, slots=True)
class Teacher:
    """Who teaches, and how it is asked."""

    name: str  # model, as answers are stored under it
    items: int  # that it is asked about, at most
    ask: Callable[[Sequence[Item]], Mapping[str, str]]  # summaries by item id; items without one are left out
    encode: Callable[[list[str]], Array]  # texts as vectors of length 1

    @property
    def key(self) -> str:
        return f"{self.name}/{self.items}"


class Taught(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: the summaries that are learnt, and how many there are not."""

    kept: dict[str, str] = {}  # by item id
    dropped: int = 0  # that did not lead back to their item
    silent: int = 0  # items without a summary


def teach(teacher: Teacher, catalogue: Mapping[str, Item], often: Mapping[str, int], seed: int) -> Taught:
    """Ask about the items met most often, and keep the summaries that round-trip."""
    ordered = sorted(catalogue.values(), key=lambda item: (-often.get(item.item_id, 0), item.item_id))
    wanted = [item for item in ordered if item.title.strip()][: teacher.items]
    said = teacher.ask(wanted)
    kept = round_trip(said, catalogue, teacher.encode, seed)
    return Taught(kept=kept, dropped=len(said) - len(kept), silent=len(wanted) - len(said))


def round_trip(
    said: Mapping[str, str], catalogue: Mapping[str, Item], encode: Callable[[list[str]], Array], seed: int
) -> dict[str, str]:
    """The texts whose own item is nearest to them among AMONG, or among all where there are fewer.

    Items that read as its own are none of the others. Which others it meets is drawn by the item's id.
    """
    reads = {item_id: text for item_id, item in catalogue.items() if (text := catalogue_text(ITEM_TEMPLATE, item))}
    asked = sorted(item_id for item_id in said if item_id in reads and said[item_id].strip())
    if not asked:
        return {}
    distinct = sorted(set(reads.values()))
    row = {text: at for at, text in enumerate(distinct)}
    items, texts = encode(distinct), encode([said[item_id] for item_id in asked])  # (I, d), (A, d)
    kept = {}
    for at, item_id in enumerate(asked):
        own = row[reads[item_id]]
        others = np.delete(np.arange(len(distinct)), own)
        rng = np.random.default_rng([seed, *item_id.encode()])
        met = rng.permutation(others)[: AMONG - 1]
        if len(met) and texts[at] @ items[own] > (items[met] @ texts[at]).max():
            kept[item_id] = said[item_id]
    return kept


def taught_documents(
    taught: Taught, catalogue: Mapping[str, Item], escape: Escape, passed: int, seed: int, noun: str
) -> Iterator[Document]:
    """A question about each summary: what is known of its item, or, in every other pass, which item it tells of."""
    order = np.random.default_rng((seed, passed, 7)).permutation(len(taught.kept))
    ids = sorted(taught.kept)
    for at in order:
        item_id = ids[int(at)]
        if (item := catalogue.get(item_id)) is None:
            continue
        title, text = escape(readable_title(item)[0]), escape(taught.kept[item_id], LONGEST)
        if not title or not text:
            continue
        quoted = title.replace('"', "'")  # it stands between quotation marks
        masked = re.sub(rf"(?<!\w){re.escape(title)}(?!\w)", f"This {noun}", text, flags=re.IGNORECASE)
        pair = (f'What do you know of the {noun} "{quoted}"?', text)
        if (passed + int(at)) % 2 and len(masked) >= LEAST_TOLD:
            pair = (f"Which {noun} is this? {masked}", f'"{quoted}".')
        yield Document(kind=Kind.READING, pieces=dialogue(*pair), chat=True)


def read_taught(folder: Path) -> Taught | None:
    """What an interrupted run was taught; None where it had not asked yet."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Taught)
    except msgspec.MsgspecError as error:
        raise ArtifactError(
            f"{path} cannot be read ({error}); remove it, and the teacher's answers are read anew"
        ) from None


def write_taught(folder: Path, taught: Taught) -> None:
    partial = folder / f"{NAME}.partial"
    partial.write_bytes(msgspec.json.encode(taught))
    partial.replace(folder / NAME)
