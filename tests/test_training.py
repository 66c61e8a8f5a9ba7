"""The training loop: it learns, its seed decides everything random, and an interruption changes nothing."""

import copy
import hashlib
import io
import json
import math
import os
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from helpers import attacks, models, training
from helpers.checkpoints import Checkpoint
from helpers.data import Split, load
from helpers.losses import hr_loss
from helpers.metrics import accuracy
from helpers.models import mlp, resnet18
from helpers.norms import length
from helpers.precision import PRECISIONS
from helpers.training import fit, shorten


class Interruption(Exception):
    pass


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    return tmp_path / "folder" / "of networks" / "a.pt"


def toy(n=60):
    """Three classes of 2×2 images, far apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    images = 0.2 * torch.rand(n, 1, 2, 2, generator=generator)
    images.view(n, 4)[range(n), labels] += 0.8
    return Split("toy/train", images, labels, tuple("abc"))


def network(seed=0):
    """With dropout, so that a training draws random numbers beside the order of its batches."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def loss(model, x, y):
    return cross_entropy(model(x), y)


def state(model):
    return torch.cat([v.flatten() for v in model.state_dict().values()])


def fitted(model=None, data=None, objective=loss, **options):
    """(flat parameters, losses) of a fit."""
    model, data = network() if model is None else model, toy() if data is None else data
    history = fit(model, data, objective, **{"epochs": 6, "lr": 0.1, "batch_size": 16, "seed": 0, **options})
    return state(model).detach(), [epoch["loss"] for epoch in history]


def test_a_separable_problem_is_learned():
    model, data = network(), toy()
    history = fit(model, data, loss, epochs=20, lr=0.2, batch_size=10, seed=0)
    assert len(history) == 20
    assert history[-1]["loss"] < history[0]["loss"] / 4
    assert all(0 < epoch["seconds"] < 60 for epoch in history)
    assert accuracy(model, data.images, data.labels) == 1
    assert all(m.training for m in model.modules())


def test_the_network_is_trained_in_training_mode_even_if_it_came_in_another():
    model, modes = network().eval(), []

    def objective(model, x, y):
        modes.append([m.training for m in model.modules()])
        return loss(model, x, y)

    fit(model, toy(), objective, epochs=2, lr=0.1, seed=0, after_epoch=lambda _, network: network.eval() and None)
    assert all(all(m) for m in modes)


def test_the_seed_decides_the_result():
    torch.manual_seed(1)
    first, first_losses = fitted(seed=3)
    torch.manual_seed(2)
    torch.rand(5)
    again, again_losses = fitted(seed=3)
    assert torch.equal(first, again)
    assert first_losses == again_losses
    other, other_losses = fitted(seed=4)
    assert not torch.equal(first, other)
    assert first_losses != other_losses


def batches(seed, epochs=2):
    """The indices of the samples in each batch, in order."""
    data, seen = toy(), []
    data.images[:, 0, 1, 1] = torch.arange(60) / 60

    def objective(model, x, y):
        index = (x[:, 0, 1, 1] * 60).round().long()
        assert torch.equal(data.labels[index], y), "images and labels were shuffled apart"
        seen.append(index.tolist())
        return loss(model, x, y)

    fit(network(), data, objective, epochs=epochs, lr=0.1, batch_size=16, seed=seed)
    return seen


def test_every_epoch_sees_every_sample_once_in_another_order():
    seen = batches(seed=0)
    assert [len(b) for b in seen] == 2 * [16, 16, 16, 12]
    first, second = sum(seen[:4], []), sum(seen[4:], [])
    assert sorted(first) == sorted(second) == list(range(60))
    assert first != second
    assert first != list(range(60))
    assert batches(seed=0) == seen
    assert batches(seed=1) != seen


def test_the_order_of_the_batches_does_not_depend_on_what_the_objective_draws():
    def greedy(model, x, y):
        torch.rand(7)
        return loss(model, x, y)

    def order(objective):
        first = []
        fitted(objective=lambda m, x, y: (first.append(x[0].sum().item()), objective(m, x, y))[1])
        return first

    assert order(greedy) == order(loss)


@pytest.mark.parametrize(("epochs", "batch_size"), [(1, 60), (3, 16), (5, 60)])
def test_the_learning_rate_falls_linearly_to_zero(epochs, batch_size):
    """The gradient is 1 and there is no momentum, so each step shows the rate."""
    weight, seen = nn.Module(), []
    weight.p = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def objective(model, x, y):
        seen.append(-model.p.item())
        return model.p

    fit(weight, toy(), objective, epochs=epochs, lr=0.8, batch_size=batch_size, momentum=0, seed=0)
    seen.append(-weight.p.item())
    rates = [b - a for a, b in zip(seen, seen[1:], strict=False)]
    total = epochs * math.ceil(60 / batch_size)
    assert rates == pytest.approx([0.8 * (1 - step / total) for step in range(total)], abs=1e-12)


