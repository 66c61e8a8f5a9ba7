"""Rows on disk: one line of JSON each, stored the moment it is known, with its arrays beside it. One writer at a time."""

import contextlib
import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from helpers import files
from helpers.arrays import RowError, encoded, load_arrays, save_arrays  # noqa: F401  a study says rows.load_arrays

ROOT = Path(__file__).resolve().parent.parent
FIELDS = {
    *("run", "key", "args", "settings", "version", "metrics", "profile"),
    *("seconds", "utc", "device", "versions", "commit", "data", "networks"),
}
DIGEST = "[0-9a-f]{8}"  # of the content of a file of arrays, where its name carries one


def canonical(value) -> str:
    """JSON with sorted keys and no NaN: equal values give equal text. raises TypeError or ValueError for anything else."""
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))


def key_of(run: str, args: dict, settings: dict, version: int) -> str:
    """The identity of a row: 12 hex digits of a hash of everything that decides what it measures."""
    return hashlib.sha256(canonical([run, args, settings, version]).encode()).hexdigest()[:12]


def read(path: Path) -> dict[str, dict]:
    """The rows of a file by key, in order. A missing file holds none.

    An unfinished last line (its run was killed while writing) is left out with a warning; anything else that is not a row, or a
    key that comes twice, raises RowError.
    """
    try:
        content = files.read(path)
    except FileNotFoundError:
        return {}
    if not content.endswith(b"\n") and content:
        warnings.warn(f"{path.name}: the last line is unfinished and left out; its run will be made again", stacklevel=2)
    return _parsed(_whole(content), path)


def _whole(content: bytes) -> bytes:
    """What a file holds without a last line that a killed process left unfinished."""
    return content[: content.rfind(b"\n") + 1]


def _parsed(content: bytes, path: Path) -> dict[str, dict]:
    rows: dict[str, dict] = {}
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RowError(
                f"{where} is not JSON ({error}): restore the file, or delete the line to have it computed again"
            ) from error
        _check(row, where)
        if row["key"] in rows:
            raise RowError(f"{where} has the same key as an earlier line: delete one of the two")
        rows[row["key"]] = row
    return rows


def _check(row, where: str) -> None:
    if not isinstance(row, dict) or not row.keys() >= FIELDS:
        missing = sorted(FIELDS - row.keys()) if isinstance(row, dict) else sorted(FIELDS)
        raise RowError(f"{where} is no row of this book: it lacks {', '.join(missing)}")
    if row["key"] != key_of(row["run"], row["args"], row["settings"], row["version"]):
        raise RowError(f"{where}: its key does not belong to its run, arguments, settings and version: it was edited by hand")
    if "arrays" in row and not re.fullmatch(f"{DIGEST}|none", str(row["arrays"])):
        raise RowError(f"{where}: its arrays {row['arrays']!r} are no digest: it was edited by hand")


def _line(row: dict) -> bytes:
    text = json.dumps(row, allow_nan=False)
    _check(json.loads(text), f"the row {row.get('args')} of '{row.get('run')}'")
    return text.encode() + b"\n"


def append(path: Path, row: dict, arrays: dict[str, np.ndarray] | None = None) -> bool:
    """Add one row, its arrays first, and wait until both are on the disk. Returns whether it was stored.

    A row whose key is there already is not stored, nor are its arrays. After an error, the file holds what it held before.
    raises RowError for a file that cannot be written, ValueError for numbers that are not finite
    """
    row = {k: v for k, v in row.items() if k != "arrays"}
    line, content = _line(row), encoded(arrays) if arrays else None
    with _one_writer(path) as file:
        there = _whole(file.content)
        if row["key"].encode() in there and row["key"] in _parsed(there, path):
            return False
        _add(file, row, line, content)
    return True


