"""Fetches any model by its name from a model hub, where one is reachable.

huggingface_hub does the transfer: it resumes half-downloaded files, checks them against the hub's checksums and
honours HF_ENDPOINT (a mirror) and HF_TOKEN.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from interest.errors import InputError
from streams.fetch.download import is_whole, locked, put_in_place
from streams.fetch.wheels import Say

PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "LICENSE*",
    "README.md",
)
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def fetch_model(name: str, folder: Path, *, say: Say) -> bool:
    """Download the model `name` ("Qwen/Qwen2.5-0.5B-Instruct") into `folder`; True where there was work to do.

    Only safetensors weights are taken: a pickle runs code. An interrupted download goes on where it stopped.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is not a model name; write it as on the hub, for example BAAI/bge-small-en-v1.5")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )
    except ImportError:
        raise InputError("huggingface_hub is not installed: pip install 'interestream[models]'") from None
    with locked(folder, say):
        if is_whole(folder, name):
            return False
        work = folder.parent / f".{folder.name}"  # kept when interrupted: the next run continues in it
        say(f"downloading {name}")
        try:
            snapshot_download(name, local_dir=work, allow_patterns=list(PATTERNS))
        except GatedRepoError:
            raise InputError(f"{name} is gated: accept its terms on the hub and set HF_TOKEN") from None
        except RepositoryNotFoundError:
            raise InputError(
                f"the hub has no model {name}, or it is private: check the name, or set HF_TOKEN"
            ) from None
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            raise InputError(
                f"cannot download {name}: no model hub answers ({type(error).__name__}). Set HF_ENDPOINT to a mirror, "
                "or copy the model's folder to this machine and give its path; `interestream fetch` needs no hub"
            ) from error
        if not any(work.rglob("*.safetensors")):
            raise InputError(f"{name} has no safetensors weights; choose a model that has")
        shutil.rmtree(work / ".cache", ignore_errors=True)  # the hub's own notes on the transfer
        put_in_place(work, folder, name, origin_sha256="")
    return True
