"""What the papers print and declare: read, checked, and joined with rows."""

import tomllib
from decimal import Decimal

import pandas as pd
import pytest

from helpers import claims, tables
from helpers.claims import compare_settings
from helpers.claims import printed as reading

SAME = {"kind": "attack", "images": 10_000, "paper_images": 10_000, "sampling": "same"}


@pytest.mark.parametrize(
    ("value", "kind", "margin"),
    [
        (0.5, "clean", 0.03),
        (0.5, "attack", 0.05),
        (0.98, "clean", 0.01),
        (0.999, "clean", 0.003),
        (0.0, "attack", 0.003),
        (0.02, "attack", 0.01),
        (4.0, "other", 0.4),
    ],
)
def test_margin(value, kind, margin):
    assert claims.margin_of(value, kind) == pytest.approx(margin)


@pytest.mark.parametrize(
    ("value", "unit", "number", "half"),
    [("0.860", "fraction", 0.86, 0.0005), ("86.0", "percent", 0.86, 0.0005), ("3", "L2", 3.0, 0.5)],
)
def test_printed_numbers(value, unit, number, half):
    assert claims.parse_number(value, unit) == pytest.approx((number, half))


def cells(**values):
    return pd.DataFrame(
        [{"row": r, "column": "acc", "value": v, "unit": "fraction", "kind": "attack"} for r, v in values.items()]
    )


def rows(**values):
    return pd.DataFrame([{"method": m, "seed": i, "acc": v} for m, vs in values.items() for i, v in enumerate(vs)])


A, LOW = [0.86, 0.87, 0.85], [0.30, 0.31, 0.29]


def test_a_cell_is_judged_by_the_error_that_stands_beside_it():
    mine = rows(a=[0.5, 0.501, 0.499])
    table = cells(a="0.500").assign(source="T", same_as="")
    how = {"row_axis": "method", "images": 30, "sampling": "part", "paper_images": 10_000}
    assert claims.compare(table, mine, "T", **how).verdict.tolist() == ["undecided"]
    judged = claims.compare(table, mine.assign(**{"se acc": 0.01}), "T", se=True, **how)
    assert judged.verdict.tolist() == ["agrees"]
    with pytest.raises(KeyError, match="se acc"):
        claims.compare(table, mine, "T", se=True, **how)


def test_a_source_that_the_claims_do_not_have_is_named():
    table = cells(a="0.860").assign(source="Table 1", same_as="")
    with pytest.raises(KeyError, match="no numbers from 'Table 11'"):
        claims.compare(table, rows(a=A), "Table 11", row_axis="method", images=10_000)
    with pytest.raises(KeyError, match="no sentences from 'Table 1'"):
        claims.judge_sentences(table, rows(a=A), "Table 1", row_axis="method", images=10_000)


@pytest.mark.parametrize("text", ["greater(a, b, c)", "equal(a, b, nan)", "greater(a, b, )", "below(a, -1)", "equal(a, b, inf)"])
def test_an_amount_must_be_a_plain_number(text):
    with pytest.raises(ValueError, match="must be a plain number"):
        claims.parse_predicate(text)


@pytest.mark.parametrize("text", ["a > b", "greater(a)", "below(a, b, c)", "__import__('os')", "equal(a, b)", ""])
def test_other_predicates_are_refused(text):
    with pytest.raises(ValueError, match="none of greater"):
        claims.parse_predicate(text)


def test_compare_joins_cells_and_rows():
    table = cells(a="0.860", low="0.860").assign(source="Table 1", same_as="")
    result = claims.compare(
        table, rows(a=A, low=LOW), "Table 1", row_axis="method", **{k: v for k, v in SAME.items() if k != "kind"}
    )
    assert result.verdict.tolist()[1] == "differs" and result.ours.tolist() == pytest.approx([0.86, 0.30])
    with pytest.raises(KeyError, match="no value for low, acc"):
        claims.compare(table, rows(a=A), "Table 1", row_axis="method", images=10_000)


