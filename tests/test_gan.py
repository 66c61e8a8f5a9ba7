"""The conditional GAN: what it draws has the wanted shape, range and class, and training is decided by its seed."""

import math
from types import SimpleNamespace

import pytest
import torch

from helpers import gan as module
from helpers import training
from helpers.checkpoints import Checkpoint
from helpers.data import Split
from helpers.gan import GAN, Discriminator, Generator, fit_gan


class Interruption(Exception):
    pass


def toy(n=64, shape=(1, 8, 8)):
    """Images of class 0 are nearly black, those of class 1 nearly white."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    images = 0.2 * torch.rand(n, *shape, generator=generator) + 0.8 * labels.view(-1, 1, 1, 1)
    return Split("toy/train", images, labels, ("black", "white"))


def small(seed=0, shape=(1, 8, 8), classes=2):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GAN(shape, classes, latent=4, width=8)


def fitted(gan=None, data=None, **options):
    """(state, losses of both) after training."""
    gan = small() if gan is None else gan
    history = fit_gan(gan, toy() if data is None else data, **{"epochs": 4, "lr": 1e-3, "batch_size": 20, "seed": 0, **options})
    state = torch.cat([v.flatten().double() for v in gan.state_dict().values()])
    return state, [(epoch["loss"], epoch["generator"]) for epoch in history]


def draw(gan, y, seed=0):
    return gan.sample(y, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 8, 12)], ids=str)
def test_images_have_the_shape_and_range_and_logits_are_one_each(shape):
    generator, discriminator = Generator(shape, 5, latent=7, width=8), Discriminator(shape, 5, width=8)
    y = torch.tensor([0, 4, 2])
    x = generator.eval()(1e3 * torch.randn(3, 7), y)  # latents this long drive the sigmoid to both ends
    assert x.shape == (3, *shape) and x.dtype == torch.float32
    assert 0 <= x.min() < 0.1 and 0.9 < x.max() <= 1
    assert discriminator(x, y).shape == (3,)


def test_both_heed_the_class():
    gan, zeros, ones = small(), torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.int64)
    assert not torch.allclose(draw(gan, zeros), draw(gan, ones))
    x = draw(gan, zeros)
    assert not torch.allclose(gan.discriminator(x, zeros), gan.discriminator(x, ones))


@pytest.mark.long
def test_the_classes_are_learned_and_the_losses_are_those_of_a_game():
    gan = small()
    history = fit_gan(gan, toy(100), epochs=60, lr=4e-3, batch_size=20, seed=0)
    y = torch.arange(100) % 2
    brightness = draw(gan, y).mean(dim=(1, 2, 3))
    assert brightness[y == 0].max() < 0.4 and brightness[y == 1].min() > 0.6
    assert all(epoch.keys() == {"loss", "generator", "seconds"} for epoch in history) and len(history) == 60
    assert all(0 < epoch["loss"] < 5 and 0 < epoch["generator"] < 10 and 0 < epoch["seconds"] < 60 for epoch in history)


def test_the_first_losses_are_the_papers_formulas(monkeypatch):
    """log D and log(1 − D) written out, with the latents of the seed; at a rate so small that the first step changes nothing."""
    data, gan, twin = toy(), small(), small().train()
    [epoch] = fit_gan(gan, data, epochs=1, lr=1e-12, batch_size=64, seed=3)
    torch.manual_seed(3)
    index, z = torch.randperm(64, generator=torch.Generator().manual_seed(3)), torch.randn(64, 4)
    x, y = data.images[index], data.labels[index]
    fake = twin.generator(z, y)
    real, drawn = twin.discriminator(x, y).sigmoid(), twin.discriminator(fake, y).sigmoid()
    assert epoch["loss"] == pytest.approx(-(real.log() + (1 - drawn).log()).mean().item(), rel=1e-5)
    again = twin.discriminator(fake, y).sigmoid()  # each pass brings the estimate of the spectral norm forward
    assert epoch["generator"] == pytest.approx(-again.log().mean().item(), rel=1e-5)


def test_the_rate_of_each_player_falls_linearly_with_its_steps(monkeypatch):
    rates, descend = {}, module.descend

    def watched(loss, parts, name):
        rates.setdefault(name, []).append(parts[name].param_groups[0]["lr"])
        descend(loss, parts, name)

    monkeypatch.setattr(module, "descend", watched)
    fitted(epochs=2, lr=1e-3, batch_size=32)
    falling = pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    assert rates == {"discriminator": falling, "generator": falling}


@pytest.mark.long
def test_the_seed_decides_the_result():
    torch.manual_seed(1)
    first, first_losses = fitted(seed=3)
    torch.manual_seed(2)
    torch.rand(5)
    again, again_losses = fitted(seed=3)
    assert torch.equal(first, again) and first_losses == again_losses
    other, other_losses = fitted(seed=4)
    assert not torch.equal(first, other) and first_losses != other_losses


@pytest.fixture
def stop(monkeypatch):
    """Sets after how many epochs a training stops, in the middle of the next one; None: it runs through. Counts the steps."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    descend, self = module.descend, SimpleNamespace(after=None, steps=0)

    def interrupted(*arguments):
        self.steps += 1
        if self.after is not None and self.steps == 8 * self.after + 3:  # two players, four batches
            raise Interruption
        descend(*arguments)

    monkeypatch.setattr(module, "descend", interrupted)
    return self


def interrupted(stop, checkpoint, after, **options):
    stop.after, stop.steps = after, 0
    with pytest.raises(Interruption):
        fitted(checkpoint=checkpoint, **options)
    assert [p.name for p in Checkpoint.of(checkpoint).path.parent.iterdir()] == ["a.pt"]
    stop.after, stop.steps = None, 0


