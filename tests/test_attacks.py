"""Attacks against closed forms, brute force and an independent float64 implementation, and everything they promise."""

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from helpers import attacks
from helpers.attacks import (
    adv_alpha,
    adv_logits,
    adv_loss,
    adv_loss_sign,
    apgd,
    deepfool,
    fgsm,
    gradient,
    logit_jacobian,
    minimal_shift,
    minus_log_odds,
    pgd,
    random_noise,
    square,
    targeted_fgsm,
    targeted_gradient,
)
from helpers.data import load
from helpers.inputs import NORMS
from helpers.losses import dlr_loss, least_likely, log_odds, margin
from helpers.metrics import accuracy
from helpers.models import mlp
from helpers.norms import dual, length, unit_l2
from helpers.training import fit


@dataclass(frozen=True)
class InNorm:
    """An attack in one norm, called as the attack is; `norm` is what its eps, or its distance, is measured in."""

    attack: Callable
    norm: str = "l2"
    options: dict = field(default_factory=dict)

    def __call__(self, model, x, y, *, eps, **options):
        eps = {} if self.attack is deepfool else {"eps": eps}
        return self.attack(model, x, y, **eps, **self.options, **options)

    @property
    def random(self):
        """A fresh generator, for attacks that draw from one."""
        return {"generator": seeded()} if self.attack in (pgd, apgd, square, random_noise) else {}

    @property
    def quick(self):
        return {pgd: {"steps": 10, "restarts": 1}, apgd: {"steps": 10}, square: {"queries": 60}}.get(self.attack, {})


def in_norms(attack, *norms):
    return [InNorm(attack, norm, {"norm": norm}) for norm in norms]


def over(attacks):
    return pytest.mark.parametrize("attack", [pytest.param(a, id=f"{a.attack.__name__} {a.norm}") for a in attacks])


def of(*functions):
    return [a for a in EVERY if a.attack in functions]


ONE_STEP = [*in_norms(adv_loss, *NORMS), *in_norms(adv_alpha, *NORMS), *in_norms(adv_logits, *NORMS), InNorm(adv_loss_sign),
            InNorm(fgsm, "linf")]  # fmt: skip
WITH_GRADIENT = [*ONE_STEP, *in_norms(pgd, "l2", "linf"), *in_norms(apgd, "l2", "linf")]
TARGETED = [InNorm(targeted_fgsm, "linf")]  # takes a class to go for as its y
NOISE = in_norms(random_noise, "l2", "linf")
BLIND = in_norms(square, "l2", "linf")
ATTACKS = [*WITH_GRADIENT, *TARGETED, *NOISE, *BLIND]
EVERY = [*ATTACKS, *in_norms(deepfool, *NORMS), InNorm(targeted_gradient, "linf")]  # deepfool takes no eps
RUN_THE_MODEL = [a for a in EVERY if a not in NOISE]
BOTH_NORMS = pytest.mark.parametrize("norm", ["l2", "linf"])
ALL_NORMS = pytest.mark.parametrize("norm", NORMS)
ORDER = {"l2": 2, "linf": np.inf, "l1": 1}
DUAL = {"l2": 2, "linf": 1, "l1": np.inf}
SHAPE = (1, 6, 6)  # of the images here
D = math.prod(SHAPE)


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def images(n=8, *, seed=0, dtype=torch.float64, low=0.3, high=0.7):
    """Images away from 0 and 1, so that a small perturbation is not clipped."""
    return low + (high - low) * torch.rand((n, *SHAPE), generator=seeded(seed), dtype=dtype)


def network(*, classes=4, seed=0, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(D, 16), nn.Tanh(), nn.Linear(16, classes)).to(dtype)


def linear(weight, bias=0.0):
    return lambda x: x.flatten(1) @ weight.T + bias


def predicted(model, x):
    return model(x).argmax(dim=1)


def directions(x_adv, x, norm="l2"):
    moved = (x_adv - x).flatten(1)
    return moved / length(moved, norm)[:, None]


def cosine(a, b):
    return torch.cosine_similarity(a.flatten(1).double(), b.flatten(1).double(), dim=1)


def softmax_jacobian(model, x):
    """α (N, K) and T = ∂α/∂x (N, K, d), sample by sample through the softmax itself."""

    def g(one):
        return model(one[None]).softmax(dim=1)[0]

    T = torch.stack([torch.autograd.functional.jacobian(g, one) for one in x])
    return torch.stack([g(one) for one in x]).detach(), T.flatten(2)


def written_out(g, norm):
    """Huang et al. 2015, §3.1.1, items 1 to 3, for one sample in numpy: the u of length 1 with the largest <g, u>."""
    g = np.asarray(g)
    if norm == "l2":
        return g / np.sqrt(np.sum(g**2))
    if norm == "linf":
        return np.sign(g)
    u, I = np.zeros_like(g), np.argmax(np.abs(g))
    u[I] = np.sign(g[I])
    return u


def algorithm_1(alpha, T, y, norm="l2"):
    """Algorithm 1 of Huang et al. 2015 for one sample, in numpy: the shortest r_(j), by a loop over the classes."""
    alpha, T = np.asarray(alpha), np.asarray(T)
    T = T / np.abs(T).max()  # changes the length of r, not its direction nor the choice of j
    shifts = [
        (alpha[y] - alpha[j]) / np.linalg.norm(T[j] - T[y], DUAL[norm]) * written_out(T[j] - T[y], norm)
        for j in range(len(alpha))
        if j != y
    ]
    return min(shifts, key=lambda r: np.linalg.norm(r, ORDER[norm]))


