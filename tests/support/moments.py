"""The random moments at which tests kill what they test, and whether they do so for long."""

from __future__ import annotations

import os
import random
import time

SOAK = bool(os.environ.get("SOAK"))  # makes tests of faults long; `make soak` sets it
SEED = int(os.environ.get("KILL_SEED") or time.time_ns() % 1_000_000)


def moments() -> random.Random:
    """Draws of this run's own; pytest shows the seed where the test fails."""
    print(f"KILL_SEED={SEED} kills at the same moments again")
    return random.Random(SEED)
