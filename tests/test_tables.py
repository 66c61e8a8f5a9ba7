"""Tables and figures: what a reader sees is what the verdicts say, escaped, linked and the same at every build."""

import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from helpers import plots, provenance, reasons, tables
from helpers import rows as storage
from helpers import study as study_module
from helpers.claims import printed
from helpers.data import Split
from helpers.study import Study

CSV = """source,row,column,value,unit,kind,same_as,predicate
T,A,x,0.860,fraction,attack,,
T,A,y,0.500,fraction,attack,,
T,B&C,x,0.860,fraction,attack,,
T,B&C,y,0.860,fraction,attack,T/A/x,
T,,,“a < b”,,sentence,,greater(A/x; A/y)
%,A,x,86.00,percent,attack,,
%,A,y,0.5,fraction,attack,,
few,A,x,0.860,fraction,clean,,
few,A,y,0.500,fraction,attack,,
few,B&C,y,0.860,fraction,attack,,
""".replace("A/x; A/y", "A/x, A/y").replace("greater(A/x, A/y)", '"greater(A/x, A/y)"')

TOML = """
[[declared]]
name = "test images"
value = 500
place = "§1"

[[declared]]
name = "epochs"
value = 2
place = "Table 1"
of = ["T"]

[[declared]]
name = "averaged"
value = 5
place = "§2"
of = ["few"]
"""

VALUES = {(method, seed): (0.86, 0.86) for method in ("A", "B&C") for seed in range(3)}


class Book:
    """A book of one paper in a folder of its own, whose experiment "t" has the networks "A" and "B&C" of three seeds."""

    def __init__(self, folder):
        self.folder = folder

    def study(self):
        return Study("p", "report", device="cpu")

    def experiment(self, values=None, *, study=None, name="t", **options):
        """The experiment at report; values : {(method, seed): metrics}, by default x and y as the paper has them, nearly."""
        values = values or {key: {"x": x, "y": y} for key, (x, y) in VALUES.items()}
        methods = list(dict.fromkeys(method for method, _ in values))
        seeds = 1 + max(seed for _, seed in values)
        profile = {"epochs": 1, "seeds": seeds, "radii": [0.5], **options}

        def measure(s, data, *, method, seed):
            return values[method, seed]

        def declared(study):
            profiles = dict.fromkeys(("smoke", "cpu", "paper"), profile)
            return study.run(name, measure, over={"method": methods}, data=splits, **profiles)

        declared(Study("p", "cpu", device="cpu", record=True))
        return declared(study or self.study())


def splits(s):
    return {"test": Split("digits/test", torch.zeros(500, 1, 1, 1), torch.zeros(500, dtype=torch.int64), ("0",))}


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.delenv("BOOK_RESULTS", raising=False)
    monkeypatch.setattr(study_module, "ROOT", tmp_path)
    monkeypatch.setattr(printed, "CLAIMS", tmp_path / "claims")
    monkeypatch.setattr(provenance, "device_name", lambda device: "a <b> c")
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims/p.csv").write_text(CSV, encoding="utf-8")
    (tmp_path / "claims/p.toml").write_text(TOML, encoding="utf-8")
    return Book(tmp_path)


def frame(rows):
    """{(method, seed): metrics} from a list of (method, seed, metrics)."""
    return {(method, seed): metrics for method, seed, metrics in rows}


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


def test_each_cell_shows_ours_the_papers_and_the_verdict_and_links_to_its_rows(book):
    e = book.experiment()
    html = tables.paper(e, "T").data
    assert html.count('href="../results/p/cpu/t.jsonl#rows-A"') == 2 and html.count("paper .860") == 3
    assert html.count(f'jsonl#{storage.anchor("B&C")}"') == 2 and html.count("paper .500") == 1
    assert html.count("✓ agrees") == 6 and html.count("✗ differs") == 2, "once in the table, once in the details"
    assert "<b>Altered</b>: epochs: 1 instead of 2." in html and "a &lt;b&gt; c" in html
    assert html.count('class="verdict agrees altered"') == 6 and html.count('<span class="settings">altered</span>') == 8
    assert e.verdicts.verdict.tolist() == ["agrees", "differs", "agrees", "agrees"] and set(e.verdicts.source) == {"T"}


