"""A page for a model: its metrics, slices, learning curve and calibration, beside another artifact's."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from nicegui import ui

from streams.page.api import Api
from streams.page.charts import calibration_chart, curve_chart
from streams.page.frame import panel
from streams.page.text import attribute, isolated

NAMES = {
    "auc": "AUC",
    "gauc": "GAUC (within users)",
    "log_loss": "log loss",
    "normalised_entropy": "normalised entropy",
    "calibration": "predicted over observed positives",
    "calibration_error": "calibration error",
    "rmse": "RMSE",
    "mae": "mean absolute error",
    "r2": "share of the variance explained",
    "rows": "samples",
}
SLICED = {"_auc": "AUC", "_rmse": "RMSE"}  # how the names of slices' metrics end
PARTS = {"valid": "validation", "test": "test"}


async def model_page(api: Api, artifact: str, beside: str) -> None:
    """artifact: by its id; empty: the one that scores. beside: another, or empty."""
    told = await api.client.artifacts()
    scoring = told["scoring"]["id"] if told["scoring"] else ""
    known = list(dict.fromkeys(one for one in [scoring, *(row["artifact"] for row in told["activations"])] if one))
    if not known:
        ui.html(
            '<h1>Models</h1><p class="faint">No artifact scores here and none was activated in this store. Train one '
            "(<code>interestream train din</code>), then <code>interestream activate DIR</code>.</p>",
            sanitize=False, tag="section",
        )  # fmt: skip
        return
    chosen = artifact or scoring or known[0]
    reports = [await api.get(f"/v1/artifacts/{one}") for one in dict.fromkeys([chosen, beside]) if one]
    ui.html(_header(reports[0], known, scoring, chosen, beside), sanitize=False, tag="section").classes("panel head")
    with panel("Metrics"):
        ui.html(metrics_table(reports, slices=False), sanitize=False).classes("scroll")
        ui.html("".join(map(balance_line, reports)), sanitize=False)
    with panel("Slices"):
        ui.html(metrics_table(reports, slices=True), sanitize=False).classes("scroll")
    with ui.element("div").classes("split even"):
        with panel("Learning curve"):
            _chart(curve_chart(reports), any(one["epochs"] for one in reports))
        with panel("Calibration on test"):
            _chart(calibration_chart(reports), any(one["calibration"] for one in reports))


def _chart(options: dict[str, Any], there: bool) -> None:
    if there:
        ui.echart(options, renderer="svg").classes("chart")
    else:
        ui.html(
            '<p class="faint">Not kept: the artifact was trained before curves were, or elsewhere.</p>', sanitize=False
        )


def _header(report: dict[str, Any], known: list[str], scoring: str, chosen: str, beside: str) -> str:
    def link(one: str, name: str, *, current: bool) -> str:
        query = urlencode({"id": chosen, "beside": beside} | {name: one})
        mark = ' aria-current="true"' if current else ""
        now = " (scores now)" if one and one == scoring else ""
        return f'<a href="/models?{attribute(query, 400)}"{mark}>{attribute(one[:8] or "none")}{now}</a>'

    def ways(label: str, current: str, name: str, *, none: bool) -> str:
        ids = [*([""] if none else []), *known]
        links = "".join(link(one, name, current=one == current) for one in ids)
        return f'<div class="choice"><span class="faint">{label}</span>{links}</div>'

    versions = ", ".join(f"{name} {text}" for name, text in report["versions"].items())
    return (
        f'<h1>{isolated(report["kind"]).upper()} <span class="faint">{isolated(report["id"])}</span></h1>'
        f'<p class="faint">split {isolated(report["split"])}; {isolated(versions)}</p>'
        + ways("artifact", chosen, "id", none=False)
        + ways("beside", beside, "beside", none=True)
    )


def metrics_table(reports: list[dict[str, Any]], *, slices: bool) -> str:
    """One row a metric, a column for each part of each artifact. slices: those of parts of the samples.

    Of several tasks each has its rows; those without a task's name are the main task's.
    """
    names = list(dict.fromkeys(name for one in reports for held in one["metrics"].values() for name in held))
    wanted = [name for name in names if (_sliced(name) is not None if slices else _metric(name) in NAMES)]
    if not wanted:
        return '<p class="faint">None were kept.</p>'
    columns = [(one, part) for one in reports for part in PARTS if part in one["metrics"]]
    whose = {one["id"]: f"<br>{attribute(one['id'][:8])}" if len(reports) > 1 else "" for one in reports}
    head = "".join(f'<th scope="col">{PARTS[part]}{whose[one["id"]]}</th>' for one, part in columns)
    rows = "".join(_row(name, columns, slices=slices) for name in wanted)
    return (
        f'<table class="facts-table"><thead><tr><th scope="col"></th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    )


def balance_line(report: dict[str, Any]) -> str:
    """What became of several tasks' gradients in training, where they were balanced."""
    held = report["metrics"].get("training")
    if not held:
        return ""
    how = attribute(str(report["training"].get("balance", "")))
    return (
        f'<p class="faint">{attribute(report["id"][:8])}: gradients balanced by {how}; tasks in conflict in '
        f"{held['conflict_share']:.1%} of {held['steps']:,.0f} steps, "
        f"no common direction in {held['zero_share']:.1%}</p>"
    )


def _metric(name: str) -> str:
    """Without the task."""
    return name.rpartition("/")[2]


def _sliced(name: str) -> str | None:
    """How the name of a slice's metric ends; None: it is none."""
    found = next((ending for ending in SLICED if name.endswith(ending)), None)
    return None if _metric(name) in NAMES else found


def _row(name: str, columns: list[tuple[dict[str, Any], str]], *, slices: bool) -> str:
    cells, ending = [], _sliced(name) or ""
    for one, part in columns:
        held = one["metrics"][part]
        value, of = held.get(name), held.get(f"{name.removesuffix(ending)}_rows") if slices else None
        shown = "–" if value is None else f"{value:,.0f}" if _metric(name) == "rows" else f"{value:.4f}"
        rows = "" if of is None else f' <span class="faint">of {of:,.0f}</span>'
        cells.append(f"<td>{shown}{rows}</td>")
    task, slash, metric = name.rpartition("/")
    label = f"{metric.removesuffix(ending).replace('_', ' ')}, {SLICED[ending]}" if slices else NAMES[metric]
    whose = f"{task}: " if slash else ""
    return f'<tr><th scope="row">{attribute(whose + label)}</th>{"".join(cells)}</tr>'
