"""What one event says of a task: a comparison that makes it a positive (`value>=4`, `action=purchase`), or a number of
it (`value`, `log(seconds)`).

A rule may say on which events it speaks at all: `seconds>=30 if action=play`. An event of which it says nothing is
history, but nothing is learnt from it. `seconds` are the values of what people play (interest/facts/values.py): which
actions have them, and whether they are in milliseconds, is read from the log once, and kept in the rule. So is whether
there are offers that nobody took, since scoring reads behaviours alone and could not tell.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from fusion.features.log import Array, Log
from interest.errors import InputError
from interest.facts.values import Kind, kind_of
from interest.types import KNOWN_ACTIONS, OFFERED

NEGATIVE, POSITIVE, UNLABELLED = 0, 1, -1
NUMBERS, NAMES = ("value", "seconds"), ("action", "scene")
_COLUMN = "[A-Za-z_][A-Za-z0-9_.]*"
_COMPARISON = re.compile(rf"\s*({_COLUMN})\s*(>=|<=|!=|=|>|<)\s*(\S.*?)\s*")
_NUMBER = re.compile(rf"\s*(?:({_COLUMN})|log\(\s*({_COLUMN})\s*\))\s*")
_IF, _AND = re.compile(r"\s+if\s+"), re.compile(r"\s+and\s+")
_OR = re.compile(r"\s+or\s+", re.IGNORECASE)
_ANOTHER = re.compile(rf"\s(or|and|if)\s+{_COLUMN}\s*(>=|<=|!=|=|>|<)", re.IGNORECASE)  # rule inside an operand
_JOINED = {
    "or": "there is no `or`: name several as action=rate|play, or give each a task of its own",
    "and": "conditions stand behind one `if` and are joined by `and`, as in 'value>=4 if action=rate and scene=home'",
}
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
    "!=": operator.ne,
}
MILLISECONDS = 1000.0
_LABEL_EXAMPLE = "write for example --label 'value>=4' or --label 'action=purchase'"


class LabelRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """`field comparison operand`, or a number of the event, where there is no comparison.

    Its text form is what the command line takes and the artifact keeps.
    """

    field: str
    comparison: str  # empty: the rule is a number, not a yes or no
    operand: str
    log: bool = False  # the number's natural logarithm
    conditions: tuple[LabelRule, ...] = ()  # of the events that it speaks of
    unit: float = 1.0  # stored values in one of the field's: 1000 where seconds are stored as milliseconds
    offers: bool = False  # fitted to a log of offers: what was known of a user (KNOWN_ACTIONS) was not offered to them

    @classmethod
    def parse(cls, text: str, given: str | None = None, example: str = _LABEL_EXAMPLE) -> LabelRule:
        """A comparison, for a task also a number, with conditions behind `if`.

        given: the option and its text, as an error is to name them. Raises InputError.
        """
        numbers, given = given is not None, given or f"--label {text!r}"
        body, *rest = _IF.split(text, maxsplit=1)
        conditions = tuple(_comparison(each, given, example) for each in _AND.split(rest[0])) if rest else ()
        number = _NUMBER.fullmatch(body)
        if number is None or not numbers:
            return msgspec.structs.replace(_comparison(body, given, example), conditions=conditions)
        field = number[1] or number[2]
        _check_field(field, given)
        if field in NAMES:
            raise InputError(f"{given}: {field} is a name, compare it, for example {field}=NAME")
        return cls(field, "", "", log=number[1] is None, conditions=conditions)

    @property
    def is_number(self) -> bool:
        """Whether it asks how much, not whether."""
        return not self.comparison

    def __str__(self) -> str:
        body = f"log({self.field})" if self.log else f"{self.field}{self.comparison}{self.operand}"
        return body + (f" if {' and '.join(map(str, self.conditions))}" if self.conditions else "")

    def labels(self, log: Log) -> Array:
        """(N,) int8: 1, 0, or -1 for an event the rule says nothing of (no value): history, but never a sample."""
        compare = _COMPARE[self.comparison]
        if self.field in NAMES:
            texts, column = _names(log, self.field)
            wanted = {self.operand, *self.operand.split("|")}  # one of several
            matches = np.array([(text in wanted) == (self.comparison == "=") for text in texts], dtype=bool)
            labels = matches[column].astype(np.int8)
            if self.offers:
                known = np.array([text in KNOWN_ACTIONS for text in log.actions], dtype=bool)[log.action]
                asked = column >= 0  # what was known has no scene
                if self.field == "action":  # `action=pay` asks for it; `action!=click` speaks of what was offered
                    asked = matches[column] & (self.comparison == "=")
                labels[known & ~asked] = UNLABELLED
        else:
            numbers = self.numbers(log)
            labels = np.asarray(compare(numbers, float(self.operand))).astype(np.int8)
            labels[np.isnan(numbers)] = UNLABELLED
        labels[~self._speaks(log)] = UNLABELLED
        return labels

    def numbers(self, log: Log) -> Array:
        """(N,) float64: the field's numbers in its own unit, wherever an event has one; NaN elsewhere."""
        numbers = log.value.astype(np.float64)
        return numbers if self.unit == 1.0 else numbers / self.unit

    def targets(self, log: Log) -> Array:
        """(N,) float32: what a model learns of each event, NaN where that is nothing.

        A logarithm that does not exist (of zero, or less) is nothing.
        """
        if not self.is_number:
            labels = self.labels(log)
            return np.where(labels == UNLABELLED, np.nan, labels).astype(np.float32)
        numbers = self.numbers(log)
        if self.log:
            numbers = np.log(numbers, out=np.full(log.size, np.nan), where=numbers > 0)
        return np.where(self._speaks(log), numbers, np.nan).astype(np.float32)

    def without_logarithm(self, log: Log) -> int:
        """Events that it speaks of and says nothing of, since they are at 0 or below; 0 where it takes no logarithm."""
        return int(((self.numbers(log) <= 0) & self._speaks(log)).sum()) if self.log else 0

    def _speaks(self, log: Log) -> Array:
        speaks = np.ones(log.size, bool)
        for condition in self.conditions:
            speaks &= condition.labels(log) == POSITIVE
        return speaks

    def on(self, log: Log, given: str = "--label") -> LabelRule:
        """The rule on a log: seconds are the values of those actions that have seconds, and whether it has offers.

        Raises InputError where the log stores none, or not in one unit, and where it has no such action or scene.
        """
        for one in (self, *self.conditions):
            if one.field == "scene" and not log.scenes:
                raise InputError(f"{given} {self}: the log stores no scenes; {_stored(log)}")
            one._check_names(log, f"{given} {self}")
        if self.field != "seconds":
            return msgspec.structs.replace(self, offers=self.field in NAMES and OFFERED in log.actions)
        named = _played(log, self)
        if not named:
            raise InputError(f"{given} {self}: the log stores no seconds; {_stored(log)}")
        units = set(named.values())
        if len(units) > 1:
            listed = ", ".join(f"{action} in {'milli' * (unit > 1)}seconds" for action, unit in sorted(named.items()))
            raise InputError(f"{given} {self}: {listed}; say which: 'seconds ... if action=NAME'")
        conditions = self.conditions
        if not any(one.field == "action" and one.comparison == "=" for one in conditions):
            conditions = (LabelRule("action", "=", "|".join(sorted(named))), *conditions)
        return msgspec.structs.replace(self, conditions=conditions, unit=units.pop())

    def _check_names(self, log: Log, given: str) -> None:
        """A name that the log does not have would be a rule about nothing, and mostly is mistyped."""
        if self.field not in NAMES:
            return
        stored = log.actions if self.field == "action" else log.scenes
        lacking = [] if self.operand in stored else [one for one in self.operand.split("|") if one not in stored]
        if lacking:
            named = ", ".join(map(repr, lacking))
            joined = f"; {_JOINED['or']}" if _OR.search(self.operand) else ""
            raise InputError(f"{given}: the log has no {self.field} {named}; {_stored(log)}{joined}")


