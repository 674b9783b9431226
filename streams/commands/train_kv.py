"""`interestream train kv`: the non-sequential model, key-vector. Torch is imported only when it runs."""

from __future__ import annotations

from dataclasses import dataclass

from streams.commands.option_groups import CommandWithOldNames, with_groups
from streams.commands.options import Store
from streams.commands.train import as_built, train
from streams.commands.training_options import (
    LABEL,
    ComputeOptions,
    InterestOptions,
    KeyNames,
    KeyOptions,
    Label,
    MinHistory,
    OptimiserOptions,
    Out,
    SampleOptions,
    SplitBy,
    TaskOptions,
)
from streams.commands.training_run import chosen_data, key_choice, run_training, train_config
from streams.settings.load import store_url


@dataclass(frozen=True, kw_only=True)
class NoSequence:
    """What is learnt from, without a history that is read one by one."""

    store: Store = None
    label: Label = LABEL
    split: SplitBy = "global"
    min_history: MinHistory = 5

    @property
    def samples(self) -> SampleOptions:
        return SampleOptions(
            store=self.store, label=self.label, split=self.split, history=1, min_history=self.min_history
        )


@train.command("kv", cls=CommandWithOldNames)
@with_groups
def kv(
    out: Out,
    log: NoSequence,
    tasks: TaskOptions,
    interests: InterestOptions,
    optimiser: OptimiserOptions,
    compute: ComputeOptions,
    key: KeyNames = None,
) -> None:
    """Train the key-vector model, which reads no sequence: of the whole past it knows what was made of every key.

    interestream train kv --out DIR --key director
    """
    from fusion.models.kv.model import KvConfig
    from fusion.training.out_folder import check_out
    from streams.store.engine import open_store

    check_out(out, "kv")
    engine = open_store(store_url(log.store), create=False)
    settings = train_config(optimiser, tasks)
    data = chosen_data(engine, log.samples, tasks, interests, key_choice(KeyOptions(keys=True, key=key)))
    config = KvConfig(interest=data.interest, dense_path=True)
    run_training(engine, out, data, settings, lambda dataset: (dataset, config, as_built), compute)
