"""Losses and margins on logits. Every function here is a pure function of tensors and stays exact where a float32
softmax has long been 0 or 1."""

import math

import torch

from helpers.inputs import check_labels, check_logit_shape, check_number, check_shapes

Tensor = torch.Tensor


def others(logits: Tensor, y: Tensor) -> Tensor:
    """The logits with the entry of class `y` at minus infinity: (N, K), for a maximum or a softmax over the other classes."""
    check_labels(logits, y)
    return _others(logits, y)


def _others(logits: Tensor, y: Tensor) -> Tensor:
    return logits.scatter(1, y[:, None], -torch.inf)


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """log(α_y / (1 − α_y)) of the softmax α, per sample: (N,).

    A strictly increasing function of α_y, so its gradient has the direction of ∂α_y/∂x (Huang et al. 2015, §3.1.1), but it
    does not vanish when a float32 softmax rounds α_y to 1.
    """
    check_labels(logits, y)
    return logits.gather(1, y[:, None]).squeeze(1) - _others(logits, y).logsumexp(dim=1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """z_y − max over the other classes, per sample: (N,). Negative where the prediction is wrong."""
    check_labels(logits, y)
    return logits.gather(1, y[:, None]).squeeze(1) - _others(logits, y).amax(dim=1)


def merge_reject(logits: Tensor, y: Tensor) -> Tensor:
    """Logits whose last class rejects the image -> logits of the proper classes: (N, K + 1) -> (N, K).

    The reject class's logit counts for class y: a sample is misread only where another class exceeds both. So an attack on these
    logits has to lead to a wrong class that is not the reject class. raises ValueError where y names the reject class
    """
    check_labels(logits, y)
    if logits.shape[1] < 3:
        raise ValueError(f"two classes and a reject class are wanted, so logits (N, 3) or wider, not {tuple(logits.shape)}")
    proper, own = logits[:, :-1], y[:, None]
    check_labels(proper, y)
    return proper.scatter(1, own, torch.maximum(proper.gather(1, own), logits[:, -1:]))


def least_likely(logits: Tensor, *, classes: int | None = None) -> Tensor:
    """The class of lowest logit, per sample: (N,) int64.

    classes : choose among the first so many only, so that a reject class after them is never chosen
    """
    check_logit_shape(logits, least=1)
    if classes is not None and not (isinstance(classes, int) and 1 <= classes <= logits.shape[1]):
        raise ValueError(f"logits must be (N, K), and classes, if given, from 1 to K, not {tuple(logits.shape)} and {classes}")
    return logits[:, :classes].argmin(dim=1)


def dlr_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Difference-of-logits-ratio loss, per sample: (N,), to be maximised (Croce & Hein 2020, eq. 6).

    −margin / (z_(1) − z_(3)) over the sorted logits: unchanged by shifting or scaling the logits, so a network cannot hide
    its gradients from it by saturating its softmax. Needs at least three classes.
    """
    check_labels(logits, y)
    if logits.shape[1] < 3:
        raise ValueError("the DLR loss needs at least 3 classes")
    top = logits.topk(3, dim=1).values
    return -margin(logits, y) / (top[:, 0] - top[:, 2] + max(1e-12, torch.finfo(top.dtype).tiny))


def entropy(logits: Tensor) -> Tensor:
    """H(Ŷ|x) of the softmax in nats, per sample: (N,), in [0, log K]. raises ValueError for logits that are not (N, K)"""
    check_logit_shape(logits, least=1)
    log_p = logits.log_softmax(dim=1)
    some = log_p.masked_fill(log_p == -math.inf, 0)  # 0 log 0 = 0, of a class that is masked out
    return -(log_p.exp() * some).sum(dim=1)


def uniform_cross_entropy(logits: Tensor) -> Tensor:
    """−mean over the classes of log p_k in nats, per sample: (N,), at least log K, which is reached where all p_k are 1/K.

    The cross-entropy from the uniform distribution, what outlier exposure adds at outliers (Hendrycks et al. 2019, §4); less log
    K it is KL(U ‖ p). raises ValueError for logits that are not (N, K)
    """
    check_logit_shape(logits, least=1)
    return logits.logsumexp(dim=1) - logits.mean(dim=1)


def renyi_fit(logits: Tensor, y: Tensor, *, alpha: float) -> Tensor:
    """α · D_α(p_XY ‖ p_XŶ) of a batch with its labels, in nats: a scalar >= 0 (Picot et al. 2019, eq. 4 for one-hot labels).

    log(mean of p(y|x)^(1 − α)) / (α − 1): the cross-entropy for α → 1, the largest −log p(y|x) of the batch for α → ∞; for a
    single image −log p(y|x), whatever α. Exact also where p(y|x) underflows, and for α next to 1.
    """
    check_shapes(logits, y)
    check_number("alpha", alpha, 1)
    if len(y) == 0:
        raise ValueError("no samples: the mean over an empty batch is undefined")
    log_p = _of_labels(logits.log_softmax(dim=1), y)
    mean = log_p.mean()
    if alpha == 1:
        return -mean
    t = (1 - alpha) * (log_p - mean)  # of mean 0, so a small α − 1 leaves second order to the two forms of log(mean(exp(t)))
    small = t.detach().abs().amax() < 1
    near = torch.log1p(torch.expm1(t.clamp(-1, 1)).mean())
    return torch.where(small, near, t.logsumexp(dim=0) - math.log(len(t))) / (alpha - 1) - mean


def _of_labels(values: Tensor, y: Tensor) -> Tensor:
    """values[i, y[i]]: (N,). Labels are looked at only where this fails, as a look would stop a GPU's queue."""
    try:
        return values.gather(1, y[:, None]).squeeze(1)
    except (RuntimeError, IndexError):
        check_labels(values, y)
        raise


def hr_loss(logits: Tensor, y: Tensor, *, alpha: float) -> Tensor:
    """H(Ŷ|X) + α · D_α(p_XY ‖ p_XŶ) of a batch: a scalar (Picot et al. 2019, eq. 3, where H(Y|X) stands for H(Ŷ|X)).

    alpha : at least 1; at 1 the loss is cross-entropy plus entropy, which it also is for a single image at any alpha
    """
    return entropy(logits).mean() + renyi_fit(logits, y, alpha=alpha)


def hr_slope(logits: Tensor, y: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Per sample (N,), a value whose gradient has the direction of that of entropy + weight · cross-entropy, and stays exact
    where that one has rounded to zero: what `log_odds` is to the cross-entropy. To take gradients of; its value means nothing.

    ∂/∂z_j is p_j (weight − log p_j − H) for j ≠ y, and these sum to zero over all classes; here divided by 1 − p_y.
    weight : (N,) or a number; `hr_weights` for the loss of the whole batch
    """
    check_labels(logits, y)
    with torch.no_grad():
        log_p = logits.log_softmax(dim=1)
        weight = torch.as_tensor(weight, dtype=logits.dtype, device=logits.device).expand(len(y))
        share = _others(logits, y).softmax(dim=1)  # p_j / (1 − p_y)
        slope = share * ((weight - entropy(logits))[:, None] - log_p)
    return (slope * (logits - logits.gather(1, y[:, None]))).sum(dim=1)


def hr_weights(logits: Tensor, y: Tensor, *, alpha: float) -> Tensor:
    """What each image's cross-entropy weighs against its entropy in the gradient of the batch's `hr_loss`: (N,), of mean 1.

    Proportional to p(y|x)^(1 − α): the images that are read wrong take most of it.
    """
    check_labels(logits, y)
    check_number("alpha", alpha, 1)
    return ((1 - alpha) * logits.log_softmax(dim=1).gather(1, y[:, None]).squeeze(1)).softmax(dim=0) * len(y)