@pytest.mark.parametrize("stops", [[1], [3], [1, 2]], ids=str)
def test_an_interrupted_training_continues_to_the_same_result(tmp_path, stop, stops):
    expected, expected_losses = fitted()
    checkpoint = tmp_path / "folder" / "a.pt"
    for after, done in zip(stops, [0, *stops], strict=False):
        interrupted(stop, checkpoint, after - done)
    torch.manual_seed(99)  # the process that continues is another one
    state, losses = fitted(small(seed=7), checkpoint=checkpoint)
    assert stop.steps == 8 * (4 - stops[-1]), "finished epochs were computed again, or skipped"
    assert torch.equal(state, expected) and losses == expected_losses


@pytest.mark.long
@pytest.mark.parametrize(
    ("before", "words"),
    [
        ({"seed": 1}, "seed was 1, is now 0"),
        ({"lr": 2e-3}, "lr was 0.002, is now 0.001"),
        ({"epochs": 5}, "epochs was 5, is now 4"),
        ({"batch_size": 16}, "batch_size was 16, is now 20"),
        ({"data": toy(63)}, "data was 63 samples"),
        ({"gan": GAN((1, 8, 8), 2, latent=5, width=8)}, "network was"),
        ({"identity": "a"}, "identity was a, is now"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_checkpoint_of_another_training_is_not_continued(tmp_path, stop, before, words):
    expected, expected_losses = fitted()
    path = tmp_path / "a.pt"
    options = {name: value for name, value in before.items() if name != "identity"}
    interrupted(stop, Checkpoint(path, identity=before.get("identity", "")), 2, **options)
    with pytest.warns(UserWarning, match=words):
        state, losses = fitted(checkpoint=path)
    assert torch.equal(state, expected) and losses == expected_losses
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.long
def test_a_short_training_writes_no_checkpoint_and_a_damaged_one_is_not_continued(tmp_path):
    expected, _ = fitted(checkpoint=tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.pt").write_bytes(b"garbage")
    with pytest.warns(UserWarning, match=r"a\.pt cannot be read .*: the training starts anew"):
        state, _ = fitted(checkpoint=tmp_path / "a.pt")
    assert torch.equal(state, expected)


def test_a_folder_that_cannot_be_made_is_an_error_before_the_training(tmp_path, stop):
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeError, match="cannot write checkpoints into"):
        fitted(checkpoint=tmp_path / "file" / "a.pt")
    assert stop.steps == 0


def test_training_leaves_both_in_training_mode_with_all_weights_free():
    gan = small().eval()
    before = {name: w.detach().clone() for name, w in gan.named_parameters()}
    fitted(gan)
    assert all(m.training for m in gan.modules()) and all(w.requires_grad for w in gan.parameters())
    assert all(not torch.equal(w, before[name]) for name, w in gan.named_parameters())


def test_samples_are_drawn_in_evaluation_mode_without_gradients_and_change_nothing():
    gan, y = small().train(), torch.arange(600) % 2
    before = {name: v.clone() for name, v in gan.state_dict().items()}
    x = draw(gan, y)
    assert x.shape == (600, 1, 8, 8) and not x.requires_grad and all(m.training for m in gan.modules())
    assert all(torch.equal(v, before[name]) for name, v in gan.state_dict().items())
    torch.testing.assert_close(draw(gan, y[:8]), x[:8])  # in evaluation mode an image does not depend on the others
    assert torch.equal(draw(gan, y), x) and not torch.equal(draw(gan, y, seed=1), x)
    torch.manual_seed(5)
    first = gan.sample(y)
    torch.manual_seed(5)
    assert torch.equal(gan.sample(y), first) and not torch.equal(gan.sample(y), first)


@pytest.mark.parametrize(
    "wrong", [((28, 28), 10), ((1, 30, 28), 10), ((1, 28, 27), 10), ((0, 28, 28), 10), ((1, 28, 28), 0)], ids=str
)
def test_an_architecture_that_cannot_be_built_is_refused(wrong):
    for build in (Generator, Discriminator, GAN):
        with pytest.raises(ValueError, match="divisible by 4, and sizes of at least 1 are wanted"):
            build(*wrong)


@pytest.mark.parametrize("sizes", [{"latent": 0}, {"width": 0}, {"width": -1}], ids=str)
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes of at least 1"):
        GAN((1, 28, 28), 10, **sizes)


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0}, {"lr": -1.0}, {"lr": math.nan}, {"lr": math.inf}], ids=str
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="epochs and batch_size must be at least 1 and lr finite"):
        fitted(**wrong)


def test_data_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="toy/train is empty"):
        fitted(data=toy()[:0])
    with pytest.raises(ValueError, match=r"must hold images \(1, 8, 8\) of classes below 2, not \(1, 12, 8\) of 0 to 1"):
        fitted(data=toy(shape=(1, 12, 8)))
    with pytest.raises(ValueError, match=r"of classes below 1, not \(1, 8, 8\) of 0 to 1"):
        fitted(small(classes=1))


def test_a_loss_that_is_no_longer_finite_is_an_error_and_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    data = toy()
    broken = small()
    with torch.no_grad():
        next(broken.generator.parameters()).fill_(math.nan)
    with pytest.raises(FloatingPointError, match="in epoch 1: lower the learning rate"):
        fitted(broken, data, checkpoint=tmp_path / "a.pt")
    data.images[5, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="images contains NaN or infinity"):
        fitted(data=data, checkpoint=tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []
