"""`interestream review`: what to know of the texts before trusting them. Torch is imported only for retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interest.errors import InputError
from streams.commands.options import Json, Store, check_file, write_file
from streams.progress import progress
from streams.resolve.llm import nouns
from streams.settings.load import store_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fusion.interests.text_vectors import Encoder
    from interest.review.report import Retrieval, Review
    from interest.review.texts import ReviewedText

MOST = 2000  # summaries reviewed by default: 1 to 3 minutes


def review(
    store: Store = None,
    prompt_version: Annotated[
        str | None,
        typer.Option(
            help="Only texts by this version of the prompts, as `stats` names it; of plain-3@1f0c52aa plain-3 will do."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only texts by this model, as interests name it.")] = None,
    language: Annotated[
        str | None, typer.Option(help="Only texts in this language. The claim check keeps English ones alone: en.")
    ] = None,
    most: Annotated[
        int, typer.Option(help="Review the texts of so many partitions, of users drawn at random.", min=1)
    ] = MOST,
    retrieval: Annotated[
        bool, typer.Option("--retrieval/--no-retrieval", help="Also by the vectors of a text encoder.")
    ] = True,
    encoder: Annotated[str | None, typer.Option(help="The text encoder's folder. Default: the fetched MiniLM.")] = None,
    noun: Annotated[str, typer.Option(help="What the texts call an item and items: singular,plural.")] = "title,titles",
    json: Json = False,
    page: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write one HTML page.")] = None,
    sample: Annotated[int | None, typer.Option(help="Write so many texts beside their behaviours.", min=1)] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="With --sample: where, as Markdown.")] = None,
) -> None:
    """Say how much the texts tell of their users, and whether it is so: by model, prompt version and language.

    Measured on the summaries that the LLM wrote and that were kept. Nothing in the store changes, so it may be
    interrupted at any time.
    """
    import msgspec

    from interest.review.page import html_page, sample_page
    from interest.review.report import LANGUAGE, OTHERS
    from interest.review.report import review as review_texts
    from interest.review.texts import read_others, read_texts, versions_of
    from interest.write.prompts import Style
    from streams.store.engine import open_store
    from streams.store.text_review import read_cost

    if (sample is None) != (out is None):
        raise InputError("--sample and --out go together: --sample 25 --out texts.md")
    if language not in (None, LANGUAGE):
        raise InputError(f"no texts in {language!r}: the claim check keeps texts in English ({LANGUAGE}) alone")
    check_file("--page", page)
    check_file("--out", out)
    engine = open_store(store_url(store), create=False)
    style = Style(noun=nouns(noun))
    reviews: list[Review] = []
    read: list[ReviewedText] = []
    with engine.connect() as connection:
        versions = versions_of(connection, prompt_version, model)
        vectors = _encoder(encoder) if retrieval else None
        for version, name, generation in versions:
            with progress(f"Reading the texts of {version}", None, unit="partitions") as advance:
                texts = read_texts(connection, version, name, generation, most, advance, style)
            kept = [text for text in texts if text.kept]
            with progress("Reading partitions of others", None, unit="users") as advance:
                others = read_others(connection, version, name, generation, OTHERS + 1, style, advance)
            ranked = _retrieval(vectors, kept) if vectors is not None and kept else None
            reviews.append(
                review_texts(
                    texts,
                    prompt_version=version,
                    model=name,
                    style=style,
                    cost=read_cost(connection, version, name, generation),
                    retrieval=ranked,
                    others=others,
                    begin=lambda title, count: progress(title, count, unit="texts"),
                )
            )
            read += kept or texts
    try:
        if page is not None:
            write_file("--page", page, html_page(reviews).encode(errors="backslashreplace"))
        if sample is not None and out is not None:
            write_file("--out", out, sample_page(_spread(read, sample)).encode(errors="backslashreplace"))
    finally:  # told whatever became of the files, which are written whoever reads this (`| head`)
        print(msgspec.json.encode(reviews).decode() if json else "\n".join(lines(reviews)))


def lines(reviews: Sequence[Review]) -> Iterator[str]:
    """The page to read in a terminal."""
    from interest.review.page import MEASURES, cell, endings, more_cells

    for review in reviews:
        yield f"{review.prompt_version} by {review.model} ({review.language})"
        for name, value, note in [(name, cell(review, field), note) for field, name, note in MEASURES]:
            yield f"  {name:<18}{value:>9}  {note}"
        for name, value, note in more_cells(review):
            yield f"  {name:<18}{value:>9}  {note}"
        for name, told in endings(review):
            yield f"  {name}: {told}"
        for one in review.worst:
            yield f"  {one.user_id}#{one.index}: {one.text}"
            yield f"      {'; '.join(one.faults)}"


def _encoder(named: str | None) -> Encoder:
    """Opened before minutes of review rather than after. Raises InputError where there is none."""
    from fusion.encoders.sentence import open_encoder
    from streams.resolve.encoder import encoder_folder
    from streams.settings.load import load_settings

    try:
        return open_encoder(encoder_folder(named or load_settings().fusion.encoder))
    except InputError as error:
        raise InputError(f"{error}; without retrieval by vectors: --no-retrieval") from None


def _retrieval(encoder: Encoder, kept: Sequence[ReviewedText]) -> Retrieval | None:
    from fusion.interests.retrieval import encode, retrieve_next
    from interest.review.report import Retrieval

    with progress("Encoding the texts", None, unit="texts") as advance:
        vectors = encode(encoder, [text.interest.summary for text in kept], advance)
    users, scenes = [text.interest.user_id for text in kept], [text.work.partition.scene for text in kept]
    found = retrieve_next(users, [text.ordinal for text in kept], vectors, scenes)
    if found is None:
        return None
    return Retrieval(texts=found.texts, mrr=round(found.mrr, 4), chance=round(found.chance, 4))


def _spread(texts: Sequence[ReviewedText], count: int) -> list[ReviewedText]:
    """So many of them, evenly over users."""
    step = max(1.0, len(texts) / count)
    return [texts[int(at * step)] for at in range(min(count, len(texts)))]
