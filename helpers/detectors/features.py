"""Detectors that read the layers of an nn.Sequential: class-conditional Gaussians (Mahalanobis) and Gram matrices."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from helpers.detectors.outputs import Detector, check_magnitude, logits_of
from helpers.metrics import eval_mode, in_batches, predict
from helpers.models import Residual

Tensor = torch.Tensor
BATCH = 250  # images at once while a detector is fitted
EPS = 1e-40  # of Liang et al. 2020, H.2
GUARDS = 1e-6, 1e-7  # added in the code of Sastry & Oore to a bound and to an expected deviation that they divide by


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
        whitening = self.whitening.to(features.dtype)
        return ((features @ whitening)[:, None] - self.means.to(features.dtype) @ whitening).square().sum(dim=2)


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

        @torch.no_grad()
        def features(x: Tensor) -> Tensor:
            return torch.cat([pooled(f) for f in outputs_of(network, x, layers)], dim=1)

        with eval_mode(network):
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


def gram_layers(network: nn.Sequential) -> tuple[int, ...]:
    """The top-level convolutions, activations and residual blocks of a network."""
    kinds = nn.Conv2d | nn.ReLU | nn.LeakyReLU | nn.Tanh | Residual
    return tuple(i for i, layer in enumerate(network) if isinstance(layer, kinds))


def gram_rows(feature: Tensor, orders: int, smooth: bool) -> Tensor:
    """Row sums of the Gram matrices F^p F^pᵀ of a map (N, C, ...), p from 1 to `orders`, and their p-th root with their sign:
    (N, orders, C), float64.

    As in the authors' code: powers value by value, and the root of the sum of a row, not of each entry. A row sum is the product
    of the channel with the sum of all channels, so that the matrix itself is never made.
    smooth : roots as exp(log(|sum| + 1e-40) / p), whose gradient is finite (Liang et al. 2020, H.2)
    """
    sums = _RowSums.apply(feature.reshape(*feature.shape[:2], -1), orders)
    size, roots = sums.abs(), 1 / torch.arange(1, orders + 1, device=sums.device, dtype=sums.dtype)[:, None]
    return sums.sign() * ((roots * (size + EPS).log()).exp() if smooth else size.pow(roots))


class _RowSums(torch.autograd.Function):
    """Maps F (N, C, L) -> Σ_l F_i^p Σ_j F_j^p for each channel i and order p: (N, orders, C), float64.

    A few samples at a time, which stay in the processor's cache, and no power is kept for the backward pass: on a CPU a third of
    the time that autograd takes by itself.
    """

    @staticmethod
    def forward(ctx, f: Tensor, orders: int) -> Tensor:
        ctx.save_for_backward(f)
        ctx.orders = orders
        sums = []
        for part in f.split(_block(f)):
            power = part = part.double()
            found = []
            for p in range(orders):
                power = power * part if p else part
                found.append(torch.einsum("ncl,nl->nc", power, power.sum(dim=1)))
            sums.append(torch.stack(found, dim=1))
        return torch.cat(sums)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, outer: Tensor) -> tuple[Tensor, None]:
        """∂/∂F_jl = Σ_p p F_jl^(p−1) (u_jp Σ_i F_il^p + Σ_i u_ip F_il^p), u being the gradient from outside."""
        [f] = ctx.saved_tensors
        parts = []
        for part, u in zip(f.split(_block(f)), outer.split(_block(f)), strict=True):
            part = part.double()
            lower, g = torch.ones_like(part), torch.zeros_like(part)
            for p in range(ctx.orders):
                power = lower * part
                weighted = torch.einsum("nc,ncl->nl", u[:, p], power)
                g.addcmul_(lower, torch.addcmul(weighted[:, None], u[:, p, :, None], power.sum(dim=1)[:, None]), value=p + 1)
                lower = power
            parts.append(g.to(f.dtype))
        return torch.cat(parts), None


def _block(f: Tensor) -> int:
    """How many samples of F (N, C, L) are worked on at once."""
    return max(1, (1 << 16 if f.device.type == "cpu" else 1 << 25) // f[:1].numel())


class Bounds(nn.Module):
    """The least and the largest value of each class, both (K, orders, C), of one layer.

    values (N, orders, C), predicted classes (N,) -> how far the values lie outside of them, relative to the bound, in all (N,)
    """

    def __init__(self, low: Tensor, high: Tensor):
        super().__init__()
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def forward(self, values: Tensor, predicted: Tensor) -> Tensor:
        low, high = self.low[predicted].double(), self.high[predicted].double()
        below, above = (low - values).relu() / (low + GUARDS[0]).abs(), (values - high).relu() / (high + GUARDS[0]).abs()
        return (below + above).flatten(1).sum(dim=1)


class Gram(Detector):
    """Minus the total deviation of a network's Gram matrices from the range that the training images of the predicted class span
    (Sastry & Oore 2019). Use `Gram.fit`. Of each layer all deviations of all orders are summed and divided by their mean over
    held-out images; the sum of that over the layers is the total. It is computed in float64 for any x, all images at once.

    score is the original formula, whose gradient has NaN wherever a channel is silent; encode is the score with the smoothed
    root, (N, 1), with a gradient (Liang et al. 2020, H.2, tricks a to c). That gradient itself has x's precision: give the
    detector and x in float64 for trick (a) in full. Where an image lies inside all ranges both are 0, and so is the gradient.
    """

    def __init__(
        self,
        network: nn.Sequential,
        layers: Sequence[int],
        bounds: Sequence[Bounds],
        expected: Tensor,
        by_confidence: bool = True,
    ):
        super().__init__()
        self.network, self.layers, self.by_confidence = network, check_layers(network, layers), by_confidence
        self.bounds = nn.ModuleList(bounds)
        self.register_buffer("expected", expected)

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        network: nn.Sequential,
        images: Tensor,
        *,
        held_out: Tensor,
        layers: Sequence[int] | None = None,
        orders: int = 5,
        by_confidence: bool = True,
    ) -> "Gram":
        """Ranges over images (N, ...) of each predicted class, expected deviations over other images of the same distribution.

        layers : indices into the network, of which the output counts; None: its convolutions, activations and residual blocks
        orders : powers p from 1 to it; 5 as in Liang et al. 2020, 10 in the authors' code
        by_confidence : divide an image's deviations by its largest softmax probability, as the authors' code does
        raises ValueError for a class that no image is taken for, and for held-out images of which none deviates
        """
        layers = check_layers(network, gram_layers(network) if layers is None else layers)
        check_images("images", images)
        check_images("held_out", held_out)
        if orders < 1:
            raise ValueError(f"orders must be at least 1, not {orders}")
        classes = predict(network, images[:1]).shape[1]
        counts = torch.zeros(classes, dtype=torch.int64, device=images.device)
        least: list[Tensor] = []
        largest: list[Tensor] = []
        for logits, outputs in _passes(network, images, layers):
            predicted = logits.argmax(dim=1)
            counts += predicted.bincount(minlength=classes)
            for i, output in enumerate(outputs):
                rows = gram_rows(output, orders, False)
                if i == len(least):
                    least.append(rows.new_full((classes, *rows.shape[1:]), torch.inf))
                    largest.append(-least[i])
                index = predicted[:, None, None].expand_as(rows)
                least[i].scatter_reduce_(0, index, rows, "amin")
                largest[i].scatter_reduce_(0, index, rows, "amax")
        if not counts.all():
            never = counts.eq(0).nonzero().flatten().tolist()
            raise ValueError(f"no image is taken for class {never}, so it has no ranges: give more images")
        bounds = [Bounds(*pair) for pair in zip(least, largest, strict=True)]
        detector = cls(network, layers, bounds, torch.ones(len(layers), device=images.device).double(), by_confidence)
        parts = [detector._deviations(*both, smooth=False) for both in _passes(network, held_out, layers)]
        expected = torch.cat(parts).mean(dim=0)
        if not expected.any():
            raise ValueError("no held-out image leaves the ranges: give more of them, and none that the ranges come from")
        detector.expected.copy_(expected + GUARDS[1])
        return detector

    def _deviations(self, logits: Tensor, outputs: list[Tensor], *, smooth: bool) -> Tensor:
        """Of each layer, not yet divided by what is expected: (N, layers)."""
        predicted = logits.argmax(dim=1)
        orders = self.bounds[0].low.shape[1]
        parts = [
            bounds(gram_rows(output, orders, smooth), predicted) for bounds, output in zip(self.bounds, outputs, strict=True)
        ]
        deviations = torch.stack(parts, dim=1)
        return deviations / logits.double().softmax(dim=1).amax(dim=1)[:, None] if self.by_confidence else deviations

    def _total(self, x: Tensor, smooth: bool) -> Tensor:
        deviations = self._deviations(*_both(self.network, x, self.layers), smooth=smooth)
        return -(deviations / self.expected.double()).sum(dim=1).to(x.dtype)

    def _score(self, x: Tensor) -> Tensor:
        return self._total(x, smooth=False)

    def _encode(self, x: Tensor) -> Tensor:
        return self._total(x, smooth=True)[:, None]


def _both(network: nn.Sequential, x: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """The logits, and what comes out after each of the layers."""
    *outputs, logits = outputs_of(network, x, [*layers, len(network) - 1])
    return logits_of(lambda _: logits, x), outputs


def _passes(network: nn.Sequential, images: Tensor, layers: Sequence[int]) -> Iterator[tuple[Tensor, list[Tensor]]]:
    with eval_mode(network):
        for part in images.split(BATCH):
            yield _both(network, part, layers)
