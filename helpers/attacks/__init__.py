"""Attacks: `attack(model, x, y, *, eps, ...) -> x_adv`, pure functions of tensors that follow the device and dtype of `x`.

Shared by all of them:

model : any function of a batch that returns logits (N, K); an nn.Module is put in evaluation mode for the attack and back
x : (N, C, H, W) float images in [0, 1]; with `clip=False` any finite values, also (N, d) features of a layer
y : (N,) int64 true classes
eps : radius of the perturbation in units of x, per image
norm : what measures it: "l2" unless given, "linf" or "l1" (`helpers.norms`)
clip : whether the result is brought back to [0, 1]. Clipping never leaves the ball, since x lies inside the range.

Returned is a detached tensor like x. Parameters of the model receive no gradient. Every function raises ValueError for a
negative or non-finite eps, an empty batch, NaN or out-of-range pixels, labels that do not fit, and logits or gradients that
are not finite.
"""

from helpers.attacks.deepfool import deepfool
from helpers.attacks.iterated import apgd, minus_log_odds, pgd
from helpers.attacks.one_step import (
    adv_alpha,
    adv_logits,
    adv_loss,
    adv_loss_sign,
    fgsm,
    gradient,
    logit_jacobian,
    minimal_shift,
    random_noise,
    targeted_fgsm,
)
from helpers.attacks.ood import eight_bit, mape, ood_attack, squared_distance
from helpers.attacks.square import minus_margin, square
from helpers.attacks.suite import Outcome, Threat, worst_case
from helpers.attacks.universal import fooling_rate, targeted_gradient, universal, universal_gradient

__all__ = [
    "Outcome",
    "Threat",
    "adv_alpha",
    "adv_logits",
    "adv_loss",
    "adv_loss_sign",
    "apgd",
    "deepfool",
    "eight_bit",
    "fgsm",
    "fooling_rate",
    "gradient",
    "logit_jacobian",
    "mape",
    "minimal_shift",
    "minus_log_odds",
    "minus_margin",
    "ood_attack",
    "pgd",
    "random_noise",
    "square",
    "squared_distance",
    "targeted_fgsm",
    "targeted_gradient",
    "universal",
    "universal_gradient",
    "worst_case",
]
