"""The book's worst case: a fixed set of attacks within a threat model, cheap ones first, each on the images that are left.

    threat = Threat(eps=0.1, norm="linf")
    outcome = worst_case(network, x, y, threat, twin=undefended, budget=400)
    outcome.right                                   # (N,) share of the draws at which the image is still read right
    outcome.table()                                 # attack, passes, accuracy after it

An image that one attack takes is lost for all. What papers prescribe is measured by their own attacks, not by these.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch

from helpers.attacks.iterated import apgd, check_search, pgd
from helpers.attacks.one_step import adv_loss, random_noise
from helpers.attacks.square import minus_margin, square
from helpers.inputs import check_callable, check_images, check_number, told
from helpers.losses import others
from helpers.metrics import eval_mode, in_batches, predict, right_and_rejected
from helpers.passes import with_gradients

Tensor = torch.Tensor
Model = Callable[[Tensor], Tensor]
TARGETS = 9  # nearest wrong classes that a search goes for one after the other, where the budget allows as many
DRAWS = 20  # answers of a model that answers at random


@dataclass(frozen=True)
class Threat:
    """What an adversary may do: move an image by eps in a norm, "l2" or "linf", inside [0, 1] or, with clip=False, anywhere.

    reject : whether the model's last class is a reject class. To be rejected is then no success of the adversary
    """

    eps: float
    norm: str = "l2"
    clip: bool = True
    reject: bool = False


@dataclass(frozen=True)
class Outcome:
    """What the attacks left.

    right : (N,) bool, whether an image under its worst attack is not misread; of a model that answers at random (N,) float64, the
        share of its answers
    taken : (N,) int64, the index among `attacks` of the one that counts; −1 where none does any harm
    attacks : their names in order, "clean" first
    accuracy : the mean of `right` after each
    passes : forward passes through networks that each took, an image of all N on average
    images : (N, ...) the worst images
    """

    right: Tensor
    taken: Tensor
    attacks: list[str]
    accuracy: list[float]
    passes: list[float]
    images: Tensor

    def table(self) -> pd.DataFrame:
        """One line an attack: its name, how many images it took, its passes, the accuracy after it."""
        took = torch.bincount(self.taken[self.taken >= 0], minlength=len(self.attacks)).tolist()
        return pd.DataFrame({"attack": self.attacks, "took": took, "passes": self.passes, "accuracy": self.accuracy})

    def metrics(self) -> dict:
        """For a row of an experiment: passes in all, and the accuracy after each attack."""
        after = {f"after {name}": value for name, value in zip(self.attacks, self.accuracy, strict=True)}
        return {"passes": sum(self.passes), **after}


class Counted:
    """Models that count together the images that they are given."""

    def __init__(self):
        self.images = 0

    def __call__(self, model: Model) -> Model:
        def counting(x: Tensor) -> Tensor:
            self.images += len(x)
            return model(x)

        return counting


def attacks(
    model: Model, threat: Threat, nearest: Tensor, *, twin: Model | None = None, budget: int = 400, gradients: bool = True, **how
) -> Iterator[tuple[str, Callable[..., Tensor]]]:
    """Names and attacks `(x, y, nearest) -> x_adv` of a threat model, in their order.

    model : what gradients are taken of
    nearest : (N, K) classes of each image by falling logit, the true one last; without the reject class
    twin : a network without the defence, or another one: what misleads it is tried on the model
    budget : forward passes that an image costs which withstands all, about: half for gradients, half for Square
    gradients : False for a model that has none
    how : `stop` and `generator`, of the searches
    """
    ball = {"eps": threat.eps, "norm": threat.norm, "clip": threat.clip}
    aware = {**ball, "reject": threat.reject}
    targets = min(TARGETS, nearest.shape[1] - 1, budget // 40)
    searches = 5 + targets
    steps, draw = max(2, round(budget / 2 / searches)), {"generator": how.get("generator")}
    yield "noise", lambda x, y, _: random_noise(model, x, y, **ball, **draw)
    if twin is not None:
        yield "one step on the twin", lambda x, y, _: adv_loss(twin, x, y, **ball)
        on = {"steps": steps, "restarts": 1, "stop": False}  # beyond the twin's mistake: what barely fools it fools nothing else
        yield "steps on the twin", lambda x, y, _: pgd(twin, x, y, **ball, **on)
    if gradients:
        yield "one step", lambda x, y, _: adv_loss(model, x, y, **aware)
        search = partial(pgd, model, **aware, **how, steps=steps)
        yield "PGD", lambda x, y, _: search(x, y, restarts=2)
        yield "PGD, margin", lambda x, y, _: search(x, y, restarts=1, loss=minus_margin)
        yield "APGD", lambda x, y, _: apgd(model, x, y, **aware, **how, steps=steps)
        for k in range(targets):
            yield f"PGD, target {k + 1}", lambda x, y, nearest, k=k: search(x, y, restarts=1, target=nearest[:, k])
    yield "Square", lambda x, y, _: square(model, x, y, **aware, **how, queries=max(1, budget // 2))


@with_gradients
def worst_case(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    surrogate: Model | None = None,
    twin: Model | None = None,
    budget: int = 400,
    random: bool = False,
    gradients: bool = True,
    alive: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Outcome:
    """Which of the images (N, C, H, W) a model still reads right under all `attacks`.

    surrogate : what gradients are taken of, where it is not the model itself: the mean over draws of one that answers at random
        (`purifiers.Expectation`), a stand-in for a part without a gradient (`purifiers.StraightThrough`)
    twin, budget, gradients : of `attacks`
    random : whether the model answers at random. Then every attack meets every image, candidates are chosen by DRAWS answers, and
        the worst of them is scored by DRAWS fresh ones: one wrong answer is no success
    alive : bool (N,), images that count as right before any attack; None: those that the model reads right
    """
    if not isinstance(threat, Threat):
        raise ValueError(f"threat must be an attacks.Threat(eps, norm), not {told(threat)}")
    check_search(model, x, y, threat.eps, threat.clip, 1, threat.norm, generator=generator)
    check_images("x", x)
    for name, network in (("surrogate", surrogate), ("twin", twin)):
        if network is not None:
            check_callable(name, network)
    if alive is not None and (not torch.is_tensor(alive) or alive.dtype != torch.bool or alive.shape != y.shape):
        raise ValueError(f"alive must be bool, one for each of the {len(y)} images, not {told(alive)}")
    check_number("budget", budget, 1, whole=True)
    source, draws, passes = surrogate or model, DRAWS if random else 1, Counted()
    with eval_mode(model, source, twin):
        logits = predict(model, x)
        proper = logits[:, :-1] if threat.reject else logits
        nearest = others(proper, y).argsort(dim=1, descending=True)
        stands = partial(standing, passes(model), reject=logits.shape[1] - 1 if threat.reject else None, draws=draws)
        right = stands(x, y) if alive is None else stands(x, y) * alive
        names, accuracy, used = ["clean"], [right.mean().item()], [passes.images / len(x)]
        taken, images = torch.full_like(y, -1), x.detach().clone()
        how = {"stop": not random, "generator": generator, "twin": twin and passes(twin)}
        for name, attack in attacks(passes(source), threat, nearest, budget=budget, gradients=gradients, **how):
            before, left = passes.images, (right > 0).nonzero().squeeze(1)
            if len(left):
                moved = in_batches(attack, x[left], y[left], nearest[left])
                now = stands(moved, y[left])
                worse = now < right[left]
                where = left[worse]
                right[where], taken[where], images[where] = now[worse], len(names), moved[worse]
            names.append(name)
            accuracy.append(right.mean().item())
            used.append((passes.images - before) / len(x))
        if random:  # the least of several counts is too low by chance: what was chosen is scored anew
            right = torch.where(taken >= 0, stands(images, y), right)
    right = right if random else right.bool()
    return Outcome(right, taken, names, accuracy, used, images)


def standing(model: Model, x: Tensor, y: Tensor, *, reject: int | None = None, draws: int = 1) -> Tensor:
    """The share of so many answers of a model in which each image is not misread: (N,) float64."""
    answers = (sum(right_and_rejected(model, x, y, reject=reject)) for _ in range(draws))
    return sum(answers, torch.zeros(len(x), dtype=torch.float64, device=x.device)) / draws
