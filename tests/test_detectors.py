"""Detectors of out-of-distribution inputs: against pytorch-ood and formulas made by hand, and what an attack on them needs."""

import importlib
import math
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers import detectors, models
from helpers.data import load
from helpers.detectors import (
    JEM,
    ODIN,
    Certain,
    Ensemble,
    Gram,
    Mahalanobis,
    MaxSoftmax,
    NearestNeighbour,
    OutlierExposure,
    Reconstruction,
    TotalVariation,
)
from helpers.detectors.gram import gram_layers, gram_rows
from helpers.mixtures import CCU, GaussianMixture
from helpers.purifiers import ConvAutoencoder
from helpers.torchvision_import import torchvision
from helpers.training import fit

torchvision()  # pytorch-ood imports it; beside a CPU-only torch it does not load by itself
theirs = importlib.import_module("pytorch_ood.detector")

CLASSES = 4


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(1)  # not the seed of `images`


def network(seed=0, classes=CLASSES):
    """With everything that could let a sample depend on its batch, in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [models.Normalise((0.4,), (0.3,)), nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(6, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(72, classes)]
        return nn.Sequential(*layers).double().train()


MAPS = (3, 5, 6)  # layers of `network`: ReLU, convolution with both signs, tanh


def images(n=9, seed=0, side=14, dtype=torch.float64):
    """Images of classes that differ in brightness and in the direction of their stripes."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand((n, 1, side, side), generator=generator, dtype=dtype)
    stripes = torch.linspace(0, 1, side, dtype=dtype).expand(side, side)
    stripes = torch.stack([stripes, stripes.T, 1 - stripes, 1 - stripes.T])[torch.arange(n) % 4][:, None]
    return 0.5 * noise + 0.5 * stripes


def labels(n=9):
    return torch.arange(n) % 4


def balanced(silent=None):
    """The network with its last bias so that each class is predicted for some of `images`; a channel silent after its ReLU."""
    net = network().eval()
    with torch.no_grad():
        if silent is not None:
            net[1].weight[silent], net[1].bias[silent], net[2].bias[silent] = 0, 0, -1
        net[-1].bias -= net(images(200)).mean(dim=0)
    return net


