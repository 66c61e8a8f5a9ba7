"""The attack on what detects inputs out of distribution: an image of something else that an encoder cannot tell from one of its
own (Liang et al. 2020). Nothing here knows a class: what is attacked is any function of images."""

import numbers
from collections.abc import Callable

import torch

from helpers.inputs import (
    check_callable,
    check_eps,
    check_floats,
    check_generator,
    check_norm,
    check_pixels,
    check_range,
    check_real,
    told,
)
from helpers.metrics import eval_mode, in_batches
from helpers.norms import project, random_in_ball, steepest, wide
from helpers.passes import gradient_of, with_gradients
from helpers.schedules import Schedule, factor_of

Tensor = torch.Tensor
Encoder = Callable[[Tensor], Tensor]
BETAS, TINY = (0.9, 0.999), 1e-8  # Adamax as Kingma & Ba 2015 set it


def mape(z: Tensor, z_in: Tensor) -> Tensor:
    """mean |z − z_in| / max |z_in| over a sample's values: (N, ...) twice -> (N,), a fraction (Liang et al. 2020, section 3).

    The paper calls it mean absolute percentage error, though it divides by the largest value, not by each.
    """
    z, z_in = (v.reshape(len(v), -1) for v in _of_one_shape(z, z_in))
    return (z - z_in).abs().mean(dim=1) / z_in.abs().amax(dim=1).clamp_min(torch.finfo(z_in.dtype).tiny)


def squared_distance(z: Tensor, z_in: Tensor) -> Tensor:
    """‖z − z_in‖² per sample: (N,), the loss J of Algorithm 1; in float32 for half precision, which it would soon leave."""
    z, z_in = _of_one_shape(z, z_in)
    return wide(z - z_in).reshape(len(z), -1).square().sum(dim=1)


def _of_one_shape(z: Tensor, z_in: Tensor) -> tuple[Tensor, Tensor]:
    check_floats("z", z)
    check_floats("z_in", z_in)
    if z.shape != z_in.shape:
        raise ValueError(f"two batches of float codes of one shape are wanted, not {tuple(z.shape)} and {tuple(z_in.shape)}")
    return z, z_in


def eight_bit(x: Tensor) -> Tensor:
    """Images (N, ...) in [0, 1] as a PNG file would hold them: each value rounded to the nearest of 0, 1/255, ..., 1.

    raises ValueError for values out of range
    """
    check_floats("x", x, least=0)
    if x.numel():
        check_range("x", *torch.stack(x.aminmax()).tolist())
    return x.mul(255).round_().div_(255)


