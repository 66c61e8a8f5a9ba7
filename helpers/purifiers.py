"""Purifiers: images -> images, put before a network that stays as it is: `nn.Sequential(purifier, model)` is a model.

Images are (N, C, H, W), float in [0, 1]. All but `jpeg` are differentiable, so that an attack can go through them.
"""

import functools
import io
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from helpers.inputs import (
    check_callable,
    check_finite,
    check_floats,
    check_generator,
    check_images,
    check_logit_shape,
    check_no_bytes,
    check_number,
    told,
)

Tensor = torch.Tensor
Shape = tuple[int, int, int]
BLOCK = 1 << 25  # values in float64 at once while a PCA is fitted: 256 MiB
SLOPE = 0.1  # of the autoencoder's hidden units below zero


def _values(shape: Shape, units: int) -> int:
    """The number of values in an image of this shape; raises ValueError for what is no shape, or no bottleneck in it."""
    check_number("units", units, whole=True)
    whole = isinstance(shape, tuple | list) and len(shape) == 3 and all(isinstance(n, int) for n in shape)
    if not whole or min(shape) < 1 or not 1 <= units <= math.prod(shape):
        raise ValueError(f"a shape (C, H, W) and units from 1 to C·H·W are wanted, not {shape} and {units}")
    return math.prod(shape)


def _check(x: Tensor, shape: Shape) -> Tensor:
    """x, float images of the shape; looks at no value."""
    check_images("x", x, shape=shape, least=0)
    return x


class PCA(nn.Module):
    """Projects an image on principal components and back (Liang, Hayes & Althoff 2017, sections 2 and 4), clamped to [0, 1].

    Use `PCA.fit`; the constructor makes room for a fitted state: `mean` (C·H·W,), orthonormal rows `components` (units, C·H·W)
    """

    def __init__(self, shape: Shape, units: int):
        super().__init__()
        values = _values(shape, units)
        self.shape = tuple(shape)
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("components", torch.zeros(units, values))

    @classmethod
    def fit(cls, images: Tensor, share: float = 0.99) -> "PCA":
        """The fewest components that hold at least `share` of the variance of images (N, C, H, W), of their type and device.

        With fewer images than values in one, the eigenvectors come by equation (1): Φ = UᵀΦ' from UUᵀΦ' = Φ'Λ. The paper leaves
        out that the columns of Φ must then be divided by √Λ to have length 1. Decomposed in float64.
        raises ValueError for fewer than two images, equal images, a share outside (0, 1], and what is no finite float
        """
        check_images("images", images, least=2)
        check_no_bytes("images", images)
        check_number("share", share)
        if not 0 < share <= 1:
            raise ValueError(f"share must lie in (0, 1], not {share}")
        rows = images.detach().flatten(1)
        number, values = rows.shape
        mean = torch.cat([block.sum(dim=0, dtype=torch.float64) / number for block in rows.split(_width(number), dim=1)])
        if not mean.isfinite().all():
            raise ValueError("images must be finite")
        if (rows[1:] == rows[0]).all():
            raise ValueError("the images are all equal: they have no principal components")
        few = number < values
        scatter = torch.zeros((min(number, values),) * 2, dtype=torch.float64, device=images.device)
        for block in _centred_columns(rows, mean) if few else _centred_rows(rows, mean):
            scatter += block @ block.T if few else block.T @ block
        variance, vectors = (t.flip(-1) for t in torch.linalg.eigh(scatter))
        # An eigenvalue that is zero but for rounding has no direction of its own
        variance = variance[variance > variance[0] * max(number, values) * torch.finfo(torch.float64).eps]
        held = variance.cumsum(dim=0)
        units = int((held < share * held[-1]).sum()) + 1
        vectors = vectors[:, :units]
        pca = cls(tuple(images.shape[1:]), units).to(images)
        pca.mean.copy_(mean)
        if few:
            width = _width(number)
            for place, block in zip(pca.components.split(width, dim=1), _centred_columns(rows, mean), strict=True):
                place.copy_((vectors / variance[:units].sqrt()).T @ block)
        else:
            pca.components.copy_(vectors.T)
        return pca

    def forward(self, x: Tensor) -> Tensor:
        code = (_check(x, self.shape).flatten(1) - self.mean) @ self.components.T
        return (self.mean + code @ self.components).view_as(x).clamp(0, 1)


