"""One perturbation for all images, and the targeted gradient attack that Liang et al. 2017 set beside it."""

from collections.abc import Callable

import torch

from helpers.attacks.deepfool import deepfool
from helpers.attacks.iterated import minus_log_odds
from helpers.attacks.one_step import gradient
from helpers.inputs import (
    check_finite,
    check_floats,
    check_generator,
    check_input,
    check_label_shape,
    check_norm,
    check_number,
    check_pixels,
    check_real,
)
from helpers.losses import log_odds
from helpers.metrics import classes_of, in_batches, predict
from helpers.norms import expand, length, project, steepest, unit_l2
from helpers.passes import Model, with_gradients

Tensor = torch.Tensor


@with_gradients
def universal(
    model: Model,
    x: Tensor,
    *,
    eps: float,
    norm: str = "linf",
    fooling: float = 0.8,
    passes: int = 10,
    batch_size: int = 100,
    steps: int = 10,
    candidates: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Universal adversarial perturbation v (C, H, W) with ‖v‖ ≤ eps (Moosavi-Dezfooli et al. 2017, Algorithm 1).

    Goes through the images; where v does not yet change the model's own class, it takes `deepfool`'s way from x + v to the
    boundary, adds it to v and brings v back into the ball. A batch's ways are added at once: what they are with batch_size=1
    changes a little, and it is many times as fast.

    norm : "linf" or "l2"
    fooling : stop after a pass that leaves v fooling this share of the images, in (0, 1]; else after `passes`
    steps, candidates : of `deepfool`
    generator : orders the images; None: torch's own
    """
    own = _classes_of(model, x, eps, norm, passes, batch_size, generator)
    check_real("fooling", fooling)
    if fooling is None or not 0 < fooling <= 1:
        raise ValueError(f"fooling must lie in (0, 1], not {fooling}")
    x = x.detach()
    v = torch.zeros_like(x[0])
    for _ in range(passes):
        for index in _order(x, generator).split(batch_size):
            at, held = x[index] + v, own[index]
            held_on = predict(model, at).argmax(dim=1) == held
            if not held_on.any():
                continue
            at, held = at[held_on], held[held_on]

            def way(at: Tensor, held: Tensor) -> Tensor:
                return deepfool(model, at, held, steps=steps, candidates=candidates, clip=False) - at

            v = project((v + in_batches(way, at, held).sum(dim=0))[None], eps, norm)[0]
        if fooling_rate(model, x, v, own) >= fooling:
            break
    return v


@with_gradients
def universal_gradient(
    model: Model,
    x: Tensor,
    *,
    eps: float,
    norm: str = "linf",
    passes: int = 10,
    batch_size: int = 50,
    step_size: float | None = None,
    momentum: float = 0.9,
    cap: float = 9.0,
    generator: torch.Generator | None = None,
    callback: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Universal adversarial perturbation v (C, H, W) by gradient ascent over the set (Shafahi et al. 2020): one pass of the
    network forward and back per image where `universal` takes one back for each class and step.

    Each batch moves v by step_size along the `steepest` direction of its summed loss, the negative log odds of the model's own
    classes, up to `cap`: what is fooled by far does not pull any more.
    step_size : eps / 5 if not given, and falling to a tenth of that over the passes
    momentum : part of the direction so far that is added to each batch's gradient, both of length 1; in [0, 1)
    callback : is given v after each pass
    """
    own = _classes_of(model, x, eps, norm, passes, batch_size, generator)
    check_real("step_size", step_size)
    check_real("cap", cap)
    check_real("momentum", momentum)
    step_size = eps / 5 if step_size is None else step_size
    if cap is None or momentum is None or not (0 <= step_size < torch.inf and cap > 0 and 0 <= momentum < 1):
        raise ValueError(
            f"step_size must be finite and >= 0, cap above 0, momentum in [0, 1), not {step_size}, {cap} and {momentum}"
        )

    def capped(logits: Tensor, y: Tensor) -> Tensor:
        return minus_log_odds(logits, y).clamp_max(cap)

    v, total, done = torch.zeros_like(x[0]), passes * -(-len(x) // batch_size), 0
    direction = torch.zeros_like(v)
    for _ in range(passes):
        for index in _order(x, generator).split(batch_size):
            g = in_batches(lambda at, y: gradient(model, at, y, capped), x[index] + v, own[index]).sum(dim=0)
            direction = momentum * direction + unit_l2(g[None])[0] if momentum else g
            v = v + (1 - 0.9 * done / total) * step_size * steepest(direction[None], norm)[0]
            v, done = project(v[None], eps, norm)[0], done + 1
        if callback is not None:
            callback(v)
    return v


def fooling_rate(model: Model, x: Tensor, v: Tensor, own: Tensor | None = None) -> float:
    """Share of images whose class under the model changes when v is added and the sum clipped to [0, 1].

    own : the model's classes of x, if they are known
    raises ValueError for what is no image in [0, 1], a perturbation of another shape, and logits with NaN
    """
    check_pixels("x", x)
    check_floats("v", v, dims=3)
    check_finite("v", v)
    if v.shape not in (x.shape[1:], x.shape):
        raise ValueError(
            f"v must be one perturbation {tuple(x.shape[1:])}, or one for each of x {tuple(x.shape)}, not {tuple(v.shape)}"
        )
    if own is not None:
        check_label_shape("own", own, len(x))
    own = classes_of(predict(model, x)) if own is None else own
    return (classes_of(predict(model, (x + v).clamp(0, 1))) != own).double().mean().item()


def _classes_of(
    model: Model, x: Tensor, eps: float, norm: str, passes: int, batch_size: int, generator: torch.Generator | None
) -> Tensor:
    check_norm(norm, ("l2", "linf"))
    check_floats("x", x, dims=2)
    check_number("passes", passes, whole=True)
    check_number("batch_size", batch_size, whole=True)
    if passes < 1 or batch_size < 1:
        raise ValueError(f"passes and batch_size must be at least 1, not {passes} and {batch_size}")
    check_generator(generator)
    check_input(x, torch.zeros(len(x), dtype=torch.int64, device=x.device), eps, True, norm)
    return classes_of(predict(model, x))


def _order(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randperm(len(x), generator=generator, device=generator.device if generator else "cpu").to(x.device)


@with_gradients
def targeted_gradient(
    model: Model,
    x: Tensor,
    target: Tensor,
    *,
    eps: float = 3 / 255,
    step: float = 7 / 255,
    steps: int = 100,
    confidence: float = 0.99,
    clip: bool = True,
) -> Tensor:
    """Images pushed toward a class each, no pixel by more than eps (the attack of Liang et al. 2017, §3 and §5).

    A step moves along the gradient of the target's log odds, scaled so that the pixel which moves most moves by `step`. An image
    leaves the batch when its target has the confidence asked for, in (0, 1); what never does returns as it stands at the end.
    The paper's eq. 4 expands the loss at x + delta without saying where to go; eps, step and confidence are the authors'
    script's.
    """
    check_input(x, target, eps, clip, "linf")
    check_number("steps", steps, whole=True)
    check_real("step", step)
    check_real("confidence", confidence)
    if steps < 1 or None in (step, confidence) or not 0 <= step < torch.inf or not 0 < confidence < 1:
        raise ValueError(
            f"steps must be at least 1, step finite and >= 0, confidence in (0, 1), not {steps}, {step}, {confidence}"
        )
    x = x.detach()
    result, alive = x.clone(), torch.arange(len(x), device=x.device)
    enough = torch.logit(torch.tensor(confidence, dtype=torch.float64)).item()

    def odds(logits: Tensor, y: Tensor) -> Tensor:
        reached.append(log_odds(logits, y).detach() >= enough)  # of the pass that the gradient needs anyway
        return log_odds(logits, y)

    for _ in range(steps):
        reached: list[Tensor] = []
        g = in_batches(lambda at, y: gradient(model, at, y, odds), result[alive], target[alive])
        left = ~torch.cat(reached)
        alive, g = alive[left], g[left]
        if not len(alive):
            break
        largest = length(g, "linf").clamp_min(torch.finfo(g.dtype).tiny)
        moved = result[alive] + step * g / expand(largest, g)
        moved = x[alive] + (moved - x[alive]).clamp(-eps, eps)
        result[alive] = moved.clamp(0, 1) if clip else moved
    return result
