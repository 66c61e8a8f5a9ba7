"""Studies: rows are computed once, survive a kill at any moment, and `report` shows the best profile that has enough of them."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import metrics
from helpers import rows as storage
from helpers import study as study_module
from helpers.data import Split
from helpers.metrics import Scores
from helpers.models import mlp
from helpers.rows import RowError
from helpers.study import MissingRows, Study

PROFILES = {"smoke": {"width": 2, "seeds": 2}, "cpu": {"width": 4, "seeds": 2}, "paper": {"width": 8, "seeds": 3}}
TOY = Split(
    "toy/test", torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0]), ("0", "1")
)


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book of its own: results/ and _build/ under tmp_path."""
    monkeypatch.delenv("BOOK_RESULTS", raising=False)
    monkeypatch.setattr(study_module, "ROOT", tmp_path)
    monkeypatch.setenv("BOOK_DATA", str(tmp_path / "data"))
    return tmp_path


def study(profile="smoke", **options):
    return Study("p", profile, device="cpu", **options)


def run(study, measure, **options):
    return study.run("t", measure, **{"over": {"method": ["a", "b"]}, "data": nothing, **PROFILES, **options})


def nothing(s):
    return {}


def toy(s):
    return {"test": TOY}


CALLS = []


def counted(s, data, *, method, seed):
    CALLS.append((method, seed))
    return {"value": s["width"] + seed, "drawn": torch.rand(()).item()}


@pytest.fixture
def calls():
    CALLS.clear()
    return CALLS