def test_what_the_paper_declares_is_found_by_the_source_or_by_another_name(book):
    e = book.experiment()
    html = tables.paper(e, "few", declared="%").data
    assert "<b>The paper&#x27;s settings</b>." in html and "altered" not in html
    assert "epochs: 1 instead of 2" in tables.paper(e, "few", declared="T").data


def test_the_number_of_runs_that_the_paper_averages_counts(book):
    values = {(m, seed): {"x": 0.86 + 0.01 * seed, "y": 0.5 + 0.01 * seed} for m in ("A", "B&C") for seed in range(3)}
    e = book.experiment(values)
    tables.paper(e, "few")
    five = e.verdicts.prediction.tolist()
    tables.paper(e, "few", averaged=1)
    assert all(a < b for a, b in zip(five, e.verdicts.prediction, strict=True)) and len(e.verdicts) == 3, (
        "judged again, it is replaced"
    )


def test_columns_may_be_judged_on_other_images(book):
    e = book.experiment()
    tables.paper(e, "T")
    same = e.verdicts.set_index(["row", "column"]).bound
    tables.paper(e, "T", by_column={"y": {"images": 10, "paper_images": 10}})
    other = e.verdicts.set_index(["row", "column"]).bound
    assert list(other.index) == list(same.index), "in the paper's order"
    assert other["A", "y"] > 2 * same["A", "y"] and other["A", "x"] == same["A", "x"]


def test_a_cell_that_the_paper_prints_in_percent_shows_ours_in_percent_and_no_other_does(book):
    html, _, details = tables.paper(book.experiment(), "%").data.partition("<details>")
    assert len(re.findall(r"<b>86\.0</b> ± \d\.\d<", html)) == 1 and html.count("paper 86.00 %<") == 1
    assert len(re.findall(r"<b>\.860</b> ± \.\d\d\d<", html)) == 1 and html.count("paper .5<") == 1
    assert "<td>86.00 %</td>" in details


def test_a_cell_that_the_paper_does_not_print_shows_a_dash(book):
    html = tables.paper(book.experiment(), "few").data.partition("<details>")[0]
    assert html.count("<td>–</td>") == 1 and html.count('class="verdict') == 3
    assert html.index('"row">B&amp;C') < html.index("<td>–</td>") < html.index(storage.anchor("B&C")), "under x, before y"
    assert "<td>–</td>" not in tables.paper(book.experiment(), "T").data


def test_a_line_that_is_no_group_of_rows_links_to_all_of_them(book):
    html = tables.paper(book.experiment(), "T", group=lambda row: {"A": "of no row", "B&C": ""}[row]).data
    assert html.count('href="../results/p/cpu/t.jsonl#"') == 4 + 1 and "#rows" not in html  # four cells and the provenance


def test_further_words_stand_under_their_cell_only(book):
    html = tables.paper(book.experiment(), "T", also={("A", "y"): "notebooks <.7"}).data
    assert html.count("notebooks &lt;.7") == 1 and html.index("notebooks") > html.index("agrees")


def test_the_column_of_the_lines_has_to_be_named_where_there_are_several(book):
    e = book.experiment()
    e.over = {"method": ["A"], "eps": [1]}
    with pytest.raises(ValueError, match="name the column that tells its lines apart"):
        tables.means(e, ["x"])
    assert "<b>.860</b>" in tables.means(e, ["x"], by="method").data


def test_drops_are_compared_below_the_clean_cell(book):
    values = {(m, s): {"x": 0.9, "y": 0.5, "drop y": 0.36, "se y": 0.01} for m in ("A", "B&C") for s in range(3)}
    e = book.experiment(values)
    tables.paper(e, "few", reference=("few", "A", "x"))
    assert e.verdicts[e.verdicts.row == "A"].paper.tolist() == [0.36] and e.verdicts.ours.tolist() == pytest.approx([0.36, 0.36])