def test_the_schedule_hears_how_much_is_done_and_scales_the_rate():
    """Two rates: 0.8 for the first half of the steps, a tenth of it for the second."""
    weight, seen = nn.Module(), []
    weight.p = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def objective(model, x, y):
        seen.append(-model.p.item())
        return model.p

    def steps(done):
        return 1.0 if done < 0.5 else 0.1

    fit(weight, toy(), objective, epochs=4, lr=0.8, batch_size=30, momentum=0, schedule=steps, seed=0)
    seen.append(-weight.p.item())
    assert [b - a for a, b in zip(seen, seen[1:], strict=False)] == pytest.approx(4 * [0.8] + 4 * [0.08])


def test_the_schedule_is_asked_for_shares_below_one_and_refused_where_it_is_no_factor():
    asked = []
    fitted(schedule=lambda done: asked.append(done) or 1.0, epochs=1, batch_size=15)
    assert set(asked) == {0.0, 0.25, 0.5, 0.75}
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="factor must be finite"):
            fitted(schedule=lambda done, wrong=wrong: wrong)


def test_the_cosine_is_half_a_cosine_and_both_schedules_go_from_one_down_to_zero():
    shares = [0, 1 / 3, 0.5, 2 / 3, 1]
    assert [training.cosine(share) for share in shares] == pytest.approx([1, 0.75, 0.5, 0.25, 0], abs=1e-12)
    assert [training.linear(share) for share in shares] == pytest.approx([1, 2 / 3, 0.5, 1 / 3, 0])


def test_attacks_have_the_schedules_without_the_training_and_the_data():
    code = "import sys, helpers.attacks; sys.exit(bool({'helpers.data', 'helpers.training'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0


@pytest.mark.parametrize("measured", [0.5, {"loss": 1.0}, {"seconds": 1.0}], ids=str)
def test_what_after_epoch_returns_must_be_a_dict_of_other_numbers(measured):
    with pytest.raises(ValueError, match="after_epoch must return"):
        fitted(after_epoch=lambda *_: measured)


def test_tensors_and_numpy_numbers_become_plain_ones_and_measuring_is_no_training_time():
    def measured(*_):
        time.sleep(0.2)
        return {"a": torch.tensor(0.5), "b": np.float32(0.25)}

    history = fit(network(), toy(), loss, epochs=1, lr=0.1, seed=0, after_epoch=measured)
    assert history[0]["a"] == 0.5 and history[0]["b"] == 0.25 and {type(v) for v in history[0].values()} == {float}
    assert history[0]["seconds"] < 0.2


# clipping


def steps(model, **options):
    """The change of all weights in a step of the rate 1, without momentum: minus the gradient that the step used."""
    before = state(model)
    fitted(model, **{"epochs": 1, "lr": 1.0, "batch_size": 60, "momentum": 0, "schedule": lambda _: 1.0, **options})
    return state(model) - before


def smooth(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.mlp(4, (8, 5), 3)


def tens(model, x, y):
    return 10 * loss(model, x, y)


@pytest.mark.parametrize("clip", [0.01, 0.5, 1.4])
def test_a_gradient_that_is_longer_than_clip_is_shortened_to_it(clip):
    free, clipped = steps(smooth(), objective=tens), steps(smooth(), objective=tens, clip=clip)
    assert free.norm() > clip
    torch.testing.assert_close(clipped, free * clip / free.norm(), rtol=1e-4, atol=1e-7)


def test_a_clip_above_the_norm_changes_nothing():
    assert torch.equal(fitted(clip=1e3)[0], fitted()[0])


def test_clipping_is_that_of_torch_at_every_step():
    expected, order = smooth(), torch.Generator().manual_seed(3)
    optimiser, data = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9), toy()
    norms = []
    for _ in range(5):
        for index in torch.randperm(60, generator=order).split(16):
            optimiser.zero_grad()
            tens(expected, data.images[index], data.labels[index]).backward()
            norms.append(nn.utils.clip_grad_norm_(expected.parameters(), 1.5).item())
            optimiser.step()
    assert min(norms) < 1.5 < max(norms), "this test wants some gradients that are shortened and some that are not"
    model = smooth()
    fitted(model, objective=tens, epochs=5, seed=3, clip=1.5, schedule=lambda _: 1.0)
    torch.testing.assert_close(state(model), state(expected), rtol=1e-4, atol=1e-5)


def test_the_norm_is_that_of_the_groups_together_and_of_no_frozen_weights():
    model = smooth()
    model[1].requires_grad_(False)
    groups = [{"params": [model[3].weight, model[3].bias]}, {"params": model[5].parameters()}]
    assert steps(model, objective=tens, parameters=groups, clip=0.25).norm().item() == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("scale", [100.0, 1e-3, 1.0, 0.0])
def test_gradients_are_shortened_as_torch_does_it_and_short_ones_stay_as_they_are(scale):
    generator = torch.Generator().manual_seed(0)
    gradients = [scale * torch.randn(s, generator=generator) for s in ((3, 4), (5,), (1, 1), ())]
    before, weights = [g.clone() for g in gradients], [nn.Parameter(torch.zeros(g.shape)) for g in gradients]
    for w, g in zip(weights, before, strict=True):
        w.grad = g.clone()
    norm = nn.utils.clip_grad_norm_(weights, 0.7)
    shorten(gradients, 0.7)
    for w, g in zip(weights, gradients, strict=True):
        torch.testing.assert_close(g, w.grad, rtol=1e-5, atol=0)
    assert math.sqrt(sum(g.square().sum().item() for g in gradients)) == pytest.approx(min(norm.item(), 0.7), rel=1e-5)
    assert norm > 0.7 or all(torch.equal(g, b) for g, b in zip(gradients, before, strict=True))


