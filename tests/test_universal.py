"""Universal perturbations, the targeted gradient attack against plain loops and cases worked by hand, DeepFool's candidates."""

import importlib
import math

import pytest
import torch
from torch import nn

from helpers import metrics
from helpers.attacks import (
    deepfool,
    fooling_rate,
    targeted_gradient,
    universal,
    universal_gradient,
)
from helpers.data import load
from helpers.inputs import NORMS
from helpers.losses import log_odds
from helpers.models import mlp
from helpers.norms import dual, length
from helpers.training import fit

SHAPE = (1, 6, 6)  # of the images here
D = math.prod(SHAPE)
MODULE = importlib.import_module("helpers.attacks.universal")  # helpers.attacks.universal is the function of that name
EPS = {"l2": 0.4, "linf": 0.06}
BOTH = pytest.mark.parametrize("make", [universal, universal_gradient])
BOTH_NORMS = pytest.mark.parametrize("norm", ["l2", "linf"])


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def images(n=12, *, seed=0, dtype=torch.float64):
    return torch.rand((n, *SHAPE), generator=seeded(seed), dtype=dtype)


def network(*, classes=4, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(D, 16), nn.Tanh(), nn.Linear(16, classes)).to(dtype)
    model[3].weight.data *= 8  # so that its softmax goes from near 0 to near 1
    return model


def noisy_network():
    """A network with dropout, and batch statistics unlike the running ones."""
    model = network()
    statistics = nn.BatchNorm1d(16).double()
    statistics.running_mean.copy_(normal(16, seed=14))
    statistics.running_var.copy_(normal(16, seed=15).abs() + 0.5)
    return nn.Sequential(model[0], model[1], statistics, model[2], nn.Dropout(0.5), model[3])


def predicted(model, x):
    return model(x).argmax(dim=1)


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


def line(x):
    """Two classes by the first pixel: 0 below 0.5, with a margin of twice the distance."""
    first = x.flatten(1)[:, 0] - 0.5
    return torch.stack([-first, first], dim=1)


def on_line(*firsts):
    x = torch.full((len(firsts), *SHAPE), 0.5, dtype=torch.float64)
    x[:, 0, 0, 0] = torch.tensor(firsts)
    return x


def seed_of(order):
    """A seed whose generator draws this order first."""
    return next(s for s in range(1000) if torch.randperm(len(order), generator=seeded(s)).tolist() == order)


def in_ball(v, eps, norm):
    return v.clamp(-eps, eps) if norm == "linf" else v * min(1.0, eps / max(v.norm().item(), 1e-300))


def plain_universal(model, x, eps, norm, *, fooling, passes, batch_size, generator):
    """Algorithm 1 of Moosavi-Dezfooli et al. 2017, an image at a time; the ways of a batch begin at the same v."""
    own, v = predicted(model, x), torch.zeros_like(x[:1])
    for done in range(1, passes + 1):  # noqa: B007
        for batch in torch.randperm(len(x), generator=generator).split(batch_size):
            start, ways = v, torch.zeros_like(v)
            for i in batch.tolist():
                at = x[i : i + 1] + start
                if predicted(model, at).item() == own[i]:
                    ways = ways + deepfool(model, at, own[i : i + 1], steps=10, clip=False) - at
            v = in_ball(start + ways, eps, norm)
        if (predicted(model, (x + v).clamp(0, 1)) != own).double().mean() >= fooling:
            break
    return v[0].detach(), done


def plain_ascent(model, x, eps, norm, *, passes, batch_size, generator):
    own, v, step = predicted(model, x), torch.zeros_like(x[:1]), 0
    batches = math.ceil(len(x) / batch_size)
    for _ in range(passes):
        for batch in torch.randperm(len(x), generator=generator).split(batch_size):
            leaf = v.clone().requires_grad_()
            p = model(x[batch] + leaf).softmax(dim=1).gather(1, own[batch, None])
            (g,) = torch.autograd.grad(((1 - p) / p).log().clamp_max(9.0).sum(), leaf)
            size = (1 - 0.9 * step / (passes * batches)) * eps / 5
            v = in_ball(v + size * (g.sign() if norm == "linf" else g / g.norm()), eps, norm)
            step += 1
    return v[0]


