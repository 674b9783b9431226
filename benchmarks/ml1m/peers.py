"""Public sequence models on our samples: torch-rechub's DIN and BST, as its users would set them up.

They read what FuxiCTR's were given on the same rows: the most recent events (item, first genre, rating) oldest first,
the offered item, its first genre and year, and the user's profile. A rating cannot enter attention for the offered
item, so it has a rating of its own there (a constant). The lifelong counts are ours and not theirs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fusion.features.dataset import Dataset
from fusion.features.log import Array
from fusion.features.splits import TRAIN, VALID
from fusion.training import metrics
from fusion.training.processor import fast_cpu

WIDTH = 24  # of every feature: torch-rechub stacks those of a list
INNER = 4  # BST's feed-forward block in widths; as it comes it is 2,048 wide, so that an epoch here takes an hour
CANDIDATE = 1  # the offered item's rating: unknown
AT_ONCE = 2048
SHAPE = {"width": WIDTH, "inner": INNER, "batch": AT_ONCE}  # a kept figure was made with this


class Peer:
    """One public model and the inputs that it takes."""

    def __init__(self, name: str, dataset: Dataset, seed: int) -> None:
        torch.manual_seed(seed)
        self._dataset, spec = dataset, dataset.spec
        self.model = _build(name, dataset)
        self._seed, self._length = seed, spec.history

    def inputs(self, rows: Array) -> dict[str, Tensor]:
        """The samples as torch-rechub takes them: one entry per feature, histories of L, padded on the left with 0."""
        batch = self._dataset.samples.batch(rows)
        missing = self._length - batch.history.shape[1]

        def history(values: Tensor) -> Tensor:
            return torch.nn.functional.pad(values.flip(1), (missing, 0)).long()

        past, target = batch.history.long(), batch.target.long()
        genre = batch.item_categories[:, 0]
        told = {
            "item": batch.item_row[target],
            "genre": genre[target],
            "rating": torch.full_like(target, CANDIDATE),
            "items": history(batch.item_row[past] * (past > 0)),
            "genres": history(genre[past] * (past > 0)),
            "ratings": history(batch.value),
        }
        told |= {f"profile{i}": batch.profile[:, i] for i in range(batch.profile.shape[1])}
        return told | {f"attribute{i}": batch.item_attributes[target, i] for i in range(batch.item_attributes.shape[1])}

    def fit(self, epochs: int, lr: float, decay: float, *, kept: Path, say: Callable[[str], None]) -> dict[str, float]:
        """Adam with L2 on embeddings, selection on validation AUC, patience 2; returns rates.

        kept: a file that holds every finished epoch, so that a run that was stopped goes on after it.
        """
        data = self._dataset
        training, labels = data.of(TRAIN), torch.from_numpy(data.labels.astype(np.float32))
        tables = {id(m.weight) for m in self.model.modules() if isinstance(m, nn.Embedding)}
        groups = [
            {"params": [p for p in self.model.parameters() if id(p) in tables], "weight_decay": decay},
            {"params": [p for p in self.model.parameters() if id(p) not in tables], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.Adam(groups, lr=lr)
        done = {"epochs": 0, "best": 0.0, "since": 0, "rows": 0, "wall_s": 0.0, "busy_s": 0.0}
        best_model: dict[str, Tensor] = {}
        if kept.exists():
            held = torch.load(kept)
            done, best_model = held["done"], held["best_model"]
            self.model.load_state_dict(held["model"])
            optimizer.load_state_dict(held["optimizer"])
            say(f"goes on after epoch {done['epochs']}")
        with fast_cpu():
            while done["epochs"] < epochs and done["since"] < 2:
                epoch = int(done["epochs"])
                torch.manual_seed(self._seed * 1_000_003 + epoch)
                order = np.random.default_rng((self._seed, epoch)).permutation(training)
                self.model.train()
                began, used = time.perf_counter(), time.process_time()
                for start in range(0, len(order), AT_ONCE):
                    chosen = order[start : start + AT_ONCE]
                    if len(chosen) < 2:
                        continue  # its batch normalisation refuses a batch of one
                    p = self.model(self.inputs(chosen))
                    loss = nn.functional.binary_cross_entropy(p, labels[torch.from_numpy(chosen)])
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                    done["rows"] += len(chosen)
                done["wall_s"] += time.perf_counter() - began
                done["busy_s"] += time.process_time() - used
                done["epochs"] += 1
                auc = metrics.auc(data.labels[data.of(VALID)], self.scores(data.of(VALID)))
                say(f"epoch {epoch + 1}: loss {float(loss.detach()):.4f}, validation AUC {auc:.4f}")
                done["since"] += 1
                if auc > done["best"]:
                    done["best"], done["since"] = float(auc), 0
                    best_model = {name: value.clone() for name, value in self.model.state_dict().items()}
                partial = kept.with_suffix(".partial")
                state = {"model": self.model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state | {"done": done, "best_model": best_model}, partial)
                partial.replace(kept)
        self.model.load_state_dict(best_model)
        rows, wall_s = done["rows"], done["wall_s"]
        rates = {"rows_per_s": rows / wall_s, "rows_per_cpu_s": rows / done["busy_s"]}
        return rates | {"minutes": wall_s / 60, "epochs": done["epochs"]}

    @torch.no_grad()
    def scores(self, rows: Array) -> Array:
        self.model.eval()
        parts = [rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)]
        return np.concatenate([self.model(self.inputs(part)).numpy() for part in parts]).astype(np.float64)


def _build(name: str, dataset: Dataset) -> Any:
    from torch_rechub.basic.features import SequenceFeature, SparseFeature
    from torch_rechub.models.ranking import BST, DIN

    spec = dataset.spec
    size = {"item": spec.item_rows, "genre": spec.categories.size, "rating": spec.value_rows}
    target = [SparseFeature(key, size[key], WIDTH, padding_idx=0) for key in size]
    history = [
        SequenceFeature(f"{key}s", size[key], WIDTH, pooling="concat", shared_with=key, padding_idx=0) for key in size
    ]
    features = [SparseFeature(f"profile{i}", column.size, WIDTH) for i, column in enumerate(spec.user_columns)]
    features += [SparseFeature(f"attribute{i}", column.size, WIDTH) for i, column in enumerate(spec.item_columns)]
    head = {"dims": [200, 80], "dropout": 0.2}
    if name == "BST":
        model = BST(features, history, target, head, nhead=4, dropout=0.1, num_layers=1, max_seq_len=spec.history + 1)
        d = model.item_dim
        layer = nn.TransformerEncoderLayer(d, 4, INNER * d, 0.1, activation=nn.LeakyReLU(), batch_first=True)
        model.transformer_layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        return model
    return DIN(features, history, target, head, {"dims": [36]})
