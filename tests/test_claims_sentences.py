"""Verdicts on sentences: comparisons, quantifiers, margins, and what would decide them."""

import numpy as np
import pandas as pd
import pytest

from helpers import claims
from helpers.claims.statistics import crossed
from helpers.claims.terms import terms


def cells(**values):
    return pd.DataFrame(
        [{"row": r, "column": "acc", "value": v, "unit": "fraction", "kind": "attack"} for r, v in values.items()]
    )


def rows(**values):
    return pd.DataFrame([{"method": m, "seed": i, "acc": v} for m, vs in values.items() for i, v in enumerate(vs)])


A, NEAR_A, LOW, WILD = [0.86, 0.87, 0.85], [0.84, 0.85, 0.83], [0.30, 0.31, 0.29], [0.2, 0.95, 0.6]


@pytest.mark.parametrize(
    ("predicate", "verdict", "counts"),
    [
        ("greater(a/acc, low/acc)", "holds", (1, 0, 0)),
        ("greater(low/acc, a/acc)", "contradicted", (0, 1, 0)),
        ("greater(a/acc, low/acc); greater(low/acc, a/acc)", "contradicted", (1, 1, 0)),
        ("greater(near/acc, a/acc)", "undecided", (0, 0, 1)),  # worse, but by less than the margin
        ("greater(a/acc, wild/acc)", "undecided", (0, 0, 1)),
        ("greater(a/acc, wild/acc); greater(low/acc, a/acc)", "contradicted", (0, 1, 1)),
        ("equal(a/acc, near/acc, 0.05)", "holds", (1, 0, 0)),
        ("equal(a/acc, low/acc, 0.05)", "contradicted", (0, 1, 0)),
        ("equal(a/acc, wild/acc, 0.05)", "undecided", (0, 0, 1)),
        ("greater(a/acc, 0.8)", "holds", (1, 0, 0)),
        ("greater(low/acc, 0.8)", "contradicted", (0, 1, 0)),
        ("below(low/acc, 0.5)", "holds", (1, 0, 0)),
        ("below(a/acc, 0.5)", "contradicted", (0, 1, 0)),
        ("below(wild/acc, 0.5)", "undecided", (0, 0, 1)),
    ],
)
def test_verdict_of_a_sentence(predicate, verdict, counts):
    result = claims.judge_sentence(
        predicate,
        cells(a="0.9", near="0.9", low="0.3", wild="0.5"),
        rows(a=A, near=NEAR_A, low=LOW, wild=WILD),
        row_axis="method",
        images=10_000,
    )
    assert (result["verdict"], (result["supported"], result["contradicted"], result["undecided"])) == (verdict, counts)


def test_a_sentence_takes_a_cells_own_error_where_it_has_one():
    """Of 30 images .5 is known to ± .18 as a rate; paired by image, as an AUROC of matched scores is, far better."""
    mine = rows(a=[0.5, 0.501, 0.499]).assign(**{"se acc": 0.01})
    how = {"row_axis": "method", "images": 30}
    predicate, printed = "equal(a/acc, 0.5, 0.05)", cells(a="0.5")
    assert claims.judge_sentence(predicate, printed, mine, **how)["verdict"] == "undecided"
    assert claims.judge_sentence(predicate, printed, mine, se=True, **how)["verdict"] == "holds"
    none = mine.assign(**{"se acc": 0.0})  # an error of 0 is that of a rate of 0 or 1: the images count again
    assert claims.judge_sentence(predicate, printed, none, se=True, **how)["verdict"] == "undecided"


def test_every_form_of_a_sentence_has_to_be_supported():
    """Weaker by a point everywhere, yet "slightly more efficient": the many supported `equal` do not make it hold."""
    weaker = rows(a=A, near=[v + 0.01 for v in A])
    predicate = "greater(a/acc, near/acc); equal(a/acc, near/acc, 0.05)"
    how = {"row_axis": "method", "images": 10**9}
    assert claims.judge_sentence(predicate, cells(a="0.9", near="0.9"), weaker, **how)["verdict"] == "undecided"
    stronger = rows(a=A, near=[v - 0.01 for v in A])
    assert claims.judge_sentence(predicate, cells(a="0.9", near="0.9"), stronger, **how)["verdict"] == "holds"


def test_sentences_are_paired_by_seed():
    # each network is .02 better than its twin although the seeds scatter by far more
    a, b = np.array([0.5, 0.7, 0.9]), np.array([0.48, 0.68, 0.88])
    together = claims.judge_sentence(
        "greater(a/acc, b/acc)", cells(a="0.9", b="0.9"), rows(a=a, b=b), row_axis="method", images=10**9
    )
    shuffled = claims.judge_sentence(
        "greater(a/acc, b/acc)", cells(a="0.9", b="0.9"), rows(a=a, b=b[::-1]), row_axis="method", images=10**9
    )
    assert together["verdict"] == "holds" and shuffled["verdict"] == "undecided"


