"""Models that are small enough to be trained inside a test, and runs that are short enough."""

from __future__ import annotations

from fusion.features.dataset import DatasetConfig
from fusion.models.din import DinConfig
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.models.srp4ctr.model import Srp4CtrConfig
from fusion.training.pretrain import PretrainConfig
from fusion.training.train import TrainConfig
from tests.support.ctr_world import TASKS

DATA = DatasetConfig(tasks=TASKS, history=10)
QUICK = TrainConfig(epochs=3, batch_size=128, patience=9)
DIN = DinConfig(width=8, attention=8, hidden=(16,))
ENCODER = FgBertConfig(positions=14, width=16, dropout=0.0)
SRP4CTR = Srp4CtrConfig(encoder=ENCODER, pack=5, queries=2, hidden=(16,), dropout=0.0, lifelong=True, value_task=0.5)
FGBERT = FgBertConfig(positions=12, width=16)
PRETRAINING = PretrainConfig(epochs=3, batch_size=8)
