"""Progress never stops a run, whatever it cannot write or read."""

import io
import os
import sys

import pytest

from helpers import progress
from helpers.progress import ChapterProgress, GridProgress, Patient


@pytest.mark.parametrize("sink", ["no/such/folder/file", ".", "/dev/full"])
def test_a_progress_file_that_cannot_be_written_is_ignored(sink, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BOOK_PROGRESS", sink)
    with GridProgress("table1", 2, 0) as grid:
        grid.at({"method": "α", "seed": 0})
        grid.done()
    assert grid.stored == 1


def test_what_a_grid_says_is_read_by_the_runner(monkeypatch):
    with ChapterProgress(1):
        sink = os.environ["BOOK_PROGRESS"]
        with GridProgress("table1", 2, 0) as grid:
            grid.at({"method": "α", "seed": 0})
        with open(sink, encoding="utf-8") as file:
            assert file.read() == "chapter · table1 α seed 0: 0 of 2 stored\n"
    assert not os.path.exists(sink) and "BOOK_PROGRESS" not in os.environ


def test_the_runner_needs_no_place_for_progress(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(progress, "private_folder", full)
    with ChapterProgress(1) as chapters, GridProgress("table1", 2, 0) as grid:
        grid.at({"seed": 0})
        chapters.bar.update()


class Broken(io.StringIO):
    def write(self, *_):
        raise BrokenPipeError

    flush = write


def test_a_terminal_that_went_away_stops_nothing(monkeypatch):
    monkeypatch.delenv("BOOK_PROGRESS", raising=False)
    monkeypatch.setattr(sys, "stderr", Patient(Broken()).stream)
    with ChapterProgress(2) as chapters:
        chapters.bar.update()
    with GridProgress("table1", 2, 0) as grid:
        grid.at({"seed": 0})
        grid.done()
