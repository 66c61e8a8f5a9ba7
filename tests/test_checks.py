"""The gradient-masking checks: a sound network passes, one that hides its gradients is flagged."""

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


def judged(network, other, x, y):
    from functools import partial

    c = checks.gradient_checks(
        network,
        other,
        x,
        y,
        eps=EPS,
        radii=RADII,
        one_step=adv_loss,
        iterated=partial(pgd, steps=10, restarts=1),
        generator=torch.Generator().manual_seed(0),
    )
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
