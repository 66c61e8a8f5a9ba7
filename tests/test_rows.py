"""Rows on disk: a change is there whole or not at all, one writer at a time, and a file that is not what it should be is named
with its line."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from helpers import files, rows
from helpers.rows import ROOT, RowError


def row(seed=0, **metrics):
    settings = {"epochs": 1}
    return {
        "run": "t",
        "key": rows.key_of("t", {"seed": seed}, settings, 1),
        "args": {"seed": seed},
        "settings": settings,
        "version": 1,
        "metrics": metrics or {"acc": 0.5},
        "profile": "smoke",
        "seconds": 1.0,
        "utc": "",
        "device": "",
        "versions": {},
        "commit": "",
        "data": {},
        "networks": {},
    }


@pytest.fixture
def path(tmp_path):
    for seed in range(3):
        rows.append(tmp_path / "t.jsonl", row(seed))
    return tmp_path / "t.jsonl"


def test_rows_come_back_in_order(path):
    assert [r["args"]["seed"] for r in rows.read(path).values()] == [0, 1, 2]
    assert rows.read(path.with_name("none.jsonl")) == {}


def test_an_unfinished_last_line_is_left_out_with_a_notice_and_overwritten(path):
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.warns(UserWarning, match="unfinished"):
        assert len(rows.read(path)) == 2
    rows.append(path, row(2))
    assert [r["args"]["seed"] for r in rows.read(path).values()] == [0, 1, 2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"run": "t", "ke', "line 2 is not JSON"),
        ("<<<<<<< HEAD", "line 2 is not JSON"),
        ('{"loss": 0.1}', "line 2 is no row of this book: it lacks args"),
        ("[1, 2]", "line 2 is no row"),
        (json.dumps(row(9) | {"settings": {"epochs": 2}}), "line 2: its key does not belong"),
        (json.dumps(row(0)), "line 2 has the same key"),
    ],
)
def test_a_bad_line_is_an_error_that_names_file_and_line(path, line, message):
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n", encoding="utf-8")
    with pytest.raises(RowError, match=message) as error:
        rows.read(path)
    assert "t.jsonl" in str(error.value)


def test_a_full_disk_leaves_the_file_as_it_was(path, monkeypatch):
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rows.os, "fsync", full)
    with pytest.raises(RowError, match="No space left.*intact"):
        rows.append(path, row(3))
    assert path.read_bytes() == before


def test_a_row_with_a_nan_is_refused(path):
    with pytest.raises(ValueError, match="JSON"):
        rows.append(path, row(3, acc=float("nan")))
    assert len(rows.read(path)) == 3


@pytest.mark.parametrize("change", [{"run": "u"}, {"args": {"seed": 1}}, {"settings": {"epochs": 2}}, {"version": 2}])
def test_the_key_depends_on_everything_that_decides_a_row(change):
    of = {"run": "t", "args": {"seed": 0}, "settings": {"epochs": 1}, "version": 1}
    assert rows.key_of(**of) != rows.key_of(**{**of, **change})
    assert rows.key_of("t", {"a": 1, "b": 2}, {}, 1) == rows.key_of("t", {"b": 2, "a": 1}, {}, 1)


def came_back(folder, **arrays):
    rows.save_arrays(folder / "a.npz", arrays)
    return rows.load_arrays(folder / "a.npz")


@pytest.mark.parametrize(
    "array",
    [
        np.array([1e-4, 0.00012345678, 1 / 3, 1e30, -7.5], np.float32),
        np.array([0.1, 2.5], np.float16),
        np.array([1e300, 1.0]),
        np.array([1e-300, 1.0]),
        np.array([3e-45, 1.0]),
        np.arange(-3, 3),
        np.arange(256, dtype=np.uint8).reshape(16, 16),
        np.array([[True, False], [False, False]]),
        np.array(True),
        np.zeros((0, 3), np.float32),
        np.array(["FGS", "T-FGS, ε"]),
        *(np.arange(n) % 3 == 0 for n in (0, 1, 7, 8, 9, 10_001)),
    ],
    ids=str,
)
def test_arrays_come_back_as_they_were_given(tmp_path, array):
    back = came_back(tmp_path, a=array)["a"]
    assert back.dtype == array.dtype and back.shape == array.shape and np.array_equal(back, array)


def test_float64_is_stored_as_float32_with_all_of_its_digits(tmp_path):
    values = np.array([0, 0.00004567891234, 1234567.891, -1e-37, 3e38])
    back = came_back(tmp_path, a=values)["a"]
    assert back.dtype == np.float32 and np.array_equal(back, values.astype(np.float32))


def test_a_bool_array_takes_one_bit_an_image(tmp_path):
    bits = np.random.default_rng(0).random(80_000) < 0.5
    rows.save_arrays(tmp_path / "a.npz", {"Fixed, clipped": bits})
    assert (tmp_path / "a.npz").stat().st_size < 11_000


def test_any_text_may_name_an_array(tmp_path):
    names = [
        "file",
        "allow_pickle",
        "self",
        "a",
        "a.npy",
        "a.npy.npy",
        "",
        "Fixed, clipped/{eps:g}",
        "../up",
        "/",
        "ε = ∞",
        "x" * 300,
    ]
    back = came_back(tmp_path, **{name: np.array([n, n % 2 == 0]) for n, name in enumerate(names)})
    assert [back[name][0] for name in names] == list(range(len(names))) and list(back) == names
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1.0, np.nan]), "'a' holds NaN or infinity"),
        (np.array([np.inf], np.float32), "'a' holds NaN or infinity"),
        (np.ma.masked_array([1.0, np.nan], [False, True]), "'a' is a MaskedArray"),
        (np.array([print], object), "'a' is an array of object"),
        (np.array(["a", None], object), "'a' is an array of object"),
        (np.zeros(2, [("x", "f4")]), "'a' is an array of"),
        ([1, 2], "'a' is a list"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused_before_anything_is_written(tmp_path, array, message):
    for write in (rows.save_arrays, lambda path, arrays: rows.append(path.with_name("t.jsonl"), row(0), arrays)):
        with pytest.raises(ValueError, match=message):
            write(tmp_path / "a.npz", {"good": np.ones(2), "a": array})
    with pytest.raises(ValueError, match="cannot be named 'bits/a'"):
        rows.save_arrays(tmp_path / "a.npz", {"bits/a": np.ones(2)})
    assert not list(tmp_path.iterdir())


def test_equal_arrays_give_equal_files_and_nothing_is_unpickled(tmp_path):
    for name in "ab":
        rows.save_arrays(tmp_path / f"{name}.npz", {"x": np.arange(5) / 7, "n": np.arange(9) > 3})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    np.savez(tmp_path / "evil.npz", x=np.array([print], dtype=object))
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-40])
    for name in ("evil", "damaged", "none"):
        with pytest.raises(RowError, match="missing or damaged"):
            rows.load_arrays(tmp_path / f"{name}.npz")


def test_arrays_that_numpy_wrote_are_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **{"FGS: Naive CNN": np.arange(3), "x": np.ones((2, 3), np.float32)})
    back = rows.load_arrays(tmp_path / "a.npz")
    assert back["FGS: Naive CNN"].tolist() == [0, 1, 2] and back["x"].shape == (2, 3)


def test_an_anchor_is_a_name_that_every_browser_finds():
    assert (
        rows.anchor("LWA_Rep, 2nd layer") == "rows-LWA_Rep-2nd-layer"
        and rows.anchor("Goodfellow, ε = 0.05") == "rows-Goodfellow-ε-0-05"
    )
    assert rows.anchor(0.1, 5) == rows.anchor("0.1 5") == "rows-0-1-5"
    assert all(c.isalnum() or c in "-_" for c in rows.anchor("<a href='x'>", -1, "a/b"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((-1,), (1,)),
        ((-0.5,), (0.5,)),
        (("−2",), ("2",)),
        (("PGD",), ("PGD+",)),
        (("PGD-",), ("PGD+",)),
        (("a/b",), ("a b",)),
        (("ε < 1",), ("ε > 1",)),
        (("f(x)",), ("f x",)),
        (("*", "a"), ("", "a")),
        ((0.1, 5), (0, 1.5)),
        ((1.5, 2), (1, 5.2)),
        ((1e-05,), (1e05,)),
        (("a", -1), ("a", 1)),
    ],
)
def test_arguments_that_differ_by_a_sign_have_anchors_of_their_own(one, other):
    assert rows.anchor(*one) != rows.anchor(*other)


def test_the_groups_of_a_file_of_the_book_have_anchors_of_their_own_and_no_hash():
    for path in (ROOT / "results").glob("*/*/*.jsonl"):
        groups = {}
        for r in rows.read(path).values():
            mine = [v for k, v in r["args"].items() if k != "seed"]
            assert groups.setdefault(rows.group_of(r), mine) == mine, path
            assert rows.group_of(r) == rows.anchor(*(str(v).replace("%", "") for v in mine)), path


# one writer at a time


def made(seed, token, with_arrays=True):
    """A row with a number of its own, and arrays that hold the same number."""
    bits = np.arange(token % 50) % 2 == 0
    return row(seed, token=token, arrays=int(with_arrays)), {"token": np.array([token]), "bits": bits} if with_arrays else None


def check(path):
    """Every row has the arrays that were made with it. Returns {seed: token}."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of an unfinished last line
        stored = rows.read(path)
    for r in stored.values():
        if r["metrics"]["arrays"]:
            assert rows.load_arrays(rows.arrays_path(path, r))["token"] == [r["metrics"]["token"]]
        else:
            assert not rows.arrays_path(path, r).exists()
    return {r["args"]["seed"]: r["metrics"]["token"] for r in stored.values()}


