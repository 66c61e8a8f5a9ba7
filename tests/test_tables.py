"""Tables and figures: what a reader sees is what the verdicts say, escaped, linked and the same at every build."""

import base64
import io
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers import plots, tables

EXPERIMENT = SimpleNamespace(
    name="t",
    profile="cpu",
    study=SimpleNamespace(paper="p"),
    rows=[
        {"settings": {"epochs": 1}, "data": {"digits/test": {"size": 500}}, "args": {"method": m, "seed": s}}
        for m in ("A", "B&C")
        for s in (0, 1)
    ],
    status=lambda: {
        "experiment": "t",
        "profile": "cpu",
        "rows": "4 of 4",
        "seeds": 2,
        "device": "a <b> c",
        "commit": "abc",
        "last row": "2026-01-01",
    },
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.0001, ".000"),
        (float("nan"), "–"),
        (float("inf"), "–"),
        (0.8854, ".885"),
        (1.0, "1.000"),
        (-0.05, "−.050"),
        (-1.5, "−1.500"),
        (0.0, ".000"),
    ],
)
def test_numbers_are_printed_as_in_the_field(value, text):
    assert tables.number(value) == text


@pytest.mark.parametrize(
    ("value", "printed", "text"),
    [
        (0.3514, "35.14 %", "35.1"),
        (0.3514, "%", "35.1"),
        (0.3514, "0.351", ".351"),
        (0.3514, "", ".351"),
        (1.0, "99.96 %", "100.0"),
        (0.00049, "%", "0.0"),
        (-0.0001, "%", "0.0"),
        (-0.0527, "%", "−5.3"),
        (float("nan"), "%", "–"),
        (float("inf"), "%", "–"),
    ],
)
def test_an_amount_is_in_the_unit_of_the_papers(value, printed, text):
    assert tables.amount(value, printed) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00124, "0.12"),
        (0.0000931, "0.0093"),
        (0.3456, "35"),
        (0.0999, "10"),
        (0.00999, "1.0"),
        (1.2, "120"),
        (10.0, "1000"),
        (14053.7, "> 1000"),
        (0.0, "0"),
        (1e-9, "< 0.0001"),
        (float("nan"), "–"),
    ],
)
def test_a_share_that_may_be_tiny_shows_two_digits_in_percent(value, text):
    assert tables.percent(value) == text


def verdicts():
    line = {"same_as": "", "paper": 0.86, "half": 0.01, "difference": 0.0, "bound": 0.01, "margin": 0.05, "n": 2}
    return pd.DataFrame(
        [
            {**line, "row": r, "column": c, "printed": "0.860", "ours": 0.86, "verdict": v}
            for r, c, v in (
                ("A", "x", "agrees"),
                ("A", "y", "differs"),
                ("B&C", "x", "undecided"),
                ("B&C", "y", "agrees"),
            )
        ]
    )


def test_each_cell_shows_ours_the_papers_and_the_verdict_and_links_to_its_rows():
    html = tables.paper_table(verdicts(), EXPERIMENT, {"epochs": 2, "test images": 500}).data
    assert html.count('href="../results/p/cpu/t.jsonl#rows-A"') == 2 and 'jsonl#rows-B-C"' in html
    assert html.count("✓ agrees") == 4 and html.count("paper .860") == 4  # once in the table, once in the details
    assert "Reduced: epochs: 1 instead of 2" in html and "a &lt;b&gt; c" in html


def test_a_cell_that_the_paper_prints_in_percent_shows_ours_in_percent_and_no_other_does():
    cells = verdicts().assign(half=0.0123)
    cells.loc[1, "printed"] = "86.00 %"
    html, _, details = tables.paper_table(cells, EXPERIMENT, {}).data.partition("<details>")
    assert html.count("<b>86.0</b> ± 1.2<") == 1 and html.count("paper 86.00 %<") == 1
    assert html.count("<b>.860</b> ± .012<") == 3 and html.count("paper .860<") == 3
    assert "<td>86.00 %</td>" in details


