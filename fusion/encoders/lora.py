"""LoRA (Hu et al., ICLR 2022, section 4.1): a frozen W gets a trained difference of low rank, (alpha / r) B A.

What is frozen becomes a buffer that is not saved, so checkpoints, averages and artifacts hold the differences alone.
That is why this is not the peft library: its frozen weights stay parameters, which the trainer would copy three times.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LoraLinear(nn.Module):
    """A linear layer with LoRA: x W^T + bias + (alpha / r) x A^T B^T. B is zero at first: the layer itself."""

    def __init__(self, of: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.empty(rank, of.in_features))  # A
        self.up = nn.Parameter(torch.zeros(of.out_features, rank))  # B
        nn.init.kaiming_uniform_(self.down, a=5**0.5)
        self.weight: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", of.weight.detach(), persistent=False)
        self.register_buffer("bias", None if of.bias is None else of.bias.detach(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(F.linear(x, self.down), self.up)


def add_lora(module: nn.Module, rank: int, alpha: float) -> None:
    """Replace every linear layer of the module by a LoraLinear, and freeze everything else."""
    for child in list(module.modules()):
        for name, linear in list(child.named_children()):
            if isinstance(linear, nn.Linear):
                setattr(child, name, LoraLinear(linear, rank, alpha))
        if not isinstance(child, LoraLinear):
            freeze(child)


def freeze(module: nn.Module) -> None:
    """Freeze a module: its own parameters become buffers that are neither trained nor saved."""
    for name, value in list(module.named_parameters(recurse=False)):
        delattr(module, name)
        module.register_buffer(name, value.detach(), persistent=False)
