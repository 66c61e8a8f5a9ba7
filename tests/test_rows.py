"""Rows on disk: append is all or nothing, and a file that is not what it should be is named with its line."""

import json
from pathlib import Path

import numpy as np
import pytest

from helpers import rows
from helpers.rows import RowError


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
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
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


def test_arrays_are_rounded_and_never_unpickled(tmp_path):
    rows.save_arrays(tmp_path / "a.npz", {"x": np.array([1 / 3]), "n": np.array([1, 2])})
    arrays = rows.load_arrays(tmp_path / "a.npz")
    assert arrays["x"].dtype == np.float32 and arrays["x"][0] == np.float32(0.3333) and arrays["n"].tolist() == [1, 2]
    np.savez(tmp_path / "evil.npz", x=np.array([print], dtype=object))
    with pytest.raises(RowError, match="missing or damaged"):
        rows.load_arrays(tmp_path / "evil.npz")


def test_two_processes_may_add_to_one_file(tmp_path):
    import subprocess
    import sys
    import textwrap

    script = textwrap.dedent("""
        import sys
        sys.path.insert(0, sys.argv[2])
        from pathlib import Path
        from helpers import rows
        from test_rows import row
        for seed in range(40):
            rows.append(Path(sys.argv[1]), row(seed))
    """)
    command = [sys.executable, "-c", script, str(tmp_path / "t.jsonl"), str(Path(__file__).parent)]
    writers = [subprocess.Popen(command) for _ in range(2)]
    assert [w.wait() for w in writers] == [0, 0]
    assert [r["args"]["seed"] for r in rows.read(tmp_path / "t.jsonl").values()] == list(range(40))


def test_an_anchor_is_a_name_that_every_browser_finds():
    assert (
        rows.anchor("LWA_Rep, 2nd layer") == "rows-LWA_Rep-2nd-layer"
        and rows.anchor("Goodfellow, ε = 0.05") == "rows-Goodfellow-ε-0-05"
    )
    assert rows.anchor(0.1, 5) == rows.anchor("0.1 5") == "rows-0-1-5"
