"""From the runs' figures to a table, a verdict in plain sentences, and a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fusion.worth.costs import Costs
from fusion.worth.intervals import Interval, Resampled
from fusion.worth.variants import ALL, CONTROLS, IN_PLACE, INTEREST, NOTHING, PARTS, Variant, of_parts
from interest.errors import InputError

STEP = 0.001  # of AUC: what a price is asked for
FEW = 30  # users below which their resamples are nearly the same few over and over


def table_of(
    models: Sequence[Variant], figures: Resampled, costs: Costs | None, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that is reported, as values for JSON; nothing in it depends on when or how fast it was made."""
    whole = _whole(models)
    rows = []
    for own in models:
        row: dict[str, Any] = {"model": own.name, **{name: _number(v) for name, v in figures.mean(own.name).items()}}
        if own.parts:
            row["over_nothing"] = _rounded(figures.difference(own.name, NOTHING))
        if own is not whole and own.parts:
            row["under_all"] = _rounded(figures.difference(whole.name, own.name))
        rows.append(row)
    found: dict[str, Any] = {**about, "test_users": figures.users, "models": rows}
    if costs is not None:
        found["costs_per_1000_behaviors"] = {name: round(v, 4) for name, v in asdict_of(costs).items()}
        gain = figures.difference(whole.name, _baseline(models).name)["auc"]
        if gain.low > 0:
            each = gain.mean / STEP
            found["costs_per_001_auc"] = {name: round(v / each, 4) for name, v in asdict_of(costs).items()}
    found["verdict"] = verdict(models, figures, costs)
    return found


def verdict(models: Sequence[Variant], figures: Resampled, costs: Costs | None) -> str:
    """What the parts add in AUC on this log, and whether the interest text is worth its tokens."""
    whole, sentences = _whole(models), []
    if INTEREST in whole.parts:
        base = _baseline(models)
        gain = figures.difference(whole.name, base.name)["auc"]
        named = (
            "no interest text" if base.control is None else "shuffled text" if base.control == "shuffled" else base.name
        )
        if costs is None:
            worth = f"that is {'' if gain.low > 0 else 'not '}told apart from noise"
        else:
            price = f"its {costs.tokens:,.0f} tokens per 1,000 behaviours"
            worth = f"{'' if gain.low > 0 else 'not '}worth {price}"
        begins = "On this log the interest text adds"
        sentences.append(f"{begins} {_said(gain)} of AUC over {named}: {worth}")
        stronger = [
            IN_PLACE[own.control]
            for own in models
            if own.control not in (None, "shuffled") and figures.difference(whole.name, own.name)["auc"].low <= 0
        ]
        if stronger and gain.low > 0:
            sentences.append(f"but {', '.join(stronger)} did as well, as far as this can tell")
    for part in PARTS:
        if part in whole.parts and part != INTEREST:
            without = of_parts(models, *(other for other in whole.parts if other != part))
            if without is not None:
                sentences.append(f"{part} adds {_said(figures.difference(whole.name, without.name)['auc'])}")
    if len(figures.plain[NOTHING]) == 1:
        sentences.append("one seed was trained, so the intervals are over users alone: --seeds 3 for more")
    if figures.users < FEW:
        sentences.append(
            f"only {figures.users} users are in the test part, too few for intervals to be trusted: replay more of "
            "the log, or test all users by --split user"
        )
    return "; ".join(sentences) + "."


def plot(models: Sequence[Variant], figures: Resampled, file: Path) -> None:
    """Gains in AUC over the model that reads nothing, with their intervals. Raises InputError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            "matplotlib is not installed, so there is no plot: pip install 'interestream[plot]', or --no-plot"
        ) from None
    chosen = [own for own in models if own.parts]
    gaps = [figures.difference(own.name, NOTHING)["auc"] for own in chosen]
    figure = Figure(figsize=(8, 0.45 * len(chosen) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, (own, gap) in enumerate(zip(chosen, gaps, strict=True)):
        color = "tab:gray" if own.control else "tab:blue"
        axes.plot([gap.low, gap.high], [place, place], color=color)
        axes.plot([gap.mean], [place], "o", color=color)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(chosen)), [own.name for own in chosen])
    axes.invert_yaxis()
    axes.set_xlabel("AUC above the model that reads none of it, 95 % over users and seeds")
    figure.savefig(file, dpi=120)


def asdict_of(costs: Costs) -> dict[str, float]:
    return {name: float(getattr(costs, name)) for name in costs.__struct_fields__}


def _whole(models: Sequence[Variant]) -> Variant:
    return next(own for own in models if own.name == ALL)


def _baseline(models: Sequence[Variant]) -> Variant:
    """What the interest text is held against: the shuffled control, else another control, else leaving it out."""
    whole = _whole(models)
    for control in CONTROLS:
        if (found := of_parts(models, *whole.parts, control=control)) is not None:
            return found
    found = of_parts(models, *(part for part in whole.parts if part != INTEREST))
    return found or next(own for own in models if own.name == NOTHING)


def _rounded(gaps: Mapping[str, Interval]) -> dict[str, dict[str, float | None]]:
    return {name: {key: _number(v) for key, v in asdict(gap).items()} for name, gap in gaps.items()}


def _number(value: float) -> float | None:
    """None where it is undefined, as the AUC of a slice that is empty or of one class."""
    return None if math.isnan(value) else round(value, 5)


def _said(gap: Interval) -> str:
    """ ".0004 (-.0002 to .0010)"."""
    return f"{_short(gap.mean)} ({_short(gap.low)} to {_short(gap.high)})"


def _short(value: float) -> str:
    return f"{value:.4f}".replace("0.", ".", 1)
