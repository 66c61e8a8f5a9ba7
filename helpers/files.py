"""Files that are there whole or not at all, and that one writer changes at a time."""

import contextlib
import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None


class Locked:
    """A file that this process alone may change, from `locked`. `content` is what it held when the lock was got."""

    def __init__(self, path: Path, file: io.FileIO, held: contextlib.ExitStack):
        self.path, self.file, self._held = path, file, held
        file.seek(0)
        self.content = file.readall()

    def add(self, size: int, text: bytes) -> None:
        """Keep the first `size` bytes and add a text to them. After an error, the file holds the first `size` bytes."""
        try:
            self.file.truncate(size)
            rest = memoryview(text)
            while rest:
                rest = rest[self.file.write(rest) :]
            os.fsync(self.file.fileno())
        except BaseException:
            self.file.truncate(size)
            raise
        if size == 0:
            _sync_folder(self.path.parent)

    def swap(self, content: bytes) -> None:
        """Put a file of this content in its place, whole or not at all. The new file is locked before it is there."""

        def hold(partial: Path) -> None:
            if fcntl is None:
                self.file.close()  # Windows does not replace a file that is open
            else:
                _hold(self._held.enter_context(partial.open("ab")), self._held)

        write(self.path, content, hold)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Locked]:
    """A file, made where it is missing, for one writer; the others wait. If it is empty in the end, it is deleted.

    The file itself is locked: a folder cannot be on NFS, and a file for the lock would lie among the results. Whoever waited for
    a file that was replaced or deleted meanwhile opens the new one.
    raises OSError
    """
    with contextlib.ExitStack() as held:
        path.parent.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            _hold_on_windows(path, held)
        while True:
            file = held.enter_context(path.open("ab+", buffering=0))
            if fcntl is None:
                break
            _hold(file, held)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    break
            held.close()
        try:
            yield Locked(path, file, held)
        finally:
            with contextlib.suppress(OSError):
                if path.stat().st_size == 0:
                    path.unlink()


def _hold(file: io.IOBase, held: contextlib.ExitStack) -> None:
    fcntl.flock(file, fcntl.LOCK_EX)
    held.callback(fcntl.flock, file, fcntl.LOCK_UN)  # closing is not enough where a child process has inherited the file


def _hold_on_windows(path: Path, held: contextlib.ExitStack) -> None:
    """A lock among the temporary files: Windows neither replaces nor deletes a file that is open."""
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    lock = Path(tempfile.gettempdir()) / f"rows-{name}.lock"
    file = held.enter_context(lock.open("ab+"))
    while True:
        file.seek(0)
        with contextlib.suppress(OSError):  # it gives up after ten seconds
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            return


def read(path: Path) -> bytes:
    """What a file holds; a change that is under way is waited for."""
    with path.open("rb") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a folder without locks can be read all the same
                fcntl.flock(file, fcntl.LOCK_SH)
        return file.read()


def write(path: Path, content: bytes, before=lambda partial: None) -> None:
    """Write a file, whole or not at all, and wait until it is on the disk. before : gets the new file before it is in place"""
    partial = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        before(partial)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    _sync_folder(path.parent)


def is_partial(name: str, of: str) -> bool:
    """Whether `name` is what `write` leaves when it is killed. of : a pattern for the whole name of the file that it wrote"""
    return re.fullmatch(rf"\.(?:{of})\.\d+-[0-9a-f]{{8}}\.part", name) is not None


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Windows, and some network folders, cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
