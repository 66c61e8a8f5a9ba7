"""The runner: what it refuses, what it leaves in a notebook, and when it records."""

import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from toy import Book, row, store, write_chapter

from helpers import building, chapters, declared, provenance, reproduce, run
from helpers.chapters import Refused
from helpers.reproduce import Asked


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "helpers.run", *arguments], capture_output=True, encoding="utf-8", cwd=run.ROOT, **options
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
def book(tmp_path, monkeypatch):
    """The folders of a book of its own."""
    for module in (chapters, reproduce, declared, building):
        monkeypatch.setattr(module, "BOOK", tmp_path / "book")
        monkeypatch.setattr(module, "BUILD", tmp_path / "_build")
    return tmp_path


@pytest.fixture
def chapter(book, tmp_path):
    """A chapter of three cells in a book of its own."""
    return write_chapter(tmp_path / "book/01_a.ipynb", "print(profile)")


def test_a_parameter_that_the_chapter_lacks_is_refused(chapter, tmp_path):
    with pytest.raises(Refused, match="no parameter depth; it has: profile"):
        chapters.execute(chapter, tmp_path / "out.ipynb", {"depth": 3})


def test_a_failing_cell_is_one_clear_line(chapter, tmp_path):
    notebook = nbformat.read(chapter, 4)
    notebook.cells.append(nbformat.v4.new_code_cell("1 / 0"))
    nbformat.write(notebook, chapter)
    with pytest.raises(Refused, match="01_a stopped with ZeroDivisionError"):
        chapters.execute(chapter, tmp_path / "out.ipynb", {"profile": "smoke"})


def test_a_run_by_papermill_leaves_no_trace_after_tidying(chapter, tmp_path):
    chapters.execute(chapter, tmp_path / "out.ipynb", {"profile": "smoke"})
    notebook = nbformat.read(tmp_path / "out.ipynb", 4)
    chapters.tidy(notebook)
    text = json.dumps(notebook)
    assert "papermill" not in text and "injected" not in text and "iopub" not in text
    assert [c.execution_count for c in notebook.cells if c.cell_type == "code"] == [1, 2]
    assert notebook.cells[-1].outputs[0].text == "smoke\n"


def test_report_executes_in_place_and_refuses_what_writes_to_stderr(chapter):
    chapters.execute_report(chapter)
    first = chapter.read_text(encoding="utf-8")
    assert nbformat.read(chapter, 4).cells[-1].outputs[0].text == "report\n"
    chapters.execute_report(chapter)
    assert chapter.read_text(encoding="utf-8") == first
    notebook = nbformat.read(chapter, 4)
    notebook.cells.append(nbformat.v4.new_code_cell("import sys; print('a warning', file=sys.stderr)"))
    nbformat.write(notebook, chapter)
    with pytest.raises(Refused, match="wrote to stderr at `report`: a warning"):
        chapters.execute_report(chapter)


def test_results_are_recorded_from_committed_code_only(chapter, monkeypatch):
    monkeypatch.setattr(provenance, "dirty", lambda: [" M helpers/attacks.py"])
    with pytest.raises(Refused, match="commit first, or ALLOW_DIRTY=1 .*:  M helpers/attacks.py"):
        reproduce.check_committed()


def test_without_git_the_code_needs_a_name(chapter, monkeypatch):
    def no_git():
        raise OSError

    monkeypatch.setattr(provenance, "dirty", no_git)
    monkeypatch.delenv("BOOK_COMMIT", raising=False)
    with pytest.raises(Refused, match="BOOK_COMMIT is not set"):
        reproduce.check_committed()


def test_make_says_in_one_line_what_is_missing():
    done = subprocess.run(
        ["make", "-B", "setup", "PYTHON=python-that-is-not-there"], capture_output=True, encoding="utf-8", cwd=run.ROOT
    )
    assert done.returncode != 0 and "install Python 3.11 or newer" in done.stdout