def test_settings_are_marked_by_any_inequality_but_more_images_or_seeds():
    settings = {"training": {"epochs": 10, "hidden": [256, 256], "lr": 0.02, "data": "digits"}, "seeds": 3}
    data = {"train": {"name": "digits/train", "size": 1297}, "test": {"name": "digits test/test", "size": 500}}

    def marked(declared, guessed=(), **how):
        return compare_settings(settings, data, declared, guessed, **how)

    assert marked({"epochs": 10, "test images": 400, "seeds": 2, "averaged": 5}).mark == "the paper's settings"
    assert marked({"epochs": 10}, ("lr",)).mark == "unstated" and marked({"epochs": 10}, ("lr",)).guessed == ("lr",)
    altered = marked({"epochs": 5, "hidden": [1000, 1000], "train images": 50_000, "lr": 0.001}, ("batch_size",))
    assert altered.mark == "altered"
    assert altered.words == (
        "epochs: 10 instead of 5",
        "hidden: [256, 256] instead of [1000, 1000]",
        "train images: 1,297 instead of 50,000",
        "lr: 0.02 instead of 0.001",
    ), "a rate twenty times as large counts, as do more epochs"
    assert marked({"lr": 0.1, "data": "mnist", "epochs": 9}).mark == "substituted"
    assert marked({"test data": "mnist"}).mark == "substituted" and marked({"test data": "digits"}).mark == "the paper's settings"
    with pytest.raises(KeyError, match="width"):
        marked({"width": 3})
    assert marked({"data": "mnist", "blocks": 4}).mark == "substituted", "another network has other settings"
    assert marked({"width": 3, "epochs": 10}, strict=False).mark == "the paper's settings"
    assert marked({}).mark == marked({"averaged": 5}).mark == "unstated", "of which the paper says nothing"
    other = {"network": "cnn", "shape": {"widths": [64]}, "eps": None}
    found = compare_settings({"t": {"network": "vgg16", "shape": {"widths": [9]}, "eps": 3}}, {}, other | {"eps": "3"})
    assert found.mark == "substituted" and "network: vgg16 instead of cnn" in found.words


def declaring(tmp_path, monkeypatch, text):
    monkeypatch.setattr(reading, "CLAIMS", tmp_path)
    (tmp_path / "p.toml").write_text(text, encoding="utf-8")


def test_what_a_paper_declares_holds_for_all_sources_or_for_those_that_are_named(tmp_path, monkeypatch):
    general = '[[declared]]\nname = "epochs"\nvalue = 50\nplace = "§5, α"\n'
    own = '[[declared]]\nname = "epochs"\nvalue = 10\nplace = "Table 2"\nof = ["Table 2", "§6"]\n'
    eps = '[[declared]]\nname = "eps"\nvalue = [0.1, 0.2]\nplace = "§4"\nof = ["Table 1"]\n'
    declaring(tmp_path, monkeypatch, own + general + eps)
    assert claims.declared("p", "Table 1") == {"epochs": 50, "eps": [0.1, 0.2]}
    assert claims.declared("p", "Table 2") == claims.declared("p", "§6") == {"epochs": 10}
    assert claims.declared("p", "Table 9") == {"epochs": 50}
    declaring(tmp_path, monkeypatch, eps + general + own)
    assert list(claims.declared("p", "Table 1")) == ["eps", "epochs"], "in the order of the file"


@pytest.mark.parametrize(
    "entry",
    [
        'name = "epochs"\nvalue = 5',
        'name = "epochs"\nvalue = 5\nplace = ""\nsource = "x"',
        "value = 1",
        'name = "a"\nvalue = 5\nplace = "§1"\nof = "Table 1"',
    ],
)
def test_a_declared_setting_without_its_place_in_the_paper_is_refused(tmp_path, monkeypatch, entry):
    declaring(tmp_path, monkeypatch, f"[[declared]]\n{entry}\n")
    with pytest.raises(ValueError, match="an entry (has|of declared has).* place"):
        claims.declared("p", "Table 1")


KEYS = {
    "declared": {"name", "value"},
    "unstated": {"names"},
    "by_construction": {"condition"},
    "advertised": {"undefended", "column"},
    "reading": {"counts", "other", "why"},
    "quantity": {"columns", "kind"},
    "unpaired": {"why"},
    "follows": {"why", "rows", "columns"},
}
MORE = {"place", "of", "rows", "columns", "errors"}