# the universal perturbation


@pytest.mark.parametrize("batch_size", [1, 5, 12, 100])
@BOTH_NORMS
def test_universal_is_the_plain_loop(norm, batch_size):
    model, x = network(), images()
    how = {"fooling": 1.0, "passes": 3, "batch_size": batch_size}
    expected, done = plain_universal(model, x, EPS[norm], norm, generator=seeded(3), **how)
    assert done == 3 and expected.norm() > 0.1
    v = universal(model, x, eps=EPS[norm], norm=norm, generator=seeded(3), **how)
    torch.testing.assert_close(v, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("batch_size", [1, 5, 12, 100])
@BOTH_NORMS
def test_universal_gradient_is_the_plain_loop(norm, batch_size):
    model, x = network(), images()
    how = {"passes": 3, "batch_size": batch_size}
    expected = plain_ascent(model, x, EPS[norm], norm, generator=seeded(3), **how)
    v = universal_gradient(model, x, eps=EPS[norm], norm=norm, momentum=0, generator=seeded(3), **how)
    torch.testing.assert_close(v, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("order", "batch_size", "first"),
    [([1, 0], 1, 1.02 * 0.3), ([0, 1], 1, 1.02 * 0.1 + 1.02 * (0.3 - 1.02 * 0.1)), ([0, 1], 2, 1.02 * 0.4)],
    ids=["the farther first", "the nearer first", "both at once"],
)
def test_an_image_that_v_fools_already_adds_nothing(order, batch_size, first):
    """0.1 and 0.3 from the boundary: what the farther image needs fools the nearer, which then never comes to DeepFool."""
    model, x = Recorder(line), on_line(0.4, 0.2)
    v = universal(model, x, eps=1.0, passes=1, batch_size=batch_size, generator=seeded(seed_of(order)))
    assert v.flatten()[0].item() == pytest.approx(first, abs=1e-4) and (v.flatten()[1:] == 0).all()
    deepfools = 1 if order == [1, 0] else 2 if batch_size == 1 else 1
    own, scored, checked = 1, 1, 2 // batch_size
    assert len(model.seen) == own + scored + checked + 2 * deepfools  # a look, and one with its jacobian


def test_only_the_images_that_are_left_in_a_batch_go_to_deepfool():
    model, x = Recorder(line), on_line(0.4, 0.2, 0.45)
    v = universal(model, x, eps=0.15, passes=2, fooling=1.0, batch_size=3)
    assert v.flatten()[0] == 0.15
    # its own classes, three ways to go, the rate; then the farthest image's way alone, and the rate
    assert model.sizes == [3, *(3, 3, 3), 3, *(3, 1, 1), 3]


@BOTH_NORMS
@BOTH
def test_v_lies_in_its_ball(make, norm):
    model, x = network(dtype=torch.float32), images(dtype=torch.float32)
    for eps in (1e-3, EPS[norm], 5.0 if norm == "l2" else 1.0):
        v = make(model, x, eps=eps, norm=norm, passes=3, batch_size=4, generator=seeded())
        assert 0 < length(v[None], norm).item() <= eps * (1 + 1e-6)
    if make is universal:  # no image can be fooled so near, so that it goes to the edge
        v = make(model, x, eps=1e-3, norm=norm, passes=3, batch_size=4, generator=seeded())
        assert length(v[None], norm).item() == pytest.approx(1e-3, rel=1e-5)


@BOTH
def test_eps_zero_moves_nothing(make):
    v = make(network(), images(), eps=0, passes=2)
    assert torch.equal(v, torch.zeros(SHAPE).double())


@pytest.mark.parametrize(("fooling", "rates"), [(0.25, 1), (0.5, 2), (0.75, 3), (1.0, 7)])
def test_universal_stops_after_the_pass_that_fools_enough_and_at_the_last(fooling, rates, monkeypatch):
    """A pass with this in DeepFool's place gains 0.1 on the line; images at 0.41, 0.31, 0.21 are fooled, the one at 0.95 not."""
    model, x = Recorder(line), on_line(0.41, 0.31, 0.21, 0.95)

    def creeping(model, at, held, *, steps, candidates, clip):
        assert (steps, candidates, clip) == (10, None, False)
        moved = at.clone()
        moved[:, 0, 0, 0] += 0.1 / len(at)  # their sum is the way
        return moved

    monkeypatch.setattr(MODULE, "deepfool", creeping)
    v = universal(model, x, eps=0.45, passes=7, fooling=fooling, batch_size=4)
    assert v.flatten()[0].item() == pytest.approx(min(0.1 * rates, 0.45))
    assert model.sizes == [4] + rates * [4, 4]


def test_universal_hands_deepfool_its_steps_and_candidates(monkeypatch):
    handed = []

    def spy(*arguments, **how):
        handed.append(how)
        return deepfool(*arguments, **how)

    monkeypatch.setattr(MODULE, "deepfool", spy)
    universal(network(), images(), eps=0.06, passes=1, steps=3, candidates=2)
    assert handed == [{"steps": 3, "candidates": 2, "clip": False}]


@BOTH
def test_the_generator_alone_orders_the_images(make):
    model, x = network(), images()
    how = {"eps": 0.06, "passes": 1, "batch_size": 3}
    before = torch.get_rng_state()
    first = make(model, x, generator=seeded(1), **how)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    torch.manual_seed(99)
    assert torch.equal(make(model, x, generator=seeded(1), **how), first)
    assert not torch.equal(make(model, x, generator=seeded(2), **how), first)
    continued = seeded(1)
    make(model, x, generator=continued, **how)
    assert not torch.equal(make(model, x, generator=continued, **how), first)


@BOTH
def test_without_a_generator_torchs_own_orders_the_images(make):
    model, x = network(), images()
    how = {"eps": 0.06, "passes": 1, "batch_size": 3}
    torch.manual_seed(1)
    first, second = make(model, x, **how), make(model, x, **how)
    torch.manual_seed(1)
    assert torch.equal(make(model, x, **how), first) and not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@BOTH
def test_v_is_a_new_tensor_like_an_image(make, dtype):
    model, x = network(dtype=dtype), images(dtype=dtype)
    before = x.clone()
    for eps in (0.0, 0.06):
        v = make(model, x, eps=eps, passes=1)
        assert (v.shape, v.dtype, v.requires_grad) == (SHAPE, dtype, False)
        v += 1
        assert torch.equal(x, before)


@BOTH
def test_float32_and_float64_agree(make):
    how = {"eps": 0.06, "passes": 1, "batch_size": 4}
    high = make(network(), images(), generator=seeded(), **how)
    low = make(network(dtype=torch.float32), images().float(), generator=seeded(), **how)
    torch.testing.assert_close(low.double(), high, rtol=0, atol=1e-4)


@pytest.mark.parametrize("make", [universal, universal_gradient, targeted_gradient])
def test_what_they_return_carries_no_graph_and_parameters_no_gradient(make):
    model, x = network(), images()
    y = {"target": torch.arange(12) % 4} if make is targeted_gradient else {"passes": 1, "generator": seeded()}
    expected = make(model, x, eps=0.06, **y)
    y |= {"generator": seeded()} if "generator" in y else {}
    result = make(model, x.clone().requires_grad_(), eps=0.06, **y)
    assert not result.requires_grad and torch.equal(result, expected)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    model(x).sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    y |= {"generator": seeded()} if "generator" in y else {}
    with torch.no_grad():
        assert torch.equal(make(model, x, eps=0.06, **y), expected)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("make", [universal, universal_gradient, targeted_gradient, fooling_rate])
def test_training_mode_neither_changes_the_result_nor_is_changed_by_it(make):
    model, x = noisy_network().eval(), images()

    def run():
        if make is fooling_rate:
            return torch.tensor(fooling_rate(model, x, torch.full(SHAPE, 0.1)))
        if make is targeted_gradient:
            return targeted_gradient(model, x, torch.arange(12) % 4, eps=0.06)
        return make(model, x, eps=0.06, passes=2, batch_size=5, generator=seeded())

    expected = run()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    model[4].eval()
    before = [m.training for m in model.modules()]
    assert torch.equal(run(), expected)
    assert [m.training for m in model.modules()] == before
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()), "running statistics moved"


