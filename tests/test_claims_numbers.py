"""Verdicts on printed numbers: each branch by hand, what would decide, and how often noise is taken for a verdict."""

import numpy as np
import pytest
from scipy import stats

from helpers.claims import calibration, deciding
from helpers.claims.numbers import VERDICTS, Case, bounds, decide, judge, verdict_of
from helpers.claims.statistics import binomial_variance

STEADY = [0.858, 0.861, 0.860, 0.859, 0.862]
SAME = {"kind": "attack", "images": 10_000, "paper_images": 10_000, "sampling": "same"}


@pytest.mark.parametrize(
    ("case", "value", "ours", "how", "verdict"),
    [
        ("tiny interval on the value", "0.860", STEADY, {}, "agrees"),
        ("tiny interval, a real but unimportant difference", "0.840", STEADY, {}, "agrees"),
        ("tiny interval, far away", "0.760", STEADY, {}, "differs"),
        ("wide interval on the value", "0.860", [0.70, 0.99, 0.86, 0.80, 0.95], {}, "undecided"),
        ("wide interval, far away: as the paper's one run may be", "0.091", [0.30, 0.45, 0.38, 0.41, 0.35], {}, "differs"),
        ("our mean is off, one run of the paper's may be", "0.760", [0.83, 0.86, 0.89, 0.81, 0.87, 0.84], {}, "within spread"),
        ("the mean of 25 runs may not", "0.760", [0.83, 0.86, 0.89, 0.81, 0.87, 0.84], {"averaged": 25}, "differs"),
        ("one network on the value", "0.860", [0.860], {}, "undecided"),
        ("one network, far away: never a verdict", "0.860", [0.010], {}, "undecided"),
        ("two networks, far away: never a verdict", "0.860", [0.010, 0.011], {}, "undecided"),
        ("clean margin is narrow near 1", "0.980", [0.989, 0.9891, 0.9889], {"kind": "clean"}, "agrees"),
        ("clean margin near 1 is half of what is missing", "0.994", [0.9885, 0.9886, 0.9884], {"kind": "clean"}, "differs"),
        ("a rate of 0", "0.000", [0.0, 0.0, 0.0], {}, "agrees"),
        ("a rate of 1", "1.000", [1.0, 1.0, 1.0], {}, "agrees"),
        ("a percentage", "86.0", STEADY, {"unit": "percent"}, "agrees"),
        ("a distortion, 10 % of its value", "0.20", [0.205, 0.204, 0.206], {"kind": "other", "unit": "L2"}, "agrees"),
        ("a distortion, off by a quarter", "0.20", [0.255, 0.254, 0.256], {"kind": "other", "unit": "L2"}, "differs"),
        ("other test images, few of them", "0.860", STEADY, {"images": 150, "sampling": "other"}, "undecided"),
        ("a part of the paper's images, few of them", "0.860", STEADY, {"images": 150, "sampling": "part"}, "undecided"),
        ("all of the paper's images are no sample", "0.860", STEADY, {"images": 10_000, "sampling": "part"}, "agrees"),
    ],
)
def test_verdict_of_a_cell(case, value, ours, how, verdict):
    assert judge(value, ours, **{**SAME, **how}).verdict == verdict, case


def test_the_bounds_are_the_formulas_of_the_book():
    # t(.975, 4) = 2.7764; s = .00158114; p = .86, smoothed; other images: both sides' variance
    v = judge("0.850", STEADY, kind="attack", averaged=2, images=2000, paper_images=10_000, sampling="other")
    p = (0.86 * 2000 + 1) / 2002
    t2s2, own, theirs = (2.776445 * 0.0015811388) ** 2, p * (1 - p) / 2000, p * (1 - p) / 10_000
    assert v.difference == pytest.approx(0.01) and v.margin == 0.05 and v.n == 5
    assert v.bound == pytest.approx(np.sqrt(t2s2 / 5 + 1.96**2 * own) + 0.0005, rel=1e-5)
    assert v.prediction == pytest.approx(np.sqrt(t2s2 * (1 / 5 + 1 / 2) + 1.96**2 * (own + theirs)) + 0.0005, rel=1e-5)
    assert v.rest == pytest.approx(1.96 * np.sqrt(0.0015811388**2 / 2 + theirs) + 0.0005, rel=1e-5)
    assert v.half == pytest.approx(np.sqrt(t2s2 / 5), rel=1e-5), "± 95 % is over networks, images held fixed"
    assert v.least == pytest.approx(v.margin + v.prediction) and v.sampling == "binomial"


