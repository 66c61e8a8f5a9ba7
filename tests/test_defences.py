"""The margin of a defence's advantage, and what is left of it."""

import pytest

from helpers import defences


@pytest.mark.parametrize(("advertised", "margin"), [(0.5, 0.05), (0.1, 0.05), (0.04, 0.02), (0.0, 0.05), (-0.1, 0.05)])
def test_the_margin_of_a_small_promise_is_half_of_it(advertised, margin):
    assert defences.survival([0.5] * 3, [0.46] * 3, advertised, images=10**9)["margin"] == pytest.approx(margin)


def test_a_defence_that_keeps_all_of_a_small_promise_survives():
    assert defences.survival([0.5] * 3, [0.46] * 3, 0.04, images=10**9)["verdict"] == "survives"
    assert defences.survival([0.47] * 3, [0.46] * 3, 0.04, images=10**9)["verdict"] == "broken"


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
