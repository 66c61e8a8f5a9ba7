"""DeepFool: the nearest mistake that linearising the logits again and again finds."""

import torch

from helpers.attacks.one_step import minimal_shift
from helpers.inputs import check_callable, check_input, check_norm, check_real, check_whole
from helpers.losses import margin
from helpers.metrics import eval_mode
from helpers.passes import Model, checked_gradient, checked_logits, raw_gradient, rounding_of, with_gradients

Tensor = torch.Tensor


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
    """The nearest wrongly classified image that repeated `minimal_shift`s on the logits find (Moosavi-Dezfooli et al. 2016): a
    forward pass and a backward pass for each rival a step.

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
    total, result = torch.zeros_like(x), x.clone()
    alive, others = torch.arange(len(x), device=x.device), None
    with eval_mode(model), torch.enable_grad():
        for step in range(steps + 1):
            at = result[alive].requires_grad_(step < steps)
            logits = checked_logits(model, at, y[alive])
            found = logits.detach()
            rounding = rounding_of(found.dtype) * found.abs().amax(dim=1)
            left = margin(found, y[alive]) >= (-rounding if step else 0)
            others = _rivals(found, y, candidates) if others is None else others
            number = int(left.sum())
            if step == steps or number == 0:
                break
            at, logits, mine = _of_those_left(model, at, logits, y[alive], left, number, others.shape[1])
            alive = alive[left]
            ahead = logits.gather(1, others[alive]) - logits.gather(1, y[alive][:, None])  # (n, J): z_j − z_y
            last = ahead.shape[1] - 1
            rows = [raw_gradient(ahead[:, j].sum(), at, retain_graph=j < last)[mine].flatten(1) for j in range(last + 1)]
            gap = 2 * rounding[left][:, None] - ahead.detach()
            shift, _ = minimal_shift(gap, checked_gradient(torch.stack(rows, dim=1)), norm)
            total[alive] += shift.view_as(total[alive])
            moved = x[alive] + (1 + overshoot) * total[alive]
            result[alive] = moved.clamp(0, 1) if clip else moved
    return result


def _rivals(logits: Tensor, y: Tensor, number: int | None) -> Tensor:
    """Each sample's rival classes, (N, J): all in order, or the `number` of the largest logits."""
    if number is not None:
        return logits.scatter(1, y[:, None], -torch.inf).topk(min(number, logits.shape[1] - 1), dim=1).indices
    other = torch.arange(logits.shape[1] - 1, device=y.device)
    return other + (other >= y[:, None])


def _of_those_left(model, at: Tensor, logits: Tensor, y: Tensor, left: Tensor, number: int, rivals: int):
    """What the backward passes go through: the samples in the pass, the logits of those left, which these are.

    A backward pass through the whole batch takes finished samples along. Where these are many, another forward pass of those
    that are left is the cheaper way.
    """
    if 2 * rivals * (len(at) - number) <= number:  # a backward pass costs about two forward passes
        return at, logits[left], left
    at = at.detach()[left].requires_grad_()
    return at, checked_logits(model, at, y[left]), slice(None)
