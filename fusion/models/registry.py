"""The CTR models by name. To add one, write its folder and add its row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fusion.features.spec import FeatureSpec
from fusion.models.bahe.model import Bahe, BaheConfig
from fusion.models.din import Din, DinConfig
from fusion.models.kv.model import Kv, KvConfig
from fusion.models.protocol import CtrModel, ModelConfig
from fusion.models.srp4ctr.model import Srp4Ctr, Srp4CtrConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelKind:
    """One row of the registry."""

    name: str  # what an artifact says it is
    config: type[ModelConfig]  # as which the artifact's config is read
    model: type[Any]  # a CtrModel, built as model(spec, config)
    command: str  # of `interestream`, which trains it
    epochs: int  # passes over the training part of a long log
    reads_llm: bool = False  # whether it loads a language model, whose folder can be named


KINDS = {
    kind.name: kind
    for kind in (
        ModelKind(name="din", config=DinConfig, model=Din, command="train din", epochs=6),
        ModelKind(name="kv", config=KvConfig, model=Kv, command="train kv", epochs=6),
        ModelKind(name="srp4ctr", config=Srp4CtrConfig, model=Srp4Ctr, command="train srp4ctr", epochs=4),
        ModelKind(name="bahe", config=BaheConfig, model=Bahe, command="train bahe", epochs=4, reads_llm=True),
    )
}


def kind_of(config: ModelConfig) -> ModelKind:
    return next(kind for kind in KINDS.values() if isinstance(config, kind.config))


def build(spec: FeatureSpec, config: ModelConfig) -> CtrModel:
    """The model with fresh weights."""
    model: CtrModel = kind_of(config).model(spec, config)
    return model