@with_gradients
def ood_attack(
    encoder: Encoder,
    x_in: Tensor,
    x_init: Tensor,
    *,
    eps: float,
    steps: int = 100,
    lr: float | None = None,
    norm: str = "l2",
    stop: float | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = squared_distance,
    schedule: Schedule | None = None,
    first: Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    callback: Callable[[int, Tensor, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """OOD attack on an encoder (Liang et al. 2020, Algorithm 1): near x_init, an image with the code of x_in.

    encoder : images -> (N, ...) codes: features, logits, a detector's score, a likelihood; a sample's code must not depend on
        its batch. An nn.Module is put in evaluation mode meanwhile; of a function around one, see to it
    x_in : (N, C, H, W) images in [0, 1] of the distribution
    x_init : what to start from, out of it: (C, H, W), or one for each x_in
    eps : radius of the ball around x_init that the result stays in, beside [0, 1]; norm : "l2" or "linf"
    steps : at most; of each sample the best iterate by its loss returns
    lr : of Adamax, per value; eps / 100 if not given, as in the paper. It is fed each sample's gradient divided by its L2 norm
        (with "linf" its sign), and the projected perturbation is written back
    stop : a sample whose `mape` is below leaves the batch; None: all take all steps
    loss : (codes, codes of x_in) -> (N,), minimised; another one than the distance leads elsewhere, past the codes say
    schedule : share of the steps taken -> factor of lr, `schedules.cosine` say; None: constant, as in Algorithm 1
    first : where each sample's way begins, like x_in, brought into the ball and the range; None: at random, as in Algorithm 1,
        which says that it may be repeated to find the best
    generator : of the random start, drawn batch by batch; None: torch's own. The authors' start is uniform in ±eps per value and
        then brought into the ball, so for "l2" nearly always on its surface
    batch_size : how many are attacked at once; None: what is fast. From one start a sample's way is the same in any batch but for
        rounding
    callback : (step, indices, images, mape) of the samples still in the batch, before each step and after the last

    Returned are detached images like x_in. raises ValueError for a negative or non-finite eps or lr, an empty batch, NaN or
    pixels out of range, shapes that do not fit, codes or gradients that are not finite
    """
    check_callable("encoder", encoder)
    check_norm(norm, ("l2", "linf"))
    check_generator(generator)
    check_pixels("x_in", x_in)
    check_floats("x_init", x_init, dims=3)
    x_init = x_init.expand_as(x_in) if x_init.shape == x_in.shape[1:] else x_init
    for name, x in ({"x_init": x_init} | ({} if first is None else {"first": first})).items():
        check_pixels(name, x)
    check_eps(eps, norm, x_in[0].numel())
    if x_init.shape != x_in.shape or x_init.dtype != x_in.dtype:
        raise ValueError(
            f"x_init must be one image or as many as x_in {tuple(x_in.shape)}, not {tuple(x_init.shape)}, {x_init.dtype}"
        )
    if first is not None and (first.shape != x_in.shape or first.dtype != x_in.dtype):
        raise ValueError(f"first must be as x_in {tuple(x_in.shape)}, {x_in.dtype}, not {tuple(first.shape)}, {first.dtype}")
    lr = eps / 100 if lr is None else lr
    check_real("lr", lr)
    check_real("stop", stop)
    if not isinstance(steps, numbers.Integral) or steps < 1 or not 0 <= lr < torch.inf or (stop is not None and not stop >= 0):
        raise ValueError(
            f"steps must be a whole number of at least 1, lr finite and >= 0, stop >= 0 or None, not {steps}, {lr} and {stop}"
        )
    schedule = schedule or (lambda share: 1.0)

    def batch(x_in: Tensor, x_init: Tensor, index: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = _checked(encoder(x_in), len(x_in))
        shift = random_in_ball(x_init, eps, "linf", generator) if first is None else first[index] - x_init
        now = (x_init + project(shift, eps, norm)).clamp_(0, 1)
        mean, largest = torch.zeros_like(now), torch.zeros_like(now)  # Adamax's moments
        best, lowest = now.clone(), torch.full((len(now),), torch.inf, device=now.device, dtype=wanted.dtype)
        alive = torch.arange(len(now), device=now.device)
        for step in range(steps + 1):
            now = now.detach().requires_grad_()
            codes = _checked(encoder(now), len(now))
            value, error = loss(codes, wanted[alive]), mape(codes.detach(), wanted[alive])
            if value.shape != (len(now),):
                raise ValueError(f"the loss must return one value for each of the {len(now)} samples, not {tuple(value.shape)}")
            if not value.isfinite().all():
                raise ValueError("the loss is not finite: there is no best image to keep")
            better = value.detach() < lowest[alive]
            best[alive[better]] = now.detach()[better]
            lowest[alive[better]] = value.detach()[better].to(lowest.dtype)
            if callback is not None:
                callback(step, index[alive], now.detach(), error)
            left = torch.ones_like(better) if stop is None else error >= stop
            if step == steps or not left.any():
                break
            g = steepest(gradient_of(value.sum(), now)[left], norm)
            alive, start, moved = alive[left], x_init[alive[left]], now.detach()[left]
            mean = mean[left].lerp_(g, 1 - BETAS[0])
            largest = torch.maximum(BETAS[1] * largest[left], g.abs() + max(TINY, torch.finfo(g.dtype).tiny))
            moved -= lr * factor_of(schedule, step / steps) / (1 - BETAS[0] ** (step + 1)) * mean / largest
            now = (start + project(moved - start, eps, norm)).clamp_(0, 1)
        return best

    with eval_mode(encoder), torch.enable_grad():
        everyone = torch.arange(len(x_in), device=x_in.device)
        return in_batches(batch, x_in.detach(), x_init.detach(), everyone, batch_size=batch_size)


def _checked(codes: Tensor, number: int) -> Tensor:
    if not torch.is_tensor(codes) or not codes.is_floating_point() or codes.ndim < 1 or len(codes) != number:
        raise ValueError(f"the encoder must return one code of floats for each of the {number} images, not {told(codes)}")
    if not codes.isfinite().all():
        raise ValueError("the encoder returned codes that are not finite: there is nothing to match")
    return codes