def test_a_row_is_computed_once_and_carries_its_provenance(book, calls):
    first, again = run(study(), counted, data=toy), run(study(), counted, data=toy)
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert first.rows.equals(again.rows) and first.rows.value.tolist() == [2, 2, 3, 3] and first.images("test") == 4
    row = json.loads((book / "_build/smoke/results/p/smoke/t.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert set(row) >= storage.FIELDS and row["settings"] == {"width": 2} and row["versions"]["torch"] == torch.__version__
    assert row["data"] == {"test": {"name": "toy/test", "size": 4, "digest": TOY.digest}} and row["code"] == first.code
    assert not (book / "results").exists()


def test_an_unknown_role_is_refused_with_the_valid_ones(book):
    with pytest.raises(KeyError, match="no split 'train'; it has: test"):
        run(study(), counted, data=toy).images("train")


def test_the_seed_decides_what_a_run_draws_from_any_generator_and_leaves_them_as_they_were(book):
    def draws(s, data, *, method, seed):
        return {"torch": torch.rand(()), "numpy": np.random.rand(), "python": random.random()}

    def state():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    def begin():
        torch.manual_seed(5), np.random.seed(5), random.seed(5)

    begin()
    expected = state()
    begin()
    rows = run(study(), draws).rows
    assert state() == expected
    for kind in ("torch", "numpy", "python"):
        by_seed = rows.groupby("seed")[kind].unique()
        assert [len(v) for v in by_seed] == [1, 1] and by_seed[0] != by_seed[1]


@pytest.mark.parametrize("change", [{"version": 2}, {"smoke": {"width": 3, "seeds": 2}}])
def test_other_settings_or_version_are_other_rows(book, calls, change):
    run(study(), counted)
    run(study(), counted, **change)
    assert len(calls) == 8


def test_seeds_pick_among_an_experiments_own_and_one_that_has_none_of_them_is_left_out(book, calls, capsys):
    assert run(study(seeds="1-7"), counted).rows.seed.tolist() == [1, 1] and calls == [("a", 1), ("b", 1)]
    assert "left out" not in capsys.readouterr().err
    left = run(study(seeds="10-14"), counted)
    assert not left.selected and len(calls) == 2
    assert "t is left out: it has the seeds 0 to 1, and none that was asked for" in capsys.readouterr().err
    with pytest.raises(MissingRows, match="was not asked to compute"):
        len(left.rows)


# what is edited while one works


def test_a_changed_run_is_made_again_outside_the_record_and_only_there(book):
    def measure(s, data, *, method, seed):
        return {"value": 1}

    def changed(s, data, *, method, seed):
        return {"value": 1, "my_attack": 2}

    assert "my_attack" not in run(study(), measure).rows
    assert run(study(), changed).rows.my_attack.tolist() == [2] * 4
    recorded = run(study(record=True), measure)
    again = run(study(record=True), changed)
    assert again.rows.equals(recorded.rows) and recorded.notes() == [] and again.notes() == ["code changed since"]


def test_a_mistyped_cell_costs_no_rows(book, calls):
    def mistyped(s, data, *, method, seed):
        return {"value": metod}  # noqa: F821

    before = run(study(), counted).rows
    with pytest.raises(NameError):
        run(study(), mistyped)
    assert run(study(), counted).rows.equals(before) and len(calls) == 4, "undone, nothing has to be made again"


def test_rows_are_replaced_one_by_one_when_the_new_ones_are_there(book):
    def half(s, data, *, method, seed):
        if seed:
            raise ArithmeticError("half done")
        return {"value": 7}

    def stored():
        rows = storage.read(book / "_build/smoke/results/p/smoke/t.jsonl").values()
        return [row["metrics"]["value"] for row in rows]

    run(study(), counted)
    with pytest.raises(ArithmeticError):
        run(study(), half)
    assert stored() == [7, 7, 3, 3], "made anew in their places; the others as they were"


def test_a_changed_data_function_makes_its_rows_anew(book, calls):
    run(study(), counted, data=toy)
    run(study(), counted, data=lambda s: {"test": TOY[:2]})
    assert len(calls) == 8


def test_a_changed_file_of_data_makes_its_rows_anew(book, calls):
    root = book / "data"
    root.mkdir()
    split = {"now": TOY}

    def from_file(s):
        return {"test": split["now"]}

    run(study(data_root=root), counted, data=from_file)
    (root / "toy.npz").write_bytes(b"x")
    time.sleep(1.1)  # rows write their time in seconds
    (root / "toy.npz").write_bytes(b"y")
    os.utime(root / "toy.npz", (0, 0))  # as a copy that keeps its time
    run(study(data_root=root), counted, data=from_file)
    assert len(calls) == 4, "a newer file with the same images changes nothing"
    split["now"] = replace(TOY, images=TOY.images / 2)
    assert run(study(data_root=root), counted, data=from_file).records[0]["data"]["test"]["digest"] == split["now"].digest
    assert len(calls) == 8


def test_rows_of_other_data_are_not_mixed_when_recording(book):
    def split(n):
        return lambda s: {"test": TOY[:n]}

    run(study(seeds="0", record=True), counted, data=split(3))
    before = (book / "results/p/smoke/t.jsonl").read_bytes()
    with pytest.raises(RowError, match="different versions of toy/test, as test"):
        run(study(record=True), counted, data=split(4))
    with pytest.raises(RowError, match="different versions of toy/more, as more"):
        run(study(record=True), counted, data=lambda s: {**split(3)(s), "more": replace(TOY, name="toy/more")})
    assert (book / "results/p/smoke/t.jsonl").read_bytes() == before, "nothing is computed that could not stand beside them"


# what a run may return


def measured(result):
    def measure(s, data, *, method, seed):
        return result

    return measure


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "must return .* not NoneType"),
        ({}, "must return .* not an empty dict"),
        ([1.0], "must return .* not list"),
        ({"value": "0.5"}, "value must be a number, not '0.5'"),
        ({"value": None}, "value must be a number, not None"),
        ({"value": 1j}, "value must be a number"),
        ({"words": np.array(["a", "b"])}, "words must hold numbers"),
        ({"things": np.array([{}, []], dtype=object)}, "things must hold numbers"),
        ({"points": np.array([np.nan])}, "points came out as NaN"),
        ({"accuracy": float("nan")}, "accuracy came out as NaN"),
        ({"accuracy": torch.tensor(torch.inf)}, "accuracy came out as NaN or infinite"),
        ({"AUROC": Scores(torch.tensor([1.0]), torch.tensor([np.nan]))}, "scores: AUROC, outside.* came out as NaN"),
        ({"method": 1.0}, "a metric cannot be named 'method'"),
        ({"seed": 1.0}, "a metric cannot be named 'seed'"),
        ({"key": 1.0}, "a metric cannot be named 'key'"),
        ({1: 1.0}, "a metric cannot be named 1"),
        ({"right: m": np.arange(3)}, "does not begin with 'right: ' or 'scores: '"),
        ({"scores: m, inside": np.arange(3.0)}, "does not begin with"),
        ({"mask": torch.ones(0, dtype=torch.bool)}, r"mask says which images were right: bool \(N,\)"),
        ({"mask": np.ones((1, 2), dtype=bool)}, r"mask says which images were right: bool \(N,\)"),
    ],
)
def test_a_run_that_returns_something_else_is_refused_and_nothing_is_stored(book, result, message):
    with pytest.raises((TypeError, ValueError), match=message):
        run(study(), measured(result))
    assert not (book / "_build/smoke/results/p/smoke/t.jsonl").exists()


