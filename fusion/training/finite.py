"""Training stops at the first loss that is not a finite number, before any weight has taken a step from it."""

from __future__ import annotations

import math

from torch import Tensor

from interest.errors import InputError


def finite_loss(loss: Tensor, epoch: int, step: int) -> Tensor:
    """The loss. Raises InputError for one that is nan or infinite: after one step from it every weight would be too."""
    value = float(loss.detach())
    if not math.isfinite(value):
        raise InputError(
            f"the loss is {value} at step {step:,} of epoch {epoch + 1}; no artifact is written. Look at the values of "
            "the log (a rating far outside its scale: `replay --value-range`), and try a lower --lr"
        )
    return loss