@pytest.mark.parametrize("clip", [0, -1.0, math.nan, math.inf])
def test_a_clip_that_is_no_length_is_refused(clip):
    with pytest.raises(ValueError, match="clip must be a finite number above 0, or None"):
        fitted(clip=clip)


def test_momentum_is_used():
    assert not torch.equal(fitted(momentum=0.0)[0], fitted()[0])
    assert torch.equal(fitted(momentum=0.9)[0], fitted()[0])


def no_gradient(model, x, y):
    return 0 * model(x).sum()


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_weight_decay_of_a_group_shrinks_its_weights_and_no_others(decay):
    """By lr · decay in each of 2 · 4 steps; a layer that is in no group stays as it is."""
    model, before = network(), network()
    groups = [{"params": [model[1].weight], "weight_decay": decay}, {"params": [model[1].bias], "weight_decay": 0.2}]
    fitted(model, objective=no_gradient, parameters=groups, epochs=2, momentum=0, schedule=lambda _: 1.0)
    torch.testing.assert_close(model[1].weight, before[1].weight * (1 - 0.1 * decay) ** 8)
    torch.testing.assert_close(model[1].bias, before[1].bias * (1 - 0.1 * 0.2) ** 8)
    assert torch.equal(model[4].weight, before[4].weight)


def test_weight_decay_falls_with_the_learning_rate():
    model, before = network(), network()
    fitted(model, objective=no_gradient, parameters=[{"params": model.parameters(), "weight_decay": 0.5}], epochs=1, momentum=0)
    factor = math.prod(1 - 0.1 * (1 - step / 4) * 0.5 for step in range(4))
    torch.testing.assert_close(state(model), factor * state(before))


def test_without_groups_all_parameters_are_trained_and_none_decays():
    assert torch.equal(fitted(objective=no_gradient)[0], state(network()))
    model = network()
    assert torch.equal(fitted(model, parameters=list(model.parameters()))[0], fitted()[0])
    decayed = network()
    groups = [{"params": decayed.parameters(), "weight_decay": 0.1}]
    assert fitted(decayed, parameters=groups)[0].norm() < fitted()[0].norm()


def test_the_loss_of_an_epoch_is_the_mean_over_its_samples():
    """The last batch holds 12 samples, the others 16."""
    seen = []

    def objective(model, x, y):
        value = loss(model, x, y)
        seen.append((value.item(), len(x)))
        return value

    _, losses = fitted(objective=objective)
    assert len(seen) == 6 * 4
    for epoch, value in enumerate(losses):
        assert value == pytest.approx(sum(v * n for v, n in seen[4 * epoch : 4 * epoch + 4]) / 60, rel=1e-6)


def test_after_epoch_hears_of_every_finished_epoch_and_sees_the_network():
    model, finished, seen = network(), [], []
    fitted(model, after_epoch=lambda epoch, network: finished.append((epoch, network)) or seen.append(state(network)))
    assert finished == [(epoch, model) for epoch in range(1, 7)]
    assert all(not torch.equal(a, b) for a, b in zip(seen, seen[1:], strict=False)) and torch.equal(seen[-1], state(model))


def test_what_after_epoch_returns_is_kept_with_the_epoch(checkpoint):
    def measured(epoch, _):
        if epoch == 5 and not resumed:
            raise Interruption
        return {"clean": epoch / 10}

    resumed = False
    with pytest.raises(Interruption):
        fitted(checkpoint=checkpoint, after_epoch=measured)
    resumed = True
    history = fit(network(), toy(), loss, epochs=6, lr=0.1, batch_size=16, seed=0, checkpoint=checkpoint, after_epoch=measured)
    assert [epoch["clean"] for epoch in history] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert all(epoch.keys() == {"loss", "seconds", "clean"} for epoch in history)


# interruption


def stop_after(last):
    """Interrupts while the epoch after `last` is being measured: that one is lost, `last` is stored."""

    def after_epoch(epoch, _):
        if epoch == last + 1:
            raise Interruption

    return after_epoch


@pytest.mark.parametrize("stops", [[1], [3], [5], [2, 4]])
def test_an_interrupted_training_continues_to_the_same_result(checkpoint, stops):
    expected, expected_losses = fitted()
    for stop in stops:
        with pytest.raises(Interruption):
            fitted(checkpoint=checkpoint, after_epoch=stop_after(stop))
        assert [p.name for p in checkpoint.parent.iterdir()] == ["a.pt"]
    torch.manual_seed(99)  # the process that continues is another one
    finished = []
    weights, losses = fitted(network(seed=7), checkpoint=checkpoint, after_epoch=lambda epoch, _: finished.append(epoch))
    assert finished == list(range(stops[-1] + 1, 7)), "finished epochs were computed again, or skipped"
    assert torch.equal(weights, expected)
    assert losses == expected_losses


