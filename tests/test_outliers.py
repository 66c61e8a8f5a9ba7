"""Training with outliers: the objective against outlier exposure's formula, and what it does to a network."""

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from helpers import training
from helpers.data import Split
from helpers.outliers import with_outliers
from helpers.training import fit


def batch(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 2, 2, generator=generator), torch.arange(n) % 3


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize(("weight", "times"), [(0.5, 1), (2.0, 2), (0.0, 1)])
def test_it_is_the_papers_formula_in_one_pass(weight, times):
    (x, y), outliers, passes = batch(), batch(1, seed=1)[0], []
    model = network()
    model.register_forward_hook(lambda module, inputs, out: passes.append(len(out)))
    value = with_outliers(outliers, weight, times=times)(model, x, y)
    assert passes == [6 + 6 * times]
    log_p = model(outliers).log_softmax(dim=1)
    torch.testing.assert_close(value, cross_entropy(model(x), y) - weight * log_p.mean())


def test_outliers_are_drawn_from_all_of_them_and_by_the_seed():
    outliers, seen = torch.linspace(0, 1, 50).view(-1, 1, 1, 1).expand(-1, 1, 2, 2), []

    def watched(x):
        seen.append(x[6:, 0, 0, 0])
        return x.flatten(1)[:, :3]

    x, y = batch()
    drawn = with_outliers(outliers, generator=torch.Generator().manual_seed(3))
    for _ in range(100):
        drawn(watched, x, y)
    assert torch.cat(seen).unique().numel() == 50
    with_outliers(outliers, generator=torch.Generator().manual_seed(3))(watched, x, y)
    assert torch.equal(seen[-1], seen[0]) and not torch.equal(seen[1], seen[0])
    for _ in range(2):
        torch.manual_seed(5)
        with_outliers(outliers)(watched, x, y)
    assert torch.equal(seen[-1], seen[-2])


@pytest.mark.long
def test_a_network_learns_to_be_uncertain_at_outliers_alone():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    images = 0.1 * torch.rand(90, 1, 2, 2, generator=generator)
    images.view(90, 4)[range(90), labels] += 0.9
    outliers = 0.1 * torch.rand(40, 1, 2, 2, generator=generator) + 0.45 * torch.eye(4)[:2].sum(0).view(1, 1, 2, 2)
    outliers[:, :, 1, 1] += 0.9  # a corner that no class lights
    data, sure = Split("toy/train", images, labels, tuple("abc")), {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        fit(model, data, with_outliers(outliers, weight), epochs=60, lr=0.2, batch_size=15, seed=0)
        assert (model(images).argmax(dim=1) == labels).all()
        sure[weight] = model(outliers).softmax(dim=1).amax(dim=1).mean().item()
    assert sure[1.0] < 0.4 and sure[0.0] > 0.5, sure


def test_bad_settings_are_refused():
    outliers = batch()[0]
    for wrong in [outliers[:0], outliers[0], (255 * outliers).byte(), outliers * torch.nan]:
        with pytest.raises(ValueError, match="outliers must be finite float images"):
            with_outliers(wrong)
    for wrong in [{"weight": -1.0}, {"weight": math.inf}, {"weight": math.nan}, {"times": 0}]:
        with pytest.raises(ValueError, match="weight must be finite and at least 0 and times at least 1"):
            with_outliers(outliers, **wrong)
    x, y = batch()
    with pytest.raises(ValueError, match=r"must be of one shape, not \(1, 2, 2\) and \(1, 2, 1\)"):
        with_outliers(outliers[..., :1])(network(), x, y)
    with pytest.raises(ValueError, match="labels must be int64"):
        with_outliers(outliers)(network(), x, y[:3])


def test_a_training_with_other_outliers_or_another_weight_is_not_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    data, other = Split("toy/train", *batch(30), tuple("abc")), batch(20, seed=1)[0]

    def stop(epoch, _):
        if epoch == 3:
            raise KeyboardInterrupt

    def fitted(*arguments, **options):
        model = network()
        fit(model, data, with_outliers(*arguments), epochs=4, lr=0.1, batch_size=10, seed=0, **options)
        return torch.cat([w.flatten() for w in model.parameters()])

    for before, words in (((other, 0.7), "weight was 0.7"), ((1 - other, 0.5), "outliers was"), ((other, 0.5), None)):
        (tmp_path / "a.pt").unlink(missing_ok=True)
        with pytest.raises(KeyboardInterrupt):
            fitted(*before, checkpoint=tmp_path / "a.pt", after_epoch=stop)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            weights = fitted(other, 0.5, checkpoint=tmp_path / "a.pt")
        assert torch.equal(weights, fitted(other, 0.5))
        assert [words in str(w.message) for w in caught] == ([] if words is None else [True])