def test_a_cell_that_the_paper_does_not_print_shows_a_dash():
    html = tables.paper_table(verdicts().drop(index=2), EXPERIMENT, {}).data.partition("<details>")[0]
    assert html.count("<td>–</td>") == 1 and html.count('class="verdict') == 3
    assert html.index('"row">B&amp;C') < html.index("<td>–</td>") < html.index("#rows-B-C"), "under x, before what stands under y"
    assert "<td>–</td>" not in tables.paper_table(verdicts(), EXPERIMENT, {}).data


def test_a_line_that_is_no_group_of_rows_links_to_all_of_them():
    html = tables.paper_table(verdicts(), EXPERIMENT, {}, group=lambda row: {"A": "of no row", "B&C": ""}[row]).data
    assert html.count('href="../results/p/cpu/t.jsonl#"') == 4 + 1 and "#rows" not in html  # four cells and the provenance


def test_further_words_stand_under_their_cell_only():
    html = tables.paper_table(verdicts(), EXPERIMENT, {}, {("A", "y"): "notebooks <.7"}).data
    assert html.count("notebooks &lt;.7") == 1 and html.index("notebooks") > html.index("agrees")
    assert "paper 99.1" in tables.paper_table(verdicts().assign(printed="99.1"), EXPERIMENT, {}).data


def test_means_have_their_interval_over_networks_and_one_network_has_none():
    measured = pd.DataFrame({"method": ["A", "A", "B"], "seed": [0, 1, 0], "acc": [0.4, 0.5, 0.7], "other": [0.1, 0.1, 0.2]})
    html = tables.means_table(measured, EXPERIMENT, "method", ["acc"], {("B", "acc"): "theirs .6"}).data
    half = 12.7062 * 0.0707107 / np.sqrt(2)
    assert f"<b>.450</b> ± {tables.number(half)}" in html and "<b>.700</b></a><br>" in html and "theirs .6" in html
    assert html.count('href="../results/p/cpu/t.jsonl#rows-A"') == 1 and "other" not in html


def test_means_in_percent_say_so():
    measured = pd.DataFrame({"method": ["A", "A", "B", "B"], "seed": [0, 1, 0, 1], "acc": [0.4, 0.5, 0.7, 0.7]})
    html = tables.means_table(measured, EXPERIMENT, "method", ["acc"], unit="%").data
    half = 100 * 12.7062 * 0.0707107 / np.sqrt(2)
    assert f"<b>45.0</b> ± {half:.1f}" in html and "<b>70.0</b> ± 0.0" in html
    assert "In percent; ± is the 95 % interval over networks." in html
    assert "percent" not in tables.means_table(measured, EXPERIMENT, "method", ["acc"]).data
    one = tables.means_table(measured[measured.seed == 0], EXPERIMENT, "method", ["acc"], unit="%").data
    assert "In percent." in one and "±" not in one


def test_means_of_an_error_are_in_percent_with_two_digits_and_the_head_says_so():
    measured = pd.DataFrame({"method": ["A", "A"], "seed": [0, 1], "MAPE": [0.0012, 0.0012], "acc": 0.5})
    html = tables.means_table(measured, EXPERIMENT, "method", ["acc", "MAPE"]).data
    assert "<b>0.12</b> ± 0<" in html and "<b>.500</b>" in html and ">MAPE, %<" in html and ">acc<" in html


def test_a_mean_that_a_row_does_not_have_is_a_dash_and_a_network_without_it_does_not_count():
    measured = pd.DataFrame({"method": ["A", "A", "B", "B"], "seed": [0, 1, 0, 1], "x": 0.5, "y": [np.nan, np.nan, np.nan, 0.7]})
    html = tables.means_table(measured, EXPERIMENT, "method", ["x", "y"]).data
    assert html.count("<td>–</td>") == 1 and html.index(">A<") < html.index("<td>–</td>") < html.index(">B<")
    assert "<b>.700</b></a></td>" in html and html.count("<b>.500</b> ± .000") == 2
    assert ">nan" not in html