def test_make_refuses_an_old_python(tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1\nexit 1\n', encoding="utf-8")
    old.chmod(0o755)
    done = subprocess.run(["make", "-B", "setup", f"PYTHON={old}"], capture_output=True, encoding="utf-8", cwd=run.ROOT)
    assert done.returncode != 0 and "Python 3.8.1 is too old" in done.stdout


def test_a_chapter_that_is_reproduced_goes_on_where_it_was_and_starts_anew_after_a_change(chapter, tmp_path):
    home, asked = tmp_path / "home", Asked({chapter: None}, "smoke", {})
    home.mkdir()
    (home / "row").touch()
    (home / "made-by").write_text("a", encoding="utf-8")
    reproduce.reproduce_one(chapter, home, asked, "a")
    assert (home / "row").exists()
    assert (home / "made-by").read_text(encoding="utf-8") == "finished" and "A reproduction at profile" in (
        home / "01_a.ipynb"
    ).read_text(encoding="utf-8")
    reproduce.reproduce_one(chapter, home, asked, "a")
    assert not (home / "row").exists()


def test_a_chapter_that_stops_says_why_and_is_not_finished(chapter, tmp_path):
    notebook = nbformat.read(chapter, 4)
    notebook.cells.append(nbformat.v4.new_code_cell("1 / 0"))
    nbformat.write(notebook, chapter)
    with pytest.raises(Refused, match="01_a stopped with ZeroDivisionError"):
        reproduce.reproduce_one(chapter, tmp_path / "home", Asked({chapter: None}, "smoke", {}), "a")
    assert (tmp_path / "home/made-by").read_text(encoding="utf-8") == "a"


def test_list_only_reads_and_site_says_that_it_cannot_write(tmp_path):
    book = Book(tmp_path / "checkout", _01_a="1")
    code = "import os, sys\nfrom helpers import run\n"
    if root := hasattr(os, "geteuid") and os.geteuid() == 0:  # root may write anywhere: be somebody else once all is imported
        code += "os.setgroups([]); os.setgid(12345); os.setuid(12345)\n"
        subprocess.run(["chmod", "a+rX", *[p for p in (tmp_path, *tmp_path.parents) if "pytest" in str(p)]], check=True)
    book.root.chmod(0o555)

    def somebody(*arguments):
        command = [sys.executable, "-c", code + "sys.exit(run.main(sys.argv[1:]))", *arguments]
        environment = book.environment(TMPDIR="/tmp" if root else str(book.temporary))
        return subprocess.run(command, cwd=book.root, env=environment, capture_output=True, encoding="utf-8")

    done = somebody("--list")
    assert (done.returncode, done.stdout) == (0, "01_a: A chapter\n"), done.stderr
    done = somebody("--site")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "run: PermissionError" in done.stderr and "_build" in done.stderr
    assert not (book.root / "_build").exists()


def test_a_damaged_notebook_and_an_unusable_results_folder_are_one_line(tmp_path):
    book = Book(tmp_path / "checkout", _01_a="1")
    (tmp_path / "file").touch()
    done = book.run("--chapters", "01", environment={"BOOK_RESULTS": str(tmp_path / "file")})
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "Error" in done.stderr and "file" in done.stderr
    (book.root / "book/01_a.ipynb").write_text("<<<<<<< HEAD", encoding="utf-8")
    done = book.run("--list")
    assert done.returncode == 1 and "01_a.ipynb is no notebook" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("given", "meant"), [("~/x", "{home}/x"), ("x", "{here}/x"), ("../x", "{here}/../x"), ("/x y", "/x y")])
def test_folders_are_those_that_the_caller_means(given, meant, tmp_path, monkeypatch):
    seen = {}

    def reproduce(asked):
        seen.update(asked.parameters, results=os.environ["BOOK_RESULTS"], data=os.environ["BOOK_DATA"])
        return 0

    monkeypatch.setattr(run, "reproduce", reproduce)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BOOK_RESULTS", given)
    monkeypatch.setenv("BOOK_DATA", given)
    monkeypatch.chdir(tmp_path)
    assert run.main(["--profile=cpu", "--chapters=01", f"--data-root={given}"]) == 0
    folder = meant.format(home=tmp_path / "home", here=tmp_path)
    assert seen == {"data_root": folder, "results": folder, "data": folder} and os.environ["BOOK_DATA"] == given


def test_the_paper_of_a_chapter_is_what_its_study_names(tmp_path):
    page = write_chapter(tmp_path / "00.ipynb", "x = 1")
    chapter = write_chapter(tmp_path / "01.ipynb", "x = 1", "study = Study(\n    'huang2015', profile)")
    assert chapters.paper_of(page) is None and chapters.paper_of(chapter) == "huang2015"


@pytest.fixture
def reproduced(book, tmp_path, monkeypatch):
    """Two chapters of one paper that store a row each, and a function that reproduces chapters without building a site."""
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    monkeypatch.setattr(declared, "ROOT", tmp_path)
    monkeypatch.setattr(provenance, "commit", lambda: "toy")
    monkeypatch.setattr(reproduce, "copy_source", lambda *_: None)
    monkeypatch.setattr(reproduce, "build_site", lambda *_: "no site")
    monkeypatch.setattr(reproduce, "reproduce_one", lambda path, home, *_: store(home / "results", "p", row(path.stem)))

    def reproduced(*names, seeds=None):
        return reproduce.reproduce(Asked({tmp_path / f"book/{name}.ipynb": None for name in names}, "smoke", {}, seeds))

    return reproduced


def test_a_reproduction_counts_what_its_chapters_did_not_make(reproduced, tmp_path, capsys):
    for name in ("05", "05b"):
        write_chapter(tmp_path / f"book/{name}.ipynb", "study = Study('p')")
    assert reproduced("05") == 1 and "nothing was compared" in capsys.readouterr().out
    store(tmp_path / "results", "p", row("05"), row("05b"), row("figure", seed=3))
    shutil.rmtree(tmp_path / "_build")
    assert reproduced("05") == 0, "the other rows may be the other chapter's"
    shutil.rmtree(tmp_path / "_build")
    assert reproduced("05", "05b") == 1 and "p figure 3: stored, but not made again" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "_build")
    assert reproduced("05", "05b", seeds=[0, 1, 2]) == 0
