"""Langevin samples against the exact law of their chain, the JEM objective against its formula, and trainings that resume."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from helpers import energy, models, training
from helpers.data import Split
from helpers.energy import JEM, Buffer, jem_objective, sgld
from helpers.training import fit

SHAPE = (1, 4, 4)


def toy(n=60):
    """Images of class 0 are dark, those of class 1 bright, neither as grey as noise is on average."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    images = 0.2 * torch.rand(n, *SHAPE, generator=generator) + 0.8 * labels.view(-1, 1, 1, 1)
    return Split("toy/train", images, labels, ("dark", "bright"))


def network(seed=0, width=16):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 2))


def model(seed=0, size=40, **options):
    return JEM(network(seed), SHAPE, size=size, **options)


def bowl(x):
    """Logits whose logsumexp is −|x − 1/2|²/2."""
    value = -(x - 0.5).square().flatten(1).sum(dim=1) / 2 - math.log(2)
    return torch.stack([value, value], dim=1)


def test_a_step_without_noise_climbs_the_gradient_and_stays_in_the_box():
    x = torch.rand(5, *SHAPE, dtype=torch.float64)
    out = sgld(bowl, x, steps=3, step_size=0.1, noise=0.0)
    torch.testing.assert_close(out, 0.5 + 0.9**3 * (x - 0.5))
    assert torch.equal(sgld(bowl, x, steps=0), x) and not out.requires_grad and not x.requires_grad
    uphill = sgld(lambda x: x.flatten(1)[:, :2], x, steps=1, step_size=10.0, noise=5.0)
    assert uphill.min() == 0 and uphill.max() == 1


def test_the_chain_has_the_variance_of_its_law():
    """x ← 1/2 + (1 − s)(x − 1/2) + n ξ: of variance n² / (1 − (1 − s)²) in the long run, and n² (1 − (1 − s)^2t) / … after t."""
    for steps in (1, 4, 60):
        generator = torch.Generator().manual_seed(0)
        out = sgld(bowl, torch.full((2000, *SHAPE), 0.5), steps=steps, step_size=0.1, noise=0.04, generator=generator)
        expected = 0.04**2 * (1 - 0.9 ** (2 * steps)) / (1 - 0.9**2)
        assert out.var().item() == pytest.approx(expected, rel=0.03) and out.mean().item() == pytest.approx(0.5, abs=0.002)


def test_samples_are_drawn_by_the_seed_in_evaluation_mode_whatever_the_context():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 2)).train()
    x = toy().images

    def draw(seed):
        with torch.no_grad():
            return sgld(net, x, steps=2, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert net.training and all(w.grad is None for w in net.parameters())
    torch.testing.assert_close(sgld(net, x[:7], steps=2, noise=0.0), sgld(net, x, steps=2, noise=0.0)[:7])


def test_the_buffer_gives_what_it_holds_and_new_noise_at_the_rate_that_is_asked_for():
    held, never = Buffer(SHAPE, 300, restart=0.0, seed=1), Buffer(SHAPE, 300, restart=0.0, seed=1)
    assert torch.equal(held.images, never.images) and not torch.equal(held.images, Buffer(SHAPE, 300, seed=2).images)
    assert 0 <= held.images.min() < 0.01 and 0.99 < held.images.max() <= 1
    x, index = held.draw(200)
    assert torch.equal(x, held.images[index]) and index.unique().numel() == 200
    held.store(index, x + 5)
    changed = (held.images != never.images).flatten(1).all(dim=1)
    assert changed.sum() == 200 and changed[index].all()
    torch.manual_seed(0)
    often = Buffer(SHAPE, 300, restart=0.3)
    often.images.fill_(7)
    anew = torch.cat([(often.draw(300)[0] != 7).flatten(1).all(dim=1) for _ in range(10)])
    assert anew.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert "images" in often.state_dict()


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_the_objective_is_the_papers(share):
    jem, data = model(restart=0.0), toy(12)
    before = jem.buffer.images.clone()
    x, y = data.images, data.labels
    value = jem_objective(steps=2, noise=0.0, jitter=0.0, weight=0.7, share=share, magnitude=0.3)(jem, x, y)
    moved = (jem.buffer.images != before).flatten(1).any(dim=1)
    assert moved.sum() == round(12 * share)
    fake = jem.buffer.images[moved]
    torch.testing.assert_close(fake, sgld(jem.network, before[moved], steps=2, noise=0.0))
    real, drawn = jem(x).logsumexp(dim=1), jem(fake).logsumexp(dim=1)
    density = -real.mean() + drawn.mean() + 0.3 * (real.square().mean() + drawn.square().mean())
    torch.testing.assert_close(value, cross_entropy(jem(x), y) + 0.7 * density)
    value.backward()
    assert all(w.grad is not None for w in jem.parameters())


def test_the_images_are_jittered_and_the_samples_are_not():
    torch.manual_seed(0)
    jem, (x, y), seen = model(restart=0.0), toy(40).xy, []
    jem.network.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0].detach()))
    jem_objective(steps=1, jitter=0.2)(jem, x, y)
    images, samples = seen[-1].split(40)
    assert (images - x).std().item() == pytest.approx(0.2, rel=0.1) and abs((images - x).mean().item()) < 0.03
    same = (samples[:, None] == jem.buffer.images).flatten(2).all(dim=2)
    assert same.sum(dim=1).eq(1).all() and same.sum(dim=0).eq(1).all(), "each is what the chain left in the buffer"


