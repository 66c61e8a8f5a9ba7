"""Attacks: `attack(model, x, y, *, eps, ...) -> x_adv`, pure functions of tensors that follow the device and dtype of `x`.

Shared by all of them:

model : any function of a batch that returns logits (N, K); an nn.Module is put in evaluation mode for the attack and back
x : (N, C, H, W) float images in [0, 1]; with `clip=False` any finite values, also (N, d) features of a layer
y : (N,) int64 true classes
eps : radius of the perturbation in units of x, L2 per image unless the attack says otherwise
clip : whether the result is brought back to [0, 1]. Clipping never leaves the ball, since x lies inside the range.

Returned is a detached tensor like x. Parameters of the model receive no gradient. Every function raises ValueError for a
negative or non-finite eps, an empty batch, NaN or out-of-range pixels, labels that do not fit, and logits that are not finite.
"""

from collections.abc import Callable

import torch

from helpers.losses import check_labels, log_odds, others
from helpers.metrics import eval_mode

Tensor = torch.Tensor
Model = Callable[[Tensor], Tensor]


def check_input(x: Tensor, y: Tensor, eps: float, clip: bool) -> None:
    """Raise ValueError for anything that an attack cannot work on; see the head of this module."""
    if not eps >= 0 or eps == float("inf"):
        raise ValueError(f"eps must be a finite number >= 0, not {eps}")
    if not x.is_floating_point() or x.ndim < 2:
        raise ValueError(f"x must be a float tensor with a batch dimension, not {x.dtype} {tuple(x.shape)}")
    if x.numel() == 0:
        raise ValueError("x is an empty batch: there is nothing to attack")
    if len(y) != len(x):
        raise ValueError(f"{len(x)} samples but {len(y)} labels")
    low, high = (v.item() for v in x.aminmax())
    if not (low > -float("inf") and high < float("inf")):
        raise ValueError("x contains NaN or infinity")
    if clip and x.ndim == 4 and (low < 0 or high > 1):
        raise ValueError(
            f"image values must lie in [0, 1], not [{low:.3g}, {high:.3g}]: scale them (normalisation belongs in the model)"
        )
    if x.ndim != 4 and clip:
        raise ValueError("clip=True is for images (N, C, H, W); features have no range: pass clip=False")


def l2_norm(v: Tensor) -> Tensor:
    """L2 norm of each sample: (N,)."""
    return v.flatten(1).norm(dim=1)


def unit_l2(v: Tensor) -> Tensor:
    """Each sample divided by its L2 norm, without overflow or underflow on the way; a zero sample stays zero."""
    v = v / expand(v.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(v.dtype).tiny), v)
    return v / expand(l2_norm(v).clamp_min(torch.finfo(v.dtype).tiny), v)


def project_l2(v: Tensor, eps: float) -> Tensor:
    """Each sample brought back to the L2 ball of radius eps around 0; samples inside stay as they are."""
    return v * expand((eps / l2_norm(v).clamp_min(torch.finfo(v.dtype).tiny)).clamp_max(1.0), v)


def expand(per_sample: Tensor, like: Tensor) -> Tensor:
    """(N,) reshaped to (N, 1, ..., 1), to multiply with `like`."""
    return per_sample.view(-1, *[1] * (like.ndim - 1))


def _logits(model: Model, x: Tensor, y: Tensor) -> Tensor:
    logits = model(x)
    check_labels(logits, y)
    if not logits.isfinite().all():
        raise ValueError("the model returned logits that are not finite")
    return logits


def _moved(x: Tensor, direction: Tensor, eps: float, clip: bool) -> Tensor:
    """x moved by eps along each sample's direction, scaled to L2 norm 1."""
    moved = x.detach() + eps * unit_l2(direction)
    return moved.clamp(0, 1) if clip else moved