def names_of(path):
    """The files that the rows of `path` call for."""
    stored = rows.read(path).values()
    return {path.name, *(rows.arrays_path(path, r).name for r in stored if r["metrics"]["arrays"])}


def mixed(path, worker, operations):
    """Add, replace, remove and read rows: 8 that nobody else touches and 4 that all do. Returns what its own rows should be."""
    warnings.simplefilter("error")  # a line that is half there
    os.fsync = lambda _: None  # in this process alone: the disk's time would keep the writers apart
    chance, mine = random.Random(worker), {}
    for n in range(operations):
        token, seed = worker * 1_000_000 + n, 100 * worker + chance.randrange(8)
        what, with_arrays = chance.choice(["append", "replace", "replace", "remove", "shared", "read"]), chance.random() < 0.7
        r, arrays = made(seed, token, with_arrays)
        if what == "append":
            assert rows.append(path, r, arrays) == (seed not in mine)
            mine.setdefault(seed, token)
        elif what == "replace":
            rows.replace(path, r, arrays)
            mine[seed] = token
        elif what == "remove":
            rows.remove(path, [r["key"], "0" * 12])
            mine.pop(seed, None)
        elif what == "shared":
            chance.choice([rows.append, rows.replace])(path, *made(chance.randrange(4), token, with_arrays))
        else:
            stored = rows.read(path)
            assert {s: t["metrics"]["token"] for t in stored.values() if (s := t["args"]["seed"]) // 100 == worker} == mine
            for r in stored.values():
                if r["metrics"]["arrays"] and r["args"]["seed"] // 100 in (0, worker):
                    try:
                        right = rows.load_arrays(rows.arrays_path(path, r))["token"] == [r["metrics"]["token"]]
                    except RowError:
                        right = False
                    assert right or rows.read(path)[r["key"]] != r, "arrays of another row"
    return mine


@pytest.mark.parametrize("workers", [2, 4])
def test_processes_that_change_one_file_lose_nothing_and_mix_nothing(tmp_path, workers):
    path = tmp_path / "t.jsonl"
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        of_each = pool.starmap(mixed, [(path, worker + 1, 1000 // workers) for worker in range(workers)])
    stored = check(path)
    assert {s: t for s, t in stored.items() if s >= 100} == {s: t for mine in of_each for s, t in mine.items()}
    assert set(stored) >= set(range(4)) and {p.name for p in tmp_path.iterdir()} == names_of(path)


def test_a_new_file_is_locked_from_the_moment_that_it_is_there(four, monkeypatch):
    fcntl, original, tried = pytest.importorskip("fcntl"), os.replace, []

    def then_try(partial, path):
        original(partial, path)
        with four.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        tried.append(Path(path).suffix)

    rows.remove(four, [made(3, 0)[0]["key"]])
    with four.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back
    monkeypatch.setattr(os, "replace", then_try)
    rows.replace(four, *made(1, 99))
    assert tried == [".npz", ".jsonl"]


def test_a_reader_waits_for_a_line_that_is_being_written(four):
    pytest.importorskip("fcntl")
    with ThreadPoolExecutor() as pool:
        with files.locked(four) as file:
            size = len(file.content)
            file.add(size, b'{"run": "t", "ke')
            reader = pool.submit(rows.read, four)
            with pytest.raises(TimeoutError):
                reader.result(timeout=0.2)
            file.add(size, json.dumps(made(9, 99, False)[0]).encode() + b"\n")
        assert len(reader.result(timeout=10)) == 5


def test_rows_are_stored_without_torch():
    command = [sys.executable, "-c", "import sys; from helpers import rows; sys.exit('torch' in sys.modules)"]
    assert subprocess.run(command, cwd=ROOT).returncode == 0


# a change, whole or not at all

CHANGES = {
    "append": lambda path: rows.append(path, *made(9, 99)),
    "append without arrays": lambda path: rows.append(path, *made(9, 99, False)),
    "replace": lambda path: rows.replace(path, *made(1, 99)),
    "replace a second time": lambda path: rows.replace(path, *made(2, 99)),
    "replace, without arrays now": lambda path: rows.replace(path, *made(1, 99, False)),
    "replace, with arrays now": lambda path: rows.replace(path, *made(3, 99)),
    "remove": lambda path: rows.remove(path, [made(1, 0)[0]["key"], made(2, 0)[0]["key"]]),
}


@pytest.fixture
def four(tmp_path):
    """Four rows: 0 and 1 as added, 2 replaced once, 3 without arrays."""
    path = tmp_path / "t.jsonl"
    for seed in range(4):
        rows.append(path, *made(seed, seed, with_arrays=seed != 3))
    rows.replace(path, *made(2, 22))
    return path


def at_each_step(action, monkeypatch):
    """Act before or after the n-th time that a change asks the system to sync, rename or delete a file."""

    def arm(n, after):
        count = 0
        for owner, name in ((os, "fsync"), (os, "replace"), (Path, "unlink")):
            original = getattr(owner, name)

            def step(*args, original=original, **kwargs):
                nonlocal count
                count += 1
                if count == n and not after:
                    action()
                result = original(*args, **kwargs)
                if count == n and after:
                    action()
                return result

            monkeypatch.setattr(owner, name, step)

    return arm


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_made_whole(four, change):
    before = check(four)
    CHANGES[change](four)
    after = check(four)
    changed = {"append": {9: 99}, "replace a second time": {2: 99}, "replace, with arrays now": {3: 99}}
    other = {9: 99} if "append" in change else {1: 99}
    expected = {0: 0, 3: 3} if change == "remove" else before | changed.get(change, other)
    assert after == expected and list(after) == list(expected)
    assert {p.name for p in four.parent.iterdir()} == names_of(four)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a kill is tried on a copy of this process")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_kill_at_any_step_leaves_the_old_or_the_new(four, change, after, monkeypatch):
    content = {p: p.read_bytes() for p in four.parent.iterdir()}
    before = check(four)
    outcomes = []
    for n in range(1, 40):
        for p in four.parent.iterdir():
            p.unlink()
        for p, there in content.items():
            p.write_bytes(there)
        child = os.fork()
        if not child:
            at_each_step(lambda: os.kill(os.getpid(), signal.SIGKILL), monkeypatch)(n, after)
            CHANGES[change](four)
            os._exit(0)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        left = check(four)
        outcomes.append(left)
        CHANGES[change](four)  # what the killed process left disturbs nobody, and is cleared
        assert all(left[seed] in (token, 99) for seed, token in before.items() if seed in left)
        assert len(check(four)) >= 2 and not list(four.parent.glob(".*"))
        if not killed:
            break
    else:
        raise AssertionError("it never came to an end")
    whole = check(four)
    assert n > 1 and all(left in (before, whole) for left in outcomes)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full disk", "Ctrl-C"])
@pytest.mark.parametrize("change", CHANGES)
def test_an_error_at_any_step_leaves_the_old_or_the_new(four, change, error, monkeypatch):
    def fail():
        raise error

    before, stored = {p.name: p.read_bytes() for p in four.parent.iterdir()}, check(four)
    stopped = n = 0
    steps, acted = [], True
    while acted:
        n, acted, raised = n + 1, False, None
        for p in four.parent.iterdir():
            p.unlink()
        for name, content in before.items():
            four.with_name(name).write_bytes(content)
        with monkeypatch.context() as patch:
            at_each_step(lambda: steps.append(1) or fail(), patch)(n, False)
            try:
                CHANGES[change](four)
            except (RowError, KeyboardInterrupt) as caught:
                raised = caught
        acted, stopped = len(steps) == n, stopped + (raised is not None)
        left = check(four)
        assert not list(four.parent.glob(".*"))
        if isinstance(raised, RowError):
            assert "No space left" in str(raised) and "intact" in str(raised)
            assert {p.name: p.read_bytes() for p in four.parent.iterdir()} == before
        elif raised is None:  # nothing failed, or what came after the change: an old file that stays
            CHANGES[change](four)
            assert left == check(four)
        else:
            CHANGES[change](four)
            assert left in (stored, check(four))
    assert stopped > 1


def test_a_line_that_a_killed_process_left_unfinished_is_cut_off_by_every_change(four):
    for change in CHANGES.values():
        with four.open("ab") as file:
            file.write(b'{"run": "t", "ke')
        with pytest.warns(UserWarning, match="unfinished"):
            rows.read(four)
        change(four)
        if not four.read_bytes().endswith(b"\n"):
            rows.append(four, *made(50, 50))  # of a key that was there already nothing is stored
        check(four)


def work_until_killed(path, pipe):
    n = len(rows.read(path))
    while True:
        for change, seed in ((rows.append, n), (rows.replace, n // 2), (rows.replace, n)):
            r, arrays = made(seed, n * 10 + seed % 7, with_arrays=n % 3 > 0)
            change(path, r, arrays)
            pipe.send((seed, r["metrics"]["token"]))
        n += 1


def test_kill_9_loses_nothing_that_was_stored(tmp_path):
    path, context, known = tmp_path / "t.jsonl", multiprocessing.get_context("spawn"), {}
    for round in range(4):
        mine, its = context.Pipe(duplex=False)
        child = context.Process(target=work_until_killed, args=(path, its))
        child.start()
        its.close()
        known.update([mine.recv()])
        time.sleep(0.03 + 0.05 * round)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        stopped = False
        while not stopped:
            try:
                known.update([mine.recv()])
            except EOFError:
                stopped = True
        left = check(path)
        missing = {seed: token for seed, token in known.items() if left.get(seed) != token}
        assert known.keys() <= left.keys() and len(missing) <= 1  # the change that was stored and not yet told
        known = left
    assert len(known) > 4


def test_what_other_runs_are_writing_is_let_be(four):
    live = [".u.jsonl.1-0123abcd.part", ".t-u.jsonl.1-0123abcd.part", ".tt-0123456789ab.npz.1-0123abcd.part", ".t.part"]
    dead = [".t.jsonl.1-0123abcd.part", ".t-0123456789ab.npz.1-0123abcd.part", ".t-0123456789ab-01234567.npz.1-0123abcd.part"]
    for name in live + dead:
        four.with_name(name).touch()
    rows.append(four, *made(9, 99))
    assert sorted(p.name for p in four.parent.glob(".*")) == sorted(live)


def test_append_stores_a_key_once_with_the_arrays_of_the_first(four):
    assert rows.append(four, *made(9, 99)) is True
    assert rows.append(four, *made(9, 100)) is False
    assert check(four)[9] == 99


def test_a_key_that_is_only_mentioned_is_no_row(path):
    mention = row(7) | {"settings": {"key": row(8)["key"]}}
    rows.append(path, mention | {"key": rows.key_of("t", {"seed": 7}, mention["settings"], 1)})
    assert rows.append(path, row(8)) is True


def test_arrays_that_were_left_without_a_row_are_never_taken_for_those_of_a_later_one(four):
    r, _ = made(9, 99, with_arrays=False)
    rows.save_arrays(rows.arrays_path(four, r), {"token": np.array([5])})
    rows.append(four, r)
    assert check(four)[9] == 99


def test_replace_says_what_it_stored_and_keeps_the_name_of_equal_arrays(four):
    for seed, token in ((0, 0), (1, 99), (2, 99), (3, 99), (7, 99)):
        assert rows.replace(four, *made(seed, token)) == rows.read(four)[made(seed, 0)[0]["key"]]
    again, arrays = made(0, 0)
    assert "arrays" not in rows.replace(four, again, arrays) and "arrays" not in again
    assert rows.arrays_path(four, again).name == f"t-{again['key']}.npz"


def test_rows_may_be_moved_to_another_file_with_their_arrays(four, tmp_path):
    other = tmp_path / "other" / "t.jsonl"
    for r in rows.read(four).values():
        rows.append(other, r, rows.load_arrays(rows.arrays_path(four, r)) if r["metrics"]["arrays"] else None)
    assert check(other) == check(four)


def test_a_row_that_could_not_be_read_is_not_written(path):
    for wrong in (row(0) | {"args": {"seed": 5}}, {"run": "t", "args": {}}):
        for write in (rows.append, rows.replace):
            with pytest.raises(RowError, match="key does not belong|lacks"):
                write(path, wrong)
    path.write_bytes(path.read_bytes().replace(b'"utc"', b'"arrays": "../../x", "utc"', 1))
    with pytest.raises(RowError, match="line 1: its arrays '../../x' are no digest"):
        rows.read(path)


def test_other_lines_stay_as_they_are(path):
    lines = path.read_bytes().replace(b'{"run"', b'{  "run"').splitlines(keepends=True)
    path.write_bytes(b"".join(lines))
    rows.replace(path, row(1, acc=0.9))
    assert path.read_bytes().splitlines(keepends=True)[::2] == lines[::2]
    rows.remove(path, [row(1)["key"]])
    assert path.read_bytes().splitlines(keepends=True) == lines[::2]


def test_a_file_without_rows_is_no_file(path):
    rows.remove(path, list(rows.read(path)))
    assert not path.exists() and rows.read(path) == {}
    rows.remove(path, ["0" * 12])


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(path):
    with pytest.raises(RowError, match="could not write to .*t.jsonl/u.jsonl"):
        rows.append(path / "u.jsonl", row(0))