def test_an_interrupted_training_continues_with_the_groups_it_had(checkpoint):
    def run(**options):
        model = network()
        groups = [{"params": [m.weight, m.bias], "weight_decay": d} for m, d in ((model[1], 0.3), (model[4], 0.01))]
        return fitted(model, parameters=groups, **options)[0]

    with pytest.raises(Interruption):
        run(checkpoint=checkpoint, after_epoch=stop_after(3))
    assert torch.equal(run(checkpoint=checkpoint), run())


def test_an_interruption_within_an_epoch_loses_that_epoch_only(checkpoint):
    expected, expected_losses = fitted()
    model, calls = network(), []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 4 * 3 + 2:
            raise Interruption

    model.register_forward_pre_hook(interrupt)
    with pytest.raises(Interruption):
        fitted(model, checkpoint=checkpoint)
    finished = []
    weights, losses = fitted(network(seed=7), checkpoint=checkpoint, after_epoch=lambda epoch, _: finished.append(epoch))
    assert finished == [4, 5, 6]
    assert torch.equal(weights, expected)
    assert losses == expected_losses


def test_a_checkpoint_changes_nothing_in_a_training_that_runs_through(checkpoint):
    expected, expected_losses = fitted()
    weights, losses = fitted(checkpoint=checkpoint)
    assert torch.equal(weights, expected)
    assert losses == expected_losses


def test_a_short_training_writes_no_checkpoint(tmp_path):
    fitted(checkpoint=tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


def interrupted(checkpoint, model=None, **options):
    """Leave the checkpoint of a training that stopped after its third epoch."""
    Checkpoint.of(checkpoint).unlink()
    with pytest.raises(Interruption):
        fitted(model, checkpoint=checkpoint, after_epoch=stop_after(3), **options)


def continued(checkpoint, model=None, **options):
    """(what `fitted` returns, the epochs that were trained, the warnings) of a training that finds a checkpoint."""
    finished = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = fitted(model, checkpoint=checkpoint, after_epoch=lambda epoch, _: finished.append(epoch), **options)
    assert not [p for p in Checkpoint.of(checkpoint).path.parent.iterdir() if p.name != "a.pt"]
    return result, finished, [str(w.message) for w in caught]


def anew(checkpoint, model=None, **options):
    """The one warning of a training that must become what it becomes without the checkpoint."""
    expected = fitted(copy.deepcopy(model), **options)
    (weights, losses), finished, [message] = continued(checkpoint, model, **options)
    assert torch.equal(weights, expected[0]) and losses == expected[1] and finished[0] == 1
    assert "\n" not in message and message.endswith(": the training starts anew")
    return message


def changed(images=0, labels=0):
    data = toy()
    data.images[7, 0, 0, 0] += images
    data.labels[7] = (data.labels[7] + labels) % 3
    return data


def halved(progress):
    return 1.0 if progress < 0.5 else 0.5


def scaled(model, x, y, by):
    return by * loss(model, x, y)


def closed(by):
    return lambda model, x, y: by * loss(model, x, y)


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"seed": 1}, {}, "seed was 1, is now 0"),
        ({"lr": 0.2}, {}, "lr was 0.2, is now 0.1"),
        ({"epochs": 7}, {}, "epochs was 7, is now 6"),
        ({}, {"epochs": 7}, "epochs was 6, is now 7"),
        ({}, {"epochs": 2}, "epochs was 6, is now 2"),
        ({"batch_size": 15}, {}, "batch_size was 15, is now 16"),
        ({"momentum": 0.8}, {}, "optimiser 0 momentum was 0.8, is now 0.9"),
        ({"optimiser": torch.optim.Adam}, {}, "optimiser kind was Adam, is now SGD"),
        ({"optimiser": partial(torch.optim.Adam, betas=(0.5, 0.9))}, {"optimiser": torch.optim.Adam}, "optimiser 0 betas was"),
        ({"clip": 0.5}, {}, "clip was 0.5, is now missing"),
        ({"precision": "bf16"}, {}, "precision was bf16, is now missing"),
        ({}, {"precision": "bf16"}, "precision was missing, is now bf16"),
        ({"schedule": training.cosine}, {}, "schedule was cosine, is now linear"),
        ({"schedule": halved}, {"schedule": lambda progress: halved(progress)}, "schedule was halved"),
        ({"data": toy(57)}, {}, "data was 57 samples"),
        ({"data": changed(images=1e-4)}, {}, "data was 60 samples"),
        ({"data": changed(labels=1)}, {}, "data was 60 samples"),
        ({"objective": tens}, {}, "objective was tens, is now loss"),
        ({"objective": partial(scaled, by=2)}, {"objective": partial(scaled, by=3)}, "objective by was 2, is now 3"),
        ({"objective": closed(2)}, {"objective": closed(3)}, "objective by was 2, is now 3"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_checkpoint_of_another_training_is_not_continued(checkpoint, before, now, words):
    interrupted(checkpoint, **before)
    assert words in anew(checkpoint, **now)


def other_network(kind):
    model = network()
    if kind == "other layers":
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    if kind == "other activation":
        model[2] = nn.Tanh()
    if kind == "other dropout":
        model[3].p = 0.4
    if kind == "frozen":
        model[1].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize("kind", ["other layers", "other activation", "other dropout", "frozen"])
def test_a_checkpoint_of_another_architecture_is_not_continued(checkpoint, kind):
    interrupted(checkpoint)
    assert "network was" in anew(checkpoint, other_network(kind))


def test_a_checkpoint_of_other_parameter_groups_is_not_continued(checkpoint):
    def groups(model, decay, layers=(1, 4)):
        return [{"params": list(model[layer].parameters()), "weight_decay": decay} for layer in layers]

    def run(*wanted):
        model = network()
        return fitted(model, parameters=groups(model, *wanted))[0]

    model = network()
    interrupted(checkpoint, model, parameters=groups(model, 0.3))
    for wanted in ((0.2,), (0.3, (4, 1)), (0.3, (1,))):
        model = network()
        (weights, _), finished, [message] = continued(checkpoint, model, parameters=groups(model, *wanted))
        assert finished[0] == 1 and "optimiser" in message and torch.equal(weights, run(*wanted))
        model = network()
        interrupted(checkpoint, model, parameters=groups(model, 0.3))


def test_the_code_that_made_a_checkpoint_counts_where_the_caller_names_it(checkpoint):
    def at(**names):
        return Checkpoint(checkpoint, **{"identity": "a", "commit": "1", **names})

    interrupted(at())
    assert continued(at())[1:] == ([4, 5, 6], [])
    interrupted(at(identity="b"))
    assert "identity was b, is now a" in anew(at())
    interrupted(at())
    assert continued(at(commit="2"))[1:] == ([4, 5, 6], []), "a later commit whose code is the same continues it"
    interrupted(at())
    assert "identity was a, is now " in anew(checkpoint)


def test_a_checkpoint_of_another_torch_is_not_continued(checkpoint, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "1.0")
        interrupted(checkpoint)
    assert "torch was 1.0, is now" in anew(checkpoint)


def test_the_same_settings_in_other_words_are_the_same(checkpoint):
    """Numbers of numpy's, a path as text, functions and data that were made again."""
    interrupted(checkpoint, objective=closed(2), lr=0.1, clip=2, optimiser=partial(torch.optim.SGD, momentum=0.9))
    other = {"lr": np.float64(0.1), "clip": 2.0, "epochs": np.int64(6)}
    other["optimiser"] = partial(torch.optim.SGD, momentum=np.float64(0.9))
    _, finished, messages = continued(str(checkpoint), objective=closed(2), **other)
    assert finished == [4, 5, 6] and not messages


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "a bit", "a plain file of torch's", "a folder"])
def test_a_damaged_checkpoint_is_not_continued(checkpoint, damage):
    interrupted(checkpoint)
    content = checkpoint.read_bytes()
    if damage == "a folder":
        checkpoint.unlink()
        checkpoint.mkdir()
    elif damage == "a plain file of torch's":
        torch.save({"model": network().state_dict()}, checkpoint)
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        kinds = {"truncated": content[:middle], "garbage": b"garbage" * 99, "empty": b"", "a bit": flipped}
        checkpoint.write_bytes(kinds[damage])
    if damage == "a folder":
        _, finished, messages = continued(checkpoint)
        assert finished[0] == 1 and "cannot be read" in messages[0] and "could not write" in messages[1] and len(messages) == 2
    else:
        assert "cannot be read" in anew(checkpoint)
        interrupted(checkpoint)
        assert continued(checkpoint)[1:] == ([4, 5, 6], [])


