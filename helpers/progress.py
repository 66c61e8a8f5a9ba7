"""Progress of long work: a grid says it to a person on stderr, or, with its chapter's name, to the runner, which shows it."""

import os
import sys
import tempfile
import threading
import time
from pathlib import Path

from tqdm import tqdm


class GridProgress:
    """`12 of 15 stored, about 40 min to go`: a bar on stderr, or lines in $BOOK_PROGRESS for the runner to show."""

    def __init__(self, run: str, total: int, stored: int):
        self.run, self.total, self.stored, self.first = run, total, stored, stored
        self.started, self.sink = time.monotonic(), os.environ.get("BOOK_PROGRESS")

    def __enter__(self) -> "GridProgress":
        quiet = self.sink or self.stored == self.total
        self.bar = None if quiet else tqdm(total=self.total, initial=self.stored, file=sys.stderr, bar_format="{desc} |{bar:20}|")
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
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
            with open(self.sink, "a") as file:
                file.write(f"{os.environ.get('BOOK_CHAPTER', 'chapter')} · {text}\n")


class ChapterProgress:
    """A bar over the chapters that shows what the running ones write into the file that $BOOK_PROGRESS names."""

    def __init__(self, total: int):
        handle, name = tempfile.mkstemp(prefix="book-progress-")
        os.close(handle)
        self.path, self.stop = Path(name), threading.Event()
        os.environ["BOOK_PROGRESS"] = name
        self.bar = tqdm(total=total, bar_format="{desc} |{bar:20}| {n_fmt}/{total_fmt} chapters, {elapsed}", file=sys.stderr)
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "ChapterProgress":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop.set()
        self.thread.join()
        self.bar.close()
        os.environ.pop("BOOK_PROGRESS")
        self.path.unlink(missing_ok=True)

    def _follow(self) -> None:
        shown = None
        while not self.stop.wait(0.5):
            lines = self.path.read_text().splitlines()  # of several chapters at a time, the one that wrote last
            if lines and lines[-1] != shown:
                shown = lines[-1]
                self.bar.set_description_str(shown)
