"""Detectors by a density of images (N, C, H, W) in [0, 1]: a flow's, or those of the mixtures that hold a classifier back."""

import io

import torch
from PIL import Image

from helpers.detectors.outputs import Detector, MaxSoftmax
from helpers.glow import Glow
from helpers.inputs import check_module, check_pixels
from helpers.mixtures import CCU

Tensor = torch.Tensor
SURE = 30.0  # nats by which the data are likelier than the rest: all but 1e-13 of CCU is then the classifier


def png_bits(x: Tensor) -> Tensor:
    """The complexity L of images x (N, C, H, W) in [0, 1], C 1 or 3: bits of the PNG file per dimension C·H·W, (N,).

    Rounded to 8 bits and compressed as far as PNG does (Serrà et al. 2020); one by one, as a compressor takes one image.
    No gradient goes through. raises ValueError for what is no such image, NaN included
    """
    check_pixels("x", x, least=0)
    if x.shape[1] not in (1, 3):
        raise ValueError(f"images (N, 1 or 3, H, W) are wanted, as PNG has them, not {tuple(x.shape)}")
    pixels = (255 * x.detach()).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    lengths = [_png_bytes(image[..., 0] if x.shape[1] == 1 else image) for image in pixels]
    return 8 * torch.tensor(lengths, dtype=x.dtype, device=x.device) / x[:1].numel() if lengths else x.new_zeros(0)


def _png_bytes(pixels) -> int:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.tell()


class Likelihood(Detector):
    """The log-likelihood in bits per dimension, −NLL, is the score and the code (Liang et al. 2020, §2.3)."""

    def __init__(self, flow: Glow):
        super().__init__()
        check_module("flow", flow, Glow)
        self.flow = flow

    def _score(self, x: Tensor) -> Tensor:
        return -self.flow.bits(x)

    def _encode(self, x: Tensor) -> Tensor:
        return self._score(x)[:, None]


class LikelihoodComplexity(Likelihood):
    """−S of the OOD score S = NLL − L, both in bits per dimension (Serrà et al. 2020): low for an image that is less
    likely than it is simple. L is `png_bits`.

    L is computed anew in each call, and is a constant to the gradient, which goes through the likelihood alone
    """

    def _score(self, x: Tensor) -> Tensor:
        return png_bits(x) - self.flow.bits(x)


class Certain(Detector):
    """How sure CCU is (Meinke & Hein 2020; `mixtures.CCU`): score = max over y of log p(y|x); encode = the classifier's logits,
    of which the score is no function.

    aim = the log ratio of the two mixtures' densities, up to where the classifier alone decides, which is 0, plus the aim of the
    classifier as `MaxSoftmax`; in float64. Far from the data the score is −log K, but for what rounding takes: it has no gradient
    that an attack could follow, while the ratio says how far there is to go
    """

    def __init__(self, ccu: CCU):
        super().__init__()
        check_module("ccu", ccu, CCU)
        self.ccu = ccu

    def _score(self, x: Tensor) -> Tensor:
        return self.ccu.score(x)

    def _encode(self, x: Tensor) -> Tensor:
        return self.ccu.encode(x)

    def _aim(self, x: Tensor) -> Tensor:
        return (self.ccu.log_ratio(x) - SURE).clamp(max=0) + MaxSoftmax(self.ccu.classifier).aim(x)
