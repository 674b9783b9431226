"""Every option of `pretrain fgbert`, `train srp4ctr` and `train din` reaches the records that the run is made from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from sqlalchemy import Connection
from typer.testing import CliRunner

from fusion.features.dataset import Dataset, DatasetConfig, Labelled, read_dataset, read_labelled
from fusion.models.srp4ctr.fgbert import FgBertConfig
from fusion.training.distributed import ALONE as PROCESSES
from fusion.training.pretrain import PretrainConfig
from fusion.training.pretrained import Pretrained, PretrainedConfig
from streams.cli import app
from streams.store.engine import open_store
from tests.support.ctr_world import TASKS, fill, random_rows

Changes = dict[str, Any]  # dotted place in the records -> its value where the option is given

DATA: dict[str, tuple[Any, Changes]] = {
    "label": (
        "value>=3",
        {
            "data.tasks": (
                {"name": "ctr", "rule": {"field": "value", "comparison": ">=", "operand": "3"}, "weight": 1.0},
            )
        },
    ),
    "split": ("user", {"data.split": "user", "split": "user"}),
    "out": ("elsewhere", {"folder": "elsewhere"}),
    "store": ("another.db", {"store": "another.db"}),
    "threads": (3, {"threads": 3}),
    "device": ("cpu", {"place": "cpu"}),
}
TRAIN: dict[str, tuple[Any, Changes]] = {
    "min_history": (3, {"data.min_history": 3}),
    "epochs": (9, {"training.epochs": 9}),
    "seed": (5, {"training.seed": 5}),
    "batch_size": (64, {"training.batch_size": 64}),
    "lr": (0.5, {"training.lr": 0.5}),
    "prompt_version": ("p9", {"data.prompt_version": "p9"}),
    "encoder": ("e9", {"data.encoder": "e9"}),
    "generation": (2, {"data.generation": 2}),
    "task": (
        "like=value>=3@2",
        {
            "data.tasks": (
                {"name": "like", "rule": {"field": "value", "comparison": ">=", "operand": "3"}, "weight": 2.0},
            )
        },
    ),
    "match": ("no", {"data.match.parts": None, "data.match.encoder": None, "data.match.template": None}),
}
INTEREST: Changes = {
    "data.interest": True, "model.interest": True, "data.match.parts": ("places", "support", "interests"),
}  # fmt: skip
SRP4CTR: dict[str, tuple[Any, Changes]] = {
    "interest": ("yes", INTEREST),
    "history": (17, {"data.history": 17, "model.encoder.positions": 31}),
    "pack": (3, {"model.together": 3, "model.encoder.positions": 52}),
    "value_task": (0.25, {"model.value_task": 0.25}),
    "lifelong": (False, {"model.lifelong": False}),
    "embedding_decay": (0.4, {"training.embedding_decay": 0.4}),
    "form": ("no-cross", {"model.cross": False}),
    "keys": (True, {"data.keys": [None], "model.keys": True}),
    "pretrained": ("fgbert", {"model.pretrained": "id of fgbert", "data.value_edges": (2.0, 4.5)}),
}
DIN: dict[str, tuple[Any, Changes]] = {
    "interest": ("yes", INTEREST),
    "history": (17, {"data.history": 17}),
    "keys": (True, {"data.keys": [None], "model.keys": True}),
}
KV: dict[str, tuple[Any, Changes]] = {
    "interest": ("yes", INTEREST),
    "key": (["maker", "brand"], {"data.keys": [("maker", "brand")]}),
}
FGBERT: dict[str, tuple[Any, Changes]] = {
    "history": (17, {"data.history": 17, "encoder.positions": 31}),
    "pack": (3, {"encoder.positions": 52}),
    "epochs": (9, {"training.epochs": 9}),
    "batch_size": (8, {"training.batch_size": 8}),
    "lr": (0.5, {"training.lr": 0.5}),
    "width": (32, {"encoder.width": 32}),
    "layers": (3, {"encoder.layers": 3}),
    "heads": (4, {"encoder.heads": 4}),
    "item_masks": (0.5, {"training.item_masks": 0.5}),
    "behavior_masks": (0.6, {"training.behavior_masks": 0.6}),
    "full_softmax": (7, {"training.full_softmax": 7}),
    "seed": (5, {"training.seed": 5}),
}
JOBS: dict[str, tuple[tuple[str, str], dict[str, tuple[Any, Changes]]]] = {
    "srp4ctr": (("train", "srp4ctr"), DATA | TRAIN | SRP4CTR),
    "din": (("train", "din"), DATA | TRAIN | DIN),
    "kv": (("train", "kv"), DATA | TRAIN | KV),
    "fgbert": (("pretrain", "fgbert"), DATA | FGBERT),
}
# need another option; have tests of their own
ALONE = {
    ("srp4ctr", "pretrained_rate"),
    ("srp4ctr", "key"),  # tests/streams/commands/test_train_kv.py
    ("din", "key"),
    *((model, name) for model in ("srp4ctr", "din", "kv") for name in ("balance", "modality", "item_vectors", "year")),
}


class Told(Exception):
    """Instead of a run, what it would have been made from."""

    def __init__(self, **records: object) -> None:
        super().__init__()
        self.records = records


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Labelled]:
    store = open_store(f"sqlite:///{tmp_path_factory.mktemp('options') / 'store.db'}")
    fill(store, random_rows(11))
    with store.connect() as connection:
        config = DatasetConfig(tasks=TASKS)
        return read_dataset(connection, config), read_labelled(connection, config)


@pytest.fixture
def told(
    world: tuple[Dataset, Labelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """The records of a command, by their dotted names; the log is read once for all tests."""
    dataset, labelled = world
    seen: dict[str, object] = {}

    def reading(found: object) -> Callable[..., object]:
        def read(_: Connection, config: DatasetConfig, *__: object, **___: object) -> object:
            seen["data"] = config
            return found

        return read

    def pretrained(folder: Path) -> Pretrained:
        encoder = FgBertConfig(positions=64)
        record = PretrainedConfig(
            kind="fgbert", encoder=encoder, training=PretrainConfig(), split="global", events=1, until=0.0, versions={}
        )
        spec = msgspec.structs.replace(dataset.spec, value_edges=(2.0, 4.5))
        return Pretrained(f"id of {folder.name}", folder, record, spec, {})

    def training(_: Dataset, model: object, config: object, **more: Any) -> None:
        raise Told(model=model, training=config, split=more["split"], folder=more["folder"], place=more["device"])

    def pretraining(_: Labelled, encoder: object, config: object, **more: Any) -> None:
        raise Told(encoder=encoder, training=config, split=more["split"], folder=more["folder"], place=more["device"])

    monkeypatch.setattr("fusion.features.dataset.read_dataset", reading(dataset))
    monkeypatch.setattr("fusion.features.dataset.read_labelled", reading(labelled))
    monkeypatch.setattr("fusion.features.interest_vectors.choose_vectors", lambda *_, **__: ("p1", "e1"))
    monkeypatch.setattr("fusion.training.experiment.run", training)
    monkeypatch.setattr("fusion.training.pretrained.run", pretraining)
    monkeypatch.setattr("fusion.training.pretrained.load_pretrained", pretrained)
    monkeypatch.setattr("fusion.training.pretrained.check", lambda *_, **__: None)
    monkeypatch.setattr("fusion.training.distributed.choose_device", lambda name: name)
    monkeypatch.setattr("torch.set_num_threads", lambda count: seen.update(threads=count))
    for module in ("train", "train_kv", "pretrain"):
        monkeypatch.setattr(f"streams.commands.{module}.store_url", lambda store: seen.update(store=store))
    monkeypatch.setattr(
        "streams.store.engine.open_store", lambda *_, **__: open_store(f"sqlite:///{tmp_path / 's.db'}")
    )
    monkeypatch.setattr("fusion.training.distributed.processes", lambda _: nullcontext(PROCESSES))
    monkeypatch.chdir(tmp_path)

    def run(job: tuple[str, str], **options: object) -> dict[str, Any]:
        seen.clear()
        given = {"out": "out", "store": "store.db"} | options
        words = [word for name, value in given.items() for word in worded(name, value)]
        error = CliRunner().invoke(app, [*job, *words]).exception
        assert isinstance(error, Told), repr(error)
        return flat({"threads": None, **seen, **error.records})

    return run


def worded(name: str, value: object) -> list[str]:
    option = name.replace("_", "-")
    if isinstance(value, list):
        return [word for each in value for word in worded(name, each)]
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    return [f"--{option}", str(value)]


def flat(record: object, place: str = "") -> dict[str, Any]:
    own = msgspec.to_builtins(record, enc_hook=str) if not place else record
    if not isinstance(own, dict):
        return {place: own}
    return {name: value for key, held in own.items() for name, value in flat(held, f"{place}.{key}".strip(".")).items()}


@pytest.mark.parametrize(("kind", "option"), [(kind, option) for kind, (_, own) in JOBS.items() for option in own])
def test_an_option_changes_what_it_names_and_nothing_else(
    told: Callable[..., dict[str, Any]], kind: str, option: str
) -> None:
    job, own = JOBS[kind]
    value, expected = own[option]
    usual, given = told(job), told(job, **{option: value})
    changed = {place: given.get(place) for place in usual | given if given.get(place) != usual.get(place)}
    expected, changed = (
        {place: list(held) if isinstance(held, tuple) else held for place, held in one.items()}
        for one in (expected, changed)
    )
    if option == "pretrained":
        assert changed.pop("model.encoder.positions", 64) == 64
    assert changed == expected


@pytest.mark.parametrize("kind", JOBS)
def test_every_option_has_its_test(kind: str) -> None:
    (group, name), own = JOBS[kind]
    command: Any = typer.main.get_command(app)
    params = {param.name for param in command.commands[group].commands[name].params if param.name != "help"}
    assert params - {option for job, option in ALONE if job == kind} == own.keys()


def test_the_rate_of_pre_trained_weights_is_told_apart(told: Callable[..., dict[str, Any]]) -> None:
    usual, slow = (told(("train", "srp4ctr"), pretrained="fgbert", **more) for more in ({}, {"pretrained_rate": 0.25}))
    assert {place: slow[place] for place in usual if slow[place] != usual[place]} == {"training.pretrained_rate": 0.25}
    assert usual["training.pretrained_rate"] == 1.0


@pytest.mark.parametrize("job", [("train", "srp4ctr"), ("train", "din")])
def test_a_balancer_needs_several_tasks_and_is_told_to_training_alone(
    told: Callable[..., dict[str, Any]], job: tuple[str, str]
) -> None:
    several = ["like=value>=4", "love=value>=5"]
    usual, given = (told(job, task=several, **more) for more in ({}, {"balance": "gdod"}))
    assert {place: held for place, held in given.items() if usual.get(place) != held} == {"training.balance": "gdod"}
    assert "training.balance" not in usual


@pytest.mark.parametrize("job", [("train", "srp4ctr"), ("train", "din"), ("pretrain", "fgbert")])
def test_old_names_mean_what_they_did_and_are_not_in_the_help(
    told: Callable[..., dict[str, Any]], job: tuple[str, str]
) -> None:
    """`--together N` is `--pack N`; `--interest` alone and `--no-interest` are `--interest yes` and `no`."""
    shown = CliRunner().invoke(app, [*job, "--help"]).output
    assert "--together" not in shown
    assert "--no-interest" not in shown
    if job[1] != "din":
        assert told(job, together=3) == told(job, pack=3) != told(job)
    if job[0] == "train":
        assert told(job, interest=True) == told(job, interest="yes") != told(job)
        assert told(job, interest=False) == told(job, interest="no")
