"""The worst case: every attack counts, none meets an image that is lost, and a lucky draw is no success."""

import pytest
import torch
from torch import nn

from helpers.attacks import Threat, apgd, fgsm, minus_margin, pgd, square, suite, worst_case
from helpers.attacks.iterated import step_lengths
from helpers.data import load
from helpers.metrics import correct
from helpers.models import mlp
from helpers.norms import length
from helpers.purifiers import Expectation
from helpers.training import fit

EPS = 0.06


@pytest.fixture(scope="module")
def trained():
    """Two small networks trained on the embedded digits, and 60 test images that the first reads right."""
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = mlp(784, (48,), 10)
        fit(model, load("digits", "train"), lambda m, x, y: nn.functional.cross_entropy(m(x), y), epochs=4, lr=0.2, seed=seed)
        networks.append(model.requires_grad_(False).eval())
    x, y = load("digits", "test")[:80].xy
    kept = correct(networks[0], x, y)
    return *networks, x[kept][:60], y[kept][:60]


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("clip", [True, False])
def test_no_single_attack_takes_what_the_worst_case_leaves(trained, norm, clip):
    model, twin, x, y = trained
    eps = EPS if norm == "linf" else 1.0
    outcome = worst_case(model, x, y, Threat(eps, norm, clip), twin=twin, budget=200, generator=seeded())
    assert outcome.right.dtype == torch.bool and 0 < outcome.right.double().mean() < 0.9
    for attack, options in ((pgd, {"steps": 10, "restarts": 2}), (apgd, {"steps": 10}), (square, {"queries": 60})):
        x_adv = attack(model, x, y, eps=eps, norm=norm, clip=clip, generator=seeded(), **options)
        assert correct(model, x_adv, y).sum() >= outcome.right.sum()
    assert (length(outcome.images - x, norm) <= eps * (1 + 1e-5)).all()
    assert not clip or (outcome.images.min() >= 0 and outcome.images.max() <= 1)
    assert torch.equal(correct(model, outcome.images, y), outcome.right), "the images that are returned are the worst ones"


def test_the_outcome_says_which_attack_took_what_in_how_many_passes(trained):
    model, twin, x, y = trained
    outcome = worst_case(model, x, y, Threat(EPS, "linf"), twin=twin, budget=120, generator=seeded())
    table = outcome.table()
    assert table.attack.tolist()[:5] == ["clean", "noise", "one step on the twin", "steps on the twin", "one step"]
    assert table.attack.iloc[-1] == "Square" and table.accuracy.is_monotonic_decreasing
    assert table.took.sum() == (~outcome.right).sum() and (outcome.taken[outcome.right] == -1).all()
    assert table.accuracy.iloc[-1] == pytest.approx(outcome.right.double().mean().item())
    assert outcome.metrics()["passes"] == pytest.approx(table.passes.sum()) and outcome.metrics()["passes"] < 240


def test_an_image_that_is_lost_meets_no_further_attack(trained):
    model, _, x, y = trained
    lost = torch.zeros(len(x), dtype=torch.bool)
    seen = []

    def spy(images):
        seen.append(len(images))
        return model(images)

    outcome = worst_case(spy, x, y, Threat(EPS, "linf"), budget=40, alive=lost)
    assert not outcome.right.any() and seen == [60, 60], "one pass for the classes, one for what stands"
    kept = torch.arange(len(x)) < 5
    assert not worst_case(model, x, y, Threat(1e-6, "linf"), budget=40, alive=kept).right[5:].any()


def test_twice_the_budget_is_about_twice_the_passes(trained):
    model, _, x, y = trained
    passes = [worst_case(model, x, y, Threat(1e-6, "linf"), budget=b, generator=seeded()).metrics()["passes"] for b in (400, 800)]
    assert passes[0] == pytest.approx(400, rel=0.15) and 1.8 < passes[1] / passes[0] < 2.1