def _width(others: int) -> int:
    return max(1, BLOCK // others)


def _centred_columns(rows: Tensor, mean: Tensor):
    width = _width(len(rows))
    for block, centre in zip(rows.split(width, dim=1), mean.split(width), strict=True):
        yield block.double() - centre


def _centred_rows(rows: Tensor, mean: Tensor):
    for block in rows.split(_width(rows.shape[1])):
        yield block.double() - mean


class Autoencoder(nn.Module):
    """One hidden layer whose weights the decoder has too, "but reversed" (Liang et al. 2017, section 2):
    c + Wᵀ (f(W (x − c) + b) − f(b)), trained by `reconstruction`.

    Guesses, as the paper gives no more than the number of units: f is a leaky ReLU, for codes as large as need be;
    f(b) keeps the image c as it is; b starts at 2, where f is linear for most codes, W as random rows of length near 1, c at 0.5.
    The output is linear, clamped to [0, 1] in evaluation mode alone: a clamped pixel has no gradient to learn from
    """

    def __init__(self, shape: Shape, units: int):
        super().__init__()
        values = _values(shape, units)
        self.shape = tuple(shape)
        self.weight = nn.Parameter(torch.randn(units, values) / math.sqrt(values))
        self.hidden = nn.Parameter(torch.full((units,), 2.0))
        self.centre = nn.Parameter(torch.full((values,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        codes = F.linear(_check(x, self.shape).flatten(1) - self.centre, self.weight, self.hidden)
        codes = F.leaky_relu(codes, SLOPE) - F.leaky_relu(self.hidden, SLOPE)
        out = (self.centre + codes @ self.weight).view_as(x)
        return out if self.training else out.clamp(0, 1)


class ConvAutoencoder(nn.Module):
    """4×4 convolutions of stride 2 to a code of about `units` values, transposed ones back (Liang et al. 2017, figure 1).

    Guesses: the sides are halved while they are even and at least 14, channels double from `width` on, ReLU between the layers,
    output as of `Autoencoder`. `codes`: (channels, height, width) of the code, channels = units / positions rounded, at least 1
    """

    def __init__(self, shape: Shape, units: int, *, width: int = 16):
        super().__init__()
        _values(shape, units)
        check_number("width", width, 1, whole=True)
        self.shape = tuple(shape)
        channels, sides, widths = shape[0], tuple(shape[1:]), []
        while min(sides) >= 14 and all(side % 2 == 0 for side in sides):
            sides = tuple(side // 2 for side in sides)
            widths.append(width << len(widths))
        if not widths:
            raise ValueError(f"height and width must be even and at least 14, not {tuple(shape[1:])}")
        self.codes = (max(1, round(units / math.prod(sides))), *sides)
        widths = [channels, *widths[:-1], self.codes[0]]
        down, up = [], []
        for wide, narrow in zip(widths, widths[1:], strict=False):
            down += [nn.Conv2d(wide, narrow, 4, stride=2, padding=1), nn.ReLU()]
            up = [nn.ReLU(), nn.ConvTranspose2d(narrow, wide, 4, stride=2, padding=1), *up]
        self.encoder, self.decoder = nn.Sequential(*down[:-1]), nn.Sequential(*up[1:])  # the code itself is linear

    def encode(self, x: Tensor) -> Tensor:
        """The codes (N, *codes) of images (N, C, H, W). raises ValueError for another shape"""
        return self.encoder(_check(x, self.shape) - 0.5)

    def unclamped(self, x: Tensor) -> Tensor:
        """The output before it is clamped to [0, 1], like x: with a gradient for every pixel. raises ValueError as `encode`"""
        return 0.5 + self.decoder(self.encode(x))

    def forward(self, x: Tensor) -> Tensor:
        out = self.unclamped(x)
        return out if self.training else out.clamp(0, 1)


def reconstruction(purifier: Callable[[Tensor], Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
    """Mean squared error per value of the purified images, a scalar: the objective to train an autoencoder by. y is ignored."""
    check_floats("x", x, dims=2)
    purified = purifier(x)
    if not torch.is_tensor(purified) or purified.shape != x.shape:
        raise ValueError(f"the purifier must return images as it is given, {tuple(x.shape)}, not {told(purified)}")
    return F.mse_loss(purified, x)


class UniformNoise(nn.Module):
    """x + U(−amount, amount), for each value its own draw, clamped to [0, 1] (Liang et al. 2017, section 4).

    amount : in units of pixels in [0, 1]
    generator : None for torch's global one. Each call draws anew, in evaluation mode too: the noise is the defence
    """

    def __init__(self, amount: float, generator: torch.Generator | None = None):
        super().__init__()
        check_number("amount", amount, 0)
        check_generator(generator)
        self.amount, self.generator = amount, generator

    def forward(self, x: Tensor) -> Tensor:
        check_floats("x", x, dims=2, least=0)
        device = x.device if self.generator is None else self.generator.device
        draw = torch.rand(x.shape, generator=self.generator, dtype=x.dtype, device=device).to(x.device)
        return (x + self.amount * (2 * draw - 1)).clamp(0, 1)


class DownSample(nn.Module):
    """To `share` of each side by bilinear interpolation with antialiasing, and back by bilinear (Liang et al. 2017, section 4).

    share : in (0, 1]; "50%" is taken as 0.5 of each side. Every value is a weighted mean of pixels, so that nothing is clamped
    """

    def __init__(self, share: float):
        super().__init__()
        check_number("share", share)
        if not 0 < share <= 1:
            raise ValueError(f"share must lie in (0, 1], not {share}")
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        check_images("x", x, least=0)
        height, width = (_down_and_up(side, self.share).to(x) for side in x.shape[2:])
        return height @ x @ width.T


@functools.cache
def _down_and_up(side: int, share: float) -> Tensor:
    """What it does to a column of pixels, as a matrix (side, side): two products with it cost an attack's backward pass a
    hundredth of what the antialiasing interpolation's own gradient does on a CPU."""
    small = max(1, round(share * side))
    columns = torch.eye(side, dtype=torch.float64)[None, None]
    down = F.interpolate(columns, (small, side), mode="bilinear", antialias=True)
    return F.interpolate(down, (side, side), mode="bilinear")[0, 0]


def jpeg(x: Tensor, quality: int = 95) -> Tensor:
    """The images after rounding to 8 bit and JPEG at this quality, 1 to 100: (N, 3, H, W) -> the same, without a gradient.

    What lies outside of [0, 1] is clamped first, as an attack's unclipped way there is. raises ValueError for another number of
    channels or quality, what is no finite float, and whole numbers up to 255
    """
    check_images("x", x, least=0)
    check_finite("x", x)
    check_no_bytes("x", x)
    if x.shape[1] != 3 or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise ValueError(f"images (N, 3, H, W) and a quality from 1 to 100 are wanted, not {tuple(x.shape)} and {quality}")
    decoded = np.empty((len(x), *x.shape[2:], 3), dtype=np.uint8)
    for i, pixels in enumerate((255 * x.detach().clamp(0, 1)).round().byte().permute(0, 2, 3, 1).cpu().numpy()):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        decoded[i] = Image.open(file)
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).to(x) / 255


class StraightThrough(nn.Module):
    """f(x), with the gradient of the identity: how an attack goes through an f that has none (Athalye et al. 2018, BPDA).

    raises ValueError unless f keeps the shape
    """

    def __init__(self, f: Callable[[Tensor], Tensor]):
        super().__init__()
        check_callable("f", f)
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            out = self.f(x)
        if not torch.is_tensor(out) or out.shape != x.shape:
            raise ValueError(f"f must keep the shape {tuple(x.shape)}, not return {told(out)}")
        return out + (x - x.detach())  # plus exactly zero


class Expectation(nn.Module):
    """log of the mean softmax over `draws` evaluations of a random model, (N, K) (Athalye et al. 2018, expectation over
    transformations). The draws of a batch are one batch of the model: images as they are, `draws` times."""

    def __init__(self, model: nn.Module, draws: int):
        super().__init__()
        check_number("draws", draws, 1, whole=True)
        check_callable("model", model)
        self.model, self.draws = model, draws

    def forward(self, x: Tensor) -> Tensor:
        check_floats("x", x, dims=2)
        logits = self.model(x.repeat(self.draws, *[1] * (x.ndim - 1)))
        check_logit_shape(logits, self.draws * len(x))
        return logits.log_softmax(dim=1).unflatten(0, (self.draws, len(x))).logsumexp(dim=0) - math.log(self.draws)