def coder():
    """An autoencoder of images that are nearly grey: nothing of them is clamped."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        autoencoder = ConvAutoencoder((1, 14, 14), 12).double()
    with torch.no_grad():
        autoencoder.decoder[-1].weight /= 2
    return autoencoder


def ccu(net):
    """With a mixture of `images`, a Gaussian for each class, and one of grey noise."""
    noise = torch.rand(200, 1, 14, 14, generator=torch.Generator().manual_seed(2)).double()
    return CCU(net, GaussianMixture.fit(images(200, seed=5), 4, seed=0, shared=True), GaussianMixture.fit(noise, 1, seed=0))


def pooled(net, x, layer):
    return net[: layer + 1](x).flatten(2).mean(dim=2)


@pytest.fixture(scope="module")
def every():
    """A detector of each kind and setting, fitted where it must be; their networks are in training mode."""
    net, x = balanced(), images(200, seed=5)
    gram = Gram.fit(net, x, held_out=images(60, seed=6), layers=MAPS)
    gaussian = [Mahalanobis.fit(net, x, labels(200), MAPS, magnitude) for magnitude in (0, 0.01)]
    net.train()
    return {
        "max softmax": MaxSoftmax(net),
        "max softmax, features": MaxSoftmax(net, features=net[:-1]),
        "ODIN": ODIN(net, 1000, 0.004),
        "ODIN as baseline": ODIN(net, 1, 0),
        "outlier exposure": OutlierExposure(net),
        "ensemble": Ensemble([net, network(1), network(2)]),
        **{f"JEM, {score}": JEM(net, score) for score in ("log p", "max softmax", "gradient norm")},
        "Mahalanobis": gaussian[0],
        "Mahalanobis, preprocessed": gaussian[1],
        "Gram": gram,
        "reconstruction": Reconstruction(coder()),
        "CCU": Certain(ccu(net)),
        "neighbour": NearestNeighbour(x),
        "neighbour, features": NearestNeighbour(x, net[:-1]),
        "total variation": TotalVariation(),
    }


NAMES = [
    *("max softmax", "max softmax, features", "ODIN", "ODIN as baseline", "outlier exposure", "ensemble", "JEM, log p"),
    *("JEM, max softmax", "JEM, gradient norm", "Mahalanobis", "Mahalanobis, preprocessed", "Gram", "reconstruction"),
    *("CCU", "neighbour", "neighbour, features", "total variation"),
]
EACH = pytest.mark.parametrize("name", NAMES)
WIDTHS = {"max softmax, features": 72, "ensemble": 12, "Mahalanobis": 22, "Mahalanobis, preprocessed": 22, "Gram": 1,
          "reconstruction": 49 * 1, "neighbour": 196, "neighbour, features": 72, "total variation": 1}  # fmt: skip


def close(a, b, **options):
    torch.testing.assert_close(a, b, **({"rtol": 1e-9, "atol": 1e-11} | options))


# what all have in common


@EACH
def test_scores_and_codes_have_the_shape_that_is_promised(every, name):
    detector, x = every[name], images(3)
    assert detector(x).shape == (3,) and torch.equal(detector(x), detector.score(x))
    assert detector.encode(x).shape == (3, WIDTHS.get(name, CLASSES))
    assert isinstance(detector, detectors.Detector)


@EACH
def test_what_an_attack_climbs_is_the_score_unless_that_saturates(every, name):
    detector, x = every[name], images(3)
    before = [m.training for m in detector.modules()]
    aim = detector.aim(x)
    assert aim.shape == (3,) and [m.training for m in detector.modules()] == before
    close(aim, torch.cat([detector.aim(one) for one in x.split(1)]))
    if name != "CCU":
        close(aim, detector(x))


@EACH
def test_a_score_does_not_depend_on_the_batch(every, name):
    detector, x = every[name], images()
    before = [m.training for m in detector.modules()]
    for f in (detector.score, detector.encode):
        close(f(x), torch.cat([f(one) for one in x.split(1)]))
        close(f(x), f(x.flip(0)).flip(0))
    assert [m.training for m in detector.modules()] == before
    if "neighbour" not in name and name != "total variation":
        assert any(before), "the network was in training mode, with dropout and batch statistics"


@EACH
def test_scores_follow_the_precision_of_the_images(every, name):
    detector, x = every[name], images(4)
    single = detector.float()
    try:
        scores, codes = single(x.float()), single.encode(x.float())
    finally:
        detector.double()
    assert scores.dtype == codes.dtype == torch.float32
    if name not in ("ODIN", "Mahalanobis, preprocessed", "Gram"):  # rounding flips signs there, or is divided by almost nothing
        close(scores.double(), detector(x), rtol=1e-3, atol=1e-4)


@EACH
def test_gradients_are_finite_and_no_parameter_receives_one(every, name):
    detector, x = every[name], images(5).requires_grad_()
    far = torch.rand(5, 1, 14, 14, generator=torch.Generator().manual_seed(3)).double().requires_grad_()
    for f in (detector.encode,) if name == "Gram" else (detector.encode, detector.score):
        for start in (x, far):
            [g] = torch.autograd.grad(f(start).square().sum(), start)
            assert g.isfinite().all()
        assert (g.flatten(1).norm(dim=1) > 0).all()
    assert all(p.grad is None for p in detector.parameters())


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("ODIN", "Mahalanobis, preprocessed", "Gram")])
def test_the_gradient_of_a_score_is_right(every, name):
    detector, x = every[name], images(2)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    x.requires_grad_()
    [g] = torch.autograd.grad(detector(x).sum(), x)
    step = 1e-6 * direction
    with torch.no_grad():
        slope = (detector(x + step) - detector(x - step)) / 2e-6
    close((g * direction).flatten(1).sum(dim=1), slope, rtol=1e-5, atol=1e-7)


@EACH
def test_scores_need_no_gradient_to_be_asked_for(every, name):
    with torch.no_grad():
        score = every[name](images(3))
    assert not score.requires_grad
    close(score, every[name](images(3)).detach())


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(0, 1, 14, 14), "1 samples or more"),
        (torch.zeros(2, 1, 14, 14).long(), "float tensor"),
        (torch.zeros(3), r"not a tensor float32 \(3,\)"),
        (torch.full((1, 1, 14, 14), torch.nan).double(), "NaN or infinity"),
        (torch.full((1, 1, 14, 14), torch.inf).double(), "NaN or infinity"),
    ],
)
def test_what_cannot_be_scored_is_refused(every, x, message):
    for detector in every.values():
        for f in (detector.score, detector.encode, detector.aim):
            with pytest.raises(ValueError, match=message):
                f(x)


def test_another_precision_than_the_weights_is_refused_where_there_are_weights(every):
    message = r"x is torch.float32, the detector's weights are torch.float64: convert one, by x.float\(\) or network.double\(\)"
    free = {"neighbour", "total variation"}
    for name, detector in every.items():
        if name in free:
            assert detector(images().float()).dtype == torch.float32
            continue
        for f in (detector.score, detector.encode, detector.aim):
            with pytest.raises(ValueError, match=message):
                f(images().float())


def test_what_is_fitted_in_float64_decides_no_precision():
    """Mahalanobis and Gram keep float64 beside a network in float32, and so may CCU's mixtures."""
    net, x = balanced().float(), images(200, dtype=torch.float32)
    mixed = ccu(net)
    assert next(mixed.inside.parameters()).dtype == torch.float64
    fitted = Mahalanobis.fit(net, x, labels(200), MAPS), Gram.fit(net, x, held_out=images(60, seed=6).float()), Certain(mixed)
    for detector in fitted:
        assert detector(x[:3]).dtype == detector.encode(x[:3]).dtype == torch.float32


