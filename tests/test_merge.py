"""A merge adds what the book lacks, changes nothing that it has unless told to, and names what differs or cannot be believed."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from helpers import incoming, merge, rows
from helpers.rows import ROOT
from helpers.scratch import locked

PAPER = "huang2015"


def row(seed=0, run="t", acc=0.5, digest="d0", profile="smoke", settings=None, version=1, code="c0", args=None, **metrics):
    settings, args = settings or {"epochs": 1}, {"method": "LWA", "seed": seed, **(args or {})}
    return {
        "run": run,
        "key": rows.key_of(run, args, settings, version),
        "args": args,
        "settings": settings,
        "version": version,
        "metrics": {"acc": acc, **metrics},
        "profile": profile,
        "seconds": 1.0,
        "utc": "2024-01-01 00:00:00",
        "device": "cpu",
        "versions": {"torch": "2"},
        "commit": "abc",
        "data": {"test": {"name": "digits/test", "size": 100, "digest": digest}},
        "networks": {},
        "code": code,
    }


def bits(right=50, of=100):
    return np.arange(of) < right


class Place:
    """A folder of results in a test."""

    def __init__(self, root: Path):
        self.root, self.results = root, root / "results"
        self.results.mkdir(parents=True)

    def path(self, run="t", profile="smoke", paper=PAPER) -> Path:
        return self.results / paper / profile / f"{run}.jsonl"

    def add(self, *some: dict, arrays=None, paper=PAPER, put=rows.append):
        for r in some:
            put(self.path(r["run"], r["profile"], paper), r, arrays)
        return self

    def read(self, **where) -> list[dict]:
        return list(rows.read(self.path(**where)).values())

    def arrays(self, r: dict) -> dict:
        beside = rows.arrays_path(self.path(r["run"], r["profile"]), r)
        return rows.load_arrays(beside) if beside.exists() else {}

    def content(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.results)): p.read_bytes() for p in sorted(self.results.rglob("*")) if p.is_file()}


@pytest.fixture
def here(tmp_path):
    place = Place(tmp_path / "book")
    for paper in (PAPER, "picot2019"):
        (place.results / paper).mkdir()
    return place


@pytest.fixture
def there(tmp_path):
    return Place(tmp_path / "elsewhere")


def merged(there, here, **options):
    """What a merge returns, and its lines."""
    lines = []
    return merge.merge(there.root, here.results, say=lines.append, **options), lines


def counts(result):
    return {outcome: n for outcome, n in result.counts.items() if n}


# what is added and what stays


def test_rows_that_the_book_lacks_are_added_with_their_arrays(there, here):
    there.add(*map(row, range(3)), arrays={"right: acc": bits(), "z": np.ones((2, 3), np.float32)})
    there.add(row(run="u", profile="cpu"), paper="picot2019")
    (there.root / "networks").mkdir()
    (there.path().parent / "notes.txt").write_text("not a row", encoding="utf-8")
    before = there.content()
    result, lines = merged(there, here)
    assert lines == ["huang2015 t (smoke): 3 added", "picot2019 u (cpu): 1 added"]
    assert result.good and result.papers == ("huang2015", "picot2019") and counts(result) == {"added": 4}
    assert here.read() == there.read() and here.read(run="u", profile="cpu", paper="picot2019")
    for r in here.read():
        assert np.array_equal(here.arrays(r)["right: acc"], bits()) and here.arrays(r)["z"].shape == (2, 3)
    assert there.content() == before and here.content() == {k: v for k, v in before.items() if "notes" not in k}


def test_merging_twice_changes_no_byte(there, here):
    there.add(*map(row, range(3)), arrays={"right: acc": bits()}).add(row(run="u"))
    merged(there, here)
    before = here.content()
    result, lines = merged(there, here)
    assert here.content() == before and counts(result) == {"the same": 4} and result.papers == ()
    assert lines[0] == "huang2015 t (smoke): 3 the same"


def test_a_results_folder_may_be_named_itself(there, here):
    there.add(row())
    assert merge.merge(there.results, here.results, say=lambda _: None).counts["added"] == 1


def test_a_row_that_came_out_again_stays_as_the_book_has_it(there, here):
    here.add(row(acc=0.50, size=100.0), arrays={"right: acc": bits(50)})
    there.add(row(acc=0.52, size=102.0, code="c1"), arrays={"right: acc": bits(52)}).add(row(1), arrays=RIGHT)
    before = here.path().read_bytes()
    result, lines = merged(there, here)
    assert lines == ["huang2015 t (smoke): 1 added, 1 the same"] and result.good
    assert here.path().read_bytes().startswith(before) and here.arrays(row())["right: acc"].sum() == 50


RIGHT, OLD = {"right: acc": bits()}, {"acc": 0.5, "rate": 0.5, "size": 100.0}


@pytest.mark.parametrize(
    ("metrics", "arrays", "why"),
    [
        (OLD | {"rate": 0.54}, RIGHT, "rate is 0.5 here, 0.54 there"),
        (OLD | {"size": 104.0}, RIGHT, "size is 100.0 here, 104.0 there"),
        (OLD | {"more": 1}, RIGHT, "metric 'more' is only there"),
        ({"acc": 0.5, "rate": 0.5}, RIGHT, "metric 'size' is only here"),
        (OLD, {"right: acc": np.roll(bits(), 2)}, "array 'right: acc' differs for 4 of 100 images"),
        (OLD, {"right: acc": bits(100, 200)}, "array 'right: acc' is bool (100,) here, bool (200,) there"),
        (OLD, {}, "array 'right: acc' is only here"),
        (OLD, RIGHT | {"z": np.ones(2)}, "array 'z' is only there"),
        (
            {"acc": 0.5, "size": 1.0, "a": 1, "b": 2},
            RIGHT,
            "size is 100.0 here, 1.0 there; metric 'rate' is only here; metric 'a' is only there; and 1 more",
        ),
    ],
)
def test_a_row_that_differs_is_named_and_the_others_are_merged(there, here, metrics, arrays, why):
    here.add(row() | {"metrics": OLD}, arrays=RIGHT)
    there.add(row() | {"metrics": metrics}, arrays=arrays).add(row(1, run="u"), row(2, code="c2"))
    before = here.content()
    result, lines = merged(there, here)
    assert lines == ["huang2015 t (smoke): 1 added, 1 different", f"  t LWA 0, different: {why}", "huang2015 u (smoke): 1 added"]
    (item,) = result.of("different")
    assert not result.good and (item.paper, item.profile, item.run, item.args, item.why) == (PAPER, "smoke", "t", "LWA 0", why)
    assert here.path().read_bytes().startswith(before.pop("huang2015/smoke/t.jsonl"))
    assert before.items() <= here.content().items()


def test_values_that_make_figures_are_not_compared_and_an_auroc_stands_for_its_scores(there, here):
    inside, outside = np.arange(2, 10, dtype=np.float32), np.arange(1, 9, dtype=np.float32)
    metrics = {"A": 0.6171875, "B": 0.6171875}
    full = {f"scores: {m}, {side}": v for m in "AB" for side, v in (("inside", inside), ("outside", outside))}
    shared = full | {"scores: B, inside": np.array("scores: A, inside")}
    here.add(row(**metrics), arrays=shared | {"projection": np.ones((3, 3))})
    there.add(row(**metrics), arrays={k: 7 * v for k, v in full.items()} | {"projection": -np.ones((3, 3))})
    assert counts(merged(there, here)[0]) == {"the same": 1}


# what is replaced


@pytest.mark.parametrize("name", ["t", "huang2015/t", "huang2015/smoke/t"])
def test_a_run_that_is_named_is_taken_as_it_is_there(there, here, name):
    here.add(row(0), row(1), row(7), row(0, run="u"), arrays=RIGHT)
    there.add(row(0, acc=0.9), arrays={"right: acc": bits(90)}).add(row(1, acc=0.52, code="c1")).add(
        row(0, run="u", acc=0.52, code="x")
    )
    result, lines = merged(there, here, replace={name})
    assert lines[0] == "huang2015 t (smoke): 2 replaced" and result.papers == (PAPER,)
    assert "1 different" in lines[1], "the array of the other run is missing there"
    assert [r["metrics"]["acc"] for r in here.read()] == [0.9, 0.52, 0.5] and here.read(run="u") == [row(0, run="u")]
    first, second, other = here.read()
    assert (
        here.arrays(first)["right: acc"].sum() == 90 and not here.arrays(second) and here.arrays(other)["right: acc"].sum() == 50
    )
    before = here.content()
    again, lines = merged(there, here, replace={name})
    assert here.content() == before and lines[0] == "huang2015 t (smoke): 2 the same"


def test_rows_that_were_replaced_where_they_were_made_come_with_their_arrays(there, here):
    there.add(row(0), row(1), arrays=RIGHT)
    there.add(row(0, acc=0.9), put=rows.replace, arrays={"right: acc": bits(90)})
    there.add(row(1, acc=0.6, code="c1"), put=rows.replace)
    assert [r["arrays"] == "none" for r in there.read()] == [False, True]
    assert counts(merged(there, here)[0]) == {"added": 2}
    assert [here.arrays(r).get("right: acc", np.zeros(0)).sum() for r in here.read()] == [90, 0]
    assert [r["metrics"]["acc"] for r in here.read()] == [0.9, 0.6]


def test_a_run_to_replace_that_is_not_there_or_is_of_two_papers_is_an_error(there, here):
    there.add(row()).add(row(), paper="picot2019")
    for name, words in (("u", "there is no run 'u' to take; there are: huang2015/t, picot2019/t"), ("t", "such as huang2015/t")):
        with pytest.raises(ValueError, match=words):
            merged(there, here, replace=[name])
    assert here.content() == {}


# other data


def test_rows_that_were_measured_on_other_data_are_refused(there, here):
    here.add(row(0), row(1, settings={"epochs": 2}, digest="d2"))
    there.add(row(1, digest="d1"), row(0, digest="d1"), row(2), row(3, settings={"epochs": 2}, digest="d2"))
    there.add(row(4, version=2, digest="d1"))
    result, lines = merged(there, here)
    assert counts(result) == {"added": 3, "refused": 2} and not result.good
    why = "refused: it was measured on another version of digits/test, as test, than the book's rows (d1, not d0): they cannot"
    assert lines[1].startswith(f"  t LWA 1 and 1 more, {why}")
    assert [r["args"]["seed"] for r in here.read()] == [0, 1, 2, 3, 4]
    assert here.read()[0] == row(0)


def test_rows_that_do_not_agree_with_each_other_are_refused_where_the_book_has_none(there, here):
    there.add(row(0), row(1, digest="d1"), row(2, version=2))
    result, lines = merged(there, here)
    assert counts(result) == {"added": 1, "refused": 2} and "than another row of its file (d1, not d0)" in "".join(lines)


def test_a_run_is_replaced_by_one_on_other_data_only_where_no_row_of_the_old_data_stays(there, here):
    here.add(row(0), row(1))
    there.add(row(0, digest="d1"))
    assert counts(merged(there, here, replace={"t"})[0]) == {"refused": 1}
    there.add(row(1, digest="d1"))
    assert counts(merged(there, here, replace={"t"})[0]) == {"replaced": 2}
    assert here.read() == there.read()


# what cannot be believed


def edited(path, change):
    """Change the second line of a file of rows as somebody with an editor would."""
    lines = path.read_text(encoding="utf-8").splitlines()
    r = json.loads(lines[1])
    change(r)
    path.write_text("\n".join([lines[0], json.dumps(r), *lines[2:]]) + "\n", encoding="utf-8")


def moved(path, name):
    path.rename(path.with_name(name))


def linked(path):
    path.rename(path.parents[2] / "t.jsonl")
    path.symlink_to(path.parents[2] / "t.jsonl")


def linked_folder(path):
    shutil.move(path.parent, path.parents[3] / "smoke")
    path.parent.symlink_to(path.parents[3] / "smoke")


def pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "line 2 is not JSON": lambda p: p.write_bytes(b"<<<<<<< HEAD\n".join(p.read_bytes().splitlines(keepends=True))),
    "line 2 is no row of this book": lambda p: p.write_bytes(b"[]\n".join(p.read_bytes().splitlines(keepends=True))),
    "its key does not belong": lambda p: edited(p, lambda r: r.update(version=2)),
    "line 3 has the same key": lambda p: p.write_bytes(p.read_bytes() + p.read_bytes().splitlines(keepends=True)[0]),
    "its metrics are not all finite numbers": lambda p: edited(p, lambda r: r["metrics"].update(acc=float("nan"))),
    "metrics are not all finite": lambda p: edited(p, lambda r: r["metrics"].update(acc="0.5")),
    "are not all finite numbers": lambda p: edited(p, lambda r: r["metrics"].update(acc=10**400)),
    "its seconds is no number": lambda p: edited(p, lambda r: r.update(seconds="1")),
    "its data have no names and digests": lambda p: edited(p, lambda r: r["data"].update(test=["digits"])),
    "holds what is no number": lambda p: edited(p, lambda r: r.update(more=float("inf"))),
    "of run 't' at cpu: put it into that file": lambda p: edited(p, lambda r: r.update(profile="cpu")),
    "of run 't' at smoke: put it into that file": lambda p: moved(p, "u.jsonl"),
    "a run are named by letters": lambda p: moved(p, "a b.jsonl"),
    "there is no profile 'tiny'; there are: paper, cpu, smoke": lambda p: p.parent.rename(p.parents[1] / "tiny"),
    "the book has no paper 'new2030'; it has: huang2015, picot2019": lambda p: p.parents[1].rename(p.parents[2] / "new2030"),
    "t.jsonl is a link, or no plain file": linked,
    "smoke is a link": linked_folder,
    "or no plain file: copy": pipe,
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_file_is_named_and_refused_and_the_others_are_merged(there, here, words):
    there.add(row(0), row(1)).add(row(0, run="z"), paper="picot2019")
    DAMAGES[words](there.path())
    result, lines = merged(there, here)
    (item,) = result.of("refused")
    assert words in item.why and str(there.root) in item.why and item.args == "" and not result.good
    assert [line for line in lines if "refused" in line] == [f"{item.paper} {item.run} ({item.profile}): refused: {item.why}"]
    assert lines[-1] == "picot2019 z (smoke): 1 added" and [*here.content()] == ["picot2019/smoke/z.jsonl"]


def test_a_paper_that_is_new_can_be_named(there, here):
    there.add(row(), paper="new2030")
    assert merged(there, here, papers=["new2030"])[0].papers == ("new2030",)


def beside(there, seed=1):
    return rows.arrays_path(there.path(), there.read()[seed])


def swapped(path):
    rows.save_arrays(path, {"right: acc": bits(70)})


def evil(path):
    np.savez(path, **{"right: acc": np.array([print], dtype=object)})


def nan(path):
    np.savez(path, **{"right: acc": bits(), "z": np.array([np.nan])})


def dangling(path):
    np.savez(path, **{"right: acc": bits(), "scores: auc, inside": np.array("gone"), "scores: auc, outside": np.ones(2)})


ARRAY_DAMAGES = {
    "is missing or damaged": lambda p: p.write_bytes(p.read_bytes()[:-40]),
    "damaged (Object arrays cannot be loaded": evil,
    "'z' holds NaN or infinity": nan,
    "it is of another row: copy both again": swapped,
    "holds what cannot be stored ('gone')": dangling,
    "is a link, or no plain file": lambda p: p.rename(p.with_suffix(".old")) and p.symlink_to(p.with_suffix(".old")),
    "its arrays were left behind ('right: acc')": Path.unlink,
}


@pytest.mark.parametrize("words", ARRAY_DAMAGES)
def test_a_row_with_damaged_arrays_is_refused_and_the_others_are_merged(there, here, words):
    there.add(row(0, auc=0.5), row(1, auc=0.5), row(2, auc=0.5), arrays=RIGHT)
    ARRAY_DAMAGES[words](beside(there))
    result, lines = merged(there, here)
    (item,) = result.of("refused")
    assert words in item.why and item.args == "LWA 1" and lines[0] == "huang2015 t (smoke): 2 added, 1 refused"
    assert [r["args"]["seed"] for r in here.read()] == [0, 2] and not result.good


@pytest.mark.parametrize("change", [Path.unlink, lambda p: rows.save_arrays(p, RIGHT)])
def test_arrays_that_a_row_names_have_to_be_those(there, here, change):
    there.add(row(0), arrays=RIGHT).add(row(0, acc=0.9), put=rows.replace, arrays={"right: acc": bits(90), "z": np.ones(1)})
    change(beside(there, 0))
    (item,) = merged(there, here)[0].of("refused")
    assert "missing or damaged" in item.why or "is not what was stored with its row" in item.why
    assert here.content() == {}


def test_rows_that_were_copied_without_their_arrays_are_told_by_other_rows_of_their_code(there, here):
    here.add(row(0, settings={"epochs": 9}), arrays=RIGHT)
    there.add(
        row(0, profile="cpu"), row(1, profile="cpu", code="older"), row(2, profile="cpu", code="c0") | {"metrics": {"b": 1}}
    )
    result, _ = merged(there, here)
    assert counts(result) == {"added": 2, "refused": 1} and result.of("refused")[0].args == "LWA 0"


def test_an_unfinished_last_line_is_passed_over_with_one_line(there, here):
    there.add(row(0), row(1))
    there.path().write_bytes(there.path().read_bytes()[:-20])
    result, lines = merged(there, here)
    assert result.good and len(lines) == 2 and "its last line is unfinished" in lines[0] and here.read() == [row(0)]


def test_a_file_of_the_book_that_is_damaged_is_let_be(there, here):
    here.add(row(0), row(1), arrays=RIGHT).add(row(0, run="u"), arrays=RIGHT)
    there.add(row(0, run="u"), row(2), row(3), arrays=RIGHT)
    here.path().write_text("<<<<<<< HEAD\n", encoding="utf-8")
    rows.arrays_path(here.path(run="u"), row(run="u")).write_bytes(b"PK")
    before = here.content()
    result, lines = merged(there, here)
    assert counts(result) == {"refused": 3} and here.content() == before
    assert "t LWA 2 and 1 more, refused: the book's own file cannot be read" in lines[1]
    assert "u LWA 0, refused: the arrays of the book's own row cannot be read" in lines[3]
    assert counts(merged(there, here, replace={"u"})[0]) == {"replaced": 1, "refused": 2}, "theirs can be taken"
    assert here.arrays(here.read(run="u")[0])["right: acc"].sum() == 50


def empty(there):
    shutil.rmtree(there.results)


def foreign(there):
    empty(there)
    (there.root / "a/b").mkdir(parents=True)
    (there.root / "a/b/c.txt").write_text("hello", encoding="utf-8")


def a_file(there):
    shutil.rmtree(there.root)
    there.root.write_text("hello", encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (empty, "there are no rows in"),
        (lambda there: None, "there are no rows in"),
        (foreign, "there are no rows in"),
        (a_file, "there is no folder"),
        (lambda there: shutil.rmtree(there.root), "there is no folder"),
    ],
)
def test_a_folder_without_rows_is_an_error_that_says_which_is_wanted(there, here, change, words):
    here.add(row())
    change(there)
    before = here.content()
    with pytest.raises(ValueError, match=f"{words} .*elsewhere: name a folder that BOOK_RESULTS named"):
        merged(there, here)
    assert here.content() == before and not (here.root / "_build").exists()


def test_the_book_is_not_merged_into_itself(here, tmp_path):
    here.add(row())
    (tmp_path / "link").symlink_to(here.root)
    for source in (here.root, here.results, tmp_path / "link", here.results / ".." / "results"):
        with pytest.raises(ValueError, match="holds the very results"):
            merge.merge(source, here.results)


# several processes


def test_what_changes_between_check_and_merge_is_refused(there, here):
    there.add(row(0, run="a")).add(*map(row, range(4)), arrays=RIGHT)

    def say(line):
        lines.append(line)
        if line.startswith("huang2015 a"):  # every file was checked, this one was merged
            there.add(row(0, acc=0.9), put=rows.replace, arrays={"right: acc": bits(90)})
            rows.remove(there.path(), [row(1)["key"], row(2)["key"]])
            there.add(row(2, acc=0.8), arrays={"right: acc": bits(80)})

    lines = []
    result = merge.merge(there.root, here.results, say=say)
    assert counts(result) == {"added": 2, "refused": 3} and "merge again" in lines[-1]
    assert here.read() == [row(3)] and counts(merged(there, here)[0]) == {"added": 2, "the same": 2}


def test_a_row_that_changes_while_it_is_checked_is_read_again(there, here, monkeypatch):
    there.add(row(0), row(1), arrays=RIGHT)
    original, changes = incoming._with_arrays, [row(1, acc=0.9, code="c1")]

    def then_change(*arguments):
        if changes:
            there.add(changes.pop(), put=rows.replace)  # its old arrays are deleted
        return original(*arguments)

    monkeypatch.setattr(incoming, "_with_arrays", then_change)
    assert counts(merged(there, here)[0]) == {"added": 2}
    first, second = here.read()
    assert first == row(0) and second == row(1, acc=0.9, code="c1"), "not the old row without its arrays"
    shutil.rmtree(here.results / PAPER / "smoke")
    changes += [row(1, acc=n / 100) for n in range(100)]
    (item,) = merged(there, here)[0].of("refused")
    assert "is being changed all the time" in item.why and here.content() == {}


def test_a_row_that_somebody_else_added_meanwhile_is_compared(there, here):
    here.add(row(0, acc=0.9), row(1))
    for r, outcome in ((row(0), "different"), (row(1), "the same"), (row(2), "added")):
        assert merge._merge_row(incoming.Incoming(r), here.path(), {}, False)[0] == outcome
    assert [r["metrics"]["acc"] for r in here.read()] == [0.9, 0.5, 0.5]


def record(place, stop):
    """Record rows, and some of them a second time, until a file `stop` is there."""
    os.fsync = lambda _: None
    seed = 0
    while not stop.exists():
        right = seed % 90
        place.add(row(seed, acc=right / 100), arrays={"right: acc": bits(right)})
        if seed % 3 == 0:
            place.add(row(seed, acc=0.95), put=rows.replace, arrays={"right: acc": bits(95)})
        seed += 1
        time.sleep(0.01)


def test_a_source_that_is_being_recorded_gives_whole_rows(there, here, tmp_path):
    stop, seen = tmp_path / "stop", []
    recorder = multiprocessing.get_context("spawn").Process(target=record, args=(there, stop))
    recorder.start()
    try:
        while len(set(seen)) < 4 and recorder.is_alive():
            if there.path().exists():
                result, lines = merged(there, here, replace={"t"})
                assert not result.of("different") and all("changed" in item.why for item in result.of("refused")), lines
                seen.append(len(here.read()))
    finally:
        stop.touch()
        recorder.join()
    assert recorder.exitcode == 0 and merged(there, here, replace={"t"})[0].good
    assert [(r["args"], r["metrics"]) for r in here.read()] == [(r["args"], r["metrics"]) for r in there.read()]
    assert all(round(here.arrays(r)["right: acc"].mean(), 7) == r["metrics"]["acc"] for r in here.read())


def work(there, here):
    merge.merge(there.root, here.results, say=lambda _: None)


def test_kill_9_loses_nothing_and_the_same_call_goes_on(there, here):
    for seed in range(60):
        there.add(row(seed), arrays=RIGHT)
    killed = 0
    for wanted in (8, 25):
        child = multiprocessing.get_context("spawn").Process(target=work, args=(there, here))
        child.start()
        while child.is_alive() and not (here.path().exists() and here.path().read_bytes().count(b"\n") >= wanted):
            time.sleep(0.001)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        killed += child.exitcode == -signal.SIGKILL
        stored = rows.read(here.path())
        assert wanted <= len(stored) < 60 and list(stored.values()) == [row(seed) for seed in range(len(stored))]
        assert all(here.arrays(r)["right: acc"].sum() == 50 for r in stored.values())
    assert killed == 2
    result, _ = merged(there, here)
    assert result.good and result.counts["added"] + result.counts["the same"] == 60
    assert here.content() == there.content(), "not even a part of a file is left"


def one_of_two(there, here, pipe):
    pipe.send("ready")
    pipe.recv()
    result = merge.merge(there.root, here.results, say=lambda _: None)
    pipe.send(result.counts)


def test_two_merges_at_once_add_each_row_once_and_mix_no_data(here, tmp_path):
    one, other = Place(tmp_path / "one"), Place(tmp_path / "other")
    one.add(*(row(seed) for seed in range(60)), *(row(seed, run="u") for seed in range(3)))
    other.add(*(row(seed) for seed in range(30, 90)), *(row(seed, run="u", digest="d1") for seed in range(3, 6)))
    context, pipes = multiprocessing.get_context("spawn"), []
    for place in (one, other):
        mine, its = context.Pipe()
        context.Process(target=one_of_two, args=(place, here, its)).start()
        pipes.append(mine)
    assert [pipe.recv() for pipe in pipes] == ["ready", "ready"]
    for pipe in pipes:
        pipe.send("go")
    first, second = [pipe.recv() for pipe in pipes]
    assert first["added"] + second["added"] == 93 and first["the same"] + second["the same"] == 30
    assert first["refused"] + second["refused"] == 3 and len({r["data"]["test"]["digest"] for r in here.read(run="u")}) == 1
    assert sorted(r["args"]["seed"] for r in here.read()) == list(range(90))


def test_a_merge_waits_for_another_one(there, here):
    pytest.importorskip("fcntl")
    there.add(row())
    command = "import sys; from pathlib import Path; from helpers.merge import merge; merge(*map(Path, sys.argv[1:]))"
    arguments = [sys.executable, "-u", "-c", command, str(there.root), str(here.results)]
    with locked(here.root / "_build/merge.lock"):
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, encoding="utf-8", cwd=ROOT)
        assert process.stdout.readline() == "another merge is at work; this one waits for its end\n"
        assert here.content() == {}
    assert process.communicate(timeout=60)[0] == "huang2015 t (smoke): 1 added\n" and here.read() == [row()]
