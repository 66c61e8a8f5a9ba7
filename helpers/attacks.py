"""Attacks: `attack(model, x, y, *, eps, ...) -> x_adv`, pure functions of tensors that follow the device and dtype of `x`.

Shared by all of them:

model : any function of a batch that returns logits (N, K); an nn.Module is put in evaluation mode for the attack and back
x : (N, C, H, W) float images in [0, 1]; with `clip=False` any finite values, also (N, d) features of a layer
y : (N,) int64 true classes
eps : radius of the perturbation in units of x, per image
norm : what measures it: "l2" unless given, "linf" or "l1" (`helpers.norms`)
clip : whether the result is brought back to [0, 1]. Clipping never leaves the ball, since x lies inside the range.

Returned is a detached tensor like x. Parameters of the model receive no gradient. Every function raises ValueError for a
negative or non-finite eps, an empty batch, NaN or out-of-range pixels, labels that do not fit, and logits or gradients that
are not finite.
"""

from collections.abc import Callable

import torch

from helpers.losses import check_labels, log_odds, margin, others
from helpers.metrics import eval_mode
from helpers.norms import check_norm, dual, length, project, random_in_ball, steepest, unit_l2

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
    if y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise ValueError(f"labels must be int64 of shape ({len(x)},), not {y.dtype} {tuple(y.shape)}")
    low, high = torch.stack(x.aminmax()).tolist()  # one transfer to the host
    if not (low > -float("inf") and high < float("inf")):
        raise ValueError("x contains NaN or infinity")
    if clip and x.ndim == 4 and (low < 0 or high > 1):
        raise ValueError(
            f"image values must lie in [0, 1], not [{low:.3g}, {high:.3g}]: scale them (normalisation belongs in the model)"
        )
    if x.ndim != 4 and clip:
        raise ValueError("clip=True is for images (N, C, H, W); features have no range: pass clip=False")


def _logits(model: Model, x: Tensor, y: Tensor) -> Tensor:
    logits = model(x)
    check_labels(logits, y)
    if not logits.isfinite().all():
        raise ValueError("the model returned logits that are not finite")
    return logits


def _finite(gradient: Tensor) -> Tensor:
    if not gradient.isfinite().all():
        raise ValueError("the model's gradient is not finite: such an attack would measure nothing")
    return gradient


def _moved(x: Tensor, direction: Tensor, eps: float, clip: bool) -> Tensor:
    """x moved by eps along a direction of length 1."""
    moved = x.detach() + eps * direction
    return moved.clamp(0, 1) if clip else moved