@pytest.fixture(scope="module")
def trained():
    """A small network trained on the embedded digits, and 150 test images with their labels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = mlp(784, (48,), 10)
        fit(
            model,
            load("digits", "train"),
            lambda m, x, y: nn.functional.cross_entropy(m(x), y),
            epochs=5,
            lr=0.2,
            seed=0,
        )
    test = load("digits", "test")[:150]
    assert accuracy(model, test.images, test.labels) > 0.85
    return model.requires_grad_(False), test.images, test.labels


def test_every_attack_of_the_module_is_tested_here():
    found = {
        name
        for name, f in vars(attacks).items()
        if inspect.isfunction(f) and not name.startswith("_") and "clip" in inspect.signature(f).parameters
        and list(inspect.signature(f).parameters)[:2] == ["model", "x"]
    }  # fmt: skip
    assert found == {a.attack.__name__ for a in EVERY}


def test_every_attack_is_in_l2_unless_another_norm_is_named():
    model, x = network(), images()
    y = predicted(model, x)
    for attack in (adv_loss, adv_alpha, adv_logits, pgd, random_noise):
        unnamed, l2 = (attack(model, x, y, eps=0.1, **InNorm(attack).random, **norm) for norm in ({}, {"norm": "l2"}))
        assert torch.equal(unnamed, l2), attack.__name__
    assert torch.equal(deepfool(model, x, y), deepfool(model, x, y, norm="l2"))


# closed forms and independent implementations


@pytest.mark.parametrize("clip", [False, True])
@over(of(adv_loss, adv_alpha, adv_logits, pgd))
def test_with_two_linear_classes_the_step_is_eps_along_the_difference_of_the_weights(attack, clip):
    weight = normal(2, D, seed=1)
    u = (weight[0] - weight[1]) / (weight[0] - weight[1]).norm()
    steepest = torch.from_numpy(written_out(u, attack.norm))
    eps = 0.08 if attack.norm == "linf" else 0.3
    y = torch.tensor([0, 1] * 4)
    side = (1 - 2 * y).double()  # the boundary runs through the gray image; no sample reaches it
    x = 0.5 + (0.5 * side[:, None] * u + 0.02 * normal(8, D, seed=2)).view(8, *SHAPE)
    model = linear(weight, -weight.sum(dim=1) * 0.5)
    assert torch.equal(predicted(model, x), y)
    x_adv = attack(model, x, y, eps=eps, clip=clip)
    torch.testing.assert_close(x_adv, x - (eps * side[:, None] * steepest).view_as(x), rtol=0, atol=1e-9)


@ALL_NORMS
def test_adv_loss_goes_against_the_gradient_of_alpha_y(norm):
    """With the minus that items 1 to 3 need, and in L1 with the sign of (T)_I: each of them turns some images around."""
    model, x = network(), images(32)
    y = torch.arange(32) % 4
    _, T = softmax_jacobian(model, x)
    expected = torch.stack([torch.from_numpy(-written_out(T[i, y[i]], norm)) for i in range(32)])
    assert 8 <= (expected.sum(dim=1) > 0).sum() <= 24
    torch.testing.assert_close(adv_loss(model, x, y, eps=0.2, norm=norm), x + 0.2 * expected.view_as(x), rtol=0, atol=1e-9)


def test_the_sign_attacks_move_every_pixel_that_matters_by_the_same_amount():
    model, x = network(), images()
    model[1].weight.data[:, :11] = 0  # 25 of the 36 pixels matter
    y = torch.arange(8) % 4
    sign = softmax_jacobian(model, x)[1][range(8), y].sign().view_as(x)
    assert (sign.flatten(1).abs().sum(dim=1) == 25).all()
    torch.testing.assert_close(adv_loss_sign(model, x, y, eps=0.5), x - 0.5 / 5 * sign, rtol=0, atol=1e-9)
    torch.testing.assert_close(fgsm(model, x, y, eps=0.1), x - 0.1 * sign, rtol=0, atol=1e-9)
    assert torch.equal(fgsm(model, x, y, eps=0.4), adv_loss(model, x, y, eps=0.4, norm="linf"))


@pytest.mark.parametrize("clip", [False, True])
def test_targeted_fgsm_goes_down_the_cross_entropy_of_the_target(clip):
    """In some pixels up, in others down, whether the target is the class that is read or another."""
    model, x = network(), images(32)
    target = torch.arange(32) % 4
    assert 0 < (predicted(model, x) == target).sum() < 32
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), target, reduction="sum"), leaf)
    expected = x - 0.4 * g.sign()
    assert expected.min() < 0 and expected.max() > 1
    expected = expected.clamp(0, 1) if clip else expected
    torch.testing.assert_close(targeted_fgsm(model, x, target, eps=0.4, clip=clip), expected, rtol=0, atol=1e-12)


def test_the_target_of_targeted_fgsm_gains():
    model, x = network(), images(32)
    target = least_likely(model(x))
    assert not (target == predicted(model, x)).any()
    gain = [model(targeted_fgsm(model, x, target, eps=eps)).softmax(dim=1)[range(32), target] for eps in (0, 0.01, 0.05)]
    assert (gain[2] > gain[1]).all() and (gain[1] > gain[0]).all()


def test_with_three_linear_classes_targeted_fgsm_moves_each_pixel_for_its_target():
    """From the point where all are equal, so that the target's gradient is its weight less the mean of the weights."""
    weight = torch.tensor([[3.0, -1.0, 2.0], [0.0, 4.0, -1.0], [0.0, 0.0, -4.0]])
    moved = targeted_fgsm(linear(weight), torch.zeros(3, 3), torch.arange(3), eps=0.5, clip=False)
    assert moved.tolist() == [[0.5, -0.5, 0.5], [-0.5, 0.5, 0.0], [-0.5, -0.5, -0.5]]


def test_targeted_fgsm_in_a_saturated_network_is_the_reverse_of_fgsm():
    """Where the target is read with a probability of 1, whose cross-entropy has no gradient."""
    model, x, y, *_ = saturated()
    x = x.float()
    moved = targeted_fgsm(model, x, y, eps=0.1, clip=False) - x
    torch.testing.assert_close(moved, x - fgsm(model, x, y, eps=0.1, clip=False), rtol=0, atol=1e-6)
    assert (moved != 0).all()


@pytest.mark.parametrize("scale", [1.0, 5.0, 20.0])
@ALL_NORMS
def test_adv_alpha_follows_algorithm_1(norm, scale):
    model, x = network(classes=6), images(24)
    model[3].weight.data *= scale
    y = predicted(model, x)
    alpha, T = softmax_jacobian(model, x)
    expected = torch.stack([torch.from_numpy(algorithm_1(*sample, norm)) for sample in zip(alpha, T, y, strict=True)])
    x_adv = adv_alpha(model, x, y, eps=0.2, norm=norm)
    torch.testing.assert_close(directions(x_adv, x, norm), expected / length(expected, norm)[:, None], rtol=0, atol=1e-7)


@ALL_NORMS
def test_adv_logits_follows_algorithm_1_on_the_logits(norm):
    model, x = network(classes=6), images(24, low=0.0, high=1.0)
    model[1].weight.data *= 6
    y = predicted(model, x)
    z, jacobian = logit_jacobian(model, x, y)
    expected = torch.stack([torch.from_numpy(algorithm_1(*sample, norm)) for sample in zip(z, jacobian, y, strict=True)])
    x_adv = adv_logits(model, x, y, eps=0.2, norm=norm, clip=False)
    torch.testing.assert_close(directions(x_adv, x, norm), expected / length(expected, norm)[:, None], rtol=0, atol=1e-9)
    other = adv_alpha(model, x, y, eps=0.2, norm=norm, clip=False)
    assert (length(x_adv - other) > 1e-3).any(), "not the paper's attack"


