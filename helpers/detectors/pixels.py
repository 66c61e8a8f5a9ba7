"""Detectors that need no classifier: they compare the image itself, or a code of it, with the training images."""

from collections.abc import Callable

import torch
from torch import nn

from helpers.detectors.outputs import Detector
from helpers.metrics import eval_mode, in_batches
from helpers.norms import length
from helpers.purifiers import ConvAutoencoder

Tensor = torch.Tensor


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
        if reference.ndim < 2 or not reference.is_floating_point() or reference.numel() == 0 or not reference.isfinite().all():
            raise ValueError(f"finite float references (M, ...) are wanted, not {reference.dtype} {tuple(reference.shape)}")
        self.network = network
        with torch.no_grad(), eval_mode(self):
            codes = in_batches(self._encode, reference.detach())
            centre = codes.mean(dim=0)
            centred = codes - centre
        # What the nearest one is found by, kept: else all references are gone over again for every batch
        kept = {"reference": codes, "centre": centre, "centred": centred, "halves": centred.square().sum(dim=1) / 2}
        for name, values in kept.items():
            self.register_buffer(name, values)

    def _score(self, x: Tensor) -> Tensor:
        code = self._encode(x)
        if code.shape[1] != len(self.centre):
            raise ValueError(f"samples of {len(self.centre)} values are wanted, as the references, not {code.shape[1]}")
        with torch.no_grad():  # which one is nearest comes by a product of matrices, its distance then without cancellation
            centre, centred, halves = (v.to(code.dtype) for v in (self.centre, self.centred, self.halves))
            nearest = (halves - (code - centre) @ centred.T).argmin(dim=1)
        return -length(code - self.reference[nearest].to(code.dtype))

    def _encode(self, x: Tensor) -> Tensor:
        return (x if self.network is None else self.network(x)).flatten(1)


class TotalVariation(Detector):
    """score = −mean absolute difference of neighbouring pixels, both ways: how smooth an image is; encode = the same, (N, 1).

    raises ValueError for what is no image (N, C, H, W) of at least two pixels
    """

    def _score(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[2] * x.shape[3] < 2:
            raise ValueError(f"images (N, C, H, W) of two pixels or more are wanted, not {tuple(x.shape)}")
        down, across = (x.diff(dim=dim).abs().flatten(1) for dim in (2, 3))
        return -torch.cat([down, across], dim=1).mean(dim=1)

    def _encode(self, x: Tensor) -> Tensor:
        return self._score(x)[:, None]
