"""A classifier as an energy-based model (JEM, Grathwohl et al. 2020): log p(x) = logsumexp of the logits, up to a constant. Its
samples by Langevin dynamics, and the objective that raises log p(x) on images and lowers it on samples."""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from helpers.inputs import (
    check_callable,
    check_generator,
    check_images,
    check_labels,
    check_logit_shape,
    check_module,
    check_no_bytes,
    check_number,
    check_real,
    check_shape,
)
from helpers.metrics import eval_mode
from helpers.passes import call, gradient_of, with_gradients

Tensor = torch.Tensor
STEP, NOISE, JITTER = 0.25, 0.005, 0.015  # JEM's 1, 0.01 and 0.03 of pixels in [−1, 1], in those of [0, 1]
LIMIT = (
    1e3  # the gap between log p(x) of images and of samples at which training is given up; it stays below 10 while all is well
)


@with_gradients
def sgld(
    network: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    steps: int,
    step_size: float = STEP,
    noise: float = NOISE,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Samples near p(x) ∝ Σ_k exp(logit_k) by stochastic gradient Langevin dynamics from `start` (N, C, H, W): the same shape.

    x ← x + step_size · ∂logsumexp/∂x + noise · N(0, 1), clamped to [0, 1], in evaluation mode (Grathwohl et al. 2020, §4, who do
    not clamp; Du & Mordatch 2019 do). Langevin dynamics proper wants noise² = 2 · step_size: with less it samples at a lower
    temperature, as theirs does. In their pixels, in [−1, 1], the defaults are 1 and 0.01: a gradient is half as large there and
    a distance twice as long
    generator : draws the noise; None: torch's global one
    raises ValueError for settings out of range, and a start with NaN or infinity
    """
    check_callable("network", network)
    check_generator(generator)
    check_number("steps", steps, whole=True)
    check_real("step_size", step_size)
    check_real("noise", noise)
    check_images("start", start, least=0)
    if steps < 0 or None in (step_size, noise) or not (0 < step_size < math.inf and 0 <= noise < math.inf):
        raise ValueError(
            f"steps and noise must be at least 0 and step_size above 0, all finite, not {steps}, {noise}, {step_size}"
        )
    if not start.isfinite().all():
        raise ValueError("start contains NaN or infinity: no chain leads on from it")
    check_no_bytes("start", start)
    x, device = start.detach(), start.device if generator is None else generator.device
    with eval_mode(network), torch.enable_grad():
        for _ in range(steps):
            x.requires_grad_()
            logits = call(network, x)
            check_logit_shape(logits, len(x))
            slope = gradient_of(logits.logsumexp(dim=1).sum(), x)
            draw = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)
            x = (x.detach() + step_size * slope + noise * draw).clamp(0, 1)
    return x


class Buffer(nn.Module):
    """A replay buffer: samples that the next steps go on from (Du & Mordatch 2019), at first uniform noise in [0, 1].

    A module whose `images` (size, C, H, W) are part of its state, so that a checkpoint holds them
    restart : share of the draws that begin at new noise instead, in [0, 1]; JEM: 0.05
    seed : of the first images. All later draws come from torch's global generator, which helpers.training seeds and stores
    raises ValueError for settings out of range
    """

    def __init__(self, shape: tuple[int, int, int], size: int, *, restart: float = 0.05, seed: int = 0):
        super().__init__()
        check_shape("shape", shape)
        check_number("size", size, whole=True)
        if size < 1 or not 0 <= restart <= 1:
            wanted = "a shape (C, H, W) and a size of at least 1 and a restart in [0, 1]"
            raise ValueError(f"{wanted} are wanted, not {tuple(shape)}, {size} and {restart}")
        self.restart = restart
        self.register_buffer("images", torch.rand(size, *shape, generator=torch.Generator().manual_seed(seed)))

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """n different samples (n, C, H, W) to start from, and their places (n,) int64. raises ValueError for more than all"""
        check_number("n", n, whole=True)
        if not 0 <= n <= len(self.images):
            raise ValueError(f"{n} samples are wanted of a buffer of {len(self.images)}: make it larger than a batch")
        device = self.images.device
        index = torch.randperm(len(self.images))[:n].to(device)
        x = self.images[index]
        anew = torch.rand(n, 1, 1, 1, device=device) < self.restart
        return torch.where(anew, torch.rand(x.shape, dtype=x.dtype, device=device), x), index

    def store(self, index: Tensor, x: Tensor) -> None:
        """Put samples (n, C, H, W) at the places (n,). raises ValueError for samples of another shape"""
        check_images("x", x, shape=tuple(self.images.shape[1:]))
        if index.shape != (len(x),) or index.dtype != torch.int64:
            raise ValueError(f"index must be {len(x)} int64 places, not {index.dtype} {tuple(index.shape)}")
        self.images[index] = x.detach().to(self.images)


class JEM(nn.Module):
    """A network and its replay buffer as one module to train with `jem_objective`; images -> the network's logits.

    helpers.training.fit(JEM(network, shape, size=1000), data, jem_objective(...), ...) trains the network in place, and its
    checkpoints hold the buffer, so that a resumed training is the uninterrupted one. Afterwards only the network is of use. One
    without batch normalisation is wanted: samples and images would share its statistics
    raises ValueError for a network with batch normalisation, and as `Buffer` does
    """

    def __init__(self, network: nn.Module, shape: tuple[int, int, int], *, size: int, restart: float = 0.05, seed: int = 0):
        super().__init__()
        check_module("network", network)
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules()):
            raise ValueError("JEM wants a network without batch normalisation, as helpers.models.cnn")
        self.network, self.buffer = network, Buffer(shape, size, restart=restart, seed=seed)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def jem_objective(
    *,
    steps: int,
    step_size: float = STEP,
    noise: float = NOISE,
    jitter: float = JITTER,
    weight: float = 1.0,
    share: float = 1.0,
    magnitude: float = 0.0,
) -> Callable[[JEM, Tensor, Tensor], Tensor]:
    """The objective −log p(y|x) − weight · log p(x) for helpers.training.fit of a `JEM` (Grathwohl et al. 2020, §4).

    The gradient of log p(x) is that of f(x) = logsumexp at images less that at samples, which `steps` of `sgld` bring forward
    from the buffer. The defaults are JEM's, with 20 steps, Adam at 1e-4, batches of 64 and 10,000 samples in the buffer. They
    are for a wide residual network and days of a GPU. models.cnn((16, 32, 64), 64) on 10,000 images of CIFAR-10 stays stable with
    steps=10, step_size=1, noise=0.01, jitter=0.03, weight=0.1, share=0.5, magnitude=0.3 and Adam at 1e-3, a buffer of 1,000

    jitter : standard deviation of the Gaussian noise on the images, in pixels of [0, 1]
    share : samples per image, in (0, 1]. Most of the time goes to them
    magnitude : of the penalty on f(x)², at images and samples (Du & Mordatch 2019): it keeps |f| below about 1/(2 · magnitude),
        where a small network without it raises f at images faster than the samples can follow, and diverges. JEM: 0
    the objective raises ValueError for a model that is no JEM, FloatingPointError where training diverges
    """
    numbers = {"jitter": jitter, "weight": weight, "magnitude": magnitude}
    if not all(0 <= number < math.inf for number in numbers.values()) or not 0 < share <= 1:
        raise ValueError(f"{', '.join(numbers)} must be finite and at least 0 and share in (0, 1], not {numbers} and {share}")

    def objective(model: JEM, x: Tensor, y: Tensor) -> Tensor:
        if not isinstance(model, JEM):
            raise ValueError("wrap the network: fit(JEM(network, shape, size=...), data, jem_objective(...), ...)")
        start, index = model.buffer.draw(math.ceil(share * len(x)))
        fake = sgld(model.network, start, steps=steps, step_size=step_size, noise=noise)
        model.buffer.store(index, fake)
        logits = model.network(torch.cat([x + jitter * torch.randn_like(x), fake.to(x)]))
        check_labels(logits[: len(x)], y)
        density = logits.logsumexp(dim=1)
        gap = density[: len(x)].mean() - density[len(x) :].mean()
        if not gap.detach().abs() < LIMIT:  # also of NaN
            advice = "lower the learning rate or the weight, or raise magnitude, steps or jitter"
            raise FloatingPointError(
                f"log p(x) of images and samples lie {gap.item():.3g} apart, the training diverges: {advice}"
            )
        large = density[: len(x)].square().mean() + density[len(x) :].square().mean()
        return cross_entropy(logits[: len(x)], y) + weight * (magnitude * large - gap)

    return objective