def test_metrics_keep_their_significant_digits(book):
    result = {"tiny": 1.23456789e-9, "large": 123456789.0, "whole": 3, "yes": True, "length": torch.tensor([[0.5]])}
    rows = run(study(), measured(result)).rows
    assert rows.length[0] == 0.5
    assert rows.tiny[0] == 1.234568e-9 and rows.large[0] == 123456800.0 and rows.whole[0] == 3 and rows.yes[0] == 1


def test_arrays_stand_beside_their_row_with_all_their_digits(book):
    def measure(s, data, *, method, seed):
        return {"n": 1, "points": np.array([[1 / 3, 2e-6]]), "label": np.array([3 + seed]), "wide": np.array([1e300])}

    e = run(study(), measure)
    arrays = e.arrays(next(e.rows.itertuples()))
    assert arrays["points"].tolist() == [[np.float32(1 / 3), np.float32(2e-6)]] and arrays["wide"].tolist() == [1e300]
    assert arrays["label"].tolist() == [3] and e.arrays(method="b", seed=1)["label"].tolist() == [4]
    assert e.arrays()["label"].tolist() == [3], "of the first row"
    storage.arrays_path(e.path, e.records[0]).write_bytes(b"PK damaged")
    with pytest.raises(RowError, match="damaged"):
        e.arrays(next(e.rows.itertuples()))


def test_which_images_were_right_stands_beside_their_mean(book):
    def measure(s, data, *, method, seed):
        right = torch.tensor([method == "a", True, seed == 1, False])
        return {"acc": right, "same": right.double().mean(), "moved": right.numpy()[:3]}

    e = run(study(), measure, data=toy)
    assert e.rows.acc.tolist() == e.rows.same.tolist() == [0.5, 0.25, 0.75, 0.5]
    right = e.right("acc", method="a")
    assert {seed: bits.tolist() for seed, bits in right.images.items()} == {
        0: [True, True, False, False],
        1: [True, True, True, False],
    }
    assert right.digest == TOY.digest
    difference = metrics.paired(right, e.right("acc", method="b"))
    assert {seed: d.tolist() for seed, d in difference.items()} == {0: [1, 0, 0, 0], 1: [1, 0, 0, 0]}
    assert metrics.paired(right, e.right("moved", method="b")) is None, "another number of images"
    assert metrics.paired(right, replace(e.right("acc", method="b"), digest="of other images")) is None
    with pytest.raises(ValueError, match="several rows of one seed"):
        e.right("acc")
    with pytest.raises(KeyError, match="no metric 'accc'; it has: .*acc"):
        e.right("accc", method="a")
    with pytest.raises(KeyError, match="no column widht; it has: method, seed"):
        e.where(widht=16)
    plain = run(study("cpu"), counted, data=toy)
    with pytest.raises(RowError, match="its run returned none"):
        plain.arrays()
    assert plain.right("value", method="a").images == {}, "rows without bits stay valid"


def test_an_auroc_comes_from_the_scores_that_are_stored(book):
    inside, outside = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), torch.tensor([0.2, 0.5 + 1e-12], dtype=torch.float64)
    e = run(study(), measured({"AUROC": Scores(inside, outside)}))
    arrays = e.arrays()
    sides = [arrays[f"scores: AUROC, {side}"] for side in ("inside", "outside")]
    assert all(side.dtype == np.float32 for side in sides)
    assert e.rows.AUROC[0] == pytest.approx(metrics.auroc(*sides)) == pytest.approx(3.5 / 6)


def test_scores_that_two_aurocs_share_are_stored_once_and_read_for_both(book):
    inside, outside = torch.rand(500), torch.rand(500)
    e = run(study(), measured({"before": Scores(inside, outside), "after": Scores(inside, -outside), "other": 1.0}))
    arrays = e.arrays()
    assert sum(a.dtype == np.float32 for a in arrays.values()) == 3 and len(arrays) == 4
    for metric in ("before", "after"):
        found = e.scores(metric, method="a")
        assert sorted(found) == [0, 1] and np.array_equal(found[0].inside, inside)
        assert metrics.auroc(found[0].inside, found[0].outside) == pytest.approx(e.rows[metric][0], abs=1e-6)
    assert e.scores("other", method="a") == {}, "a number has none"
    with pytest.raises(ValueError, match="several rows of one seed"):
        e.scores("before")


# declarations