def test_means_have_their_interval_over_networks_and_one_network_has_none(book):
    values = {("A", s): {"acc": 0.4 + 0.05 * s, "other": 0.1} for s in range(3)}
    e = book.experiment(values | {("B", s): {"acc": 0.7, "other": 0.2} for s in range(3)})
    e = e.view(e.rows[~((e.rows.method == "B") & (e.rows.seed > 0))])
    html = tables.means(e, ["acc"], also={("B", "acc"): "theirs .6"}).data
    half = 4.302653 * 0.05 / np.sqrt(3)
    assert f"<b>.450</b> ± {tables.number(half)}" in html and "<b>.700</b></a><br>" in html and "theirs .6" in html
    assert html.count('href="../results/p/cpu/t.jsonl#rows-A"') == 1 and "other" not in html


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.4, 0.5], "<b>.450</b> (.400, .500)"),  # ± .635
        ([0.01, 0.9, 0.94], "<b>.617</b> (.010, .900, .940)"),  # ± 1.31, below 0 and above 1
        ([0.0, 0.01, 0.02], "<b>.010</b> ± .025"),
        ([3000.0, 3400.0, 3900.0], "<b>3433.333</b> ± 1120."),
    ],
)
def test_values_are_shown_where_their_interval_says_nothing(book, values, text):
    html = tables.means(book.experiment({("A", s): {"acc": v} for s, v in enumerate(values)}), ["acc"]).data
    assert text in html and ("±" in html) == ("±" in text)


def test_means_in_percent_say_so(book):
    values = {("A", 0): 0.4, ("A", 1): 0.45, ("A", 2): 0.5, ("B", 0): 0.7, ("B", 1): 0.7, ("B", 2): 0.7}
    e = book.experiment({key: {"acc": v} for key, v in values.items()})
    html = tables.means(e, ["acc"], unit="%").data
    half = 100 * 4.302653 * 0.05 / np.sqrt(3)
    assert f"<b>45.0</b> ± {half:.1f}" in html and "<b>70.0</b> ± 0.0" in html
    assert "In percent; ± is the 95 % interval over networks, images held fixed." in html
    assert "percent" not in tables.means(e, ["acc"]).data
    one = tables.means(e.where(seed=0), ["acc"], unit="%").data
    assert "In percent." in one and "±" not in one


def test_means_of_an_error_are_in_percent_with_two_digits_and_the_head_says_so(book):
    e = book.experiment({("A", seed): {"MAPE": 0.0012, "acc": 0.5} for seed in range(3)})
    html = tables.means(e, ["acc", "MAPE"]).data
    assert "<b>0.12</b> ± 0<" in html and "<b>.500</b>" in html and ">MAPE, %<" in html and ">acc<" in html


def test_a_mean_that_a_row_does_not_have_is_a_dash_and_a_network_without_it_does_not_count(book):
    values = {(m, s): {"x": 0.5} | ({"y": 0.7} if (m, s) == ("B", 1) else {}) for m in ("A", "B") for s in range(3)}
    html = tables.means(book.experiment(values), ["x", "y", "z"]).data
    assert html.count("<td>–</td>") == 4 - 1 and html.index(">A<") < html.index("<td>–</td>") < html.index(">B<")
    assert "<b>.700</b></a></td>" in html and html.count("<b>.500</b> ± .000") == 2
    assert ">nan" not in html


def test_a_sentence_shows_its_counts_and_its_predicate(book):
    values = {key: {"x": x, "y": 0.5} for key, (x, _) in VALUES.items()}
    e = book.experiment(values)
    html = tables.sentences(e, "T").data
    assert "1 of 1 comparisons supported, 0 contradicted" in html and "“a &lt; b”" in html
    assert "✓ holds" in html and "<code>greater(A/x, A/y)</code>" in html
    assert e.sentences.verdict.tolist() == ["holds"] and e.sentences.source.tolist() == ["T"]


