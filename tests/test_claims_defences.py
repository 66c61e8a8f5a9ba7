"""Verdicts on defences and detectors: each branch by hand."""

import numpy as np
import pandas as pd
import pytest

from helpers.claims.defences import Suite, survival, survivals
from helpers.claims.detectors import Detector, decide_detector, detection, detector
from helpers.claims.statistics import Estimate

THERE = ([0.90, 0.91, 0.89], [0.05, 0.06, 0.04], 10_000)  # what the paper's own attack leaves of both
FULL = Suite(complete=True, doubled=0.002, flags=0)


def rows(**values):
    return pd.DataFrame([{"method": m, "seed": i, "acc": v} for m, vs in values.items() for i, v in enumerate(vs)])


@pytest.mark.parametrize(
    ("case", "defended", "undefended", "how", "verdict", "reason"),
    [
        ("far above", [0.80, 0.81, 0.79], [0.05, 0.06, 0.04], {}, "survives", ""),
        ("a stronger attack left nothing", [0.06, 0.07, 0.05], [0.05, 0.06, 0.04], {}, "broken", ""),
        ("below the undefended", [0.04, 0.05, 0.06], [0.40, 0.41, 0.39], {}, "broken", ""),
        ("a wide interval", [0.2, 0.9, 0.5], [0.1, 0.1, 0.1], {}, "undecided", "seeds"),
        ("one network", [0.8], [0.1], {}, "no verdict", "fewer than 3 networks"),
        ("two networks", [0.8, 0.8], [0.1, 0.1], {}, "no verdict", "fewer than 3 networks"),
        ("nothing advertised", [0.8] * 3, [0.1] * 3, {"advertised": 0.0}, "no verdict", "nothing advertised"),
        ("less than nothing", [0.8] * 3, [0.1] * 3, {"advertised": -0.2}, "no verdict", "nothing advertised"),
        ("another network", [0.8] * 3, [0.1] * 3, {"substituted": True}, "no verdict", "substituted"),
        ("Δ0 not measured", [0.8] * 3, [0.1] * 3, {"before": None}, "undecided", "before"),
        ("Δ0 below the margin", [0.8] * 3, [0.1] * 3, {"before": ([0.12] * 3, [0.1] * 3, 10**6)}, "never there", ""),
        ("Δ0 at the margin", [0.8] * 3, [0.1] * 3, {"before": ([0.15, 0.16, 0.14], [0.1] * 3, 10**6)}, "undecided", "before"),
        ("the suite is not complete", [0.8] * 3, [0.1] * 3, {"suite": Suite()}, "undecided", "attack"),
        ("a doubled budget takes more", [0.8] * 3, [0.1] * 3, {"suite": Suite(True, 0.006, 0)}, "undecided", "attack"),
        ("its budget was never doubled", [0.8] * 3, [0.1] * 3, {"suite": Suite(True)}, "undecided", "attack"),
        ("nobody looked for masking", [0.8] * 3, [0.1] * 3, {"suite": Suite(True, 0.0)}, "undecided", "attack"),
        ("a masking flag is up", [0.8] * 3, [0.1] * 3, {"suite": Suite(True, 0.0, 1)}, "undecided", "attack"),
        ("broken by an unfinished suite is broken", [0.1] * 3, [0.1] * 3, {"suite": None}, "broken", ""),
    ],
)
def test_survival(case, defended, undefended, how, verdict, reason):
    how = {"before": THERE, "suite": FULL, "advertised": 0.779, **how}
    result = survival(defended, undefended, how.pop("advertised"), images=10_000, **how)
    assert (result["verdict"], result["reason"]) == (verdict, reason), case
    assert result["advantage"] == pytest.approx(np.mean(defended) - np.mean(undefended))