def test_one_network_decides_no_sentence():
    result = claims.judge_sentence(
        "greater(a/acc, low/acc)", cells(a="0.9", low="0.3"), rows(a=[0.9], low=[0.1]), row_axis="method", images=10_000
    )
    assert result["verdict"] == "undecided"


def test_a_sentence_about_a_curve_compares_metrics_that_the_paper_prints_no_number_for():
    """The margin is then that of our own value."""
    how = {"row_axis": "method", "images": 10**9}
    table = rows(a=A).assign(low=LOW, near=[v - 0.02 for v in A])
    none = cells().reindex(columns=["row", "column", "value", "unit", "kind"])
    assert claims.judge_sentence("greater(a/acc, a/low)", none, table, **how)["verdict"] == "holds"
    assert claims.judge_sentence("greater(a/low, a/acc)", none, table, **how)["verdict"] == "contradicted"
    assert claims.judge_sentence("greater(a/near, a/acc)", none, table, **how)["verdict"] == "undecided"
    with pytest.raises(KeyError, match="a, misspelt"):
        claims.judge_sentence("greater(a/misspelt, a/acc)", none, table, **how)


def test_networks_of_other_seeds_are_not_paired():
    shifted = rows(a=A, low=LOW)
    shifted.loc[shifted.method == "low", "seed"] += 3
    with pytest.raises(ValueError, match="cannot be paired"):
        claims.judge_sentence("greater(a/acc, low/acc)", cells(a="0.9", low="0.3"), shifted, row_axis="method", images=10_000)


def test_the_images_widen_every_interval():
    few, many = (
        claims.judge_sentence(
            "greater(a/acc, near/acc)", cells(a="0.9", near="0.9"), rows(a=A, near=NEAR_A), row_axis="method", images=n
        )
        for n in (50, 10**9)
    )
    assert few["verdict"] == "undecided" and many["verdict"] == "holds"


@pytest.mark.parametrize(
    ("by", "verdict"), [("0.01", "holds"), ("0.02", "undecided"), ("0.03", "contradicted"), ("0.0", "holds")]
)
def test_a_sentence_that_names_an_amount_is_held_to_it(by, verdict):
    a, b = np.array([0.52, 0.721, 0.919]), np.array([0.50, 0.70, 0.90])
    measured, printed = rows(a=a, b=b), cells(a="0.9", b="0.9")
    result = claims.judge_sentence(f"greater(a/acc, b/acc, {by})", printed, measured, row_axis="method", images=10**9)
    assert result["verdict"] == verdict


def test_a_quantity_that_is_no_rate_has_no_variance_of_images():
    a, b = np.array([2.1, 2.2, 2.3]), np.array([1.1, 1.2, 1.3])
    result = claims.judge_sentence("greater(a/acc, b/acc)", cells(c="0.9"), rows(a=a, b=b), row_axis="method", images=1)
    assert result["verdict"] == "holds"


HOW = {"row_axis": "method", "images": 10**9}


def verdict(predicate, measured, quantifier, **how):
    return claims.judge_sentence(predicate, cells(), measured, quantifier=quantifier, **{**HOW, **how})["verdict"]


def moved(by, n=5, spread=0.001):
    """n values about .5 + by."""
    return [0.5 + by + spread * (i - (n - 1) / 2) for i in range(n)]


@pytest.fixture(autouse=True)
def _cells_may_be_empty(monkeypatch):
    none = pd.DataFrame(columns=["row", "column", "value", "unit", "kind"])
    original = cells
    monkeypatch.setitem(globals(), "cells", lambda **values: original(**values) if values else none)


def three(x, y, z):
    """Rows in which x, y and z exceed `o` by these amounts, in fractions; the margin of a rate of one half is .05."""
    measured = rows(x=moved(x), y=moved(y), z=moved(z), o=moved(0.0)[::-1])
    return "greater(x/acc, o/acc); greater(y/acc, o/acc); greater(z/acc, o/acc)", measured


