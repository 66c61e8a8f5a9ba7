"""Losses and margins on logits. Every function here is a pure function of tensors and stays exact where a float32
softmax has long been 0 or 1."""

import torch

Tensor = torch.Tensor


def check_labels(logits: Tensor, y: Tensor) -> None:
    """Raise ValueError unless `y` (N,) int64 names one of the K classes of `logits` (N, K) for each row."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must be (N, K) with K >= 2, not {tuple(logits.shape)}: does the model end in its logits?")
    if y.shape != logits.shape[:1] or y.dtype != torch.int64:
        raise ValueError(f"labels must be int64 of shape ({len(logits)},), not {y.dtype} {tuple(y.shape)}")
    low, high = torch.stack(y.aminmax()).tolist() if len(y) else (0, 0)  # one transfer to the host
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(f"labels run from {low} to {high}; the model has classes 0 to {logits.shape[1] - 1}")


def others(logits: Tensor, y: Tensor) -> Tensor:
    """The logits with the entry of class `y` at minus infinity: (N, K), for a maximum or a softmax over the other classes."""
    return logits.scatter(1, y[:, None], -torch.inf)


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """log(α_y / (1 − α_y)) of the softmax α, per sample: (N,).

    A strictly increasing function of α_y, so its gradient has the direction of ∂α_y/∂x (Huang et al. 2015, §3.1.1), but it
    does not vanish when a float32 softmax rounds α_y to 1.
    """
    check_labels(logits, y)
    return logits.gather(1, y[:, None]).squeeze(1) - others(logits, y).logsumexp(dim=1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """z_y − max over the other classes, per sample: (N,). Negative where the prediction is wrong."""
    check_labels(logits, y)
    return logits.gather(1, y[:, None]).squeeze(1) - others(logits, y).amax(dim=1)


def merge_reject(logits: Tensor, y: Tensor) -> Tensor:
    """Logits whose last class rejects the image -> logits of the proper classes: (N, K + 1) -> (N, K).

    The reject class's logit counts for class y: a sample is misread only where another class exceeds both. So an attack on these
    logits has to lead to a wrong class that is not the reject class. raises ValueError where y names the reject class
    """
    check_labels(logits, y)
    proper, own = logits[:, :-1], y[:, None]
    check_labels(proper, y)
    return proper.scatter(1, own, torch.maximum(proper.gather(1, own), logits[:, -1:]))


def least_likely(logits: Tensor, *, classes: int | None = None) -> Tensor:
    """The class of lowest logit, per sample: (N,) int64.

    classes : choose among the first so many only, so that a reject class after them is never chosen
    """
    if logits.ndim != 2 or (classes is not None and not 1 <= classes <= logits.shape[1]):
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
    return -margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)
