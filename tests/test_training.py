"""The training loop: it learns, its seed decides everything random, and an interruption changes nothing."""

import math
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from helpers import models, training
from helpers.data import Split
from helpers.losses import hr_loss
from helpers.metrics import accuracy
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
    networks, expected = [smooth(0), smooth(1)], [smooth(0), smooth(1)]
    for both, clip in ((networks, 1e3), (expected, None)):
        fit(both, toy(), loss, epochs=3, lr=0.1, batch_size=16, seed=[0, 1], clip=clip)
    assert all(torch.equal(state(a), state(b)) for a, b in zip(networks, expected, strict=True))


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


def test_each_network_has_a_norm_of_its_own():
    generator = torch.Generator().manual_seed(0)
    shapes, scales = ((2, 3, 4), (5,), (1, 1)), torch.tensor([100.0, 1e-3, 1.0, 0.0])
    gradients = [torch.randn(4, *s, generator=generator) * scales.view(-1, *[1] * len(s)) for s in shapes]
    before = [g.clone() for g in gradients]
    shorten(gradients, 0.7)
    for i in range(4):
        alone = [nn.Parameter(torch.zeros(s)) for s in shapes]
        for w, g in zip(alone, before, strict=True):
            w.grad = g[i].clone()
        norm = nn.utils.clip_grad_norm_(alone, 0.7)
        for w, g in zip(alone, gradients, strict=True):
            torch.testing.assert_close(g[i], w.grad, rtol=1e-5, atol=0)
        after = math.sqrt(sum(g[i].square().sum().item() for g in gradients))
        assert after == pytest.approx(min(norm.item(), 0.7), rel=1e-5)
    assert all(torch.equal(g[[1, 3]], b[[1, 3]]) for g, b in zip(gradients, before, strict=True)), "short ones stay as they are"


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
    calls = []

    def interrupted(model, x, y):
        calls.append(1)
        if len(calls) == 4 * 3 + 2:
            raise Interruption
        return loss(model, x, y)

    with pytest.raises(Interruption):
        fitted(checkpoint=checkpoint, objective=interrupted)
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


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "another network"])
def test_a_checkpoint_that_cannot_be_used_is_named(checkpoint, damage):
    with pytest.raises(Interruption):
        fitted(checkpoint=checkpoint, after_epoch=stop_after(2))
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(
        {"truncated": content[: len(content) // 2], "garbage": b"garbage" * 99, "empty": b""}.get(damage, content)
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) if damage == "another network" else network()
    with pytest.raises(RuntimeError, match=r"(?s)a\.pt cannot be continued from .*delete it to train from the start"):
        fitted(model, checkpoint=checkpoint)


def test_a_checkpoint_runs_no_code(checkpoint, tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    checkpoint.parent.mkdir(parents=True)
    torch.save({"model": Payload()}, checkpoint)
    with pytest.raises(RuntimeError, match="cannot be continued from"):
        fitted(checkpoint=checkpoint)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")])
def test_a_disk_that_is_full_is_named_and_the_last_checkpoint_survives(checkpoint, monkeypatch, error):
    with pytest.raises(Interruption):
        fitted(checkpoint=checkpoint, after_epoch=stop_after(2))
    before = checkpoint.read_bytes()

    def full(state, path):
        path.write_bytes(b"the beginning")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(RuntimeError, match=r"could not write .*a\.pt \(.*: free some space"):
            fitted(checkpoint=checkpoint)
    assert [p.name for p in checkpoint.parent.iterdir()] == ["a.pt"]
    assert checkpoint.read_bytes() == before
    assert torch.equal(fitted(checkpoint=checkpoint)[0], fitted()[0])


# several networks at once


def conv_network():
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    return nn.Sequential(*layers)


BUILDS = {
    "mlp": lambda: models.mlp(48, (6, 5), 3),
    "convolution and BatchNorm": conv_network,
    "resnet": lambda: models.resnet(1, (2, 3, 4), classes=3, mean=(0.1, 0.2, 0.3)),
}


def colours(n=40):
    """In float64, where rounding cannot hide a difference."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    images = 0.5 * torch.rand(n, 3, 4, 4, generator=generator, dtype=torch.float64)
    images[range(n), labels] += 0.3
    return Split("colours/train", images, labels, tuple("abc"))


def several(build="mlp", seeds=(0, 1, 2)):
    networks = []
    for seed in seeds:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            networks.append(BUILDS[build]().double())
    return networks


SEEDS = [5, 6, 7]
OPTIONS = {"epochs": 4, "lr": 0.1, "batch_size": 16}


def together(networks, *, objective=loss, seed=SEEDS, **options):
    return fit(networks, colours(), objective, seed=seed, **{**OPTIONS, **options})


def one_after_the_other(networks, *, objective=loss, **options):
    return [fit(n, colours(), objective, seed=s, **{**OPTIONS, **options}) for n, s in zip(networks, SEEDS, strict=True)]


def losses(histories):
    return [[epoch["loss"] for epoch in history] for history in histories]


def assert_same(networks, expected, rtol=1e-9):
    for a, b in zip(networks, expected, strict=True):
        torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=rtol, atol=1e-12 if rtol else 0)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="as it stands"),
        pytest.param({"momentum": 0.0, "schedule": lambda _: 1.0, "batch_size": 40}, id="without momentum"),
        pytest.param({"momentum": 0.5, "schedule": lambda done: 1.0 if done < 0.5 else 0.1, "clip": 0.3}, id="clip, schedule"),
    ],
)
@pytest.mark.parametrize("build", BUILDS)
def test_networks_that_train_at_once_become_what_they_become_one_after_the_other(build, options):
    networks, expected, before = several(build), several(build), several(build)
    histories, expected_histories = together(networks, **options), one_after_the_other(expected, **options)
    assert_same(networks, expected)
    for a, b in zip(losses(histories), losses(expected_histories), strict=True):
        assert a == pytest.approx(b, rel=1e-9)
    for network, start in zip(networks, before, strict=True):
        assert all(not torch.equal(v, start.state_dict()[k]) for k, v in network.state_dict().items())


def test_networks_that_train_at_once_take_the_hr_loss_of_their_own_batch():
    def objective(model, x, y):
        return hr_loss(model(x), y, alpha=1.6)

    networks, expected = several(), several()
    together(networks, objective=objective)
    one_after_the_other(expected, objective=objective)
    assert_same(networks, expected)


def test_the_seeds_decide_the_orders_of_networks_that_train_at_once():
    same = several(seeds=(0, 0, 0))
    together(same, seed=[5, 6, 5])
    first, other, again = map(state, same)
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_the_buffers_of_networks_that_train_at_once_count_their_batches():
    networks = several("resnet")
    for network in networks:
        network.eval()
    together(networks)
    assert {network[2].num_batches_tracked.item() for network in networks} == {4 * 3}
    means = [network[2].running_mean for network in networks]
    assert not torch.allclose(means[0], means[1]) and not torch.allclose(means[1], means[2])


def test_each_of_several_networks_has_its_history():
    networks = several()
    histories = together(networks, after_epoch=lambda epoch, network: {"epoch": epoch, "which": networks.index(network)})
    assert [[(epoch["epoch"], epoch["which"]) for epoch in history] for history in histories] == [
        [(epoch, i) for epoch in range(1, 5)] for i in range(3)
    ]
    assert all(epoch.keys() == {"loss", "seconds", "epoch", "which"} for history in histories for epoch in history)
    assert [history[1]["seconds"] for history in histories] == 3 * [histories[0][1]["seconds"]]
    assert {type(v) for history in histories for epoch in history for v in epoch.values()} == {float}


def test_a_list_of_one_network_is_a_list_still():
    networks, expected = several(seeds=(0,)), several(seeds=(0,))
    (history,) = together(networks, seed=[5])
    alone = fit(expected[0], colours(), loss, seed=5, **OPTIONS)
    assert_same(networks, expected)
    assert losses([history])[0] == pytest.approx(losses([alone])[0], rel=1e-9)


def test_networks_that_train_at_once_share_the_seconds(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(training.time, "monotonic", lambda: float(next(clock)))
    histories = together(several(), epochs=1)
    assert [history[0]["seconds"] for history in histories] == 3 * [round(1 / 3, 3)]


@pytest.mark.parametrize("build", BUILDS)
def test_after_epoch_sees_each_of_several_networks_as_it_is_by_then(build):
    def watch(seen):
        def after_epoch(epoch, network):
            seen.append((epoch, id(network), state(network).clone()))
            network.eval()

        return after_epoch

    networks, seen, expected, expected_seen = several(build), [], several(build), []
    together(networks, after_epoch=watch(seen))
    one_after_the_other(expected, after_epoch=watch(expected_seen))
    assert [(epoch, i) for epoch, i, _ in seen] == [(epoch, id(n)) for epoch in range(1, 5) for n in networks]
    expected_seen.sort(key=lambda e: e[0])
    for (_, _, a), (_, _, b) in zip(seen, expected_seen, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("stops", [[1], [2, 3]], ids=str)
def test_interrupted_networks_continue_at_once_to_the_same_result(checkpoint, build, stops):
    expected = several(build)
    expected_losses = losses(together(expected, clip=0.3))
    for stop in stops:
        with pytest.raises(Interruption):
            together(several(build, seeds=(7, 8, 9)) if stop > stops[0] else several(build), clip=0.3,
                     checkpoint=checkpoint, after_epoch=stop_after(stop))  # fmt: skip
        assert [p.name for p in checkpoint.parent.iterdir()] == ["a.pt"]
    torch.manual_seed(99)
    networks, finished = several(build, seeds=(7, 8, 9)), []
    histories = together(networks, clip=0.3, checkpoint=checkpoint, after_epoch=lambda epoch, _: finished.append(epoch))
    assert finished == [epoch for epoch in range(stops[-1] + 1, 5) for _ in range(3)]
    assert_same(networks, expected, rtol=0)
    assert losses(histories) == expected_losses


def test_an_interruption_between_two_networks_loses_that_epoch_of_both(checkpoint):
    def after_epoch(epoch, network):
        measured.append(epoch)
        if len(measured) == 8:
            raise Interruption

    measured, expected = [], several()
    expected_losses = losses(together(expected))
    with pytest.raises(Interruption):
        together(several(), checkpoint=checkpoint, after_epoch=after_epoch)
    networks = several(seeds=(7, 8, 9))
    histories = together(networks, checkpoint=checkpoint, after_epoch=after_epoch)
    assert measured == [1, 1, 1, 2, 2, 2, 3, 3, *3 * [3], *3 * [4]]
    assert_same(networks, expected, rtol=0)
    assert losses(histories) == expected_losses


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_checkpoint_of_another_number_of_networks_is_named(checkpoint, count):
    with pytest.raises(Interruption):
        together(several(), checkpoint=checkpoint, after_epoch=stop_after(2))
    networks = several(seeds=range(count))
    with pytest.raises(RuntimeError, match=r"(?s)a\.pt cannot be continued from .*delete it to train from the start"):
        together(networks, seed=list(range(count)), checkpoint=checkpoint)
    with pytest.raises(RuntimeError, match=r"(?s)a\.pt cannot be continued from"):
        fit(networks[0], colours(), loss, seed=0, checkpoint=checkpoint, **OPTIONS)


def test_one_network_that_diverges_stops_those_that_train_with_it():
    networks = several()
    with torch.no_grad():
        networks[1][1].weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"nan.* in epoch 1: lower the learning rate \(0.1\)"):
        together(networks)


@pytest.mark.parametrize(
    "other",
    [models.mlp(48, (6, 4), 3), models.mlp(48, (6,), 3), models.mlp(48, (6, 5, 3), 3), conv_network()],
    ids=["other width", "a layer less", "a layer more", "another kind"],
)
def test_networks_of_different_architectures_cannot_train_at_once(other):
    networks = [*several(seeds=(0, 1)), other.double()]
    before = [state(n) for n in networks]
    with pytest.raises(ValueError, match="must be of one architecture"):
        together(networks)
    assert all(torch.equal(state(n), b) for n, b in zip(networks, before, strict=True))


@pytest.mark.parametrize(("count", "seeds"), [(3, [0, 1]), (2, [0, 1, 2]), (0, []), (0, [0]), (1, [])], ids=str)
def test_each_of_several_networks_wants_a_seed(count, seeds):
    with pytest.raises(ValueError, match=f"as many seeds as networks are wanted, at least one, not {len(seeds)} and {count}"):
        together(several(seeds=range(count)), seed=seeds)


def test_parameter_groups_are_for_one_network():
    networks = several()
    for groups in ([{"params": list(networks[0].parameters())}], []):
        with pytest.raises(ValueError, match="parameter groups are for one network"):
            together(networks, parameters=groups)


@pytest.mark.parametrize("layer", [models.Dropout, nn.Dropout])
def test_networks_with_dropout_cannot_train_at_once(layer):
    with pytest.raises(RuntimeError, match="random operation"):
        together([nn.Sequential(nn.Flatten(), layer(0.5), nn.Linear(48, 3)).double() for _ in range(2)], seed=[0, 1])
    with pytest.raises(RuntimeError, match="random operation"):
        together([models.mlp(48, (5,), 3, dropout=0.5).double() for _ in range(2)], seed=[0, 1])


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


def test_networks_train_at_once_by_another_optimiser():
    networks, expected = several(), several()
    together(networks, optimiser=torch.optim.Adam, lr=0.01)
    one_after_the_other(expected, optimiser=torch.optim.Adam, lr=0.01)
    assert_same(networks, expected, rtol=1e-6)


# what is refused


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
    assert len(torch.load(tmp_path / "a.pt", weights_only=True)["history"]) == 1, "the state after it was kept"


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
    """Without dropout, which networks that train together cannot have."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


class TestTogetherRefusesAndKeeps:
    def test_networks_that_differ_only_in_an_activation(self):
        pair = [nn.Sequential(nn.Flatten(), nn.Linear(4, 3), act, nn.Linear(3, 3)) for act in (nn.ReLU(), nn.Tanh())]
        with pytest.raises(ValueError, match="one architecture"):
            training.Together(pair)

    def test_networks_of_different_precision(self):
        with pytest.raises(ValueError, match="one architecture"):
            training.Together([network(), network().double()])

    def test_a_frozen_parameter_stays_as_it_is(self):
        group = [quiet(s) for s in (1, 2)]
        for member in group:
            member[1].weight.requires_grad_(False)
        before = [member[1].weight.clone() for member in group]
        fit(group, toy(), loss, epochs=2, lr=0.1, seed=[0, 1])
        assert all(torch.equal(b, member[1].weight) for b, member in zip(before, group, strict=True))

    def test_all_networks_are_left_in_training_mode(self):
        group = [quiet(1).eval(), quiet(2)]
        fit(group, toy(), loss, epochs=1, lr=0.1, seed=[0, 1])
        assert all(m.training for member in group for m in member.modules())


def test_clipping_takes_parameters_of_any_shape():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.inner = nn.Parameter(torch.ones(())), quiet(0)

        def forward(self, x):
            return self.scale * self.inner(x)

    fit(Scaled(), toy(), loss, epochs=1, lr=0.1, seed=0, clip=0.1)
    fit([Scaled(), Scaled()], toy(), loss, epochs=1, lr=0.1, seed=[0, 1], clip=0.1)


def test_an_objective_that_is_no_scalar_is_refused():
    with pytest.raises(ValueError, match="must return a scalar"):
        fitted(objective=lambda m, x, y: nn.functional.cross_entropy(m(x), y, reduction="none"))