@pytest.mark.parametrize("path", sorted(reading.CLAIMS.glob("*.toml")), ids=lambda p: p.stem)
def test_the_committed_facts_name_what_the_paper_prints(path):
    cells, kinds = claims.read(path.stem), tomllib.loads(path.read_text(encoding="utf-8"))
    sources = {*cells.source, "Table 1, notebooks", "§C, CIFAR-10", "§C, SVHN"}  # what chapters declare beside tables
    assert kinds.keys() <= KEYS.keys()
    for kind in kinds:
        for entry in claims.facts(path.stem, kind):
            assert KEYS[kind] <= entry.keys() <= KEYS[kind] | MORE, entry
            assert set(entry.get("of", [])) <= sources, entry
            if kind in ("by_construction", "follows"):
                mine = cells[cells.source.isin(entry["of"]) & (cells.kind != "sentence")]
                assert set(entry.get("rows", [])) <= set(mine.row) and set(entry.get("columns", [])) <= set(mine.column), entry
            if kind == "advertised":
                for source in entry["of"]:
                    assert claims.value(cells, source, entry["undefended"], entry["column"]) >= 0
            if kind == "quantity":
                assert entry["kind"] in ("other", "clean", "attack") and not set(entry["columns"]) & {
                    c.column for c in cells.itertuples() if c.kind not in ("sentence", entry["kind"])
                }, entry


@pytest.mark.parametrize("path", sorted(reading.CLAIMS.glob("*.toml")), ids=lambda p: p.stem)
def test_the_committed_papers_declare_their_settings(path):
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["declared"]
    assert entries and all(entry["place"].strip() for entry in entries)
    named = [(entry["name"], source) for entry in entries for source in entry.get("of", ["all"])]
    assert len(named) == len(set(named)), "declared twice"
    for _, source in named:
        claims.declared(path.stem, source)


def test_the_committed_claims_hold_all_of_the_paper():
    huang = claims.read("huang2015")
    numbers = huang[huang.kind != "sentence"]
    assert numbers.groupby("source").size().to_dict() == {"Table 1": 25, "Table 2": 10, "§4.1": 2}
    assert claims.count(huang) == 37 and set(numbers.same_as) == {""}
    assert not numbers.duplicated(["source", "row", "column"]).any()
    value = numbers.set_index(["source", "row", "column"]).value
    assert value["Table 1", "LWA", "Adv_Alpha"] == "0.857" and value["Table 2", "Normal", "Adv_Loss_Sign"] == "0.6940"
    names = set(numbers.row + "/" + numbers.column)
    sentences = huang[huang.kind == "sentence"]
    assert sentences.groupby("source").size().to_dict() == {"Table 1": 10, "Table 2": 2, "Figure 1": 5}
    for sentence in sentences[sentences.source != "Figure 1"].itertuples():  # a figure prints no numbers to name
        for form, arguments in claims.parse_predicate(sentence.predicate):
            assert {a for a in arguments[: 1 if form == "below" else 2] if "/" in a} <= names


ABBASI = {"MNIST": ["Naive CNN", "Augmented CNN"], "CIFAR-10": ["Naive VGG", "Augmented VGG"]}


def test_the_committed_claims_of_abbasi_hold_all_of_the_paper():
    abbasi = claims.read("abbasi2018")
    numbers, sentences = abbasi[abbasi.kind != "sentence"], abbasi[abbasi.kind == "sentence"]
    tables_ = {f"Table {n}, {data}": size for n, size in ((1, 13), (2, 8)) for data in ABBASI}
    assert numbers.groupby("source").size().to_dict() == {**tables_, "§1": 1, "§A.3": 4}
    assert claims.count(abbasi) == 44 and (numbers.same_as != "").sum() == 3
    assert not numbers.duplicated(["source", "row", "column"]).any()
    cell = {f"{c.source}/{c.row}/{c.column}": c.value for c in numbers.itertuples()}
    assert cell["Table 1, CIFAR-10/Augmented VGG/T-FGS Dust"] == "39.06"
    assert cell["Table 2, MNIST/Naive CNN/T-FGS Distortion"] == "0.170", "as printed, to its last digit"
    assert all(cell[c.same_as] == c.value for c in numbers.itertuples() if c.same_as)
    assert sentences.groupby("source").size().to_dict() == {
        **{"Table 1, MNIST": 8, "Table 2, MNIST": 4, "Figure 2, MNIST": 4},
        **{"Table 1, CIFAR-10": 7, "Table 2, CIFAR-10": 4, "Figure 2, CIFAR-10": 4},
    }
    assert len(sentences) == 31 and set(sentences.row + sentences.column + sentences.same_as) == {""}


