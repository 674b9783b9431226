"""benchmarks/bahe.py on a tiny LLM: what its line says, and of what."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.tiny_llm import save_llm

ROOT = Path(__file__).parent.parent.parent


def test_the_line_has_a_time_only_where_it_was_measured_and_says_what_the_bank_costs(
    tmp_path: Path, sample_log: Path
) -> None:
    options = ("--quick", "--llm", save_llm(tmp_path / "tiny"), "--histories", "6", "--batch", "2")
    done = subprocess.run(
        [sys.executable, "benchmarks/bahe.py", *options], cwd=ROOT, check=True, capture_output=True, text=True
    )
    line = json.loads(done.stdout.splitlines()[-1])
    assert "time_ratio_6" not in line  # --quick takes one step there, a cold one
    assert line["memory_ratio_6"] > 0
    ratings = [row.split("\t") for row in (sample_log / "ml-100k.inter").read_text().splitlines()[1:]]
    films = len((sample_log / "ml-100k.item").read_text().splitlines()) - 1
    distinct, bank = len({(item, value) for _, item, value, _ in ratings}), line["bank"]
    assert bank["behaviors"] == len(ratings)
    # some films are in the catalogue twice, under one title
    assert 0.95 * (distinct + films) < bank["texts"] <= distinct + films
    assert len(ratings) / distinct <= bank["behaviors_a_text"] < 1.05 * len(ratings) / distinct
    cost = bank["seconds_a_text"] * bank["texts"] / (0.8 * len(ratings))
    assert abs(bank["seconds_a_training_sample"] - cost) <= 1e-5
    assert 0 < line["measured"]["bahe"]["6"]["texts_made"] <= 2 * 7 * 2  # the drawn behaviours and their films alone