@ALL_NORMS
def test_adv_logits_takes_the_first_step_of_deepfool(norm):
    model, x = network(classes=6), images(24)
    y = predicted(model, x)
    first = deepfool(model, x, y, steps=1, norm=norm, clip=False)
    torch.testing.assert_close(
        directions(adv_logits(model, x, y, eps=0.2, norm=norm), x, norm), directions(first, x, norm), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("attack", [adv_loss, adv_alpha, adv_logits])
def test_a_single_pixel_moves_in_l1(attack):
    model, x = network(), images(32)
    moved = (attack(model, x, predicted(model, x), eps=0.2, norm="l1") - x).flatten(1)
    assert ((moved != 0).sum(dim=1) == 1).all()
    assert 5 < (moved > 0).any(dim=1).sum() < 27, "up in some images, down in others"


def test_the_nearest_class_of_the_linearised_softmax_is_not_the_runner_up():
    """The second most probable class lies far away, because its weights hardly differ from those of class y."""
    weight = torch.zeros(3, D, dtype=torch.float64)
    weight[1, 0], weight[2, 1] = 0.01, 5.0
    model, x = linear(weight, torch.tensor([1.0, 0.9, 0.5], dtype=torch.float64)), images(1) * 0
    x_adv = adv_alpha(model, x, torch.tensor([0]), eps=0.5)
    assert x_adv[0, 0, 0, 1].item() > 0.49
    assert predicted(model, x_adv).tolist() == [2]


def saturated(n=12, classes=5):
    """A linear network whose logits, times 1000, lie so far apart that a float32 softmax is exactly one-hot."""
    weight, x = 0.05 * normal(classes, D, seed=3), images(n, seed=4, low=0.1, high=0.9)
    z = 1000 * linear(weight)(x)
    top = z.topk(2, dim=1).values
    keep = ((top[:, 0] - top[:, 1]) > 20) & (top[:, 0] - z.amin(dim=1) < 600)
    x, z = x[keep], z[keep]
    y = z.argmax(dim=1)
    assert len(y) >= 5
    assert (z.float().softmax(dim=1)[range(len(y)), y] == 1).all()
    # T_j = α_j Σ_k α_k (w_j − w_k): without the cancellation of α_j (w_j − Σ_k α_k w_k)
    alpha = z.softmax(dim=1)
    T = 1000 * alpha[:, :, None] * torch.einsum("nk,jkd->njd", alpha, weight[:, None] - weight[None])
    return linear(1000 * weight.float()), x, y, alpha, T


@over(of(adv_loss, adv_loss_sign, adv_alpha))
def test_a_saturated_float32_network_is_attacked_in_the_direction_of_float64(attack):
    model, x, y, alpha, T = saturated()
    if attack.attack is adv_alpha:
        expected = [algorithm_1(*s, attack.norm) for s in zip(alpha, T, y, strict=True)]
    else:
        expected = [-written_out(T[i, y[i]], "linf" if attack.attack is adv_loss_sign else attack.norm) for i in range(len(y))]
    x_adv = attack(model, x.float(), y, eps=0.1)
    agreement = 0.98 if attack.norm == "linf" or attack.attack is adv_loss_sign else 0.9999  # a sign that is nearly 0 may turn
    assert (cosine(x_adv - x, torch.from_numpy(np.stack(expected))) > agreement).all()
    reached = length(x_adv - x, attack.norm)
    torch.testing.assert_close(reached, torch.full((len(y),), 0.1, dtype=torch.float64), rtol=1e-4, atol=0)


@over(of(pgd, fgsm, adv_logits))
def test_other_attacks_also_get_through_to_a_saturated_network(attack):
    model, x, y, *_ = saturated()
    x, eps = x.float(), 0.1 / math.sqrt(D) if attack.norm == "linf" else 0.1
    assert (log_odds(model(attack(model, x, y, eps=eps)), y) < log_odds(model(x), y) - 1).all()


@over(of(adv_alpha, adv_logits))
def test_gradients_whose_squares_leave_float32_are_followed(attack):
    """The logits barely depend on x, as where a defence hides its gradients."""
    weight, x = normal(4, D, dtype=torch.float32), images(8, dtype=torch.float32)
    bias, y = torch.tensor([0.3, 0.2, 0.0, 0.1]), torch.zeros(8).long()
    expected = attack(linear(1e-8 * weight, bias), x, y, eps=0.05)
    torch.testing.assert_close(attack(linear(1e-30 * weight, bias), x, y, eps=0.05), expected, rtol=0, atol=1e-5)


def test_logit_jacobian_is_that_of_autograd():
    model, x = network(), images()
    logits, jacobian = logit_jacobian(model, x, torch.zeros(8).long())
    expected = torch.stack([torch.autograd.functional.jacobian(lambda v: model(v[None])[0], one) for one in x])
    assert torch.equal(logits, model(x).detach())
    torch.testing.assert_close(jacobian, expected.flatten(2), rtol=1e-9, atol=1e-12)


def test_gradient_belongs_to_each_sample_alone():
    model, x, y = network(), images(), torch.arange(8) % 4
    alone = torch.cat([gradient(model, x[i : i + 1], y[i : i + 1], log_odds) for i in range(8)])
    torch.testing.assert_close(gradient(model, x, y, log_odds), alone, rtol=1e-9, atol=1e-12)


# minimal_shift


def by_brute_force(gap, rows, norm):
    """The shortest r in the plane after which some rival has caught up, over a grid of directions: (r, j)."""
    angles = torch.linspace(0, 2 * math.pi, 40_001, dtype=torch.float64)
    u = torch.stack([angles.cos(), angles.sin()], dim=1)
    u = u / torch.from_numpy(np.linalg.norm(u, ORDER[norm], axis=1))[:, None]
    speed = u @ rows.T  # (directions, J): how fast each gap closes
    needed = torch.where(speed > 0, gap / speed, torch.inf)
    best = needed.argmin()
    direction, j = best // len(gap), best % len(gap)
    return needed.min() * u[direction], j


@ALL_NORMS
def test_minimal_shift_is_the_shortest_of_all_directions(norm):
    rows, gap = normal(6, 4, 2, seed=5), 0.1 + normal(6, 4, seed=6).abs()
    rows[1, 2] = 0  # a class that never catches up, though its gap is the smallest
    gap[1, 2] = 1e-3
    rows[2, 0] = 0
    gap[3, 1] = torch.inf  # no rival, though its row is the longest
    rows[3, 1] *= 100
    gap[4, 0], rows[4, 0] = torch.inf, 0
    r, j = minimal_shift(gap, rows, norm)
    for i in range(6):
        expected, rival = by_brute_force(gap[i], rows[i], norm)
        assert j[i] == rival
        torch.testing.assert_close(r[i], expected, rtol=1e-3, atol=1e-4)
        assert np.linalg.norm(r[i], ORDER[norm]) <= np.linalg.norm(expected, ORDER[norm]) + 1e-12
        assert (rows[i, j[i]] @ r[i]).item() == pytest.approx(gap[i, j[i]].item(), rel=1e-9), "the gap is not closed"
    assert len(set(j.tolist())) > 1


@ALL_NORMS
def test_minimal_shift_without_a_way_is_zero(norm):
    gap = torch.tensor([[torch.inf, 0.5, 0.2], [0.0, 0.3, 0.2]])
    rows = torch.tensor([[[0.0, 0], [0, 0], [0, 0]], [[1.0, 2], [1, 0], [0, 1]]])
    assert torch.equal(minimal_shift(gap, rows, norm)[0], torch.zeros(2, 2))


@pytest.mark.parametrize("scale", [1e-36, 1e-25, 1e25, 1e36])
@ALL_NORMS
def test_minimal_shift_is_as_long_as_the_scale_of_g_asks(norm, scale):
    rows, gap = normal(6, 4, 9, seed=5, dtype=torch.float32), 0.1 + normal(6, 4, seed=6, dtype=torch.float32).abs()
    (r, j), (expected, rival) = minimal_shift(gap, rows * scale, norm), minimal_shift(gap, rows, norm)
    assert torch.equal(j, rival)
    torch.testing.assert_close(r * scale, expected, rtol=1e-4, atol=1e-6)
    assert minimal_shift(gap, rows * 1e-44, norm)[0].isfinite().all(), "a shift too long for float32"


def test_a_tie_that_no_shift_can_break_is_passed_over():
    r, j = minimal_shift(torch.tensor([[0.0, 0.5, 0.2]]), torch.tensor([[[0.0, 0], [0, 2], [0.1, 0]]]))
    assert j.tolist() == [1]
    torch.testing.assert_close(r, torch.tensor([[0.0, 0.25]]))


@ALL_NORMS
def test_after_the_minimal_shift_a_rival_of_an_affine_g_has_caught_up(norm):
    weight, bias, x = normal(5, 7, seed=7), normal(5, seed=8), normal(10, 7, seed=9)
    g = linear(weight, bias)
    y = predicted(g, x)
    z = g(x)
    gap = (z.gather(1, y[:, None]) - z).scatter(1, y[:, None], torch.inf)
    r, j = minimal_shift(gap, weight[None] - weight[y][:, None], norm)
    assert torch.equal(predicted(g, x + 1.001 * r), j)
    for angle in normal(50, 10, 7, seed=10):
        shorter = 0.999 * length(r, norm)[:, None] * angle / length(angle, norm)[:, None]
        assert torch.equal(predicted(g, x + shorter), y)


def test_the_nearest_rival_depends_on_the_norm():
    """One rival gains along many pixels a little, the other along one pixel a lot."""
    rows = torch.stack([torch.full((9,), 1.0), 4 * torch.eye(9)[0]])[None]
    assert [minimal_shift(torch.ones(1, 2), rows, norm)[1].item() for norm in NORMS] == [1, 0, 1]


# what every attack promises


def edge_images(n=8, *, dtype=torch.float32):
    """Images with many pixels at 0 and 1, where clipping is at work."""
    return images(n, seed=11, low=-0.5, high=1.5, dtype=dtype).clamp(0, 1)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eps", [0.01, 1.0, 20.0])
@over(ATTACKS)
def test_the_result_stays_in_its_ball_and_in_the_range_of_images(attack, eps, clip):
    model, x = network(dtype=torch.float32), edge_images()
    y, eps = predicted(model, x), min(eps, 1.0) if attack.norm == "linf" else eps
    x_adv = attack(model, x, y, eps=eps, **({} if clip else {"clip": False}))  # clip=True is the default
    reached = length(x_adv - x, attack.norm)
    moved = reached > 0  # in L1 the one pixel that moves may be at its end already
    assert moved.any() if clip and attack.norm == "l1" else moved.all()
    assert (reached <= eps * (1 + 1e-5)).all()
    if clip:
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
    elif attack.attack not in (pgd, apgd, square):  # whose best point may lie inside
        assert (reached >= eps * (1 - 1e-5)).all()


@over([*ONE_STEP, *TARGETED, *NOISE])
def test_a_perturbation_that_is_not_clipped_has_norm_eps(attack):
    model, x = network(), images()
    x_adv = attack(model, x, predicted(model, x), eps=0.15)
    expected = torch.full((8,), 0.15, dtype=torch.float64)
    torch.testing.assert_close(length(x_adv - x, attack.norm), expected, rtol=1e-9, atol=0)


@over(ATTACKS)
def test_eps_zero_returns_the_images(attack):
    model, x = network(dtype=torch.float32), edge_images()
    assert torch.equal(attack(model, x, torch.arange(8) % 4, eps=0), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@over(EVERY)
def test_the_result_is_a_new_tensor_like_the_images(attack, dtype):
    model, x = network(dtype=dtype), images(dtype=dtype)
    before, y = x.clone(), predicted(model, x)
    for eps in (0.0, 0.2):
        x_adv = attack(model, x, y, eps=eps)
        assert (x_adv.shape, x_adv.dtype, x_adv.device) == (x.shape, dtype, x.device)
        assert not x_adv.requires_grad
        x_adv += 1
        assert torch.equal(x, before), "the argument was changed, or shares memory with the result"
        assert not x.requires_grad


@over([a for a in RUN_THE_MODEL if a.attack not in (apgd, square)])  # these draw numbers, others in each precision
def test_float32_and_float64_agree(attack):
    x, model = images(), network()
    y = predicted(model, x)
    options = {"eps": 0.1} | ({"restarts": 1} if attack.attack is pgd else {})
    low = attack(network(dtype=torch.float32), x.float(), y, **options)
    high = attack(model, x, y, **options)
    torch.testing.assert_close(low.double(), high, rtol=0, atol=1e-4)


@over([a for a in EVERY if a not in BLIND])
def test_features_are_attacked_like_images(attack):
    model, x = linear(normal(3, 5)), 10 * normal(7, 5, seed=1)
    y = (predicted(model, x) + (attack.attack is targeted_gradient)) % 3  # where its target is sure already it stays
    x_adv = attack(model, x, y, eps=1e-3, clip=False)
    assert x_adv.shape == x.shape
    assert (x_adv != x).any(dim=1).all()


@over(EVERY)
def test_images_that_carry_a_graph_still_give_a_detached_result(attack):
    model, x = network(), images()
    y = predicted(model, x)
    assert not attack(model, x.requires_grad_(), y, eps=0.1).requires_grad
    assert x.grad is None


@pytest.mark.parametrize("eps", [0.01, 0.3])
@over(WITH_GRADIENT)
def test_the_true_class_loses(attack, eps):
    model, x = network(), images(32)
    y = predicted(model, x)
    assert (log_odds(model(attack(model, x, y, eps=eps)), y) < log_odds(model(x), y)).all()


@over(of(adv_loss, adv_loss_sign, fgsm))
def test_the_true_class_loses_where_it_was_not_predicted(attack):
    model, x = network(), images(32)
    y = (predicted(model, x) + 1) % 4
    assert (log_odds(model(attack(model, x, y, eps=0.01)), y) < log_odds(model(x), y)).all()


@over(WITH_GRADIENT)
def test_accuracy_falls_and_falls_further_with_eps(attack, trained):
    model, x, y = trained
    radii = {"linf": (0.03, 0.1, 0.3), "l1": (4.0, 12.0, 30.0), "l2": (0.5, 1.5, 4.0)}[attack.norm]
    if attack.attack is adv_loss_sign:
        radii = (1.0, 2.5, 6.0)
    options = attack.quick | {"clip": attack.norm != "l1"}  # a single pixel of an image can't fool by staying in the range
    curve = [accuracy(model, attack(model, x, y, eps=eps, **options), y) for eps in radii]
    assert accuracy(model, x, y) - 0.05 > curve[0] > curve[1] > curve[2]
    assert curve[2] < 0.1


def test_random_noise_of_equal_size_is_no_attack(trained):
    model, x, y = trained
    noisy = accuracy(model, random_noise(model, x, y, eps=1.5, generator=seeded()), y)
    assert noisy > accuracy(model, x, y) - 0.05
    for attack in (adv_loss, adv_loss_sign, adv_alpha, adv_logits):
        assert accuracy(model, attack(model, x, y, eps=1.5), y) < noisy - 0.2


@over(WITH_GRADIENT)
def test_on_two_linear_classes_the_log_odds_fall_with_eps(attack):
    weight, x = normal(2, D), images(6)
    model = linear(weight)
    y = predicted(model, x)
    curve = torch.stack([log_odds(model(attack(model, x, y, eps=e, clip=False)), y) for e in (0.0, 0.005, 0.01, 0.02)])
    fooled = curve < 0  # PGD stops there
    assert ((curve[1:] < curve[:-1]) | fooled[:-1]).all()


@over(of(adv_alpha, adv_logits, deepfool, pgd))
def test_wrong_samples_stay_as_they_are(attack):
    model, x = network(), images()
    y = predicted(model, x)
    y[::2] = (y[::2] + 1) % 4
    x_adv = attack(model, x, y, eps=0.3)
    assert torch.equal(x_adv[::2], x[::2])
    assert (length(x_adv - x)[1::2] > 1e-3).all()


@over(of(adv_alpha, adv_logits))
def test_a_sample_on_the_boundary_moves(attack):
    weight = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    x_adv = attack(linear(weight), torch.zeros(1, 2), torch.tensor([0]), eps=1.0, clip=False)
    assert length(x_adv, attack.norm).item() == pytest.approx(1)


@over([a for a in RUN_THE_MODEL if a.attack not in (apgd, square)])  # these draw numbers for a batch
def test_a_sample_is_attacked_alike_in_any_company(attack):
    """The logits are cubic in x and the samples' sizes differ by 10^3, so their gradients differ by 10^6 and more."""
    weight = normal(3, 5, seed=12)
    x = normal(9, 5, seed=13) * torch.tensor([1e-1, 1.0, 1e2]).repeat(3)[:, None]

    def model(v):
        return (v**3) @ weight.T

    y = predicted(model, x)
    y[4] = (y[4] + 1) % 3  # one is wrong already
    options = {"eps": 1e-3, "clip": False} | ({"restarts": 1, "steps": 5} if attack.attack is pgd else {})
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1], **options) for i in range(9)])
    together = attack(model, x, y, **options)
    torch.testing.assert_close(together - x, alone - x, rtol=1e-6, atol=1e-10)
    order = torch.tensor([8, 3, 1, 0, 2, 4, 7, 6, 5])
    torch.testing.assert_close(attack(model, x[order], y[order], **options) - x[order], (alone - x)[order], rtol=1e-6, atol=1e-10)