@pytest.mark.parametrize("name", ["../t", "a/b", "", "a b", ".t"])
def test_a_name_that_is_no_files_name_is_refused(book, name):
    with pytest.raises(ValueError, match="a file's name"):
        study().run(name, counted, data=nothing, **PROFILES)
    with pytest.raises(ValueError, match="a folder's name"):
        Study(name)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"method": "abc"}, "must be a list"),
        ({"method": []}, "not empty"),
        ({"method": ["a", "b", "a"]}, "a value twice"),
        ({"seed": [1]}, "cannot be an argument"),
        ({"key": [1]}, "cannot be an argument"),
        ({"a b": [1]}, "cannot be an argument"),
        ({"method": [["a"], ["b"]]}, "must be words, numbers or None"),
        ({"method": [{"a": 1}]}, "must be words, numbers or None"),
    ],
)
def test_arguments_that_rows_could_not_be_told_apart_by_are_refused(book, over, message):
    with pytest.raises(ValueError, match=message):
        run(study(), counted, over=over)


def test_arguments_that_differ_by_their_sign_have_links_of_their_own(book):
    def measure(s, data, *, eps, seed):
        return {"value": eps}

    e = run(study(), measure, over={"eps": [-1, 1, -0.5, 0.5]})
    assert len({storage.group_of(row) for row in e.records}) == 4


@pytest.mark.parametrize("seeds", [None, 0, -1, "3", 1.5, True])
def test_settings_without_a_count_of_seeds_are_refused(book, seeds):
    with pytest.raises(ValueError, match='need "seeds"'):
        run(study(), counted, cpu={"width": 1, "seeds": seeds})


def test_settings_that_json_cannot_hold_are_refused_before_anything_is_computed(book, calls):
    with pytest.raises(TypeError):
        run(study(), counted, cpu={"f": print, "seeds": 1})
    assert not calls


def test_settings_are_needed_for_every_profile(book):
    with pytest.raises(ValueError, match="settings are needed for paper, cpu, smoke, not smoke, cpu"):
        study().run("t", counted, data=nothing, smoke=PROFILES["smoke"], cpu=PROFILES["cpu"])


def test_unknown_profile_is_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="report, smoke, cpu, paper"):
        Study("p", "gpu")


def test_a_cell_that_is_run_again_replaces_its_experiment_in_its_place(book):
    s = study()
    run(s, counted)
    s.run("u", counted, data=nothing, over={"method": ["a"]}, **PROFILES)
    run(s, counted)
    assert [e.name for e in s.experiments] == ["t", "u"]
    r = study(record=True)
    run(r, counted)
    with pytest.raises(ValueError, match="its rows would mix"):
        run(r, counted)


# what is shown


def record(profile, **options):
    return run(study(profile, record=True, **{k: options.pop(k) for k in ("seeds",) if k in options}), counted, **options)


def shown(**options):
    return run(study("report"), counted, **options)


def test_report_computes_nothing_and_shows_the_best_profile_of_which_two_seeds_are_whole(book, calls):
    record("smoke")
    assert shown().profile == "smoke"
    record("cpu", seeds="0")
    assert shown().profile == "smoke", "one seed of two"
    record("cpu")
    record("paper", seeds="0")
    calls.clear()
    best = shown()
    assert best.profile == "cpu" and best.rows.value.tolist() == [4, 4, 5, 5] and not calls and best.notes() == []
    record("paper", seeds="2")
    partly = shown()
    assert partly.profile == "paper" and partly.rows.seed.tolist() == [0, 0, 2, 2]
    assert partly.notes() == ["2 of 3 seeds"] and partly.status()["rows"] == "4 of 6" and partly.status()["seeds"] == 2
    record("paper")
    assert shown().notes() == []


def test_a_seed_of_which_a_row_is_missing_is_not_shown(book):
    record("cpu")
    path = book / "results/p/cpu/t.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    record("smoke")
    assert shown().profile == "smoke"


def test_one_seed_is_enough_where_no_more_is_wanted(book):
    one = {**PROFILES, "cpu": {"width": 4, "seeds": 1}}
    record("cpu", **one)
    assert shown(**one).profile == "cpu"


def test_a_page_keeps_its_numbers_while_better_rows_are_being_made(book):
    before = record("cpu").rows
    later = {
        "version": 2,
        "cpu": {"width": 5, "seeds": 4},
        "replaces": [{"version": 1, "cpu": PROFILES["cpu"], "why": "the noise had a seed of its own"}],
    }
    kept = shown(**later)
    assert kept.rows.equals(before) and kept.settings == PROFILES["cpu"]
    assert kept.notes() == ["by an earlier version: the noise had a seed of its own", "2 of 4 seeds"]
    assert shown(cpu={"width": 4, "seeds": 4}).rows.equals(before), "more seeds are wanted, and nothing else"
    record("cpu", seeds="0", **later)
    assert shown(**later).rows.equals(before), "one new seed is not enough"
    record("cpu", seeds="0-1", **later)
    new = shown(**later)
    assert new.settings["width"] == 5 and new.rows.value.tolist() == [5, 5, 6, 6] and new.notes() == ["2 of 4 seeds"]
    record("paper", version=1)
    assert shown(**later).profile == "paper", "a better profile comes before newer settings"


