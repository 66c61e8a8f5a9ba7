"""Locks, files that appear whole, and folders of one process: what a killed process left is cleared by the next one's start."""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

PREFIX = "book-run-"
_at_stop: list[Callable[[], None]] = []  # what a process does before a signal ends it


@contextlib.contextmanager
def on_stop(action: Callable[[], None]) -> Iterator[None]:
    """While inside, `clean_up` calls `action`."""
    _at_stop.append(action)
    try:
        yield
    finally:
        _at_stop.remove(action)


def clean_up() -> None:
    """End what this process started and remove its folders, the latest first. Called before the process ends at once."""
    for action in reversed(_at_stop):
        with contextlib.suppress(Exception):
            action()


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file, which is made and stays. raises BlockingIOError where another process has it, unless `wait`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        _lock(file, wait)
        yield


def _lock(file, wait: bool = False) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        pass


@contextlib.contextmanager
def private_folder(parent: Path | str | None = None) -> Iterator[Path]:
    """A new folder under `parent` (None: the system's temporary folder), removed at the end.

    Folders of killed processes there are removed first: a living process holds the lock of its folder's file `lock`.
    """
    parent = Path(parent or tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    _clear(parent)
    new = Path(tempfile.mkdtemp(prefix="book-new-", dir=parent))
    with (new / "lock").open("wb") as file:
        _lock(file)
        folder = new.rename(parent / new.name.replace("book-new-", PREFIX)) if fcntl else new  # locked before others see it
        remove = partial(shutil.rmtree, folder, ignore_errors=True)
        try:
            with on_stop(remove):
                yield folder
        finally:
            remove()
    if fcntl is None:
        remove()  # Windows keeps a file while it is open


def _clear(parent: Path) -> None:
    """Remove this user's folders whose process is dead."""
    if fcntl is None:
        return
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, in use, or gone meanwhile
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            with (folder / "lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file, whole or not at all, whoever else writes it at the same time."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
