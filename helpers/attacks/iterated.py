"""Attacks that take many steps along gradients. Samples that are finished leave the batch."""

import math
from collections.abc import Callable

import torch

from helpers.inputs import (
    check_callable,
    check_choice,
    check_generator,
    check_input,
    check_labels,
    check_norm,
    check_real,
    check_whole,
)
from helpers.losses import log_odds, merge_reject
from helpers.metrics import eval_mode
from helpers.norms import expand, project, random_in_ball, steepest
from helpers.passes import Model, checked_logits, gradient_of, with_gradients

Tensor = torch.Tensor


def minus_log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """What `pgd` maximises by default: per sample the direction of the cross-entropy, without its saturation."""
    return -log_odds(logits, y)


@with_gradients
def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 40,
    restarts: int = 5,
    step: str = "cosine",
    step_size: float | None = None,
    norm: str = "l2",
    loss: Callable[[Tensor, Tensor], Tensor] = minus_log_odds,
    target: Tensor | None = None,
    reject: bool = False,
    clip: bool = True,
    stop: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient ascent in the L2 or L∞ ball (Madry et al. 2018), with restarts.

    steps, restarts : the first restart begins at x, the others at random points of the ball (`norms.random_in_ball`)
    step : "cosine", steps that fall to nothing along half a cosine: they cross the ball first and settle at the end; or
        "constant", Madry's
    step_size : length of the first step; 2 eps if not given, and 2.5 eps / steps for constant ones
    norm : "l2" or "linf"
    loss : (logits, y) -> (N,), maximised
    target : (N,) classes to go for; then z_target − z_y is maximised instead of the loss, and any wrong class still counts
    reject : whether the last class is a reject class. Being rejected is then no success: the loss sees `losses.merge_reject`
        of the logits, so the adversary has to rise above the true class and the reject class together

    stop : False where a misread image is not the end: for a model that answers at random, where one wrong answer is no success,
        and for images that another model has to misread. No sample leaves the batch then, and of each the iterate of highest loss
        returns

    A sample leaves the batch once it is misclassified. Of a sample that never is, the iterate of highest loss returns.
    """
    check_search(model, x, y, eps, clip, steps, norm, target, generator)
    check_whole("restarts", restarts)
    if restarts is None or restarts < 1:
        raise ValueError(f"restarts must be at least 1, not {restarts}")
    lengths = step_lengths(eps, steps, step, step_size)
    x = x.detach()
    best, highest = x.clone(), torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
    alive = torch.arange(len(x), device=x.device)
    with eval_mode(model), torch.enable_grad():
        for restart in range(restarts):
            current, centre = x[alive], x[alive]
            if restart:
                current = into_ball(current + random_in_ball(current, eps, norm, generator), centre, eps, norm, clip)
            for length in [*lengths, None]:
                current = current.detach().requires_grad_()
                value, fooled = objective(model, current, y[alive], loss, None if target is None else target[alive], reject)
                fooled &= stop
                better = fooled | (value.detach() > highest[alive])
                best[alive[better]], highest[alive[better]] = current.detach()[better], value.detach()[better]
                if length is not None and not fooled.all():
                    g = gradient_of(value.sum(), current)
                current = current.detach()
                if fooled.any():
                    alive, current, centre = alive[~fooled], current[~fooled], centre[~fooled]
                    if len(alive) == 0:
                        return best
                    g = g[~fooled] if length is not None else g
                if length is not None:
                    current = into_ball(current + length * steepest(g, norm), centre, eps, norm, clip)
    return best


@with_gradients
def apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 40,
    norm: str = "l2",
    loss: Callable[[Tensor, Tensor], Tensor] = minus_log_odds,
    target: Tensor | None = None,
    reject: bool = False,
    clip: bool = True,
    stop: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Auto-PGD (Croce & Hein 2020, Algorithm 1): ascent with momentum, from a random point, that halves an image's step and goes
    back to its best point wherever it stops rising. Parameters as of `pgd`.

    The step starts at 2 eps. At checkpoints, which come ever closer, it is halved if the loss rose at less than three quarters of
    the steps, or if neither it nor the highest loss has changed since the checkpoint before.
    """
    check_search(model, x, y, eps, clip, steps, norm, target, generator)
    x = x.detach()
    best, highest = x.clone(), torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
    alive = torch.arange(len(x), device=x.device)
    size = torch.full_like(highest, 2 * eps)
    rises = torch.zeros_like(highest)  # steps at which the loss rose since the checkpoint
    before, halved = highest.clone(), torch.ones_like(alive, dtype=torch.bool)  # at the last checkpoint
    current = into_ball(x + random_in_ball(x, eps, norm, generator), x, eps, norm, clip)
    last, value_before = current, highest.clone()
    checkpoints = _checkpoints(steps)
    with eval_mode(model), torch.enable_grad():
        for k in range(steps + 1):
            current = current.detach().requires_grad_()
            value, fooled = objective(model, current, y[alive], loss, None if target is None else target[alive], reject)
            fooled &= stop
            if k < steps and not fooled.all():
                g = gradient_of(value.sum(), current)
            current, value = current.detach(), value.detach()
            better = fooled | (value > highest[alive])
            best[alive[better]], highest[alive[better]] = current[better], value[better]
            rises[alive] += value > value_before
            if k == steps or fooled.all():
                break
            value_before, left = value[~fooled], ~fooled
            alive, current, last, g = alive[left], current[left], last[left], g[left]
            if k in checkpoints:
                since = k - checkpoints[checkpoints.index(k) - 1]
                stuck = (rises[alive] < 0.75 * since) | (~halved[alive] & (before[alive] == highest[alive]))
                size[alive[stuck]] /= 2
                if stuck.any():  # on from the best point; its gradient is worth a pass
                    current[stuck] = last[stuck] = best[alive[stuck]]
                    again = current.clone().requires_grad_()
                    value, _ = objective(model, again, y[alive], loss, None if target is None else target[alive], reject)
                    g, value_before = gradient_of(value.sum(), again), value.detach()
                before[alive], halved[alive], rises[alive] = highest[alive], stuck, 0.0
            ahead = into_ball(current + expand(size[alive], g) * steepest(g, norm), x[alive], eps, norm, clip)
            if k:
                ahead = current + 0.75 * (ahead - current) + 0.25 * (current - last)
                ahead = into_ball(ahead, x[alive], eps, norm, clip)
            last, current = current, ahead
    return best