# the model is left as it was


@over(EVERY)
def test_parameters_receive_no_gradient_and_keep_the_one_they_have(attack):
    model, x = network(), images()
    y = predicted(model, x)
    attack(model, x, y, eps=0.3)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    model(x).sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    attack(model, x, y, eps=0.3)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


@over(EVERY)
def test_frozen_parameters_and_no_grad_do_not_matter(attack):
    model, x = network(), images()
    y = predicted(model, x)
    expected = attack(model, x, y, eps=0.3, **attack.random)
    with torch.no_grad():
        assert torch.equal(attack(network().requires_grad_(False), x, y, eps=0.3, **attack.random), expected)
        assert not torch.is_grad_enabled()


def noisy_network():
    """A network with dropout, and batch statistics unlike the running ones."""
    model = network()
    statistics = nn.BatchNorm1d(16).double()
    statistics.running_mean.copy_(normal(16, seed=14))
    statistics.running_var.copy_(normal(16, seed=15).abs() + 0.5)
    return nn.Sequential(model[0], model[1], statistics, model[2], nn.Sequential(nn.Dropout(0.5)), model[3])


@over(EVERY)
def test_training_mode_neither_changes_the_attack_nor_is_changed_by_it(attack):
    model, x = noisy_network().eval(), images()
    y = predicted(model, x)

    def run():
        return attack(model, x, y, eps=0.05, **attack.random)

    expected = run()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    model[0].eval()
    model[4].eval()  # the container only
    model[4][0].train()
    before = [m.training for m in model.modules()]
    assert torch.equal(run(), expected)
    assert [m.training for m in model.modules()] == before
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()), "running statistics moved"