def _played(log: Log, rule: LabelRule) -> dict[str, float]:
    """Actions whose values are durations, of those that the rule speaks of; stored values in a second."""
    speaks, out = rule._speaks(log) & ~np.isnan(log.value), {}
    for number, action in enumerate(log.actions):
        values = log.value[speaks & (log.action == number)].astype(np.float64)
        kind = kind_of(action, values[:1000].tolist(), float(values.max())) if len(values) else Kind.NUMBER
        if kind in (Kind.SECONDS, Kind.MILLISECONDS):
            out[action] = 1.0 if kind is Kind.SECONDS else MILLISECONDS
    return out


def _stored(log: Log) -> str:
    """What a rule can be about here."""
    told = [f"action ({', '.join(sorted(log.actions)[:10])})"]
    for number, action in enumerate(log.actions):
        values = log.value[(log.action == number) & ~np.isnan(log.value)]
        if len(values):
            told.append(f"value (of {action}, {float(values.min()):g} to {float(values.max()):g})")
    if log.scenes:
        told.append(f"scene ({', '.join(sorted(log.scenes)[:10])})")
    return f"it stores {', '.join(told)}"


def _by_action(log: Log) -> str:
    """A rule by action that fits this log, where it has two actions, of offers also where it has one."""
    counts = np.bincount(log.action[log.behaved], minlength=len(log.actions))
    own = [name for name in log.actions if name not in (OFFERED, *KNOWN_ACTIONS)]
    if not own:
        return f"use another field; {_stored(log)}"
    often = max(own, key=lambda name: int(counts[log.actions.index(name)]))
    return f"use the action, for example --label 'action={often}'; {_stored(log)}"