# logits


def given(*rows):
    """A network that returns these logits, whatever the images, with a gradient."""
    logits = torch.tensor(rows)

    class Constant(nn.Module):
        def forward(self, x):
            return logits.to(x.dtype) + 0 * x.flatten(1)[:, :1]

    return Constant(), torch.zeros(len(rows), 1, 2, 2)


def test_scores_of_the_logits_are_those_of_pytorch_ood():
    """Theirs are higher outside: −max p, −logsumexp, entropy. Ours take the logarithm of max p."""
    net, x = network().eval(), images()
    with torch.no_grad():
        close(MaxSoftmax(net)(x).exp(), -theirs.MaxSoftmax(net)(x))
        close(JEM(net, "max softmax")(x).exp(), -theirs.MaxSoftmax(net)(x))
        close(JEM(net)(x), -theirs.EnergyBased(net)(x))
        close(Ensemble([net])(x), -theirs.Entropy(net)(x))


@pytest.mark.parametrize("temperature", [1, 10, 1000])
@pytest.mark.parametrize("magnitude", [0, 0.004, 0.1])
def test_odin_is_that_of_pytorch_ood(temperature, magnitude):
    net, x = network().eval(), images()
    expected = theirs.ODIN(net, eps=magnitude, temperature=temperature)(x)
    close(ODIN(net, temperature, magnitude)(x).exp().detach(), -expected)


@pytest.mark.parametrize("temperature", [1, 1000])
def test_odin_raises_the_confidence(temperature):
    net, x = network().eval(), images(40)
    plain, moved = (ODIN(net, temperature, m)(x).detach() for m in (0, 0.002))
    assert (moved > plain).all()
    change = (ODIN(net, temperature, 0.002).preprocess(x) - x).abs()
    close(change[change > 0], torch.full_like(change[change > 0], 0.002))
    assert (change > 0).double().mean() > 0.9, "but for pixels that nothing depends on"
    close(ODIN(net, 1, 0)(x), MaxSoftmax(net)(x))


def test_odin_moves_images_whose_softmax_is_exactly_one():
    """1,000 times the logits: in float32 the gradient of log S is zero there."""
    net = network().float().eval()
    with torch.no_grad():
        net[-1].weight *= 1000
    x = images(dtype=torch.float32).requires_grad_()
    assert (net(x).softmax(dim=1).amax(dim=1) == 1).any()
    assert ((ODIN(net, 1, 0.01).preprocess(x) - x).flatten(1).abs().amax(dim=1) > 0.009).all()


def test_the_gradient_through_odin_is_that_of_the_logits_at_the_moved_image():
    detector, x = ODIN(network(), 10, 0.05), images(3).requires_grad_()
    [g] = torch.autograd.grad(detector.encode(x).square().sum(), x)
    moved = detector.preprocess(x).detach().requires_grad_()
    [expected] = torch.autograd.grad(detector.network.eval()(moved).square().sum(), moved)
    close(g, expected)