@pytest.mark.parametrize(
    ("case", "amounts", "each", "overall", "some"),
    [
        ("all above", (0.1, 0.1, 0.02), "holds", "holds", "holds"),
        ("one worse by less than its margin", (0.1, 0.1, -0.02), "undecided", "holds", "holds"),
        ("one worse by more than its margin", (0.3, 0.3, -0.1), "contradicted", "in part", "holds"),
        ("half of them are not", (0.3, -0.01, -0.01), "undecided", "undecided", "holds"),
        ("all worse by more than the margin", (-0.1, -0.1, -0.1), "contradicted", "contradicted", "contradicted"),
        ("all worse by less than the margin", (-0.02, -0.02, -0.02), "undecided", "undecided", "undecided"),
    ],
)
def test_a_sentence_means_each_or_overall_or_some_of_its_comparisons(case, amounts, each, overall, some):
    predicate, measured = three(*amounts)
    found = [verdict(predicate, measured, quantifier) for quantifier in ("each", "overall", "some")]
    assert found == [each, overall, some], case


def test_one_of_many_comparisons_has_to_be_surer_than_one_alone():
    """Beyond its margin at level .05, and not at .05/4: in part where others hold, as noise brings one in twenty."""
    predicate = "greater(x/acc, o/acc)"
    alone = rows(x=moved(-0.0635, spread=0.006), o=[0.5] * 5)
    assert verdict(predicate, alone, "each") == "contradicted"
    more = {f"y{i}": moved(0.2) for i in range(3)}
    predicate += "".join(f"; greater({y}/acc, o/acc)" for y in more)
    among = rows(x=moved(-0.0635, spread=0.006), o=[0.5] * 5, **more)
    assert verdict(predicate, among, "each") == "in part"
    some = rows(x=moved(0.0125, spread=0.006), o=[0.5] * 5, **{y: [0.49] * 5 for y in more})
    assert verdict(predicate, some, "some") == "undecided" and verdict("greater(x/acc, o/acc)", some, "some") == "holds"


def test_comparisons_are_divided_by_their_margins_before_they_are_averaged():
    """A distortion of 2 lies 5 margins of its own below one of 3; a rate lies .2, or 4 margins, above."""
    table = pd.DataFrame(
        [
            {"row": r, "column": c, "value": v, "unit": u, "kind": k}
            for r, c, v, u, k in (("a", "acc", "0.5", "fraction", "attack"), ("a", "far", "2.0", "L2", "other"))
        ]
    )
    measured = rows(a=moved(0.2), b=moved(0.0)).assign(far=[2.0] * 5 + [3.0] * 5)
    found = terms("greater(a/acc, b/acc); greater(a/far, b/far)", table, measured, **HOW)
    assert [round(float((t.first - t.second).mean()), 6) for t in found] == [4.0, -5.0]


def test_equal_pools_the_differences_and_not_their_sizes():
    """One .04 above and one .04 below, each as likely .06: overall they are equal, and neither by itself surely is."""
    measured = rows(x=moved(0.04, spread=0.02), y=moved(-0.04, spread=0.02)[::-1], o=[0.5] * 5)
    predicate = "equal(x/acc, o/acc, 0.05); equal(y/acc, o/acc, 0.05); equal(o/acc, o/acc, 0.05); equal(o/acc, 0.5, 0.05)"
    assert verdict(predicate, measured, "each") == "undecided" and verdict(predicate, measured, "overall") == "holds"


def test_a_word_of_size_means_the_margin_at_least():
    measured = rows(x=moved(0.03), y=moved(0.1), o=moved(0.0))
    assert verdict("greater(x/acc, o/acc)", measured, "each") == "holds"
    assert verdict("greater(x/acc, o/acc, margin)", measured, "each") == "contradicted", "an amount has no further margin"
    assert verdict("greater(y/acc, o/acc, margin)", measured, "each") == "holds"


def test_cells_that_repeat_one_another_make_one_comparison():
    table = cells(a="0.9", b="0.9", again="0.9").assign(source="T", same_as=["", "", "T/a/acc"])
    predicate = "greater(a/acc, b/acc); greater(again/acc, b/acc); greater(a/acc, b/acc)"
    result = claims.judge_sentence(predicate, table, rows(a=A, b=LOW, again=A), row_axis="method", images=10_000)
    assert (result["verdict"], result["supported"]) == ("holds", 1)


def test_a_sentence_that_no_run_tests_is_not_judged():
    result = claims.judge_sentence("greater(a/acc, gone/acc)", cells(), rows(a=A), quantifier="untested", **HOW)
    assert result["verdict"] == "not tested" and result["supported"] == result["undecided"] == 0


def test_two_networks_decide_no_sentence():
    assert verdict("greater(a/acc, b/acc)", rows(a=[0.9, 0.9], b=[0.1, 0.1]), "each") == "undecided"