def test_a_part_of_the_papers_images_is_a_smaller_sample_by_what_is_left():
    how = {"kind": "attack", "images": 2500, "sampling": "part"}
    own = judge("0.860", [0.86] * 3, paper_images=10_000, **how).bound - 0.0005
    p = (0.86 * 2500 + 1) / 2502
    assert own == pytest.approx(1.96 * np.sqrt(p * (1 - p) / 2500 * 0.75))
    assert judge("0.860", [0.86] * 3, paper_images=2500, **how).bound == pytest.approx(0.0005)


def test_the_papers_sampling_is_left_out_where_it_does_not_say_how_many_images_it_has():
    own = judge("0.860", [0.86] * 3, kind="attack", images=1000)
    assert own.prediction == pytest.approx(own.bound) and own.rest == pytest.approx(0.0005)


def test_an_error_of_the_images_can_be_given():
    wide = judge("0.20", [0.2, 0.2, 0.2], kind="other", image_se=0.02)
    assert wide.bound == pytest.approx(1.96 * 0.02 + 0.005) and wide.verdict == "undecided" and wide.sampling == "standard error"
    assert judge("0.20", [0.2, 0.2, 0.2], kind="other").sampling == "none", "what is no rate has no binomial error"


CASE = Case(paper=0.5, margin=0.05, half_unit=0.0005, values=(0.5, 0.5, 0.5))


def at(mean, s, n=3, **how):
    """A case of n networks with exactly this mean and standard deviation."""
    shape = np.linspace(-1, 1, n)
    return Case(0.5, 0.05, 0.0005, tuple(mean + s * (shape - shape.mean()) / shape.std(ddof=1)), **how)


@pytest.mark.parametrize(
    ("case", "reason", "networks", "images"),
    [
        (at(0.5, 0.03), "seeds", 4, 1),  # t(3) · .03 / √4 = .0477
        (at(0.548, 0.03), "on the margin", None, None),  # g = .002 < M/10
        (at(0.52, 0.0, per_image=0.21, images=100, at_hand=10_000), "images", 3, 928),  # 1.96² · .21 / .0295²
        (at(0.52, 0.02, per_image=0.21, images=100, at_hand=10_000), "both", 5, 10_000),
        (at(0.52, 0.2), "seeds, out of reach", None, None),
        (at(0.52, 0.0, per_image=0.21, images=100, at_hand=100), "images, out of reach", None, None),
        (at(0.65, 0.03, 3), "seeds", 5, 1),  # t(4) · .03 · √1.2 = .0912 < .0995
        (Case(0.5, 0.05, 0.0005, (0.5,)), "seeds", 3, 1),
    ],
)
def test_an_undecided_verdict_says_why_and_what_would_decide_it(case, reason, networks, images):
    v = verdict_of(case)
    assert v.verdict == "undecided" and v.reason == reason
    if networks is None:
        assert np.isnan([v.needed_networks, v.needed_images, v.chance]).all()
    else:
        assert (v.needed_networks, v.needed_images) == (networks, images)


def test_what_is_named_decides_it_and_one_less_does_not():
    for case in (at(0.5, 0.03), at(0.52, 0.0, per_image=0.21, images=100, at_hand=10_000), at(0.65, 0.03)):
        v = verdict_of(case)
        n, images = int(v.needed_networks), int(v.needed_images)
        less = (n - 1, images) if v.reason == "seeds" else (n, images - 1)
        held = [VERDICTS[int(decide(case, case.mean, case.spread, *many))] for many in ((n, images), less)]
        assert held[0] != "undecided" == held[1]