@over(RUN_THE_MODEL)
def test_the_mode_comes_back_after_an_exception(attack):
    model, x = noisy_network().train(), images()
    model[3].eval()
    before = [m.training for m in model.modules()]

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(ValueError, match="labels run from"):
        attack(model, x, torch.full((8,), 4), eps=0.1)
    assert [m.training for m in model.modules()] == before
    model[5].register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        attack(model, x, torch.zeros(8).long(), eps=0.1)
    assert [m.training for m in model.modules()] == before


# projected gradient ascent


class Recorder:
    """A model that keeps what passes through it."""

    def __init__(self, model):
        self.model, self.seen = model, []

    def __call__(self, x):
        self.seen.append(x.detach().clone())
        return self.model(x)

    @property
    def sizes(self):
        return [len(x) for x in self.seen]


def test_pgd_passes_only_unfinished_samples_through_the_model():
    """Two classes on a line, 0 where x > 0. The step is 0.25: a sample at 0.1 is fooled after one, at 0.3 after two."""
    model = Recorder(linear(torch.tensor([[1.0, 0], [-1, 0]])))
    x = torch.tensor([[2.0, 0], [-0.1, 0], [0.1, 0], [0.3, 0], [0.9, 0]])
    x_adv = pgd(model, x, torch.zeros(5).long(), eps=1.0, steps=10, restarts=1, step="constant", clip=False)
    assert model.sizes == [5, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1]
    torch.testing.assert_close(x_adv[:, 0], torch.tensor([1.0, -0.1, -0.15, -0.2, -0.1]))
    assert torch.equal(x_adv[1], x[1])
    assert (x_adv[:, 1] == 0).all()


def test_pgd_stops_once_all_are_fooled():
    model = Recorder(linear(torch.tensor([[1.0, 0], [-1, 0]])))
    pgd(
        model,
        torch.tensor([[0.1, 0], [0.2, 0]]),
        torch.zeros(2).long(),
        eps=1.0,
        steps=10,
        restarts=5,
        step="constant",
        clip=False,
    )
    assert model.sizes == [2, 2]


def test_pgd_restarts_only_the_samples_that_are_left():
    model = Recorder(linear(torch.tensor([[1.0, 0], [-1, 0]])))
    pgd(
        model,
        torch.tensor([[3.0, 0], [0.2, 0]]),
        torch.zeros(2).long(),
        eps=1.0,
        steps=2,
        restarts=3,
        clip=False,
        step="constant",
        step_size=0.5,
    )
    assert model.sizes == [2, 2, 1] + 2 * [1, 1, 1]


def test_pgd_returns_fooled_samples_misclassified(trained):
    model, x, y = trained
    x_adv = pgd(model, x, y, eps=1.0, steps=10, restarts=2, generator=seeded())
    fooled = predicted(model, x_adv) != y
    assert 0.2 < fooled.double().mean() < 1
    assert (log_odds(model(x_adv), y)[~fooled] < log_odds(model(x), y)[~fooled]).all()
    wrong = predicted(model, x) != y
    assert wrong.any()
    assert torch.equal(x_adv[wrong], x[wrong]), "a sample that was wrong already needs no perturbation"


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("l2", 1.0), ("linf", 0.03), ("linf", 0.06)])
def test_pgd_is_at_least_as_strong_as_one_step(norm, eps, trained):
    model, x, y = trained
    strong = pgd(model, x, y, eps=eps, norm=norm, steps=20, restarts=2, generator=seeded())
    for attack in [a for a in ONE_STEP if a.norm == norm]:
        one = attack(model, x, y, eps=eps)
        assert accuracy(model, strong, y) <= accuracy(model, one, y)
        both = (predicted(model, strong) == y) & (predicted(model, one) == y)
        assert both.any()
        lower = log_odds(model(strong), y)[both] <= log_odds(model(one), y)[both] + 1e-3
        aims = attack.attack in (adv_alpha, adv_logits)  # at a class; what it takes from y there, others may have kept
        assert lower.double().mean() > 0.8 if aims else lower.all()


def bumpy(x):
    """Two classes; class 0 wins everywhere, by a margin with a local minimum every 0.4."""
    return torch.stack([4 + (15 * x).cos().sum(dim=1) + x.square().sum(dim=1), torch.zeros(len(x), dtype=x.dtype)], dim=1)


def test_pgd_returns_the_iterate_of_highest_loss():
    for seed in range(5):
        model, x, y = Recorder(bumpy), normal(1, 3, seed=seed), torch.tensor([0])
        x_adv = pgd(model, x, y, eps=1.0, steps=6, restarts=3, step="constant", step_size=0.7, clip=False, generator=seeded(seed))
        seen = torch.cat(model.seen)
        assert len(seen) == 3 * 7
        losses = -log_odds(bumpy(seen), y.expand(len(seen)))
        assert torch.equal(x_adv[0], seen[losses.argmax()])
        assert losses[-1] < losses.max(), "this test wants a last iterate that is not the best"


def test_pgd_returns_the_mistake_even_where_an_earlier_iterate_had_a_higher_loss():
    def model(x):
        p = x[:, 0]  # class 1 wins from p = 0.4 on; the loss, logit 2, is highest at p = 0.1
        return torch.stack([torch.ones_like(p), 10 * p - 3, -10 - (p - 0.1) ** 2], dim=1)

    options = {"eps": 1.0, "steps": 1, "restarts": 1, "step_size": 0.5, "clip": False}
    x_adv = pgd(model, torch.zeros(1, 1), torch.tensor([0]), loss=lambda logits, y: logits[:, 2], **options)
    assert x_adv.item() == pytest.approx(0.5)


@pytest.mark.parametrize("clip", [False, True])
@BOTH_NORMS
def test_every_iterate_of_pgd_is_allowed(norm, clip):
    model, x = Recorder(network()), edge_images(dtype=torch.float64)
    y = predicted(model, x)
    model.seen.clear()
    eps = {"l2": 0.4, "linf": 0.02}[norm]
    pgd(
        model,
        x[:1],
        y[:1],
        eps=eps,
        steps=5,
        restarts=4,
        step="constant",
        step_size=0.7 * eps,
        norm=norm,
        clip=clip,
        generator=seeded(),
    )
    seen = torch.cat(model.seen)
    reached = length(seen - x[:1], norm)
    assert (reached <= eps + 1e-9).all()
    assert (reached > 0.9 * eps).sum() >= 12, "the ball is not used"
    assert (seen.min() >= 0 and seen.max() <= 1) == clip
    first = torch.stack([s[0] for s in model.seen[::6]])
    assert torch.equal(first[0], x[0]), "the first restart begins at x"
    assert (length(first[1:] - x[0]) > 0).all()
    assert len(first.flatten(1).unique(dim=0)) == 4, "restarts begin alike"


