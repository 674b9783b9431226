"""A pre-trained encoder as one directory, and how a CTR model takes it over.

config.json, spec.json, metrics.json and model.safetensors, as an artifact has them; it scores nothing by itself.
Rows of vocabularies are matched by their texts, so a store that has grown since takes over what it shares; buckets of
values have no texts, so who trains on it keeps the encoder's (`DatasetConfig.value_edges`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fusion.features.dataset import Dataset, Labelled
from fusion.features.events import Events, behavior_rows
from fusion.features.impressions import PastIndex
from fusion.features.log import Array
from fusion.features.spec import FIRST, UNKNOWN, Column, FeatureSpec, item_table
from fusion.features.splits import TRAIN, VALID, Split
from fusion.features.splits import split as parts
from fusion.models.srp4ctr.fgbert import FgBert, FgBertConfig
from fusion.models.srp4ctr.model import Srp4Ctr
from fusion.training.artifact import PRETRAINING, artifact_id, begin, complete, kind_in, save_weights, versions, whole
from fusion.training.checkpoint import fingerprint_of, remove_checkpoint
from fusion.training.distributed import ALONE, Processes
from fusion.training.pretrain import PretrainConfig, PretrainData, PretrainEpoch, Pretraining, pretrain
from interest.errors import ArtifactError

FILES = ("config.json", "metrics.json", "model.safetensors", "spec.json")
DECIDING = ("config.json", "model.safetensors", "spec.json")


class PretrainedConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: str  # "fgbert"
    encoder: FgBertConfig
    training: PretrainConfig
    split: str
    events: int  # of the training part
    until: float  # event time of the newest of them
    versions: dict[str, str]
    layout: int = 1


@dataclass(frozen=True, slots=True)
class Pretrained:
    id: str
    folder: Path
    config: PretrainedConfig
    spec: FeatureSpec
    weights: dict[str, Tensor]  # of the encoder; of what is out of vocabulary: `start_unknown_rows`


def run(
    read: Labelled,
    encoder: FgBertConfig,
    config: PretrainConfig,
    *,
    split: str,
    folder: Path,
    advance: Callable[[int], None] = lambda _: None,
    report: Callable[[PretrainEpoch], None] = lambda _: None,
    device: torch.device | None = None,
    dist: Processes = ALONE,
) -> list[PretrainEpoch]:
    """Pre-train into `folder`, going on there after an interruption. Only events of the training part are learnt."""
    torch.manual_seed(config.seed)
    model = Pretraining(read.spec, encoder).to(device or torch.device("cpu"))
    data = data_of(read)
    shown = (read.labels, read.part, *read.log.content, data.table.row, data.table.categories, data.table.attributes)
    epochs = pretrain(
        model, data, config,
        folder=folder, fingerprint=fingerprint_of([read.spec, encoder, config], shown),
        advance=advance, report=report, dist=dist,
    )  # fmt: skip
    if dist.first:
        start_unknown_rows(model.encoder, data)
        scratch = begin(folder)
        save_weights(model, scratch / "model.safetensors")
        read.spec.save(scratch / "spec.json")
        record = PretrainedConfig(
            kind=PRETRAINING, encoder=encoder, training=config, split=split,
            events=int(data.train.sum()), until=float(read.log.at[data.train].max()), versions=versions(),
        )  # fmt: skip
        for name, value in (("metrics.json", epochs), ("config.json", record)):
            (scratch / name).write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=1))
        complete(folder, FILES)
        remove_checkpoint(folder)
    dist.wait()
    return epochs


def data_of(read: Labelled) -> PretrainData:
    table = item_table(read.spec, read.log.items, read.catalogue)
    return PretrainData(read.spec, read.log, table, read.part == TRAIN, read.part == VALID)


@torch.no_grad()
def start_unknown_rows(encoder: FgBert, data: PretrainData) -> None:
    """Give the unknown row of every table whose training events had none the mean of the rows that they had.

    Pre-training's vocabularies hold all that it reads, so that row is the random one it began as, and what came later
    (an item, a category, an action) starts from it.
    """
    for table, met in _met(encoder, data):
        known = met[met >= FIRST]
        if len(known) and UNKNOWN not in met:
            table.weight[UNKNOWN] = table.weight[torch.from_numpy(known)].mean(dim=0)


def _met(encoder: FgBert, data: PretrainData) -> Iterator[tuple[nn.Embedding, Array]]:
    """The tables that have an unknown row, and which of their rows the training events have."""
    rows, table = np.flatnonzero(data.train), data.table
    place = np.unique(data.log.item[rows]) + 1
    yield encoder.item, np.unique(table.row[place])
    yield encoder.category, np.unique(table.categories[place])
    for number, own in enumerate(encoder.attributes):
        yield cast(nn.Embedding, own), np.unique(table.attributes[place, number])
    past = PastIndex(rows, data.log.user[rows].astype(np.int64))
    fields = Events(data.spec, data.log, data.spec.label.labels(data.log), past).behavior(np.arange(len(rows)))
    for number, name in enumerate(behavior_rows(data.spec)):
        if name != "since":  # whose row 1 is not a day
            yield cast(nn.Embedding, encoder.behavior[number]), np.unique(fields[:, number])


def load_pretrained(folder: Path) -> Pretrained:
    """Raises ArtifactError, naming the file, where something is missing, broken or of another version."""
    kind = kind_in(folder)
    if kind not in (None, PRETRAINING):
        raise ArtifactError(f"{folder} is a trained artifact ({kind}), not a pre-training; name what `pretrain` wrote")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ArtifactError(
            f"{folder} is not a complete pre-training, it lacks {', '.join(missing)}; "
            "run `interestream pretrain fgbert` into it"
        )
    spec = FeatureSpec.load(folder / "spec.json")
    again = "pre-train again into a new folder"
    with whole(folder / "config.json", again), torch.device("meta"):
        config = msgspec.json.decode((folder / "config.json").read_bytes(), type=PretrainedConfig)
        wanted = FgBert(spec, config.encoder).state_dict()
    with whole(folder / "model.safetensors", again):
        held = load_file(folder / "model.safetensors")
    weights = {name.removeprefix("encoder."): value for name, value in held.items() if name.startswith("encoder.")}
    ours, theirs = ({name: value.shape for name, value in own.items()} for own in (wanted, weights))
    if apart := sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name)):
        raise ArtifactError(
            f"{folder / 'model.safetensors'} does not fit spec.json and config.json beside it ({len(apart)} weights, "
            f"{apart[0]} first); {again}"
        )
    return Pretrained(artifact_id(folder, DECIDING), folder, config, spec, weights)


def check(pretrained: Pretrained, spec: FeatureSpec, *, split: str, until: float) -> None:
    """Raises ArtifactError where the encoder may have seen what is to be tested, or reads behaviours differently."""
    own, name = pretrained.config, pretrained.folder
    differ = {
        "--split": (own.split, split),
        "--label": (str(pretrained.spec.label), str(spec.label)),
        "value buckets": (pretrained.spec.value_edges, spec.value_edges),
    }
    for what, (theirs, ours) in differ.items():
        if theirs != ours:
            raise ArtifactError(
                f"{name} was pre-trained with {what} {theirs}, not {ours}; pre-train again into a new folder"
            )
    if own.until > until:
        raise ArtifactError(
            f"{name} was pre-trained on events up to {own.until:.0f}, later than this store's training part "
            f"({until:.0f}): it may have seen what is to be tested; pre-train on this store"
        )


def encoder_for(pretrained: Pretrained | None, dataset: Dataset, *, split: Split, positions: int) -> FgBertConfig:
    """The encoder that a CTR model is to have: the pre-trained one's, if it fits (see `check`), or a fresh one's.

    It may read longer histories than pre-training did (see `adopt`).
    """
    if pretrained is None:
        return FgBertConfig(positions=positions)
    newest = float(dataset.log.at[parts(dataset.log, split) == TRAIN].max())
    check(pretrained, dataset.spec, split=split, until=newest)
    own = pretrained.config.encoder
    return msgspec.structs.replace(own, positions=max(own.positions, positions))


def take_over(model: Srp4Ctr, spec: FeatureSpec, pretrained: Pretrained | None) -> None:
    """Start a fresh SRP4CTR, candidate's side included, from pre-trained weights."""
    if pretrained is not None:
        adopt(model.encoder, spec, pretrained)
        model.follow_encoder()