def test_confidence_keeps_its_order_where_float32_rounds_it_to_one():
    net, x = given([0.0, 20.0, 0.0], [0.0, 30.0, 0.0], [0.0, 40.0, 0.0], [60.0, 0.0, 0.0])
    assert (net(x).log_softmax(dim=1).amax(dim=1)[1:] == 0).all()
    for detector in (MaxSoftmax(net), ODIN(net, 1, 0), JEM(net, "max softmax"), Ensemble([net]), Ensemble([net, net])):
        score = detector(x)
        assert (score.diff() > 0).all() and (score < 0).all()
    exact = -2 * torch.tensor([20.0, 30, 40, 60]).double().neg().exp()
    torch.testing.assert_close(MaxSoftmax(net)(x).double(), exact, rtol=1e-5, atol=0)
    entropy = Ensemble([net])(x.double())
    torch.testing.assert_close(Ensemble([net])(x).double(), entropy, rtol=1e-5, atol=0)


def test_outlier_exposure_and_ensembles_by_hand():
    net, x = given([1.0, 2, 3], [0.0, 0, 0])
    expected = [math.log(math.exp(-2) + math.exp(-1) + 1) + 1, math.log(3)]
    close(OutlierExposure(net)(x.double()), torch.tensor(expected, dtype=torch.float64))
    nets, x = [network(seed).eval() for seed in range(3)], images()
    p = torch.stack([net(x).softmax(dim=1) for net in nets]).mean(dim=0)
    close(Ensemble(nets)(x), (p * p.log()).sum(dim=1))
    close(Ensemble(nets).encode(x), torch.cat([net(x) for net in nets], dim=1))
    assert Ensemble([net for net, _ in [given([0.0, 0, 0])]])(x[:1]).item() == pytest.approx(-math.log(3))


