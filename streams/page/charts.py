"""Options of the page's ECharts pictures. Colours are told apart in light and dark and by most who see few colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streams.page.api import Shares
from streams.page.text import day

COLOURS = ("#4e79d6", "#e58b3a", "#3aa68b", "#d2577a", "#8e6fd0", "#b8a03a", "#4fb0d8", "#9c7a5b", "#9aa3ad")
GREY = "#8a93a0"
GRID = "rgba(138, 147, 160, 0.25)"
_SPLIT = {"lineStyle": {"color": GRID}}


def shares_chart(shares: Shares) -> dict[str, Any]:
    """Category shares, one column a partition."""
    names = list(shares.categories)
    last = ", the last one open" if shares.labels[-1:] == ["open"] else ""
    labels = [label if label == "open" else f"#{label}" for label in shares.labels]
    series = [
        {
            "name": name, "type": "bar", "stack": "all", "barCategoryGap": "12%", "emphasis": {"focus": "series"},
            "data": [round(100 * share, 1) for share in shares.categories[name]],
        }
        for name in names
    ]  # fmt: skip
    since = f"{day(shares.closed_at[0])} to {day(shares.closed_at[-1])}" if shares.labels else ""
    text = f"Category shares over {len(shares.labels)} partitions, {since}{last}"
    return _common(names) | {
        "aria": {"enabled": True, "label": {"description": text}},
        "tooltip": {"trigger": "axis", "confine": True, "axisPointer": {"type": "shadow"}, "order": "valueDesc"},
        "xAxis": {"type": "category", "data": labels, "axisLabel": {"color": GREY}, "axisTick": {"show": False}},
        "yAxis": {
            "type": "value", "max": 100, "axisLabel": {"formatter": "{value} %", "color": GREY}, "splitLine": _SPLIT,
        },
        "series": series,
    }  # fmt: skip


def _common(names: Sequence[str]) -> dict[str, Any]:
    return {
        "color": list(COLOURS),
        "animationDuration": 300,
        "textStyle": {"fontFamily": "inherit"},
        "legend": {
            "data": list(names), "type": "scroll", "bottom": 0, "itemWidth": 12, "itemHeight": 12,
            "textStyle": {"color": GREY},
        },
        "grid": {"left": 8, "right": 12, "top": 16, "bottom": 40, "containLabel": True},
    }  # fmt: skip


def curve_chart(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Validation AUC and training loss by epoch, of one artifact or two."""
    series, names = [], []
    for place, one in enumerate(reports):
        for kind, axis, name in (("auc", 0, "validation AUC"), ("loss", 1, "training loss")):
            label = f"{name} {one['id'][:8]}" if len(reports) > 1 else name
            names.append(label)
            series.append(
                {
                    "name": label, "type": "line", "yAxisIndex": axis, "symbolSize": 7,
                    "lineStyle": {"type": "dashed" if place else "solid"},
                    "data": [[epoch["epoch"] + 1, round(epoch[kind], 5)] for epoch in one["epochs"]],
                }
            )  # fmt: skip
    return _common(names) | {
        "aria": {"enabled": True},
        "tooltip": {"trigger": "axis", "confine": True},
        "grid": {"left": 8, "right": 12, "top": 36, "bottom": 44, "containLabel": True},
        "xAxis": {"type": "value", "name": "epoch", "nameLocation": "middle", "nameGap": 22, "minInterval": 1, "min": 1,
                  "axisLabel": {"color": GREY}, "nameTextStyle": {"color": GREY}, "splitLine": {"show": False}},
        "yAxis": [_axis("AUC"), _axis("loss") | {"splitLine": {"show": False}}],
        "series": series,
    }  # fmt: skip


def calibration_chart(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Share of positives by mean score, over equally filled bins; on the diagonal promises hold."""
    names = [f"{one['kind']} {one['id'][:8]}" for one in reports]
    series: list[dict[str, Any]] = [
        {
            "name": name, "type": "line", "symbolSize": 7, "lineStyle": {"type": "dashed" if place else "solid"},
            "data": [
                [round(one["predicted"], 4), round(one["observed"], 4)] for one in report["calibration"].get("test", [])
            ],
        }
        for place, (name, report) in enumerate(zip(names, reports, strict=True))
    ]  # fmt: skip
    diagonal = {
        "name": "exact", "type": "line", "data": [[0, 0], [1, 1]], "symbol": "none",
        "lineStyle": {"color": GREY, "type": "dotted"}, "itemStyle": {"color": GREY},
    }  # fmt: skip
    side = {"type": "value", "min": 0, "max": 1}
    return _common([*names, "exact"]) | {
        "aria": {"enabled": True},
        "tooltip": {"trigger": "item", "confine": True},
        "grid": {"left": 8, "right": 12, "top": 36, "bottom": 44, "containLabel": True},
        "xAxis": _axis("predicted") | side | {"nameLocation": "middle", "nameGap": 22},
        "yAxis": _axis("observed") | side,
        "series": [*series, diagonal],
    }


def _axis(name: str) -> dict[str, Any]:
    grey = {"color": GREY}
    return {"type": "value", "name": name, "scale": True, "axisLabel": grey, "nameTextStyle": grey, "splitLine": _SPLIT}