def test_what_misleads_the_twin_goes_on_after_the_twins_mistake(trained):
    """A model whose boundary lies further out than its twin's: what barely fools the twin does not fool it."""
    weight = torch.tensor([[1.0] + [0.0] * 15, [-1.0] + [0.0] * 15])

    def boundary(at):
        return lambda x: (x.flatten(1) @ weight.T) + torch.tensor([-at, at])

    x, y = torch.full((4, 1, 4, 4), 0.5), torch.zeros(4).long()
    outcome = worst_case(boundary(0.25), x, y, Threat(0.3, "linf"), twin=boundary(0.45), gradients=False, budget=40)
    assert outcome.attacks == ["clean", "noise", "one step on the twin", "steps on the twin", "Square"]
    assert not outcome.right.any()
    stopped = pgd(boundary(0.45), x, y, eps=0.3, norm="linf", steps=20, restarts=1, step="constant")
    assert correct(boundary(0.25), stopped, y).all(), "this test wants a twin that is fooled earlier"


def test_rejected_images_are_not_lost_and_a_network_that_rejects_all_stands():
    def rejects(x):
        return torch.cat([x.flatten(1)[:, :3], torch.full((len(x), 1), 9.0)], dim=1)

    x, y = torch.rand(6, 1, 4, 4), torch.zeros(6).long()
    assert worst_case(rejects, x, y, Threat(0.3, "linf", reject=True), budget=40).right.all()
    assert not worst_case(rejects, x, y, Threat(0.3, "linf"), budget=40).right.any()


def test_of_a_random_model_the_share_of_answers_counts_and_one_wrong_answer_is_no_success(trained):
    model, _, x, y = trained

    class Noisy(nn.Module):
        def forward(self, x):
            return model(x) + 4 * torch.randn(len(x), 10)

    torch.manual_seed(0)
    noisy = Noisy()
    clean = suite.standing(noisy, x, y, draws=200)
    still = worst_case(noisy, x, y, Threat(0.0, "linf"), surrogate=Expectation(noisy, 4), random=True, budget=40)
    assert still.right.dtype == torch.float64 and set((still.right * 20).round().tolist()) <= set(range(21))
    assert still.right.mean().item() == pytest.approx(clean.mean().item(), abs=0.05), "no attack at all costs nothing"
    moved = worst_case(noisy, x, y, Threat(EPS, "linf"), surrogate=Expectation(noisy, 4), random=True, budget=120)
    assert moved.right.mean() < still.right.mean() - 0.1


def test_falling_steps_are_stronger_than_steps_of_one_length(trained):
    network, _, x, y = trained
    how = {"eps": EPS, "norm": "linf", "steps": 10, "restarts": 1}
    falling, constant = (correct(network, pgd(network, x, y, step=s, **how), y).sum() for s in ("cosine", "constant"))
    assert falling <= constant
    assert step_lengths(1.0, 4, "cosine") == pytest.approx([2.0, 1.7071, 1.0, 0.2929], abs=1e-4)
    assert step_lengths(1.0, 4, "constant") == [0.625] * 4


def test_square_needs_no_gradient_and_each_query_is_one_pass(trained):
    model, _, x, y = trained
    seen = []

    def rounded(images):
        seen.append(len(images))
        return model((images * 255).round() / 255)

    x_adv = square(rounded, x, y, eps=EPS, queries=80, generator=seeded())
    assert len(seen) == 80 and seen == sorted(seen, reverse=True)
    assert correct(rounded, x_adv, y).double().mean() < correct(model, fgsm(model, x, y, eps=0.0), y).double().mean()
    best = minus_margin(rounded(x_adv), y)
    assert (best >= minus_margin(rounded(x), y) - 1e-4).double().mean() > 0.95


@pytest.mark.parametrize(
    ("threat", "options", "words"),
    [(Threat(-1.0), {}, "eps"), (Threat(0.1, "l1"), {}, "norm must be"), (Threat(0.1, "linf"), {"budget": 0}, "budget")],
)
def test_what_cannot_be_is_refused(trained, threat, options, words):
    model, _, x, y = trained
    with pytest.raises(ValueError, match=words):
        worst_case(model, x, y, threat, **options)


@pytest.mark.parametrize("options", [{"step": "falling"}, {"step_size": -1.0}])
def test_steps_that_cannot_be_are_refused(trained, options):
    model, _, x, y = trained
    with pytest.raises(ValueError, match=r"step must be|step_size must be"):
        pgd(model, x, y, eps=0.1, **options)