@pytest.mark.parametrize("data", ABBASI)
def test_the_sentences_of_abbasi_name_cells_of_their_table_or_what_it_has_no_number_for(data):
    abbasi = claims.read("abbasi2018")
    unprinted = ["Success in 1", "Success in 4", "Success after exactly 2", "Perturbation after 1", "Perturbation after 2"]
    for source, mine in abbasi[abbasi.source.str.endswith(f", {data}")].groupby("source"):
        printed = set(mine.row + "/" + mine.column)
        more = [f"{attack} {what}" for attack in ("FGS", "T-FGS") for what in unprinted] if "Table 2" in source else []
        more = ["AUROC FGS", "AUROC T-FGS", "AUROC out-distribution"] if "Figure 2" in source else more
        more += ["FGS confidence of errors", "T-FGS confidence of errors", "Confidence in dustbin"] if "Table 1" in source else []
        allowed = printed | {f"{row}/{column}" for row in ABBASI[data] for column in more}
        for sentence in mine[mine.kind == "sentence"].itertuples():
            for form, arguments in claims.parse_predicate(sentence.predicate):
                assert {a for a in arguments[: 1 if form == "below" else 2] if "/" in a} <= allowed, sentence.value
                assert float(arguments[-1]) < 1 if form != "greater" else arguments[0] != arguments[1], sentence.value


def test_the_outcomes_that_abbasi_prints_sum_to_100_but_for_an_erratum():
    abbasi = claims.read("abbasi2018")
    sums = {}
    for c in abbasi[abbasi.source.str.startswith("Table 1") & (abbasi.kind == "attack")].itertuples():
        attack, outcome = c.column.split()
        sums.setdefault((c.row, attack), {})[outcome] = Decimal(c.value)
    assert len(sums) == 8
    assert all(("Dust" in parts) == row.startswith("Augmented") for (row, _), parts in sums.items())
    assert {k: sum(parts.values()) for k, parts in sums.items() if sum(parts.values()) != 100} == {("Naive CNN", "FGS"): 101}


def test_the_later_notebooks_numbers_stand_beside_the_papers_and_count_for_nothing():
    later = claims.read("huang2015_notebooks")
    words = tables.beside(later, "LeNet", "notebooks")
    assert words["Normal", "Fixed"] == "notebooks .7456" and len(words) == 10
    assert len(tables.beside(later, "CIFAR-10", "x")) == 15
    with pytest.raises(KeyError, match="nothing from 'Table 9'"):
        tables.beside(later, "Table 9", "x")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("T,a,acc,0.5,furlong,attack,,", "unit 'furlong'"),
        ("T,a,far,0.5,,other,,", "unit ''"),
        ("T,a,acc,0.6,fraction,attack,,", "T/a/acc stands twice"),
        ("T,a,x,nan,fraction,attack,,", "'nan' is no printed number"),
        ("T,a,x,1e-3,fraction,attack,,", "'1e-3' is no printed number"),
        ("T,a,x,1_5,percent,attack,,", "'1_5' is no printed number"),
        ("T,a,x,120,percent,clean,,", "120 percent is no rate"),
        ("T,a,x,-5,percent,clean,,", "-5 percent is no rate"),
        ("T,a,x,0.5,fraction,attack,T/a/gone,", "no other cell 'T/a/gone'"),
        ('T,,,quote,,sentence,,"greater(0.5, a/acc)"', "must begin with a cell"),
        ('T,,,quote,,sentence,,"equal(a/acc, b/acc, 0)"', "allows no difference at all"),
        ("T,a,acc,0.5,fraction,attak,,", "kind 'attak'"),
        ("T,,,quote,,sentence,,better(a)", "none of greater"),
    ],
)
def test_a_bad_claim_is_named_with_its_line(tmp_path, monkeypatch, line, message):
    monkeypatch.setattr(reading, "CLAIMS", tmp_path)
    (tmp_path / "x.csv").write_text(
        ",".join(claims.COLUMNS) + "\nT,a,acc,0.5,fraction,attack,,\n" + line + "\n", encoding="utf-8"
    )
    with pytest.raises(ValueError, match=f"line 3.*{message}"):
        claims.read("x")