@pytest.mark.parametrize("lacks", ["model", "optimiser", "rate", "order", "rng", "history"])
def test_a_checkpoint_whose_state_does_not_fit_leaves_the_training_as_it_was(checkpoint, monkeypatch, lacks):
    load = Checkpoint.resume

    def incomplete(self, about):
        state = load(self, about)
        state["parts"].pop(lacks, None) or state.pop(lacks)
        return state

    interrupted(checkpoint)
    monkeypatch.setattr(Checkpoint, "resume", incomplete)
    assert "does not fit" in anew(checkpoint, network())


def test_a_checkpoint_runs_no_code(checkpoint, tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    checkpoint.parent.mkdir(parents=True)
    file = io.BytesIO()
    torch.save({"about": "{}", "state": Payload()}, file)
    checkpoint.write_bytes(hashlib.sha256(file.getvalue()).digest() + file.getvalue())
    assert "cannot be read" in anew(checkpoint)
    assert not (tmp_path / "ran").exists()


def full(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("module", "name"), [(os, "fsync"), (os, "replace"), (torch, "save")], ids=str)
def test_a_disk_that_is_full_costs_one_warning_and_neither_the_network_nor_the_last_checkpoint(
    checkpoint, monkeypatch, module, name
):
    interrupted(checkpoint)
    before = checkpoint.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "check_folder", lambda self: None)  # the disk fills up later
        patch.setattr(module, name, full)
        (weights, losses), finished, messages = continued(checkpoint)
    assert [f"could not write {checkpoint}" in m and "No space left" in m for m in messages] == [True]
    assert finished == [4, 5, 6] and torch.equal(weights, fitted()[0]) and losses == fitted()[1]
    assert checkpoint.read_bytes() == before
    assert continued(checkpoint)[1] == [4, 5, 6]


