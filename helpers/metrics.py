"""Numbers measured on a model: predictions, accuracy, and how far two sets of features lie apart."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from helpers.inputs import (
    check_classes,
    check_finite,
    check_floats,
    check_label_shape,
    check_logit_shape,
    check_no_bytes,
    check_whole,
    told,
)
from helpers.passes import on_a_copy

Tensor = torch.Tensor
Model = Callable[[Tensor], Tensor]
BATCH = {"cpu": (250, 3_000_000), "cuda": (1000, 40_000_000)}  # images, values: a larger batch leaves a processor's cache


@dataclass(frozen=True)
class Scores:
    """A detector's scores, higher being more in-distribution: of images inside the distribution and of others, 1-d and finite.

    A run that returns them as a metric stores both as float32; the metric is their AUROC, computed from what is stored.
    """

    inside: Tensor
    outside: Tensor

    def sides(self) -> dict[str, Tensor]:
        """Both sides by name."""
        return {"inside": self.inside, "outside": self.outside}


@dataclass(frozen=True)
class Right:
    """Which images of a split were right, by network: {seed: bool (N,)}, and the digest of the split that they come from."""

    images: dict[int, np.ndarray]
    digest: str


def paired(first: Right, second: Right) -> dict[int, np.ndarray] | None:
    """The difference of two methods image by image, by seed: {seed: int8 (N,) of -1, 0, 1}.

    None where the images are not the same ones: the split has another digest, or a network was measured on another number of
    them, or no seed is in both.
    """
    seeds = first.images.keys() & second.images.keys()
    lengths = {len(side.images[seed]) for side in (first, second) for seed in seeds}
    if first.digest != second.digest or len(lengths) != 1:
        return None
    return {seed: first.images[seed].astype(np.int8) - second.images[seed].astype(np.int8) for seed in sorted(seeds)}


@contextlib.contextmanager
def eval_mode(*models) -> Iterator[None]:
    """Put every nn.Module among `models` in evaluation mode, and each submodule back as it was on leaving.

    Attacks and measurements run inside this: dropout or batch statistics that change between two passes are no part of the
    network under test.
    """
    modules = [m for model in models if isinstance(model, torch.nn.Module) for m in model.modules()]
    before = [m.training for m in modules]
    try:
        for m in modules:
            m.training = False
        yield
    finally:
        for m, training in zip(modules, before, strict=True):
            m.training = training


def in_batches(f: Callable[..., Tensor], *tensors: Tensor, batch_size: int | None = None) -> Tensor:
    """f applied to slices of `batch_size` rows of the tensors, concatenated: memory for one batch, one call for the reader.

    batch_size : by default what is fast on the tensors' device for rows of the first tensor's size
    """
    for tensor in tensors:
        if not torch.is_tensor(tensor) or not tensor.ndim:
            raise ValueError(f"what is taken in batches must be tensors with a batch dimension, not {told(tensor)}")
    check_whole("batch_size", batch_size)
    if batch_size is None:
        rows, values = BATCH.get(tensors[0].device.type, BATCH["cuda"])
        batch_size = max(10, min(rows, values // max(1, tensors[0][:1].numel())))
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if len({len(t) for t in tensors}) != 1:
        raise ValueError(f"all tensors need as many rows, not {', '.join(str(len(t)) for t in tensors)}")
    slices = zip(*(t.split(batch_size) for t in tensors), strict=True)
    return torch.cat([f(*part) for part in slices])


@torch.no_grad()
def predict(model: Model, x: Tensor, *, batch_size: int | None = None) -> Tensor:
    """Logits of `x` (N, C, H, W) in evaluation mode: (N, K); of a part of a network, whatever that returns of each sample.

    raises ValueError for an empty x, or one that is no float, and for a model that returns no tensor of as many rows
    """
    check_floats("x", x, least=0)
    model_of = on_a_copy(model)

    def checked(part: Tensor) -> Tensor:
        before = None if part.is_inference() else part._version
        out = model_of(part)
        if not torch.is_tensor(out) or out.shape[:1] != part.shape[:1]:
            raise ValueError(f"the model must return a tensor with a row for each of the {len(part)} samples, not {told(out)}")
        if before is not None and part._version != before:
            raise ValueError("the model overwrites the images that it is given: let it work on a copy, model(x.clone())")
        return out

    with eval_mode(model):
        return in_batches(checked, x, batch_size=batch_size)


def classes_of(logits: Tensor) -> Tensor:
    """The class of the largest logit, per sample: (N,). raises ValueError for what is no logits (N, K), and for NaN in them"""
    check_logit_shape(logits, least=1)
    if (bad := int(logits.isnan().any(dim=1).sum())) > 0:
        raise ValueError(f"the model returned NaN for {bad} of {len(logits)} samples: they are of no class, nothing was measured")
    return logits.argmax(dim=1)


def correct(model: Model, x: Tensor, y: Tensor, *, batch_size: int | None = None) -> Tensor:
    """Whether the model's class is `y`, per sample: bool (N,).

    raises ValueError for an empty batch, images of 0..255, labels that do not fit or are no class of the model, logits with NaN
    """
    check_floats("x", x)
    check_no_bytes("x", x)
    check_label_shape("y", y, len(x))
    logits = predict(model, x, batch_size=batch_size)
    found = classes_of(logits)
    check_classes(y, logits.shape[1])
    return found == y


def accuracy(model: Model, x: Tensor, y: Tensor, *, batch_size: int | None = None) -> float:
    """Share of samples whose predicted class is `y`, in [0, 1]. Samples that were wrong before an attack count as wrong."""
    return correct(model, x, y, batch_size=batch_size).double().mean().item()


def right_and_rejected(
    model: Model, x: Tensor, y: Tensor, *, reject: int | None = None, batch_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Which samples are read as `y`, and which as the class `reject`: two bool (N,).

    reject : the class that stands for "none of them"; None, or a class that the model does not have: nothing is rejected

    raises ValueError as `correct` does, and for a reject that is no class
    """
    if reject is not None and (not isinstance(reject, int) or isinstance(reject, bool) or reject < 0):
        raise ValueError(f"reject must name a class, 0 and up, not {reject}")
    check_floats("x", x)
    check_no_bytes("x", x)
    logits = predict(model, x, batch_size=batch_size)
    right = correct(lambda z: z, logits, y)
    rejected = (logits.argmax(dim=1) == (-1 if reject is None else reject)) & ~right
    return right, rejected