def _checkpoints(steps: int) -> list[int]:
    """The steps at which `apgd` looks back (Croce & Hein 2020, §3.2)."""
    part, last, found = 0.22, 0.0, [0]
    while part < 1:
        found.append(math.ceil(part * steps))
        part, last = part + max(part - last - 0.03, 0.06), part
    return sorted(set(found))


def check_search(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    clip: bool,
    steps: int,
    norm: str,
    target: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> None:
    """Raise ValueError for what a search in a ball cannot work on."""
    check_norm(norm, ("l2", "linf"))
    check_input(x, y, eps, clip, norm)
    check_generator(generator)
    check_callable("model", model)
    check_whole("steps", steps)
    if steps is None or steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if target is not None and (target.shape != y.shape or target.dtype != y.dtype or (target == y).any()):
        raise ValueError("target needs one class for each sample, another than its own")


def step_lengths(eps: float, steps: int, step: str, step_size: float | None = None) -> list[float]:
    """The length of each step of `pgd`."""
    check_choice("step", step, ("cosine", "constant"))
    check_real("step_size", step_size)
    first = (2 * eps if step == "cosine" else 2.5 * eps / steps) if step_size is None else step_size
    if not 0 <= first < torch.inf:
        raise ValueError(f"step_size must be a finite number >= 0, not {first}")
    if step == "constant":
        return [first] * steps
    return [first * (1 + math.cos(math.pi * k / steps)) / 2 for k in range(steps)]


def into_ball(moved: Tensor, centre: Tensor, eps: float, norm: str, clip: bool) -> Tensor:
    """The points of the balls around `centre` that are nearest to `moved`, then brought into [0, 1] if asked for."""
    moved = centre + project(moved - centre, eps, norm)
    return moved.clamp(0, 1) if clip else moved


def objective(
    model: Model, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor], target: Tensor | None, reject: bool
) -> tuple[Tensor, Tensor]:
    """What a search maximises at x, (N,), and which samples are misread there, bool (N,); see `pgd`."""
    logits = checked_logits(model, x, y)
    logits = merge_reject(logits, y) if reject else logits
    if target is None:
        value = loss(logits, y)
    else:
        check_labels(logits, target)
        value = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
    return value, logits.argmax(dim=1) != y
