"""The classifier beside a GAN: its three losses against the paper's formulas, what it learns, and trainings that resume."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

from helpers import gan as game
from helpers import training
from helpers.calibrated import fit_calibrated, uniform_divergence
from helpers.data import Split
from helpers.gan import GAN

SHAPE = (1, 8, 8)


class Interruption(Exception):
    pass


def toy(n=64):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    images = 0.2 * torch.rand(n, *SHAPE, generator=generator) + 0.8 * labels.view(-1, 1, 1, 1)
    return Split("toy/train", images, labels, ("black", "white"))


def pair(seed=0, classes=1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), GAN(SHAPE, classes, latent=4, width=8)


def fitted(networks=None, data=None, **options):
    """(state, losses) after training."""
    classifier, gan = pair() if networks is None else networks
    options = {"epochs": 3, "lr": 1e-3, "batch_size": 20, "seed": 0, **options}
    history = fit_calibrated(classifier, gan, toy() if data is None else data, **options)
    state = torch.cat([v.flatten().double() for m in (classifier, gan) for v in m.state_dict().values()])
    return state, [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history]


def test_the_divergence_is_that_of_the_uniform_from_the_softmax_not_the_other_way_round():
    logits = 3 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = kl_div(logits.log_softmax(dim=1), torch.full_like(logits, 0.25), reduction="none").sum(dim=1)
    torch.testing.assert_close(uniform_divergence(logits), expected)
    p = logits.softmax(dim=1)
    other = (p * (4 * p).log()).sum(dim=1)
    assert not torch.allclose(uniform_divergence(logits), other, rtol=0.05)
    assert uniform_divergence(torch.full((1, 4), 2.0)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.6])
def test_the_first_losses_are_the_papers_formulas(beta):
    """Written out, with the latents of the seed; at a rate so small that the first step changes nothing."""
    data, networks, (classifier, twin) = toy(), pair(), pair()
    twin.train()
    [epoch] = fitted(networks, data, epochs=1, lr=1e-12, batch_size=64, seed=3, beta=beta)[1]
    torch.manual_seed(3)
    index, z = torch.randperm(64, generator=torch.Generator().manual_seed(3)), torch.randn(64, 4)
    x, y, none = data.images[index], data.labels[index], torch.zeros(64, dtype=torch.int64)
    fake = twin.generator(z, none)
    real, drawn = twin.discriminator(x, none).sigmoid(), twin.discriminator(fake, none).sigmoid()
    assert epoch["discriminator"] == pytest.approx(-(real.log() + (1 - drawn).log()).mean().item(), rel=1e-5)
    again = twin.discriminator(fake, none).sigmoid()
    away = -(2 * classifier(fake).softmax(dim=1)).log().mean()
    assert epoch["generator"] == pytest.approx((-again.log().mean() + beta * away).item(), rel=1e-5)
    anew = -(2 * classifier(twin.generator(torch.randn(64, 4), none)).softmax(dim=1)).log().mean().item()
    assert epoch["divergence"] == pytest.approx(anew, rel=1e-4)
    assert epoch["loss"] == pytest.approx(cross_entropy(classifier(x), y).item() + beta * anew, rel=1e-5)


def test_each_network_moves_down_its_own_loss_alone(monkeypatch):
    """The generator's penalty moves no weight of the classifier, nor the classifier's loss one of the generator."""
    norms, descend = {}, game.descend

    def watched(loss, parts, name):
        before = {k: v.clone() for k, v in parts["model"].state_dict().items() if "running" not in k and "num_" not in k}
        descend(loss, parts, name)
        after = parts["model"].state_dict()
        norms.setdefault(name, set()).update(k.split(".")[:2][-1 if "gan" in k else 0] for k in before
                                             if not torch.equal(before[k], after[k]))  # fmt: skip

    monkeypatch.setattr(game, "descend", watched)
    fitted(epochs=1)
    assert norms == {name: {name} for name in ("discriminator", "generator", "classifier")}


def test_the_players_have_the_adam_of_gans_and_the_classifier_torchs_own(monkeypatch):
    betas, descend = {}, game.descend

    def watched(loss, parts, name):
        betas[name] = {group["betas"] for group in parts[name].param_groups}
        descend(loss, parts, name)

    monkeypatch.setattr(game, "descend", watched)
    fitted(epochs=1)
    assert betas == {"discriminator": {(0.5, 0.999)}, "generator": {(0.5, 0.999)}, "classifier": {(0.9, 0.999)}}


@pytest.mark.long
def test_it_learns_the_classes_and_is_uncertain_at_what_the_generator_draws():
    sure = {}
    for beta in (0.0, 1.0):
        classifier, gan = pair()
        fit_calibrated(classifier, gan, toy(100), epochs=25, lr=4e-3, beta=beta, batch_size=20, seed=0)
        data = toy(100)
        assert (classifier(data.images).argmax(dim=1) == data.labels).all()
        fake = gan.sample(torch.zeros(200, dtype=torch.int64), torch.Generator().manual_seed(0))
        sure[beta] = uniform_divergence(classifier(fake)).mean().item()
    assert sure[1.0] < 0.5 * sure[0.0], sure


@pytest.mark.long
def test_the_seed_decides_the_result():
    first, losses = fitted(seed=3)
    torch.rand(5)
    again, losses_again = fitted(seed=3)
    other, _ = fitted(seed=4)
    assert torch.equal(first, again) and losses == losses_again and not torch.equal(first, other)


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """Makes the first training stop in the middle of its second epoch: (checkpoint, a list that grows with each step)."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    descend, steps = game.descend, []

    def stop(*arguments):
        steps.append(1)
        if len(steps) == 3 * 5 + 2:  # three players, four batches
            raise Interruption
        descend(*arguments)

    monkeypatch.setattr(game, "descend", stop)
    return tmp_path / "a.pt", steps


