"""What withstands a list of attacks, and the margin of a defence's advantage."""

import pytest
import torch

from helpers import defences


def stands(x, y):
    return x.flatten() < 10 * (y + 1)


def add(amount, seen):
    def attack(x, y):
        seen.append(x.flatten().tolist())
        return x + amount

    return attack


def test_a_sample_has_to_withstand_every_attack_and_meets_the_next_only_while_it_does():
    x, y = torch.tensor([[1.0], [6.0], [9.0], [12.0]]), torch.tensor([0, 0, 0, 1])
    seen = []
    alive = defences.withstanding([add(2, seen), add(5, seen)], stands, torch.tensor([True] * 4), x, y)
    assert alive.tolist() == [True, False, False, True]
    assert seen == [[1, 6, 9, 12], [1, 6, 12]]


def test_what_was_lost_before_stays_lost_and_the_argument_is_left_alone():
    before = torch.tensor([False, True])
    after = defences.withstanding([add(-5, [])], stands, before, torch.tensor([[1.0], [2.0]]), torch.tensor([0, 0]))
    assert after.tolist() == [False, True] and before.tolist() == [False, True]


def test_no_attack_is_made_where_nothing_is_left():
    seen = []
    alive = defences.withstanding(
        [add(100, seen), add(1, seen)], stands, torch.tensor([True]), torch.ones(1, 1), torch.tensor([0])
    )
    assert alive.tolist() == [False] and len(seen) == 1


def test_further_values_per_sample_follow_their_samples():
    def attack(x, y, amount):
        return x + amount[:, None]

    amounts = torch.tensor([50.0, 0.0])
    alive = defences.withstanding(
        [attack] * 2, stands, torch.tensor([True, True]), torch.ones(2, 1), torch.tensor([0, 0]), amounts
    )
    assert alive.tolist() == [False, True]


@pytest.mark.parametrize(("advertised", "margin"), [(0.5, 0.05), (0.1, 0.05), (0.04, 0.02), (0.0, 0.05), (-0.1, 0.05)])
def test_the_margin_of_a_small_promise_is_half_of_it(advertised, margin):
    assert defences.survival([0.5] * 3, [0.46] * 3, advertised, images=10**9)["margin"] == pytest.approx(margin)


def test_a_defence_that_keeps_all_of_a_small_promise_survives():
    assert defences.survival([0.5] * 3, [0.46] * 3, 0.04, images=10**9)["verdict"] == "survives"
    assert defences.survival([0.47] * 3, [0.46] * 3, 0.04, images=10**9)["verdict"] == "broken"


@pytest.mark.parametrize("alive", [torch.tensor([1, 1]), torch.tensor([True])])
def test_what_does_not_fit_together_is_refused(alive):
    with pytest.raises(ValueError, match="alive must be bool"):
        defences.withstanding([], stands, alive, torch.ones(2, 1), torch.tensor([0, 0]))


def test_of_several_attacks_on_a_detector_the_worse_counts_network_by_network():
    judged = defences.detection([0.9, 1.0, 0.8], [[0.9, 0.2, 0.5], [0.1, 0.9, 0.4]], images=10**9)
    assert judged["defended"] == pytest.approx((0.1 + 0.2 + 0.4) / 3) and judged["undefended"] == 0.5
    assert judged["advertised"] == pytest.approx(0.4)
    assert judged["left"] == pytest.approx((0.7 / 3 - 0.5) / 0.4)
    assert judged["verdict"] == "undecided"  # between .1 and .4 three networks leave a wide interval
    assert defences.detection([0.9] * 3, [[0.1] * 3], images=10**9)["verdict"] == "broken"
    assert defences.detection([0.9] * 3, [[0.8] * 3, [0.7] * 3], images=10**9)["verdict"] == "survives"


def test_a_detector_with_nothing_over_guessing_has_no_share_left():
    judged = defences.detection([0.2, 0.3], [[0.5, 0.5]], images=100)
    assert judged["advertised"] == pytest.approx(-0.25) and judged["left"] != judged["left"]


@pytest.mark.parametrize("after", [[0.5, 0.5], [[0.5]]])
def test_attacks_on_a_detector_are_wanted_for_every_network(after):
    with pytest.raises(ValueError, match="by attack and network"):
        defences.detection([0.9, 0.9], after, images=10)
