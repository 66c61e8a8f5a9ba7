"""Training with outliers beside the data: on them a network is to be uncertain (outlier exposure, Hendrycks et al. 2019)."""

import math
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

from helpers.inputs import check_generator, check_no_bytes, check_number, check_real, check_shapes, told
from helpers.losses import uniform_cross_entropy

Tensor = torch.Tensor


def with_outliers(
    outliers: Tensor, weight: float = 0.5, *, times: int = 1, generator: torch.Generator | None = None
) -> Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]:
    """The objective −log p(y|x) + weight · (cross-entropy from the uniform distribution at outliers), for helpers.training.fit.

    One forward pass of the images and `times` as many outliers, drawn with replacement. Outlier exposure (Hendrycks et al. 2019,
    eq. 1 and §4): weight 0.5 and times 2, for networks with softmax. With weight 1 on a helpers.mixtures.CCU: its objective.

    outliers : images (M, C, H, W) in [0, 1] of none of the classes
    generator : draws them; None: torch's global one, which `fit` seeds and its checkpoints hold: then a resumed training is the
        uninterrupted one
    raises ValueError for no outliers, values that are no finite float, or settings out of range; the objective for images of
        another shape
    """
    if (
        not torch.is_tensor(outliers)
        or outliers.ndim != 4
        or len(outliers) == 0
        or not outliers.is_floating_point()
        or not outliers.isfinite().all()
    ):
        raise ValueError(f"outliers must be finite float images (M, C, H, W), M >= 1, not {told(outliers)}")
    check_no_bytes("outliers", outliers)
    check_generator(generator)
    check_number("times", times, whole=True)
    check_real("weight", weight)
    if weight is None or not 0 <= weight < math.inf or times < 1:
        raise ValueError(f"weight must be finite and at least 0 and times at least 1, not {weight} and {times}")

    def objective(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        if x.shape[1:] != outliers.shape[1:]:
            raise ValueError(
                f"images and outliers must be of one shape, not {tuple(x.shape[1:])} and {tuple(outliers.shape[1:])}"
            )
        device = outliers.device if generator is None else generator.device
        index = torch.randint(len(outliers), (times * len(x),), generator=generator, device=device)
        logits = model(torch.cat([x, outliers[index.to(outliers.device)].to(x)]))
        check_shapes(logits[: len(x)], y)
        return cross_entropy(logits[: len(x)], y) + weight * uniform_cross_entropy(logits[len(x) :]).mean()

    return objective
