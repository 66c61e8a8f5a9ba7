"""The runner: what it refuses, what it leaves in a notebook, and when it records."""

import json
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from helpers import chapters, run
from helpers import rows as storage


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "helpers.run", *arguments], capture_output=True, text=True, cwd=run.ROOT, **options
    )


def test_list_names_every_chapter():
    done = command("--list")
    assert done.returncode == 0
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [path.stem for path in run.chapters()]
    assert "01_learning_with_adversary: Learning with adversary" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "gpu"], "'report', 'smoke', 'cpu', 'paper'"),
        (["--chapters", "77"], "no chapter '77'; there are: 01_learning_with_adversary"),
        (["--seeds", "many"], "seeds must look like 0-4 or 0,3"),
        (["--epochs", "3"], "unrecognized arguments: --epochs"),
    ],
)
def test_what_is_unknown_is_refused_with_the_valid_ones(arguments, message):
    done = command(*arguments)
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """A chapter of three cells in a book of its own."""
    cells = [
        nbformat.v4.new_markdown_cell("# A chapter"),
        nbformat.v4.new_code_cell("profile = 'report'", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print(profile)"),
    ]
    (tmp_path / "book").mkdir()
    path = tmp_path / "book/01_a.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}}
        ),
        path,
    )
    for module in (chapters, run):
        monkeypatch.setattr(module, "BOOK", tmp_path / "book")
        monkeypatch.setattr(module, "BUILD", tmp_path / "_build")
    return path


def test_a_parameter_that_the_chapter_lacks_is_refused(chapter, tmp_path):
    with pytest.raises(run.Refused, match="no parameter depth; it has: profile"):
        run.execute(chapter, tmp_path / "out.ipynb", {"depth": 3})


def test_a_failing_cell_is_one_clear_line(chapter, tmp_path):
    notebook = nbformat.read(chapter, 4)
    notebook.cells.append(nbformat.v4.new_code_cell("1 / 0"))
    nbformat.write(notebook, chapter)
    with pytest.raises(run.Refused, match="01_a stopped with ZeroDivisionError"):
        run.execute(chapter, tmp_path / "out.ipynb", {"profile": "smoke"})


def test_a_run_by_papermill_leaves_no_trace_after_tidying(chapter, tmp_path):
    run.execute(chapter, tmp_path / "out.ipynb", {"profile": "smoke"})
    notebook = nbformat.read(tmp_path / "out.ipynb", 4)
    run.tidy(notebook)
    text = json.dumps(notebook)
    assert "papermill" not in text and "injected" not in text and "iopub" not in text
    assert [c.execution_count for c in notebook.cells if c.cell_type == "code"] == [1, 2]
    assert notebook.cells[-1].outputs[0].text == "smoke\n"


def test_report_executes_in_place_and_refuses_what_writes_to_stderr(chapter):
    run.execute_report(chapter)
    first = chapter.read_text()
    assert nbformat.read(chapter, 4).cells[-1].outputs[0].text == "report\n"
    run.execute_report(chapter)
    assert chapter.read_text() == first
    notebook = nbformat.read(chapter, 4)
    notebook.cells.append(nbformat.v4.new_code_cell("import sys; print('a warning', file=sys.stderr)"))
    nbformat.write(notebook, chapter)
    with pytest.raises(run.Refused, match="wrote to stderr at `report`: a warning"):
        run.execute_report(chapter)


def test_results_are_recorded_from_committed_code_only(chapter, monkeypatch):
    monkeypatch.setattr(storage, "dirty", lambda: [" M helpers/attacks.py"])
    with pytest.raises(run.Refused, match="commit first, or --allow-dirty:  M helpers/attacks.py"):
        run.record([chapter], "smoke", {}, allow_dirty=False)


def test_without_git_the_code_needs_a_name(chapter, monkeypatch):
    def no_git():
        raise OSError

    monkeypatch.setattr(storage, "dirty", no_git)
    monkeypatch.delenv("BOOK_COMMIT", raising=False)
    with pytest.raises(run.Refused, match="BOOK_COMMIT is not set"):
        run.record([chapter], "smoke", {}, allow_dirty=False)


def test_make_says_in_one_line_what_is_missing():
    done = subprocess.run(
        ["make", "-B", "setup", "PYTHON=python-that-is-not-there"], capture_output=True, text=True, cwd=run.ROOT
    )
    assert done.returncode != 0 and "install Python 3.11 or newer" in done.stdout


def test_make_refuses_an_old_python(tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(["make", "-B", "setup", f"PYTHON={old}"], capture_output=True, text=True, cwd=run.ROOT)
    assert done.returncode != 0 and "Python 3.8.1 is too old" in done.stdout


def test_a_chapter_that_is_reproduced_goes_on_where_it_was_and_starts_anew_after_a_change(chapter, tmp_path):
    home, how = tmp_path / "home", {"profile": "smoke", "parameters": {}}
    home.mkdir()
    (home / "row").touch()
    (home / "made-by").write_text("a")
    assert run._reproduce_one(chapter, home, identity="a", **how) == "" and (home / "row").exists()
    assert (home / "made-by").read_text() == "finished" and "A reproduction at profile" in (home / "01_a.ipynb").read_text()
    assert run._reproduce_one(chapter, home, identity="a", **how) == "" and not (home / "row").exists()


def test_a_chapter_that_stops_says_why_and_is_not_finished(chapter, tmp_path):
    notebook = nbformat.read(chapter, 4)
    notebook.cells.append(nbformat.v4.new_code_cell("1 / 0"))
    nbformat.write(notebook, chapter)
    said = run._reproduce_one(chapter, tmp_path / "home", profile="smoke", parameters={}, identity="a")
    assert said.startswith("01_a stopped with ZeroDivisionError") and (tmp_path / "home/made-by").read_text() == "a"


def test_a_worker_ends_with_the_process_that_started_it():
    code = (
        "import multiprocessing as m, os, time\nfrom helpers.run import _end_with\n"
        "def work(parent):\n    _end_with(parent)\n    print(os.getpid(), flush=True)\n    time.sleep(60)\n"
        "m.get_context('fork').Process(target=work, args=(os.getpid(),)).start()\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=run.ROOT)
    assert int(parent.stdout.readline()) != parent.pid
    started = time.monotonic()
    parent.send_signal(signal.SIGKILL)
    assert parent.stdout.read() == "", "the pipe stays open until the worker ends"
    assert time.monotonic() - started < 30 and parent.wait() == -signal.SIGKILL
