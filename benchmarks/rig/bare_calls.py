"""The model alone on the tensors of a warm request, taken out of a scorer that is asked once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import Engine
from torch import Tensor, nn

from benchmarks.rig.serving_site import OFFERED, SHORT
from fusion.features.samples import Batch
from fusion.models.srp4ctr.cross import UserProducts
from fusion.models.srp4ctr.model import Srp4Ctr
from fusion.serving.live import LiveScorer
from fusion.training.artifact import load_artifact
from streams.store.heads import read_head


class Call(nn.Module):
    """What a request's candidates go through, as a module of the tensors that are each candidate's own."""

    def __init__(self, model: nn.Module, shared: Batch | UserProducts) -> None:
        super().__init__()
        self.model, self.shared = model, shared

    def forward(self, own: Tensor, dense: Tensor) -> Tensor:
        """(B,) logits. own: of SRP4CTR the items' vectors (B, d), of a model of rows their places in the batch (B,)."""
        if isinstance(self.shared, UserProducts):
            assert isinstance(self.model, Srp4Ctr)
            return self.model.meet(self.shared, own, dense)
        logits: Tensor = self.model(dataclasses.replace(self.shared, target=own, dense=dense))
        return logits


def bare_calls(engine: Engine, folder: Path) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The model alone on the tensors of a warm request, the user's state being there; and as the service calls it.

    Of SRP4CTR the service keeps what the state and the weights make together; of the others both are the same.
    """
    model, handed = _handed(engine, folder)
    if isinstance(model, Srp4Ctr):
        (state, candidates), meeting = handed["products"][0], handed["meet"][0]
        return lambda: model.score(state, candidates, meeting[1]), lambda: model.meet(*meeting)
    ((name, parts),) = handed.items()  # a request may be scored in several

    def every() -> None:
        for part in parts:
            getattr(model, name)(*part)

    return every, every


def last_call(engine: Engine, folder: Path) -> tuple[Call, tuple[Tensor, Tensor]]:
    """What the service calls for a warm request, and the candidates' own tensors. Of SRP4CTR and models of rows."""
    model, handed = _handed(engine, folder)
    if isinstance(model, Srp4Ctr):
        user, offered, dense = handed["meet"][0][:3]
        return Call(model, user), (offered, dense)
    ((batch,),) = handed["forward"]
    return Call(model, batch), (batch.target, batch.dense)


def _handed(engine: Engine, folder: Path) -> tuple[Any, dict[str, list[tuple[Any, ...]]]]:
    """The artifact's model, and what its methods were given by one request."""
    artifact = load_artifact(folder)
    scorer, model = LiveScorer(artifact, read_head), artifact.model
    names = (
        ("products", "meet") if isinstance(model, Srp4Ctr) else ("score",) if hasattr(model, "score") else ("forward",)
    )
    handed: dict[str, list[tuple[Any, ...]]] = {name: [] for name in names}
    own = {name: getattr(model, name) for name in names}

    def spy(name: str) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            handed[name].append(given)
            return own[name](*given)

        return call

    for name in names:
        setattr(model, name, spy(name))
    with engine.connect() as connection, torch.no_grad():
        scorer.score(connection, SHORT, OFFERED)
    for name in names:
        delattr(model, name)  # the class's own again
    return model, handed