def test_the_scoreboard_has_what_the_tables_judged_and_counts_a_repeated_cell_once(book):
    study = book.study()
    e = book.experiment(study=study)
    other = book.experiment(study=study, name="u")
    tables.paper(e, "T")
    tables.paper(other, "%", count=False)
    tables.sentences(e, "T")
    survived = pd.DataFrame({"row": ["LWA", "<b>", "c"], "verdict": ["survives", "broken", "broken"], **LEFT})
    tables.survival(e, "T", survived)
    html = tables.scoreboard(study, "01.html", "Paper", sources=lambda source: source in ("T", "few")).data
    assert "3 of 6 printed numbers" in html and "2 agree, 1 differs" in html and "1 sentences" in html
    assert "✓ survives</span>: LWA<br>" in html and "✗ broken</span>: &lt;b&gt;; c</td>" in html
    tables.paper(e, "T")
    assert tables.scoreboard(study, "01.html", "Paper").data.count("3 of 8 printed numbers") == 1, "judged again, counted once"
    book.experiment(study=study)
    assert "0 of 8 printed numbers" in tables.scoreboard(study, "01.html", "Paper").data, "run again, judged anew"


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


LEFT = {
    "defended": 0.8,
    "undefended": 0.2,
    "advantage": 0.6,
    "low": 0.58,
    "high": 0.62,
    "advertised": 0.78,
    "left": 0.77,
    "margin": 0.05,
}


def test_the_survival_table_shows_what_is_left_and_between_what_bounds(book):
    e, line = book.experiment(), {"row": "LWA", "verdict": "survives", **LEFT}
    html = tables.survival(e, "%", pd.DataFrame([line])).data
    assert ".600 (.580 to .620)" in html and "<td>77%</td>" in html and "✓ survives" in html
    html = tables.survival(e, "%", pd.DataFrame([line]), unit="%").data
    assert "<b>80.0</b>" in html and "60.0 (58.0 to 62.0)" in html
    assert "<td>20.0</td>" in html and "<td>78.0</td><td>77%</td>" in html
    assert "<td>0%</td>" in tables.survival(e, "%", pd.DataFrame([{**line, "left": -6.0}])).data


def test_survival_is_judged_from_the_rows_of_the_experiment(book):
    values = {(m, s): {"worst": 0.8 if m == "A" else 0.2, "free": 0.5} for m in ("A", "B&C") for s in range(3)}
    e = book.experiment(values)
    how = {"undefended": "B&C", "advertised": "y", "errors": True}
    html = tables.survival(e, "T", metric={"{row}, worst": "worst", "{row}, unclipped": "free"}, **how).data
    assert e.survivals.row.tolist() == ["A, worst", "A, unclipped"] and e.survivals.advantage.tolist() == pytest.approx([0.6, 0])
    assert e.survivals.advertised.tolist() == pytest.approx([0.36, 0.36]) and html.count("jsonl#rows-A") == 2
    assert "epochs: 1 instead of 2" in html and e.survivals.verdict.tolist()[0] == "undecided"
    assert "whether there was an advantage under the paper’s own attack is not known" in html


def test_the_papers_own_attack_on_the_same_networks_is_found_in_the_study(book):
    study, how = book.study(), {"undefended": "B&C", "advertised": "y", "errors": True}
    of_paper = {(m, s): {"y": 0.1 if m == "A" else 0.9} for m in ("A", "B&C") for s in range(3)}
    book.experiment(of_paper, study=study, name="of_the_paper", training={"lr": 1})
    book.experiment(of_paper, study=study, name="of_others", training={"lr": 3})
    values = {(m, s): {"worst": 0.1} for m in ("A", "B&C") for s in range(3)}
    e = book.experiment(values, study=study, training={"lr": 1})
    html = tables.survival(e, "T", metric="worst", **how).data
    assert e.survivals.before.tolist() == pytest.approx([0.8]) and e.survivals.verdict.tolist() == ["broken"]
    assert "broken" in html and re.search(r"\.800 \(\.7\d\d to \.8\d\d\)", html)
    apart = book.experiment(values, study=study, name="apart", training={"lr": 2})
    tables.survival(apart, "T", metric="worst", **how)
    assert apart.survivals.verdict.tolist() == ["undecided"], "other networks say nothing of these"