def test_what_one_network_has_several_of_counts_once():
    table = cells(a="0.860").assign(source="Table 1", same_as="")
    thrice = pd.DataFrame({"method": ["a"] * 3, "seed": [0] * 3, "acc": [0.85, 0.86, 0.87]})
    result = claims.compare(table, thrice, "Table 1", row_axis="method", images=10_000, sampling="same")
    assert result.n.tolist() == [1] and result.verdict.tolist() == ["undecided"] and result.ours.tolist() == pytest.approx([0.86])


def test_the_committed_claims_of_picot_hold_all_of_the_paper():
    picot = claims.read("picot2019")
    numbers, sentences = picot[picot.kind != "sentence"], picot[picot.kind == "sentence"]
    sets = ("MNIST", "CIFAR-10", "SVHN")
    assert numbers.groupby("source").size().to_dict() == {**{f"Table 1, {d}": 12 for d in sets}, "§3, MNIST": 2}
    assert claims.count(picot) == 32 and (numbers.same_as != "").sum() == 6
    assert not numbers.duplicated(["source", "row", "column"]).any()
    cell = {f"{c.source}/{c.row}/{c.column}": c.value for c in numbers.itertuples()}
    assert cell["Table 1, MNIST/HR/CE attack 0.1"] == "0.945" and cell["Table 1, SVHN/CE/HR attack 0.25"] == "0.674"
    assert cell["Table 1, CIFAR-10/HR/HR attack 0.1"] == "0.324" and cell["§3, MNIST/CE/‖I − C‖"] == "0.40"
    assert all(cell[c.same_as] == c.value for c in numbers.itertuples() if c.same_as)
    counts = {**{f"Table 1, {d}": 7 if d == "MNIST" else 6 for d in sets}, "Figure 1": 4}
    counts |= {"§3, MNIST": 1, "§3, α": 1, "§C, MNIST": 1}
    assert sentences.groupby("source").size().to_dict() == counts
    for sentence in sentences[sentences.source.str.startswith("Table")].itertuples():
        for _, arguments in claims.parse_predicate(sentence.predicate):
            assert all(f"{sentence.source}/{a}" in cell for a in arguments if "/" in a)


def test_the_quantifier_of_a_sentence_is_each_where_the_file_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "CLAIMS", tmp_path)
    line = 'T,,,quote,,sentence,,"greater(a/acc, b/acc)"'
    (tmp_path / "x.csv").write_text(",".join(claims.COLUMNS) + "\n" + line + "\n", encoding="utf-8")
    assert claims.read("x").quantifier.tolist() == ["each"]
    for quantifier in ("overall", "most"):
        (tmp_path / "x.csv").write_text(",".join(claims.COLUMNS) + f",quantifier\n{line},{quantifier}\n", encoding="utf-8")
        if quantifier == "most":
            with pytest.raises(ValueError, match="line 2: the quantifier 'most'"):
                claims.read("x")
        else:
            assert claims.read("x").quantifier.tolist() == ["overall"]


def test_facts_of_a_source_have_their_place_in_the_paper(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "CLAIMS", tmp_path)
    entry = '[[quantity]]\ncolumns = ["epochs"]\nkind = "other"\n'
    (tmp_path / "x.toml").write_text(entry + 'place = "Figure 1"\nof = ["Figure 1"]\n', encoding="utf-8")
    assert len(claims.facts("x", "quantity", "Figure 1")) == 1 and claims.facts("x", "quantity", "Table 1") == []
    assert reading.kind_of("x", "epochs") == "other" and reading.kind_of("x", "accuracy") == "attack"
    assert claims.facts("nobody", "quantity") == []
    (tmp_path / "x.toml").write_text(entry, encoding="utf-8")
    with pytest.raises(ValueError, match="place in the paper"):
        claims.facts("x", "quantity")
