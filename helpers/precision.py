"""Precision of a training: float32 throughout, or a network's passes in bfloat16 beside weights and losses in float32."""

from collections.abc import Callable
from functools import cache
from types import MethodType

import torch
from torch import nn

Tensor = torch.Tensor
PRECISIONS = ("float32", "bf16")
FUSED = ("cpu", "cuda")  # devices whose fused SGD both the oldest and the newest torch of the book have


def check_precision(precision: str, model: nn.Module) -> None:
    """raises ValueError for an unknown precision, and for bf16 of a network whose weights are not float32"""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    other = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()} - {"float32"})
    if precision == "bf16" and other:
        raise ValueError(f"bf16 is for float32 weights, not {', '.join(other)}: call the network's .float(), or take float32")


def in_bf16(objective: Callable[..., Tensor], model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """objective(model, x, y), where the network and each of its parts compute by torch.autocast in bf16 and return float32.

    The arithmetic of the objective itself, losses and attacks, stays in float32: under autocast a log-softmax takes bf16 logits
    as they come, and keeps 2 to 3 digits. What the objective calls by itself of the network, as `model.network` or the layers of
    `model[:3]`, returns float32 too. Each call casts the weights anew: within one autocast torch 2.6 would reuse a cast that an
    attack made without gradients, and the weights would receive none.
    """
    parts = [m for m in model.modules() if "forward" not in vars(m)]
    for m in parts:
        vars(m)["forward"] = MethodType(_outermost(type(m).forward, x.device.type), m)
    try:
        return objective(model, x, y)
    finally:
        for m in parts:
            vars(m).pop("forward", None)


@cache  # for every batch and module else: as long as a small network's pass
def _outermost(forward: Callable, device: str) -> Callable:
    """A module's forward pass; unless it is part of another's, in bf16 with results in float32."""

    def run(module: nn.Module, *args, **kwargs):
        if torch.is_autocast_enabled(device):
            return forward(module, *args, **kwargs)
        with torch.autocast(device, dtype=torch.bfloat16):
            return _float32(forward(module, *args, **kwargs))

    return run


def _float32(value):
    """Tensors of bf16, also in tuples and lists, as float32; anything else as it is."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    return type(value)(map(_float32, value)) if type(value) in (tuple, list) else value
