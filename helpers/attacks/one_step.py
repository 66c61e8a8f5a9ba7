"""Attacks that take one step along a tangent."""

from collections.abc import Callable

import torch

from helpers.inputs import check_callable, check_floats, check_generator, check_input, check_label_shape, check_norm
from helpers.losses import log_odds, merge_reject, others
from helpers.metrics import eval_mode
from helpers.norms import dual, length, steepest, unit_l2
from helpers.passes import Model, checked_gradient, checked_logits, gradient_of, raw_gradient, with_gradients

Tensor = torch.Tensor


def _moved(x: Tensor, direction: Tensor, eps: float, clip: bool) -> Tensor:
    """x moved by eps along a direction of length 1."""
    moved = x.detach() + eps * direction
    return moved.clamp(0, 1) if clip else moved


@with_gradients
def gradient(model: Model, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """∂ loss(logits, y)_i / ∂x_i for each sample i: like x. `loss` returns (N,), so no sample's scale depends on the batch."""
    check_callable("model", model)
    check_floats("x", x, dims=2)
    check_label_shape("y", y, len(x))
    with eval_mode(model), torch.enable_grad():
        x = x.detach().requires_grad_()
        value = loss(checked_logits(model, x, y), y)
        if not torch.is_tensor(value) or value.shape != (len(x),):
            got = tuple(value.shape) if torch.is_tensor(value) else type(value).__name__
            raise ValueError(f"the loss must return one value for each of the {len(x)} samples, not {got}: no mean over them")
        return gradient_of(value.sum(), x)


def _past_reject(logits: Tensor, y: Tensor) -> Tensor:
    return log_odds(merge_reject(logits, y), y)


@with_gradients
def adv_loss(
    model: Model, x: Tensor, y: Tensor, *, eps: float, norm: str = "l2", reject: bool = False, clip: bool = True
) -> Tensor:
    """Perturbation based on the likelihood (Huang et al. 2015, §3.1.1): x + eps · argmin over ‖u‖ ≤ 1 of <T_y, u>, T_y = ∂α_y/∂x.

    L2 (item 1): −T_y / ‖T_y‖₂. L∞ (item 2, the fast gradient sign method): −sign(T_y). L1 (item 3): −sign(T_y,I) e_I at the
    largest |T_y,I|. The paper prints a plus, which would raise α_y, and no sign in item 3: errata. The direction is taken from
    log(α_y / (1 − α_y)), which grows with α_y, so it is the same without the zeros and rounding of a saturated float32 softmax.

    reject : whether the last class is a reject class that the perturbation should not lead to (`losses.merge_reject`)
    """
    check_norm(norm)
    check_input(x, y, eps, clip, norm)
    return _moved(x, steepest(-gradient(model, x, y, _past_reject if reject else log_odds), norm), eps, clip)


@with_gradients
def adv_loss_sign(model: Model, x: Tensor, y: Tensor, *, eps: float, clip: bool = True) -> Tensor:
    """The L∞ form of `adv_loss`, rescaled so that its *L2* norm is eps: what Huang et al. 2015 call Adv_Loss_Sign.

    Every pixel with a gradient moves by the same amount, eps / √(number of such pixels).
    """
    check_input(x, y, eps, clip)
    return _moved(x, unit_l2(-gradient(model, x, y, log_odds).sign()), eps, clip)


def fgsm(model: Model, x: Tensor, y: Tensor, *, eps: float, reject: bool = False, clip: bool = True) -> Tensor:
    """Fast gradient sign method (Goodfellow et al. 2014): `adv_loss` in L∞, every pixel moves by eps."""
    return adv_loss(model, x, y, eps=eps, norm="linf", reject=reject, clip=clip)


@with_gradients
def targeted_fgsm(model: Model, x: Tensor, target: Tensor, *, eps: float, clip: bool = True) -> Tensor:
    """Targeted fast gradient sign method (Kurakin et al. 2016): every pixel moves by eps so that class `target` gains.

    target : (N,) int64, a class for each sample, e.g. `losses.least_likely` of the logits of x

    Abbasi & Gagné 2018, eq. 2, prints a plus in front of the gradient of the target's loss, which would lead away: erratum.
    """
    check_input(x, target, eps, clip, "linf")
    return _moved(x, gradient(model, x, target, log_odds).sign(), eps, clip)


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


@with_gradients
def logit_jacobian(model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and their Jacobian ∂z_k/∂x (N, K, d) for the whole batch: one forward and K backward passes."""
    check_callable("model", model)
    check_floats("x", x, dims=2)
    check_label_shape("y", y, len(x))
    with eval_mode(model), torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = checked_logits(model, x, y)
        last = logits.shape[1] - 1
        rows = [raw_gradient(logits[:, k].sum(), x, retain_graph=k < last).flatten(1) for k in range(last + 1)]
    return logits.detach(), checked_gradient(torch.stack(rows, dim=1))


def rivals(logits: Tensor, y: Tensor) -> Tensor:
    """Which classes are not y: bool (N, K)."""
    return torch.ones_like(logits, dtype=torch.bool).scatter(1, y[:, None], False)


def against_own(values: Tensor, y: Tensor) -> Tensor:
    """values_j − values_y for each class j: (N, K) or (N, K, d) like `values`."""
    return values - values[torch.arange(len(y), device=y.device), y][:, None]


def _toward_nearest(x, y, logits, gap, rows, eps, norm, clip) -> Tensor:
    """x moved by eps along the `minimal_shift`; samples that are wrong already stay."""
    _, j = minimal_shift(gap.masked_fill(~rivals(logits, y), torch.inf), rows, norm)
    direction = rows[torch.arange(len(x), device=x.device), j]  # not r itself, which is 0 for an image on the boundary
    direction[logits.argmax(dim=1) != y] = 0
    return _moved(x, steepest(direction, norm).view_as(x), eps, clip)


@with_gradients
def adv_alpha(model: Model, x: Tensor, y: Tensor, *, eps: float, norm: str = "l2", clip: bool = True) -> Tensor:
    """Perturbation toward the nearest class of the linearised softmax (Huang et al. 2015, Algorithm 1 and §3.1.2).

    r = c r*/‖r*‖ with r* of `minimal_shift` on g = α = softmax(z). Samples that are already wrong return unchanged: the paper
    states the problem for N(x) = y, and from a wrong class the shift could lead back to y.

    With D_j = ∂z_j/∂x − ∂z_y/∂x and q the softmax over the other classes,
    T_j − T_y = (1 − α_y) [q_j D_j + (α_y − α_j) Σ_k q_k D_k]. The factor in front is common to all j and positive, so neither
    the choice of j nor the direction depends on it; leaving it out keeps both exact where a float32 α_y rounds to 1.
    """
    check_norm(norm)
    check_input(x, y, eps, clip, norm)
    logits, jacobian = logit_jacobian(model, x, y)
    gap = -against_own(logits.softmax(dim=1), y)  # (N, K), α_y − α_j
    q = others(logits, y).softmax(dim=1)  # (N, K), q_y = 0
    D = against_own(jacobian, y)
    rows = q[:, :, None] * D + gap[:, :, None] * torch.einsum("nk,nkd->nd", q, D)[:, None]
    return _toward_nearest(x, y, logits, gap, rows, eps, norm, clip)


@with_gradients
def adv_logits(model: Model, x: Tensor, y: Tensor, *, eps: float, norm: str = "l2", clip: bool = True) -> Tensor:
    """`adv_alpha` with g = z, the logits, in place of the softmax: the first step of DeepFool, scaled to length eps.

    Not the paper's attack: the two differ in the rival that they go for and in the direction to it.
    """
    check_norm(norm)
    check_input(x, y, eps, clip, norm)
    logits, jacobian = logit_jacobian(model, x, y)
    return _toward_nearest(x, y, logits, -against_own(logits, y), against_own(jacobian, y), eps, norm, clip)


def random_noise(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "l2",
    clip: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """x moved by distance eps in a uniformly random direction, whatever the model: what every attack has to beat.

    norm : "l2", any direction; "linf", a random sign for each pixel
    """
    check_norm(norm, ("l2", "linf"))
    check_input(x, y, eps, clip, norm)
    check_generator(generator)
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return _moved(x, steepest(noise, norm), eps, clip)