@pytest.mark.parametrize("make", [universal, universal_gradient, targeted_gradient])
def test_large_images_pass_in_batches_without_changing_the_result(make, monkeypatch):
    model, x = Recorder(network()), images(25)

    def run():
        if make is targeted_gradient:
            return targeted_gradient(model, x, torch.arange(25) % 4, eps=0.2, confidence=0.6)
        return make(model, x, eps=0.06, passes=2, batch_size=25, generator=seeded())

    expected = run()
    assert max(model.sizes) == 25
    model.seen.clear()
    monkeypatch.setattr(metrics, "BATCH", dict.fromkeys(metrics.BATCH, (10, 1)))
    torch.testing.assert_close(run(), expected, rtol=0, atol=1e-9)
    assert max(model.sizes) == 10


def test_the_callback_sees_v_after_each_pass():
    model, x, seen = network(), images(), []
    v = universal_gradient(model, x, eps=0.06, passes=4, batch_size=5, generator=seeded(), callback=seen.append)
    assert len(seen) == 4 and torch.equal(seen[-1], v)
    assert len({p.sum().item() for p in seen}) == 4, "of each pass its own tensor"
    for p in seen:
        assert p.shape == SHAPE and p.abs().max() <= 0.06


def test_the_step_falls_to_a_tenth():
    """Far from the boundary and the ball's edge: with one batch a pass, 4 passes of steps 1, 0.775, 0.55, 0.325 times 0.01."""
    seen, x = [], on_line(0.1)
    universal_gradient(line, x, eps=1.0, passes=4, step_size=0.01, callback=seen.append)
    assert [v.flatten()[0].item() for v in seen] == pytest.approx([0.01, 0.01775, 0.02325, 0.0265])
    v = universal_gradient(line, x, eps=0.1, passes=1)
    assert v.flatten()[0].item() == pytest.approx(0.1 / 5)