@pytest.mark.parametrize(
    ("earlier", "message"),
    [
        ({"version": 1}, "dicts of `why`, and of cpu, over, paper, smoke, version"),
        ({"why": "x", "versoin": 1}, "dicts of `why`"),
        ("version", "dicts of `why`"),
        ({"why": "no difference"}, "is what it has: give the version or settings that differ"),
        ({"why": "the same", "version": 2, "cpu": PROFILES["cpu"]}, "is what it has"),
    ],
)
def test_what_is_replaced_needs_a_reason_and_a_difference(book, earlier, message):
    with pytest.raises(ValueError, match=message):
        run(study(), counted, version=2, replaces=[earlier])


@pytest.mark.parametrize("version", ["2", 1.5, True, None])
def test_a_version_is_a_whole_number(book, version):
    with pytest.raises(ValueError, match="a whole number"):
        run(study(), counted, version=version)


@pytest.mark.parametrize("wrong", [{"data": {"test": TOY}}, {"data": TOY}, {"over": ["a"]}])
def test_what_is_no_function_or_no_dict_is_refused(book, wrong):
    with pytest.raises(TypeError, match="must be functions|must be a dict of lists"):
        run(study(), counted, **wrong)


def test_a_run_that_changes_its_settings_changes_no_key(book):
    def measure(s, data, *, method, seed):
        s["width"] = s["added"] = 99
        return {"value": s["width"]}

    e = run(study(), measure)
    assert e.settings == PROFILES["smoke"] and [row["settings"] for row in e.records] == [{"width": 2}] * 4


def test_report_without_rows_says_what_to_do(book):
    with pytest.raises(MissingRows, match="set profile=.smoke."):
        shown()


def test_an_experiment_that_is_not_asked_for_shows_the_committed_rows_and_computes_nothing(book, calls, monkeypatch):
    run(study(record=True), counted)
    monkeypatch.setenv("BOOK_EXPERIMENTS", "other, another")
    calls.clear()
    left = run(study(), counted)
    assert not left.selected and len(left.rows) == 4 and not calls and left.profile == "smoke"
    monkeypatch.setenv("BOOK_EXPERIMENTS", "other,t")
    assert run(study(), counted).selected and len(calls) == 4
    monkeypatch.setenv("BOOK_EXPERIMENTS", "")
    assert not run(study(), counted).selected, "set and empty, none is asked for"
    assert run(study("report"), counted).profile == "smoke", "at report it says nothing"


def test_a_record_is_read_from_both_folders_and_written_to_the_other_one(book, tmp_path, calls, monkeypatch):
    run(study(record=True, seeds="0"), counted)
    committed = (book / "results/p/smoke/t.jsonl").read_bytes()
    monkeypatch.setenv("BOOK_RESULTS", str(tmp_path / "elsewhere"))
    calls.clear()
    both = run(study(record=True), measured_with_an_array)
    assert both.rows.seed.tolist() == [0, 0, 1, 1] and {seed for _, seed in calls} == {1}
    assert (book / "results/p/smoke/t.jsonl").read_bytes() == committed
    assert len(storage.read(tmp_path / "elsewhere/results/p/smoke/t.jsonl")) == 2
    assert both.arrays(method="a", seed=1)["x"].tolist() == [1], "arrays lie beside their own row"


def measured_with_an_array(s, data, *, method, seed):
    return counted(s, data, method=method, seed=seed) | {"x": np.array([seed])}


def test_rows_hold_the_seconds_of_the_processor_and_the_number_of_threads(book):
    run(study(), counted)
    (row, *_) = storage.read(book / "_build/smoke/results/p/smoke/t.jsonl").values()
    assert row["cpu_seconds"] <= row["seconds"] + 1 and row["threads"] == torch.get_num_threads()