def test_an_interrupted_training_continues_to_the_same_result(interrupted):
    checkpoint, steps = interrupted
    with pytest.raises(Interruption):
        fitted(checkpoint=checkpoint)
    torch.manual_seed(99)
    state, continued = fitted(pair(seed=7), checkpoint=checkpoint)
    assert len(steps) == 17 + 2 * 12
    expected, losses = fitted()
    assert torch.equal(state, expected) and continued == losses


@pytest.mark.long
@pytest.mark.parametrize("name", ["beta", "seed", "lr", "epochs", "data"])
def test_a_checkpoint_of_another_training_is_not_continued(interrupted, name):
    checkpoint, _ = interrupted
    other = {"beta": 0.5, "seed": 1, "lr": 2e-3, "epochs": 4, "data": toy(63)}[name]
    with pytest.raises(Interruption):
        fitted(checkpoint=checkpoint, **{name: other})
    with pytest.warns(UserWarning, match=f"{name} was .*: the training starts anew"):
        state, continued = fitted(checkpoint=checkpoint)
    expected, losses = fitted()
    assert torch.equal(state, expected) and continued == losses


def test_what_does_not_fit_is_refused():
    for wrong in [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": math.nan}]:
        with pytest.raises(ValueError, match="epochs and batch_size must be at least 1"):
            fitted(**wrong)
    for beta in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="beta must be finite and at least 0"):
            fitted(beta=beta)
    with pytest.raises(ValueError, match=r"GAN\(shape, 1\), not one of 2"):
        fitted(pair(classes=2))
    with pytest.raises(ValueError, match="toy/train is empty"):
        fitted(data=toy()[:0])
    narrow = Split("toy/train", toy().images[:, :, :4], toy().labels, ("black", "white"))
    with pytest.raises(ValueError, match=r"must hold images \(1, 8, 8\)"):
        fitted(data=narrow)
    more = Split("toy/train", toy().images, torch.arange(64) % 3, tuple("abc"))
    with pytest.raises(ValueError, match="labels run from 0 to 2; the model has classes 0 to 1"):
        fitted(data=more)
    broken = toy()
    broken.images[0] = math.nan
    with pytest.raises(ValueError, match="images contains NaN or infinity"):
        fitted(data=broken)
