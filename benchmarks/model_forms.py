"""Claim: no other form of the model's call for a request of 1,000 candidates is faster by enough to be worth its cost.

    python benchmarks/model_forms.py [--models srp4ctr,din] [--repeat 200] [--save FILE] [--quick]

The call that `interestream serve` makes for a warm request (benchmarks/serving.py; history 50, untrained weights, one
thread), as it is, and the same call compiled (`torch.compile`, the default backend: it needs a C++ compiler), exported
to ONNX Runtime (`pip install onnx onnxscript onnxruntime`; left out where they are not there), and with the linear
layers' weights in int8 (dynamic quantisation). Each form has only the candidates' own tensors as inputs; the user's are
constants of it, which no service could do: what is found is the most that a form can bring. Times are processor time,
medians of calls in turn. `difference` is the largest one of scores (aim: at most 1e-4).

Prints one JSON line: of each model and form `ms`, `times` (as fast as the call as it is), `difference`, `made_in_s`.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib.util
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.rig.bare_calls import Call, last_call
from benchmarks.rig.serving_site import config_of, fill, make_artifact
from fusion.features.samples import Batch
from fusion.models.srp4ctr.cross import UserProducts
from streams.settings.load import default_llm
from streams.store.engine import open_store

ONNX = ("onnx", "onnxscript", "onnxruntime")
Form = Callable[[Tensor, Tensor], Any]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", default="srp4ctr,din")
    options.add_argument("--repeat", type=int, default=200)
    options.add_argument("--quick", action="store_true", help="20 calls of each form")
    options.add_argument("--save", type=Path)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    line: dict[str, Any] = {"benchmark": "model_forms", "torch": str(torch.__version__)}
    with tempfile.TemporaryDirectory() as folder:
        engine = open_store(f"sqlite:///{folder}/store.db")
        fill(engine)
        for name in chosen.models.split(","):
            make_artifact(engine, config_of(name, default_llm()), Path(folder) / name, match=False)
            call, inputs = last_call(engine, Path(folder) / name)
            line[name] = compare(call, inputs, 20 if chosen.quick else chosen.repeat)
        engine.dispose()
    print(json.dumps(line))
    if chosen.save:
        chosen.save.write_text(json.dumps(line, indent=1) + "\n")


@torch.no_grad()
def compare(call: Call, inputs: tuple[Tensor, Tensor], repeat: int) -> dict[str, Any]:
    call.eval()
    forms, made = dict[str, Form](), dict[str, float]()
    makers: dict[str, Callable[[], Form]] = {
        "as it is": lambda: call,
        "compiled": lambda: torch.compile(call),
        "onnx": lambda: onnx(call, inputs),
        "int8": lambda: int8(call),
    }
    for name, make in makers.items():
        if name == "onnx" and (missing := [one for one in ONNX if importlib.util.find_spec(one) is None]):
            print(f"onnx left out: {', '.join(missing)} not installed", file=sys.stderr)
            continue
        print(f"making {name}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        forms[name] = make()
        forms[name](*inputs)  # the first call compiles
        made[name] = time.perf_counter() - start
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(repeat):
        for name, form in forms.items():
            start = time.process_time()
            form(*inputs)
            taken[name].append(1000 * (time.process_time() - start))
    expected, plain = torch.sigmoid(call(*inputs)), float(np.median(taken["as it is"]))
    return {
        name: {
            "ms": round(float(np.median(taken[name])), 2),
            "times": round(plain / float(np.median(taken[name])), 2),
            "difference": float((torch.sigmoid(torch.as_tensor(form(*inputs))) - expected).abs().max()),
            "made_in_s": round(made[name], 1),
        }
        for name, form in forms.items()
    }


def onnx(call: Call, inputs: tuple[Tensor, Tensor]) -> Form:
    """On the same tensors, by ONNX Runtime's processor backend."""
    import onnxruntime

    wide = Call(call.model, in_int64(call.shared))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = f"{folder}/call.onnx"
        torch.onnx.export(
            wide, (widened(inputs[0]), inputs[1]), file, input_names=["own", "dense"], dynamo=True, verbose=False
        )
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])

    def run(own: Tensor, dense: Tensor) -> Any:
        return session.run(None, {"own": widened(own).numpy(), "dense": dense.numpy()})[0]

    return run


def in_int64(shared: Batch | UserProducts) -> Batch | UserProducts:
    """The exporter mixes up int32 and int64 inside of what it makes of an embedding bag."""
    if isinstance(shared, UserProducts):
        return shared
    each = {one.name: getattr(shared, one.name) for one in dataclasses.fields(shared)}
    wide: dict[str, Any] = {name: widened(own) if isinstance(own, Tensor) else own for name, own in each.items()}
    return Batch(**wide)


def widened(x: Tensor) -> Tensor:
    return x.long() if x.dtype == torch.int32 else x


def int8(call: Call) -> Form:
    """Of the linear layers that are called; a candidate's first one and DIN's attention read the weights themselves."""
    read = ("from_product", "from_target", "tower.layers.0")
    called = {name for name, layer in call.named_modules() if isinstance(layer, nn.Linear) and not name.endswith(read)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        form: Form = torch.ao.quantization.quantize_dynamic(copy.deepcopy(call), called, dtype=torch.qint8)
    return form


if __name__ == "__main__":
    main()
