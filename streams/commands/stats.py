"""`interestream stats`: what is in the store, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.commands.options import Json, Store
from streams.settings.load import store_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streams.store.stats import BankStats, Stats, VersionStats


def stats(json: Json = False, store: Store = None) -> None:
    """Count what is in the store and what it took: behaviours, partitions, interests, LLM calls, representations."""
    import msgspec

    from streams.store.engine import open_store
    from streams.store.stats import read_stats

    engine = open_store(store_url(store), create=False)
    with engine.connect() as connection:
        counted = read_stats(connection)
    print(msgspec.json.encode(counted).decode() if json else "\n".join(page(counted)))


def page(stats: Stats) -> Iterator[str]:
    """The page to read: a label and a value per line."""
    yield line("behaviours", f"{stats.behaviors:,}", f"of {stats.users:,} users")
    yield line("  accepted", f"{stats.accepted:,}", "over all logs and topics read")
    yield line("  late", f"{stats.late:,}", "older than their newest closed partition; kept")
    yield line("  duplicates", f"{stats.duplicates:,}", "dropped")
    yield line("  rejected", f"{stats.rejected:,}", "in .rejected.jsonl files and dead letters")
    for label, count, what in (
        ("  with item", stats.with_item, "have an item in the catalogue"),
        ("  with profile", stats.with_profile, "have a user profile"),
    ):
        if count is not None:
            yield line(label, f"{count:,}", what if count or not stats.behaviors else f"{what}: the ids do not meet")
    if stats.offers:
        yield line("offers", f"{stats.offers:,}", "that nobody took: samples to train on, no history")
    yield line("partitions", f"{stats.partitions:,}", "closed")
    yield line("open caches", f"{stats.open_caches:,}", f"users, with {stats.open_behaviors:,} behaviours")
    if not stats.versions:
        yield line("interests", "0", "`interestream learn` writes them")
    for version in stats.versions:
        yield from _version(version)
    if stats.descriptions:
        ended = ", ".join(f"{outcome} {count:,}" for outcome, count in sorted(stats.descriptions.items()))
        yield line("descriptions", f"{sum(stats.descriptions.values()):,}", f"of items by the LLM: {ended}")
    llm = stats.llm
    yield line("LLM calls", f"{llm.calls:,}", f"and {llm.cached:,} answered from the cache")
    if llm.calls_per_1000_behaviors is not None:
        yield line("  per 1,000", f"{llm.calls_per_1000_behaviors:,}", "behaviours of the partitions it read")
    tokens = llm.prompt_tokens + llm.completion_tokens
    yield line("  tokens", f"{tokens:,}", f"{llm.completion_tokens:,} of them written")
    yield line("  seconds", f"{llm.seconds:,.1f}")
    for encoder, count in stats.vectors.items():
        yield line("vectors", f"{count:,}", f"partitions, by {encoder}")
    for artifact, count in stats.representations.items():
        yield line("represented", f"{count:,}", f"partitions, by {artifact}")
    for bank in stats.banks:
        yield from _bank(bank)
    for model in stats.adaptations:
        again = f" ({model.forgotten:,} forgotten since: make it anew)" if model.forgotten else ""
        yield line("adapted from", f"{model.users:,}", f"users: {model.folder}{again}")
    if stats.store_bytes is not None:
        each = f"{stats.store_bytes_per_behavior:,} bytes a behaviour" if stats.store_bytes_per_behavior else ""
        yield line("store", f"{stats.store_bytes / 1e6:,.1f} MB", each)


def _version(version: VersionStats) -> Iterator[str]:
    yield line("interests", f"{version.interests:,}", f"by the prompts {version.prompt_version}")
    for name, texts in (("summaries", version.summaries), ("shifts", version.shifts)):
        for source, outcomes in texts.items():
            ended = ", ".join(f"{outcome} {count:,}" for outcome, count in outcomes.items())
            writer = "the LLM" if source == "llm" else source
            yield line(f"  {name}", f"{sum(outcomes.values()):,}", f"by {writer}: {ended}")
    if version.supported_share is not None:
        share = f"{100 * version.supported_share:.1f} % supported; the others were cut out"
        yield line("  claims", f"{version.claims:,}", share)
    if version.with_statements:
        yield line("  statements", f"{version.with_statements:,}", "interests have some: the LLM's knowledge of items")
    if version.sentences_sampled:
        note = f"of {version.sentences_sampled:,} sentences: true of a third of others"
        yield line("  of anyone", f"{version.sentences_of_anyone:,}", note)
    if (found := version.review) is not None:
        shares = [(name, getattr(found, name)) for name in ("generic", "coverage", "contradictions")]
        told = ", ".join(f"{name} {100 * value:.0f} %" for name, value in shares if value is not None)
        yield line("  review", f"{found.sampled:,}", told)


def _bank(bank: BankStats) -> Iterator[str]:
    yield line("bank", f"{bank.vectors:,}", f"vectors, {bank.bytes / 1e6:,.1f} MB: {bank.id}")
    yield line("  made by", f"layer {bank.cut}", f"{bank.llm}, {bank.pooling}")
    if bank.hit_rate is not None:
        yield line("  hits", f"{100 * bank.hit_rate:.1f} %", f"of {bank.asked:,} texts asked for")
    if bank.repeat_rate is not None:
        yield line("  repeats", f"{100 * bank.repeat_rate:.1f} %", "of the behaviours, when last filled whole")


def line(label: str, value: str, note: str = "") -> str:
    return f"{label:<14}{value:>14}  {note}".rstrip()
