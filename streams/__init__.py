"""The running system. `from streams import subscribe` is its Python interface; the rest is run by `interestream`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streams.kafka.messages import InterestUpdate, RepresentationUpdate
    from streams.subscription.api import subscribe
    from streams.subscription.subscription import Subscription

__all__ = ["InterestUpdate", "RepresentationUpdate", "Subscription", "subscribe"]


def __getattr__(name: str) -> Any:
    """Imported when they are asked for: most commands need no Kafka, and `--help` nothing at all."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    # the module is not called subscribe: a module imported into a package would hide the function of its name
    home = "streams.kafka.messages" if name.endswith("Update") else "streams.subscription.api"
    return getattr(importlib.import_module(home), name)