@BOTH_NORMS
def test_pgd_starts_anywhere_in_the_ball(norm):
    model, x = Recorder(linear(torch.zeros(2, 2), torch.tensor([1.0, 0]))), torch.zeros(400, 2)
    pgd(model, x, torch.zeros(400).long(), eps=2.0, steps=1, restarts=2, norm=norm, clip=False, generator=seeded())
    start = model.seen[2]
    radius = length(start, norm)
    assert radius.max() <= 2 + 1e-5
    assert {"l2": 0.85, "linf": 1.2}[norm] < radius.mean() < {"l2": 1.15, "linf": 1.45}[norm]
    assert length(unit_l2(start).mean(dim=0, keepdim=True)) < 0.15


def test_pgd_depends_on_its_generator_and_on_nothing_else_that_is_random():
    x, y = normal(6, 3), torch.zeros(6).long()

    def run(seed, **options):
        return pgd(bumpy, x, y, **{"eps": 1.0, "steps": 5, "restarts": 3, "clip": False, "generator": seeded(seed), **options})

    torch.manual_seed(0)
    first = run(1)
    state = torch.get_rng_state()
    assert torch.equal(run(1), first)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert not torch.equal(run(2), first)
    assert torch.equal(run(1, restarts=1), run(2, restarts=1)), "the first restart begins at x"


def test_more_restarts_find_more():
    x, y = normal(20, 3), torch.zeros(20).long()
    options = {"eps": 1.0, "steps": 10, "clip": False}
    one, many = (minus_log_odds(bumpy(pgd(bumpy, x, y, restarts=n, generator=seeded(), **options)), y) for n in (1, 8))
    assert (many >= one).all()
    assert (many > one + 0.1).sum() > 5


def test_pgd_maximises_the_loss_it_is_given():
    model, x = network(), images()
    y = predicted(model, x)
    options = {"eps": 0.2, "steps": 5, "restarts": 1}
    assert (log_odds(model(pgd(model, x, y, loss=log_odds, **options)), y) > log_odds(model(x), y)).all()
    assert (dlr_loss(model(pgd(model, x, y, loss=dlr_loss, **options)), y) > dlr_loss(model(x), y)).all()
    torch.testing.assert_close(minus_log_odds(model(x), y), -log_odds(model(x), y))


def test_pgd_with_a_target_goes_there_whichever_class_is_nearer():
    """Class 1 is one unit away to the right, class 2 two units to the left."""
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    model, x, y = linear(weight, torch.tensor([0.0, -1.0, -2.0])), torch.zeros(2, 2), torch.tensor([0, 0])
    options = {"eps": 2.5, "steps": 10, "restarts": 1, "clip": False}
    x_adv = pgd(model, x, y, target=torch.tensor([1, 2]), **options)
    assert predicted(model, x_adv).tolist() == [1, 2]
    far = pgd(model, x, y, target=torch.tensor([1, 2]), **options | {"eps": 0.5})
    torch.testing.assert_close(far, torch.tensor([[0.5, 0], [-0.5, 0]]))
    wrong = pgd(model, x + torch.tensor([1.5, 0]), y, target=torch.tensor([2, 2]), **options)
    assert torch.equal(wrong, x + torch.tensor([1.5, 0])), "any wrong class counts"


def test_the_target_of_a_sample_follows_it_when_others_have_left():
    weight, x = normal(4, 6, seed=3), normal(30, 6, seed=4)
    model = linear(weight)
    y = predicted(model, x)
    target = (y + 1 + torch.arange(30) % 3) % 4
    options = {"eps": 0.4, "steps": 6, "restarts": 1, "clip": False}
    together = pgd(model, x, y, target=target, **options)
    assert 0 < (predicted(model, together) != y).sum() < 30
    alone = [pgd(model, x[i : i + 1], y[i : i + 1], target=target[i : i + 1], **options) for i in range(30)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("target", [torch.tensor([1, 2]), torch.tensor([1, 1, 3]), torch.tensor([[1], [2], [3]])], ids=str)
def test_a_target_is_another_class_for_each_sample(target):
    with pytest.raises(ValueError, match="one class for each sample, another than its own"):
        pgd(network(), images(3), torch.tensor([0, 1, 2]), eps=0.1, target=target)


@pytest.mark.parametrize(("given", "expected"), [({}, 2.5 * 0.4 / 8), ({"step_size": 0.03}, 0.03)])
@BOTH_NORMS
def test_the_length_of_a_pgd_step(norm, given, expected):
    model = Recorder(linear(torch.tensor([[1.0, 0.3], [-1, 0]])))
    how = {"step": "constant", "norm": norm, "clip": False}
    pgd(model, torch.tensor([[9.0, 0]]), torch.tensor([0]), eps=0.4, steps=8, restarts=1, **how, **given)
    assert length(model.seen[1] - model.seen[0], norm).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("steps", "restarts"), [(0, 1), (1, 0), (-3, 5), (40, -1)])
def test_pgd_needs_a_step_and_a_restart(steps, restarts):
    with pytest.raises(ValueError, match=f"must be at least 1, not {min(steps, restarts)}"):
        pgd(network(), images(), torch.zeros(8).long(), eps=0.1, steps=steps, restarts=restarts)


# a reject class

