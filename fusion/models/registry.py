"""The CTR models by name: what an artifact says it is, and how to build it."""

from __future__ import annotations

from torch import nn

from fusion.features.spec import FeatureSpec
from fusion.models.bahe.model import Bahe, BaheConfig
from fusion.models.din import Din, DinConfig
from fusion.models.srp4ctr.model import Srp4Ctr, Srp4CtrConfig

ModelConfig = DinConfig | Srp4CtrConfig | BaheConfig
KINDS: dict[str, type[ModelConfig]] = {"din": DinConfig, "srp4ctr": Srp4CtrConfig, "bahe": BaheConfig}


def kind_of(config: ModelConfig) -> str:
    return next(kind for kind, own in KINDS.items() if isinstance(config, own))


def build(spec: FeatureSpec, config: ModelConfig) -> nn.Module:
    """The model with fresh weights."""
    if isinstance(config, BaheConfig):
        return Bahe(spec, config)
    return Din(spec, config) if isinstance(config, DinConfig) else Srp4Ctr(spec, config)
