"""The metrics of a model's page, of one task and of several."""

from __future__ import annotations

from typing import Any

from streams.page.model_page import balance_line, metrics_table

ONE = {
    "id": "a" * 16,
    "training": {},
    "metrics": {"valid": {"rows": 75.0, "auc": 0.8, "tail_auc": 0.7, "tail_rows": 16.0}},
}
SEVERAL: dict[str, Any] = {
    "id": "b" * 16,
    "training": {"balance": "gdod"},
    "metrics": {
        "valid": {
            "rows": 75.0, "auc": 0.8123, "like/rows": 75.0, "like/auc": 0.8123, "stars/rmse": 0.9876,
            "like/tail_auc": None, "like/tail_rows": 0.0, "stars/tail_rmse": 1.25, "stars/tail_rows": 16.0,
        },
        "training": {"steps": 1200.0, "conflict_share": 0.25, "zero_share": 0.125},
    },
}  # fmt: skip


def test_every_task_has_its_rows_and_the_main_tasks_stand_beside_another_artifact() -> None:
    table = metrics_table([ONE, SEVERAL], slices=False)
    assert table.count("<tr>") == 1 + 5
    for told in (">AUC<", ">like: AUC<", ">stars: RMSE<", "<td>0.9876</td>", "<td>0.8000</td><td>0.8123</td>"):
        assert told in table
    slices = metrics_table([ONE, SEVERAL], slices=True)
    for told in (">tail, AUC<", ">like: tail, AUC<", ">stars: tail, RMSE<", "1.2500 <span"):
        assert told in slices


def test_what_became_of_the_gradients_is_told_where_they_were_balanced() -> None:
    assert balance_line(ONE) == ""
    assert "balanced by gdod; tasks in conflict in 25.0% of 1,200 steps, no common direction in 12.5%" in balance_line(
        SEVERAL
    )