# class 0 at the origin, class 1 where x_1 > 1, class 2 rejects where x_0 > 0.5, which is nearer
CORNER = torch.tensor([[0.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), torch.tensor([0.0, -1.0, -1.0])


@BOTH_NORMS
def test_pgd_that_knows_of_the_reject_class_goes_on_to_a_wrong_class(norm):
    model, x, y = linear(*CORNER), torch.zeros(2, 2), torch.tensor([0, 1])
    x[1, 1] = 1.2  # a sample of class 1, for which class 0 is the mistake
    options = {"eps": 1.2, "steps": 20, "restarts": 1, "norm": norm, "clip": False}
    assert predicted(model, x).tolist() == [0, 1]
    assert predicted(model, pgd(model, x[:1], y[:1], **options)).tolist() == [2]
    x_adv = pgd(model, x, y, reject=True, **options)
    assert predicted(model, x_adv).tolist() == [1, 0]
    assert (length(x_adv - x, norm) <= 1.2 + 1e-6).all()


def test_an_image_that_is_rejected_already_is_no_success():
    model, x, y = linear(*CORNER), torch.tensor([[0.6, 0.9], [0.6, 1.5]]), torch.tensor([0, 0])
    assert predicted(model, x).tolist() == [2, 1]
    options = {"eps": 0.8, "steps": 20, "restarts": 1, "clip": False}
    assert torch.equal(pgd(model, x, y, **options), x)
    x_adv = pgd(model, x, y, reject=True, **options)
    assert predicted(model, x_adv).tolist() == [1, 1] and torch.equal(x_adv[1], x[1])


def test_without_a_wrong_class_in_reach_pgd_stays_in_the_batch_to_its_end():
    """Though the reject class is in reach; what returns is the iterate that comes nearest to class 1."""
    model = Recorder(linear(*CORNER))
    x_adv = pgd(model, torch.zeros(1, 2), torch.tensor([0]), eps=0.8, steps=8, restarts=2, reject=True, clip=False)
    assert model.sizes == 2 * 9 * [1]
    torch.testing.assert_close(x_adv, torch.tensor([[0.0, 0.8]]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"loss": dlr_loss}, {"target": (torch.arange(8) + 1) % 4}], ids=["", "DLR", "target"])
@BOTH_NORMS
def test_a_reject_class_that_never_wins_changes_nothing(norm, options):
    model, x = network(), images()
    y = torch.arange(8) % 4
    eps = {"l2": 0.3, "linf": 0.03}[norm]

    def with_dustbin(v):
        return torch.cat([model(v), torch.full((len(v), 1), -1e4, dtype=v.dtype)], dim=1)

    plain, rejecting = (
        pgd(f, x, y, eps=eps, steps=8, restarts=2, norm=norm, generator=seeded(), **options, **how)
        for f, how in ((model, {}), (with_dustbin, {"reject": True}))
    )
    assert (predicted(model, plain) != y).any() and (plain != x).any()
    torch.testing.assert_close(rejecting, plain, rtol=0, atol=1e-12)


@BOTH_NORMS
def test_pgd_with_a_reject_class_stays_in_its_ball_and_in_the_range_and_misleads_more(norm):
    model, x = network(classes=5), edge_images(32, dtype=torch.float64)
    y, eps = predicted(model, x), {"l2": 1.0, "linf": 0.15}[norm]
    x, y = x[y != 4], y[y != 4]
    options = {"eps": eps, "steps": 20, "restarts": 2, "norm": norm, "generator": seeded()}
    misread = []
    for reject in (False, True):
        x_adv = pgd(model, x, y, reject=reject, **options)
        assert (length(x_adv - x, norm) <= eps + 1e-9).all() and x_adv.min() >= 0 and x_adv.max() <= 1
        misread.append(((predicted(model, x_adv) != y) & (predicted(model, x_adv) != 4)).sum())
    assert misread[0] < misread[1]


@pytest.mark.parametrize(("y", "target"), [([0, 3], None), ([0, 1], [1, 3])], ids=["label", "target"])
def test_the_reject_class_is_neither_label_nor_target(y, target):
    target = None if target is None else torch.tensor(target)
    with pytest.raises(ValueError, match="labels run from . to 3; the model has classes 0 to 2"):
        pgd(network(), images(2), torch.tensor(y), eps=0.1, reject=True, target=target)


# DeepFool


@pytest.mark.parametrize("overshoot", [0.0, 0.02, 0.5])
@ALL_NORMS
def test_deepfool_is_exact_on_an_affine_classifier(norm, overshoot):
    weight, bias, x = normal(5, 7, seed=7), normal(5, seed=8), normal(40, 7, seed=9)
    model = Recorder(linear(weight, bias))
    z = model.model(x)
    y = z.argmax(dim=1)
    own = torch.arange(40), y
    distance = (z[own][:, None] - z) / length((weight[y][:, None] - weight).flatten(0, 1), dual(norm)).view(40, 5)
    distance[own] = torch.inf
    distance, rival = distance.min(dim=1)
    x_adv = deepfool(model, x, y, norm=norm, overshoot=overshoot, clip=False)
    assert model.sizes == [40, 40], "one step is enough"
    assert torch.equal(predicted(model, x_adv), rival)
    reached = length(x_adv - x, norm) / (1 + overshoot)
    assert (reached > distance).all()
    torch.testing.assert_close(reached, distance, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("norm", [pytest.param(norm, id=norm) for norm in NORMS])
def test_deepfool_passes_only_unfinished_samples_through_the_model(norm, trained):
    """Together, samples take at most one pass more a step than each takes alone; these differ."""
    model, x, y = trained[0], trained[1][:24], trained[2][:24]
    model = Recorder(model)
    together = deepfool(model, x, y, norm=norm, clip=False)
    sizes = model.sizes
    assert sizes[0] == 24 and sizes == sorted(sizes, reverse=True)
    alone = []
    for i in range(24):
        model.seen.clear()
        one = deepfool(model, x[i : i + 1], y[i : i + 1], norm=norm, clip=False)
        torch.testing.assert_close(together[i : i + 1], one, rtol=0, atol=1e-4)
        alone.append(len(model.seen))
    assert sum(alone) <= sum(sizes) <= sum(2 * passes - 1 for passes in alone)
    assert len(set(alone)) > 2


@ALL_NORMS
def test_deepfool_fools_every_sample_whoever_looks(norm, trained):
    """Also at other batch sizes and in float64, in which logits are rounded otherwise."""
    model, x, y = trained
    clip = norm != "l1"  # moving a pixel at a time, it may not stay in the range
    x_adv = deepfool(model, x, y, norm=norm, overshoot=0.0, clip=clip)
    fooled = predicted(model, x_adv) != y
    assert fooled.all()
    for size in (1, 7, 64):
        assert accuracy(model, x_adv, y, batch_size=size) == 0
    assert accuracy(copy.deepcopy(model).double(), x_adv.double(), y) == 0
    assert (x_adv.min() >= 0 and x_adv.max() <= 1) == clip
    wrong = predicted(model, x) != y
    assert wrong.any() and torch.equal(x_adv[wrong], x[wrong])


@ALL_NORMS
def test_deepfool_does_not_stop_at_a_mistake_that_rounding_may_undo(norm):
    """Class 1 rises to 1 + 10^-6 quickly, and from there on slowly: the first step ends there, a hair beyond class 0's 1."""

    def model(x):
        p = x[:, 0]
        edge = 1 + 1e-6
        return torch.stack([torch.ones_like(p), torch.where(p < edge, p, edge + 0.01 * (p - edge))], dim=1)

    options = {"norm": norm, "overshoot": 0.0, "clip": False}
    x, y = torch.tensor([[0.5]]), torch.tensor([0])
    assert -1e-5 < margin(model(deepfool(model, x, y, steps=1, **options)), y).item() < 0
    assert margin(model(deepfool(model, x, y, **options)), y).item() < -1e-5


def test_deepfool_in_a_norm_goes_the_shortest_way_in_that_norm(trained):
    model, x, y = trained
    ways = {norm: deepfool(model, x, y, norm=norm, clip=False) - x for norm in NORMS}
    for norm in NORMS:
        mean = {way: length(v, norm).mean().item() for way, v in ways.items()}
        assert min(mean, key=mean.get) == norm, mean


@ALL_NORMS
def test_deepfool_finds_nearer_mistakes_than_one_long_step(norm, trained):
    model, x, y = trained
    x, y = (t[predicted(model, x) == y] for t in (x, y))
    distance = length(deepfool(model, x, y, norm=norm, clip=False) - x, norm)
    short = torch.cat([
        adv_alpha(model, x[i : i + 1], y[i : i + 1], eps=0.9 * distance[i].item(), norm=norm, clip=False) for i in range(len(x))
    ])  # fmt: skip
    assert accuracy(model, short, y) > 0.8


@pytest.mark.parametrize("steps", [1, 3])
@ALL_NORMS
def test_deepfool_takes_at_most_its_steps_and_returns_where_it_got(norm, steps):
    model, x = Recorder(bumpy), normal(4, 3)
    x_adv = deepfool(model, x, torch.zeros(4).long(), steps=steps, norm=norm, clip=False)
    assert model.sizes == [4] * (steps + 1)
    assert torch.equal(x_adv, model.seen[-1]), "the last iterate"
    assert (length(x_adv - x) > 0).all()


@ALL_NORMS
def test_deepfool_stays_where_there_is_no_gradient(norm):
    x = images()
    assert torch.equal(
        deepfool(linear(torch.zeros(2, D).double(), torch.tensor([1.0, 0])), x, torch.zeros(8).long(), norm=norm), x
    )


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"steps": -1}, {"overshoot": -0.1}, {"overshoot": math.nan}, {"overshoot": math.inf}]
)
def test_deepfool_needs_a_step_and_an_overshoot(options):
    with pytest.raises(ValueError, match="steps must be at least 1 and overshoot finite and >= 0"):
        deepfool(network(), images(), torch.zeros(8).long(), **options)


