"""Drops in place of accuracies: exact subtraction of what is printed, and verdicts by the bound worked by hand."""

import numpy as np
import pandas as pd
import pytest

from helpers import claims
from helpers.claims import as_drops
from helpers.claims import compare_drops as compare

CLEAN = ("Table 1", "Control", "Original")
PRINTED = {  # (source, row): {column: value}
    ("Table 1", "Control"): {"Original": "75.85", "Universal": "55.25"},
    ("Table 1", "Noise"): {"Original": "75.75", "Universal": "76.10"},
    ("Table 2", "Noise"): {"Original": "70.3"},
}


def cells(printed=PRINTED, **columns):
    lines = [
        {"source": source, "row": row, "column": column, "value": value, "unit": "percent", "kind": "attack", "same_as": ""}
        for (source, row), of in printed.items()
        for column, value in of.items()
    ]
    lines.append({**lines[0], "source": "Table 1", "row": "", "column": "", "value": "“well”", "unit": "", "kind": "sentence"})
    return pd.DataFrame(lines).assign(**columns)


def rows(drop, se=0.004, row="Noise", column="Universal"):
    """One network for each drop."""
    return pd.DataFrame({"model": row, "seed": range(len(drop)), f"drop {column}": drop, f"se {column}": se})


def test_drops_are_subtracted_in_decimals_and_the_reference_is_left_out():
    below = as_drops(cells(), "Table 1", CLEAN)
    assert below[["row", "column", "value"]].to_numpy().tolist() == [
        ["Control", "Universal", "20.60"],  # 75.85 − 55.25 is 20.599999999999994 in floats
        ["Noise", "Original", "0.10"],
        ["Noise", "Universal", "-0.25"],
    ]
    assert (below.kind == "drop").all() and (below.unit == "percent").all() and (below.source == "Table 1").all()
    assert as_drops(cells(), "Table 2", CLEAN).value.tolist() == ["5.55"], "of another table too, with the digits of the finer"


def test_the_claims_stay_as_they_are():
    before = cells()
    given = before.copy()
    as_drops(given, "Table 1", CLEAN)
    pd.testing.assert_frame_equal(given, before)


def test_the_papers_own_drops():
    read = claims.read("liang2017")
    below = as_drops(read, "Table 1", CLEAN).set_index(["row", "column"]).value
    assert len(below) == 7 and below["Control", "Universal"] == "20.60" and below["Downsampling", "Universal"] == "21.55"
    assert below["PCA", "Original"] == "52.50" and below["Additive Noise", "Original"] == "2.80"


@pytest.mark.parametrize(
    ("source", "reference", "message"),
    [
        ("Table 9", CLEAN, "the claims have no numbers from Table 9"),
        ("Table 1", ("Table 1", "Control", "original"), "no reference Table 1/Control/original"),
        ("Table 1", ("Table 9", "Control", "Original"), "no reference Table 9/Control/Original"),
    ],
)
def test_what_is_not_printed_has_no_drops(source, reference, message):
    with pytest.raises(KeyError, match=message):
        as_drops(cells(), source, reference)


def test_a_source_of_sentences_or_of_the_reference_alone_has_no_drops():
    for one in (cells().iloc[-1:].assign(source="Table 3"), cells({("Table 3", "A"): {"Original": "7"}}).iloc[:1]):
        reference = ("Table 3", "A", "Original") if len(one) == 1 and one.kind.iloc[0] != "sentence" else CLEAN
        with pytest.raises(KeyError, match="no numbers from Table 3"):
            as_drops(pd.concat([cells(), one], ignore_index=True), "Table 3", reference)


def test_numbers_in_another_unit_are_refused():
    mixed = cells()
    mixed.loc[mixed.row == "Noise", "unit"] = "fraction"
    for source in ("Table 1", "Table 2"):
        with pytest.raises(ValueError, match=f"{source} prints another unit than Table 1/Control/Original"):
            as_drops(mixed, source, CLEAN)


# verdicts

ONE = cells({("Table 1", "Control"): {"Original": "75.85"}, ("Table 1", "Noise"): {"Universal": "55.25"}})
HOW = {"row_axis": "model", "images": 500, "paper_images": 2000}


def test_the_bound_is_that_of_both_samples_of_images_and_half_the_interval_of_ours():
    """Mean 0.21, s = 0.01 over 3 networks with t(.975, 2) = 4.30265; per-image variance alike, so theirs adds 500/2000."""
    measured = rows([0.20, 0.21, 0.22], [0.003, 0.004, 0.005])
    v = compare(ONE, measured, "Table 1", CLEAN, **HOW).iloc[0]
    assert (v.row, v.column, v.printed, v.n) == ("Noise", "Universal", "20.60 %", 3)
    assert v.paper == pytest.approx(0.206) and v.ours == pytest.approx(0.21) and v.margin == 0.05
    assert v.difference == pytest.approx(0.004)
    seeds, images = (4.302653 * 0.01) ** 2, (1.96 * 0.004) ** 2
    assert v.half == pytest.approx(np.sqrt(seeds / 3), rel=1e-5)
    assert v.bound == pytest.approx(np.sqrt(seeds / 3 + images) + 0.00005, rel=1e-5)
    assert v.prediction == pytest.approx(np.sqrt(seeds * (1 / 3 + 1) + images * (1 + 500 / 2000)) + 0.00005, rel=1e-5)
    fewer = compare(ONE, measured, "Table 1", CLEAN, **HOW | {"paper_images": 100}).iloc[0]
    assert fewer.prediction == pytest.approx(np.sqrt(seeds * (1 / 3 + 1) + images * 6) + 0.00005, rel=1e-5)
    assert (fewer.half, fewer.bound) == (v.half, v.bound), "our own interval does not depend on the paper's images"


