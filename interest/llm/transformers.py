"""Loads transformers models one at a time and whole.

transformers builds a model while globals of torch and of its own are patched (default dtype, initialisers, tying of
weights) and puts them back afterwards. Two threads that load at once put back each other's patches: from then on every
model of the process whose output weights are tied has them left unset, and answers noise.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

LOADING = threading.RLock()  # held by whatever makes a transformers model, from a checkpoint or from its config


def load_whole(kind: Any, folder: Path, **options: Any) -> Any:
    """`kind.from_pretrained(folder)`, from the disk alone, beside no other load.

    kind: AutoModel, AutoModelForCausalLM, ... Raises OSError or ValueError where the checkpoint cannot be read, and
    ValueError where it lacks weights, which transformers would only fill with noise. (A pooling head may be missing:
    sentence encoders are often saved without.)
    """
    with LOADING:
        model, report = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(f"it lacks the weights {', '.join(missing[:3])}{more}")
    return model