def test_both_advantages_are_recorded():
    result = survival([0.80, 0.81, 0.79], [0.05, 0.06, 0.04], 0.779, images=10_000, before=THERE, suite=FULL)
    assert result["before"] == pytest.approx(0.85) and result["before_low"] < 0.85 < result["before_high"]
    assert result["left"] == pytest.approx(0.75 / 0.779) and result["n"] == 3


@pytest.mark.parametrize(("advertised", "margin"), [(0.5, 0.05), (0.1, 0.05), (0.04, 0.02), (0.0, 0.05), (-0.1, 0.05)])
def test_the_margin_of_a_small_promise_is_half_of_it(advertised, margin):
    assert survival([0.5] * 3, [0.46] * 3, advertised, images=10**9)["margin"] == pytest.approx(margin)


def test_a_defence_that_keeps_all_of_a_small_promise_survives():
    how = {"images": 10**9, "before": ([0.5] * 3, [0.46] * 3, 10**9), "suite": FULL}
    assert survival([0.5] * 3, [0.46] * 3, 0.04, **how)["verdict"] == "survives"
    assert survival([0.47] * 3, [0.46] * 3, 0.04, **how)["verdict"] == "broken"


def test_an_undecided_defence_says_what_would_decide_it():
    how = {"images": 10**9, "before": THERE, "suite": FULL}
    result = survival([0.16, 0.20, 0.18], [0.1] * 3, 0.7, **how)  # .08 ± t · .02 / √n, to clear .05
    assert (result["verdict"], result["reason"], result["needed_networks"]) == ("undecided", "seeds", 5)
    assert 0.3 < result["chance"] < 0.95
    assert survival([0.13, 0.17, 0.153], [0.1] * 3, 0.7, **how)["reason"] == "on the margin"


def test_the_images_widen_the_interval_and_bits_narrow_it():
    wide, narrow = (survival([0.8] * 3, [0.1] * 3, 0.7, images=n) for n in (100, 10_000))
    assert wide["high"] - wide["low"] > 5 * (narrow["high"] - narrow["low"]) > 0
    right = np.arange(100) < 50
    bits = np.tile(right, (3, 1)), np.tile(right & (np.arange(100) > 2), (3, 1))
    paired = survival([0.5] * 3, [0.47] * 3, 0.7, images=100, bits=bits)
    plain = survival([0.5] * 3, [0.47] * 3, 0.7, images=100)
    assert paired["high"] - paired["low"] < 0.5 * (plain["high"] - plain["low"])


def printed(normal, defended):
    return pd.DataFrame(
        [
            {"source": "T", "row": r, "column": "Adv", "value": v, "unit": "percent", "kind": "attack"}
            for r, v in (("N", normal), ("D", defended))
        ]
    )


def test_survivals_pair_by_seed_and_read_percentages():
    measured = rows(D=[0.70, 0.80, 0.90], N=[0.10, 0.20, 0.30]).rename(columns={"acc": "worst"}).sample(frac=1, random_state=0)
    how = {
        "row_axis": "method",
        "undefended": "N",
        "advertised": "Adv",
        "metric": "worst",
        "images": 10_000,
        "suites": lambda row: FULL,
    }
    before = rows(D=[0.90, 0.91, 0.92], N=[0.10, 0.09, 0.11]).rename(columns={"acc": "Adv"})
    (line,) = survivals(printed("8", "86"), measured, "T", before=before, **how).itertuples()
    assert (line.row, line.verdict) == ("D", "survives") and line.before == pytest.approx(0.81)
    assert line.defended == pytest.approx(0.8) and line.undefended == pytest.approx(0.2)
    assert line.advertised == pytest.approx(0.78) and line.left == pytest.approx(0.6 / 0.78)
    assert 0 < line.high - line.low < 0.05  # the seeds scatter alike, so pairing leaves the images' part
    with pytest.raises(ValueError, match="cannot be paired"):
        survivals(printed("8", "86"), measured[(measured.method == "D") | (measured.seed > 0)], "T", **how)


