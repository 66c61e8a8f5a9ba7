"""Square: a random search that sees logits alone (Andriushchenko et al. 2020). What it finds and gradients do not, is masked."""

from collections.abc import Callable

import torch

from helpers.attacks.iterated import check_search, into_ball, objective
from helpers.inputs import check_images, check_number
from helpers.losses import margin
from helpers.metrics import eval_mode
from helpers.norms import expand, length

Tensor = torch.Tensor
HALVED = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # parts of the queries after which the squares' area is halved


def minus_margin(logits: Tensor, y: Tensor) -> Tensor:
    """The largest wrong logit − z_y: (N,). Positive where the prediction is wrong."""
    return -margin(logits, y)


@torch.no_grad()
def square(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    queries: int = 500,
    area: float = 0.8,
    norm: str = "linf",
    reject: bool = False,
    clip: bool = True,
    stop: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Changes that raise the largest wrong logit over the true one are kept, one square of the image after another.

    x : (N, C, H, W) images
    queries : forward passes of an image, at most
    area : part of the image that a square covers at first; it falls with the queries
    norm : "linf": a square is set to ±eps in each channel; "l2": the perturbation's length moves from one square to another
    reject, clip, stop : as of `attacks.pgd`
    """
    check_search(model, x, y, eps, clip, queries, norm, generator=generator)
    check_images("x", x)
    check_number("area", area, 0, 1)
    x = x.detach()
    best = x.clone()
    highest = torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
    alive, delta = torch.arange(len(x), device=x.device), torch.zeros_like(x)
    propose = {"linf": _recoloured, "l2": _moved_mass}[norm]
    with eval_mode(model):
        for query in range(queries):
            centre, held = x[alive], delta[alive]
            side = _side(area, query / queries, x.shape[-2:])
            tried = _stripes(held, eps, norm, generator) if query == 0 else propose(held, eps, side, generator)
            moved = into_ball(centre + tried, centre, eps, norm, clip)
            value, fooled = objective(model, moved, y[alive], minus_margin, None, reject)
            better = value > highest[alive]
            where = alive[better]
            best[where], highest[where], delta[where] = moved[better], value[better], tried[better]
            alive = alive[~fooled] if stop else alive
            if len(alive) == 0:
                break
    return best


def _side(area: float, done: float, size: torch.Size) -> int:
    """Of the square that is changed, in pixels."""
    share = area / 2 ** sum(done > part for part in HALVED)
    return min(max(1, round((share * size[0] * size[1]) ** 0.5)), *size)


def _sign(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return 2.0 * torch.randint(0, 2, shape, generator=generator, device=like.device).to(like.dtype) - 1


def _corner(shape: torch.Size, side: int, like: Tensor, generator: torch.Generator | None) -> tuple[slice, slice]:
    """A square somewhere in the image, the same for the whole batch."""
    top, left = (int(torch.randint(0, n - side + 1, (), generator=generator, device=like.device)) for n in shape[-2:])
    return slice(top, top + side), slice(left, left + side)


def _stripes(delta: Tensor, eps: float, norm: str, generator: torch.Generator | None) -> Tensor:
    """A perturbation of length eps, each column of one sign."""
    n, channels, _, width = delta.shape
    stripes = _sign((n, channels, 1, width), delta, generator).expand_as(delta)
    return eps * stripes if norm == "linf" else eps * stripes / expand(length(stripes), stripes)


def _recoloured(delta: Tensor, eps: float, side: int, generator: torch.Generator | None) -> Tensor:
    rows, columns = _corner(delta.shape, side, delta, generator)
    delta = delta.clone()
    delta[:, :, rows, columns] = eps * _sign((len(delta), delta.shape[1], 1, 1), delta, generator)
    return delta


def _moved_mass(delta: Tensor, eps: float, side: int, generator: torch.Generator | None) -> Tensor:
    """What one square and what the ball leaves free go to another square, whose pattern bends to a bump of either sign."""
    to, source = (_corner(delta.shape, side, delta, generator) for _ in range(2))
    delta = delta.clone()
    window = delta[:, :, *to].clone()
    delta[:, :, *to] = 0
    delta[:, :, *source] = 0
    free = (eps**2 - length(delta) ** 2).clamp_min(0).sqrt()  # of the length, with both squares empty
    tiny = torch.finfo(delta.dtype).tiny
    window = window / expand(length(window).clamp_min(tiny), window)
    bump = _bump(side, delta).expand_as(window) * _sign((len(delta), delta.shape[1], 1, 1), delta, generator)
    window = window + bump / expand(length(bump), bump)
    delta[:, :, *to] = expand(free, window) * window / expand(length(window).clamp_min(tiny), window)
    return delta


def _bump(side: int, like: Tensor) -> Tensor:
    """Two bumps of opposite sign, one above the other (there, a sum of ever larger squares): (side, side)."""
    down = torch.arange(side, device=like.device, dtype=like.dtype)
    half, across = max(1, side // 2), 1 / (1 + (down - (side - 1) / 2).abs())
    upper = 1 / (1 + (down - (half - 1) / 2).abs())
    lower = 1 / (1 + (down - half - (side - half - 1) / 2).abs())
    return torch.where(down < half, upper, -lower)[:, None] * across if side > 1 else torch.ones(1, 1).to(like)