def misread(model: Model, x: Tensor, y: Tensor, *, reject: int | None = None) -> Tensor:
    """Whether a sample is read as a class that is neither `y` nor `reject`: bool (N,), as in `right_and_rejected`."""
    right, rejected = right_and_rejected(model, x, y, reject=reject)
    return ~right & ~rejected


def outcomes(model: Model, x: Tensor, y: Tensor, *, reject: int | None = None, batch_size: int | None = None) -> dict[str, float]:
    """Shares of samples that are read as `y` ("accuracy"), as the class `reject` ("rejected"), as any other ("error"); sum 1."""
    right, rejected = right_and_rejected(model, x, y, reject=reject, batch_size=batch_size)
    shares = {"accuracy": right, "rejected": rejected, "error": ~right & ~rejected}
    return {name: share.double().mean().item() for name, share in shares.items()}


def auroc(positive, negative) -> float:
    """Area under the ROC curve: the probability that a score of `positive` exceeds one of `negative`, ties counting half.

    positive, negative : 1-d arrays of finite scores, neither empty
    """
    from sklearn.metrics import roc_auc_score

    positive, negative = _scores("auroc", positive, negative)
    return float(roc_auc_score(np.r_[np.ones(len(positive)), np.zeros(len(negative))], np.r_[positive, negative]))


def _scores(name: str, *scores) -> list[np.ndarray]:
    arrays = [np.asarray(s.detach().double().cpu() if torch.is_tensor(s) else s, dtype=float) for s in scores]
    if any(a.ndim != 1 or not len(a) for a in arrays):
        raise ValueError(f"{name} needs two non-empty one-dimensional arrays of scores, not {[a.shape for a in arrays]}")
    if not all(np.isfinite(a).all() for a in arrays):
        raise ValueError(f"{name} needs finite scores: there is a NaN or an infinity among them")
    return arrays


