"""Our attacks beside those of foolbox and torchattacks, on a network trained on the embedded digits, in float64."""

import pytest
import torch
from torch import nn

from helpers.attacks import adv_loss, deepfool, fgsm, minus_log_odds, pgd, targeted_fgsm
from helpers.data import load
from helpers.losses import least_likely
from helpers.metrics import accuracy, correct
from helpers.models import mlp
from helpers.norms import length
from helpers.torchvision_import import torchvision
from helpers.training import fit

torchvision()  # the libraries import it; beside a CPU-only torch it does not load by itself
fb = pytest.importorskip("foolbox")
ta = pytest.importorskip("torchattacks", reason="pip install --no-deps torchattacks==3.5.1")

BALLS = pytest.mark.parametrize(("norm", "eps"), [("l2", 0.3), ("l2", 1.5), ("linf", 0.02), ("linf", 0.1)])
STEPS = 10


@pytest.fixture(scope="module")
def digits():
    """The network, and 60 test images that it classifies rightly."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = mlp(784, (48,), 10)
        fit(model, load("digits", "train"), lambda m, x, y: nn.functional.cross_entropy(m(x), y), epochs=5, lr=0.2, seed=0)
    model = model.double().eval().requires_grad_(False)
    test = load("digits", "test")
    right = correct(model, test.images.double(), test.labels)
    return model, test.images[right][:60].double(), test.labels[right][:60]


def foolbox(attack, model, x, y, eps):
    """foolbox's result for images in [0, 1], clipped."""
    return attack(fb.PyTorchModel(model, bounds=(0, 1), device=x.device), x, y, epsilons=eps)[1]  # of (raw, clipped, success)


def equal(ours, theirs, atol=1e-7):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def test_fgsm_is_that_of_both(digits):
    model, x, y = digits
    ours = fgsm(model, x, y, eps=0.1)
    equal(ours, foolbox(fb.attacks.LinfFastGradientAttack(random_start=False), model, x, y, 0.1))
    equal(ours, ta.FGSM(model, eps=0.1)(x, y))


@pytest.mark.parametrize(("norm", "name"), [("l2", "L2FastGradientAttack"), ("linf", "LinfFastGradientAttack")])
def test_adv_loss_is_the_fast_gradient_attack(digits, norm, name):
    model, x, y = digits
    equal(adv_loss(model, x, y, eps=0.9, norm=norm), foolbox(getattr(fb.attacks, name)(random_start=False), model, x, y, 0.9))


def test_targeted_fgsm_toward_the_least_likely_class_is_that_of_both(digits):
    model, x, y = digits
    target = least_likely(model(x))
    ours = targeted_fgsm(model, x, target, eps=0.1)
    toward = fb.criteria.TargetedMisclassification(target)
    one_step = fb.attacks.LinfPGD(abs_stepsize=0.1, steps=1, random_start=False)
    equal(ours, foolbox(one_step, model, x, toward, 0.1))
    theirs = ta.FGSM(model, eps=0.1)
    theirs.set_mode_targeted_least_likely(quiet=True)
    equal(ours, theirs(x, y))


def pgd_of(library, norm, eps, step_size, steps, model, x, y):
    if library == "foolbox":
        attack = {"l2": fb.attacks.L2PGD, "linf": fb.attacks.LinfPGD}[norm]
        return foolbox(attack(abs_stepsize=step_size, steps=steps, random_start=False), model, x, y, eps)
    attack = {"l2": ta.PGDL2, "linf": ta.PGD}[norm]
    return attack(model, eps=eps, alpha=step_size, steps=steps, random_start=False)(x, y)


@pytest.mark.parametrize("library", ["foolbox", "torchattacks"])
@BALLS
def test_pgd_is_on_the_way_of_theirs_at_every_step(digits, norm, eps, library):
    """Theirs return the last iterate. Ours returns the first that is misclassified, else the one of highest loss.

    torchattacks' L2 divides by the length of a batch's mean gradient plus 1e-10, so that small gradients make shorter steps.
    """
    model, x, y = digits
    way = torch.stack([x] + [pgd_of(library, norm, eps, eps / 4, steps, model, x, y) for steps in range(1, STEPS + 1)])
    wrong = torch.stack([~correct(model, at, y) for at in way]).long()
    loss = torch.stack([minus_log_odds(model(at), y) for at in way])
    stop = torch.where(wrong.any(dim=0), wrong.argmax(dim=0), loss.argmax(dim=0))
    assert len(stop.unique()) > 2
    ours = pgd(model, x, y, eps=eps, steps=STEPS, restarts=1, step="constant", step_size=eps / 4, norm=norm)
    equal(ours, way[stop, torch.arange(len(y))], atol=2e-5)
    assert accuracy(model, ours, y) <= accuracy(model, way[-1], y)


DEEPFOOLS = pytest.mark.parametrize(("norm", "name"), [("l2", "L2DeepFoolAttack"), ("linf", "LinfDeepFoolAttack")])


@DEEPFOOLS
def test_deepfool_takes_the_first_step_of_foolbox(digits, norm, name):
    """foolbox makes each step 1e-4 longer, against rounding; ours closes 2e-5 of the largest logit more than the gap."""
    model, x, y = digits
    ours = deepfool(model, x, y, steps=1, norm=norm)
    theirs = foolbox(getattr(fb.attacks, name)(steps=1), model, x, y, None)
    equal(ours, theirs, atol=2e-4)
    assert (length(ours - x, norm) <= length(theirs - x, norm)).all()


@DEEPFOOLS
def test_deepfool_comes_as_near_as_that_of_foolbox(digits, norm, name):
    """A little nearer, by those 1e-4 a step; in L∞, where the distances are near 0.1, that is 0.1 %."""
    model, x, y = digits
    ours, theirs = deepfool(model, x, y, norm=norm), foolbox(getattr(fb.attacks, name)(), model, x, y, None)
    assert accuracy(model, ours, y) == accuracy(model, theirs, y) == 0
    ratio = length(ours - x, norm) / length(theirs - x, norm)
    assert 0.99 < ratio.median() <= 1
    assert ratio.min() > 0.9 and ratio.max() < 1.001


def test_deepfool_goes_where_that_of_torchattacks_goes_and_crosses_the_boundary(digits):
    """torchattacks stretches each step by the overshoot, not their sum, and so stops short of the boundary now and then."""
    model, x, y = digits
    first = {"steps": 1, "overshoot": 0.02}
    equal(deepfool(model, x, y, **first), ta.DeepFool(model, **first)(x, y), atol=2e-5)
    ours, theirs = deepfool(model, x, y), ta.DeepFool(model)(x, y)
    ratio = length(ours - x) / length(theirs - x)
    assert ratio.min() > 0.99 and ratio.max() < 1.01
    assert accuracy(model, ours, y) == 0 < accuracy(model, theirs, y)
