"""The public functions of `helpers` that take tensors or settings, each with a call that works, and what to spoil in it.

Every argument has a role; of each role there is a list of values that a reader may give by mistake.
"""

import ast
import functools
import inspect
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from helpers import (
    attacks,
    calibrated,
    checks,
    detectors,
    energy,
    gan,
    geometry,
    losses,
    metrics,
    models,
    norms,
    outliers,
    purifiers,
    start_images,
    training,
)
from helpers.data import Split, held_out
from helpers.encoders import ContrastNorm, SpatialTransformer
from helpers.glow import Glow, nll_objective
from helpers.layers import LocalNorm, Normalise
from helpers.mixtures import CCU, GaussianMixture, Whitening

HELPERS = Path(attacks.__file__).resolve().parents[1]
N, K = 6, 3
SHAPE = (1, 8, 8)
REFUSED, RIGHT, SILENT, UNCLEAR = "refused", "right", "silent", "unclear"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = N, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, *shape, generator=seeded(seed))


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, K)).eval().requires_grad_(False)


def small() -> nn.Sequential:
    """Of two classes, both taken for some of the images."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        made = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2)).requires_grad_(False)
    with torch.no_grad():
        made[2].bias -= made(images(60, seed=3)).mean(dim=0)
    return made


def labels(n: int = N) -> torch.Tensor:
    return torch.arange(n) % K


def logits() -> torch.Tensor:
    return torch.randn(N, K, generator=seeded())


def split() -> Split:
    return Split("toy/train", images(), labels(), ("a", "b", "c"))


def cross_entropy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(x), y)


# what a reader may give by mistake, by the role of the argument: name -> a change of the right value
FLOATS = {
    "numpy": lambda x: x.numpy(),
    "list": lambda x: x.tolist(),
    "None": lambda x: None,
    "uint8": lambda x: (255 * x).byte(),
    "int64": lambda x: x.long(),
    "bool": lambda x: x > 0.5,
    "complex": lambda x: x.to(torch.complex64),
    "NaN": lambda x: torch.where(torch.arange(x.numel()).view_as(x) == 1, math.nan, x),
    "infinity": lambda x: torch.where(torch.arange(x.numel()).view_as(x) == 1, math.inf, x),
}
PIXELS = FLOATS | {
    "0..255": lambda x: (255 * x).round(),
    "one image": lambda x: x[0],
    "28x28": lambda x: x[0, 0],
    "no channel": lambda x: x[:, 0],
    "channels last": lambda x: x.permute(0, 2, 3, 1).expand(-1, -1, -1, 3),
    "flat": lambda x: x.flatten(1),
    "empty": lambda x: x[:0],
    "five dimensions": lambda x: x[None],
}
UNIT = PIXELS | {"below 0": lambda x: x - 0.5, "normalised": lambda x: (x - 0.5) / 0.25}
LABELS = {
    "too few": lambda y: y[:-1],
    "too many": lambda y: torch.cat([y, y]),
    "column": lambda y: y[:, None],
    "one-hot": lambda y: torch.eye(K)[y],
    "floats": lambda y: y.float(),
    "int32": lambda y: y.int(),
    "number": lambda y: 3,
    "list": lambda y: y.tolist(),
    "numpy": lambda y: y.numpy(),
    "None": lambda y: None,
    "-1": lambda y: y.index_fill(0, torch.tensor([1]), -1),
    "-100": lambda y: y.index_fill(0, torch.tensor([1]), -100),
    "10": lambda y: y.index_fill(0, torch.tensor([1]), 10),
}
LOGITS = {
    "(N, K, 1)": lambda z: z[:, :, None],
    "(N,)": lambda z: z[:, 0],
    "(K,)": lambda z: z[0],
    "one class": lambda z: z[:, :1],
    "numpy": lambda z: z.numpy(),
    "int64": lambda z: z.long(),
    "tuple": lambda z: (z,),
    "too few": lambda z: z[:-1],
    "None": lambda z: None,
}
MODEL = {
    "tuple": lambda f: lambda x: (f(x), 0),
    "dict": lambda f: lambda x: {"logits": f(x)},
    "numpy": lambda f: lambda x: f(x).detach().numpy(),
    "(N, K, 1)": lambda f: lambda x: f(x)[:, :, None],
    "(N,)": lambda f: lambda x: f(x)[:, 0],
    "classes": lambda f: lambda x: f(x).argmax(dim=1),
    "NaN": lambda f: lambda x: f(x) * math.nan,
    "too few rows": lambda f: lambda x: f(x)[:-1],
    "no function": lambda f: 3,
    "None": lambda f: None,
    "name": lambda f: "resnet18",
}
GRADIENT = MODEL | {"detached": lambda f: lambda x: f(x).detach(), "no_grad": lambda f: torch.no_grad()(lambda x: f(x))}
MODULE = {"no module": lambda f: lambda x: f(x), "None": lambda f: None, "name": lambda f: "resnet18"}
NUMBER = {
    "negative": lambda v: -1,
    "NaN": lambda v: math.nan,
    "infinity": lambda v: math.inf,
    "word": lambda v: "a",
    "None": lambda v: None,
    "tensor": lambda v: torch.ones(2),
}
COUNT = NUMBER | {"zero": lambda v: 0, "half": lambda v: 1.5}
NORM = {"L2": lambda v: "L2", "2": lambda v: 2, "inf": lambda v: math.inf, "None": lambda v: None}
GENERATOR = {"seed": lambda v: 0, "numpy": lambda v: np.random.default_rng(0)}
NAME = {"unknown": lambda v: "nothing of the kind", "number": lambda v: 3, "None": lambda v: None}
DEVICE = {"gpu": lambda v: "gpu", "number": lambda v: 1.5, "list": lambda v: []}
SCORES = {
    "NaN": lambda s: [*s[:-1], math.nan],
    "infinity": lambda s: [*s[:-1], math.inf],
    "empty": lambda s: [],
    "matrix": lambda s: [s, s],
    "number": lambda s: 3.0,
}
SHAPES = {"(H, W)": lambda s: s[1:], "zero": lambda s: (0, 8, 8), "halves": lambda s: (1, 8.5, 8), "number": lambda s: 8}
EPS = NUMBER | {"8 of 255": lambda v: 8.0}
THREAT = {f"eps: {k}": lambda t, v=v: attacks.Threat(v(t.eps), t.norm) for k, v in EPS.items()}
THREAT |= {f"norm: {k}": lambda t, v=v: attacks.Threat(t.eps, v(t.norm)) for k, v in NORM.items()}
THREAT |= {"number": lambda t: 0.1, "None": lambda t: None}
ALIVE = {
    "floats": lambda a: a.float(),
    "too few": lambda a: a[:-1],
    "column": lambda a: a[:, None],
    "list": lambda a: a.tolist(),
    "index": lambda a: a.nonzero().squeeze(1),
}


@dataclass
class Door:
    """A public function, a call that works, and the role of each argument."""

    name: str
    f: Callable
    arguments: Callable[[], dict]
    roles: dict[str, dict]
    right: dict[str, tuple[str, ...]] = field(default_factory=dict)  # (argument) -> changes that are no mistake there


def doors() -> list[Door]:
    """All of them."""
    found = []

    def add(name, f, arguments, /, right=None, **roles):
        found.append(Door(name, f, arguments, roles, right or {}))

    def attack(f, **more):
        roles = {
            "model": GRADIENT,
            "x": UNIT,
            "y": LABELS,
            "eps": EPS if more.get("norm") == "linf" or f is attacks.fgsm else NUMBER,
        }
        options = {"eps": 0.1, **more}
        roles |= {"norm": NORM} if "norm" in more else {}
        return lambda: {"model": network(), "x": images(), "y": labels(), **options}, roles

    for f, more in (
        (attacks.adv_loss, {"norm": "linf"}),
        (attacks.adv_loss_sign, {}),
        (attacks.fgsm, {}),
        (attacks.adv_alpha, {"norm": "linf"}),
        (attacks.adv_logits, {"norm": "l2"}),
        (attacks.pgd, {"norm": "linf", "steps": 2, "restarts": 1}),
    ):
        arguments, roles = attack(f, **more)
        add(f.__name__, f, arguments, **roles)
    add(
        "pgd",
        attacks.pgd,
        lambda: {**attack(attacks.pgd, norm="l2")[0](), "steps": 2, "restarts": 2, "generator": seeded()},
        steps=COUNT,
        restarts=COUNT,
        step_size=NUMBER,
        generator=GENERATOR,
        right={"step_size": ("None",)},
    )
    add(
        "apgd",
        attacks.apgd,
        lambda: {**attack(attacks.apgd, norm="linf")[0](), "steps": 3, "generator": seeded()},
        **attack(attacks.apgd, norm="linf")[1],
        steps=COUNT,
        generator=GENERATOR,
    )
    add(
        "square",
        attacks.square,
        lambda: {**attack(attacks.square, norm="linf")[0](), "queries": 3, "generator": seeded()},
        **{**attack(attacks.square, norm="linf")[1], "model": MODEL},
        queries=COUNT,
        generator=GENERATOR,
    )
    add(
        "worst_case",
        attacks.worst_case,
        lambda: {
            **{"model": network(), "x": images(), "y": network()(images()).argmax(dim=1)},  # read right, so that each meets all
            **{"threat": attacks.Threat(1e-4, "linf"), "twin": network()},
            **{"surrogate": network(), "budget": 12, "alive": torch.ones(N, dtype=torch.bool), "generator": seeded()},
        },
        model=MODEL,
        x=UNIT,
        y=LABELS,
        threat=THREAT,
        surrogate={k: v for k, v in GRADIENT.items() if k != "None"},
        twin={k: v for k, v in GRADIENT.items() if k != "None"},
        budget=COUNT,
        alive=ALIVE,
        generator=GENERATOR,
    )
    add(
        "targeted_fgsm",
        attacks.targeted_fgsm,
        lambda: {"model": network(), "x": images(), "target": labels(), "eps": 0.1},
        model=GRADIENT,
        x=UNIT,
        target=LABELS,
        eps=EPS,
    )
    add(
        "random_noise",
        attacks.random_noise,
        lambda: {"model": network(), "x": images(), "y": labels(), "eps": 0.1, "norm": "linf", "generator": seeded()},
        x=UNIT,
        y={k: v for k, v in LABELS.items() if k != "10"},
        eps=EPS,
        norm=NORM,
        generator=GENERATOR,
        right={"x": ("channels last",)},
    )
    add(
        "deepfool",
        attacks.deepfool,
        lambda: {"model": network(), "x": images(), "y": labels(), "steps": 3},
        model=GRADIENT,
        x=UNIT,
        y=LABELS,
        steps=COUNT,
        overshoot=NUMBER,
        norm=NORM,
        candidates=COUNT,
        right={"candidates": ("None",)},
    )
    add(
        "gradient",
        attacks.gradient,
        lambda: {"model": network(), "x": images(), "y": labels(), "loss": losses.log_odds},
        model=GRADIENT,
        x=FLOATS,
        y=LABELS,
    )
    add(
        "logit_jacobian",
        attacks.logit_jacobian,
        lambda: {"model": network(), "x": images(), "y": labels()},
        model=GRADIENT,
        x=FLOATS,
        y=LABELS,
    )
    add(
        "ood_attack",
        attacks.ood_attack,
        lambda: {
            "encoder": network(),
            "x_in": images(),
            "x_init": images(seed=1),
            "eps": 0.5,
            "steps": 2,
            "norm": "linf",
            "generator": seeded(),
        },
        encoder={k: v for k, v in GRADIENT.items() if k not in ("(N, K, 1)", "(N,)")},
        x_in=UNIT,
        x_init={k: v for k, v in UNIT.items() if k != "one image"},
        eps=EPS,
        steps=COUNT,
        norm=NORM,
        lr=NUMBER,
        stop=NUMBER,
        generator=GENERATOR,
        batch_size=COUNT,
        right={"lr": ("None",), "stop": ("None", "infinity"), "batch_size": ("None",)},
    )
    add(
        "universal",
        attacks.universal,
        lambda: {"model": network(), "x": images(), "eps": 0.1, "passes": 1, "steps": 2, "generator": seeded()},
        model=GRADIENT,
        x=UNIT,
        eps=EPS,
        norm=NORM,
        passes=COUNT,
        batch_size=COUNT,
        fooling=NUMBER,
        generator=GENERATOR,
    )
    add(
        "universal_gradient",
        attacks.universal_gradient,
        lambda: {"model": network(), "x": images(), "eps": 0.1, "passes": 1, "generator": seeded()},
        model=GRADIENT,
        x=UNIT,
        eps=EPS,
        norm=NORM,
        passes=COUNT,
        batch_size=COUNT,
        step_size=NUMBER,
        momentum=NUMBER | {"one": lambda v: 1.0},
        cap=NUMBER,
        generator=GENERATOR,
        right={"step_size": ("None",), "cap": ("infinity",)},
    )
    add(
        "fooling_rate",
        attacks.fooling_rate,
        lambda: {"model": network(), "x": images(), "v": 0.1 * images()[0]},
        model=MODEL,
        x=UNIT,
        v=FLOATS,
    )
    add(
        "targeted_gradient",
        attacks.targeted_gradient,
        lambda: {"model": network(), "x": images(), "target": labels(), "steps": 2},
        model=GRADIENT,
        x=UNIT,
        target=LABELS,
        eps=EPS,
        step=NUMBER,
        steps=COUNT,
        confidence=NUMBER,
    )
    add(
        "mape",
        attacks.mape,
        lambda: {"z": logits(), "z_in": logits()},
        z={k: v for k, v in FLOATS.items() if k not in ("NaN", "infinity")},
        z_in={k: v for k, v in FLOATS.items() if k not in ("NaN", "infinity")},
    )
    add(
        "squared_distance",
        attacks.squared_distance,
        lambda: {"z": logits(), "z_in": logits()},
        z={**{k: v for k, v in FLOATS.items() if k not in ("NaN", "infinity")}, "too few": lambda z: z[:1]},
    )
    add(
        "eight_bit",
        attacks.eight_bit,
        lambda: {"x": images()},
        x={k: v for k, v in UNIT.items() if k in (*FLOATS, "0..255", "below 0", "normalised")},
    )

    whole = {k: v for k, v in FLOATS.items() if k not in ("NaN", "infinity")}
    add("length", norms.length, lambda: {"v": images(), "norm": "l2"}, v=whole, norm=NORM)
    add("steepest", norms.steepest, lambda: {"g": images(), "norm": "l2"}, g=whole, norm=NORM)
    add("unit_l2", norms.unit_l2, lambda: {"v": images()}, v=whole)
    add("project", norms.project, lambda: {"v": images(), "eps": 0.1, "norm": "l2"}, v=whole, eps=NUMBER, norm=NORM)
    add(
        "random_in_ball",
        norms.random_in_ball,
        lambda: {"like": images(), "eps": 0.1, "norm": "l2", "generator": seeded()},
        like=whole,
        eps=NUMBER,
        norm=NORM,
        generator=GENERATOR,
    )
    add("dual", norms.dual, lambda: {"norm": "l2"}, norm=NORM)

    for f in (losses.log_odds, losses.margin, losses.dlr_loss, losses.others, losses.hr_slope):
        add(f.__name__, f, lambda: {"logits": logits(), "y": labels()}, logits=LOGITS, y=LABELS)
    for f in (losses.hr_loss, losses.renyi_fit, losses.hr_weights):
        add(f.__name__, f, lambda: {"logits": logits(), "y": labels(), "alpha": 2.0}, logits=LOGITS, y=LABELS, alpha=NUMBER)
    add(
        "merge_reject",
        losses.merge_reject,
        lambda: {"logits": torch.cat([logits(), logits()[:, :1]], dim=1), "y": labels()},
        logits=LOGITS,
        y=LABELS,
    )
    for f in (losses.entropy, losses.uniform_cross_entropy, losses.least_likely):
        add(
            f.__name__,
            f,
            lambda: {"logits": logits()},
            logits={k: v for k, v in LOGITS.items() if k not in ("too few",)},
            right={"logits": ("one class",)},
        )
    add(
        "uniform_divergence",
        calibrated.uniform_divergence,
        lambda: {"logits": logits()},
        logits={k: v for k, v in LOGITS.items() if k not in ("too few",)},
        right={"logits": ("one class",)},
    )

    for f in (metrics.accuracy, metrics.correct, metrics.outcomes, metrics.misread):
        add(f.__name__, f, lambda: {"model": network(), "x": images(), "y": labels()}, model=MODEL, x=PIXELS, y=LABELS)
    add(
        "outcomes",
        metrics.outcomes,
        lambda: {"model": network(), "x": images(), "y": labels()},
        reject={"negative": lambda v: -1, "half": lambda v: 0.5, "word": lambda v: "a"},
    )
    add(
        "predict",
        metrics.predict,
        lambda: {"model": network(), "x": images()},
        x=whole,
        model={k: v for k, v in MODEL.items() if k not in ("(N, K, 1)", "(N,)", "NaN", "classes")},
        batch_size=COUNT,
        right={"batch_size": ("None",)},
    )
    for f in (metrics.auroc, metrics.fpr_at_tpr, metrics.aupr, metrics.paired_auroc_se):
        names = list(inspect.signature(f).parameters)[:2]
        add(
            f.__name__,
            f,
            lambda names=names: {names[0]: [0.1, 0.5, 0.7], names[1]: [0.2, 0.3, 0.4]},
            **{names[0]: SCORES, names[1]: SCORES},
        )
    features = {
        **FLOATS,
        "one": lambda f: f[0],
        "maps": lambda f: f[:, :, None, None],
        "narrower": lambda f: f[:, :1],
        "empty": lambda f: f[:0],
    }
    add(
        "knn_auroc",
        metrics.knn_auroc,
        lambda: {
            "reference": images(20).flatten(1),
            "clean": images(9, seed=1).flatten(1),
            "other": images(9, seed=2).flatten(1),
            "k": 3,
        },
        reference=features,
        clean=features,
        other=features,
        k=COUNT,
    )

    def made(make):
        return functools.cache(make)

    known = images(60, seed=3)
    fitted = {
        "MaxSoftmax": made(lambda: detectors.MaxSoftmax(network())),
        "ODIN": made(lambda: detectors.ODIN(network(), 10.0, 0.01)),
        "OutlierExposure": made(lambda: detectors.OutlierExposure(network())),
        "Ensemble": made(lambda: detectors.Ensemble([network(), network()])),
        "JEM": made(lambda: detectors.JEM(network(), "gradient norm")),
        "Mahalanobis": made(lambda: detectors.Mahalanobis.fit(network(), known, labels(60), layers=[1, 3])),
        "NearestNeighbour": made(lambda: detectors.NearestNeighbour(known)),
        "TotalVariation": made(lambda: detectors.TotalVariation()),
    }
    for name, make in fitted.items():
        here = {k: v for k, v in PIXELS.items() if not (name == "NearestNeighbour" and k in ("flat", "no channel"))}
        right = {"x": ("channels last", "five dimensions")} if name == "TotalVariation" else {}
        add(name, lambda x, make=make: make()(x), lambda: {"x": images()}, x=here, right=right)
        add(f"{name}.aim", lambda x, make=make: make().aim(x), lambda: {"x": images()}, x=here, right=right)
    add("MaxSoftmax", detectors.MaxSoftmax, lambda: {"network": network()}, network=MODULE)
    add(
        "ODIN",
        detectors.ODIN,
        lambda: {"network": network(), "temperature": 10.0, "magnitude": 0.1},
        network=MODULE,
        temperature=NUMBER,
        magnitude=NUMBER,
    )
    add("JEM", detectors.JEM, lambda: {"network": network(), "score": "log p"}, network=MODULE, score=NAME)
    add(
        "Mahalanobis.fit",
        detectors.Mahalanobis.fit,
        lambda: {"network": network(), "images": known, "labels": labels(60), "layers": [1, 3], "magnitude": 0.0},
        network=MODULE,
        images=PIXELS,
        labels={k: v for k, v in LABELS.items() if k != "10"},
        magnitude=NUMBER,
        layers={"none": lambda v: [], "too many": lambda v: [9], "twice": lambda v: [1, 1], "half": lambda v: [0.5]},
    )
    add(
        "Gram.fit",
        detectors.Gram.fit,
        lambda: {"network": small(), "images": known, "held_out": images(30), "orders": 2},
        network=MODULE,
        images=PIXELS,
        held_out=PIXELS,
        orders=COUNT,
    )
    add("NearestNeighbour", detectors.NearestNeighbour, lambda: {"reference": known}, reference=FLOATS)
    add(
        "png_bits",
        detectors.png_bits,
        lambda: {"x": images()},
        x={k: v for k, v in UNIT.items() if k not in ("empty", "channels last")},
    )

    shapes = {k: v for k, v in PIXELS.items() if k not in ("NaN", "infinity", "0..255", "empty")}
    add(
        "PCA.fit",
        purifiers.PCA.fit,
        lambda: {"images": images()},
        images=PIXELS,
        share=NUMBER,
        right={"images": ("channels last",)},
    )
    add("PCA", purifiers.PCA, lambda: {"shape": SHAPE, "units": 3}, shape=SHAPES, units=COUNT)
    for f in (purifiers.PCA(SHAPE, 3), purifiers.Autoencoder(SHAPE, 3), GaussianMixture(SHAPE, 2).distances, Whitening(SHAPE)):
        add(getattr(f, "__qualname__", type(f).__name__), lambda x, f=f: f(x), lambda: {"x": images()}, x=shapes)
    add(
        "DownSample",
        purifiers.DownSample(0.5),
        lambda: {"x": images()},
        x={k: v for k, v in shapes.items() if k != "channels last"},
    )
    add("UniformNoise", purifiers.UniformNoise(0.1), lambda: {"x": images()}, x=whole)
    add(
        "UniformNoise", purifiers.UniformNoise, lambda: {"amount": 0.1, "generator": seeded()}, amount=NUMBER, generator=GENERATOR
    )
    add(
        "jpeg",
        purifiers.jpeg,
        lambda: {"x": images(shape=(3, 8, 8)), "quality": 90},
        quality=COUNT,
        x={k: v for k, v in PIXELS.items() if k not in ("channels last", "empty")},
    )
    add(
        "StraightThrough",
        lambda f: purifiers.StraightThrough(f)(images()),
        lambda: {"f": lambda x: x},
        f={"shape": lambda f: lambda x: x[0], "tuple": lambda f: lambda x: (x,), "None": lambda f: None},
    )
    add(
        "Expectation",
        lambda model, draws: purifiers.Expectation(model, draws)(images()),
        lambda: {"model": network(), "draws": 2},
        draws=COUNT,
        model={k: v for k, v in MODEL.items() if k not in ("NaN",)},
    )
    add(
        "reconstruction",
        purifiers.reconstruction,
        lambda: {"purifier": purifiers.PCA(SHAPE, 3), "x": images()},
        x=shapes,
        purifier={"tuple": lambda f: lambda x: (x,), "shape": lambda f: lambda x: x.flatten(1)},
    )
    add(
        "Normalise",
        Normalise((0.5,), (0.5,)),
        lambda: {"x": images()},
        x={k: v for k, v in shapes.items() if k not in ("one image", "five dimensions", "no channel", "channels last")},
    )
    for f in (LocalNorm(), ContrastNorm(3), SpatialTransformer(1, 8)):
        add(type(f).__name__, lambda x, f=f: f(x), lambda: {"x": images()}, x=whole)

    add(
        "fit",
        lambda data, **how: training.fit(network().requires_grad_(), data, cross_entropy, **how),
        lambda: {"data": split(), "epochs": 1, "lr": 0.1, "batch_size": 3, "seed": 0},
        epochs=COUNT,
        batch_size=COUNT,
        lr={**NUMBER, "zero": lambda v: 0},
        seed={k: v for k, v in NUMBER.items() if k != "negative"},
        clip=NUMBER,
        right={"clip": ("None",)},
    )
    add(
        "fit",
        lambda images: training.fit(
            network().requires_grad_(), Split("toy/train", images, labels(), ("a",) * K), cross_entropy, epochs=1, lr=0.1, seed=0
        ),
        lambda: {"images": images()},
        images={
            k: v
            for k, v in PIXELS.items()
            if k not in ("one image", "28x28", "no channel", "flat", "channels last", "five dimensions")
        },
    )
    add(
        "fit",
        lambda y: training.fit(
            network().requires_grad_(), Split("toy/train", images(), y, ("a",) * K), cross_entropy, epochs=1, lr=0.1, seed=0
        ),
        lambda: {"y": labels()},
        y=LABELS,
    )
    add(
        "fit",
        lambda model: training.fit(model, split(), cross_entropy, epochs=1, lr=0.1, seed=0),
        lambda: {"model": network().requires_grad_()},
        model=MODULE | {"frozen": lambda f: f.requires_grad_(False)},
    )
    add(
        "fit",
        lambda objective: training.fit(network().requires_grad_(), split(), objective, epochs=1, lr=0.1, seed=0),
        lambda: {"objective": cross_entropy},
        objective={
            "of each": lambda f: lambda m, x, y: m(x)[:, 0],
            "number": lambda f: lambda m, x, y: 0.5,
            "detached": lambda f: lambda m, x, y: f(m, x, y).detach(),
            "None": lambda f: None,
        },
    )
    add(
        "held_out",
        held_out,
        lambda: {"split": split(), "n": 2, "seed": 0},
        n=COUNT,
        seed={k: v for k, v in NUMBER.items() if k != "negative"},
    )
    add(
        "with_outliers",
        outliers.with_outliers,
        lambda: {"outliers": images(), "weight": 0.5, "times": 1},
        outliers=PIXELS,
        weight=NUMBER,
        times=COUNT,
        generator=GENERATOR,
        right={"outliers": ("channels last",)},
    )
    add(
        "sgld",
        energy.sgld,
        lambda: {"network": network(), "start": images(), "steps": 1, "generator": seeded()},
        network={k: v for k, v in GRADIENT.items() if k not in ("NaN",)},
        start={k: v for k, v in PIXELS.items() if k not in ("empty", "channels last")},
        steps={k: v for k, v in COUNT.items() if k != "zero"},
        step_size=NUMBER,
        noise=NUMBER,
        generator=GENERATOR,
    )
    add("Buffer", energy.Buffer, lambda: {"shape": SHAPE, "size": 4}, shape=SHAPES, size=COUNT)
    add(
        "GAN",
        gan.GAN,
        lambda: {"shape": SHAPE, "classes": 2},
        shape={k: v for k, v in SHAPES.items() if k != "number"},
        classes=COUNT,
    )
    add(
        "GAN.sample",
        gan.GAN(SHAPE, K).sample,
        lambda: {"y": labels(), "generator": seeded()},
        y={k: v for k, v in LABELS.items() if k not in ("too few", "too many")},
        generator=GENERATOR,
    )
    flow = Glow(SHAPE, levels=1, depth=1, hidden=2)
    add("Glow.bits", flow.bits, lambda: {"x": images()}, x=PIXELS)
    add("Glow.initialise", flow.initialise, lambda: {"images": images()}, images=UNIT)
    add(
        "Glow.sample",
        flow.sample,
        lambda: {"n": 2, "temperature": 0.5, "generator": seeded()},
        n=COUNT,
        temperature=NUMBER,
        generator=GENERATOR,
    )
    add("nll_objective", lambda x: nll_objective(flow, x), lambda: {"x": images()}, x=PIXELS)
    add(
        "GaussianMixture.fit",
        GaussianMixture.fit,
        lambda: {"images": images(), "components": 2, "seed": 0},
        images=PIXELS,
        components=COUNT,
        steps={k: v for k, v in COUNT.items() if k != "zero"},
        floor=NUMBER,
        right={"images": ("channels last",)},
    )
    ccu = CCU(network(), GaussianMixture(SHAPE, 2), GaussianMixture(SHAPE, 2))
    add(
        "CCU.certified_bound",
        ccu.certified_bound,
        lambda: {"x": images(), "radius": 0.1},
        x={k: v for k, v in PIXELS.items() if k not in ("0..255",)},
        radius={"negative": lambda v: -1.0, "NaN": lambda v: math.nan, "too many": lambda v: torch.ones(99)},
    )
    add(
        "Whitening.fit",
        Whitening.fit,
        lambda: {"images": images()},
        images={k: v for k, v in PIXELS.items() if k not in ("one image", "no channel", "flat", "channels last")},
        right={"images": ("five dimensions", "28x28")},
    )
    add(
        "smooth",
        start_images.smooth,
        lambda: {"x": images(), "side": 3},
        x={k: v for k, v in shapes.items() if k != "channels last"},
        side=COUNT,
    )
    add(
        "random_starts",
        start_images.random_starts,
        lambda: {"like": images(), "generator": seeded()},
        like={k: v for k, v in shapes.items() if k != "channels last"},
        generator=GENERATOR,
    )
    add("start_image", start_images.start_image, lambda: {"name": "spiral", "size": 8}, name=NAME, size=COUNT)
    add(
        "projection",
        geometry.projection,
        lambda: {
            "network": network(),
            "layer": 3,
            "inputs": {"clean": images(20), "moved": images(20, seed=1)},
            "reference": images(20, seed=2),
            "shown": 2,
        },
        network=MODULE,
        reference=PIXELS,
        shown=COUNT,
    )
    add("alpha_y", checks.alpha_y, lambda: {"logits": logits(), "y": labels()}, logits=LOGITS, y=LABELS)

    add("mlp", models.mlp, lambda: {"inputs": 4, "hidden": (3,), "classes": 2}, inputs=COUNT, classes=COUNT, dropout=NUMBER)
    add(
        "load_pretrained",
        models.load_pretrained,
        lambda: {"name": "picot2019/ce-mnist", "device": "cpu"},
        name=NAME,
        device=DEVICE,
    )
    add("last_convolution", models.last_convolution, lambda: {"network": network()}, network=MODULE)
    return found


def outcome(door: Door, argument: str, change: Callable, right: bool) -> tuple[str, str]:
    """What becomes of a call with one argument changed: one of REFUSED, RIGHT, SILENT, UNCLEAR, and the error's text."""
    arguments = door.arguments()
    arguments[argument] = change(arguments.get(argument))
    try:
        door.f(**arguments)
    except ValueError as error:
        return (REFUSED if on_purpose(error) else UNCLEAR), f"{type(error).__name__}: {error}"
    except Exception as error:
        return UNCLEAR, f"{type(error).__name__}: {error}"
    return (RIGHT if right else SILENT), ""


def on_purpose(error: Exception) -> bool:
    """Whether a `raise` of helpers raised it, and not a library that was called there."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).is_relative_to(HELPERS) and any(a <= last.lineno <= b for a, b in _raises(last.filename))


@functools.cache
def _raises(filename: str) -> list[tuple[int, int]]:
    tree = ast.parse(Path(filename).read_text(encoding="utf-8"))
    return [(node.lineno, node.end_lineno) for node in ast.walk(tree) if isinstance(node, ast.Raise)]


def cases() -> list[tuple[Door, str, str, Callable, bool]]:
    """Every door, argument and change of it, and whether that is no mistake there."""
    return [
        (door, argument, name, change, name in door.right.get(argument, ()))
        for door in doors()
        for argument, changes in door.roles.items()
        for name, change in changes.items()
    ]