def test_book_results_moves_rows_and_networks(book, tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_RESULTS", str(tmp_path / "drive"))
    record("smoke")
    assert (tmp_path / "drive/results/p/smoke/t.jsonl").exists() and not (book / "results").exists()


# what tables and figures read


def test_a_template_writes_metrics_and_reads_them_as_a_tidy_table(book):
    template = "{attack} {eps:g}"

    def measure(s, data, *, method, seed):
        return {template.format(attack=a, eps=e): e + seed for a in ("fgsm", "pgd") for e in (0.1, 1.0)}

    e = run(study(), measure)
    tidy = e.long(template, attack=["pgd", "fgsm"], eps=[1.0])
    assert list(tidy) == ["method", "seed", "attack", "eps", "value"] and len(tidy) == 8
    assert tidy[(tidy.seed == 1) & (tidy.method == "b")].value.tolist() == [2.0, 2.0]
    assert list(e.long(template, "accuracy", attack=["pgd"], eps=[0.1]).accuracy) == [0.1, 0.1, 1.1, 1.1]
    with pytest.raises(KeyError, match="no metric 'pgd 0.2'"):
        e.long(template, attack=["pgd"], eps=[0.2])


def test_a_part_of_the_rows_keeps_its_links_and_provenance(book):
    e = run(study(), counted)
    assert e.where(method="b").rows.method.tolist() == ["b", "b"] and len(e.rows) == 4
    assert e.where(method=["a", "b"], seed=1).rows.seed.tolist() == [1, 1]
    assert e.view(e.rows.assign(case="x")).rows.case.tolist() == ["x"] * 4 and e.view(e.rows).records is e.records
    with pytest.raises(KeyError, match="no rows where"):
        e.where(method="c")


# networks


def network(s, *, seed):
    return mlp(4, (3,), 2)


def untrained(n, d, s, *, seed, checkpoint):
    return [{"loss": 0.0, "seconds": 1.25}]


def handle(study, train=untrained, data=TOY, build=network):
    return study.trained("net", build, train, settings={}, data=data, seed=0)


def test_an_opened_network_is_in_evaluation_mode_seeded_and_named_in_its_row(book):
    s = study()

    def measure(_, d, *, method, seed):
        opened = s.trained("net", network, untrained, settings={}, data=TOY, seed=seed).open()
        assert not any(m.training for m in opened.modules())
        again = s.trained("net", network, untrained, settings={}, data=TOY, seed=seed).open()
        assert all(torch.equal(a, b) for a, b in zip(opened.parameters(), again.parameters(), strict=True))
        return {"weight": opened[1].weight.sum()}

    e = run(s, measure)
    assert e.rows[e.rows.seed == 0].weight.nunique() == 1 and e.rows.weight.nunique() == 2
    names = [next(iter(row["networks"].items())) for row in e.records]
    assert [len(row["networks"]) for row in e.records] == [1] * 4 and names[0][0].startswith("net-0-")
    assert names[0][1] == {"seconds": 1.2, "commit": e.records[0]["commit"]}
    other = replace(TOY, images=TOY.images + 0.1)
    assert len({handle(s, data=d).path for d in (TOY, other)}) == 2


def test_what_a_run_draws_does_not_depend_on_whether_its_network_was_trained_or_loaded(book):
    def train(n, d, s, *, seed, checkpoint):
        torch.rand(100), np.random.rand(100), [random.random() for _ in range(100)]
        return [{"loss": 0.0, "seconds": 1.0}]

    s = study()

    def measure(_, d, *, method, seed):
        s.trained("net", network, train, settings={}, data=TOY, seed=seed).open()
        return {"torch": torch.rand(()), "numpy": np.random.rand(), "python": random.random()}

    rows = run(s, measure).rows  # of each seed the first row trains, the second loads
    assert all(rows.groupby("seed")[kind].nunique().eq(1).all() for kind in ("torch", "numpy", "python"))


def test_a_loaded_network_has_the_whole_history_of_its_training(book):
    def train(n, d, s, **_):
        return [{"loss": 1.0 / i, "seconds": 0.5, "clean": i / 10} for i in (1, 2, 3)]

    def changed(n, d, s, **_):
        return [{"loss": 1.0, "seconds": 0.5}]

    handles = [handle(study(), train) for _ in range(2)]
    for each in handles:
        each.open()
    assert handles[0].history == handles[1].history and len(handles[0].history) == 3
    other = handle(study(), changed)
    other.open()
    assert len(other.history) == 1, "a changed training is done again"


@pytest.mark.parametrize("mode", [{}, {"record": True}])
def test_other_code_trains_another_network_also_when_recording(book, mode):
    trained = []

    def train(n, d, s, **_):
        trained.append("one")
        return [{"loss": 0.0, "seconds": 0.5}]

    def other(n, d, s, **_):
        trained.append("other")
        return [{"loss": 0.0, "seconds": 0.5}]

    for each in (train, train, other, train):
        handle(study(**mode), each).open()
    assert trained == ["one", "other"]


def test_a_network_file_says_what_trained_it(book, monkeypatch):
    from safetensors import safe_open

    from helpers import provenance

    first = handle(study())
    first.open()
    with safe_open(first.path, "pt") as file:
        about = file.metadata()
    assert about["commit"] == provenance.commit() and about["code"] == first.code
    assert json.loads(about["versions"]) == provenance.versions() and json.loads(about["about"])["args"] == {"seed": 0}
    monkeypatch.setattr(provenance, "commit", lambda: "laterlaterla")
    s = study()
    handle(s).open()
    assert next(iter(s.opened.values()))["commit"] == about["commit"], "the commit that trained it, not the one that uses it"


@pytest.mark.parametrize("history", [None, [1.0], {"loss": 0.0}, [{"loss": 0.0}]])
def test_a_training_without_a_history_is_no_result(book, history):
    def train(n, d, s, **_):
        return history

    with pytest.raises(TypeError, match="must return a history"):
        handle(study(), train).open()


def test_layers_that_share_their_weights_are_stored_and_opened_again(book):
    def shared(s, *, seed):
        layer = torch.nn.Linear(4, 4)
        return torch.nn.Sequential(torch.nn.Flatten(), layer, torch.nn.ReLU(), layer, torch.nn.Linear(4, 2))

    first, second = (handle(study(), build=shared).open() for _ in range(2))
    assert torch.equal(first(TOY.images), second(TOY.images))


def test_arguments_never_leave_the_folder_of_the_networks(book):
    s = study()
    path = s.trained("net", network, untrained, settings={}, data=TOY, of="../../x", seed=0).path
    assert path.parent == s.networks


def test_a_row_names_the_networks_that_its_networks_and_its_data_came_from(book):
    s = study()

    def inner():
        return s.trained("inner", network, untrained, settings={}, data=TOY, seed=0)

    def train(n, d, settings, **_):
        inner().open()
        return untrained(n, d, settings, seed=0, checkpoint=None)

    def measure(_, d, *, method, seed):
        s.trained("outer", network, train, settings={}, data=TOY, seed=0).open()
        return {"value": 1}

    def data(_):
        s.trained("of the data", network, untrained, settings={}, data=TOY, seed=0).open()
        return {"test": TOY}

    e = run(s, measure, data=data)  # the first row trains, the others load
    assert all([name.split("-")[0] for name in row["networks"]] == ["of the data", "inner", "outer"] for row in e.records)


def test_a_network_that_cannot_be_written_is_one_clear_line(book, monkeypatch):
    s = study()
    s.networks.parent.mkdir(parents=True)
    s.networks.write_text("a file in the way", encoding="utf-8")
    with pytest.raises(RowError, match="could not write|cannot"):
        handle(s).open()


def test_a_network_joins_the_zoo_only_when_recording_and_not_over_a_better_one(book, tmp_path, monkeypatch):
    from helpers import models

    monkeypatch.setattr(models, "WEIGHTS", tmp_path / "weights")
    about = {"architecture": {"name": "mlp", "arguments": {"inputs": 4, "hidden": [3], "classes": 2}}}

    test = Split("toy/test", torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]), ("0", "1"))
    network = mlp(4, (3,), 2)

    def publish(profile, record):
        Study("p", profile, device="cpu", record=record).publish("p/net", network, test, about)
        return models.card("p/net")["profile"] if models.zoo() else None

    assert publish("smoke", False) is None
    assert publish("smoke", True) == "smoke" and publish("cpu", True) == "cpu"
    assert publish("smoke", True) == "cpu" and publish("cpu", True) == "cpu" and publish("paper", True) == "paper"
    assert models.card("p/net")["test images"] == ["toy/test", 3, test.digest]
    assert models.card("p/net")["clean accuracy"] == round(
        (network(test.images).argmax(1) == test.labels).double().mean().item(), 4
    )