@pytest.mark.parametrize(
    ("case", "measured", "se", "paper_images", "verdict"),
    [
        ("steady, on the value", [0.205, 0.206, 0.207], 0.004, 2000, "agrees"),
        ("steady, within the margin", [0.239, 0.240, 0.241], 0.004, 2000, "agrees"),
        ("steady, far", [0.379, 0.380, 0.381], 0.004, 2000, "differs"),
        ("steady, at the margin", [0.255, 0.256, 0.257], 0.004, 2000, "undecided"),
        ("on the value, but our images are few", [0.205, 0.206, 0.207], 0.03, 2000, "undecided"),
        ("far, but the paper's images are few", [0.379, 0.380, 0.381], 0.004, 10, "differs"),
        ("on the value, but the networks are spread", [0.106, 0.206, 0.306], 0.004, 2000, "undecided"),
        ("one network, on the value", [0.206], 0.004, 2000, "undecided"),
        ("one network, however far", [0.55], 0.004, 2000, "undecided"),
        ("it rises in place of a drop", [-0.101, -0.100, -0.099], 0.004, 2000, "differs"),
    ],
)
def test_verdicts(case, measured, se, paper_images, verdict):
    result = compare(ONE, rows(measured, se), "Table 1", CLEAN, **HOW | {"paper_images": paper_images})
    assert result.verdict.tolist() == [verdict], case


def test_negative_drops_agree_with_negative_drops():
    printed = {("Table 1", "Control"): {"Original": "50.00"}, ("Table 1", "Noise"): {"Universal": "60.00"}}
    v = compare(cells(printed), rows([-0.101, -0.1, -0.099]), "Table 1", CLEAN, **HOW).iloc[0]
    assert (v.printed, v.verdict) == ("-10.00 %", "agrees") and v.paper == pytest.approx(-0.1) and v.margin == 0.05


def test_each_cell_has_its_own_row_column_and_error():
    measured = pd.DataFrame(
        {
            "model": ["Control", "Noise", "Control", "Noise"],
            "seed": [0, 0, 1, 1],
            "drop Original": [0.0, 0.001, 0.0, 0.002],
            "se Original": [0.0, 0.01, 0.0, 0.01],
            "drop Universal": [0.2, 0.3, 0.22, 0.32],
            "se Universal": [0.02, 0.03, 0.02, 0.03],
            "Original": 0.75,  # accuracies stand beside them and are not read
            "Universal": 0.5,
        }
    )
    before = measured.copy()
    result = compare(cells(), measured, "Table 1", CLEAN, **HOW)
    pd.testing.assert_frame_equal(measured, before)
    assert list(zip(result.row, result.column, strict=True)) == [
        ("Control", "Universal"), ("Noise", "Original"), ("Noise", "Universal"),
    ]  # fmt: skip
    assert result.ours.tolist() == pytest.approx([0.21, 0.0015, 0.31]) and result.n.tolist() == [2, 2, 2]
    t, s = 12.7062, np.array([0.02, 0.001, 0.02]) / np.sqrt(2)
    assert result.half.tolist() == pytest.approx(t * s / np.sqrt(2), rel=1e-4)


@pytest.mark.parametrize("lacking", ["drop Universal", "se Universal"])
def test_rows_without_a_drop_or_its_error_are_named(lacking):
    with pytest.raises(KeyError, match=lacking if lacking.startswith("drop") else "no value for Noise, se Universal"):
        compare(ONE, rows([0.2]).drop(columns=lacking), "Table 1", CLEAN, **HOW)
    with pytest.raises(KeyError, match="no value for Noise"):
        compare(ONE, rows([0.2], row="PCA"), "Table 1", CLEAN, **HOW)


# the kind "drop" among the rules


@pytest.mark.parametrize(
    ("value", "margin"),
    [(0.5, 0.05), (0.206, 0.05), (-0.206, 0.05), (0.02, 0.01), (-0.02, 0.01), (0.98, 0.01), (0.0, 0.003), (1.0, 0.003)],
)
def test_the_margin_of_a_drop_is_that_of_an_attack(value, margin):
    assert claims.margin_of(value, "drop") == pytest.approx(margin)


@pytest.mark.parametrize(("kind", "ours", "fine"), [
    ("drop", [-1.0, 1.0], True), ("drop", [-1.01], False), ("drop", [1.01], False), ("drop", [20.6, 20.5], False),
    ("attack", [-0.01], False), ("clean", [-0.01], False), ("attack", [0.0, 1.0], True),
])  # fmt: skip
def test_a_drop_may_be_negative_and_a_rate_may_not(kind, ours, fine):
    if fine:
        assert claims.judge("0.2", ours, kind=kind, image_se=0.01).n == len(ours)
    else:
        with pytest.raises(ValueError, match="rates must be fractions"):
            claims.judge("0.2", ours, kind=kind, image_se=0.01)


def test_a_drop_needs_its_error():
    with pytest.raises(ValueError, match="number of test images"):
        claims.judge("0.2", [0.2, 0.2], kind="drop")


def test_the_papers_images_add_their_error_only_where_they_are_others():
    def bound(**how):
        return claims.judge("0.20", [0.2, 0.2], kind="drop", image_se=0.01, **how).prediction - 0.005

    both = {"images": 500, "paper_images": 2000}
    assert bound() == bound(images=500) == pytest.approx(0.0196) and bound(**both, sampling="same") == 0
    assert bound(**both) == pytest.approx(0.0196 * np.sqrt(1.25))
