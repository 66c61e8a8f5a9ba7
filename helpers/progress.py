"""Progress of long work: a grid says it to a person on stderr, or, with its chapter's name, to the runner, which shows it."""

import contextlib
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
    """`12 of 15 stored, about 40 min to go`: a bar on stderr, or lines in $BOOK_PROGRESS for the runner to show."""

    def __init__(self, run: str, total: int, stored: int):
        self.run, self.total, self.stored, self.first = run, total, stored, stored
        self.started, self.sink = time.monotonic(), os.environ.get("BOOK_PROGRESS")
        self.bar = None

    def __enter__(self) -> "GridProgress":
        if not self.sink and self.stored < self.total:
            bar_format = "{desc} |{bar:20}|"
            self.bar = tqdm(total=self.total, initial=self.stored, file=Patient(sys.stderr), bar_format=bar_format)
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.set_description_str(f"{self.run}: {self.stored} of {self.total} stored")
            self.bar.close()

    def at(self, args: dict) -> None:
        """Say what is being computed."""
        self._show(" ".join(f"seed {v}" if k == "seed" else str(v) for k, v in args.items()))

    def done(self) -> None:
        """Count a stored row."""
        self.stored += 1
        if self.bar is not None:
            self.bar.update()

    def _show(self, what: str) -> None:
        made, left = self.stored - self.first, self.total - self.stored
        minutes = (time.monotonic() - self.started) / made * left / 60 if made else 0
        text = f"{self.run} {what}: {self.stored} of {self.total} stored" + (
            f", about {minutes:.0f} min to go" if minutes >= 1 else ""
        )
        if self.bar is not None:
            self.bar.set_description_str(text)
        elif self.sink:
            with contextlib.suppress(OSError), open(self.sink, "a", encoding="utf-8") as file:  # it never stops a run
                file.write(f"{os.environ.get('BOOK_CHAPTER', 'chapter')} · {text}\n")


class ChapterProgress:
    """A bar over the chapters that shows what the running ones write into the file that $BOOK_PROGRESS names."""

    def __init__(self, total: int):
        self.stop, self.resources = threading.Event(), contextlib.ExitStack()
        bar_format = "{desc} |{bar:20}| {n_fmt}/{total_fmt} chapters, {elapsed}"
        self.bar = tqdm(total=total, bar_format=bar_format, file=Patient(sys.stderr))
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "ChapterProgress":
        try:
            self.path = self.resources.enter_context(private_folder()) / "progress"
            self.path.touch()
        except OSError:  # nowhere to write: the bar counts chapters only
            self.path = Path(os.devnull)
        os.environ["BOOK_PROGRESS"] = str(self.path)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop.set()
        self.thread.join()
        self.bar.close()
        os.environ.pop("BOOK_PROGRESS", None)
        self.resources.close()

    def _follow(self) -> None:
        shown = None
        while not self.stop.wait(0.5):
            with contextlib.suppress(OSError):
                lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
                if lines and lines[-1] != shown:  # of several chapters at a time, the one that wrote last
                    shown = lines[-1]
                    self.bar.set_description_str(shown)