SOUND = {"PGD": 0.7, "PGD, DLR": 0.7, "one step": 0.8, "PGD transferred": 0.9, "Square": 0.8, "transfer": 0.9, "random": 1.0}
SOUND |= {"PGD, eps 50": 0.0, "rescored": 0.8, "signs agree": 0.5, "literal float32": 0.9, "literal float64": 0.5}


@pytest.mark.parametrize(
    ("doubled", "checked", "verdict"),
    [
        (0.797, SOUND, "survives"),
        (0.79, SOUND, "undecided"),
        (None, SOUND, "undecided"),
        (0.797, None, "undecided"),
        (0.797, {**SOUND, "Square": 0.6}, "undecided"),
    ],
    ids=["sound", "a doubled budget takes a point", "never doubled", "never checked", "a search without gradients is stronger"],
)
def test_a_defence_survives_a_suite_that_was_doubled_and_gradients_that_were_checked(book, doubled, checked, verdict):
    study, networks = book.study(), [(m, s) for m in ("A", "B&C") for s in range(3)]
    of_paper = {(m, s): {"y": 0.1 if m == "A" else 0.9} for m, s in networks}
    book.experiment(of_paper, study=study, name="of_the_paper", training={"lr": 1})
    if checked:
        book.experiment(dict.fromkeys(networks, checked), study=study, name="masking", training={"lr": 1}, eps=1.0, radii=[50.0])
    values = {(m, s): {"worst": 0.8 if m == "A" else 0.2} for m, s in networks}
    if doubled:
        values = {k: {**v, "worst, twice the budget": doubled if k[0] == "A" else 0.2} for k, v in values.items()}
    e = book.experiment(values, study=study, training={"lr": 1})
    tables.survival(e, "T", metric="worst", undefended="B&C", advertised="y", errors=True)
    assert e.survivals.verdict.tolist() == [verdict]
    assert e.survivals.reason.tolist() == ["attack" if verdict == "undecided" else ""]


def test_two_verdicts_are_said_in_the_plural():
    assert tables.bar(pd.Series(["agrees", "agrees", "undecided"]), ("agrees", "undecided")).endswith(
        "2 agree, 1 undecided</span>"
    )


def judged(experiment, **changed):
    line = {"row": "a <b>", "experiment": experiment, "verdict": "broken", "defended": 0.1, "advantage": -0.4, "low": -0.5}
    return line | {"high": -0.3, "advertised": 0.45, "left": -0.9, "margin": 0.05, "undefended": 0.5} | changed


def test_what_is_left_of_a_detector_stands_beside_its_verdict(book):
    e = book.experiment()
    lines = pd.DataFrame([judged(e), judged(e, row="b", left=float("nan"), verdict="survives")])
    html = tables.detection(lines, count=["b"]).data
    assert "a &lt;b&gt;" in html and html.count("✗ broken") == 1 and html.index("✗ broken") < html.index("<td>.950</td>")
    assert "−.400 (−.500 to −.300)" in html and "<td>0%</td>" in html and "<td>–</td>" in html and "one network" not in html
    assert html.count('class="provenance"') == 1, "one experiment is named once"
    assert e.study.judged_of("survivals", counted=True).row.tolist() == ["b"] and len(e.survivals) == 2