def test_a_file_that_may_not_grow_costs_one_warning(checkpoint):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        (weights, _), finished, messages = continued(checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(messages) == 1 and "goes on without a checkpoint" in messages[0]
    assert finished == [1, 2, 3, 4, 5, 6] and torch.equal(weights, fitted()[0])


def test_a_folder_that_is_deleted_meanwhile_is_made_again(checkpoint):
    def delete(epoch, _):
        if epoch == 3:
            checkpoint.unlink()
            checkpoint.parent.rmdir()
        if epoch == 5:
            raise Interruption

    with pytest.raises(Interruption):
        fitted(checkpoint=checkpoint, after_epoch=delete)
    assert continued(checkpoint)[1] == [5, 6]


def test_a_folder_that_cannot_be_made_is_an_error_before_the_training(tmp_path):
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    calls = []
    for path in (tmp_path / "file" / "a.pt", tmp_path / "file" / "b" / "a.pt", tmp_path / ("n" * 300)):
        with pytest.raises(RuntimeError, match="cannot write checkpoints into") as caught:
            fitted(checkpoint=path, objective=lambda *_: calls.append(1))
        assert "\n" not in str(caught.value)
    assert not calls and [p.name for p in tmp_path.iterdir()] == ["file"]


# another optimiser


def by_hand(make, epochs=3, lr=0.05):
    """What `fit` must do with an optimiser: batches in the seed's order, the rate falling linearly."""
    model, data, order = quiet(0), toy(), torch.Generator().manual_seed(0)
    optimiser, step = make(model.parameters(), lr=lr), 0
    for _ in range(epochs):
        for index in torch.randperm(60, generator=order).split(16):
            optimiser.param_groups[0]["lr"] = lr * (1 - step / (4 * epochs))
            optimiser.zero_grad()
            loss(model, data.images[index], data.labels[index]).backward()
            optimiser.step()
            step += 1
    return state(model).detach()


@pytest.mark.parametrize("make", [torch.optim.Adam, partial(torch.optim.AdamW, betas=(0.5, 0.9)), torch.optim.SGD], ids=str)
def test_another_optimiser_takes_the_steps(make):
    trained, _ = fitted(quiet(0), optimiser=make, epochs=3, lr=0.05)
    torch.testing.assert_close(trained, by_hand(make), rtol=1e-5, atol=1e-7)
    assert not torch.allclose(trained, fitted(quiet(0), epochs=3, lr=0.05)[0], atol=1e-3)


def test_the_default_is_sgd_with_a_momentum_of_nine_tenths():
    default = fitted()
    for same in ({"momentum": 0.9}, {"momentum": None}, {"optimiser": partial(torch.optim.SGD, momentum=0.9)}):
        again = fitted(**same)
        assert torch.equal(default[0], again[0]) and default[1] == again[1]
    assert not torch.equal(default[0], fitted(momentum=0.0)[0])


def test_another_optimiser_brings_its_own_momentum():
    for momentum in (0.0, 0.9):
        with pytest.raises(ValueError, match="momentum is for SGD"):
            fitted(optimiser=torch.optim.Adam, momentum=momentum)


def test_another_optimiser_takes_parameter_groups_and_continues_from_a_checkpoint(checkpoint):
    def options(model):
        return {"optimiser": torch.optim.Adam, "parameters": [{"params": model[1].parameters()}], "checkpoint": checkpoint}

    expected = network()
    fitted(expected, **options(expected) | {"checkpoint": None})
    assert torch.equal(expected[4].weight, network()[4].weight)
    first, model = network(), network(7)
    with pytest.raises(Interruption):
        fitted(first, **options(first), after_epoch=stop_after(3))
    fitted(model, **options(model))
    assert torch.equal(state(model), state(expected))


# precision


bf16 = partial(fitted, precision="bf16")


def test_float32_is_the_default_and_its_checkpoints_are_those_from_before_there_was_a_choice(checkpoint):
    """To the last bit what plain torch does, under an account without a precision, of an SGD that is not fused."""
    expected = by_hand(partial(torch.optim.SGD, momentum=0.9))
    assert torch.equal(fitted(quiet(0), epochs=3, lr=0.05, checkpoint=checkpoint)[0], expected)
    assert torch.equal(fitted(quiet(0), epochs=3, lr=0.05, precision="float32")[0], expected)
    about = json.loads(torch.load(io.BytesIO(checkpoint.read_bytes()[32:]), weights_only=True)["about"])
    common = {"seed", "epochs", "lr", "batch_size", "clip", "schedule", "objective", "data", "network", "device", "identity"}
    assert about.keys() == common | {"optimiser", "torch"} and about["optimiser"]["0"]["fused"] is None


@pytest.mark.long
def test_bf16_learns_what_float32_learns():
    """Within 2 of 100 test images: 0.6 at most in four seeds of two networks; the digits are those of other writers."""
    right = {}
    for precision in PRECISIONS:
        torch.manual_seed(0)
        model, seen = models.mlp(784, (64,), 10), []
        fit(model, load("digits", "train"), loss, epochs=4, lr=0.1, batch_size=50, seed=0, precision=precision,
            after_epoch=lambda _, network, seen=seen: seen.append(network(torch.rand(1, 784)).dtype))  # fmt: skip
        right[precision] = accuracy(model, *load("digits", "test").xy)
        assert set(seen) == {torch.float32}
        assert all(w.dtype == torch.float32 and w.isfinite().all() for w in model.parameters())
    assert min(right.values()) > 0.85 and abs(right["bf16"] - right["float32"]) <= 0.02


def test_bf16_is_decided_by_the_seed_and_is_not_float32():
    first, again, exact = bf16(), bf16(), fitted()
    assert torch.equal(first[0], again[0]) and first[1] == again[1]
    assert not torch.equal(first[0], exact[0]) and first[1] == pytest.approx(exact[1], rel=0.05)


@pytest.mark.parametrize("options", [{}, {"optimiser": torch.optim.Adam}], ids=["SGD", "Adam"])
def test_an_interrupted_bf16_training_continues_to_the_same_result(checkpoint, options):
    expected = bf16(**options)
    for stop in (2, 4):
        with pytest.raises(Interruption):
            bf16(checkpoint=checkpoint, after_epoch=stop_after(stop), **options)
    finished = []
    weights, losses = bf16(network(7), checkpoint=checkpoint, after_epoch=lambda epoch, _: finished.append(epoch), **options)
    assert finished == [5, 6] and torch.equal(weights, expected[0]) and losses == expected[1]


def test_bf16_takes_steps_of_a_fused_sgd_or_of_the_optimiser_that_is_given(checkpoint):
    """A fused step reads memory in order: it must find the weights of channels_last, and their gradients, in one."""

    def conv():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 6, 2), nn.Flatten(), nn.Linear(6, 3)).to(memory_format=torch.channels_last)

    def run(**options):
        model = conv()
        groups = [{"params": model[0].parameters(), "weight_decay": 0.1}, {"params": model[2].parameters()}]
        return bf16(model, parameters=groups, clip=0.4, **options)[0]

    plain = run(optimiser=partial(torch.optim.SGD, momentum=0.9))
    torch.testing.assert_close(run(checkpoint=checkpoint), plain, rtol=1e-3, atol=1e-5)  # a bf16 pass may round the other way
    about = json.loads(torch.load(io.BytesIO(checkpoint.read_bytes()[32:]), weights_only=True)["about"])
    assert about["optimiser"]["0"]["fused"] is True
    assert not torch.allclose(plain, run(optimiser=torch.optim.Adam), atol=1e-2)


