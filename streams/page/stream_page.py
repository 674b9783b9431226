"""A page for the stream: how far each stage is, and what the language model cost for 1,000 behaviours."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from streams.client import ServiceError
from streams.page.api import Api
from streams.page.frame import panel
from streams.page.text import attribute, isolated, number

AGAIN_S = 5.0
SILENT_S = 120.0  # a text by a large model on a slow machine takes less


async def stream_page(api: Api) -> None:
    """Shown now and every few seconds again."""
    state = await api.get("/v1/stream")
    head = ui.html(_head(state), sanitize=False, tag="section").classes("panel head")
    with panel("Stages"):
        stages = ui.html(_stages(state), sanitize=False).classes("scroll")

    async def again() -> None:
        try:
            now = await api.get("/v1/stream")
        except ServiceError as error:
            stages.set_content(f'<p class="problem" role="alert">{isolated(str(error), 600)}</p>')
            return
        head.set_content(_head(now))
        stages.set_content(_stages(now))

    ui.timer(AGAIN_S, again, immediate=False)


def _head(state: dict[str, Any]) -> str:
    read = state["llm_behaviors"]

    def per(value: float, form: str) -> str:
        return f"{1000 * value / read:{form}}" if read else "–"

    tokens = state["llm_prompt_tokens"] + state["llm_completion_tokens"]
    cells = (
        (
            number(state["accepted"]),
            "behaviours",
            f"{number(state['late'])} late, {number(state['duplicates'])} repeats",
        ),
        (per(state["llm_calls"], ",.1f"), "LLM calls per 1,000 behaviours", f"{number(state['llm_calls'])} in all"),
        (per(tokens, ",.0f"), "tokens per 1,000 behaviours", f"{number(tokens)} in all"),
        (
            per(state["llm_seconds"], ",.1f"),
            "LLM seconds per 1,000 behaviours",
            f"{number(state['llm_seconds'])} s in all",
        ),
    )
    shown = "".join(
        f'<div class="count"><b>{value}</b><span>{attribute(name)}</span><span class="faint">{more}</span></div>'
        for value, name, more in cells
    )
    return (
        f'<h1>The stream</h1><p class="faint">Per 1,000 of the {number(read)} behaviours that the LLM has read; '
        f'{number(state["llm_cached"])} answers came from the cache.</p><div class="counts">{shown}</div>'
    )


def _stages(state: dict[str, Any]) -> str:
    rows = [(one["stage"], number(one["done"]), number(one["waiting"])) for one in state["stages"]]
    rows += [(f"lag of {stage} in Kafka", "", number(lag)) for stage, lag in (state["lag"] or {}).items()]
    if state["lag"] is not None:
        rows.append(("announcements that may not be in Kafka yet", "", number(state["outbox"])))
    body = "".join(f'<tr><th scope="row">{attribute(name)}</th><td>{a}</td><td>{b}</td></tr>' for name, a, b in rows)
    if state["lag_problem"]:
        note = f'<p class="problem" role="alert">{isolated(state["lag_problem"], 600)}</p>'
    elif state["lag"] is None:
        note = '<p class="faint">The service folds what it is sent into the store itself; there is no Kafka to lag.</p>'
    else:
        note = ""
    return (
        '<table class="facts-table"><thead><tr><th scope="col">stage</th><th scope="col">partitions done</th>'
        f'<th scope="col">waiting</th></tr></thead><tbody>{body}</tbody></table>{note}{_learner(state["learner"])}'
    )


def _learner(learner: dict[str, Any] | None) -> str:
    """What writes texts beside the service, where something does."""
    if learner is None:
        return ""
    told = [
        "The process beside the service that writes texts stands by: another one writes this store's, and this one "
        "takes over when that ends."
        if learner["standing_by"]
        else f"Texts are written beside the service by {isolated(learner['model'], 200)}: {number(learner['written'])} "
        f"partitions since it began, {number(learner['waiting'])} waiting."
    ]
    if learner["silent_s"] > SILENT_S:
        told.append(f"It has said nothing for {number(learner['silent_s'])} s.")
    said = f'<p class="faint">{" ".join(told)}</p>'
    troubles = [learner["trouble"], *learner["notes"]]
    return said + "".join(f'<p class="problem" role="alert">{isolated(one, 600)}</p>' for one in troubles if one)