def fpr_at_tpr(inside, outside, tpr: float = 0.95) -> float:
    """Share of `outside` that passes as inside at the highest threshold which at least a share `tpr` of `inside` reaches.

    inside, outside : 1-d arrays of finite scores, neither empty; higher is more in-distribution. A score equal to the threshold
        reaches it, on both sides: ties count against the detector
    raises ValueError for other scores, or a tpr outside (0, 1]
    """
    inside, outside = _scores("fpr_at_tpr", inside, outside)
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr must lie in (0, 1], not {tpr}")
    kept = int(np.ceil(tpr * len(inside) - 1e-9))  # 0.55 · 100 is 55.000000000000007
    return float((outside >= np.sort(inside)[-max(1, kept)]).mean())


def aupr(inside, outside) -> float:
    """Area under the precision-recall curve as average precision (no interpolation), `inside` being what is to be found.

    inside, outside : as of `fpr_at_tpr`. Scores that tell nothing give the share of `inside` among both, not 0.5
    """
    from sklearn.metrics import average_precision_score

    inside, outside = _scores("aupr", inside, outside)
    return float(average_precision_score(np.r_[np.ones(len(inside)), np.zeros(len(outside))], np.r_[inside, outside]))


def paired_auroc_se(inside, outside, draws: int = 400, seed: int = 0) -> float:
    """Bootstrap standard error of `auroc(inside, outside)` where entry i of both belongs together, as an image and what was
    made to resemble it: whole pairs are drawn with replacement.

    inside, outside : 1-d arrays of finite scores, as many, at least two
    draws : resamples, at least two; seed : decides them
    """
    inside, outside = _scores("paired_auroc_se", inside, outside)
    number = len(inside)
    if len(outside) != number or number < 2 or draws < 2:
        raise ValueError(f"two pairs and two draws or more are wanted, not {number}, {len(outside)} scores and {draws} draws")
    drawn = np.random.default_rng(seed).integers(0, number, (draws, number)) + number * np.arange(draws)[:, None]
    times = np.bincount(drawn.ravel(), minlength=draws * number).reshape(draws, number)
    order = np.argsort(outside)
    below = np.concatenate([np.zeros((draws, 1), dtype=np.int64), times[:, order].cumsum(axis=1)], axis=1)  # of how many draws
    left, right = (np.searchsorted(outside[order], inside, side) for side in ("left", "right"))
    wins = (times * (below[:, left] + below[:, right])).sum(axis=1) / (2 * number**2)  # a tie is half below
    return float(wins.std(ddof=1))


def knn_auroc(reference: Tensor, clean: Tensor, other: Tensor, *, k: int = 10) -> float:
    """How well the distance to the k-th nearest of the `reference` features tells `other` from `clean`: AUROC in [0, 1].

    reference, clean, other : (N, d) features in the full space; `reference` and `clean` must be different samples, or every
    clean point would be its own neighbour. 0.5 means that the two cannot be told apart this way.
    """
    from sklearn.neighbors import NearestNeighbors

    kinds = {"reference": reference, "clean": clean, "other": other}
    for name, features in kinds.items():
        check_floats(name, features, dims=2)
        if features.ndim != 2 or features.shape[1] != reference.shape[1]:
            raise ValueError(
                f"{name} must be features (N, {reference.shape[1]}), as reference, not {told(features)}: .flatten(1)"
            )
        check_finite(name, features)
    if isinstance(k, bool) or not isinstance(k, int):
        raise ValueError(f"k must be a whole number, not {told(k)}")
    if not 1 <= k <= len(reference):
        raise ValueError(f"k must lie between 1 and the {len(reference)} reference samples, not {k}")
    wide = torch.float64 if torch.float64 in (f.dtype for f in kinds.values()) else torch.float32
    reference, clean, other = (f.detach().to("cpu", wide).numpy() for f in kinds.values())
    index = NearestNeighbors(n_neighbors=k).fit(reference)
    clean_distance, other_distance = (index.kneighbors(f)[0][:, -1] for f in (clean, other))
    return auroc(other_distance, clean_distance)


def one_standard_error(scores, errors) -> int:
    """Index of the first score that lies within one standard error of the best: the mildest setting that is not worse.

    scores, errors : validation scores of settings from the mildest to the strongest, and the standard error of each
    """
    scores, errors = np.asarray(scores, dtype=float), np.asarray(errors, dtype=float)
    if scores.shape != errors.shape or not len(scores) or not np.isfinite([scores, errors]).all():
        raise ValueError("scores and errors must be finite and as many, at least one")
    best = int(scores.argmax())
    return int(np.flatnonzero(scores >= scores[best] - errors[best])[0])
