"""What a run is asked for: experiments and seeds that a chapter has, what is left out, and what is still to do."""

import shutil
import subprocess

import pytest
from toy import ROOT, write_chapter

from helpers import chapters, declared
from helpers import rows as storage
from helpers import study as studies
from helpers.chapters import Refused
from helpers.selection import Selection, told

CHAPTER = """
import os
import torch
from helpers.study import Study
study = Study("toy", profile, device="cpu", record=record, seeds=seeds)
def measure(s, data, *, seed):
    with open(f"{FOLDER}/log", "a") as file:
        file.write(f"{s['name']} {seed}\\n")
    if s["name"] == "c" and os.path.exists(f"{FOLDER}/fault"):
        raise ValueError("a fault")
    return {"value": seed / 10}
def run(name, seeds):
    return study.run(name, measure, data=lambda s: {}, **{p: {"seeds": seeds, "name": name} for p in ("smoke", "cpu", "paper")})
"""
CELLS = ("a = run('a', 2)", "largest = a.rows.value.max()", "b = run('b', 3)", "print(largest, len(b.rows))", "c = run('c', 2)")


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book with one chapter of three experiments, a, b and c; its helpers are this tree's."""
    shutil.copytree(ROOT / "helpers", tmp_path / "helpers", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    for module in (chapters, declared):
        monkeypatch.setattr(module, "BOOK", tmp_path / "book")
        monkeypatch.setattr(module, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(declared, "ROOT", tmp_path)
    monkeypatch.setattr("helpers.kernels.ROOT", tmp_path)  # the kernel's own helpers, with results beside them
    monkeypatch.setenv("BOOK_COMMIT", "toy")
    monkeypatch.delenv("BOOK_RESULTS", raising=False)
    parameters = "profile = 'report'\nseeds = None\nrecord = False"
    return write_chapter(tmp_path / "book/01_toy.ipynb", f"FOLDER = {str(tmp_path)!r}" + CHAPTER, *CELLS, parameters=parameters)


def computed(book):
    log = book.parent.parent / "log"
    return log.read_text(encoding="utf-8").split("\n")[:-1] if log.exists() else []


def run(book, asked, **parameters):
    output = book.parent.parent / "out.ipynb"
    chapters.execute(book, output, {"profile": "smoke", **parameters}, asked=asked)
    return output.read_text(encoding="utf-8")


def test_a_chapter_says_what_it_declares_without_computing_and_once(book, capsys):
    found = declared.declared(book)
    assert list(found) == ["a", "b", "c"] and not computed(book)
    assert [args["seed"] for args in found["b"]["cpu"].values()] == [0, 1, 2]
    assert "01_toy: reading what it declares" in capsys.readouterr().out
    assert declared.declared(book) == found and not capsys.readouterr().out
    book.write_text(book.read_text(encoding="utf-8").replace("run('c', 2)", "run('c', 4)"), encoding="utf-8")
    assert len(declared.declared(book)["c"]["cpu"]) == 4, "its code changed"


def test_what_is_asked_for_is_computed_and_nothing_else(book):
    text = run(book, frozenset({"b"}))
    assert computed(book) == ["b 0", "b 1", "b 2"]
    assert "left out: MissingRows" in text and "was not asked to compute" in text
    cells = text.split('"cell_type": "code"')
    assert '"execution_count": null' in cells[-1], "the chapter ends after the last that was asked for"


def test_stored_rows_of_the_others_are_shown(book):
    run(book, None, record=True)
    assert len(computed(book)) == 7
    text = run(book, frozenset({"c"}))
    assert computed(book)[7:] == ["c 0", "c 1"] and "0.1 3\\n" in text and "left out" not in text


def test_a_fault_of_what_was_asked_for_ends_the_chapter(book):
    (book.parent.parent / "fault").touch()
    with pytest.raises(Refused, match="01_toy stopped with ValueError: a fault"):
        run(book, frozenset({"b", "c"}))


def test_what_was_asked_for_and_not_reached_is_no_success(book):
    text = book.read_text(encoding="utf-8").replace("largest = a.rows.value.max()", "1 / 0")
    book.write_text(text.replace("b = run('b', 3)", "b = run('b', 3 if largest else 1)"), encoding="utf-8")
    with pytest.raises(Refused, match="01_toy: b was not reached: ZeroDivisionError"):
        run(book, frozenset({"b"}))


def test_what_no_chapter_has_is_refused_and_what_is_left_out_is_named(book, capsys):
    with pytest.raises(Refused, match="no experiment d in these chapters; there are: 01_toy: a, b, c"):
        declared.picked([book], "smoke", "a,d", None)
    with pytest.raises(Refused, match=r"has the seeds 5-6 at smoke; there are: a: 0-1; b: 0-2"):
        declared.picked([book], "smoke", "a,b", [5, 6])
    with pytest.raises(Refused, match=r"has the seeds 2 at smoke; there are: a: 0-1; c: 0-1"):
        declared.picked([book], "smoke", "a,c", [0, 2])
    with pytest.raises(Refused, match="no experiment ''"):
        declared.picked([book], "smoke", ",", None)
    capsys.readouterr()
    assert declared.picked([book], "smoke", None, [2]) == {book: frozenset({"b"})}
    assert capsys.readouterr().out == "left out: 01_toy a, 01_toy c\n"
    assert declared.picked([book], "smoke", None, None) == {book: None}


@pytest.mark.long
def test_what_is_to_do_is_what_neither_folder_has(book, tmp_path, monkeypatch):
    assert declared.missing(book, "smoke", None, None).keys() == {"a", "b", "c"}
    run(book, None, record=True, seeds="0-1")
    monkeypatch.setenv("BOOK_RESULTS", str(tmp_path / "elsewhere"))
    lines = list(declared.todo({book: None}, ["smoke"]))
    assert lines == ["# 1 row, about 0 min", "PROFILE=smoke CHAPTERS=01_toy EXPERIMENTS=b SEEDS=2"]
    run(book, frozenset({"b"}), record=True)
    assert len(storage.read(tmp_path / "elsewhere/results/toy/smoke/b.jsonl")) == 1
    assert not list(declared.todo({book: None}, ["smoke"]))
    assert list(declared.todo({book: None}, ["paper"]))[0] == "# 2 rows, no row to go by"


@pytest.mark.parametrize(("seeds", "words"), [([0, 1, 2], "0-2"), ([0, 2, 3], "0,2-3"), ([5], "5"), ([], "")])
def test_seeds_are_written_as_make_takes_them(seeds, words):
    assert declared.in_words(seeds) == words


def test_a_selection_of_names_and_seeds():
    assert Selection.of(None, None).has("a", range(2))
    assert Selection.of(" a, b,", None).names == {"a", "b"} and not Selection.of("", None).has("a", range(2))
    assert Selection.of(None, [3, 1]).of_seeds(range(4)) == [3, 1] and not Selection.of("a", [4]).has("a", range(4))


def test_an_unfinished_event_is_passed_over(tmp_path):
    (tmp_path / "events").write_text('{"kind": "done", "name": "a"}\n{"kind": "do', encoding="utf-8")
    assert [event["name"] for event in told(tmp_path / "events", "done")] == ["a"] and not told(tmp_path / "none", "done")


def test_a_study_takes_the_selection_from_the_environment(monkeypatch):
    monkeypatch.setenv("BOOK_EXPERIMENTS", "a")
    assert studies.Study("toy", "smoke").selection.names == {"a"} and studies.Study("toy").selection.names is None


def test_make_merge_wants_a_folder():
    done = subprocess.run(["make", "merge"], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode != 0 and "make merge FROM=folder" in done.stdout