def test_the_scoreboard_counts_a_repeated_cell_once():
    cells = verdicts()
    cells.loc[3, "same_as"] = "A/x"
    sentences = pd.DataFrame({"verdict": ["holds", "in part"]})
    survivals = pd.DataFrame({"row": ["LWA", "<b>", "c"], "verdict": ["survives", "broken", "broken"]})
    html = tables.scoreboard("01.html", "Paper", 9, cells, sentences, survivals).data
    assert (
        "3 of 9 printed numbers" in html
        and "1 agrees, 1 undecided, 1 differs" in html
        and "1 holds, 1 in part" in html
        and "✓ survives</span>: LWA<br>" in html
        and "✗ broken</span>: &lt;b&gt;; c</td>" in html
    )


def points(n=20):
    rng = np.random.default_rng(0)
    kind = {
        f"{k}{part}": v
        for k in ("clean", "adversarial")
        for part, v in (
            ("", rng.normal(size=(n, 3))),
            ("_prediction", np.zeros(n, int)),
            ("_confidence", np.full(n, 0.5)),
        )
    }
    return kind | {"label": np.arange(n) % 2, "explained": np.array([0.5, 0.3, 0.1])}


def test_pca3d_has_a_trace_for_each_class_and_kind_and_one_legend_entry_per_class():
    figure = plots.pca3d({"Normal": points(), "LWA": points()}, ("0", "1"))
    assert len(figure.data) == 2 * 2 * 2 and sum(t.showlegend for t in figure.data) == 2
    assert {t.scene for t in figure.data} == {
        "scene",
        "scene2",
    } and figure.layout.scene.xaxis.title.text == "PC 1 (50%)"
    assert figure.data[0].text[0] == "clean 0, read as 0 (50%)"
    assert sum(len(t.x) for t in figure.data) == 2 * 2 * 20


def test_pca3d_shows_each_kind_with_its_own_samples_and_classes():
    """Five samples of a third kind, all of class 1."""
    other = {"out": np.ones((5, 3)), "out_prediction": np.zeros(5, int), "out_confidence": np.full(5, 0.9)}
    kinds = ("clean", "adversarial", "out")
    figure = plots.pca3d({"Normal": points() | other | {"out_label": np.ones(5, int)}}, ("0", "1"), kinds)
    assert [(t.name, t.marker.symbol, len(t.x)) for t in figure.data] == [
        *(("0", "circle", 10), ("1", "circle", 10), ("0", "diamond-open", 10), ("1", "diamond-open", 10)),
        ("1", "square-open", 5),
    ]
    assert figure.data[4].text == 5 * ("out 1, read as 0 (90%)",)
    assert [t.name for t in figure.data if t.showlegend] == ["0", "1"] and len({t.marker.color for t in figure.data}) == 2
    assert figure.layout.annotations[0].text == "Normal: ● clean, ◇ adversarial, □ out"
    with pytest.raises(ValueError, match="shorter|longer"):
        plots.pca3d({"Normal": points() | other}, ("0", "1"), kinds)


def test_pca3d_by_kind_has_one_legend_entry_and_one_colour_for_each_kind():
    figure = plots.pca3d({"Normal": points(), "LWA": points()}, ("0", "1"), color_by="kind")
    assert [(t.name, t.legendgroup, t.scene) for t in figure.data] == [
        (kind, kind, scene) for scene in ("scene", "scene2") for kind in ("clean", "adversarial")
    ]
    assert [t.name for t in figure.data if t.showlegend] == ["clean", "adversarial"]
    assert all(len(t.x) == 20 for t in figure.data) and figure.data[1].text[1] == "adversarial 1, read as 0 (50%)"
    first, second, *others = [(t.marker.color, t.marker.symbol) for t in figure.data]
    assert first[0] != second[0] and first[1] != second[1] and others == [first, second]
    assert [a.text for a in figure.layout.annotations] == ["Normal", "LWA"] and figure.layout.legend.title.text is None


def test_pca3d_knows_no_other_colours():
    with pytest.raises(ValueError, match="color_by must be class or kind, not 'label'"):
        plots.pca3d({"Normal": points()}, ("0", "1"), color_by="label")