@pytest.mark.parametrize(("errors", "advertised", "verdict"), [(True, 0.5452, "undecided"), (False, -0.5452, "no verdict")])
def test_an_advantage_advertised_in_errors_is_what_they_fall_by(errors, advertised, verdict):
    """Ours is measured in accuracy under the suite, and in errors under the paper's own attack."""
    measured = rows(N=[0.08, 0.09, 0.10], D=[0.35, 0.36, 0.37]).rename(columns={"acc": "worst"})
    before = rows(N=[0.90, 0.91, 0.92], D=[0.40, 0.41, 0.39]).rename(columns={"acc": "Adv"})
    how = {"row_axis": "method", "undefended": "N", "advertised": "Adv", "metric": "worst", "images": 10_000}
    (line,) = survivals(printed("91.91", "37.39"), measured, "T", **how, errors=errors, before=before).itertuples()
    assert line.advertised == pytest.approx(advertised) and line.advantage == pytest.approx(0.27)
    assert line.left == pytest.approx(0.27 / advertised) and line.verdict == verdict
    assert line.before == pytest.approx(0.51 if errors else -0.51)


# detectors


def over(mean, half, n=5):
    """An estimate whose 95 % interval is mean ± half, from images alone."""
    return Estimate(mean, 0.0, n - 1, (half / 1.96) ** 2)


GOOD, NOTHING = over(0.4, 0.01), over(0.0, 0.01)


@pytest.mark.parametrize(
    ("case", "before", "after", "images", "verdict", "reason"),
    [
        ("keeps both", (GOOD, GOOD), (GOOD, GOOD), 200, "survives", ""),
        ("loses the AUROC", (GOOD, GOOD), (NOTHING, GOOD), 200, "broken", ""),
        ("loses the FPR", (GOOD, GOOD), (GOOD, NOTHING), 200, "broken", ""),
        ("passed everything before any attack", (GOOD, over(-0.05, 0.01)), (GOOD, NOTHING), 200, "never detected", ""),
        ("an AUROC of one half before any attack", (NOTHING, GOOD), (NOTHING, GOOD), 200, "never detected", ""),
        ("perhaps nothing before", (over(0.06, 0.03), GOOD), (NOTHING, NOTHING), 200, "undecided", "before any attack"),
        ("no FPR before", (GOOD, None), (NOTHING, None), 200, "undecided", "no FPR"),
        ("perhaps nothing after", (GOOD, GOOD), (over(0.06, 0.03), GOOD), 200, "undecided", ""),
        ("below at .95 and not at .9875", (GOOD, GOOD), (over(0.0, 0.049), GOOD), 200, "undecided", ""),
        ("no FPR after", (GOOD, GOOD), (GOOD, None), 200, "undecided", "no FPR"),
        ("few images", (GOOD, GOOD), (NOTHING, NOTHING), 49, "no verdict", "fewer than 50 images"),
        ("two networks", (over(0.4, 0.01, 2), GOOD), (NOTHING, NOTHING), 200, "no verdict", "fewer than 3 networks"),
    ],
)
def test_a_detector_is_judged_on_two_scales(case, before, after, images, verdict, reason):
    assert decide_detector(Detector(*before), Detector(*after), images) == (verdict, reason), case


def test_the_highest_score_over_attacks_counts_for_each_image_and_then_one_auroc():
    """Two attacks that each bring half of the images past: the least of two AUROCs does not see that together they bring all."""
    rng = np.random.default_rng(0)
    inside, clean = rng.normal(0, 1, (3, 100)), rng.normal(0, 1, (3, 1000))
    first = np.full((3, 100), -9.0)
    second = first.copy()
    first[:, :50], second[:, 50:] = 9.0, 9.0
    alone, both = detector(inside, first, clean), detector(inside, [first, second], clean)
    assert alone.auroc.mean == pytest.approx(0.0) and both.auroc.mean == pytest.approx(-0.5)
    assert alone.fpr.mean == pytest.approx(0.45) and both.fpr.mean == pytest.approx(-0.05)
    had = Detector(over(0.5, 0.001), over(0.95, 0.001))
    assert decide_detector(had, both, 100)[0] == "broken"