def test_a_network_that_the_zoo_has_is_not_opened_to_be_published_again(book, tmp_path, monkeypatch):
    from helpers import models

    monkeypatch.setattr(models, "WEIGHTS", tmp_path / "weights")
    about = {"architecture": {"name": "mlp", "arguments": {"inputs": 4, "hidden": (3,), "classes": 2}}, "seed": 0}
    test, opened = Split("toy/test", torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]), ("0", "1")), []

    def publish(about, test=test):
        def network():
            opened.append(about)
            return mlp(4, (3,), 2)

        study = Study("p", "smoke", device="cpu", record=True)
        study.publish("p/net", network, test, about, lambda network, test: {"outputs": len(network(test.images)[0])})

    publish(about)
    publish(about)
    assert len(opened) == 1 and models.card("p/net")["outputs"] == 2 and "clean accuracy" not in models.card("p/net")
    publish({**about, "seed": 1})
    publish({**about, "seed": 1}, replace(test, images=1 - test.images))
    assert len(opened) == 3 and models.card("p/net")["seed"] == 1


SCRIPT = textwrap.dedent("""
    import sys, time
    import torch
    from helpers import study as study_module, training
    from helpers.data import Split
    from helpers.models import mlp
    from helpers.study import Study

    training.CHECKPOINT_SECONDS = 0
    root, = sys.argv[1:]

    def note(*words):
        with open(root + "/log", "a") as file:
            file.write(" ".join(map(str, words)) + "\\n")

    g = torch.Generator().manual_seed(0)
    data = Split("toy/train", torch.rand(40, 1, 2, 2, generator=g), torch.randint(0, 2, (40,), generator=g), ("0", "1"))
    study = Study("p", "smoke", device="cpu")

    def build(s, *, seed):
        return mlp(4, (3,), 2)

    def train(network, data, s, *, seed, checkpoint):
        note("train", seed)
        def after(epoch, _):
            note("epoch", seed, epoch)
            time.sleep(0.05)
        return training.fit(network, data, lambda m, x, y: torch.nn.functional.cross_entropy(m(x), y), epochs=s["epochs"], lr=0.1,
                            batch_size=10, seed=seed, checkpoint=checkpoint, after_epoch=after)

    def run(s, d, *, seed):
        network = study.trained("net", build, train, settings=s, data=data, seed=seed).open()
        note("measure", seed)
        time.sleep(0.4)
        note("measured", seed)
        return {"weight": sum(p.sum().item() for p in network.parameters())}

    p = {"epochs": 6, "seeds": 3}
    study.run("t", run, data=lambda s: {}, smoke=p, cpu=p, paper=p)
    note("done")
""")


