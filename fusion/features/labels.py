"""What counts as a positive: a small rule over one event, such as `value>=4` or `action=purchase`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from fusion.features.log import Array, Log
from interest.errors import InputError

NEGATIVE, POSITIVE, UNLABELLED = 0, 1, -1
_RULE = re.compile(r"\s*(value|action)\s*(>=|<=|!=|=|>|<)\s*(\S.*?)\s*")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
    "!=": operator.ne,
}


class LabelRule(msgspec.Struct, frozen=True):
    """`field comparison operand`; its text form is what the command line takes and the artifact keeps."""

    field: str
    comparison: str
    operand: str

    @classmethod
    def parse(cls, text: str) -> LabelRule:
        match = _RULE.fullmatch(text)
        example = "write for example --label 'value>=4' or --label 'action=purchase'"
        if match is None:
            raise InputError(f"--label {text!r} is not a label rule; {example}")
        rule = cls(*match.groups())
        if rule.field == "value":
            try:
                float(rule.operand)
            except ValueError:
                raise InputError(f"--label {text!r}: {rule.operand!r} is not a number; {example}") from None
        elif rule.comparison not in ("=", "!="):
            raise InputError(f"--label {text!r}: an action can only be compared with = or !=; {example}")
        return rule

    def __str__(self) -> str:
        return f"{self.field}{self.comparison}{self.operand}"

    def labels(self, log: Log) -> Array:
        """(N,) int8: 1, 0, or -1 for an event the rule says nothing of (no value): history, but never a sample."""
        compare = _COMPARE[self.comparison]
        if self.field == "action":
            matches = np.array([compare(action, self.operand) for action in log.actions], dtype=bool)
            return matches[log.action].astype(np.int8)
        labels = np.asarray(compare(log.value.astype(np.float64), float(self.operand))).astype(np.int8)
        labels[np.isnan(log.value)] = UNLABELLED
        return labels


def check_classes(labels: Array, rule: LabelRule, log: Log) -> None:
    """Refuse samples of one class only, saying what the log holds instead."""
    positive, negative = int((labels == POSITIVE).sum()), int((labels == NEGATIVE).sum())
    if positive and negative:
        return
    if rule.field == "value" and positive + negative == 0:
        raise InputError(f"--label {rule}: no event has a value; use the action, for example --label 'action=purchase'")
    if rule.field == "value":
        low, high = float(np.nanmin(log.value)), float(np.nanmax(log.value))
        held = f"the values lie between {low:g} and {high:g}; choose a threshold inside"
    else:
        held = f"the actions are {', '.join(sorted(log.actions)[:10])}; name one of several"
        if len(log.actions) == 1:
            held = f"the only action is {log.actions[0]}; use the value, for example --label 'value>=4'"
    raise InputError(
        f"--label {rule}: all {positive + negative:,} samples are {'positive' if positive else 'negative'}; {held}"
    )
