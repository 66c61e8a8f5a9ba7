"""The training loop: it learns, its seed decides everything random, and an interruption changes nothing."""

import math
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from helpers import training
from helpers.data import Split
from helpers.metrics import accuracy
from helpers.training import fit


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

    fit(model, toy(), objective, epochs=2, lr=0.1, seed=0, after_epoch=lambda _: model.eval() and None)
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


@pytest.mark.parametrize("measured", [0.5, {"loss": 1.0}, {"seconds": 1.0}], ids=str)
def test_what_after_epoch_returns_must_be_a_dict_of_other_numbers(measured):
    with pytest.raises(ValueError, match="after_epoch must return"):
        fitted(after_epoch=lambda _: measured)


def test_tensors_and_numpy_numbers_become_plain_ones_and_measuring_is_no_training_time():
    def measured(_):
        time.sleep(0.2)
        return {"a": torch.tensor(0.5), "b": np.float32(0.25)}

    history = fit(network(), toy(), loss, epochs=1, lr=0.1, seed=0, after_epoch=measured)
    assert history[0]["a"] == 0.5 and history[0]["b"] == 0.25 and {type(v) for v in history[0].values()} == {float}
    assert history[0]["seconds"] < 0.2


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


def test_after_epoch_hears_of_every_finished_epoch():
    finished = []
    fitted(after_epoch=finished.append)
    assert finished == [1, 2, 3, 4, 5, 6]


def test_what_after_epoch_returns_is_kept_with_the_epoch(checkpoint):
    def measured(epoch):
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

    def after_epoch(epoch):
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
    weights, losses = fitted(network(seed=7), checkpoint=checkpoint, after_epoch=finished.append)
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
    weights, losses = fitted(network(seed=7), checkpoint=checkpoint, after_epoch=finished.append)
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
