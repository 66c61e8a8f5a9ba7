"""Progress of long work: a grid says it to a person on stderr, or, with its chapter's name, to the runner, which shows it."""

import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path

from tqdm import tqdm

from helpers.scratch import private_folder


class Patient:
    """A text stream whose errors (a full disk, a pipe that nobody reads) do not stop a run."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed, or letters that its encoding lacks
            self.stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.stream.flush()

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


class GridProgress:
    """`table1: 12 of 15 stored, about 40 min to go`: a bar on stderr, or lines in $BOOK_PROGRESS for the runner to show."""

    def __init__(self, run: str, total: int, stored: int):
        self.run, self.total, self.stored, self.first = run, total, stored, stored
        self.what, self.at_work = "", (0, 0)
        self.started, self.sink = time.monotonic(), os.environ.get("BOOK_PROGRESS")
        self.bar = None

    def __enter__(self) -> "GridProgress":
        if not self.sink and self.stored < self.total:
            bar_format = "{desc} |{bar:20}|"
            self.bar = tqdm(total=self.total, initial=self.stored, file=Patient(sys.stderr), bar_format=bar_format)
        return self

    def __exit__(self, *_) -> None:
        self.what, self.at_work = "", (0, 0)
        self._show()
        if self.bar is not None:
            self.bar.close()

    def at(self, args: dict) -> None:
        """Say what is being computed."""
        self.what, self.at_work = " ".join(f"seed {v}" if k == "seed" else str(v) for k, v in args.items()), (1, 0)
        self._show()

    def running(self, rows: int, trainings: int) -> None:
        """Say how many rows are being computed at a time, and how many networks trained."""
        if (rows, trainings) != self.at_work:
            self.at_work = rows, trainings
            self._show()

    def done(self) -> None:
        """Count a stored row."""
        self.stored += 1
        if self.bar is not None:
            self.bar.update()

    def _show(self) -> None:
        made, left = self.stored - self.first, self.total - self.stored
        minutes = (time.monotonic() - self.started) / made * left / 60 if made else 0
        rows, trainings = self.at_work
        said = [f"{self.stored} of {self.total} stored"]
        if rows + trainings > 1 or trainings:
            said += [f"{rows} running", f"{trainings} training"]
        said += [f"about {minutes:.0f} min to go"] if minutes >= 1 else []
        text = f"{' '.join(filter(None, (self.run, self.what)))}: {', '.join(said)}"
        if self.bar is not None:
            self.bar.set_description_str(text)
        elif self.sink:
            chapter = os.environ.get("BOOK_CHAPTER", "chapter")
            line = {"chapter": chapter, "run": self.run, "text": text, "stored": self.stored, "total": self.total}
            line |= {"made": made, "rows": rows, "trainings": trainings}
            with contextlib.suppress(OSError), open(self.sink, "a", encoding="utf-8") as file:  # it never stops a run
                file.write(json.dumps(line) + "\n")


class ChapterProgress:
    """A bar over the chapters and their rows, from what the running ones write into the file that $BOOK_PROGRESS names.

    On a terminal it is redrawn; elsewhere, as in a log, there is a line every `EVERY` seconds and at each chapter's end.
    rows : how many are expected of all chapters; more are counted as they are declared
    """

    EVERY = 30

    def __init__(self, total: int, rows: int = 0):
        self.total, self.expected, self.chapters = total, rows, 0
        self.latest: dict[tuple, dict] = {}
        self.stop, self.resources, self.started = threading.Event(), contextlib.ExitStack(), time.monotonic()
        self.out = Patient(sys.stderr)
        self.bar = tqdm(total=0, bar_format="{desc}", file=self.out) if self._terminal() else None
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "ChapterProgress":
        try:
            self.path = self.resources.enter_context(private_folder()) / "progress"
            self.path.touch()
        except OSError:  # nowhere to write: only chapters are counted
            self.path = Path(os.devnull)
        os.environ["BOOK_PROGRESS"] = str(self.path)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop.set()
        self.thread.join()
        self._read()
        self._show()
        if self.bar is not None:
            self.bar.close()
        os.environ.pop("BOOK_PROGRESS", None)
        self.resources.close()

    def chapter_done(self) -> None:
        """Count a finished chapter."""
        self.chapters += 1
        self._show()

    def text(self) -> str:
        """`01_learning · table1: 3 of 10 stored | 41 of 132 rows, 2 running, 1 training, about 4 min to go | 1 of 6 chapters`"""
        runs = list(self.latest.values())
        stored, made = sum(r["stored"] for r in runs), sum(r["made"] for r in runs)
        total = max(self.expected, sum(r["total"] for r in runs))
        parts = [f"{stored} of {total} rows"] if total else []
        rows, trainings = sum(r["rows"] for r in runs), sum(r["trainings"] for r in runs)
        parts += [f"{rows} running"] if rows else []
        parts += [f"{trainings} training"] if trainings else []
        seconds = time.monotonic() - self.started
        minutes = seconds / made * (total - stored) / 60 if made else 0
        parts += [f"about {minutes:.0f} min to go"] if minutes >= 1 else []
        last = f"{runs[-1]['chapter']} · {runs[-1]['text']}" if runs else ""
        counted = f"{self.chapters} of {self.total} chapters, {seconds // 60:02.0f}:{seconds % 60:02.0f}"
        return " | ".join(filter(None, (last, ", ".join(parts), counted)))

    def _terminal(self) -> bool:
        with contextlib.suppress(Exception):
            return sys.stderr.isatty()
        return False

    def _show(self) -> None:
        if self.bar is not None:
            self.bar.set_description_str(self.text())
        else:
            self.out.write(self.text() + "\n")
            self.out.flush()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):  # a killed kernel's last line
                    entry = json.loads(line)
                    key = entry["chapter"], entry["run"]
                    if self.latest.get(key) != entry:
                        self.latest.pop(key, None)
                        self.latest[key] = entry  # the one that wrote last stands last

    def _follow(self) -> None:
        shown = said = None
        due = time.monotonic()
        while not self.stop.wait(0.5):
            self._read()
            said = list(self.latest.values())[-1:]
            if self.bar is not None or (said != shown and time.monotonic() >= due):
                self._show()
                shown, due = said, time.monotonic() + self.EVERY