@pytest.mark.long
def test_training_tells_images_from_noise_and_classes_from_each_other():
    jem, data = model(size=100), toy()
    objective = jem_objective(steps=5, step_size=0.05, magnitude=0.1)
    fit(jem, data, objective, epochs=30, lr=3e-3, batch_size=20, optimiser=torch.optim.Adam, seed=0)
    assert (jem(data.images).argmax(dim=1) == data.labels).all()
    noise = torch.rand(60, *SHAPE)
    assert jem(data.images).logsumexp(dim=1).mean() > jem(noise).logsumexp(dim=1).mean() + 0.2


def test_an_interrupted_training_continues_to_the_same_network_and_buffer(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    settings = {"epochs": 3, "lr": 1e-3, "batch_size": 20, "optimiser": torch.optim.Adam, "seed": 4}
    whole = model()
    expected = fit(whole, toy(), jem_objective(steps=2), **settings)

    def stop(epoch, _):
        if epoch == 2:
            raise KeyboardInterrupt

    def interrupted(objective):
        (tmp_path / "a.pt").unlink(missing_ok=True)
        with pytest.raises(KeyboardInterrupt):
            fit(model(), toy(), objective, checkpoint=tmp_path / "a.pt", after_epoch=stop, **settings)

    def continued(network):
        history = fit(network, toy(), jem_objective(steps=2), checkpoint=tmp_path / "a.pt", **settings)
        assert [e["loss"] for e in history] == [e["loss"] for e in expected]
        assert all(torch.equal(v, whole.state_dict()[name]) for name, v in network.state_dict().items())

    again = model(seed=9)
    again.buffer.images.zero_()
    interrupted(jem_objective(steps=2))
    continued(again)
    interrupted(jem_objective(steps=3))
    with pytest.warns(UserWarning, match="objective steps was 3, is now 2"):
        continued(model())


def test_a_training_that_diverges_is_stopped_with_advice(monkeypatch):
    monkeypatch.setattr(energy, "LIMIT", 0.5)
    with pytest.raises(FloatingPointError, match="the training diverges: lower the learning rate"):
        fit(model(), toy(), jem_objective(steps=1, magnitude=0.0), epochs=50, lr=0.1, batch_size=20, seed=0)
    broken = model()
    with torch.no_grad():
        next(broken.network.parameters()).fill_(math.nan)
    with pytest.raises(FloatingPointError, match="lie nan apart"):
        fit(broken, toy(), jem_objective(steps=0), epochs=1, lr=1e-3, batch_size=20, seed=0)


def test_bad_settings_are_refused():
    x = toy().images
    for wrong in [{"steps": -1}, {"steps": 1, "step_size": 0.0}, {"steps": 1, "noise": -1.0}, {"steps": 1, "noise": math.nan}]:
        with pytest.raises(ValueError, match="steps and noise must be at least 0 and step_size above 0"):
            sgld(bowl, x, **wrong)
    for number in (math.nan, math.inf):
        with pytest.raises(ValueError, match="start contains NaN or infinity"):
            sgld(bowl, torch.cat([x, torch.full((1, *SHAPE), number)]), steps=1)
    for wrong in [((4, 4), 3), (SHAPE, 0)]:
        with pytest.raises(ValueError, match="a size of at least 1|a shape .C, H, W. of whole numbers"):
            Buffer(*wrong)
    with pytest.raises(ValueError, match=r"a restart in \[0, 1\]"):
        Buffer(SHAPE, 3, restart=1.5)
    with pytest.raises(ValueError, match="60 samples are wanted of a buffer of 40: make it larger than a batch"):
        jem_objective(steps=1)(model(), x, toy().labels)
    with pytest.raises(ValueError, match="without batch normalisation"):
        JEM(models.resnet(), (3, 32, 32), size=10)
    for wrong in [{"jitter": -1.0}, {"weight": math.inf}, {"share": 0.0}, {"share": 1.5}, {"magnitude": -1.0}]:
        with pytest.raises(ValueError, match="must be finite and at least 0"):
            jem_objective(steps=1, **wrong)
    with pytest.raises(ValueError, match="wrap the network"):
        jem_objective(steps=1)(network(), x, toy().labels)