def test_a_detector_is_judged_on_the_auroc_and_on_the_fpr_beside_it(book):
    values = {
        ("A", s): {"before": 0.99, "FPR before": 0.05, "AUROC": 0.9, "FPR": 0.9, "AUROC past": 0.5, "log p": 0.9}
        for s in range(3)
    }
    e = book.experiment(values, name="v")
    line = tables.detected("d", e, "before", "AUROC", images=5000)
    assert (line["fpr_before"], line["fpr"], line["verdict"]) == (pytest.approx(0.05), pytest.approx(0.9), "undecided")
    worst = tables.detected("d", e, "before", "AUROC", "AUROC past", images=5000)
    assert worst["verdict"] == "broken" and worst["defended"] == pytest.approx(0.5)
    assert np.isnan(worst["fpr"]), "FPR past is not there: the scale is missing after the attacks"
    alone = tables.detected("d", e, "log p", "AUROC", images=5000)
    assert (alone["verdict"], alone["reason"]) == ("undecided", "no FPR")
    other = book.experiment(values, name="w")
    assert tables.detected("d", e, "before", "AUROC", images=5000, also=[(other, "AUROC past")])["defended"] == pytest.approx(0.5)


def test_a_detector_on_one_network_has_no_interval_and_the_table_says_so(book):
    html = tables.detection(pd.DataFrame([judged(book.experiment(), low=-np.inf, high=np.inf)])).data
    assert "<td>−.400</td>" in html and "Without an interval: one network." in html


def test_the_rows_of_several_experiments_are_folded(book):
    study = book.study()
    e, other = book.experiment(study=study), book.experiment(study=study, name="u")
    html = tables.provenance(e, other)
    assert html.startswith("<details") and html.count("6 rows</a>") == 2 and "of 2 experiments" in html and "u.jsonl#" in html
    one = book.experiment({("A", 0): {"x": 1.0}}, name="v", seeds=1)
    assert ">1 row</a>" in tables.provenance(one) and "<details" not in tables.provenance(one)


def test_what_is_missing_of_an_experiment_stands_beneath_its_table(book):
    e = book.experiment({("A", s): {"x": 0.5} for s in range(3)}, name="v")
    e.wanted = 5
    assert "<b>3 of 5 seeds</b>" in tables.provenance(e) and "3 of 5 seeds" in tables.status(e.study).data


def test_a_check_that_fails_is_flagged_and_no_other(book):
    sound = {"clean": 1.0, "one step": 0.885, "PGD": 0.35, "PGD, DLR": 0.35, "PGD, eps 0.5": 0.6, "PGD, eps 50": 0.0}
    sound |= {
        "transfer": 0.9,
        "random": 1.0,
        "rescored": 0.885,
        "signs agree": 1.0,
        "literal float32": 0.5,
        "literal float64": 0.5,
    }
    broken = {**sound, "PGD": 0.9}
    e = book.experiment({(m, s): v for m, v in (("N", sound), ("M", broken)) for s in range(3)}, radii=[0.5, 50])
    html = tables.checks(e, eps=1.0, chance=0.1, unbounded=50).data
    line = html[html.index("iterated beats one step") :]
    assert line.index("✓") < line.index(".885 › .350") < line.index("⚑") < line.index(".885 › .900") and "0.885" not in html


def test_the_status_has_a_line_for_each_experiment(book):
    study = book.study()
    book.experiment(study=study), book.experiment(study=study, name="u")
    html = tables.status(study).data
    assert html.count("<tr>") == 3 and html.count("a &lt;b&gt; c") == 2 and "last row" in html


def test_our_value_is_shown_with_our_own_interval(book):
    values = {(m, s): {"x": 0.86 + 0.001 * s, "y": 0.86} for m in ("A", "B&C") for s in range(3)}
    e = book.experiment(values)
    html = tables.paper(e, "T").data
    half = e.verdicts.set_index(["row", "column"]).half["A", "x"]
    assert f"± {tables.number(half)}" in html and half < e.verdicts.bound.iloc[0]


def test_another_network_or_dataset_has_no_verdict(book):
    toml = book.folder / "claims/p.toml"
    toml.write_text(TOML + '[[declared]]\nname = "data"\nvalue = "mnist"\nplace = "§1"\n', encoding="utf-8")
    study = book.study()
    e = book.experiment(study=study, data="digits")
    html = tables.paper(e, "T").data
    assert set(e.verdicts.verdict) == {"no verdict"} and "agrees" not in html and "data: digits instead of mnist" in html
    tables.sentences(e, "T")
    assert e.sentences.verdict.tolist() == ["no verdict"]
    board = tables.scoreboard(study, "01.html", "Paper").data
    assert "0 of 8 printed numbers" in board and "3 substituted, no verdict" in board and "0 decided verdicts" in board


