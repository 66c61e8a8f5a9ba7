"""Is a defence masking its gradients? The checks of Athalye et al. 2018 and Carlini et al. 2019, measured and judged."""

import copy
from collections.abc import Callable
from functools import partial

import pandas as pd
import torch

from helpers.attacks import gradient, minus_log_odds, random_noise, square
from helpers.inputs import check_labels, check_whole
from helpers.losses import dlr_loss, merge_reject
from helpers.metrics import in_batches, outcomes, predict
from helpers.norms import length, steepest

Tensor = torch.Tensor
Attack = Callable[..., Tensor]
BLIND = {"PGD transferred": "PGD beats PGD transferred", "Square": "PGD beats a search without gradients"}
CHANCE = 0.1  # of ten classes
SIGNS, LITERAL = "99 % of gradient signs: float32 as float64", "literal gradient: float32 as strong as float64"
INSIDE = "PGD inside [0, 1] is weaker"
OF_THE_LITERAL = (SIGNS, LITERAL, INSIDE)
UNBOUNDED = 50.0  # L2 radius at which an image of [0, 1] pixels can become any other; so it can at an L∞ radius of 1


def alpha_y(logits: Tensor, y: Tensor) -> Tensor:
    """The softmax probability of class y, whose gradient papers print: it saturates in float32."""
    check_labels(logits, y)
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
    norm: str = "l2",
    clip: bool = False,
    reject: int | None = None,
    queries: int = 500,
) -> dict[str, float]:
    """Accuracies and gradient statistics of one network that `judge_checks` reads.

    other : the network that transferred perturbations come from
    radii : for the curve of the iterated attack, beside eps itself
    one_step, iterated : attacks `(model, x, y, *, eps, clip)` in `norm`; `iterated` also takes `loss` and `stop`
    queries : of `attacks.square`, which sees no gradient
    clip : whether perturbed images are brought back to [0, 1]
    reject : the last class, if it stands for "none of them": an image that ends there is not misread and counts like a correct
        one, and every attack on `model`, which then takes `reject`, is told so
    """
    aware = {} if reject is None else {"reject": True}

    def attacked(attack: Attack, source: torch.nn.Module = model, **options) -> Tensor:
        knows = aware if source is model and attack is not random_noise else {}
        return in_batches(partial(attack, source, **{"eps": eps, "clip": clip, **knows, **options}), x, y)

    def kept(x_adv: Tensor, **options) -> float:
        return 1 - outcomes(model, x_adv, y, reject=reject, **options)["error"]

    result = {
        "clean": kept(x),
        "one step": kept(attacked(one_step)),
        "PGD": kept(attacked(iterated)),
        "PGD, DLR": kept(attacked(iterated, loss=dlr_loss)),
    }
    if not clip:
        result["PGD, inside [0, 1]"] = kept(attacked(iterated, clip=True))
    for radius in radii:
        result[f"PGD, eps {radius:g}"] = kept(attacked(iterated, eps=radius))
    result["transfer"] = kept(attacked(one_step, other))
    result["PGD transferred"] = kept(attacked(iterated, other, stop=False))
    result["Square"] = kept(attacked(square, queries=queries, norm=norm, generator=generator))
    result["random"] = kept(attacked(random_noise, norm=norm, generator=generator))
    result["rescored"] = kept(attacked(one_step), batch_size=37)

    def literal(logits: Tensor, y: Tensor) -> Tensor:
        return alpha_y(merge_reject(logits, y) if aware else logits, y)

    exact = copy.deepcopy(model).double()
    g32 = in_batches(partial(gradient, model, loss=literal), x, y)
    g64 = in_batches(partial(gradient, exact, loss=literal), x.double(), y)
    for name, g in (("literal float32", g32), ("literal float64", g64)):
        x_adv = x - eps * steepest(g, norm).to(x.dtype)
        result[name] = kept(x_adv.clamp(0, 1) if clip else x_adv)
    result["zero gradients"] = (length(g32) == 0).double().mean().item()
    result["signs agree"] = (g32.sign() == g64.sign()).double().mean().item()
    return result


def loss_along(
    model: torch.nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "l2",
    points: int = 21,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The mean loss on the way from x along its gradient, and along a random direction, for comparison.

    x : (N, ...) images, which are not brought back to [0, 1]; y : (N,) classes; eps : how far the way goes, in the norm
    returns `distance` (points,), and `gradient` and `random`, each the mean over images of minus the log odds of y, (points,)

    Where gradients are masked the loss does not rise along them, or less than along a random direction.
    """
    check_whole("points", points)
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    ways = {"gradient": gradient(model, x, y, minus_log_odds), "random": noise}
    distance = torch.linspace(0, eps, points, device=x.device, dtype=x.dtype)

    def loss(direction: Tensor, far: Tensor) -> Tensor:
        return minus_log_odds(predict(model, x + far * direction), y).mean()

    directions = {name: steepest(g, norm) for name, g in ways.items()}
    return {"distance": distance} | {k: torch.stack([loss(d, far) for far in distance]) for k, d in directions.items()}


def flags_of(c: pd.Series, *, eps: float, radii: list[float]) -> int:
    """How many of `judge_checks` say that the gradients which an attack follows are masked.

    What only tells of the literal gradient in float32, or of an attack inside [0, 1], is none of them: no suite follows these.
    """
    judged = judge_checks(c, eps=eps, radii=radii, chance=CHANCE, unbounded=max(radii))
    return sum(not sound for what, sound, _ in judged if what not in OF_THE_LITERAL)


def judge_checks(
    c: pd.Series, *, eps: float, radii: list[float], chance: float = CHANCE, unbounded: float = UNBOUNDED
) -> list[tuple[str, bool, str]]:
    """(what a sound gradient does, whether it does, the figures) for the mean of a network's `gradient_checks`.

    unbounded : the one of `radii` within which any image can be reached
    """

    def f(*values: float) -> str:
        return " › ".join(f"{v:.3f}" for v in values)

    inside = c.get("PGD, inside [0, 1]")  # measured only where the attacks are not clipped anyway
    curve = [c["PGD"] if r == eps else c[f"PGD, eps {r:g}"] for r in sorted({*radii, eps} - {unbounded})]
    return [
        ("accuracy falls with ε", all(a >= b for a, b in zip(curve, curve[1:], strict=False)), f(*curve)),
        ("unbounded ε: at most chance", c[f"PGD, eps {unbounded:g}"] <= chance, f(c[f"PGD, eps {unbounded:g}"])),
        ("iterated beats one step", c["PGD"] <= c["one step"], f(c["one step"], c["PGD"])),
        ("white-box beats transfer", c["one step"] <= c["transfer"], f(c["transfer"], c["one step"])),
        *[(what, c["PGD"] <= c[k], f(c[k], c["PGD"])) for k, what in BLIND.items() if k in c],
        ("any attack beats random noise", c["one step"] <= c["random"], f(c["random"], c["one step"])),
        ("DLR at most 2 points stronger", c["PGD"] - c["PGD, DLR"] <= 0.02, f(c["PGD"], c["PGD, DLR"])),
        *([(INSIDE, c["PGD"] <= inside, f(inside, c["PGD"]))] if inside is not None else []),
        ("the batch size does not matter", abs(c["rescored"] - c["one step"]) < 1e-3, f(c["one step"], c["rescored"])),
        (SIGNS, c["signs agree"] >= 0.99, f"{c['signs agree']:.1%}"),
        (
            LITERAL,
            c["literal float32"] - c["literal float64"] <= 0.01,
            f(c["literal float32"], c["literal float64"]),
        ),
    ]
