"""The gradient-masking checks: a sound network passes, one that hides its gradients is flagged."""

from functools import partial

import pandas as pd
import pytest
import torch
from torch import nn

from helpers import checks
from helpers.attacks import adv_loss, pgd

EPS, RADII = 1.0, [0.5, 2.0, checks.UNBOUNDED]


@pytest.fixture
def sound():
    """A linear network with three classes that is right on every image, by margins that ε can just bridge."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    nn.init.orthogonal_(network[1].weight)
    nn.init.zeros_(network[1].bias)
    x = torch.rand(60, 1, 4, 4)
    return network, x, network(x).argmax(dim=1)


def measured_on(network, other, x, y, *, eps=EPS, radii=RADII, norm="l2", **options):
    return checks.gradient_checks(
        network,
        other,
        x,
        y,
        eps=eps,
        radii=radii,
        one_step=partial(adv_loss, norm=norm),
        iterated=partial(pgd, norm=norm, steps=10, restarts=1),
        generator=torch.Generator().manual_seed(0),
        norm=norm,
        **options,
    )


def judged(network, other, x, y):
    c = measured_on(network, other, x, y)
    return c, {name: good for name, good, _ in checks.judge_checks(pd.Series(c), eps=EPS, radii=RADII, chance=0.34)}


class Masked(nn.Module):
    """The same classes, but its gradient comes from an unrelated network."""

    def __init__(self, inner, decoy):
        super().__init__()
        self.inner, self.decoy = inner, decoy

    def forward(self, x):
        decoy = self.decoy(x)
        return decoy + (self.inner(x) - decoy).detach()


def test_a_sound_network_is_not_flagged(sound):
    network, x, y = sound
    other = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    measured, verdicts = judged(network, other, x, y)
    assert measured["clean"] == 1 and measured["PGD"] < 0.5
    assert all(verdicts.values()), verdicts
    assert next(network.parameters()).dtype == torch.float32


def test_a_network_that_hides_its_gradient_is_flagged(sound):
    network, x, y = sound
    torch.manual_seed(1)
    decoy = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    _, verdicts = judged(Masked(network, decoy), network, x, y)
    assert not verdicts["white-box beats transfer"] and not verdicts["unbounded ε: at most chance"]


def test_saturation_shows_in_the_literal_gradient(sound):
    network, x, y = sound
    with torch.no_grad():
        network[1].weight *= 1e4
    measured, verdicts = judged(network, network, x, y)
    assert measured["zero gradients"] > 0.9 and measured["literal float32"] > measured["literal float64"]
    assert (
        not verdicts["99 % of gradient signs: float32 as float64"]
        and not verdicts["literal gradient: float32 as strong as float64"]
    )
    assert measured["PGD"] < 0.5  # the stable direction is not fooled


LINF = {"eps": 0.3, "radii": [0.05, 0.15, 1.0], "norm": "linf"}


@pytest.mark.parametrize("clip", [False, True])
def test_a_sound_network_is_not_flagged_in_linf_either(sound, clip):
    network, x, y = sound
    c = measured_on(network, nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), x, y, **LINF, clip=clip)
    lines = checks.judge_checks(pd.Series(c), eps=0.3, radii=LINF["radii"], chance=0.34, unbounded=1.0)
    assert all(good for _, good, _ in lines), lines
    assert ("PGD inside [0, 1] is weaker" in [name for name, _, _ in lines]) == ("PGD, inside [0, 1]" in c) == (not clip)
    assert len(lines) == (11 if clip else 12)


def test_random_noise_and_the_literal_gradient_are_of_the_norm_asked_for(sound):
    """On a linear network the literal gradient gives the attack of one step."""
    network, x, y = sound
    linf, l2 = (measured_on(network, network, x, y, **{**LINF, "norm": norm}) for norm in ("linf", "l2"))
    assert linf["random"] < 0.9 < l2["random"]
    for c in (linf, l2):
        assert c["literal float32"] == c["literal float64"] == c["one step"] == c["transfer"]
    assert linf["one step"] < 0.2 < l2["one step"]


class InRange(nn.Sequential):
    """Keeps the lowest and the highest pixel that passes."""

    low, high = 0.5, 0.5

    def forward(self, x):
        self.low, self.high = min(self.low, x.min().item()), max(self.high, x.max().item())
        return super().forward(x)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_clip_keeps_every_image_that_is_measured_in_the_range(sound, norm):
    network, x, y = sound
    for clip in (True, False):
        seeing = InRange(*network)
        measured_on(seeing, network, x, y, **{**LINF, "norm": norm, "clip": clip})
        assert (seeing.low >= 0 and seeing.high <= 1) == clip


ACCURACIES = ["clean", "one step", "PGD", "PGD, DLR", "PGD, inside [0, 1]", "PGD, eps 0.5", "PGD, eps 2", "PGD, eps 50",
              "transfer", "random", "rescored", "literal float32", "literal float64"]  # fmt: skip


def rejecting(sound, weight, bias):
    """The sound network with a fourth class that rejects, for a weight on the first pixel."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.cat([sound[1].weight, torch.zeros(1, 16)]))
        network[1].weight[3, 0] = weight
        network[1].bias.copy_(torch.tensor([0.0, 0, 0, bias]))
    return network