def test_passes_are_bf16_and_losses_float32():
    """Logits are what bf16 has, of a float32 type; the loss of them has all digits, where bf16 would leave 2 to 3."""
    seen = []

    def objective(model, x, y):
        logits = model(x)
        assert logits.dtype == torch.float32 and torch.equal(logits, logits.bfloat16().float())
        value = hr_loss(logits, y, alpha=1.5)
        assert value.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        seen.append((value.item(), hr_loss(logits.double(), y, alpha=1.5).item()))
        return value

    _, losses = bf16(objective=objective, epochs=2, batch_size=60)
    assert losses == pytest.approx([value for value, _ in seen], rel=1e-6)
    assert [value for value, _ in seen] == pytest.approx([exact for _, exact in seen], rel=1e-6)


@pytest.mark.parametrize(
    "attack",
    [attacks.fgsm, attacks.adv_loss, attacks.adv_alpha, attacks.adv_logits, partial(attacks.pgd, steps=3, restarts=2)],
    ids=lambda attack: getattr(attack, "__name__", "pgd"),
)
def test_learning_with_an_adversary_in_bf16_stays_in_range_and_within_its_radius(attack):
    norm = "linf" if attack is attacks.fgsm else "l2"

    def objective(model, x, y):
        moved = attack(model, x, y, eps=0.2)
        assert moved.dtype == torch.float32 and moved.min() >= 0 and moved.max() <= 1
        assert 0.05 < length(moved - x, norm).max() <= 0.2 * (1 + 1e-5)
        return loss(model, moved, y)

    model, data = quiet(0), toy()
    _, losses = bf16(model, data, objective, epochs=10)
    assert losses[-1] < 0.7 * losses[0] and accuracy(model, data.images, data.labels) > 0.9
    assert losses == pytest.approx(fitted(quiet(0), data, objective, epochs=10)[1], rel=0.1)


def test_parts_that_the_objective_calls_are_bf16_too():
    """The adversary of a layer's features, and that of a network within the model."""

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = quiet(0)

    def by_layers(model, x, y):
        lower, upper = getattr(model, "network", model)[:2], getattr(model, "network", model)[2:]
        h = lower(x)
        assert torch.equal(h, h.bfloat16().float())
        return cross_entropy(upper(attacks.adv_loss(upper, h, y, eps=0.1, clip=False)), y)

    def whole(model, x, y):
        logits = model.network(x)
        assert torch.equal(logits, logits.bfloat16().float())
        return cross_entropy(logits, y)

    assert torch.equal(bf16(quiet(0), objective=by_layers)[0], bf16(Wrapped(), objective=by_layers)[0])
    assert torch.equal(bf16(Wrapped(), objective=whole)[0], bf16(quiet(0))[0])


def test_a_pass_without_gradients_takes_none_from_the_next():
    """Autocast keeps the casts of weights that were made without gradients, in torch 2.6."""

    def looks_first(model, x, y):
        with torch.no_grad():
            model(x)
        return loss(model, x, y)

    assert torch.equal(bf16(quiet(0), objective=looks_first)[0], bf16(quiet(0))[0])


