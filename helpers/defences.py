"""What stronger attacks leave of a defence: the images that withstand them all."""

from collections.abc import Callable, Iterable

import torch

from helpers.claims.defences import survival  # noqa: F401  a chapter says defences.survival
from helpers.claims.detectors import detection  # noqa: F401
from helpers.metrics import in_batches

Tensor = torch.Tensor


def withstanding(
    attacks: Iterable[Callable[..., Tensor]], stands: Callable[[Tensor, Tensor], Tensor], alive: Tensor, *tensors: Tensor
) -> Tensor:
    """Which samples withstand every attack, one after the other on those that are left: bool (N,).

    attacks : functions of slices of `tensors` (images, labels and whatever else they need per sample) -> attacked images
    stands : (attacked images, labels) -> bool, whether a sample still counts as right
    alive : bool (N,), those that count before any attack
    """
    if alive.dtype != torch.bool or len(tensors) < 2 or any(t.shape[:1] != alive.shape for t in tensors):
        raise ValueError("alive must be bool (N,), and images, labels and whatever else is given as long")
    alive = alive.clone()
    for attack in attacks:
        left = alive.nonzero().squeeze(1)
        if len(left) == 0:
            break
        alive[left] = stands(in_batches(attack, *(t[left] for t in tensors)), tensors[1][left])
    return alive
