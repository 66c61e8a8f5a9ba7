"""Detectors that read the layers of an nn.Sequential: class-conditional Gaussians (Lee et al. 2018b)."""

from collections.abc import Sequence

import torch
from torch import nn

from helpers.detectors.outputs import Detector, check_magnitude
from helpers.metrics import eval_mode, in_batches

Tensor = torch.Tensor
BATCH = 250  # images at once while a detector is fitted


def check_layers(network: nn.Sequential, layers: Sequence[int]) -> tuple[int, ...]:
    """The layers counted from the front; raises ValueError for an empty list, a layer twice, or one that is not there."""
    if not isinstance(network, nn.Sequential):
        raise ValueError(f"layers are counted in an nn.Sequential, not in a {type(network).__name__}")
    if not len(layers) or not all(isinstance(i, int) and -len(network) <= i < len(network) for i in layers):
        raise ValueError(f"layers must be indices into the network's {len(network)} layers, not {list(layers)}")
    layers = tuple(i % len(network) for i in layers)
    if len(set(layers)) < len(layers):
        raise ValueError(f"each layer counts once, not {list(layers)}")
    return layers


def check_images(name: str, images: Tensor) -> None:
    """Raise ValueError, with the name, unless these are finite float images (N, ...), at least one."""
    if images.ndim < 2 or not len(images) or not images.is_floating_point() or not images.isfinite().all():
        raise ValueError(f"{name} must be finite float images (N, ...), not {images.dtype} {tuple(images.shape)}")


def outputs_of(network: nn.Sequential, x: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """What comes out after each of the layers, in one pass, which ends at the last of them."""
    found = {}
    for i in range(max(layers) + 1):
        x = network[i](x)
        found[i] = x
    return [found[i] for i in layers]


def pooled(feature: Tensor) -> Tensor:
    """A feature map (N, C, ...) averaged over its positions: (N, C)."""
    return feature.flatten(2).mean(dim=2) if feature.ndim > 2 else feature


class Gaussians(nn.Module):
    """Class means (K, d) and a matrix (d, r) after which the shared covariance is the identity, of one layer.

    (N, d) -> squared Mahalanobis distances to all means (N, K), by differences: a product of matrices would cancel
    """

    def __init__(self, means: Tensor, whitening: Tensor):
        super().__init__()
        self.register_buffer("means", means)
        self.register_buffer("whitening", whitening)

    def forward(self, features: Tensor) -> Tensor:
        whitening, means = self.whitening.to(features.dtype), self.means.to(features.dtype)
        centre = means.mean(dim=0)
        return (((features - centre) @ whitening)[:, None] - (means - centre) @ whitening).square().sum(dim=2)


class Mahalanobis(Detector):
    """Distance to the nearest class mean in the covariance that all classes share (Lee et al. 2018b). Use `Mahalanobis.fit`.

    A layer's confidence is M = max_c −(f − μ_c)ᵀ Σ⁻¹ (f − μ_c), equation (2), twice that of the authors' code; f is the layer's
    map averaged over its positions, and score = the mean of M over the layers (Liang et al. 2020, D.1). With a magnitude, each
    layer's M is that of its own image x + magnitude · sign(∇M), as in algorithm 1 and the authors' code, not clamped to [0, 1];
    that sign is a constant to the gradient of the score, and a gradient of 0, positive in that code, moves nothing.
    encode = the f of all layers side by side, of the image as it is (D.2, setting 2): with a magnitude not what the score reads.
    """

    def __init__(self, network: nn.Sequential, layers: Sequence[int], gaussians: Sequence[Gaussians], magnitude: float = 0.0):
        super().__init__()
        self.network, self.layers, self.magnitude = network, check_layers(network, layers), check_magnitude(magnitude)
        self.gaussians = nn.ModuleList(gaussians)

    @classmethod
    def fit(
        cls, network: nn.Sequential, images: Tensor, labels: Tensor, layers: Sequence[int], magnitude: float = 0.0
    ) -> "Mahalanobis":
        """Means and covariances of images (N, ...) with classes labels (N,) int64, decomposed in float64.

        layers : indices into the network, of which the output counts
        magnitude : of the preprocessing, in units of x
        Σ⁻¹ is the pseudo-inverse, as in the authors' code: directions in which no image varies, such as those of dead channels,
        count for nothing. raises ValueError for labels that do not fit, a class without images, and a layer that never varies
        """
        layers = check_layers(network, layers)
        check_images("images", images)
        if labels.shape != (len(images),) or labels.dtype != torch.int64 or labels.min() < 0:
            raise ValueError(f"labels must be int64 from 0, one per image, not {labels.dtype} {tuple(labels.shape)}")
        number = labels.bincount()
        if not number.all():
            raise ValueError(f"every class needs images; there are none of {number.eq(0).nonzero().flatten().tolist()}")

        def features(x: Tensor) -> Tensor:
            return torch.cat([pooled(f) for f in outputs_of(network, x, layers)], dim=1)

        with torch.no_grad(), eval_mode(network):
            widths = [pooled(f).shape[1] for f in outputs_of(network, images[:1], layers)]
            found = in_batches(features, images, batch_size=BATCH)
        precision = torch.finfo(found.dtype).eps
        gaussians = []
        for i, f in zip(layers, found.double().split(widths, dim=1), strict=True):
            means = f.new_zeros(len(number), f.shape[1]).index_add_(0, labels, f) / number[:, None]
            centred = f - means[labels]
            variance, axes = torch.linalg.eigh(centred.T @ centred / len(f))
            # Below that share of the largest one, a variance is the rounding of the network's own precision
            kept = variance > variance[-1] * len(variance) * precision
            if not kept.any() or not variance[-1] > 0:
                raise ValueError(f"layer {i} gives all images of a class the same features: it has no covariance")
            gaussians.append(Gaussians(means, axes[:, kept] / variance[kept].sqrt()))
        return cls(network, layers, gaussians, magnitude).to(images.device)

    def _score(self, x: Tensor) -> Tensor:
        if self.magnitude:
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                totals = [m.sum() for m in self._confidences(outputs_of(self.network, leaf, self.layers))]
                steps = [torch.autograd.grad(total, leaf, retain_graph=True)[0].sign() for total in totals]
            moved = (x + self.magnitude * step for step in steps)
            features = [outputs_of(self.network, m, [i])[0] for m, i in zip(moved, self.layers, strict=True)]
        else:
            features = outputs_of(self.network, x, self.layers)
        return torch.stack(self._confidences(features)).mean(dim=0)

    def _confidences(self, features: list[Tensor]) -> list[Tensor]:
        return [-gaussian(pooled(f)).amin(dim=1) for gaussian, f in zip(self.gaussians, features, strict=True)]

    def _encode(self, x: Tensor) -> Tensor:
        return torch.cat([pooled(f) for f in outputs_of(self.network, x, self.layers)], dim=1)
