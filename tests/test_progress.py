"""Progress never stops a run, whatever it cannot write or read."""

import io
import json
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


def test_what_a_grid_says_is_read_by_the_runner(capsys):
    with ChapterProgress(1, rows=5) as chapters:
        sink = os.environ["BOOK_PROGRESS"]
        with GridProgress("table1", 2, 0) as grid:
            grid.at({"method": "α", "seed": 0})
            grid.done()
            grid.running(2, 1)
        with open(sink, encoding="utf-8") as file:
            said = [json.loads(line)["text"] for line in file]
        running = "table1 α seed 0: 1 of 2 stored, 2 running, 1 training"
        assert said == ["table1 α seed 0: 0 of 2 stored", running, "table1: 1 of 2 stored"]
        chapters.chapter_done()
    assert not os.path.exists(sink) and "BOOK_PROGRESS" not in os.environ
    assert "chapter · table1: 1 of 2 stored | 1 of 5 rows | 1 of 1 chapters" in capsys.readouterr().err, "a log has lines"


def test_the_runner_needs_no_place_for_progress(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(progress, "private_folder", full)
    with ChapterProgress(1) as chapters, GridProgress("table1", 2, 0) as grid:
        grid.at({"seed": 0})
        chapters.chapter_done()


class Broken(io.StringIO):
    def write(self, *_):
        raise BrokenPipeError

    flush = write


def test_a_terminal_that_went_away_stops_nothing(monkeypatch):
    monkeypatch.delenv("BOOK_PROGRESS", raising=False)
    monkeypatch.setattr(sys, "stderr", Patient(Broken()).stream)
    with ChapterProgress(2) as chapters:
        chapters.chapter_done()
    with GridProgress("table1", 2, 0) as grid:
        grid.at({"seed": 0})
        grid.done()
