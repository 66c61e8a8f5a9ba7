"""Glow, a normalising flow (Kingma & Dhariwal 2018): an invertible network that gives images an exact likelihood."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from helpers.inputs import (
    check_floats,
    check_generator,
    check_images,
    check_no_bytes,
    check_number,
    check_pixels,
    check_real,
    told,
)

Tensor = torch.Tensor
Shape = tuple[int, int, int]
LN_2PI = math.log(2 * math.pi)
LIMIT = 4.0  # of what a coupling or a prior says: without one, an image unlike any trained on overflows
LEAST_STD = 1e-3  # a quarter of an 8-bit pixel's cell: a channel that varies less is not stretched to variance 1


class ZeroConv(nn.Conv2d):
    """A 3×3 convolution that starts as zero, with a learned factor exp(3 s) of each channel (Kingma & Dhariwal 2018, §3.3 and
    their code), its output held within ±`LIMIT` by a tanh (not theirs)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 3, padding=1)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.log_factor = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        factor = (3 * self.log_factor).exp()
        raw = F.conv2d(x, self.weight * factor.view(-1, 1, 1, 1), self.bias * factor, padding=1)
        return LIMIT * torch.tanh(raw / LIMIT)


class Step(nn.Module):
    """One step of flow (§3): actnorm, an invertible 1×1 convolution, an affine coupling. (N, channels, H, W) -> maps alike."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.shift, self.log_scale = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))
        self.mix = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))
        self.net = nn.Sequential(
            *(nn.Conv2d(channels // 2, hidden, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(hidden, hidden, 1), nn.ReLU()),
            ZeroConv(hidden, channels),
        )

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Actnorm so that this batch comes out with mean 0 and variance 1 per channel (§3.1)."""
        std, mean = torch.std_mean(x, dim=(0, 2, 3), correction=0)
        self.shift.copy_(-mean)
        self.log_scale.copy_(-std.clamp_min(LEAST_STD).log())

    def _coupling(self, fixed: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = self.net(fixed).chunk(2, dim=1)
        return F.logsigmoid(raw + 2), shift  # scales below 1, near 1 at the start

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The new maps, and the log-determinant of each image: (N,)."""
        # Actnorm and the 1×1 convolution are linear in the channels: one convolution does both
        weight = self.mix * self.log_scale.exp()
        fixed, moved = F.conv2d(x, weight[:, :, None, None], weight @ self.shift).chunk(2, dim=1)
        log_scale, shift = self._coupling(fixed)
        pixel = self.log_scale.sum() + torch.linalg.slogdet(self.mix).logabsdet
        log_det = log_scale.sum(dim=(1, 2, 3)) + x.shape[2] * x.shape[3] * pixel
        return torch.cat([fixed, (moved + shift) * log_scale.exp()], dim=1), log_det

    def inverse(self, y: Tensor) -> Tensor:
        fixed, moved = y.chunk(2, dim=1)
        log_scale, shift = self._coupling(fixed)
        y = torch.cat([fixed, moved * (-log_scale).exp() - shift], dim=1)
        inverse = torch.linalg.inv(self.mix)
        scaled = F.conv2d(y, inverse[:, :, None, None])
        return scaled * (-self.log_scale).exp().view(-1, 1, 1) - self.shift.view(-1, 1, 1)


class Glow(nn.Module):
    """A multi-scale Glow: images (N, C, H, W) in [0, 1] <-> latents (N, C·H·W) that are standard normal for training images.

    Each level trades space for channels (2×2 pixels become 4 channels), takes `depth` steps, and lets half of the channels go
    as latents, whose mean and deviation a convolution tells from the other half. What the last level keeps has a mean and a
    deviation per value (the paper: per channel), a guess for images that are aligned, as faces are.

    shape : C, H, W, the last two divisible by 2^levels
    hidden : channels within a coupling
    bins : grey levels that a likelihood counts, a power of two up to 256: it is the probability of the cell of width 1/bins
        around a pixel. Of 256 an 8-bit image keeps its bits; Liang et al. 2020 train with 32, as their code's default is
    raises ValueError for another shape or settings out of range

    Random is only the initial 1×1 convolution, from torch's global generator. Call `initialise` before training.
    """

    def __init__(self, shape: Shape = (3, 64, 64), *, levels: int = 3, depth: int = 8, hidden: int = 64, bins: int = 32):
        super().__init__()
        if min(levels, depth, hidden) < 1:
            raise ValueError(f"levels, depth and hidden must be at least 1, not {levels}, {depth} and {hidden}")
        if len(shape) != 3 or min(shape) < 1 or shape[1] % 2**levels or shape[2] % 2**levels:
            raise ValueError(f"a shape (C, H, W) is wanted, H and W divisible by 2^{levels}, not {tuple(shape)}")
        if bins not in (2, 4, 8, 16, 32, 64, 128, 256):
            raise ValueError(f"bins must be a power of two from 2 to 256, not {bins}")
        self.shape, self.values, self.bins = tuple(shape), math.prod(shape), bins
        self.levels, self.priors = nn.ModuleList(), nn.ModuleList()
        channels = shape[0]
        for level in range(levels):
            channels = 4 * channels if level == 0 else 2 * channels
            self.levels.append(nn.ModuleList(Step(channels, hidden) for _ in range(depth)))
            if level + 1 < levels:
                self.priors.append(ZeroConv(channels // 2, channels))
        self.last = nn.Parameter(torch.zeros(2 * channels, shape[1] >> levels, shape[2] >> levels))
        self.to(memory_format=torch.channels_last)  # a third faster on a CPU

    def _prior(self, level: int, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of the latents that leave at this level."""
        return (self.last[None] if kept is None else self.priors[level](kept)).chunk(2, dim=1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (N, C·H·W) of images x (N, C, H, W) and ln |det dz/dx|: (N,).

        raises ValueError for another shape, NaN and infinity
        """
        return self._encode(x, initialise=False)

    def _encode(self, x: Tensor, initialise: bool) -> tuple[Tensor, Tensor]:
        check_images("x", x, shape=self.shape)
        if not x.isfinite().all():
            raise ValueError("the images contain NaN or infinity: they have neither latents nor a likelihood")
        x, log_det, latents = x - 0.5, x.new_zeros(len(x)), []
        for level, steps in enumerate(self.levels):
            x = F.pixel_unshuffle(x, 2)
            for step in steps:
                if initialise:
                    step.initialise(x)
                x, change = step(x)
                log_det = log_det + change
            kept, gone = (None, x) if level + 1 == len(self.levels) else x.chunk(2, dim=1)
            mean, log_std = self._prior(level, kept)
            latents.append(((gone - mean) * (-log_std).exp()).flatten(1))
            log_det = log_det - log_std.sum(dim=(1, 2, 3))
            x = kept
        return torch.cat(latents, dim=1), log_det

    def decode(self, z: Tensor) -> Tensor:
        """The images (N, C, H, W) of latents z (N, C·H·W), not clamped: the inverse of `encode`. raises ValueError"""
        if not torch.is_tensor(z) or not z.is_floating_point() or z.ndim != 2 or z.shape[1] != self.values:
            raise ValueError(f"latents (N, {self.values}) of floats are wanted, not {told(z)}")
        count = len(self.levels)
        sizes = [self.values >> level + 1 for level in range(count - 1)]
        parts = z.split([*sizes, self.values - sum(sizes)], dim=1)
        kept = None
        for level in reversed(range(count)):
            mean, log_std = self._prior(level, kept)
            gone = parts[level].view(len(z), *mean.shape[1:]) * log_std.exp() + mean
            x = gone if kept is None else torch.cat([kept, gone], dim=1)
            for step in reversed(self.levels[level]):
                x = step.inverse(x)
            kept = F.pixel_shuffle(x, 2)
        return kept + 0.5

    @torch.no_grad()
    def initialise(self, images: Tensor) -> "Glow":
        """Set actnorm by images (N, C, H, W) in [0, 1], at least two (§3.1), and return self. raises ValueError"""
        check_pixels("images", images, shape=self.shape, least=2)
        self._encode(images, initialise=True)
        return self

    def bits(self, x: Tensor) -> Tensor:
        """Negative log2-likelihood in bits per dimension, (N,), of images x (N, C, H, W) in [0, 1]; differentiable.

        −log2 p(x) / (C·H·W) + log2(bins), p the density at x itself. Training adds noise and this does not, so that it lies
        below `nll_objective`, and below 0 where the density is high. raises ValueError for another shape, NaN and infinity
        """
        z, log_det = self.encode(x)
        check_no_bytes("x", x.detach())
        nats = 0.5 * (z.square() + LN_2PI).sum(dim=1) - log_det
        return nats / (self.values * math.log(2)) + math.log2(self.bins)

    def forward(self, x: Tensor) -> Tensor:
        """log2-likelihood in bits per dimension: −`bits`."""
        return -self.bits(x)

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 0.7, generator: torch.Generator | None = None) -> Tensor:
        """New images (n, C, H, W) in [0, 1]. raises ValueError

        temperature : standard deviation of the latents; below 1 for likelier images (§6)
        generator : decides the latents, which the CPU draws, so that they are the same on every device; None: torch's global
        """
        check_number("n", n, whole=True)
        check_real("temperature", temperature)
        check_generator(generator)
        if n < 1 or temperature is None or not 0 <= temperature < math.inf:
            raise ValueError(f"n must be at least 1 and temperature finite and >= 0, not {n} and {temperature}")
        z = temperature * torch.randn(n, self.values, generator=generator)
        return self.decode(z.to(self.last)).clamp(0, 1)


def nll_objective(model: Glow, x: Tensor, y: Tensor | None = None) -> Tensor:
    """Mean bits per dimension of 8-bit images x (N, C, H, W) in [0, 1], for `training.fit`: quantised to the model's bins, then
    spread evenly over their cells (§2; a bound on the likelihood of the discrete image). y is not used.

    The noise comes from torch's global generator. raises ValueError as `Glow.bits`
    """
    check_floats("x", x, dims=4)
    check_no_bytes("x", x)
    cells = (255 * x).round().div(256 // model.bins, rounding_mode="floor")  # 8-bit pixel k lies in [k/256, (k + 1)/256]
    return -model((cells + torch.rand_like(x)) / model.bins).mean()