def _start(folder, *, kill_after: str | None):
    """Run SCRIPT; SIGKILL it as soon as its log holds the line `kill_after`. Returns the log's lines."""
    log = folder / "log"
    environment = {**os.environ, "BOOK_RESULTS": str(folder), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder)], env=environment, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if kill_after and log.exists() and kill_after in log.read_text(encoding="utf-8").splitlines():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return log.read_text(encoding="utf-8").splitlines()
        time.sleep(0.01)
    assert process.wait(timeout=1) == 0, process.stderr.read()
    assert kill_after is None, "the process ended before it could be killed"
    return log.read_text(encoding="utf-8").splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("moment", ["epoch 1 3", "measure 1"])
def test_sigkill_loses_what_was_in_flight_and_nothing_else(tmp_path, moment):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    _start(tmp_path / "whole", kill_after=None)
    _start(tmp_path / "killed", kill_after=moment)
    log = Counter(_start(tmp_path / "killed", kill_after=None))
    # computed twice: at most the epoch, or the measurement, that was in flight; lost: nothing that was finished
    assert all(log[f"measured {seed}"] == 1 for seed in range(3)) and log["done"] == 1
    repeated = [line for line, n in log.items() if n > 1]
    epochs = [line for line in repeated if line.startswith("epoch")]
    assert len(epochs) <= 1 and all(log[line] == 2 for line in repeated)
    if moment == "measure 1":
        assert repeated == ["measure 1"]
    else:
        assert set(repeated) <= {"train 1", "epoch 1 3", "epoch 1 4"}
    # and what comes out is what an uninterrupted run gives, to the last digit
    values = [
        [
            json.loads(line)["metrics"]
            for line in (tmp_path / name / "results/p/smoke/t.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for name in ("whole", "killed")
    ]
    assert values[0] == values[1] and len(values[0]) == 3
    assert not list((tmp_path / "killed").rglob("*.part")) and not list((tmp_path / "killed").rglob("*.checkpoint"))


def test_a_damaged_network_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_RESULTS", str(tmp_path))
    data = Split("toy/train", torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64), ("0", "1"))
    handle = Study("p", "smoke", device="cpu").trained(
        "net",
        lambda s, *, seed: mlp(4, (3,), 2),
        lambda n, d, s, **_: [{"loss": 0.0, "seconds": 1.25}],
        settings={},
        data=data,
        seed=0,
    )
    handle.open()
    handle.path.write_bytes(handle.path.read_bytes()[:50])
    with pytest.raises(RowError, match="delete it to train the network again"):
        handle.open()
