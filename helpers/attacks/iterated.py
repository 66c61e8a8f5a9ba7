"""Attacks that take many steps. Samples that are finished leave the batch."""

from collections.abc import Callable

import torch

from helpers.attacks.one_step import against_own, logit_jacobian, minimal_shift, rivals
from helpers.inputs import (
    check_callable,
    check_generator,
    check_input,
    check_labels,
    check_norm,
    check_real,
    check_whole,
)
from helpers.losses import log_odds, margin, merge_reject
from helpers.metrics import eval_mode
from helpers.norms import project, random_in_ball, steepest
from helpers.passes import Model, checked_logits, gradient_of, rounding_of, with_gradients

Tensor = torch.Tensor


def minus_log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """What `pgd` maximises by default: per sample the direction of the cross-entropy, without its saturation."""
    return -log_odds(logits, y)


@with_gradients
def deepfool(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 50,
    norm: str = "l2",
    overshoot: float = 0.02,
    candidates: int | None = None,
    clip: bool = True,
) -> Tensor:
    """The nearest wrongly classified image that repeated `minimal_shift`s on the logits find (Moosavi-Dezfooli et al. 2016).

    steps : at most; every sample takes only as many as it needs and then leaves the batch
    overshoot : the sum of the shifts is stretched by 1 + overshoot, to cross the boundary instead of touching it
    candidates : rival classes that the shifts consider, those of the largest logits at x; None: all. Its authors take ten of the
        thousand of ImageNet: each costs a backward pass a step. Any class fools, also one that was no candidate

    There is no eps: the result's distance from x is what one wants to know. Samples that are wrong already return unchanged; of
    a sample that is never fooled the last iterate returns, so score the result. Fooled means by a margin of the logits that
    their rounding at another batch size does not undo.
    """
    check_norm(norm)
    check_input(x, y, 0.0, clip, norm)
    check_callable("model", model)
    check_whole("steps", steps)
    check_whole("candidates", candidates)
    check_real("overshoot", overshoot)
    if None in (steps, overshoot) or steps < 1 or not 0 <= overshoot < torch.inf:
        raise ValueError(f"steps must be at least 1 and overshoot finite and >= 0, not {steps} and {overshoot}")
    if candidates is not None and candidates < 1:
        raise ValueError(f"candidates must be at least 1, or None for all classes, not {candidates}")
    x = x.detach()
    classes = None if candidates is None else _candidates(model, x, y, candidates)
    total, result = torch.zeros_like(x), x.clone()
    alive = torch.arange(len(x), device=x.device)
    for step in range(steps + 1):
        with torch.no_grad(), eval_mode(model):
            logits = checked_logits(model, result[alive], y[alive])
        rounding = rounding_of(logits.dtype) * logits.abs().amax(dim=1)
        left = margin(logits, y[alive]) >= (-rounding if step else 0)
        alive, rounding = alive[left], rounding[left]
        if step == steps or not len(alive):
            break
        own = y[alive] if classes is None else torch.zeros_like(y[alive])
        logits, jacobian = logit_jacobian(model, result[alive], own, None if classes is None else classes[alive])
        gap = (2 * rounding[:, None] - against_own(logits, own)).masked_fill(~rivals(logits, own), torch.inf)
        shift, _ = minimal_shift(gap, against_own(jacobian, own), norm)
        total[alive] += shift.view_as(total[alive])
        moved = x[alive] + (1 + overshoot) * total[alive]
        result[alive] = moved.clamp(0, 1) if clip else moved
    return result


def _candidates(model: Model, x: Tensor, y: Tensor, number: int) -> Tensor:
    """Each sample's own class, then its `number` rivals of the largest logits: (N, 1 + number), or all there are."""
    with torch.no_grad(), eval_mode(model):
        logits = checked_logits(model, x, y)
    ordered = logits.scatter(1, y[:, None], torch.inf).argsort(dim=1, descending=True)
    return ordered[:, : number + 1]


@with_gradients
def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 40,
    restarts: int = 5,
    step_size: float | None = None,
    norm: str = "l2",
    loss: Callable[[Tensor, Tensor], Tensor] = minus_log_odds,
    target: Tensor | None = None,
    reject: bool = False,
    clip: bool = True,
    stop: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient ascent in the L2 or L∞ ball (Madry et al. 2018), with restarts; the strongest attack of this module.

    steps, restarts : the first restart begins at x, the others at random points of the ball (`norms.random_in_ball`)
    step_size : length of one step; 2.5 eps / steps if not given
    norm : "l2" or "linf"
    loss : (logits, y) -> (N,), maximised
    target : (N,) classes to go for; then z_target − z_y is maximised instead of the loss, and any wrong class still counts
    reject : whether the last class is a reject class. Being rejected is then no success: the loss sees `losses.merge_reject`
        of the logits, so the adversary has to rise above the true class and the reject class together

    stop : False for a model that answers at random, of which one wrong answer is no success: no sample leaves the batch then,
        and of each the iterate of highest loss returns

    A sample leaves the batch once it is misclassified. Of a sample that never is, the iterate of highest loss returns.
    """
    check_norm(norm, ("l2", "linf"))
    check_input(x, y, eps, clip, norm)
    check_generator(generator)
    check_callable("model", model)
    check_whole("steps", steps)
    check_whole("restarts", restarts)
    check_real("step_size", step_size)
    if None in (steps, restarts) or steps < 1 or restarts < 1:
        raise ValueError(f"steps and restarts must be at least 1, not {steps} and {restarts}")
    if target is not None and (target.shape != y.shape or target.dtype != y.dtype or (target == y).any()):
        raise ValueError("target needs one class for each sample, another than its own")
    step_size = 2.5 * eps / steps if step_size is None else step_size
    if not 0 <= step_size < torch.inf:
        raise ValueError(f"step_size must be a finite number >= 0, not {step_size}")
    x = x.detach()
    best, highest = x.clone(), torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
    alive = torch.arange(len(x), device=x.device)

    def into_ball(moved: Tensor, centre: Tensor) -> Tensor:
        moved = centre + project(moved - centre, eps, norm)
        return moved.clamp(0, 1) if clip else moved

    with eval_mode(model), torch.enable_grad():
        for restart in range(restarts):
            current = x[alive]
            if restart:
                current = into_ball(current + random_in_ball(current, eps, norm, generator), x[alive])
            for step in range(steps + 1):
                current = current.detach().requires_grad_()
                logits = checked_logits(model, current, y[alive])
                logits = merge_reject(logits, y[alive]) if reject else logits
                if target is None:
                    value = loss(logits, y[alive])
                else:
                    check_labels(logits, target[alive])
                    value = (logits.gather(1, target[alive, None]) - logits.gather(1, y[alive, None])).squeeze(1)
                fooled = (logits.argmax(dim=1) != y[alive]) & stop
                better = fooled | (value.detach() > highest[alive])
                best[alive[better]] = current.detach()[better]
                highest[alive[better]] = value.detach()[better]
                if step < steps and not fooled.all():
                    g = gradient_of(value.sum(), current)[~fooled]
                alive, current = alive[~fooled], current.detach()[~fooled]
                if len(alive) == 0:
                    return best
                if step < steps:
                    current = into_ball(current + step_size * steepest(g, norm), x[alive])
    return best
