"""The same numbers in every precision, whatever a layer overwrites and whatever units a feature has."""

import copy
import math

import pytest
import torch
from torch import nn

from helpers import attacks, detectors, models
from helpers.data import load
from helpers.detectors.features import outputs_of
from helpers.losses import dlr_loss, entropy, log_odds
from helpers.metrics import auroc, eval_mode, knn_auroc, predict
from helpers.norms import length, steepest, unit_l2
from helpers.pretrained import pretrained
from helpers.purifiers import PCA, jpeg

HALVES = [torch.float16, torch.bfloat16]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 8, shape: tuple[int, ...] = (1, 8, 8), seed: int = 0) -> torch.Tensor:
    return torch.rand(n, *shape, generator=seeded(seed))


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    return made.eval().requires_grad_(False).to(dtype)


def predicted(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return predict(model, x).argmax(dim=1)


# layers' outputs


class Overwrites(nn.Module):
    """A layer that works in place and says so nowhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)


@pytest.mark.parametrize("second", [nn.ReLU(inplace=True), nn.Sequential(nn.Identity(), nn.ReLU6(inplace=True)), Overwrites()])
@pytest.mark.parametrize("between", [[], [nn.Flatten()]], ids=["next", "through a view"])
def test_a_layers_output_is_what_it_returned_whatever_the_next_one_overwrites(second, between):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), *between, second).eval()
    x = images()
    with torch.no_grad():
        alone = net[0](x)
        first, last = outputs_of(net, x, [0, len(net) - 1])
    assert torch.equal(first, alone) and (alone < 0).any()
    assert torch.equal(x, images()) and torch.equal(last, net(x))


def test_the_images_themselves_are_not_overwritten():
    x = images() - 0.5
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3))
    for f in (lambda: predict(net, x), lambda: outputs_of(net, x, [0, 2]), lambda: detectors.MaxSoftmax(net).eval()(x.clamp(0))):
        f()
        assert torch.equal(x, images() - 0.5)
    moved = attacks.fgsm(net, x, predicted(net, x), eps=0.1, clip=False)
    assert torch.equal(x, images() - 0.5) and moved.isfinite().all()
    with pytest.raises(ValueError, match="overwrites the images"):
        predict(Overwrites(), x.flatten(1))


@pytest.mark.parametrize("name", [n for n in models.zoo() if "glow" not in n and "autoencoder" not in n and "pca" not in n])
def test_layers_of_the_zoo_are_what_their_slices_give(name):
    about = models.card(name)["architecture"]
    net = models.load_pretrained(name)
    shape = {"lenet": (1, 28, 28), "resnet18": (1, 64, 64)}.get(about["name"], (3, 32, 32))
    if about["name"] == "mlp":
        shape = (1, 28, 28)
    if about["name"] == "cuda_convnet":
        shape = tuple(about["arguments"].get("shape", (1, 28, 28)))
    x = images(2, shape)
    with torch.no_grad(), eval_mode(net):
        found = outputs_of(net, x, range(len(net)))
        for i, f in enumerate(found):
            assert torch.equal(f, net[: i + 1](x)), f"layer {i}"


def test_layers_of_a_network_of_imagenet_are_what_their_slices_give():
    net, x = pretrained("efficientnet_lite0"), images(1, (3, 64, 64))
    with torch.no_grad():
        found = outputs_of(net, x, range(len(net)))
        for i in (1, 2, 3, len(net) - 5, len(net) - 4, len(net) - 1):
            assert torch.equal(found[i], net[: i + 1](x))


# float32 as float64, and features in any units


def scaled(net: nn.Sequential, factor: float) -> nn.Sequential:
    """The network with the first of its logits' features in another unit; what reads the features is not changed."""

    class Unit(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([factor * x[:, :1], x[:, 1:]], dim=1)

    return nn.Sequential(*net, Unit())


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_a_mahalanobis_distance_does_not_depend_on_a_features_unit(factor):
    x, y = images(200), torch.arange(200) % 3
    net = nn.Sequential(*network()[:3])
    scores = [detectors.Mahalanobis.fit(n, x, y, layers=[len(n) - 1])(images(50, seed=9)) for n in (net, scaled(net, factor))]
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["liang2020/classifier-cifar10", "liang2020/jem-cifar10", "abbasi2018/naive-vgg"])
def test_detectors_of_zoo_networks_are_the_same_in_float32_and_float64(name):
    net = models.load_pretrained(name)
    data = load("digits_rgb", "train")[:400]
    inside, outside = load("digits_rgb", "test").images[:60], images(60, (3, 32, 32))
    layers = [len(net) - 2, len(net) - 1]
    found = []
    for dtype in (torch.float32, torch.float64):
        x, made = data.images.to(dtype), copy.deepcopy(net).to(dtype)
        fitted = {
            "Mahalanobis": detectors.Mahalanobis.fit(made, x, data.labels, layers),
            "neighbours": detectors.NearestNeighbour(x),
            "confidence": detectors.MaxSoftmax(made),
            "ODIN": detectors.ODIN(made, 1000.0, 0.0),
            "JEM": detectors.JEM(made, "gradient norm"),
        }
        ranks = [g.whitening.shape[1] for g in fitted["Mahalanobis"].gaussians]
        with torch.no_grad():
            scores = {k: torch.cat([d(v.to(dtype)) for v in (inside, outside)]).double() for k, d in fitted.items()}
        found.append((ranks, scores, {k: auroc(v[:60], v[60:]) for k, v in scores.items()}))
    (r32, s32, a32), (r64, s64, a64) = found
    assert r32 == r64
    for k in s32:
        torch.testing.assert_close(s32[k], s64[k], rtol=2e-2, atol=1e-4 * s64[k].abs().max().item())
        assert a32[k] == pytest.approx(a64[k], abs=2e-3), k


def test_neighbours_and_components_are_the_same_in_both_precisions():
    x = load("digits", "train").images[:300]
    reference, clean, other = (f.flatten(1) for f in (x[:200], x[200:250], images(50, (1, 28, 28))))
    assert knn_auroc(reference, clean, other) == knn_auroc(*(f.double() for f in (reference, clean, other)))
    assert len(PCA.fit(x).components) == len(PCA.fit(x.double()).components)
    for factor in (1e-3, 1e3):
        assert len(PCA.fit(factor * x, 1.0).components) == len(PCA.fit(factor * x.double(), 1.0).components)


# scores that saturate


class Far(nn.Module):
    """Two logits, as far apart as the first value says."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x.flatten(1)[:, :1]
        return torch.cat([first, 0 * first], dim=1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: detectors.MaxSoftmax(Far()),
        lambda: detectors.JEM(Far(), "max softmax"),
        lambda: detectors.ODIN(Far(), 1.0, 0.0),
        lambda: detectors.Ensemble([Far(), Far()]),
    ],
    ids=["MaxSoftmax", "JEM", "ODIN", "Ensemble"],
)
def test_the_aim_rises_where_the_score_has_rounded_to_zero_and_is_the_score_before(make):
    detector, near, far = make(), torch.linspace(1.5, 60, 40)[:, None], torch.linspace(105, 160, 40)[:, None]
    assert torch.equal(detector.aim(near), detector.score(near))
    assert not detector.score(far).any() and (detector.aim(far).diff() > 0).all()
    far.requires_grad_()
    assert (torch.autograd.grad(detector.aim(far).sum(), far)[0] > 0).all()


def test_the_entropy_of_masked_classes_is_that_of_the_others():
    z = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    value = entropy(z)
    torch.testing.assert_close(value, torch.tensor([math.log(2)]))
    [slope] = torch.autograd.grad(value.sum(), z)
    assert slope[0, :2].isfinite().all()


# half precision, logits in another precision than the images, no gradient


@pytest.mark.parametrize("dtype", HALVES)
def test_what_many_values_sum_to_does_not_leave_half_precision(dtype):
    v = torch.full((2, 3, 224, 224), 0.7, dtype=dtype)
    for norm in ("l1", "l2", "linf"):
        torch.testing.assert_close(length(v, norm), length(v.float(), norm), rtol=1e-5, atol=0)
    assert unit_l2(v).isfinite().all() and steepest(v, "l2").dtype == dtype
    assert attacks.squared_distance(300 * v.flatten(1), 0 * v.flatten(1)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_attacks_follow_the_precision_of_the_images(dtype):
    model, x = network(dtype), images().to(dtype)
    y = predicted(model, x)
    for attack in (attacks.fgsm, attacks.pgd, attacks.adv_alpha):
        options = {"steps": 3, "restarts": 1} if attack is attacks.pgd else {}
        moved = attack(model, x, y, eps=0.1, **options)
        assert moved.dtype == dtype and moved.isfinite().all() and not torch.equal(moved, x)
    assert attacks.deepfool(model, x, y, steps=2).dtype == dtype
    z = torch.tensor([[2.0, 2.0, 2.0, 0.0]], dtype=dtype, requires_grad=True)
    [slope] = torch.autograd.grad(dlr_loss(z, torch.tensor([0])).sum(), z)
    assert slope.isfinite().all()


@pytest.mark.parametrize("inside", [torch.bfloat16, torch.float64], ids=str)
def test_a_model_that_computes_in_another_precision_than_its_images_is_attacked(inside):
    model, x = network(), images()

    def mixed(x: torch.Tensor) -> torch.Tensor:
        if inside == torch.float64:
            return copy.deepcopy(model).double()(x.double())
        with torch.autocast("cpu", dtype=inside):
            return model(x)

    y = predicted(model, x)
    assert mixed(x).dtype == inside
    for attack in (attacks.fgsm, attacks.pgd):
        moved = attack(mixed, x, y, eps=0.1)
        assert moved.dtype == x.dtype and (log_odds(model(moved), y) <= log_odds(model(x), y)).all()


@pytest.mark.parametrize("constant", [0.0, 50.0, 1000.0])
@pytest.mark.parametrize("margin", [0.1, 0.001])
def test_deepfools_distance_of_a_linear_network_is_its_margin_whatever_is_added_to_all_logits(constant, margin):
    weight = torch.eye(2, dtype=torch.float64)
    x = torch.tensor([[[[0.5 + margin, 0.5]]]], dtype=torch.float64)
    out = attacks.deepfool(lambda x: x.flatten(1) @ weight.T + constant, x, torch.tensor([0]), overshoot=0.02)
    assert length(out - x).item() == pytest.approx(1.02 * margin / 2**0.5, rel=1e-6)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_attacks_and_detectors_work_within_no_grad_and_inference_mode(mode):
    model, x = network(), images()
    y = predicted(model, x)
    detector = detectors.JEM(model, "gradient norm")
    expected = [attacks.pgd(model, x, y, eps=0.1, steps=3, restarts=1), detector(x), detectors.ODIN(model, 10.0, 0.01)(x)]
    with mode():
        given = x.clone()
        found = [
            attacks.pgd(model, given, y.clone(), eps=0.1, steps=3, restarts=1),
            detector(given),
            detectors.ODIN(model, 10.0, 0.01)(given),
        ]
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b) and not a.is_inference() and not a.requires_grad


def test_a_purifier_without_a_gradient_is_said_to_need_bpda():
    x = images(4, (3, 8, 8))
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))

    class Jpeg(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return jpeg(x)

    for trainable in (True, False):
        model = nn.Sequential(Jpeg(), net.requires_grad_(trainable))
        for attack in (attacks.fgsm, attacks.pgd, attacks.deepfool):
            with pytest.raises(ValueError, match="StraightThrough.*BPDA"):
                attack(model, x, predicted(model, x), **({} if attack is attacks.deepfool else {"eps": 0.1}))