@pytest.mark.parametrize(
    ("difference", "spread", "images", "at_hand", "reason", "networks"),
    [
        (0.02, 0.02, 10**9, 10**9, "seeds", 7),  # t(6) · .02 / √7 = .0185
        (-0.02, 0.001, 10**9, 10**9, "on the margin", None),  # worse, by less than the margin: neither, however sure
        (0.02, 0.0, 1000, 10_000, "images", 3),
        (0.02, 0.3, 10**9, 10**9, "seeds, out of reach", None),
        (0.02, 0.0, 1000, 1000, "images, out of reach", None),
    ],
)
def test_an_undecided_sentence_says_why_and_what_would_decide_it(difference, spread, images, at_hand, reason, networks):
    measured = rows(a=[0.5 + difference + spread * z for z in (-1, 0, 1)], b=[0.5] * 3)
    how = {"row_axis": "method", "images": images, "at_hand": at_hand}
    result = claims.judge_sentence("greater(a/acc, b/acc)", cells(), measured, **how)
    assert result["verdict"] == "undecided" and result["reason"] == reason
    assert np.isnan(result["needed_networks"]) if networks is None else result["needed_networks"] == networks
    assert 0 <= result["chance"] <= 1 if networks else np.isnan(result["chance"])


def test_more_images_that_are_named_decide_the_sentence():
    measured, how = rows(a=[0.52] * 3, b=[0.5] * 3), {"row_axis": "method", "at_hand": 10_000}
    needed = int(claims.judge_sentence("greater(a/acc, b/acc)", cells(), measured, images=1000, **how)["needed_images"])

    def judged(images):
        return claims.judge_sentence("greater(a/acc, b/acc)", cells(), measured, images=images, **how)

    needed = int(judged(1000)["needed_images"])
    found = [judged(images)["verdict"] for images in (needed, needed - 2)]
    assert found == ["holds", "undecided"]


def test_bits_tell_more_than_a_binomial_does():
    """Two networks that err on the same images: their difference is known far better than two rates of 200 images are."""
    hard = np.arange(200) % 4 == 0
    first, second = np.tile(~hard, (3, 1)), np.tile(~hard, (3, 1))
    second[:, 1::40] = False  # five more errors
    first[0, 2], second[1, 2] = False, False
    found = {"a": first, "b": second}
    measured = rows(a=first.mean(axis=1), b=second.mean(axis=1))

    def bits(row, column):
        return dict(enumerate(found[row]))

    how = {"row_axis": "method", "images": 200}
    with_bits, without = (claims.judge_sentence("greater(a/acc, b/acc)", cells(), measured, bits=b, **how) for b in (bits, None))
    assert (with_bits["verdict"], with_bits["sampling"]) == ("holds", "bits")
    assert (without["verdict"], without["sampling"]) == ("undecided", "binomial")
    (term,) = terms("greater(a/acc, b/acc)", cells(), measured, bits=bits, **how)
    assert term.images * term.scale**2 == pytest.approx(crossed(first.astype(float) - second).images)


def test_networks_that_are_not_paired_have_their_own_spread_each():
    measured = rows(a=[0.5, 0.7, 0.9], b=[0.48, 0.68, 0.88])
    assert verdict("greater(a/acc, b/acc)", measured, "each") == "holds"
    assert verdict("greater(a/acc, b/acc)", measured, "each", paired=False) == "undecided"
    assert verdict("greater(a/acc, b/acc)", rows(a=A, b=LOW), "each", paired=False) == "holds"
    result = claims.judge_sentence("greater(a/acc, b/acc)", cells(), rows(a=[0.52, 0.54, 0.50], b=LOW[::-1]), paired=False, **HOW)
    assert result["verdict"] == "holds"


def test_a_quantity_that_is_declared_to_be_no_rate_has_the_margin_of_one_and_no_binomial_error():
    measured = rows(a=[0.51, 0.52, 0.53], b=[0.50, 0.51, 0.52])
    how = {"row_axis": "method", "images": 50}
    assert claims.judge_sentence("greater(a/acc, b/acc)", cells(), measured, **how)["verdict"] == "undecided"
    other = claims.judge_sentence("greater(a/acc, b/acc)", cells(), measured, kinds=lambda column: "other", **how)
    assert (other["verdict"], other["sampling"]) == ("holds", "none")


def test_a_quantity_of_zero_has_a_margin_to_be_divided_by():
    measured = rows(a=[0.0] * 3, b=[1.0] * 3)
    how = {**HOW, "kinds": lambda column: "other"}
    assert claims.judge_sentence("greater(a/acc, b/acc)", cells(), measured, **how)["verdict"] == "contradicted"
    assert claims.judge_sentence("greater(b/acc, a/acc)", cells(), measured, **how)["verdict"] == "holds"