@pytest.mark.parametrize(("reject", "kept"), [(3, 1.0), (None, 0.0)])
def test_what_ends_in_the_reject_class_is_kept_where_there_is_one(sound, reject, kept):
    network, x, y = sound
    c = measured_on(rejecting(network, 0.0, 1e3), network, x, y, reject=reject)
    assert {name: c[name] for name in ACCURACIES} == pytest.approx(dict.fromkeys(ACCURACIES, kept))


def test_what_ends_in_another_class_than_reject_is_not_kept(sound):
    """Every label is wrong, so the rejected ones alone are kept."""
    network, x, y = sound
    network = rejecting(network, 100.0, -50.0)
    rejected = (network(x).argmax(dim=1) == 3).double().mean().item()
    assert 0.2 < rejected < 0.8
    assert measured_on(network, network, x, (y + 1) % 3, reject=3)["clean"] == pytest.approx(rejected)
    assert measured_on(network, network, x, (y + 1) % 3)["clean"] == 0


SOUND = {
    "one step": 0.5,
    "PGD": 0.4,
    "PGD, DLR": 0.39,
    "PGD, inside [0, 1]": 0.45,
    "PGD, eps 0.5": 0.7,
    "PGD, eps 2": 0.2,
    "PGD, eps 50": 0.0,
    "transfer": 0.9,
    "random": 0.95,
    "rescored": 0.5,
    "signs agree": 0.999,
    "literal float32": 0.501,
    "literal float64": 0.5,
}


@pytest.mark.parametrize(
    ("change", "flagged"),
    [
        ({}, None),
        ({"PGD, eps 2": 0.45}, "accuracy falls with ε"),
        ({"PGD, eps 50": 0.4}, "unbounded ε: at most chance"),
        ({"one step": 0.39, "rescored": 0.39}, "iterated beats one step"),
        ({"transfer": 0.45}, "white-box beats transfer"),
        ({"random": 0.45}, "any attack beats random noise"),
        ({"PGD, DLR": 0.35}, "DLR at most 2 points stronger"),
        ({"PGD, inside [0, 1]": 0.35}, "PGD inside [0, 1] is weaker"),
        ({"rescored": 0.6}, "the batch size does not matter"),
        ({"signs agree": 0.9}, "99 % of gradient signs: float32 as float64"),
        ({"literal float32": 0.55}, "literal gradient: float32 as strong as float64"),
    ],
)
def test_each_check_is_flagged_by_what_it_is_about(change, flagged):
    judged = checks.judge_checks(pd.Series({**SOUND, **change}), eps=EPS, radii=RADII, chance=0.34)
    assert [name for name, good, _ in judged if not good] == ([flagged] if flagged else [])


def test_the_radius_at_which_anything_is_in_reach_can_be_another():
    """Its accuracy is no part of the curve."""
    c = {name: value for name, value in SOUND.items() if name not in ("PGD, eps 0.5", "PGD, eps 2", "PGD, eps 50")}
    how = {"eps": 0.3, "radii": [0.1, 1.0], "chance": 0.34, "unbounded": 1.0}
    for reached, flagged in ((0.3, []), (0.45, ["unbounded ε: at most chance"])):
        lines = checks.judge_checks(pd.Series({**c, "PGD, eps 0.1": 0.7, "PGD, eps 1": reached}), **how)
        assert [name for name, good, _ in lines if not good] == flagged
        assert {name: figures for name, _, figures in lines}["accuracy falls with ε"] == "0.700 › 0.400"


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_loss_rises_along_the_gradient_as_fast_as_it_can_and_faster_than_at_random(norm):
    weight = torch.randn(2, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = torch.randn(50, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = torch.zeros(50, dtype=torch.int64)
    way = checks.loss_along(
        lambda x: x @ weight.T, x, y, eps=1.0, norm=norm, points=5, generator=torch.Generator().manual_seed(3)
    )
    steep = (weight[1] - weight[0]).norm() if norm == "l2" else (weight[1] - weight[0]).abs().sum()
    torch.testing.assert_close(way["gradient"] - way["gradient"][0], way["distance"] * steep)
    assert way["gradient"][0] == way["random"][0] and len(way["distance"]) == 5
    assert (way["random"] - way["random"][0]).abs().max() < 0.5 * steep


def test_a_masked_gradient_does_not_lead_upward():
    weight = torch.randn(2, 30, generator=torch.Generator().manual_seed(1))
    x, y = torch.rand(50, 30, generator=torch.Generator().manual_seed(2)), torch.zeros(50, dtype=torch.int64)

    def masked(x):
        z = x @ weight.T
        return z.detach() - (z - z.detach())  # the right logits with the wrong sign of gradient

    way = checks.loss_along(masked, x, y, eps=1.0, generator=torch.Generator().manual_seed(3))
    assert way["gradient"][-1] < way["gradient"][0] and way["gradient"][-1] < way["random"][-1]


def test_flags_count_what_masks_the_gradients_of_an_attack_only():
    sound = {"PGD": 0.7, "PGD, DLR": 0.7, "one step": 0.8, "transfer": 0.9, "random": 1.0, "PGD, eps 50": 0.0, "rescored": 0.8}
    sound = pd.Series({**sound, "signs agree": 0.5, "literal float32": 0.9, "literal float64": 0.5, "PGD, inside [0, 1]": 0.6})
    assert checks.flags_of(sound, eps=1.0, radii=[50.0]) == 0
    assert checks.flags_of(pd.Series({**sound, "Square": 0.6, "random": 0.7}), eps=1.0, radii=[50.0]) == 2