def test_what_is_fooled_by_more_than_the_cap_does_not_pull():
    """A step is 0.1 to 0.028 on the line, the odds twice the way past 0.5. The image at 0.45 is past a cap of 0.05 at once."""
    x = on_line(0.45)
    whole = sum(0.1 * (1 - 0.9 * k / 5) for k in range(5))
    for cap, expected in ((9.0, whole), (0.05, 0.1)):
        v = universal_gradient(line, x, eps=1.0, passes=5, step_size=0.1, momentum=0, cap=cap)
        assert v.flatten()[0].item() == pytest.approx(expected), cap
    near = on_line(0.45, 0.1)  # the other one goes on pulling
    v = universal_gradient(line, near, eps=1.0, passes=5, step_size=0.1, momentum=0, cap=0.05)
    assert v.flatten()[0].item() == pytest.approx(whole)


def test_both_fool_many_digits_and_random_signs_fool_few():
    model = mlp(784, (48,), 10)
    fit(model, load("digits", "train"), lambda m, x, y: nn.functional.cross_entropy(m(x), y), epochs=5, lr=0.2, seed=0)
    test = load("digits", "test").images
    x, held, eps = test[:100], test[100:300], 0.3
    noise = eps * (torch.rand(x[0].shape, generator=seeded()) < 0.5).float().mul(2).sub(1)
    assert fooling_rate(model, held, noise) < 0.3
    for make in (universal, universal_gradient):
        v = make(model, x, eps=eps, generator=seeded())
        assert fooling_rate(model, held, v) > 0.5, make.__name__
    plain = universal_gradient(model, x, eps=eps, passes=5, momentum=0, generator=seeded())
    assert fooling_rate(model, held, v) >= fooling_rate(model, held, plain), "momentum and more passes take no less"


