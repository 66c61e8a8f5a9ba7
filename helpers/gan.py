"""A conditional generative adversarial network (Goodfellow et al. 2014; Mirza & Osindero 2014) of the convolutional kind
(Radford et al. 2016): a generator that draws images of a wanted class, and the discriminator that it learns against."""

import math
import numbers
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import one_hot, softplus
from torch.nn.utils.parametrizations import spectral_norm

from helpers import training
from helpers.checkpoints import Checkpoint, account, restore, store
from helpers.data import Split
from helpers.inputs import check_classes, check_generator, check_label_shape, check_module, check_number, check_real, check_whole
from helpers.metrics import eval_mode, in_batches

Tensor = torch.Tensor
Shape = tuple[int, int, int]
ADAM = {"betas": (0.5, 0.999)}  # Radford et al. 2016


class Generator(nn.Module):
    """Latents z (N, latent) and classes y (N,) int64 -> images (N, C, H, W) in [0, 1] (Radford et al. 2016, with the class beside
    z): a layer to 2 · width maps of a quarter of the side, two 4×4 transposed convolutions of stride 2, a sigmoid.

    shape : C, H, W of an image, H and W divisible by 4
    raises ValueError for another shape, or sizes below 1
    """

    def __init__(self, shape: Shape, classes: int, *, latent: int = 64, width: int = 32):
        super().__init__()
        _check(shape, classes, latent, width)
        self.classes, self.latent = classes, latent
        start = (2 * width, shape[1] // 4, shape[2] // 4)
        self.layers = nn.Sequential(
            *(nn.Linear(latent + classes, math.prod(start), bias=False), nn.Unflatten(1, start)),
            *(nn.BatchNorm2d(2 * width), nn.ReLU()),
            *(nn.ConvTranspose2d(2 * width, width, 4, 2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.ConvTranspose2d(width, shape[0], 4, 2, padding=1), nn.Sigmoid()),
        ).to(memory_format=torch.channels_last)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.layers(torch.cat([z, one_hot(y, self.classes).to(z.dtype)], dim=1))


class Discriminator(nn.Module):
    """Images x (N, C, H, W) in [0, 1] and classes y (N,) int64 -> logits (N,) of "x is a real image of class y" (Radford et al.
    2016): two 4×4 convolutions of stride 2, then a layer that all classes share plus one of the class (the projection of Miyato
    & Koyama 2018, who also normalise by the spectral norm: else this network wins before the other learns).

    shape : C, H, W of an image, H and W divisible by 4
    raises ValueError for another shape, or sizes below 1
    """

    def __init__(self, shape: Shape, classes: int, *, width: int = 32):
        super().__init__()
        _check(shape, classes, width)
        self.shape, self.classes = tuple(shape), classes
        self.layers = nn.Sequential(
            *(spectral_norm(nn.Conv2d(shape[0], width, 4, 2, padding=1)), nn.LeakyReLU(0.2)),
            *(spectral_norm(nn.Conv2d(width, 2 * width, 4, 2, padding=1)), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2)),
            nn.Flatten(),
        ).to(memory_format=torch.channels_last)
        features = 2 * width * (shape[1] // 4) * (shape[2] // 4)
        self.shared, self.own = spectral_norm(nn.Linear(features, 1)), spectral_norm(nn.Linear(features, classes))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        features = self.layers(2 * x - 1)
        return (self.shared(features) + self.own(features).gather(1, y[:, None]))[:, 0]


def _check(shape: Shape, *sizes: int) -> None:
    whole = all(isinstance(n, numbers.Integral) for n in (*shape, *sizes))
    if len(shape) != 3 or not whole or min(*shape, *sizes) < 1 or shape[1] % 4 or shape[2] % 4:
        wanted = "a shape of channels, height and width, the last two divisible by 4, and sizes of at least 1"
        raise ValueError(f"{wanted} are wanted, not {tuple(shape)} and {', '.join(map(str, sizes))}")


class GAN(nn.Module):
    """A generator and its discriminator, as one module to train and to store. One class is an ordinary GAN, without classes: y is
    all zeros. raises ValueError as they do"""

    def __init__(self, shape: Shape, classes: int, *, latent: int = 64, width: int = 32):
        super().__init__()
        self.generator = Generator(shape, classes, latent=latent, width=width)
        self.discriminator = Discriminator(shape, classes, width=width)

    @torch.no_grad()
    def sample(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """New images (N, C, H, W) in [0, 1] of the classes y (N,) int64, drawn in evaluation mode, without gradients.

        generator : decides the latents, which the CPU draws, so that they are the same on every device; None: torch's global one
        """
        check_label_shape("y", y, len(y) if torch.is_tensor(y) and y.ndim else 0)
        check_classes(y, self.generator.classes)
        check_generator(generator)
        z = torch.randn(len(y), self.generator.latent, generator=generator).to(y.device)
        with eval_mode(self):
            return in_batches(self.generator, z, y)


def fit_gan(
    gan: GAN,
    data: Split,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
    checkpoint: str | Path | Checkpoint | None = None,
) -> list[dict]:
    """Train both by turns, a step of Adam each per batch, at a rate that falls linearly to 0; returns one dict per epoch.

    The discriminator minimises −log D(x) − log(1 − D(G(z))). Of the generator's two losses (Goodfellow et al. 2014, §3) this is
    −log D(G(z)), which does not saturate while the discriminator is far ahead.

    gan : trained in place, left in training mode
    seed : decides the order of the batches and the latents; torch's global generator, which draws those, is seeded too
    checkpoint : as in `training.fit`: a file that is continued from if it is there, and of this training
    returns per epoch {"loss": of the discriminator, "generator": its loss, both means over the samples, "seconds"}
    raises ValueError for empty data, data of another shape or with more classes, or settings out of range, FloatingPointError if
        a loss is no longer finite, RuntimeError at the start if the checkpoint's folder cannot be written
    """
    check_module("gan", gan, GAN)
    check_data(gan, data, gan.discriminator.classes)
    players = {"discriminator": (gan.discriminator, ADAM), "generator": (gan.generator, ADAM)}
    return by_turns(gan, data, _step, players, ("loss", "generator"), epochs, lr, batch_size, seed, checkpoint)


def check_data(gan: GAN, data: Split, classes: int) -> None:
    """Raise ValueError unless the data are images of the GAN's shape, at least one, with labels below `classes`."""
    if len(data) == 0:
        raise ValueError(f"{data.name} is empty: there is nothing to train on")
    training.check_data(data)
    wanted = gan.discriminator.shape
    if data.images.shape[1:] != wanted or not 0 <= data.labels.min() <= data.labels.max() < classes:
        raise ValueError(f"{data.name} must hold images {wanted} of classes below {classes}, not {tuple(data.images.shape[1:])} "
                         f"of {data.labels.min()} to {data.labels.max()}")  # fmt: skip


def by_turns(
    model: nn.Module,
    data: Split,
    step: Callable[[nn.Module, Tensor, Tensor, dict], Tensor],
    players: dict[str, tuple[nn.Module, dict]],
    losses: tuple[str, ...],
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
    checkpoint: str | Path | Checkpoint | None,
) -> list[dict]:
    """The loop of `fit_gan`, for networks in `model` that take a step each per batch; returns one dict per epoch.

    step : (model, x, y, parts) -> the values of `losses` on that batch; it calls `descend` for each player
    players : name -> a part of the model and the other options of its Adam
    """
    check_number("seed", seed, whole=True)
    check_real("lr", lr)
    check_whole("epochs", epochs)
    check_whole("batch_size", batch_size)
    if None in (epochs, batch_size, lr) or epochs < 1 or batch_size < 1 or not 0 < lr < math.inf:
        raise ValueError(f"epochs and batch_size must be at least 1 and lr finite and above 0, not {epochs}, {batch_size}, {lr}")
    checkpoint, device = Checkpoint.of(checkpoint), data.images.device
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    total = epochs * -(-len(data) // batch_size)
    optimisers = {name: torch.optim.Adam(part.parameters(), lr=lr, **options) for name, (part, options) in players.items()}
    settings = {"seed": seed, "epochs": epochs, "lr": lr, "batch_size": batch_size, "step": step}
    about = {} if checkpoint is None else account(model, *data.xy, optimisers, **settings)
    parts: dict = {"model": model}
    for name, optimiser in optimisers.items():
        rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: training.linear(min(step, total - 1) / total))
        parts |= {name: optimiser, f"{name}_rate": rate}
    history = restore(checkpoint, about, parts, order)
    saved = time.monotonic()
    for epoch in range(len(history), epochs):
        model.train()
        started = time.monotonic()
        running = torch.zeros(len(losses), device=device, dtype=torch.float64)
        for index in torch.randperm(len(data), generator=order).to(device).split(batch_size):
            running += step(model, data.images[index], data.labels[index], parts) * len(index)
        means = (running / len(data)).tolist()
        if not all(map(math.isfinite, means)):
            raise FloatingPointError(f"the losses became {means} in epoch {epoch + 1}: lower the learning rate ({lr})")
        history.append(dict(zip(losses, means, strict=True)) | {"seconds": round(time.monotonic() - started, 3)})
        if checkpoint is not None and epoch + 1 < epochs and time.monotonic() - saved >= training.CHECKPOINT_SECONDS:
            store(checkpoint, about, parts, order, history)
            saved = time.monotonic()
    return history


def descend(loss: Tensor, parts: dict, name: str) -> None:
    """A step of one player's optimiser, and of its rate, down the gradient of the loss at its own weights alone."""
    optimiser = parts[name]
    optimiser.zero_grad(set_to_none=True)
    loss.backward(inputs=[w for group in optimiser.param_groups for w in group["params"] if w.requires_grad])
    optimiser.step()
    parts[f"{name}_rate"].step()


def _step(gan: GAN, x: Tensor, y: Tensor, parts: dict, penalty: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """A step of each; returns the discriminator's loss and the generator's: (2,).

    penalty : of the images that the generator draws, a scalar that its loss receives beside
    """
    fake = gan.generator(torch.randn(len(y), gan.generator.latent, device=x.device), y)
    # softplus(−l) = −log D and softplus(l) = −log(1 − D) of the logit l
    first = (softplus(-gan.discriminator(x, y)) + softplus(gan.discriminator(fake.detach(), y))).mean()
    descend(first, parts, "discriminator")
    second = softplus(-gan.discriminator(fake, y)).mean()
    if penalty is not None:
        second = second + penalty(fake)
    descend(second, parts, "generator")
    return torch.stack([first.detach(), second.detach()])