def test_several_results_of_a_network_are_float32():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = quiet(0)

        def forward(self, x):
            return self.body(x), [x.mean(), self.body(x)]

    def objective(model, x, y):
        first, (mean, second) = model(x)
        assert {first.dtype, mean.dtype, second.dtype} == {torch.float32}
        return cross_entropy(first, y)

    assert torch.equal(bf16(Two(), objective=objective)[0], bf16(quiet(0))[0])


def test_a_training_in_bf16_that_fails_leaves_an_ordinary_network():
    def broken(model, x, y):
        model(x)
        raise Interruption

    model = quiet(0)
    with pytest.raises(Interruption):
        bf16(model, objective=broken)
    assert torch.equal(model(toy().images), quiet(0)(toy().images)) and not any("forward" in vars(m) for m in model.modules())


# what is refused


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "BF16", "", None, 32], ids=str)
def test_an_unknown_precision_is_refused(precision):
    model = network()
    with pytest.raises(ValueError, match="precision must be one of float32, bf16, not"):
        fitted(model, precision=precision)
    assert torch.equal(state(model), state(network()))


def test_bf16_of_weights_that_are_not_float32_is_refused():
    with pytest.raises(ValueError, match=r"bf16 is for float32 weights, not float64: call the network's \.float\(\)"):
        bf16(network().double())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_training(value, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    calls = []

    def objective(model, x, y):
        calls.append(1)
        return loss(model, x, y) + (value if len(calls) == 6 else 0)  # in the second of three epochs

    with pytest.raises(FloatingPointError, match=r"in epoch 2: lower the learning rate \(0.1\)"):
        fitted(objective=objective, checkpoint=tmp_path / "a.pt", epochs=3)
    assert len(calls) == 8
    content = (tmp_path / "a.pt").read_bytes()[32:]  # after the checksum
    stored = torch.load(io.BytesIO(content), weights_only=True)
    assert len(stored["state"]["history"]) == 1, "the state after it was kept"


@pytest.mark.parametrize(
    "options",
    [{"epochs": 0}, {"epochs": -1}, {"lr": 0}, {"lr": -0.1}, {"lr": math.nan}, {"lr": math.inf}, {"batch_size": 0}],
    ids=str,
)
def test_settings_out_of_range_are_refused(options):
    model = network()
    with pytest.raises(ValueError, match="epochs and batch_size must be at least 1 and lr finite and above 0"):
        fitted(model, **options)
    assert torch.equal(state(model), state(network()))


def test_empty_data_is_refused_by_name():
    with pytest.raises(ValueError, match="toy/train is empty"):
        fitted(data=toy()[:0])


def quiet(seed):
    """Without dropout."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


def test_a_frozen_parameter_stays_as_it_is():
    model = quiet(1)
    model[1].weight.requires_grad_(False)
    before = model[1].weight.clone()
    fitted(model)
    assert torch.equal(model[1].weight, before) and not torch.equal(model[3].weight, quiet(1)[3].weight)


def test_clipping_takes_parameters_of_any_shape():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.inner = nn.Parameter(torch.ones(())), quiet(0)

        def forward(self, x):
            return self.scale * self.inner(x)

    fit(Scaled(), toy(), loss, epochs=1, lr=0.1, seed=0, clip=0.1)


def test_an_objective_that_is_no_scalar_is_refused():
    with pytest.raises(ValueError, match="must return a scalar"):
        fitted(objective=lambda m, x, y: nn.functional.cross_entropy(m(x), y, reduction="none"))


def test_a_last_batch_of_one_image_is_refused_before_training_where_batch_normalisation_cannot_take_it():
    data, steps = Split("toy/train", torch.rand(9, 3, 32, 32), torch.arange(9) % 3, ("0", "1", "2")), []

    def objective(model, x, y):
        steps.append(len(x))
        return cross_entropy(model(x), y)

    with pytest.raises(ValueError, match="9 images in batches of 4 leave one image alone.*take another batch_size"):
        fit(resnet18(8, 3, 3, "batch"), data, objective, epochs=1, lr=0.01, batch_size=4, seed=0)
    assert not steps
    fit(resnet18(8, 3, 3, "batch"), data, objective, epochs=1, lr=0.01, batch_size=3, seed=0)
    maps = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(1800, 3))
    fit(maps, data, objective, epochs=1, lr=0.01, batch_size=4, seed=0)
    assert steps == [3, 3, 3, 4, 4, 1]


def test_a_training_without_a_gradient_is_refused_in_words():
    network = mlp(4, (3,), 2)
    data = Split("toy/train", torch.rand(4, 1, 2, 2), torch.arange(4) % 2, ("0", "1"))

    def objective(model, x, y):
        return cross_entropy(model(x), y)

    with torch.no_grad(), pytest.raises(ValueError, match="has no gradient: train outside of torch.no_grad"):
        fit(network, data, objective, epochs=1, lr=0.1, seed=0)
    with pytest.raises(ValueError, match=r"has no gradient.*load_pretrained after \.requires_grad_\(\)"):
        fit(network.requires_grad_(False), data, objective, epochs=1, lr=0.1, seed=0)