def test_a_number_that_follows_from_another_is_judged_and_not_counted(book):
    entry = '[[follows]]\nof = ["T"]\nrows = ["A"]\ncolumns = ["y"]\nwhy = "it is 1 − x"\nplace = "§1"\n'
    (book.folder / "claims/p.toml").write_text(TOML + entry, encoding="utf-8")
    study = book.study()
    e = book.experiment(study=study)
    tables.paper(e, "T")
    assert len(e.verdicts) == 4 and "2 of 7 printed numbers" in tables.scoreboard(study, "01.html", "Paper").data


def test_another_networks_name_stands_beside_the_papers(book):
    entry = '[[declared]]\nname = "networks"\nvalue = ["resnet18"]\nplace = "§1"\n'
    (book.folder / "claims/p.toml").write_text(TOML + entry, encoding="utf-8")
    html = tables.paper(book.experiment(networks=["lite0", "lite1"]), "T").data
    assert html.count("ours: lite0, lite1</span>") == 2
    assert "ours: " not in tables.paper(book.experiment(name="u", networks=["resnet18"]), "T").data


def test_a_reader_who_changes_eps_is_told_so_and_gets_no_verdict(book):
    (book.folder / "claims/p.toml").write_text(TOML + '[[declared]]\nname = "eps"\nvalue = 1.5\nplace = "§1"\n', encoding="utf-8")
    changed, same = book.experiment(eps=2.0), book.experiment(name="u", eps=1.5)
    html = tables.paper(changed, "T").data
    assert set(changed.verdicts.verdict) == {"no verdict"} and "Another threat model</b>: epochs" in html
    assert "eps: 2.0 instead of 1.5" in html and "another ε or norm than the paper’s" in html
    tables.paper(same, "T")
    assert "no verdict" not in set(same.verdicts.verdict)


def test_what_agrees_by_construction_is_marked_and_not_counted(book):
    entry = '[[by_construction]]\nof = ["T"]\ncolumns = ["x"]\ncondition = "it was <matched>"\nplace = "§1"\n'
    (book.folder / "claims/p.toml").write_text(TOML + entry, encoding="utf-8")
    study = book.study()
    e = book.experiment(study=study)
    html = tables.paper(e, "T").data
    assert html.count("by construction, if it was &lt;matched&gt;") == 4, "two cells, in the table and in the details"
    board = tables.scoreboard(study, "01.html", "Paper").data
    assert "1 of 8 printed numbers" in board and "1 differs" in board and "agree" not in board


def test_bits_beside_the_rows_take_the_place_of_the_binomial(book):
    hard = np.arange(500) % 4 == 0
    values = {(m, s): {"x": ~hard, "y": np.roll(~hard, s)} for m in ("A", "B&C") for s in range(3)}
    e = book.experiment(values)
    html = tables.paper(e, "T").data
    assert set(e.verdicts.sampling) == {"bits"} and "from stored bits or scores" in html and "cannot be checked" in html
    moved = e.view(e.rows.assign(x=0.5))
    tables.paper(moved, "T")
    assert e.verdicts.set_index("column").sampling.to_dict() == {"x": "binomial", "y": "bits"}, "what a chapter put in its place"


def test_the_board_says_what_would_decide_and_that_decided_verdicts_may_be_wrong(book):
    study = book.study()
    values = {(m, s): {"x": 0.86 + 0.03 * (s - 1), "y": 0.3} for m in ("A", "B&C") for s in range(3)}
    e = book.experiment(values, study=study)
    tables.paper(e, "T")
    tables.sentences(e, "T")
    board = tables.scoreboard(study, "01_paper.html", "Paper").data
    assert 'href="undecided.html#undecided-01"' in board and "1 differs" in board
    assert "2 decided verdicts, of which up to 1 may be wrong if all lay on the margin" in board
    html = tables.undecided(study).data
    assert "2 are undecided: 2 would be decided by at most 10 networks, or by more images, 0 by more networks, and 0 by" in html
    assert html.count("<tr>") == 3 and "T: A, x" in html and "T: B&amp;C, x" in html
    line = e.verdicts[e.verdicts.verdict == "undecided"].iloc[0]
    assert f"{line.needed_networks:.0f} networks</td><td>{line.chance:.0%}</td><td>seeds</td>" in html