def test_the_fooling_rate_counts_changed_classes_of_clipped_images():
    x = on_line(0.1, 0.4, 0.6, 0.9)
    v = torch.zeros(SHAPE).double()
    v[0, 0, 0] = 0.2
    assert fooling_rate(line, x, v) == 0.25
    assert fooling_rate(line, x, v, torch.tensor([1, 0, 1, 1])) == 0.5
    assert fooling_rate(line, x, -v) == 0.25 and fooling_rate(line, x, 0 * v) == 0

    def total(x):  # what leaves the range would count
        return torch.stack([torch.full((len(x),), 1.05).double(), x.flatten(1)[:, 0]], dim=1)

    assert fooling_rate(total, x, v) == 0


# DeepFool's candidates


class Doubling(torch.autograd.Function):
    """2 x, counting the backward passes that go through it."""

    passes = 0

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        Doubling.passes += 1
        return 2 * g


@pytest.mark.parametrize("candidates", [3, 4, 100])
@pytest.mark.parametrize("norm", NORMS)
def test_as_many_candidates_as_rivals_are_all_of_them(norm, candidates):
    model, x = network(), images()
    y = predicted(model, x)
    y[::3] = (y[::3] + 1) % 4  # some are wrong already
    expected = deepfool(model, x, y, norm=norm, clip=False)
    torch.testing.assert_close(deepfool(model, x, y, norm=norm, clip=False, candidates=candidates), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("candidates", [1, 2, None])
def test_each_rival_costs_a_backward_pass_a_step(candidates):
    weight, x = normal(5, 7, seed=7), normal(6, 7, seed=9)

    def model(x):
        return (Doubling.apply(x) @ weight.T).sin()

    y = predicted(model, x)
    Doubling.passes = 0
    deepfool(model, x, y, steps=1, clip=False, candidates=candidates)
    assert Doubling.passes == (4 if candidates is None else candidates)


@pytest.mark.parametrize("norm", NORMS)
def test_one_candidate_is_the_runner_up(norm):
    """Though another class is nearer; on an affine classifier the way to it is known."""
    weight, bias, x = normal(5, 7, seed=7), normal(5, seed=8), normal(40, 7, seed=9)

    def model(x):
        return x @ weight.T + bias

    order = model(x).argsort(dim=1, descending=True)
    own, second = order[:, 0], order[:, 1]
    distance = (model(x)[range(40), own] - model(x)[range(40), second]) / length(weight[second] - weight[own], dual(norm))
    x_adv = deepfool(model, x, own, steps=1, overshoot=0.0, norm=norm, clip=False, candidates=1)
    torch.testing.assert_close(length(x_adv - x, norm), distance, rtol=1e-4, atol=1e-3)
    nearest = length(deepfool(model, x, own, overshoot=0.0, norm=norm, clip=False) - x, norm)
    assert (distance > nearest + 1e-2).sum() >= 3
    fooled = predicted(model, x_adv)
    assert (fooled != own).all() and (fooled == second).sum() >= 20


def test_the_rivals_stay_those_of_the_image():
    """Class 2 is second at x; where the first step leads, class 1 is second, and nothing more leads there."""

    def model(x):
        p = x[:, 0]
        return torch.stack([1 - 0 * p, 5 * p - 4.5, 0.5 + 0.2 * p - 0.1 * p**2], dim=1)

    x = torch.zeros(1, 1).double()
    free, held = (deepfool(model, x, torch.tensor([0]), steps=1, clip=False, candidates=c).item() for c in (2, 1))
    assert free == pytest.approx(1.02 * 1.1, rel=1e-3) and held == pytest.approx(1.02 * 2.5, rel=1e-3)
    start = torch.tensor([[0.85]]).double()
    assert model(start).argsort(descending=True).tolist() == [[0, 2, 1]]
    two = deepfool(model, start, torch.tensor([0]), steps=2, clip=False, candidates=1)
    slope = 0.2 - 0.2 * 0.85
    first = (1 - model(start)[0, 2].item()) / slope
    assert two.item() == pytest.approx(0.85 + 1.02 * first, rel=1e-3), "fooled by class 1, which was no candidate"


@pytest.mark.parametrize("candidates", [0, -1])
def test_no_candidates_are_refused(candidates):
    with pytest.raises(ValueError, match=f"candidates must be at least 1, or None for all classes, not {candidates}"):
        deepfool(network(), images(), torch.zeros(12).long(), candidates=candidates)
    with pytest.raises(ValueError, match="candidates must be at least 1"):
        universal(network(), images(), eps=0.1, candidates=candidates)


# the targeted gradient attack


def plain_targeted(model, one, target, *, eps, step, steps, confidence, clip=True):
    """One image (1, ...), stopping before the step at which the target has its confidence."""
    at = one.clone()
    for _ in range(steps):
        leaf = at.clone().requires_grad_()
        odds = log_odds(model(leaf), target)
        if odds.item() >= math.log(confidence / (1 - confidence)):
            break
        (g,) = torch.autograd.grad(odds.sum(), leaf)
        at = one + (at + step * g / g.abs().max() - one).clamp(-eps, eps)
        at = at.clamp(0, 1) if clip else at
    return at


HOW = {"eps": 0.2, "step": 0.03, "steps": 25, "confidence": 0.6}


def test_targeted_gradient_is_the_plain_loop_to_the_bit():
    model, x, target = network(), images(), torch.arange(12) % 4
    hand = torch.cat([plain_targeted(model, x[i : i + 1], target[i : i + 1], **HOW) for i in range(12)])
    alone = torch.cat([targeted_gradient(model, x[i : i + 1], target[i : i + 1], **HOW) for i in range(12)])
    assert torch.equal(alone, hand)
    torch.testing.assert_close(targeted_gradient(model, x, target, **HOW), hand, rtol=0, atol=1e-10)
    unclipped = torch.cat([plain_targeted(model, x[i : i + 1], target[i : i + 1], **HOW, clip=False) for i in range(12)])
    assert not torch.equal(unclipped, hand)
    torch.testing.assert_close(targeted_gradient(model, x, target, **HOW, clip=False), unclipped, rtol=0, atol=1e-10)


def test_its_numbers_are_the_scripts():
    model, x, target = network(), images(), torch.arange(12) % 4
    scripts = {"eps": 3 / 255, "step": 7 / 255, "steps": 100, "confidence": 0.99, "clip": True}
    assert torch.equal(targeted_gradient(model, x, target), targeted_gradient(model, x, target, **scripts))


def test_images_leave_the_batch_when_their_target_is_confident():
    """The odds are 10 times the first value and have to reach log 99 = 4.6; a step is 0.1."""
    model = Recorder(lambda x: torch.stack([-10 * x[:, 0], 0 * x[:, 0]], dim=1))
    x, target = torch.tensor([[0.0, 7], [0.3, 7], [0.5, 7]]), torch.tensor([1, 1, 1])
    x_adv = targeted_gradient(model, x, target, eps=1.0, step=0.1, steps=20, clip=False)
    torch.testing.assert_close(x_adv, torch.tensor([[0.5, 7], [0.5, 7], [0.5, 7]]))
    assert torch.equal(x_adv[2], x[2]), "it was there"
    assert model.sizes == [3, 2, 2, 1, 1, 1]
    model.seen.clear()
    assert targeted_gradient(model, x, target, eps=1.0, step=0.1, steps=2, clip=False)[:, 0].tolist() == pytest.approx(
        [0.2, 0.5, 0.5]
    )
    assert model.sizes == [3, 2]
    model.seen.clear()
    held = targeted_gradient(model, x, target, eps=0.25, step=0.1, steps=9, clip=False)
    assert held[:, 0].tolist() == pytest.approx([0.25, 0.5, 0.5]) and model.sizes == [3, 2, 2, *6 * [1]]


@pytest.mark.parametrize("confidence", [0.3, 0.6, 0.8])
def test_it_stops_at_its_confidence(confidence):
    model, x, target = network(), images(), torch.arange(12) % 4
    x_adv = targeted_gradient(model, x, target, eps=0.5, step=0.002, steps=500, confidence=confidence)
    before, after = (model(at).softmax(dim=1)[range(12), target] for at in (x, x_adv))
    moved = before < confidence
    assert moved.sum() > 3 and torch.equal(x_adv[~moved], x[~moved])
    assert (after[moved] >= confidence).all() and (after[moved] < confidence + 0.02).all()


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eps", [0.01, 0.3])
def test_the_result_stays_in_its_ball_and_in_the_range_of_images(eps, clip):
    model = network()
    x = (2 * images() - 0.5).clamp(0, 1)  # many pixels at 0 and 1, where clipping is at work
    x_adv = targeted_gradient(model, x, torch.arange(12) % 4, eps=eps, confidence=0.999, clip=clip)
    reached = length(x_adv - x, "linf")
    assert (reached <= eps + 1e-12).all() and (reached > eps / 2).all()
    assert (x_adv.min() >= 0 and x_adv.max() <= 1) == clip


def test_the_largest_pixel_moves_by_a_step_and_the_others_in_proportion():
    model, x, target = network(), images(), torch.arange(12) % 4
    x_adv = targeted_gradient(model, x, target, eps=1.0, step=0.004, steps=1, confidence=0.999, clip=False)
    torch.testing.assert_close(length(x_adv - x, "linf"), torch.full((12,), 0.004).double())
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(model(leaf).log_softmax(dim=1)[range(12), target].sum(), leaf)
    torch.testing.assert_close(torch.cosine_similarity(g.flatten(1), (x_adv - x).flatten(1)), torch.ones(12).double())


def test_the_target_gains():
    model, x, target = network(), images(), torch.arange(12) % 4
    odds = [
        log_odds(model(targeted_gradient(model, x, target, eps=e, steps=5, confidence=0.999)), target) for e in (0, 0.005, 0.02)
    ]
    assert (odds[0] < odds[1]).all() and (odds[1] < odds[2]).all()


def test_an_image_without_a_gradient_and_a_step_of_nothing_stay():
    x, target = images(), torch.arange(12) % 4

    def flat(x):
        return 0 * x.flatten(1)[:, :4]

    assert torch.equal(targeted_gradient(flat, x, target), x)
    assert torch.equal(targeted_gradient(network(), x, target, step=0.0, steps=3), x)
    assert torch.equal(targeted_gradient(network(), x, target, eps=0, steps=3), x)


# input that no attack can work on


def with_pixel(value):
    x = images(3)
    x[1, 0, 2, 3] = value
    return x


def called_first(x):
    raise AssertionError("the model was called first")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"x": with_pixel(math.nan)}, "NaN or infinity"),
        ({"x": with_pixel(math.inf)}, "NaN or infinity"),
        ({"x": with_pixel(1.01)}, r"must lie in \[0, 1\]"),
        ({"x": with_pixel(-0.01)}, r"must lie in \[0, 1\]"),
        ({"x": images(3).long()}, "float tensor"),
        ({"x": images(0)}, "empty batch"),
        ({"x": images(3).flatten(1)}, "features"),
        ({"eps": -0.1}, "eps must be a finite number >= 0, not -0.1"),
        ({"eps": math.nan}, "eps must be a finite number >= 0, not nan"),
        ({"eps": math.inf}, "eps must be a finite number >= 0, not inf"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
@pytest.mark.parametrize("make", [universal, universal_gradient, targeted_gradient])
def test_bad_input_is_refused_before_the_model_runs(make, bad, message):
    x = bad.get("x", images(3))
    target = {"target": torch.zeros(len(x)).long()} if make is targeted_gradient else {}
    with pytest.raises(ValueError, match=message):
        make(called_first, **{"x": x, "eps": 0.1, **target, **bad})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"norm": "l1"}, "norm must be one of l2, linf, not 'l1'"),
        ({"norm": "L2"}, "norm must be one of l2, linf, not 'L2'"),
        ({"passes": 0}, "passes and batch_size must be at least 1, not 0"),
        ({"passes": -1}, "passes and batch_size must be at least 1, not -1"),
        ({"batch_size": 0}, "passes and batch_size must be at least 1"),
    ],
)
@BOTH
def test_a_perturbation_that_nothing_could_make_is_refused(make, bad, message):
    with pytest.raises(ValueError, match=message):
        make(called_first, images(3), **{"eps": 0.1, **bad})