def test_the_chance_is_what_drawing_networks_by_hand_gives():
    case = at(0.5, 0.03)
    rng, decided, count = np.random.default_rng(1), 0, 4000
    for _ in range(count):
        sigma = np.sqrt(2 * 0.03**2 / rng.chisquare(2))
        new = rng.normal(rng.normal(0.5, sigma / np.sqrt(3)), sigma, 1)
        joined = Case(0.5, 0.05, 0.0005, (*case.values, *new))
        decided += VERDICTS[int(decide(joined, joined.mean, joined.spread, 4, 1))] != "undecided"
    assert verdict_of(case).chance == pytest.approx(decided / count, abs=0.03)
    assert verdict_of(case) == verdict_of(case), "the draws are the same ones every time"


def test_more_images_move_the_mean_as_much_as_they_narrow_it():
    drawn, _ = deciding.futures(np.full((3, 1), 0.5), 0, drift=np.sqrt(0.21 * (1 / 100 - 1 / 400)))
    assert drawn.std() == pytest.approx(np.sqrt(0.21 * (1 / 100 - 1 / 400)), rel=0.05)


@pytest.mark.parametrize("mean", [0.5, 0.53, 0.56, 0.62, 0.9])
def test_with_mean_and_spread_held_no_verdict_but_undecided_changes(mean):
    case = at(mean, 0.03, averaged=5)
    found = [VERDICTS[int(decide(case, mean, 0.03, n, 1))] for n in (3, 5, 10, 30, 300)]
    first = next((i for i, v in enumerate(found) if v != "undecided"), len(found))
    assert set(found[:first]) <= {"undecided"} and len(set(found[first:])) <= 1
    assert np.all(np.diff([bounds(case, 0.03, n, 1)[0] for n in (3, 5, 10, 30)]) < 0)


def test_a_number_is_not_told_more_finely_than_it_is_printed():
    perfect = judge("100", [1.0, 1.0, 1.0], **{**SAME, "kind": "clean", "unit": "percent", "images": 10**9})
    assert perfect.margin == 0.01 and perfect.verdict == "agrees"
    assert judge("100", [0.97, 0.97, 0.97], **{**SAME, "kind": "clean", "unit": "percent"}).verdict == "differs"


@pytest.mark.parametrize("ours", [[], [float("nan"), 0.5], [[0.5]]])
def test_no_verdict_without_numbers(ours):
    with pytest.raises(ValueError, match="finite numbers"):
        judge("0.5", ours, kind="attack")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"kind": "atack"}, "kind must be one of clean, attack, drop, other"),
        ({"images": 0}, "number of test images"),
        ({"images": None}, "number of test images"),
        ({"ours": [86.0, 85.0]}, "rates must be fractions"),
        ({"sampling": "all"}, "sampling must be same, part or other"),
        ({"sampling": "part", "paper_images": None}, "how many it has is wanted"),
        ({"averaged": 0}, "at least one run"),
    ],
)
def test_what_cannot_be_judged_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        judge("0.860", **{"ours": STEADY, **SAME, **how})


# How often noise earns a verdict

RATE, MARGIN, IMAGES, UNIT = 0.8, 0.05, 2000, 0.0005


def worlds(n, m, s, away, draws, rng, *, expected):
    """Verdicts (draws,) of simulated papers and runs of ours: binomial images, a run spread, and rounding.

    away : what is fixed, our expectation minus the printed number, or minus the paper's expectation (`expected`)
    """

    def rates(mean, count):
        return rng.binomial(IMAGES, np.clip(rng.normal(mean, s, (draws, count)), 0, 1)) / IMAGES

    printed = rates(RATE, m).mean(axis=1) if expected else np.full(draws, RATE)
    ours = rates(RATE + away, n)
    means, spreads = ours.mean(axis=1), ours.std(axis=1, ddof=1)
    found = []
    for v, mean, spread in zip(np.round(printed, 3), means, spreads, strict=True):
        per_image = binomial_variance(mean, IMAGES) * IMAGES
        case = Case(v, MARGIN, UNIT, (mean,), m, per_image, per_image / IMAGES if expected else 0.0, IMAGES)
        found.append(int(decide(case, mean, spread, n, IMAGES)))
    return np.array(found), ours, np.round(printed, 3)


