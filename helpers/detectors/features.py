"""Detectors that read the layers of an nn.Sequential: class-conditional Gaussians (Lee et al. 2018b)."""

from collections.abc import Sequence

import torch
from torch import nn

from helpers.detectors.outputs import Detector
from helpers.inputs import check_classes, check_finite, check_floats, check_label_shape, check_no_bytes, check_number
from helpers.metrics import eval_mode, in_batches
from helpers.passes import call, with_gradients, works_in_place

Tensor = torch.Tensor
BATCH = 250  # images at once while a detector is fitted
TIMES = 10.0  # rounding deviations: layers of the zoo's networks differ between float32 and float64 by up to 3


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


def fitted_images(name: str, images: Tensor) -> None:
    """Raise ValueError, with the name, unless these are finite float images (N, ...), at least one."""
    check_floats(name, images, dims=2)
    check_finite(name, images)
    check_no_bytes(name, images)


def outputs_of(network: nn.Sequential, x: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """What each of the layers returns, in one pass, which ends at the last of them.

    A layer that works in place gets a copy of what is kept, x included. Where one does so without a flag `inplace`, as a function
    of one's own may, there is a second pass, in which every layer gets one. raises ValueError where that one is the first: x
    itself is overwritten
    """
    flags = [works_in_place(network[i]) or x.is_inference() for i in range(max(layers) + 1)]
    found = _outputs(network, x, set(layers), flags) or _outputs(network, x, set(layers), [True] * len(flags))
    return [found[i] for i in layers]


def _outputs(network: nn.Sequential, x: Tensor, wanted: set[int], overwrites: list[bool]) -> dict[int, Tensor] | None:
    """The outputs of the wanted layers, or None where one of them was overwritten by a later layer."""
    kept, versions, last = {-1: x}, {-1: _version(x)}, x
    for i, copies in enumerate(overwrites):
        if copies and any(_shares(last, value) for value in kept.values()):
            last = last.clone()
        last = call(network[i], last)
        if i in wanted:
            kept[i], versions[i] = last, _version(last)
    if _version(x) != versions[-1]:
        raise ValueError("the network's first layer overwrites the images that it is given: let it work on a copy, x.clone()")
    return kept if all(_version(kept[i]) == version for i, version in versions.items()) else None


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version


def _shares(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


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
        whitening, means = self.whitening.double(), self.means.double()
        centre = means.mean(dim=0)
        distances = (((features.double() - centre) @ whitening)[:, None] - (means - centre) @ whitening).square().sum(dim=2)
        return distances.to(features.dtype)

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, classes: int, precision: float) -> "Gaussians":
        """Of features (N, d) float64 of the classes labels, as a network gave them that rounds by the share `precision`.

        Each feature is taken in units of its own deviation, so that no score depends on a feature's units; a feature, then a
        direction, that varies by less than TIMES its rounding counts for nothing. raises ValueError where none is left
        """
        number = labels.bincount(minlength=classes)
        means = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features) / number[:, None]
        centred = features - means[labels]
        spread, rounding = centred.square().mean(dim=0).sqrt(), precision * features.abs().amax(dim=0)
        alive = spread > TIMES * rounding
        spread, rounding = spread[alive], rounding[alive]
        units = centred[:, alive] / spread
        variance, axes = torch.linalg.eigh(units.T @ units / len(units))
        kept = variance > TIMES**2 * (axes * (rounding / spread)[:, None]).square().sum(dim=0)
        if not kept.any():
            raise ValueError("all images of a class have the same features: they have no covariance")
        whitening = features.new_zeros(len(alive), int(kept.sum()))
        whitening[alive] = axes[:, kept] / variance[kept].sqrt() / spread[:, None]
        return cls(means, whitening)


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
        check_number("magnitude", magnitude, 0)
        self.network, self.layers, self.magnitude = network, check_layers(network, layers), magnitude
        self.gaussians = nn.ModuleList(gaussians)

    @classmethod
    @with_gradients
    def fit(
        cls, network: nn.Sequential, images: Tensor, labels: Tensor, layers: Sequence[int], magnitude: float = 0.0
    ) -> "Mahalanobis":
        """Means and covariances of images (N, ...) with classes labels (N,) int64, decomposed in float64.

        layers : indices into the network, of which the output counts
        magnitude : of the preprocessing, in units of x
        Σ⁻¹ is a pseudo-inverse, as in the authors' code, but in units of each feature's own deviation (`Gaussians.fit`):
        directions in which no image varies, such as those of dead channels, count for nothing. raises ValueError for labels that
        do not fit, a class without images, and a layer that never varies
        """
        layers = check_layers(network, layers)
        fitted_images("images", images)
        check_label_shape("labels", labels, len(images))
        check_classes(labels)
        number = labels.bincount()
        if not number.all():
            raise ValueError(f"every class needs images; there are none of {number.eq(0).nonzero().flatten().tolist()}")

        def features(x: Tensor) -> Tensor:
            return torch.cat([pooled(f) for f in outputs_of(network, x, layers)], dim=1)

        with torch.no_grad(), eval_mode(network):
            widths = [pooled(f).shape[1] for f in outputs_of(network, images[:1], layers)]
            found = in_batches(features, images, batch_size=BATCH)
        # Of float32 also for a network in float64, whose weights were float32 before: the same directions count in both
        precision = max(torch.finfo(dtype).eps for dtype in (found.dtype, torch.float32))
        gaussians = []
        for i, f in zip(layers, found.double().split(widths, dim=1), strict=True):
            try:
                gaussians.append(Gaussians.fit(f, labels, len(number), precision))
            except ValueError as error:
                raise ValueError(f"layer {i}: {error}") from None
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
