"""Detectors that need no classifier: they compare the image itself, or a code of it, with the training images."""

import math
from collections.abc import Callable

import torch
from torch import nn

from helpers.detectors.features import fitted_images
from helpers.detectors.outputs import Detector
from helpers.inputs import check_callable, check_floats, check_images, check_module
from helpers.metrics import eval_mode, in_batches
from helpers.norms import length, wide
from helpers.passes import call
from helpers.purifiers import ConvAutoencoder

Tensor = torch.Tensor
PAIRS = 1 << 22  # values of pairs of codes that are compared at once


class Reconstruction(Detector):
    """score = −mean squared error per value of the autoencoder's image; encode = its code, flattened. The error is no function
    of the code, as it compares with the image.

    aim = the score before the autoencoder clamps its image to [0, 1]: the same where nothing is clamped. A clamped pixel passes
    no gradient to the code, and of images far from the data most are

    autoencoder : images -> images; one without a method `unclamped`, as `purifiers.ConvAutoencoder` has it: aim = score
    code : images -> codes (N, ...); None: that of `purifiers.ConvAutoencoder`
    raises ValueError for another autoencoder without code
    """

    def __init__(self, autoencoder: nn.Module, code: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        check_module("autoencoder", autoencoder)
        if code is not None:
            check_callable("code", code)
        if code is None and not isinstance(autoencoder, ConvAutoencoder):
            raise ValueError(f"give code, a function from images to the codes of {type(autoencoder).__name__}")
        self.autoencoder, self.code = autoencoder, code

    def _score(self, x: Tensor) -> Tensor:
        return _minus_error(self.autoencoder(x), x)

    def _encode(self, x: Tensor) -> Tensor:
        return (self.autoencoder.encode if self.code is None else self.code)(x).flatten(1)

    def _aim(self, x: Tensor) -> Tensor:
        return _minus_error(getattr(self.autoencoder, "unclamped", self.autoencoder)(x), x)


def _minus_error(image: Tensor, x: Tensor) -> Tensor:
    if image.shape != x.shape:
        raise ValueError(f"the autoencoder must return images as it is given, {tuple(x.shape)}, not {tuple(image.shape)}")
    return -(image - x).square().flatten(1).mean(dim=1)


class NearestNeighbour(Detector):
    """score = −L2 distance to the nearest reference (Sun et al. 2022 with k = 1, features as they are); encode = the flattened
    features, or pixels.

    reference : (M, ...) images, or whatever x will be, of which M are compared with at once
    network : applied to both first, e.g. `network[:-1]` for the features that a classifier reads; None: pixels
    raises ValueError for an empty or non-finite reference, or x of another size
    """

    def __init__(self, reference: Tensor, network: nn.Module | None = None):
        super().__init__()
        fitted_images("reference", reference)
        self.network, self.shape = network, tuple(reference.shape[1:])
        with torch.no_grad(), eval_mode(self):
            codes = in_batches(self._encode, reference.detach())
            centre = wide(codes).mean(dim=0)
            centred = codes - centre
        # What the nearest one is found by, kept: else all references are gone over again for every batch
        kept = {"reference": codes, "centre": centre, "centred": centred, "halves": centred.square().sum(dim=1) / 2}
        for name, values in kept.items():
            self.register_buffer(name, values)

    def _score(self, x: Tensor) -> Tensor:
        if self.network is None and x.ndim > 2 and tuple(x.shape[1:]) != self.shape:
            check_floats("x", x, dims=len(self.shape) + 1, shape=self.shape)
        code = self._encode(x)
        if code.shape[1] != len(self.centre):
            raise ValueError(f"samples of {len(self.centre)} values are wanted, as the references, not {code.shape[1]}")
        with torch.no_grad():
            nearest = self._nearest(code)
        return -length(code - self.reference[nearest].to(code.dtype))

    def _nearest(self, code: Tensor) -> Tensor:
        """Which reference is nearest to each code: (N,). By a product of matrices, and among those that its rounding does not
        tell from the best, near duplicates, by the distances themselves."""
        code = wide(code)
        centre, centred, halves = (v.to(code.dtype) for v in (self.centre, self.centred, self.halves))
        code = code - centre
        half = halves - code @ centred.T  # (N, M), half of the squared distance, less half of the code's square
        eps, size = torch.finfo(code.dtype).eps, code.square().sum(dim=1) + 2 * halves.amax()
        close = half <= (half.amin(dim=1) + 4 * eps * math.sqrt(code.shape[1]) * size)[:, None]
        sample, other = close.nonzero(as_tuple=True)
        squares = [
            (code[s].double() - centred[o].double()).square().sum(dim=1)
            for s, o in zip(*(index.split(max(1, PAIRS // code.shape[1])) for index in (sample, other)), strict=True)
        ]
        distance = torch.full(half.shape, torch.inf, dtype=torch.float64, device=half.device)
        distance[sample, other] = torch.cat(squares)
        return distance.argmin(dim=1)

    def _encode(self, x: Tensor) -> Tensor:
        return (x if self.network is None else call(self.network, x)).flatten(1)


class TotalVariation(Detector):
    """score = −mean absolute difference of neighbouring pixels, both ways: how smooth an image is; encode = the same, (N, 1).

    raises ValueError for what is no image (N, C, H, W) of at least two pixels
    """

    def _score(self, x: Tensor) -> Tensor:
        check_images("x", x)
        if x.shape[2] * x.shape[3] < 2:
            raise ValueError(f"images (N, C, H, W) of two pixels or more are wanted, not {tuple(x.shape)}")
        down, across = (x.diff(dim=dim).abs().flatten(1) for dim in (2, 3))
        return -torch.cat([down, across], dim=1).mean(dim=1)

    def _encode(self, x: Tensor) -> Tensor:
        return self._score(x)[:, None]