def wrong(n, m, s, draws, seed):
    """Shares of wrong *agrees* (our expectation M from the print) and wrong *differs* (M from the paper's expectation)."""
    rng = np.random.default_rng(seed)
    agrees, _, _ = worlds(n, m, s, -MARGIN, draws, rng, expected=False)
    differs, _, _ = worlds(n, m, s, -MARGIN, draws, rng, expected=True)
    return (agrees == VERDICTS.index("agrees")).mean(), (differs == VERDICTS.index("differs")).mean()


def allowed(rate, draws):
    """What a share of that rate stays below, but for one simulation in 100,000."""
    return stats.binom.ppf(1 - 1e-5, draws, rate) / draws


@pytest.mark.parametrize(("n", "m", "s"), [(3, 1, 0.5), (5, 5, 0.1), (10, 1, 2.0)])
def test_noise_earns_a_verdict_in_at_most_one_case_in_twenty(n, m, s):
    draws = 400
    assert max(wrong(n, m, s * MARGIN, draws, seed=n)) <= allowed(0.05, draws)


def looking(m, s, draws, seed, *, expected, verdict):
    """The share of worlds in which a verdict is met at n = 3, 5 or 10, looked at in turn."""
    rng = np.random.default_rng(seed)
    _, ours, printed = worlds(10, m, s, -MARGIN, draws, rng, expected=expected)
    met = np.zeros(draws, bool)
    for n in (3, 5, 10):
        for i, (v, some) in enumerate(zip(printed, ours[:, :n], strict=True)):
            per_image = binomial_variance(some.mean(), IMAGES) * IMAGES
            case = Case(v, MARGIN, UNIT, (0.0,), m, per_image, per_image / IMAGES if expected else 0.0, IMAGES)
            met[i] |= int(decide(case, some.mean(), some.std(ddof=1), n, IMAGES)) == VERDICTS.index(verdict)
    return met.mean()


def test_the_figure_of_the_rule_shows_what_the_rule_was_chosen_for():
    shares = calibration.frequencies([0.0, 1.0, 2.0], 5, draws=20_000)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert shares[0] == pytest.approx([0.52, 0, 0, 0.48], abs=0.05) and shares[2] == pytest.approx([0, 0.28, 0.21, 0.5], abs=0.05)
    assert shares[1, 1] <= 0.05, "at the margin it does not differ"
    assert calibration.frequencies([1.0], 5, printed=True, draws=20_000)[0, 0] <= 0.05, "nor does it agree with the print"
    assert (calibration.frequencies([0.0, 1.0], 3) == calibration.frequencies([0.0, 1.0], 3)).all()


@pytest.mark.long
@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("m", [1, 5])
@pytest.mark.parametrize("s", [0.1, 0.5, 2.0])
def test_noise_earns_a_verdict_in_at_most_one_case_in_twenty_everywhere(n, m, s):
    draws = 8000
    assert max(wrong(n, m, s * MARGIN, draws, seed=n)) <= allowed(0.05, draws)


@pytest.mark.long
@pytest.mark.parametrize("m", [1, 5])
@pytest.mark.parametrize("s", [0.1, 0.5, 2.0])
def test_looking_at_three_five_and_ten_networks_in_turn_costs_one_case_in_a_hundred(m, s):
    draws = 4000
    assert looking(m, s * MARGIN, draws, 0, expected=False, verdict="agrees") <= allowed(0.06, draws)
    assert looking(m, s * MARGIN, draws, 1, expected=True, verdict="differs") <= allowed(0.06, draws)


@pytest.mark.long
@pytest.mark.parametrize(
    ("n", "away", "expected"),
    [(5, 0.0, (52, 0, 0, 48)), (5, 0.1, (0, 28, 21, 50)), (10, 0.0, (77, 0, 1, 22)), (10, 0.1, (0, 39, 36, 24))],
)
def test_verdicts_are_as_frequent_as_the_rule_was_chosen_for(n, away, expected, monkeypatch):
    monkeypatch.setitem(globals(), "IMAGES", 50_000)
    found, _, _ = worlds(n, 1, 0.5 * MARGIN, away, 4000, np.random.default_rng(0), expected=True)
    shares = [100 * (found == i).mean() for i in range(4)]
    assert shares == pytest.approx(expected, abs=3)