def test_the_gradient_norm_of_a_linear_network():
    """∂ logsumexp(Wx) / ∂x = Wᵀ softmax(Wx)."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    x = torch.rand(5, 1, 2, 2).double()
    expected = -(net(x).softmax(dim=1) @ net[1].weight).norm(dim=1)
    close(JEM(net, "gradient norm")(x), expected.detach())
    assert not JEM(net, "gradient norm")(x).requires_grad


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ODIN(network(), 0), "temperature must be"),
        (lambda: ODIN(network(), math.inf), "temperature must be"),
        (lambda: ODIN(network(), 1, -0.1), "magnitude must be a finite number >= 0"),
        (lambda: ODIN(network(), 1, math.nan), "magnitude must be a finite number >= 0"),
        (lambda: Ensemble([]), "one network or more"),
        (lambda: Ensemble([network(), network(classes=3)])(images()), r"same classes, not \[4, 3\]"),
        (lambda: JEM(network(), "logp"), "one of log p, max softmax, gradient norm"),
        (lambda: MaxSoftmax(network()[:-3])(images()), "logits must be"),
        (lambda: OutlierExposure(network(classes=1))(images()), "K >= 2"),
    ],
)
def test_settings_that_make_no_detector_of_logits_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Mahalanobis


def test_mahalanobis_is_that_of_pytorch_ood():
    """Theirs halves the distance, and its covariance is N times ours, plus 1e-6 on its diagonal."""
    net, x, y = network().eval(), images(400, seed=1), labels(400)
    for layer in MAPS:
        reference = theirs.Mahalanobis(None)
        with torch.no_grad():
            reference.to("cpu").fit_features(pooled(net, x, layer).float(), y)
            expected = -2 * 400 * reference.predict_features(pooled(net, images(), layer).float())
            close(Mahalanobis.fit(net, x, y, [layer])(images()), expected.double(), rtol=1e-2, atol=0)


def test_mahalanobis_by_hand():
    net, x, y = network().eval(), images(400, seed=1), labels(400)
    expected = []
    for layer in MAPS:
        f, new = (pooled(net, v, layer).detach().numpy() for v in (x, images()))
        means = np.stack([f[y == k].mean(axis=0) for k in range(4)])
        precision = np.linalg.inv(np.cov((f - means[y]).T, bias=True))
        shift = new[:, None] - means
        expected.append(-np.einsum("nki,ij,nkj->nk", shift, precision, shift).min(axis=1))
    detector = Mahalanobis.fit(net, x, y, MAPS)
    close(detector(images()), torch.from_numpy(np.mean(expected, axis=0)), rtol=1e-6)
    close(detector.encode(images()), torch.cat([pooled(net, images(), layer) for layer in MAPS], dim=1))
    close(Mahalanobis.fit(net, x, y, [-8, -6, -5])(images()), detector(images()))


def test_each_layer_is_preprocessed_by_its_own_gradient():
    net, x, y = network().eval(), images(400, seed=1), labels(400)
    both, alone = Mahalanobis.fit(net, x, y, MAPS, 0.02), [Mahalanobis.fit(net, x, y, [i], 0.02) for i in MAPS]
    close(both(images()), torch.stack([one(images()) for one in alone]).mean(dim=0))
    for i, one in zip(MAPS, alone, strict=True):
        plain, new = Mahalanobis.fit(net, x, y, [i]), images().requires_grad_()
        [g] = torch.autograd.grad(plain(new).sum(), new)
        close(one(images()), plain(images() + 0.02 * g.sign()))
        assert (one(images()) > plain(images())).double().mean() > 0.9
    close(both.encode(images()), Mahalanobis.fit(net, x, y, MAPS).encode(images()))


def test_dead_channels_count_for_nothing():
    net, x, y = network().eval(), images(400, seed=1), labels(400)
    with torch.no_grad():
        net[5].weight[2] = 0
    wide = Mahalanobis.fit(net, x, y, [5])
    assert wide.gaussians[0].whitening.shape == (8, 7)
    f, keep = pooled(net, x, 5), [0, 1, 3, 4, 5, 6, 7]
    reference = theirs.Mahalanobis(None).to("cpu")
    reference.fit_features(f[:, keep].detach().float(), y)
    expected = -800 * reference.predict_features(pooled(net, images(), 5)[:, keep].detach().float())
    close(wide(images()).detach(), expected.double(), rtol=1e-2, atol=0)
    single = Mahalanobis.fit(net.float(), x.float(), y, [5])
    assert single.gaussians[0].whitening.shape == (8, 7), "the rounding of float32 is no variance"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": []}, "indices into the network's 11 layers"),
        ({"layers": [11]}, "indices into the network's 11 layers"),
        ({"layers": [3, -8]}, "each layer counts once"),
        ({"labels": labels(8)}, "int64 of shape"),
        ({"labels": labels(9).int()}, "must be int64"),
        ({"labels": labels(9) - 1}, "classes are 0 and up"),
        ({"labels": 2 * labels(9)}, r"none of \[1, 3, 5\]"),
        ({"images": images() * torch.nan}, "images contains NaN"),
        ({"images": images()[:1].expand(9, 1, 14, 14)}, "no covariance"),
        ({"network": models.Normalise((0.5,), (1.0,))}, r"in an nn.Sequential, not in a Normalise"),
        ({"magnitude": -1}, "magnitude must be"),
    ],
)
def test_what_mahalanobis_cannot_be_fitted_to_is_refused(options, message):
    arguments = {"network": network(), "images": images(), "labels": labels(), "layers": MAPS}
    with pytest.raises(ValueError, match=message):
        Mahalanobis.fit(**(arguments | options))


# Gram


def test_rows_of_gram_matrices_by_hand():
    f = torch.randn(3, 5, 4, 4).double()
    ours = gram_rows(f, 5, smooth=False)
    for p in range(1, 6):
        power = f.flatten(2) ** p
        rows = (power @ power.transpose(1, 2)).sum(dim=2)
        close(ours[:, p - 1], rows.sign() * rows.abs() ** (1 / p))
        if p % 2 == 0:
            assert (ours[:, p - 1] > 0).all()
    assert (ours < 0).any(), "odd powers of maps with both signs"
    close(gram_rows(f, 5, smooth=True), ours)
    vectors = torch.rand(3, 7).double()
    close(gram_rows(vectors, 2, smooth=False), gram_rows(vectors[..., None, None], 2, smooth=False))


@pytest.mark.parametrize("block", [None, 2])
def test_the_gradient_of_the_rows(monkeypatch, block):
    """Against differences, and against torch's own of the formula."""
    if block:
        monkeypatch.setattr("helpers.detectors.gram._block", lambda f: block)
    f = torch.randn(5, 3, 2, 4, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    weight = torch.rand(5, 5, 3).double()
    for smooth in (False, True):
        assert torch.autograd.gradcheck(lambda f, smooth=smooth: gram_rows(f, 5, smooth), f)
    maps, rows = f.flatten(2), []
    for p in range(1, 6):
        sums = (maps**p @ (maps**p).transpose(1, 2)).sum(dim=2)
        rows.append(sums.sign() * sums.abs() ** (1 / p))
    expected = torch.autograd.grad((weight * torch.stack(rows, dim=1)).sum(), f)[0]
    close(torch.autograd.grad((weight * gram_rows(f, 5, False)).sum(), f)[0], expected)


def test_gram_is_that_of_pytorch_ood():
    """Theirs draws its held-out tenth with torch's seed and takes labels as classes; given the predicted ones it is ours, without
    the code's confidence."""
    net, x = balanced(), images(200)
    with torch.no_grad():
        predicted = net(x).argmax(dim=1)
    parts = [net[:4], net[4:6], net[6:7]]
    reference = theirs.Gram(net[7:], parts, CLASSES, list(range(1, 6))).to("cpu")
    torch.manual_seed(0)
    reference.fit([(x, predicted)])  # a data loader would draw a number first
    torch.manual_seed(0)
    kept, out = [], []
    for k in range(CLASSES):
        mine = (predicted == k).nonzero().flatten()
        mine = mine[torch.randperm(len(mine))]
        kept.append(mine[len(mine) // 10 :])
        out.append(mine[: len(mine) // 10])
    ours = Gram.fit(net, x[torch.cat(kept)], held_out=x[torch.cat(out)], layers=MAPS, by_confidence=False)
    for i, bounds in enumerate(ours.bounds):
        close(bounds.low, torch.stack(reference.feature_min[i], dim=1))
        close(bounds.high, torch.stack(reference.feature_max[i], dim=1))
    close(ours.expected.float(), reference.layer_norm.float(), rtol=1e-5)
    new = torch.cat([images(30, seed=9), torch.rand(30, 1, 14, 14).double()])
    expected = reference(new).double()
    assert (expected > 0).sum() > 30
    close(ours(new), -expected, rtol=1e-5)


def test_gram_divides_by_the_confidence_as_its_code_does():
    net, x = balanced(), images(200)
    by, plain = (
        Gram.fit(net, x, held_out=images(60, seed=3), layers=[5], by_confidence=confidence) for confidence in (True, False)
    )
    ratio = by.expected / plain.expected
    close(by(images(9, seed=4)) * net(images(9, seed=4)).softmax(dim=1).amax(dim=1), plain(images(9, seed=4)) / ratio, rtol=1e-5)
    held = images(60, seed=3)
    assert -by(held).mean().item() == pytest.approx(1, rel=1e-3), "the expected deviation over the held-out images"


def test_training_images_do_not_deviate_and_strange_ones_do():
    net, x = balanced(), images(300)
    gram = Gram.fit(net, x, held_out=images(60, seed=3), layers=MAPS)
    assert (gram(x) == 0).all(), "more than a batch of them"
    assert gram(1 - images(60, seed=4).round()).max() < gram(images(60, seed=4)).median()


def test_the_smoothed_score_is_the_score_and_has_a_gradient_where_that_has_none():
    net = balanced(silent=2)
    gram, x = Gram.fit(net, images(200), held_out=images(60, seed=3), layers=MAPS), images(9, seed=4).requires_grad_()
    close(gram.encode(x)[:, 0], gram(x))
    smooth, plain = (torch.autograd.grad(f(x).sum(), x)[0] for f in (gram.encode, gram.score))
    assert plain.isnan().any() and smooth.isfinite().all() and smooth.abs().amax() > 0
    step = 1e-7 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        slope = (gram(x + step) - gram(x - step)) / 2
    close((smooth * step).flatten(1).sum(dim=1), slope, rtol=1e-3, atol=1e-9)
    single = gram.float()
    x = x.detach().float().requires_grad_()
    assert torch.autograd.grad(single.encode(x).sum(), x)[0].isfinite().all()


def test_gram_reads_convolutions_activations_and_residual_blocks():
    assert gram_layers(network()) == (1, 3, 5, 6)
    assert gram_layers(models.resnet()) == (0, 2, 3, 4, 5)
    assert Gram.fit(balanced(), images(200), held_out=images(60, seed=3)).layers == (1, 3, 5, 6)


def test_a_batch_is_faster_than_its_images_one_by_one():
    """Liang et al. had to take batches of one (H.3)."""
    gram, x = Gram.fit(balanced(), images(200), held_out=images(60, seed=3)), images(40)

    def seconds(size):
        times = []
        for _ in range(3):
            started = time.perf_counter()
            for part in x.split(size):
                part = part.detach().requires_grad_()
                torch.autograd.grad(gram.encode(part).sum(), part)
            times.append(time.perf_counter() - started)
        return min(times)

    assert seconds(40) < seconds(1) / 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orders": 0}, "orders must be a whole number >= 1"),
        ({"layers": [99]}, "indices into the network's 11 layers"),
        ({"held_out": images(200)}, "no held-out image leaves the ranges"),
        ({"held_out": images()[:0]}, "held_out must hold 1 samples or more"),
        ({"images": images(1)}, r"no image is taken for class \["),
        ({"images": images().long()}, "images must be a float tensor"),
        ({"network": nn.Sequential(nn.Flatten(), nn.Linear(196, 4)).double()}, r"indices into the network's 2 layers, not \[\]"),
    ],
)
def test_what_gram_cannot_be_fitted_to_is_refused(options, message):
    arguments = {"network": balanced(), "images": images(200), "held_out": images(60, seed=3), "layers": None}
    with pytest.raises(ValueError, match=message):
        Gram.fit(**(arguments | options))


# pixels


def test_reconstruction_is_the_mean_squared_error_of_each_image():
    autoencoder, x = coder().train(), images()
    score, code = Reconstruction(autoencoder)(x), Reconstruction(autoencoder).encode(x)
    autoencoder.eval()
    close(score, -torch.stack([F.mse_loss(autoencoder(one[None])[0], one) for one in x]))
    close(code, autoencoder.encoder(x - 0.5).flatten(1))
    assert Reconstruction(nn.Identity(), lambda x: x[:, :, ::2])(x).eq(0).all()
    assert Reconstruction(nn.Identity(), lambda x: x[:, :, ::2]).encode(x).shape == (9, 98)


def test_the_aim_of_a_reconstruction_has_the_gradient_that_the_clamp_takes():
    autoencoder, black = coder(), torch.zeros(2, 1, 14, 14).double().requires_grad_()
    detector = Reconstruction(autoencoder)
    free = autoencoder.train()(images())
    assert free.min() > 0 and free.max() < 1
    close(detector.aim(images()), detector(images()))
    with torch.no_grad():
        autoencoder.decoder[-1].bias.fill_(-2)
    score, aim = detector(black), detector.aim(black)
    assert (score == 0).all(), "all of a black image is clamped to the right value"
    close(aim, -autoencoder.train()(black).square().flatten(1).mean(dim=1))
    slopes = [torch.autograd.grad(value.sum(), black)[0].flatten(1).norm(dim=1) for value in (score, aim)]
    assert (slopes[0] == 0).all() and (slopes[1] > 1e-6).all() and slopes[1].isfinite().all()
    plain = Reconstruction(nn.Hardtanh(0, 0.5), lambda x: x)
    close(plain.aim(images()), plain(images()))
    assert plain(images()).min() < 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nearest_neighbour_is_that_of_all_distances(dtype):
    reference, x = images(300, seed=1, dtype=dtype), images(50, seed=2, dtype=dtype)
    exact = torch.cdist(x.double().flatten(1), reference.double().flatten(1)).amin(dim=1)
    torch.testing.assert_close(NearestNeighbour(reference)(x).double(), -exact, rtol=1e-5, atol=0)
    net = network().to(dtype)[:-1]
    features = [net.eval()(v).double() for v in (x, reference)]
    exact = torch.cdist(*features, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
    torch.testing.assert_close(NearestNeighbour(reference, net.train())(x).double(), -exact, rtol=1e-4, atol=0)


def test_a_reference_image_is_its_own_neighbour_at_distance_zero_also_in_float32():
    reference = images(300, dtype=torch.float32)
    x = reference[7:20].clone().requires_grad_()
    score = NearestNeighbour(reference)(x)
    assert (score == 0).all() and torch.autograd.grad(score.sum(), x)[0].isfinite().all()


def test_total_variation_by_hand():
    x = torch.tensor([[[[0.0, 1.0, 0.0], [0.0, 0.5, 0.0]]], [[[0.2] * 3] * 2]])
    close(TotalVariation()(x), torch.tensor([-(1 + 1 + 0.5 + 0.5 + 0.5) / 7, 0]), atol=1e-7)
    assert TotalVariation()(x[..., :1])[0] == 0, "one column"
    smooth, noise = torch.full((1, 3, 8, 8), 0.5), torch.rand(1, 3, 8, 8)
    assert TotalVariation()(smooth) > TotalVariation()(noise)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reconstruction(nn.Identity()), "give code, a function from images to the codes of Identity"),
        (lambda: NearestNeighbour(torch.zeros(0, 4)), "reference (must be a float tensor|must hold 1|contains NaN)"),
        (lambda: NearestNeighbour(torch.zeros(3, 4).long()), "reference (must be a float tensor|must hold 1|contains NaN)"),
        (lambda: NearestNeighbour(torch.full((3, 4), torch.nan)), "reference (must be a float tensor|must hold 1|contains NaN)"),
        (lambda: NearestNeighbour(torch.zeros(3, 4))(torch.zeros(2, 5)), "samples of 4 values are wanted"),
        (lambda: TotalVariation()(torch.zeros(2, 5)), r"images \(N, C, H, W\)"),
        (lambda: TotalVariation()(torch.zeros(2, 3, 1, 1)), "two pixels or more"),
    ],
)
def test_settings_that_make_no_detector_of_pixels_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# CCU


def test_ccu_as_a_detector_is_its_confidence_and_its_classifiers_logits():
    net = balanced()
    made, x = ccu(net), torch.cat([images(), torch.rand(9, 1, 14, 14).double()])
    close(Certain(made)(x), made(x).amax(dim=1))
    close(Certain(made).encode(x), net(x))
    ratio, sure = made.log_ratio(x), net(x).log_softmax(dim=1).amax(dim=1)
    assert ratio.min() < 30 < ratio.max()
    close(Certain(made).aim(x), (ratio - 30).clamp(max=0) + sure)


def test_near_the_data_the_aim_is_the_score_and_far_away_it_has_a_gradient_where_that_has_none():
    detector = Certain(ccu(balanced()))
    detector.ccu.inside.log_widths.fill_(math.log(0.01))  # all but its centres then is far
    near, far = detector.ccu.inside.centres.detach(), images().requires_grad_()
    close(detector.aim(near), detector(near))
    score, aim = detector(far), detector.aim(far)
    close(score, torch.full_like(score, -math.log(CLASSES)))
    slopes = [torch.autograd.grad(value.sum(), far)[0].flatten(1).norm(dim=1) for value in (score, aim)]
    assert (slopes[0] == 0).all() and (slopes[1] > 1).all() and slopes[1].isfinite().all()
    [slope] = torch.autograd.grad(detector.aim(far).sum(), far)
    with torch.no_grad():
        assert (detector.ccu.log_ratio(far + 1e-6 * slope) > detector.ccu.log_ratio(far)).all()


def test_images_without_a_density_are_refused_by_mixtures_too():
    mixture = ccu(balanced()).inside
    for number in (math.nan, math.inf):
        with pytest.raises(ValueError, match="NaN or infinity: it has no density"):
            mixture.log_density(torch.full((2, 1, 14, 14), number))


# that they detect


@pytest.mark.long
def test_they_tell_digits_from_noise():
    from helpers.metrics import auroc

    train, test = load("digits", "train"), load("digits", "test")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.lenet(activation="relu", widths=(8, 16), hidden=32)
        fit(net, train, lambda m, x, y: F.cross_entropy(m(x), y), epochs=3, lr=0.1, seed=0)
    x, half = train.images, len(train.images) // 2
    noise = torch.rand(200, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    found = {
        "Mahalanobis": Mahalanobis.fit(net, x, train.labels, [1, 4, 8]),
        "Gram": Gram.fit(net, x[:half], held_out=x[half:]),
        "neighbour": NearestNeighbour(x),
        "total variation": TotalVariation(),
    }
    values = {name: auroc(d(test.images[:200]).detach(), d(noise).detach()) for name, d in found.items()}
    assert min(values.values()) > 0.95, values