def gradient(model: Model, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """∂ loss(logits, y)_i / ∂x_i for each sample i: like x. `loss` returns (N,), so no sample's scale depends on the batch."""
    with eval_mode(model), torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(loss(_logits(model, x, y), y).sum(), x)[0]


def adv_loss(model: Model, x: Tensor, y: Tensor, *, eps: float, clip: bool = True) -> Tensor:
    """Perturbation based on the likelihood, L2 form (Huang et al. 2015, §3.1.1, item 1): x − c T_y / ‖T_y‖₂, T_y = ∂α_y/∂x.

    The paper prints a plus, which would raise α_y: an erratum. The direction is taken from log(α_y / (1 − α_y)), which grows
    with α_y, so it is the same direction without the zeros and rounding of a saturated float32 softmax.
    """
    check_input(x, y, eps, clip)
    return _moved(x, -gradient(model, x, y, log_odds), eps, clip)


def adv_loss_sign(model: Model, x: Tensor, y: Tensor, *, eps: float, clip: bool = True) -> Tensor:
    """The L∞ form of `adv_loss` (§3.1.1, item 2; fast gradient sign), rescaled so that its *L2* norm is eps.

    Every pixel with a gradient moves by the same amount, eps / √(number of such pixels).
    """
    check_input(x, y, eps, clip)
    return _moved(x, -gradient(model, x, y, log_odds).sign(), eps, clip)


def fgsm(model: Model, x: Tensor, y: Tensor, *, eps: float, clip: bool = True) -> Tensor:
    """Fast gradient sign method (Goodfellow et al. 2014; Huang et al. 2015, §3.1.1, item 2): every pixel moves by eps, an L∞
    radius."""
    check_input(x, y, eps, clip)
    moved = x.detach() - eps * gradient(model, x, y, log_odds).sign()
    return moved.clamp(0, 1) if clip else moved


def minimal_shift(gap: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest of the shifts that close a gap to another class (Huang et al. 2015, Propositions 2.1 and 2.2, L2).

    gap : (N, J) g_y − g_j > 0 for each rival class j; infinite where j is no rival
    rows : (N, J, d) ∂g_j/∂x − ∂g_y/∂x
    returns r (N, d) = gap_j / ‖rows_j‖² · rows_j for the rival j with the smallest norm gap_j / ‖rows_j‖, and that j (N,)

    Exact where g is affine: no shorter r lets a rival reach class y.
    """
    norms = rows.norm(dim=2)
    j = torch.where(norms > 0, gap / norms, torch.inf).argmin(dim=1)
    pick = torch.arange(len(gap), device=gap.device), j
    r = rows[pick] / norms[pick][:, None] * (gap[pick] / norms[pick])[:, None]
    return torch.where(norms[pick][:, None] > 0, r, torch.zeros_like(r)), j


def logit_jacobian(model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and their Jacobian ∂z_k/∂x (N, K, d) for the whole batch: one forward and K backward passes."""
    with eval_mode(model), torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = _logits(model, x, y)
        last = logits.shape[1] - 1
        rows = [torch.autograd.grad(logits[:, k].sum(), x, retain_graph=k < last)[0].flatten(1) for k in range(last + 1)]
    return logits.detach(), torch.stack(rows, dim=1)


def adv_alpha(model: Model, x: Tensor, y: Tensor, *, eps: float, clip: bool = True) -> Tensor:
    """Perturbation toward the nearest class of the linearised softmax (Huang et al. 2015, Algorithm 1 and §3.1.2, L2).

    r = c r*/‖r*‖ with r* of `minimal_shift` on g = α = softmax(z). Samples that are already wrong return unchanged: the paper
    states the problem for N(x) = y, and from a wrong class the shift could lead back to y.

    With D_j = ∂z_j/∂x − ∂z_y/∂x and q the softmax over the other classes,
    T_j − T_y = (1 − α_y) [q_j D_j + (α_y − α_j) Σ_k q_k D_k]. The factor in front is common to all j and positive, so neither
    the choice of j nor the direction depends on it; leaving it out keeps both exact where a float32 α_y rounds to 1.
    """
    check_input(x, y, eps, clip)
    logits, jacobian = logit_jacobian(model, x, y)
    alpha = logits.softmax(dim=1)
    q = others(logits, y).softmax(dim=1)  # (N, K), q_y = 0
    gap = alpha.gather(1, y[:, None]) - alpha  # (N, K), α_y − α_j
    D = jacobian - jacobian.gather(1, y[:, None, None].expand(-1, 1, jacobian.shape[2]))  # (N, K, d)
    rows = q[:, :, None] * D + gap[:, :, None] * torch.einsum("nk,nkd->nd", q, D)[:, None]
    rival = torch.ones_like(gap, dtype=torch.bool).scatter(1, y[:, None], False)
    _, j = minimal_shift(gap.masked_fill(~rival, torch.inf), rows)
    direction = rows[torch.arange(len(x), device=x.device), j]  # not r itself, which is 0 for an image on the boundary
    direction[logits.argmax(dim=1) != y] = 0
    return _moved(x, direction.view_as(x), eps, clip)


def random_noise(
    model: Model, x: Tensor, y: Tensor, *, eps: float, clip: bool = True, generator: torch.Generator | None = None
) -> Tensor:
    """x moved by L2 distance eps in a uniformly random direction, whatever the model: what every attack has to beat."""
    check_input(x, y, eps, clip)
    return _moved(x, torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype), eps, clip)


def minus_log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """What `pgd_l2` maximises by default: per sample the direction of the cross-entropy, without its saturation."""
    return -log_odds(logits, y)


def pgd_l2(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 40,
    restarts: int = 5,
    step_size: float | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = minus_log_odds,
    target: Tensor | None = None,
    clip: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient ascent in the L2 ball (Madry et al. 2018), with restarts; the strongest attack of this module.

    steps, restarts : the first restart begins at x, the others at uniformly random directions and radii in the ball
    step_size : L2 length of one step; 2.5 eps / steps if not given
    loss : (logits, y) -> (N,), maximised
    target : (N,) classes to go for; then z_target − z_y is maximised instead of the loss, and any wrong class still counts

    A sample leaves the batch once it is misclassified. Of a sample that never is, the iterate of highest loss returns.
    """
    check_input(x, y, eps, clip)
    if steps < 1 or restarts < 1:
        raise ValueError(f"steps and restarts must be at least 1, not {steps} and {restarts}")
    if target is not None and (target.shape != y.shape or target.dtype != y.dtype or (target == y).any()):
        raise ValueError("target needs one class for each sample, another than its own")
    step_size = 2.5 * eps / steps if step_size is None else step_size
    x = x.detach()
    best, highest = x.clone(), torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
    alive = torch.arange(len(x), device=x.device)

    def into_ball(moved: Tensor, centre: Tensor) -> Tensor:
        moved = centre + project_l2(moved - centre, eps)
        return moved.clamp(0, 1) if clip else moved

    with eval_mode(model), torch.enable_grad():
        for restart in range(restarts):
            current = x[alive]
            if restart:
                radius = eps * torch.rand(len(alive), generator=generator, device=x.device, dtype=x.dtype)
                noise = torch.randn(current.shape, generator=generator, device=x.device, dtype=x.dtype)
                current = into_ball(current + expand(radius, noise) * unit_l2(noise), x[alive])
            for step in range(steps + 1):
                current = current.detach().requires_grad_()
                logits = _logits(model, current, y[alive])
                if target is None:
                    value = loss(logits, y[alive])
                else:
                    check_labels(logits, target[alive])
                    value = (logits.gather(1, target[alive, None]) - logits.gather(1, y[alive, None])).squeeze(1)
                fooled = logits.argmax(dim=1) != y[alive]
                better = fooled | (value.detach() > highest[alive])
                best[alive[better]] = current.detach()[better]
                highest[alive[better]] = value.detach()[better]
                if step < steps and not fooled.all():
                    g = torch.autograd.grad(value.sum(), current)[0][~fooled]
                alive, current = alive[~fooled], current.detach()[~fooled]
                if len(alive) == 0:
                    return best
                if step < steps:
                    current = into_ball(current + step_size * unit_l2(g), x[alive])
    return best
