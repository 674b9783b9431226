"""GDOD (arXiv 2301.13465, CIKM 2022): the part of several tasks' gradients that no task disagrees with.

The paper takes an orthogonal basis of the gradients' span by a singular value decomposition, and keeps the directions
on which all tasks' projections have one sign. Written with the Gram matrix C of the gradients that is a statement
about its eigenspaces, which are there whatever the tasks' order, and whatever basis a solver picks where eigenvalues
are alike: with p the projection of the vector of ones on an eigenspace, sum_i (projection of g_i) = G p, and task i's
product with that is its eigenvalue times p_i. So an eigenspace is kept where p has one sign, the update is G times the
sum of the kept p, and its product with every task's gradient is at least 0.

Knows nothing of models, losses or optimisers.
"""

from __future__ import annotations

import torch
from torch import Tensor

ALIKE = 1e-9  # eigenvalues closer than this share of the greatest are one eigenspace
ZERO = 1e-9  # of a projection's length, what counts as neither sign


def shared_weights(gram: Tensor) -> Tensor:
    """(T,) float64 w: the update of the shared parameters is the sum of w_i times task i's gradient.

    gram: (T, T), products of the tasks' gradients. All zeros where no direction is kept: a zero update.
    """
    exact = gram.double()
    values, vectors = torch.linalg.eigh((exact + exact.T) / 2)  # ascending
    most = float(values[-1])
    kept = torch.zeros(len(values), dtype=torch.float64, device=gram.device)
    if most <= 0:
        return kept
    start = 0
    for end in range(1, len(values) + 1):
        if end < len(values) and float(values[end] - values[end - 1]) <= ALIKE * most:
            continue
        space = vectors[:, start:end]
        if float(values[end - 1]) > ALIKE * most:  # else its directions are no gradient's
            projection = space @ space.sum(dim=0)
            length = float(projection.norm())
            if (
                length > ZERO and float(projection.min()) >= -ZERO * length
            ):  # its sum is its length squared: not below 0
                kept += projection
        start = end
    return kept
