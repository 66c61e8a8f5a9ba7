"""Is a defence masking its gradients? The checks of Athalye et al. 2018 and Carlini et al. 2019, measured and judged."""

import copy
from collections.abc import Callable
from functools import partial

import pandas as pd
import torch

from helpers.attacks import gradient, random_noise
from helpers.losses import dlr_loss
from helpers.metrics import accuracy, correct, in_batches
from helpers.norms import length, unit_l2

Tensor = torch.Tensor
Attack = Callable[..., Tensor]
UNBOUNDED = 50.0  # L2 radius at which an image of [0, 1] pixels can become any other


def alpha_y(logits: Tensor, y: Tensor) -> Tensor:
    """The softmax probability of class y, as the paper writes it: saturates in float32."""
    return logits.softmax(dim=1).gather(1, y[:, None]).squeeze(1)


def gradient_checks(
    model: torch.nn.Module,
    other: torch.nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    radii: list[float],
    one_step: Attack,
    iterated: Attack,
    generator: torch.Generator,
) -> dict[str, float]:
    """Accuracies and gradient statistics of one network that `judge_checks` reads.

    other : the network that transferred perturbations come from
    radii : for the curve of the iterated attack, beside eps itself
    one_step, iterated : attacks `(model, x, y, *, eps, clip)`; `iterated` also takes `loss`
    """

    def attacked(attack: Attack, source: torch.nn.Module = model, **options) -> Tensor:
        return in_batches(partial(attack, source, **{"eps": eps, "clip": False, **options}), x, y)

    result = {
        "clean": accuracy(model, x, y),
        "one step": accuracy(model, attacked(one_step), y),
        "PGD": accuracy(model, attacked(iterated), y),
        "PGD, DLR": accuracy(model, attacked(iterated, loss=dlr_loss), y),
        "PGD, inside [0, 1]": accuracy(model, attacked(iterated, clip=True), y),
    }
    for radius in radii:
        result[f"PGD, eps {radius:g}"] = accuracy(model, attacked(iterated, eps=radius), y)
    result["transfer"] = accuracy(model, attacked(one_step, other), y)
    result["random"] = accuracy(model, attacked(random_noise, generator=generator), y)
    result["rescored"] = correct(model, attacked(one_step), y, batch_size=37).double().mean().item()

    g32 = gradient(model, x, y, alpha_y)
    g64 = gradient(copy.deepcopy(model).double(), x.double(), y, alpha_y)
    for name, g in (("literal float32", g32), ("literal float64", g64)):
        result[name] = accuracy(model, x - eps * unit_l2(g).to(x.dtype), y)
    result["zero gradients"] = (length(g32) == 0).double().mean().item()
    result["signs agree"] = (g32.sign() == g64.sign()).double().mean().item()
    return result


def judge_checks(c: pd.Series, *, eps: float, radii: list[float], chance: float) -> list[tuple[str, bool, str]]:
    """(what a sound gradient does, whether it does, the figures) for the mean of a network's `gradient_checks`."""

    def f(*values: float) -> str:
        return " › ".join(f"{v:.3f}" for v in values)

    curve = [c["PGD"] if r == eps else c[f"PGD, eps {r:g}"] for r in sorted({*radii, eps} - {UNBOUNDED})]
    return [
        ("accuracy falls with ε", all(a >= b for a, b in zip(curve, curve[1:], strict=False)), f(*curve)),
        ("unbounded ε: at most chance", c[f"PGD, eps {UNBOUNDED:g}"] <= chance, f(c[f"PGD, eps {UNBOUNDED:g}"])),
        ("iterated beats one step", c["PGD"] <= c["one step"], f(c["one step"], c["PGD"])),
        ("white-box beats transfer", c["one step"] <= c["transfer"], f(c["transfer"], c["one step"])),
        ("any attack beats random noise", c["one step"] <= c["random"], f(c["random"], c["one step"])),
        ("DLR at most 2 points stronger", c["PGD"] - c["PGD, DLR"] <= 0.02, f(c["PGD"], c["PGD, DLR"])),
        ("PGD inside [0, 1] is weaker", c["PGD"] <= c["PGD, inside [0, 1]"], f(c["PGD, inside [0, 1]"], c["PGD"])),
        ("the batch size does not matter", abs(c["rescored"] - c["one step"]) < 1e-3, f(c["one step"], c["rescored"])),
        ("99 % of gradient signs: float32 as float64", c["signs agree"] >= 0.99, f"{c['signs agree']:.1%}"),
        (
            "literal gradient: float32 as strong as float64",
            c["literal float32"] - c["literal float64"] <= 0.01,
            f(c["literal float32"], c["literal float64"]),
        ),
    ]