def test_of_several_attacks_on_a_detector_the_worse_counts_network_by_network():
    how = {"images": 10**9, "fpr_before": [0.01] * 3}
    judged = detection([0.9, 1.0, 0.8], [[0.9, 0.2, 0.5], [0.1, 0.9, 0.4]], fpr_after=[[0.5, 0.9, 0.5], [0.9, 0.5, 0.9]], **how)
    assert judged["defended"] == pytest.approx((0.1 + 0.2 + 0.4) / 3) and judged["undefended"] == 0.5
    assert judged["advertised"] == pytest.approx(0.4) and judged["fpr"] == pytest.approx(0.9)
    assert judged["left"] == pytest.approx((0.7 / 3 - 0.5) / 0.4)
    assert judged["verdict"] == "undecided"  # between .8 and 1 three networks leave a wide interval
    assert detection([0.9] * 3, [[0.1] * 3], fpr_after=[[0.99] * 3], **how)["verdict"] == "broken"
    assert detection([0.9] * 3, [[0.8] * 3, [0.7] * 3], fpr_after=[[0.1] * 3] * 2, **how)["verdict"] == "survives"
    assert detection([0.9] * 3, [[0.1] * 3], images=10**9)["reason"] == "no FPR", "without an FPR nothing was detected for sure"
    assert detection([0.9] * 3, [[0.1] * 3], images=10**9, fpr_before=[1.0] * 3)["verdict"] == "never detected"


def test_a_detector_with_nothing_over_guessing_has_no_share_left():
    judged = detection([0.2, 0.3, 0.25], [[0.5] * 3], images=100)
    assert judged["advertised"] == pytest.approx(-0.25) and judged["left"] != judged["left"]
    assert judged["verdict"] == "never detected"


@pytest.mark.parametrize("after", [[0.5, 0.5], [[0.5]]])
def test_attacks_on_a_detector_are_wanted_for_every_network(after):
    with pytest.raises(ValueError, match="by attack and network"):
        detection([0.9, 0.9], after, images=10)


def test_more_images_that_are_named_decide_a_defence():
    how = {"before": THERE, "suite": FULL}
    result = survival([0.17] * 3, [0.1] * 3, 0.7, images=400, at_hand=10_000, **how)
    assert (result["verdict"], result["reason"]) == ("undecided", "images")
    needed = int(result["needed_images"])
    assert 400 < needed < 10_000 and 0.3 < result["chance"] < 1
    found = [survival([0.17] * 3, [0.1] * 3, 0.7, images=n, **how)["verdict"] for n in (needed, int(0.9 * needed))]
    assert found == ["survives", "undecided"]
    assert survival([0.17] * 3, [0.1] * 3, 0.7, images=400, **how)["reason"] == "images, out of reach"


def test_survivals_take_the_bits_of_both_sides_where_all_networks_have_them():
    right = np.arange(100) < 50
    stored = {"D": dict.fromkeys(range(3), right), "N": {s: right & (np.arange(100) > 9) for s in range(3)}}
    measured = rows(D=[0.5] * 3, N=[0.4] * 3).rename(columns={"acc": "worst"})
    how = {"row_axis": "method", "undefended": "N", "advertised": "Adv", "metric": "worst", "images": 100}

    def half(**more):
        (line,) = survivals(printed("8", "86"), measured, "T", **how, **more).itertuples()
        return (line.high - line.low) / 2

    with_bits = half(bits=lambda row, metric: stored[row])
    assert with_bits == pytest.approx(1.96 * np.sqrt(0.1 * 0.9 / 99), rel=1e-6) and with_bits < half()
    assert half(bits=lambda row, metric: stored[row] if row == "D" else None) == half()
