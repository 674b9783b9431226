"""What a team writes in an afternoon: a FastAPI handler around a public DIN (torch-rechub) that holds a user's newest
events in memory and encodes them again beside every candidate.

    python -m benchmarks.rig.naive_service --port PORT --items 4000 --categories 18 --history 50
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from torch import Tensor
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.ranking import DIN

WIDTH = 24  # of every embedding, as in ml1m/peers.py
RATINGS = 6


class Asked(BaseModel):
    user_id: str
    item_ids: list[str]


def make_app(items: int, categories: int, history: int) -> FastAPI:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    size = {"item": items + 1, "category": categories + 1, "rating": RATINGS}
    target = [SparseFeature(key, size[key], WIDTH, padding_idx=0) for key in size]
    past = [
        SequenceFeature(f"past_{key}", size[key], WIDTH, pooling="concat", shared_with=key, padding_idx=0)
        for key in size
    ]
    profile = [SparseFeature("profile", 2, WIDTH)]
    model = DIN(profile, past, target, {"dims": [200, 80], "dropout": 0.2}, {"dims": [36]}).eval()
    category = torch.from_numpy(rng.integers(1, categories + 1, items + 1))
    seen = torch.from_numpy(rng.integers(1, items + 1, history))
    rated = torch.from_numpy(rng.integers(1, RATINGS, history))
    events = {"past_item": seen, "past_category": category[seen], "past_rating": rated}

    def tensors(offered: Tensor) -> dict[str, Tensor]:
        many = len(offered)
        told = {name: values.expand(many, -1) for name, values in events.items()}
        told |= {"item": offered, "category": category[offered], "rating": torch.ones(many, dtype=torch.int64)}
        return told | {"profile": torch.zeros(many, dtype=torch.int64)}

    app = FastAPI()

    @app.post("/score")
    def score(asked: Asked) -> dict[str, Any]:
        with torch.no_grad():
            scores = model(tensors(torch.tensor([int(item) + 1 for item in asked.item_ids])))
        return {"scores": dict(zip(asked.item_ids, scores.tolist(), strict=True))}

    @app.get("/ready")
    def ready() -> bool:
        return True

    return app


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("port", "items", "categories", "history"):
        options.add_argument(f"--{name}", type=int, required=True)
    chosen = options.parse_args()
    app = make_app(chosen.items, chosen.categories, chosen.history)
    uvicorn.run(app, host="127.0.0.1", port=chosen.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
