"""Norms of perturbations: the length of each sample's, the steepest direction of length 1, the way back into the ball.

Everywhere `v` is (N, ...), one perturbation per sample, and `norm` one of `inputs.NORMS`. Nothing here leaves the device.
"""

import torch

from helpers.inputs import check_eps, check_floats, check_generator, check_norm

Tensor = torch.Tensor


def wide(v: Tensor) -> Tensor:
    """In float32 at least: sums and squares of many float16 values leave its range, and bfloat16 keeps two digits of them."""
    return v.to(torch.promote_types(v.dtype, torch.float32))


def expand(per_sample: Tensor, like: Tensor) -> Tensor:
    """(N,) reshaped to (N, 1, ..., 1), to multiply with `like`."""
    return per_sample.view(-1, *[1] * (like.ndim - 1))


def length(v: Tensor, norm: str = "l2") -> Tensor:
    """The norm of each sample's perturbation: (N,), in the precision of v, but in float32 for half precision."""
    check_norm(norm)
    check_floats("v", v, dims=2, least=0)
    if 0 in v.shape[1:]:
        raise ValueError(f"v {tuple(v.shape)} has samples without values: there is no length")
    size = wide(v).flatten(1).abs()  # its sum and maximum take a sixth of the time of torch's own L1 and L∞ norms
    if norm == "l1":
        return size.sum(dim=1)
    largest = size.amax(dim=1)
    if norm == "linf":
        return largest
    scale = largest.clamp_min(torch.finfo(size.dtype).tiny)  # the squares of 1e-23 and 1e20 leave float32
    return scale * (size / scale[:, None]).norm(dim=1)


def dual(norm: str) -> str:
    """The norm ‖g‖_* = max of <g, u> over ‖u‖ ≤ 1 (Huang et al. 2015, §1.1): L2 is its own, L∞ and L1 are each other's."""
    check_norm(norm)
    return {"l2": "l2", "linf": "l1", "l1": "linf"}[norm]


def unit_l2(v: Tensor) -> Tensor:
    """Each sample divided by its L2 norm, without overflow or underflow on the way; a zero sample stays zero."""
    check_floats("v", v, dims=2, least=0)
    dtype, v = v.dtype, wide(v)
    tiny = torch.finfo(v.dtype).tiny
    v = v / expand(length(v, "linf").clamp_min(tiny), v)
    return (v / expand(v.flatten(1).norm(dim=1).clamp_min(tiny), v)).to(dtype)


def steepest(g: Tensor, norm: str = "l2") -> Tensor:
    """The u of norm 1 with the largest <g, u>, per sample; zero where g is zero.

    L2: g / ‖g‖₂. L∞: sign(g). L1: sign(g_I) e_I, one value at the largest entry I of |g| (the first of equal ones).
    """
    check_norm(norm)
    check_floats("g", g, dims=2, least=0)
    if norm == "l2":
        return unit_l2(g)
    if norm == "linf":
        return g.sign()
    flat = g.flatten(1)
    largest = flat.abs().argmax(dim=1, keepdim=True)
    return torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest).sign()).view_as(g)


def project(v: Tensor, eps: float, norm: str = "l2") -> Tensor:
    """The point of the ball of radius eps that is nearest in L2, per sample, for "l2" and "linf"; samples inside stay."""
    check_norm(norm, ("l2", "linf"))
    check_eps(eps)
    check_floats("v", v, dims=2, least=0)
    if norm == "linf":
        return v.clamp(-eps, eps)
    size = length(v)
    return (v * expand((eps / size.clamp_min(torch.finfo(size.dtype).tiny)).clamp_max(1.0), v)).to(v.dtype)


def random_in_ball(like: Tensor, eps: float, norm: str = "l2", generator: torch.Generator | None = None) -> Tensor:
    """A perturbation per sample somewhere in the ball: L∞ uniform; L2 a uniform direction at a uniform radius."""
    check_norm(norm, ("l2", "linf"))
    check_eps(eps)
    check_floats("like", like, dims=2, least=0)
    check_generator(generator)
    how = {"generator": generator, "device": like.device, "dtype": like.dtype}
    if norm == "linf":
        return eps * (2 * torch.rand(like.shape, **how) - 1)
    radius = eps * torch.rand(len(like), **how)
    noise = torch.randn(like.shape, **how)
    return expand(radius, noise) * unit_l2(noise)
