"""A chapter runs in this interpreter and draws its figures, whatever the user's environment is; what stops it is one line."""

import json
import os
import sys
import threading
from functools import partial

import nbformat
import pytest
from toy import said, write_chapter

from helpers import chapters, run


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """A function that runs a notebook of some cells at smoke and returns what it printed."""
    monkeypatch.setattr(chapters, "BOOK", tmp_path / "book")

    def ran(*sources: str) -> str:
        chapters.execute(write_chapter(tmp_path / "book/01_a.ipynb", *sources), tmp_path / "out.ipynb", {"profile": "smoke"})
        return said(tmp_path / "out.ipynb")

    return ran


def test_the_kernel_is_this_interpreter_with_these_helpers_and_without_start_up_files(ran, tmp_path, monkeypatch):
    spec = tmp_path / "other/kernels/python3"
    spec.mkdir(parents=True)
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    argv = [str(tmp_path / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "x", "language": "python"}), encoding="utf-8")
    startup = tmp_path / "ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("print('from a start-up file')\nmine = 1", encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "other"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    text = ran("import sys, os; print(sys.executable, 'mine' in globals(), os.environ['MALLOC_TOP_PAD_'])", "import helpers")
    assert text == f"{sys.executable} False 67108864\n"


def test_figures_are_drawn_whatever_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "BOOK", tmp_path / "book")
    monkeypatch.setenv("MPLBACKEND", "agg")
    path = write_chapter(tmp_path / "book/01_a.ipynb", "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
    chapters.execute_report(path)
    assert any("image/png" in o.get("data", {}) for c in nbformat.read(path, 4).cells for o in c.get("outputs", []))


def test_a_home_that_cannot_be_written_is_no_complaint_of_the_chapter(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "BOOK", tmp_path / "book")
    for name in ("MPLCONFIGDIR", "IPYTHONDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file/home"))
    chapters.execute_report(write_chapter(tmp_path / "book/01_a.ipynb", "import matplotlib; print(matplotlib.get_configdir())"))
    assert not (tmp_path / "file/home").exists()


@pytest.mark.parametrize("name", ["x" * 100, "with spaces and {braces}"])
def test_a_temporary_folder_and_a_checkout_may_have_any_name(name, tmp_path, monkeypatch):
    (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / name))
    monkeypatch.setattr(chapters, "BOOK", tmp_path / name / "book")
    path = write_chapter(tmp_path / name / "book/01_a.ipynb", "print(profile)")
    chapters.execute(path, tmp_path / name / "out.ipynb", {"profile": "smoke"})
    assert said(tmp_path / name / "out.ipynb") == "smoke\n"
    assert sorted(p.name for p in (tmp_path / name).iterdir()) == ["book", "out.ipynb"]


def test_without_a_short_folder_for_sockets_the_kernel_listens_on_ports(ran, monkeypatch):
    monkeypatch.setattr("helpers.kernels.LONGEST", 0)
    assert ran("print(profile)") == "smoke\n"


@pytest.mark.parametrize("execute", ["papermill", "report"])
def test_a_kernel_that_dies_is_one_line(execute, ran, tmp_path):
    source = "import os; os._exit(9)"
    path = write_chapter(tmp_path / "book/01_a.ipynb", source)
    call = partial(ran, source) if execute == "papermill" else partial(chapters.execute_report, path)
    with pytest.raises(run.Refused, match=r"^run: 01_a.*: its kernel died"):
        call()


def test_a_cell_that_takes_too_long_is_one_line_and_leaves_the_chapter_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "BOOK", tmp_path / "book")
    monkeypatch.setattr(chapters, "TIMEOUT", 1)
    path = write_chapter(tmp_path / "book/01_a.ipynb", "import time; time.sleep(30)")
    before = path.read_bytes()
    with pytest.raises(run.Refused, match="01_a at `report` stopped: .*timed out") as error:
        chapters.execute_report(path)
    assert len(error.value.message.splitlines()) == 1
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", ["<<<<<<< HEAD", "{}", "[1]", ""])
def test_what_is_no_notebook_is_one_line(content, tmp_path):
    path = tmp_path / "01_a.ipynb"
    path.write_text(content, encoding="utf-8")
    for call in (lambda: chapters.execute(path, tmp_path / "o.ipynb", {}), lambda: chapters.execute_report(path)):
        with pytest.raises(run.Refused, match="01_a") as error:
            call()
        assert len(error.value.message.splitlines()) == 1


def test_two_at_report_at_once_do_no_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "BOOK", tmp_path / "book")
    path = write_chapter(tmp_path / "book/01_a.ipynb", "import time; time.sleep(1); print(profile)")
    threads = [threading.Thread(target=chapters.execute_report, args=(path,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said(path) == "report\n" and os.listdir(path.parent) == [path.name]