def test_the_slider_has_a_frame_for_each_radius_and_begins_where_it_is_told():
    eps = np.array([0.0, 1.0, 2.0])
    panel = {
        "image": np.zeros((3, 4, 4)),
        "shift": np.zeros((3, 4, 4)),
        "probability": np.stack([np.full(2, p) for p in (0.1, 0.2, 0.3)]),
    }
    figure = plots.eps_slider(eps, {"Normal": panel}, ("0", "1"), start=1.0)
    assert [f.name for f in figure.frames] == ["0", "1", "2"] and figure.layout.sliders[0].active == 1
    assert list(figure.data[2].y) == [0.2, 0.2] and list(figure.frames[2].data[2].y) == [0.3, 0.3]


def scene(height=48, width=64):
    """A smooth picture, red growing to the right, green downwards; blue is missing."""
    red, green = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.stack([red, green, 0 * red], axis=-1)


def decoded(uri, kind):
    head, _, data = uri.partition(";base64,")
    assert head == f"data:image/{kind}"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))


def test_the_slider_shows_colour_images_as_they_are_and_shifts_about_grey():
    image = scene().transpose(2, 0, 1)
    shift = np.zeros((3, 48, 64))
    shift[0, 5, 7], shift[2, 6, 8] = 0.1, -0.05
    stack = np.stack([image - 0.5, image])  # what leaves the range is clipped
    panel = {"image": stack, "shift": np.stack([shift, 2 * shift]), "probability": np.full((2, 2), 0.5)}
    figure = plots.eps_slider(np.array([0.0, 1.0]), {"A": panel, "B": panel}, ("x", "y"), start=1.0)
    assert [t.type for t in figure.data] == 2 * ["image", "image", "bar"]
    assert [(t.xaxis, t.yaxis) for t in figure.data] == [(f"x{n}", f"y{n}") for n in ("", 2, 3, 4, 5, 6)]
    for frame, values in zip(figure.frames, stack, strict=True):
        pixels = decoded(frame.data[0].source, "png")
        assert pixels.shape == (48, 64, 3)
        np.testing.assert_allclose(pixels, 255 * np.clip(values, 0, 1).transpose(1, 2, 0), atol=0.51)
    assert figure.data[0].source == figure.frames[1].data[0].source == figure.data[3].source
    half, whole = (decoded(frame.data[1].source, "png") for frame in figure.frames)  # one scale for all radii
    assert half[5, 7].tolist() == [191, 128, 128] and whole[5, 7].tolist() == [255, 128, 128]
    assert half[6, 8].tolist() == [128, 128, 96] and whole[6, 8].tolist() == [128, 128, 64]
    assert (np.delete(whole.reshape(-1, 3), [5 * 64 + 7, 6 * 64 + 8], axis=0) == 128).all()
    assert len(figure.data[0].source) < 10_000 and figure.layout.yaxis.autorange == "reversed"


def test_the_slider_shows_grey_images_in_bytes_and_no_shift_in_white():
    panel = {"image": np.full((1, 4, 5), 0.5), "shift": np.zeros((1, 4, 5)), "probability": np.full((1, 2), 0.5)}
    grey, shift, _ = plots.eps_slider(np.array([0.0]), {"A": panel}, ("x", "y"), start=0.0).data
    assert grey.type == shift.type == "heatmap" and (grey.zmin, grey.zmax) == (0, 255)
    assert np.array(grey.z).shape == (4, 5) and (np.array(grey.z) == 128).all() and (np.array(shift.z) == 128).all()


def test_a_picture_brings_its_pixels_along_and_its_words_escaped():
    pixels = (255 * scene(224, 200)).round().astype(np.uint8)
    html = tables.picture(pixels, 'a "b" <c> & d')
    assert html.startswith("<img ") and html.count("<") == html.count(">") == 1
    attributes = dict(re.findall(r'(\w+)="([^"]*)"', html))
    assert attributes.keys() == {"alt", "src", "width", "height"}
    assert attributes["alt"] == "a &quot;b&quot; &lt;c&gt; &amp; d"
    assert (attributes["width"], attributes["height"]) == ("200", "224")
    back = decoded(attributes["src"], "jpeg")
    assert back.shape == pixels.shape and abs(back.astype(int) - pixels).mean() < 3 and len(html) < 10_000


