"""Scenes kept apart, from the command line to what a person reads of a user."""

from __future__ import annotations

import json
from pathlib import Path

from streams.service import insight_reads
from streams.store.engine import open_store
from tests.support.command_line import run

SCENES = ("home", "home", "shop", None)


def test_partitions_texts_and_pages_say_the_scene(tmp_path: Path) -> None:
    log_rows = []
    for n in range(57):
        row = {"user_id": "u", "item_id": f"i{n % 8}", "timestamp": 1_700_000_000 + 60 * n, "action": "rate"}
        scene = SCENES[n % 4]
        log_rows.append(row | {"value": n % 5 + 1} | ({"scene": scene} if scene else {}))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log_rows))
    items = [{"item_id": f"i{n}", "title": f"Film {n}", "categories": ["Drama", "War"][n % 2 :]} for n in range(8)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    store = ("--store", f"sqlite:///{tmp_path / 'store.db'}")
    log = ("replay", tmp_path / "log.jsonl", "--items", tmp_path / "items.jsonl", "--partition", 10, *store)
    done = run(*log, "--scenes", "apart", "--no-llm")
    assert "of this log 57 behaviours" in done.output, done.output
    assert "4 closed partitions" in done.output  # two of 29 at home, one of 14 in the shop, one of 14 nowhere
    refused = run(*log, "--no-llm")
    assert refused.exit_code != 0
    assert "--scenes apart" in str(refused.exception)
    assert run("learn", "--llm", "statistics", *store).exit_code == 0

    shown = run("timeline", "u", "--json", *store)
    periods = json.loads(shown.output)["partitions"]
    assert [(one["index"], one["scene"], one["behaviors"]) for one in periods] == [
        (0, "home", 10), (1, "shop", 10), (2, "", 10), (3, "home", 10),
    ]  # fmt: skip
    assert periods[1]["summary"]["text"].startswith('In the scene "shop", this user rated 10 titles')
    assert [one["shift"] is not None for one in periods] == [False, False, False, True]
    assert {row["item_id"] for row in periods[1]["evidence"]} <= {f"i{n % 8}" for n in range(2, 57, 4)}
    read = " ".join(run("timeline", "u", *store).output.split())
    assert "10 behaviours of the scene shop, closed by count" in read
    assert "17 behaviours in the open cache" in read
    stats = json.loads(run("stats", "--json", *store).output)
    assert (stats["partitions"], stats["open_caches"], stats["open_behaviors"]) == (4, 1, 17)

    engine = open_store(store[1], create=False)
    with engine.connect() as connection:
        page = insight_reads.cards(connection, "u", 10, None)
        waiting = insight_reads.open_cache(connection, "u")
        shares = insight_reads.shares(connection, "u", 10, 8)
    engine.dispose()
    assert [(one.index, one.scene, len(one.behaviors)) for one in page.items] == [
        (3, "home", 10), (2, "", 10), (1, "shop", 10), (0, "home", 10),
    ]  # fmt: skip
    assert {seq for one in page.items for seq in (row.seq for row in one.behaviors)}.isdisjoint(
        row.seq for row in waiting.behaviors
    )
    assert (waiting.total, len(waiting.behaviors), waiting.closes_after) == (17, 17, None)
    assert shares.labels == ["0", "1", "2", "3", "open"]
    assert all(sum(shares.categories[name][k] for name in shares.categories) > 0.999 for k in range(5))