# random noise


def test_random_noise_depends_on_its_generator_and_on_no_model():
    x, y = images(), torch.zeros(8).long()
    first = random_noise(None, x, y, eps=0.2, generator=seeded(1))
    assert torch.equal(random_noise(network(), x, y, eps=0.2, generator=seeded(1)), first)
    assert not torch.equal(random_noise(network(), x, y, eps=0.2, generator=seeded(2)), first)


def test_random_noise_has_no_preferred_direction():
    x = torch.zeros(4000, 3)
    u = random_noise(None, x, torch.zeros(4000).long(), eps=1.0, clip=False, generator=seeded())
    assert u.mean(dim=0).abs().max() < 0.05
    torch.testing.assert_close(u.T @ u / 4000, torch.eye(3) / 3, rtol=0, atol=0.03)


def test_random_noise_in_linf_moves_every_pixel_by_eps_up_or_down_alike():
    x = torch.full((4000, 3), 0.5, dtype=torch.float64)
    moved = random_noise(None, x, torch.zeros(4000).long(), eps=0.25, norm="linf", clip=False, generator=seeded()) - x
    assert moved.unique().tolist() == [-0.25, 0.25]
    sign = moved / 0.25
    assert sign.mean(dim=0).abs().max() < 0.05
    torch.testing.assert_close(sign.T @ sign / 4000, torch.eye(3, dtype=torch.float64), rtol=0, atol=0.05)


# input that no attack can work on


def with_pixel(value):
    x = images(3)
    x[1, 0, 2, 3] = value
    return x


BAD_INPUT = [
    pytest.param({"x": with_pixel(math.nan)}, "NaN or infinity", id="NaN pixel"),
    pytest.param({"x": with_pixel(math.inf)}, "NaN or infinity", id="infinite pixel"),
    pytest.param({"x": with_pixel(-math.inf)}, "NaN or infinity", id="minus infinite pixel"),
    pytest.param({"x": with_pixel(-0.01)}, r"must lie in \[0, 1\], not \[-0.01", id="pixel below 0"),
    pytest.param({"x": 255 * images(3)}, r"must lie in \[0, 1\].*scale them", id="pixels to 255"),
    pytest.param(
        {"x": (255 * images(3)).to(torch.uint8)}, r"float tensor, not .* uint8 .*: x.float\(\) / 255", id="uint8 images"
    ),
    pytest.param({"x": images(3).long()}, r"float tensor, not a tensor int64 .*: x.float\(\)", id="int64 images"),
    pytest.param({"x": images(3)[:, 0, 0, 0]}, r"a batch dimension .*, not a tensor float64 \(3,\)", id="one dimension"),
    pytest.param({"x": torch.tensor(0.5)}, r"batch dimension", id="no dimension"),
    pytest.param({"x": images(0), "y": torch.zeros(0).long()}, "empty batch", id="empty batch"),
    pytest.param({"y": torch.zeros(2).long()}, r"int64 of shape \(3,\), not a tensor int64 \(2,\)", id="too few labels"),
    pytest.param({"y": torch.zeros(4).long()}, r"int64 of shape \(3,\), not a tensor int64 \(4,\)", id="too many labels"),
    pytest.param({"y": torch.tensor(0)}, r"int64 of shape \(3,\), not a tensor int64 \(\)", id="one label for all"),
    pytest.param({"y": torch.tensor([[0], [1], [2]])}, r"labels must be int64 of shape \(3,\)", id="labels as a column"),
    pytest.param({"y": torch.tensor([0.0, 1, 2])}, "labels must be int64 .* not a tensor float32", id="float labels"),
    pytest.param({"y": torch.tensor([0, 1, 2]).int()}, "labels must be int64 .* not a tensor int32", id="int32 labels"),
    pytest.param({"y": torch.tensor([0, -1, 2])}, "labels run from -1", id="negative label"),
    pytest.param({"x": images(3).flatten(1), "clip": True}, "features have no range: clip=False", id="features with clip"),
    pytest.param({"x": images(3)[:, 0], "clip": True}, "clip=True is for images", id="images without channels"),
]
BAD_FIT = [  # only the model knows
    pytest.param({"y": torch.tensor([0, 1, 4])}, "labels run from 0 to 4; the model has classes 0 to 3", id="label too high"),
    pytest.param({"model": lambda x: network()(x) * math.nan}, "logits that are not finite", id="NaN logits"),
    pytest.param({"model": lambda x: network()(x) + math.inf}, "logits that are not finite", id="infinite logits"),
    pytest.param({"model": lambda x: network()(x)[:, 0]}, r"logits must be \(N, K\)", id="model returns (N,)"),
    pytest.param({"model": lambda x: network()(x)[:, :1]}, r"logits must be \(N, K\) with K >= 2", id="one class"),
    pytest.param({"model": lambda x: x}, r"logits must be \(N, K\).*end in its logits", id="model returns images"),
]


def call(attack, *, model=None, x=None, y=None, **options):
    model, x = model or network(), images(3) if x is None else x
    y = torch.tensor([0, 1, 2]) if y is None else y
    return attack(model, x, y, **{"eps": 0.1, **options})


@pytest.mark.parametrize(("bad", "message"), BAD_INPUT)
@over(EVERY)
def test_bad_input_is_refused(attack, bad, message):
    with pytest.raises(ValueError, match=message):
        call(attack, **bad)


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf, -math.inf])
@over(ATTACKS)
def test_an_eps_that_is_no_radius_is_refused(attack, eps):
    with pytest.raises(ValueError, match=f"eps must be a finite number >= 0, not {eps}"):
        call(attack, eps=eps)


@pytest.mark.parametrize("norm", ["L2", "l3", "", None, 2])
@pytest.mark.parametrize("attack", [adv_loss, adv_alpha, adv_logits, pgd, deepfool, random_noise])
def test_a_norm_of_another_name_is_refused(attack, norm):
    def model(x):
        raise AssertionError("the model was called first")

    with pytest.raises(ValueError, match=f"norm must be one of l2, linf.*, not {norm!r}"):
        attack(model, images(3), torch.tensor([0, 1, 2]), norm=norm, **({} if attack is deepfool else {"eps": 0.1}))


@pytest.mark.parametrize("attack", [pgd, random_noise])
def test_pgd_and_random_noise_have_no_l1_ball(attack):
    with pytest.raises(ValueError, match="norm must be one of l2, linf, not 'l1'"):
        call(attack, norm="l1")


@pytest.mark.parametrize(("bad", "message"), BAD_FIT)
@over(RUN_THE_MODEL)
def test_labels_and_logits_that_do_not_fit_are_refused(attack, bad, message):
    """Not asked of random_noise, which never runs the model."""
    with pytest.raises(ValueError, match=message):
        call(attack, **bad)


def test_pgd_goes_for_its_target_and_refuses_the_true_class():
    weight = torch.eye(3)
    x, y = torch.tensor([[1.0, 0.6, 0.5]]), torch.tensor([0])
    towards = pgd(linear(weight), x, y, eps=0.5, steps=20, restarts=1, clip=False, target=torch.tensor([2]))
    assert (towards - x)[0, 2] > 0.2 and abs((towards - x)[0, 1]) < 1e-6
    assert predicted(linear(weight), towards).item() == 2
    with pytest.raises(ValueError, match="another than its own"):
        pgd(linear(weight), x, y, eps=0.5, clip=False, target=y)


@over(EVERY)
def test_what_left_the_range_unclipped_can_be_attacked_again(attack):
    model, once = network(), 4 * images() - 1.5
    y = predicted(model, once)
    assert attack(model, once, y, eps=0.1, clip=False).isfinite().all()
    with pytest.raises(ValueError, match="must lie in"):
        attack(model, once, y, eps=0.1, clip=True)
