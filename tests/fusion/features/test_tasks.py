"""Tasks in their text form: what they say of a log's events, and how what cannot be one is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fusion.features.log import Log
from fusion.features.tasks import going_on, main_task, on_log, parse_tasks, targets_of, with_scales
from interest.errors import InputError
from tests.support.ctr_world import log_of

NAN = float("nan")


def mixed(plays: tuple[float, ...] = (30.0, 0.0, 7200.0)) -> Log:
    """Ratings 5, 2 and none, then three plays."""
    log = log_of([(0, i, float(i), value) for i, value in enumerate((5.0, 2.0, None, *plays))], 1, 6)
    action = np.array([0, 0, 0, 1, 1, 1], np.int32)
    return dataclasses.replace(log, actions=["rate", "play"], action=action, scenes=["tv"], scene=action - 1)


def said(log: Log, *texts: str) -> list[list[float]]:
    return targets_of(on_log(parse_tasks(["any=action!=rate", *texts]), log), log)[:, 1:].T.tolist()


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        ("like=value>=4 if action=rate", [1, 0, NAN, NAN, NAN, NAN]),
        ("watched=seconds>=30@0.5", [NAN, NAN, NAN, 1, 0, 1]),
        ("watched = seconds >= 30 if scene=tv", [NAN, NAN, NAN, NAN, NAN, NAN]),
        ("stars=value if action=rate", [5, 2, NAN, NAN, NAN, NAN]),
        ("long=log(seconds)", [NAN, NAN, NAN, np.log(30), NAN, np.log(7200)]),
        ("either=action=play|rate", [1, 1, 1, 1, 1, 1]),
        ("tv=scene=tv if action=play and value>=1", [NAN, NAN, NAN, 1, NAN, 1]),
    ],
)
def test_a_task_says_something_of_the_events_it_is_about(task: str, wanted: list[float]) -> None:
    log = mixed()
    if task.startswith("watched =") or task.startswith("tv="):
        log = dataclasses.replace(log, scene=np.array([0, 0, 0, 0, 0, 0], np.int32))
        wanted = [NAN, NAN, NAN, 1, 0, 1] if task.startswith("watched") else wanted
    np.testing.assert_allclose(said(log, task), [np.array(wanted, np.float32)], rtol=1e-6)


def test_milliseconds_are_seconds_in_a_rule_and_what_the_log_is_asked_is_kept() -> None:
    log = mixed((30_000.0, 5_000.0, 90_000.0))
    (task, *_) = on_log(parse_tasks(["watched=seconds>=30@2"]), log)
    assert (task.weight, task.rule.unit, str(task.rule)) == (2.0, 1000.0, "seconds>=30 if action=play")
    assert task.rule.labels(log).tolist() == [-1, -1, -1, 1, 0, 1]
    later = mixed((9.0, 8.0, 7.0))  # would not be taken for milliseconds, nor for seconds
    assert task.rule.labels(later).tolist() == [-1, -1, -1, 0, 0, 0]


def test_a_number_is_standardised_by_what_training_holds_and_the_first_yes_or_no_is_the_main_task() -> None:
    log = mixed()
    tasks = parse_tasks(["stars=value if action=rate", "like=value>=4"])
    assert main_task(tasks) == 1
    scaled = with_scales(tasks, log, np.arange(6) < 4)
    assert scaled[0].scale == (3.5, 1.5)
    assert scaled[1] == tasks[1]


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["value>=4"], "has no name of letters and digits before a ="),
        (["like=stars>=4"], "'stars' is not stored; a behaviour has a value, seconds"),
        (["like=log(action)"], "action is a name, compare it"),
        (["like=value>=4@0"], "'0' is not a number above 0"),
        (["like=value>=four"], "'four' is not a number"),
        (["like=value>=nan"], "'nan' is not a number"),
        (["like=value<inf"], "'inf' is not a number"),
        (["like=value>=4 if value<1e999"], "'1e999' is not a number"),
        (["like=value if action=rate or action=play"], r"there is no `or`: name several as action=rate\|play"),
        (["like=value>=4 or value<=1"], "there is no `or`"),
        (["like=value>=4 or 5"], "there is no `or`"),
        (["like=action=rate OR scene=tv"], "there is no `or`"),
        (["like=action=rate and value>=4"], "conditions stand behind one `if` and are joined by `and`"),
        (["like=value>=4 if action=rate if scene=tv"], "conditions stand behind one `if`"),
        (["like=action>buy"], "an action can only be compared with = or !="),
        (["like=value>=4", "like=value>=5"], "--task like is there twice"),
        (["stars=value"], "no task is a comparison.*add one, for example"),
        (["like=value>=4 if value"], "is not a label rule"),
        (["like=__import__('os')"], "is not a label rule"),
    ],
)
def test_what_is_not_a_task_is_refused_with_an_example(texts: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_tasks(texts)


def test_a_column_that_the_log_does_not_store_is_told_with_what_it_stores() -> None:
    ratings = log_of([(0, 0, 1.0, 5.0), (0, 1, 2.0, 3.0)], 1, 2)
    with pytest.raises(
        InputError, match=r"--task watched: .*no seconds; it stores action \(rate\), value \(of rate, 3 to 5"
    ):
        on_log(parse_tasks(["watched=seconds>=30"]), ratings)
    with pytest.raises(InputError, match="stores no scenes"):
        on_log(parse_tasks(["here=scene=home"]), ratings)
    both = dataclasses.replace(
        mixed(), actions=["listen", "play"], value=np.array([10, 90_000, 5e5, 30, 10, 7200], np.float32)
    )
    with pytest.raises(InputError, match="listen in milliseconds, play in seconds; say which"):
        on_log(parse_tasks(["watched=seconds>=30"]), both)


def test_a_task_that_goes_on_reads_what_was_known_of_users_as_it_was_learnt() -> None:
    """Offers may come later: what was a dislike in histories stays one, and a new task has its own rule."""
    log = log_of([(0, 0, 1.0, None), (0, 1, 2.0, None), (0, 2, 3.0, None)], 1, 3)
    log = dataclasses.replace(log, actions=["click", "search"], action=np.array([0, 1, 1], np.int32))
    later = dataclasses.replace(
        log, actions=["click", "search", "offered"], action=np.array([0, 1, 2], np.int32), offer=np.arange(3) == 2
    )
    texts = ["click=action=click", "search=action=search"]
    for was, wanted in ((log, [1, 0, 0]), (later, [1, -1, 0])):
        known = on_log(parse_tasks(texts[:1]), was)
        first, new = going_on(parse_tasks(texts), known, later, np.ones(3, bool))
        assert first.rule.labels(later).tolist() == wanted
        assert new.rule.offers


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("stars=value if action=buy", r"no action 'buy'; it stores action \(play, rate\)"),
        ("stars=action=play|bye", "no action 'bye'"),
        ("stars=value>=4 if action!=by", "no action 'by'"),
        ("stars=scene=radio", r"no scene 'radio'; .* scene \(tv\)"),
        ("stars=action=rate or play", "no action 'rate or play'; .*there is no `or`"),
    ],
)
def test_a_name_that_the_log_does_not_have_is_told_with_those_it_has(task: str, told: str) -> None:
    with pytest.raises(InputError, match=f"--task stars: .*{told}"):
        said(mixed(), task)


def test_a_name_with_or_in_it_is_a_name() -> None:
    log = dataclasses.replace(mixed(), actions=["trick or treat", "a|b"])
    tasks = on_log(parse_tasks(["one=action=trick or treat", "other=action=a|b"]), log)
    assert targets_of(tasks, log).T.tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]


def test_events_without_a_logarithm_are_counted() -> None:
    tasks = on_log(parse_tasks(["any=action=rate", "long=log(seconds)", "watched=seconds>=30"]), mixed())
    assert [task.rule.without_logarithm(mixed()) for task in tasks] == [0, 1, 0]
