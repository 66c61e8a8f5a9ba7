"""A classifier that learns to be uncertain beside a GAN that draws images at the border of the data (Lee et al. 2018a,
Training confidence-calibrated classifiers for detecting out-of-distribution samples)."""

import math
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from helpers import gan as game
from helpers.checkpoints import Checkpoint
from helpers.data import Split
from helpers.gan import GAN
from helpers.inputs import check_labels, check_module
from helpers.losses import uniform_cross_entropy

Tensor = torch.Tensor


def uniform_divergence(logits: Tensor) -> Tensor:
    """KL(U ‖ p) in nats of the softmax p of logits (N, K), per sample: (N,), at least 0. raises ValueError for another shape"""
    return uniform_cross_entropy(logits) - math.log(logits.shape[1])


def fit_calibrated(
    classifier: nn.Module,
    gan: GAN,
    data: Split,
    *,
    epochs: int,
    lr: float = 2e-4,
    beta: float = 1.0,
    batch_size: int = 128,
    seed: int,
    checkpoint: str | Path | Checkpoint | None = None,
) -> list[dict]:
    """Train all three by turns, a step of Adam each per batch, at a rate that falls linearly to 0; returns one dict per epoch.

    With U the uniform distribution over the classes (Lee et al. 2018a, eq. 4, as in their code), in this order:
    discriminator   −log D(x) − log(1 − D(G(z)))
    generator       −log D(G(z)) + beta · KL(U ‖ p(y|G(z))), so that it draws where the classifier is uncertain
    classifier      −log p(y|x) + beta · KL(U ‖ p(y|G(z))), at new draws of the generator

    classifier : images -> logits (N, K), trained in place, left in training mode as the GAN is
    gan : `GAN(shape, 1)`: of one class, which is to say without any
    beta : theirs is 0.1 for CIFAR-10 and 1 for SVHN. They train for 100 epochs, the rate a tenth after 60
    seed : decides the order of the batches and the latents; torch's global generator, which draws those, is seeded too
    checkpoint : as in `training.fit`: a file that is continued from if it is there, and of this training
    returns per epoch {"loss": of the classifier, "divergence": KL(U ‖ p(y|G(z))) in it, "discriminator", "generator": their
        losses, all means over the samples, "seconds"}
    raises ValueError for a GAN with classes, empty data, data of another shape, labels that the classifier does not have, or
        settings out of range, FloatingPointError if a loss is no longer finite, RuntimeError at the start if the checkpoint's
        folder cannot be written
    """
    check_module("classifier", classifier)
    check_module("gan", gan, GAN)
    if gan.generator.classes != 1:
        raise ValueError(f"a GAN without classes is wanted, GAN(shape, 1), not one of {gan.generator.classes}")
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta must be finite and at least 0, not {beta}")
    game.check_data(gan, data, len(data.classes))
    players = {
        "discriminator": (gan.discriminator, game.ADAM),
        "generator": (gan.generator, game.ADAM),
        "classifier": (classifier, {}),
    }
    losses = ("loss", "divergence", "discriminator", "generator")
    all_three = nn.ModuleDict({"classifier": classifier, "gan": gan})
    return game.by_turns(all_three, data, partial(_step, beta=beta), players, losses, epochs, lr, batch_size, seed, checkpoint)


def _step(networks: nn.ModuleDict, x: Tensor, y: Tensor, parts: dict, *, beta: float) -> Tensor:
    """A step of each; returns the classifier's loss, the divergence in it, and the losses of the other two: (4,)."""
    classifier, gan = networks["classifier"], networks["gan"]
    one = torch.zeros_like(y)
    others = game._step(gan, x, one, parts, lambda fake: beta * uniform_divergence(classifier(fake)).mean())
    with torch.no_grad():
        fake = gan.generator(torch.randn(len(y), gan.generator.latent, device=x.device), one)
    logits = classifier(x)
    check_labels(logits, y)
    divergence = uniform_divergence(classifier(fake)).mean()
    loss = cross_entropy(logits, y) + beta * divergence
    game.descend(loss, parts, "classifier")
    return torch.stack([loss.detach(), divergence.detach(), *others])