def _names(log: Log, field: str) -> tuple[list[str], Array]:
    if field == "action":
        return log.actions, log.action
    column = log.scene if len(log.scene) else np.full(log.size, -1)
    return [*log.scenes, ""], column  # -1, no scene, is the last


def _comparison(text: str, given: str, example: str) -> LabelRule:
    match = _COMPARISON.fullmatch(text)
    if match is None:
        raise InputError(f"{given} is not a label rule; {example}")
    rule = LabelRule(match[1], match[2], match[3])
    _check_field(rule.field, given, example)
    another = _ANOTHER.search(rule.operand)
    if another or (rule.field in NUMBERS and _OR.search(rule.operand)):
        raise InputError(f"{given}: {_JOINED['or' if another is None or another[1].lower() == 'or' else 'and']}")
    if rule.field in NUMBERS:
        if not _is_finite(rule.operand):
            raise InputError(f"{given}: {rule.operand!r} is not a number; {example}")
    elif rule.comparison not in ("=", "!="):
        which = "an action" if rule.field == "action" else "a scene"
        raise InputError(f"{given}: {which} can only be compared with = or !=; {example}")
    return rule


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_field(field: str, given: str, example: str = "") -> None:
    if field not in (*NUMBERS, *NAMES):
        raise InputError(
            f"{given}: {field!r} is not stored; a behaviour has a value, seconds (the value of what is played), an "
            f"action and perhaps a scene{f'; {example}' if example else ''}"
        )


def check_classes(labels: Array, rule: LabelRule, log: Log, given: str = "--label") -> None:
    """Refuse samples of one class only, saying what the log holds instead."""
    positive, negative = int((labels == POSITIVE).sum()), int((labels == NEGATIVE).sum())
    if positive and negative:
        return
    if rule.field in NUMBERS and positive + negative == 0:
        raise InputError(
            f"{given} {rule}: no event has a value; {_by_action(log)}"
            if not rule.conditions
            else f"{given} {rule}: no sample has a label; {_stored(log)}"
        )
    if rule.field in NUMBERS:
        low, high = float(np.nanmin(log.value)), float(np.nanmax(log.value))
        held = f"the values lie between {low:g} and {high:g}; choose a threshold inside"
    elif rule.field == "scene":
        held = _stored(log)
    else:
        held = f"the actions are {', '.join(sorted(log.actions)[:10])}; name one of several"
        if len(log.actions) == 1:
            held = f"the only action is {log.actions[0]}; use the value, for example --label 'value>=4'"
    raise InputError(
        f"{given} {rule}: all {positive + negative:,} samples are {'positive' if positive else 'negative'}; {held}"
    )