def test_what_a_paper_advertises_stands_in_the_claims(book):
    values = {(m, s): {"worst": 0.8 if m == "A" else 0.2} for m in ("A", "B&C") for s in range(3)}
    e = book.experiment(values)
    with pytest.raises(ValueError, match="the claims declare none for 'T'"):
        tables.survival(e, "T", metric="worst")
    entry = '[[advertised]]\nundefended = "B&C"\ncolumn = "y"\nerrors = true\nplace = "§1"\nof = ["T"]\n'
    (book.folder / "claims/p.toml").write_text(TOML + entry, encoding="utf-8")
    tables.survival(e, "T", metric="worst")
    assert e.survivals.advertised.tolist() == pytest.approx([0.36]) and e.survivals.row.tolist() == ["A"]


def test_networks_that_share_nothing_but_the_seed_are_two_groups(book):
    values = {(m, s): {"worst": (0.8 if m == "A" else 0.4) + 0.1 * s} for m in ("A", "B&C") for s in range(3)}
    how = {"undefended": "B&C", "advertised": "y", "errors": True}
    e = book.experiment(values)
    tables.survival(e, "T", metric="worst", **how)
    paired = e.survivals.high.item() - e.survivals.low.item()
    entry = '[[unpaired]]\nwhy = "other batches"\nplace = "§1"\nof = ["T"]\n'
    (book.folder / "claims/p.toml").write_text(TOML + entry, encoding="utf-8")
    tables.survival(e, "T", metric="worst", **how)
    assert e.survivals.high.item() - e.survivals.low.item() > 2 * paired


def test_which_reading_counts_stands_under_the_table_with_its_reason(book):
    entry = '[[reading]]\ncounts = "one <a>"\nother = "two"\nwhy = "It is printed."\nplace = "§1"\nof = ["T"]\n'
    (book.folder / "claims/p.toml").write_text(TOML + entry, encoding="utf-8")
    html = tables.paper(book.experiment(), "T").data
    assert "Counted: one &lt;a&gt;. Not counted: two. It is printed. (§1)" in html


def test_what_is_glued_for_another_page_is_not_shown_on_its_own(capsys):
    tables.glue("name", tables.HTML("<p>shown</p>"), shown=False)
    kept = capsys.readouterr().out
    assert "'application/papermill.record/text/html': '<p>shown</p>'" in kept and "'text/html'" not in kept


@pytest.mark.parametrize(
    ("judged", "remedy", "because"),
    [
        ({"reason": "both", "needed_networks": 7.0, "needed_images": 5000.0}, "7 networks and 5,000 images", "seeds and images"),
        ({"reason": "on the margin"}, "nothing in reach", "on the margin: nothing would decide it"),
        ({"reason": "images, out of reach"}, "nothing in reach", "the sampling of the images is the larger part"),
        ({"reason": "attack"}, "the whole suite, and its budget doubled", "the suite of attacks is not complete"),
        ({"reason": "before"}, "the paper’s own attack on these networks", "is not known"),
        ({"reason": "before", "before": 0.1, "needed_networks": 6.0}, "6 networks", "is not sure"),
        ({"reason": "before", "before": 0.1}, "nothing in reach", "is not known"),
        ({"reason": float("nan")}, "nothing in reach", ""),
    ],
)
def test_each_reason_says_what_would_decide(judged, remedy, because):
    nothing = {"needed_networks": float("nan"), "needed_images": float("nan"), "chance": float("nan")}
    (line,) = pd.DataFrame([{**nothing, **judged}]).itertuples()
    assert reasons.remedy(line) == remedy and because in reasons.because(line)
