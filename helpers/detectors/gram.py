"""Gram matrices of the layers of an nn.Sequential (Sastry & Oore 2019)."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from helpers.detectors.features import BATCH, check_layers, fitted_images, outputs_of
from helpers.detectors.outputs import Detector, logits_of
from helpers.inputs import check_module, check_number
from helpers.layers import Residual
from helpers.metrics import eval_mode, predict
from helpers.passes import with_gradients

Tensor = torch.Tensor
EPS = 1e-40  # of Liang et al. 2020, H.2
GUARDS = 1e-6, 1e-7  # added in the code of Sastry & Oore to a bound and to an expected deviation that they divide by


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
    root, (N, 1), with a gradient (Liang et al. 2020, H.2, tricks a to c), and aim the same, (N,). That gradient itself has x's
    precision: give the detector and x in float64 for trick (a) in full. Where an image lies inside all ranges both are 0, and so
    is the gradient.
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
    @with_gradients
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
        check_module("network", network, nn.Sequential)
        layers = check_layers(network, gram_layers(network) if layers is None else layers)
        fitted_images("images", images)
        fitted_images("held_out", held_out)
        check_number("orders", orders, 1, whole=True)
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
        return self._aim(x)[:, None]

    def _aim(self, x: Tensor) -> Tensor:
        return self._total(x, smooth=True)


def _both(network: nn.Sequential, x: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """The logits, and what comes out after each of the layers."""
    *outputs, logits = outputs_of(network, x, [*layers, len(network) - 1])
    return logits_of(lambda _: logits, x), outputs


def _passes(network: nn.Sequential, images: Tensor, layers: Sequence[int]) -> Iterator[tuple[Tensor, list[Tensor]]]:
    with eval_mode(network):
        for part in images.split(BATCH):
            yield _both(network, part, layers)