@torch.no_grad()
def adopt(encoder: FgBert, spec: FeatureSpec, pretrained: Pretrained) -> None:
    """Put the pre-trained weights into `encoder`; a text that pre-training did not know starts as its unknown row.

    Where the encoder reads more positions, the older ones start as the oldest that pre-training had. Windows as long as
    a long history are slow to learn from (ML-1M, 256 columns: far fewer hits than with 64 after as many steps).
    """
    old = pretrained.spec
    rows = {
        "item": _matched(spec.items[: spec.trained_items], old.items[: old.trained_items]),
        "category": _column(spec.categories, old.categories),
    }
    ours, known = list(behavior_rows(spec)), list(behavior_rows(old))
    for name, own, other in (("action", spec.actions, old.actions), ("scene", spec.scenes, old.scenes)):
        if name in ours and name in known:
            rows[f"behavior.{known.index(name)}"] = _column(own, other)
    theirs = {column.name: number for number, column in enumerate(old.item_columns)}
    weights = dict(pretrained.weights)
    held = encoder.state_dict()
    for number, column in enumerate(spec.item_columns):
        name = f"attributes.{number}.weight"
        if column.name in theirs:
            place = theirs[column.name]
            source = pretrained.weights[f"attributes.{place}.weight"]
            weights[name] = source[_column(column, old.item_columns[place])]
        else:
            weights[name] = torch.zeros_like(held[name])  # says nothing until it is trained
    for name, matched in rows.items():
        weights[f"{name}.weight"] = pretrained.weights[f"{name}.weight"][matched]
    weights["position.weight"] = _stretched(weights["position.weight"], len(held["position.weight"]))
    fresh = {name: held[name] for name in held if name.startswith("modalities.")}  # pre-training reads none
    zeros = {name: torch.zeros_like(value) for name, value in held.items()}
    encoder.load_state_dict({name: (zeros | weights | fresh)[name] for name in held})


def _stretched(position: Tensor, columns: int) -> Tensor:
    """The newest `columns` positions; what is older than pre-training's windows starts where their oldest does."""
    older = position[:1].expand(max(columns - len(position), 0), -1)
    return torch.cat([older, position[-columns:]])


def _column(own: Column, other: Column) -> Tensor:
    return _matched(own.texts, other.texts)


def _matched(own: tuple[str, ...], other: tuple[str, ...]) -> Tensor:
    """Rows of the other vocabulary for every row of our own: padding, unknown, then the texts."""
    rows = {text: row for row, text in enumerate(other, FIRST)}
    return torch.tensor([0, 1, *(rows.get(text, 1) for text in own)])