def gradient(model: Model, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """∂ loss(logits, y)_i / ∂x_i for each sample i: like x. `loss` returns (N,), so no sample's scale depends on the batch."""
    with eval_mode(model), torch.enable_grad():
        x = x.detach().requires_grad_()
        return _finite(torch.autograd.grad(loss(_logits(model, x, y), y).sum(), x)[0])


def adv_loss(model: Model, x: Tensor, y: Tensor, *, eps: float, norm: str = "l2", clip: bool = True) -> Tensor:
    """Perturbation based on the likelihood (Huang et al. 2015, §3.1.1): x + eps · argmin over ‖u‖ ≤ 1 of <T_y, u>, T_y = ∂α_y/∂x.

    L2 (item 1): −T_y / ‖T_y‖₂. L∞ (item 2, the fast gradient sign method): −sign(T_y). L1 (item 3): −sign(T_y,I) e_I at the
    largest |T_y,I|. The paper prints a plus, which would raise α_y, and no sign in item 3: errata. The direction is taken from
    log(α_y / (1 − α_y)), which grows with α_y, so it is the same without the zeros and rounding of a saturated float32 softmax.
    """
    check_input(x, y, eps, clip)
    check_norm(norm)
    return _moved(x, steepest(-gradient(model, x, y, log_odds), norm), eps, clip)


def adv_loss_sign(model: Model, x: Tensor, y: Tensor, *, eps: float, clip: bool = True) -> Tensor:
    """The L∞ form of `adv_loss`, rescaled so that its *L2* norm is eps: what Huang et al. 2015 call Adv_Loss_Sign.

    Every pixel with a gradient moves by the same amount, eps / √(number of such pixels).
    """
    check_input(x, y, eps, clip)
    return _moved(x, unit_l2(-gradient(model, x, y, log_odds).sign()), eps, clip)


def fgsm(model: Model, x: Tensor, y: Tensor, *, eps: float, clip: bool = True) -> Tensor:
    """Fast gradient sign method (Goodfellow et al. 2014): `adv_loss` in L∞, every pixel moves by eps."""
    return adv_loss(model, x, y, eps=eps, norm="linf", clip=clip)


def minimal_shift(gap: Tensor, rows: Tensor, norm: str = "l2") -> tuple[Tensor, Tensor]:
    """The smallest of the shifts that close a gap to another class (Huang et al. 2015, Propositions 2.1 and 2.2).

    gap : (N, J) g_y − g_j > 0 for each rival class j; infinite where j is no rival
    rows : (N, J, d) ∂g_j/∂x − ∂g_y/∂x
    returns r (N, d) = gap_j / ‖rows_j‖_* · u_j, u_j the steepest direction of length 1, for the rival j with the smallest
    length gap_j / ‖rows_j‖_*, and that j (N,)

    Exact where g is affine: no r that is shorter in this norm lets a rival reach class y.
    """
    size = length(rows.flatten(0, 1), dual(norm)).view(gap.shape)
    distance = torch.where(size > 0, gap / size, torch.inf)
    j = distance.argmin(dim=1)
    pick = torch.arange(len(gap), device=gap.device), j
    step = torch.where(distance[pick] < torch.inf, distance[pick], 0.0)
    return step[:, None] * steepest(rows[pick], norm), j


def logit_jacobian(model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and their Jacobian ∂z_k/∂x (N, K, d) for the whole batch: one forward and K backward passes."""
    with eval_mode(model), torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = _logits(model, x, y)
        last = logits.shape[1] - 1
        rows = [torch.autograd.grad(logits[:, k].sum(), x, retain_graph=k < last)[0].flatten(1) for k in range(last + 1)]
    return logits.detach(), _finite(torch.stack(rows, dim=1))


def _rivals(logits: Tensor, y: Tensor) -> Tensor:
    """Which classes are not y: bool (N, K)."""
    return torch.ones_like(logits, dtype=torch.bool).scatter(1, y[:, None], False)


def _against_own(values: Tensor, y: Tensor) -> Tensor:
    """values_j − values_y for each class j: (N, K) or (N, K, d) like `values`."""
    return values - values[torch.arange(len(y), device=y.device), y][:, None]


def _toward_nearest(x, y, logits, gap, rows, eps, norm, clip) -> Tensor:
    """x moved by eps along the `minimal_shift`; samples that are wrong already stay."""
    _, j = minimal_shift(gap.masked_fill(~_rivals(logits, y), torch.inf), rows, norm)
    direction = rows[torch.arange(len(x), device=x.device), j]  # not r itself, which is 0 for an image on the boundary
    direction[logits.argmax(dim=1) != y] = 0
    return _moved(x, steepest(direction, norm).view_as(x), eps, clip)


def adv_alpha(model: Model, x: Tensor, y: Tensor, *, eps: float, norm: str = "l2", clip: bool = True) -> Tensor:
    """Perturbation toward the nearest class of the linearised softmax (Huang et al. 2015, Algorithm 1 and §3.1.2).

    r = c r*/‖r*‖ with r* of `minimal_shift` on g = α = softmax(z). Samples that are already wrong return unchanged: the paper
    states the problem for N(x) = y, and from a wrong class the shift could lead back to y.

    With D_j = ∂z_j/∂x − ∂z_y/∂x and q the softmax over the other classes,
    T_j − T_y = (1 − α_y) [q_j D_j + (α_y − α_j) Σ_k q_k D_k]. The factor in front is common to all j and positive, so neither
    the choice of j nor the direction depends on it; leaving it out keeps both exact where a float32 α_y rounds to 1.
    """
    check_input(x, y, eps, clip)
    check_norm(norm)
    logits, jacobian = logit_jacobian(model, x, y)
    gap = -_against_own(logits.softmax(dim=1), y)  # (N, K), α_y − α_j
    q = others(logits, y).softmax(dim=1)  # (N, K), q_y = 0
    D = _against_own(jacobian, y)
    rows = q[:, :, None] * D + gap[:, :, None] * torch.einsum("nk,nkd->nd", q, D)[:, None]
    return _toward_nearest(x, y, logits, gap, rows, eps, norm, clip)


def adv_logits(model: Model, x: Tensor, y: Tensor, *, eps: float, norm: str = "l2", clip: bool = True) -> Tensor:
    """`adv_alpha` with g = z, the logits, in place of the softmax: the first step of DeepFool, scaled to length eps.

    Not the paper's attack: the two differ in the rival that they go for and in the direction to it.
    """
    check_input(x, y, eps, clip)
    check_norm(norm)
    logits, jacobian = logit_jacobian(model, x, y)
    return _toward_nearest(x, y, logits, -_against_own(logits, y), _against_own(jacobian, y), eps, norm, clip)


def deepfool(
    model: Model, x: Tensor, y: Tensor, *, steps: int = 50, norm: str = "l2", overshoot: float = 0.02, clip: bool = True
) -> Tensor:
    """The nearest wrongly classified image that repeated `minimal_shift`s on the logits find (Moosavi-Dezfooli et al. 2016).

    steps : at most; every sample takes only as many as it needs and then leaves the batch
    overshoot : the sum of the shifts is stretched by 1 + overshoot, to cross the boundary instead of touching it

    There is no eps: the result's distance from x is what one wants to know. Samples that are wrong already return unchanged; of
    a sample that is never fooled the last iterate returns, so score the result. Fooled means by a margin of the logits that
    their rounding at another batch size does not undo.
    """
    check_input(x, y, 0.0, clip)
    check_norm(norm)
    if steps < 1 or not 0 <= overshoot < torch.inf:
        raise ValueError(f"steps must be at least 1 and overshoot finite and >= 0, not {steps} and {overshoot}")
    x = x.detach()
    total, result = torch.zeros_like(x), x.clone()
    alive = torch.arange(len(x), device=x.device)
    for step in range(steps + 1):
        with torch.no_grad(), eval_mode(model):
            logits = _logits(model, result[alive], y[alive])
        rounding = 1e-5 * logits.abs().amax(dim=1)
        left = margin(logits, y[alive]) >= (-rounding if step else 0)
        alive, rounding = alive[left], rounding[left]
        if step == steps or not len(alive):
            break
        logits, jacobian = logit_jacobian(model, result[alive], y[alive])
        gap = (2 * rounding[:, None] - _against_own(logits, y[alive])).masked_fill(~_rivals(logits, y[alive]), torch.inf)
        shift, _ = minimal_shift(gap, _against_own(jacobian, y[alive]), norm)
        total[alive] += shift.view_as(total[alive])
        moved = x[alive] + (1 + overshoot) * total[alive]
        result[alive] = moved.clamp(0, 1) if clip else moved
    return result


def random_noise(
    model: Model, x: Tensor, y: Tensor, *, eps: float, clip: bool = True, generator: torch.Generator | None = None
) -> Tensor:
    """x moved by L2 distance eps in a uniformly random direction, whatever the model: what every attack has to beat."""
    check_input(x, y, eps, clip)
    if int(y.min()) < 0:
        raise ValueError(f"labels run from {int(y.min())}; classes are 0 and up")
    return _moved(x, unit_l2(torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)), eps, clip)


def minus_log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """What `pgd` maximises by default: per sample the direction of the cross-entropy, without its saturation."""
    return -log_odds(logits, y)


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
    clip: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient ascent in the L2 or L∞ ball (Madry et al. 2018), with restarts; the strongest attack of this module.

    steps, restarts : the first restart begins at x, the others at random points of the ball (`norms.random_in_ball`)
    step_size : length of one step; 2.5 eps / steps if not given
    norm : "l2" or "linf"
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
    if not 0 <= step_size < torch.inf:
        raise ValueError(f"step_size must be a finite number >= 0, not {step_size}")
    check_norm(norm, ("l2", "linf"))
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
                    g = _finite(torch.autograd.grad(value.sum(), current)[0][~fooled])
                alive, current = alive[~fooled], current.detach()[~fooled]
                if len(alive) == 0:
                    return best
                if step < steps:
                    current = into_ball(current + step_size * steepest(g, norm), x[alive])
    return best