@pytest.mark.parametrize("fooling", [0, -0.5, 1.01, math.nan])
def test_a_fooling_rate_that_is_no_share_is_refused(fooling):
    with pytest.raises(ValueError, match=r"fooling must lie in \(0, 1\]"):
        universal(network(), images(3), eps=0.1, fooling=fooling)


def test_deepfools_steps_are_refused_through_universal():
    with pytest.raises(ValueError, match="steps must be at least 1"):
        universal(network(), images(3), eps=0.1, steps=0)


@pytest.mark.parametrize(
    "bad",
    [
        {"step_size": -0.1},
        {"step_size": math.nan},
        {"step_size": math.inf},
        {"cap": 0},
        {"cap": -1},
        {"cap": math.nan},
        {"momentum": 1.0},
    ],
)
def test_a_step_or_cap_that_leads_nowhere_is_refused(bad):
    with pytest.raises(ValueError, match="step_size must be finite and >= 0, cap above 0, momentum in"):
        universal_gradient(network(), images(3), eps=0.1, **bad)


@pytest.mark.parametrize(
    "bad",
    [
        *({"confidence": c} for c in (0, 1, -0.1, 1.1, math.nan)),
        *({"step": s} for s in (-0.1, math.nan, math.inf)),
        *({"steps": s} for s in (0, -1)),
    ],
    ids=str,
)
def test_a_way_to_a_target_that_cannot_be_gone_is_refused(bad):
    with pytest.raises(ValueError, match=r"steps must be at least 1, step finite and >= 0, confidence in \(0, 1\)"):
        targeted_gradient(called_first, images(3), torch.zeros(3).long(), **bad)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([0, 1, 4]), "labels run from 0 to 4; the model has classes 0 to 3"),
        (torch.tensor([0, -1, 2]), "labels run from -1"),
        (torch.tensor([0, 1]), r"int64 of shape \(3,\)"),
        (torch.tensor([0.0, 1, 2]), "labels must be int64"),
        (torch.tensor(1), r"int64 of shape \(3,\)"),
    ],
    ids=["too high", "negative", "too few", "floats", "one for all"],
)
def test_a_target_that_is_no_class_of_each_image_is_refused(target, message):
    with pytest.raises(ValueError, match=message):
        targeted_gradient(network(), images(3), target)


@pytest.mark.parametrize("make", [universal, universal_gradient, targeted_gradient])
def test_logits_that_are_not_finite_are_refused(make):
    target = {"target": torch.zeros(3).long()} if make is targeted_gradient else {}
    with pytest.raises(ValueError, match="logits that are not finite|returned NaN for 3 of 3"):
        make(lambda x: network()(x) * math.nan, images(3), eps=0.1, **target)