def replace(path: Path, row: dict, arrays: dict[str, np.ndarray] | None = None) -> dict:
    """Put a row and its arrays in the place of the row of the same key; add it where there is none. Returns the row as stored.

    The old row and its arrays are there until the new ones are on the disk; other rows keep their lines and their order. New
    arrays get a name of their own, with a digest that the row carries as `arrays` ("none" where it has no arrays any more): a
    kill never leaves a row beside the arrays of another one.
    raises RowError for a file that cannot be written, ValueError for numbers that are not finite
    """
    row = {k: v for k, v in row.items() if k != "arrays"}
    line, content = _line(row), encoded(arrays) if arrays else None
    with _one_writer(path) as file:
        lines = _lines(file)
        if row["key"] not in lines:
            _add(file, row, line, content)
            return row
        plain, old = arrays_path(path, row), json.loads(lines[row["key"]])
        if content is None and plain.exists():
            row["arrays"] = "none"
        elif content is not None and ("arrays" in old or not plain.exists() or plain.read_bytes() != content):
            row["arrays"] = hashlib.sha256(content).hexdigest()[:8]
            files.write(arrays_path(path, row), content)
        try:
            file.swap(b"".join((lines | {row["key"]: _line(row)}).values()))
        except OSError:
            _clear_arrays(path, row["key"], but=arrays_path(path, old))
            raise
        _clear_arrays(path, row["key"], but=arrays_path(path, row))
    return row


def remove(path: Path, keys: Iterable[str]) -> None:
    """Take rows out of a file, whole or not at all, and then their arrays. A key that is not there is passed over."""
    if not path.exists():
        return
    with _one_writer(path) as file:
        lines = _lines(file)
        gone = lines.keys() & set(keys)
        if gone:
            file.swap(b"".join(line for key, line in lines.items() if key not in gone))
        for key in gone:
            _clear_arrays(path, key)


def arrays_path(path: Path, row: dict) -> Path:
    """The file beside `path` that holds the arrays of one of its rows, where the row has any."""
    words = [path.stem, row["key"], *([row["arrays"]] if "arrays" in row else [])]
    return path.with_name("-".join(words) + ".npz")


@contextlib.contextmanager
def _one_writer(path: Path) -> Iterator[files.Locked]:
    """A file of rows, locked, without what killed writers left beside it."""
    names = rf"{re.escape(path.name)}|{re.escape(path.stem)}-[0-9a-f]{{12}}(-{DIGEST})?\.npz"
    try:
        with files.locked(path) as file:
            for name in os.listdir(path.parent):
                if files.is_partial(name, names):
                    with contextlib.suppress(OSError):  # it disturbs nobody
                        path.with_name(name).unlink()
            yield file
    except OSError as error:
        raise RowError(f"could not write to {path} ({error}); what it held before is intact") from error


def _lines(file: files.Locked) -> dict[str, bytes]:
    """The lines of a file of rows by key, as they are."""
    there = _whole(file.content)
    return dict(zip(_parsed(there, file.path), (line + b"\n" for line in there.split(b"\n")[:-1]), strict=True))


def _add(file: files.Locked, row: dict, line: bytes, content: bytes | None) -> None:
    """Add a line after its arrays, or neither."""
    beside = arrays_path(file.path, row)
    try:
        if content is None:
            beside.unlink(missing_ok=True)  # of a process that was killed before its row was there
        else:
            files.write(beside, content)
        file.add(len(_whole(file.content)), line)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _clear_arrays(path: Path, key: str, but: Path | None = None) -> None:
    """Delete the arrays of a key, but for one file."""
    for name in os.listdir(path.parent):
        if re.fullmatch(rf"{re.escape(path.stem)}-{key}(-{DIGEST})?\.npz", name) and path.with_name(name) != but:
            with contextlib.suppress(OSError):  # no row names it any more; the next change of this key tries again
                path.with_name(name).unlink()


# What stands between two words of a name without being part of it. Anything else (a sign, a `+`, a bracket) tells names apart.
SEPARATORS = r"(?<=\w)[-='](?=\w)|(?<=\w)[.,:∞] | [=×] | %$"


def anchor(*arguments) -> str:
    """The name of a group of rows on its page, from the arguments that they share: letters, digits and hyphens only.

    Where the words alone do not tell the arguments (-1 and 1, PGD and PGD+, 1 5.2 and 1.5 2), four digits of a hash follow.
    """
    text = " ".join(map(str, arguments))
    words = re.findall(r"\w+", text)
    plain = re.sub(SEPARATORS, " ", re.sub(r"(?<=\d)/(?=\d)|(?<=\d),(?=\d{3})", ".", text)).rstrip()
    told = re.sub(r"\b(\d+) (\d+)\b", r"\1.\2", " ".join(words))
    more = [] if told == plain else [hashlib.sha256(text.encode()).hexdigest()[:4]]
    return "-".join(["rows", *words, *more])


def group_of(row: dict) -> str:
    """The name, on its page, of the group that a row belongs to: those that differ from it in the seed only."""
    return anchor(*(v for k, v in row["args"].items() if k != "seed"))