def test_the_survival_table_shows_what_is_left_and_between_what_bounds():
    line = {
        "row": "LWA",
        "defended": 0.8,
        "undefended": 0.2,
        "advantage": 0.6,
        "low": 0.58,
        "high": 0.62,
        "advertised": 0.78,
        "left": 0.77,
        "margin": 0.05,
        "verdict": "survives",
    }
    html = tables.survival_table(pd.DataFrame([line]), EXPERIMENT, {}).data
    assert ".600 (.580 to .620)" in html and "<td>77%</td>" in html and "✓ survives" in html
    html = tables.survival_table(pd.DataFrame([line]), EXPERIMENT, {}, unit="%").data
    assert "<b>80.0</b>" in html and "60.0 (58.0 to 62.0)" in html
    assert "<td>20.0</td>" in html and "<td>78.0</td><td>77%</td>" in html
    assert "<td>0%</td>" in tables.survival_table(pd.DataFrame([{**line, "left": -6.0}]), EXPERIMENT, {}).data


def test_a_sentence_shows_its_counts_and_its_predicate():
    line = {
        "value": "“a < b”",
        "verdict": "in part",
        "supported": 2,
        "contradicted": 1,
        "undecided": 3,
        "predicate": "below(a/b, 0.5)",
    }
    html = tables.sentence_table(pd.DataFrame([line])).data
    assert "2 of 6 comparisons supported, 1 contradicted" in html and "“a &lt; b”" in html
    assert "◐ in part" in html and "<code>below(a/b, 0.5)</code>" in html


def test_two_verdicts_are_said_in_the_plural():
    assert tables.bar(pd.Series(["agrees", "agrees", "undecided"]), ("agrees", "undecided")).endswith(
        "2 agree, 1 undecided</span>"
    )


def judged(**changed):
    line = {"row": "a <b>", "experiment": EXPERIMENT, "verdict": "broken", "defended": 0.1, "advantage": -0.4, "low": -0.5}
    return line | {"high": -0.3, "advertised": 0.45, "left": -0.9, "margin": 0.05} | changed


def test_what_is_left_of_a_detector_stands_beside_its_verdict():
    html = tables.detection_table(pd.DataFrame([judged(), judged(row="b", left=float("nan"), verdict="survives")])).data
    assert "a &lt;b&gt;" in html and html.count("✗ broken") == 1 and html.index("✗ broken") < html.index("<td>.950</td>")
    assert "−.400 (−.500 to −.300)" in html and "<td>0%</td>" in html and "<td>–</td>" in html and "one network" not in html
    assert html.count('class="provenance"') == 1, "one experiment is named once"


def test_a_detector_on_one_network_has_no_interval_and_the_table_says_so():
    html = tables.detection_table(pd.DataFrame([judged(low=-np.inf, high=np.inf)])).data
    assert "<td>−.400</td>" in html and "Without an interval: one network." in html


def test_the_rows_of_several_experiments_are_folded():
    html = tables.provenance(EXPERIMENT, SimpleNamespace(**{**vars(EXPERIMENT), "name": "u"}))
    assert html.startswith("<details") and html.count("4 rows</a>") == 2 and "of 2 experiments" in html and "u.jsonl#" in html
    one = SimpleNamespace(**{**vars(EXPERIMENT), "status": lambda: {**EXPERIMENT.status(), "rows": "1 of 1"}})
    assert ">1 row</a>" in tables.provenance(one) and "<details" not in tables.provenance(one)


def test_a_check_that_fails_is_flagged_and_no_other():
    html = tables.checks_table({"N": [("sound", True, "0.885 › 0.350"), ("not", False, "1.000")]}, EXPERIMENT).data
    assert html.count("✓") == 1 and html.count("⚑") == 1
    assert html.index("✓") < html.index(".885 › .350") < html.index("⚑") < html.index("1.000") and "0.885" not in html


def test_the_status_has_a_line_for_each_experiment():
    html = tables.status_table(SimpleNamespace(experiments=[EXPERIMENT, EXPERIMENT])).data
    assert html.count("<tr>") == 3 and html.count("a &lt;b&gt; c") == 2 and "last row" in html


def test_our_value_is_shown_with_our_own_interval():
    cells = verdicts()
    cells["half"], cells["bound"] = 0.011, 0.044
    assert "<b>.860</b> ± .011" in tables.paper_table(cells, EXPERIMENT, {}).data
