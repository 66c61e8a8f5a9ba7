"""Rows that come from elsewhere: files found under a folder and checked, one by one, before anything of them is believed."""

import contextlib
import hashlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from helpers import names
from helpers import rows as storage
from helpers.arrays import check_array, load_arrays
from helpers.differences import resolved
from helpers.profiles import PROFILES
from helpers.rows import RowError

NAME = r"\w[\w-]*"  # of a paper and of a run: what a folder and a file are named by
TRIES = 5  # at a file that another process changes, not only adds to
KINDS = {
    **dict.fromkeys(("run", "profile", "utc", "device", "commit"), str),
    **dict.fromkeys(("args", "settings", "metrics", "versions", "data", "networks"), dict),
    **{"version": int, "seconds": (int, float)},
}


class Changed(RowError):
    """Another process changed a row while it was merged."""


@dataclass(frozen=True)
class File:
    """A file of rows: folder/paper/profile/run.jsonl."""

    folder: Path
    paper: str
    profile: str
    run: str

    @property
    def path(self) -> Path:
        return self.folder / self.paper / self.profile / f"{self.run}.jsonl"

    @property
    def place(self) -> tuple[str, str, str]:
        return self.paper, self.profile, self.run

    def __str__(self) -> str:
        return f"{self.paper} {self.run} ({self.profile})"


@dataclass
class Incoming:
    """A row that was checked.

    path, content, names : the file of its arrays (None: it has none), the hash of what it holds, and the arrays' names
    refused : why it cannot be used; lacks : which arrays it must have had, in words; else ""
    """

    row: dict
    path: Path | None = None
    content: str = ""
    names: frozenset[str] = frozenset()
    refused: str = ""
    lacks: str = ""

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays, as they were when they were checked. raises Changed where they are others now, or gone"""
        if self.path is None:
            return {}
        try:
            if _hash(self.path) == self.content:
                return load_arrays(self.path)
        except (OSError, RowError):
            pass
        raise Changed(f"{self.path} was changed")


@dataclass
class Checked:
    """A file of rows whose content was checked, by key."""

    file: File
    rows: dict[str, Incoming] = field(default_factory=dict)


def find(source: Path) -> list[File]:
    """The files of rows under a folder that $BOOK_RESULTS named, or under its `results`. raises ValueError where there is none"""
    wanted = "name a folder that BOOK_RESULTS named, with results/<paper>/<profile>/<run>.jsonl in it, or its results folder"
    if not source.is_dir():
        raise ValueError(f"there is no folder {source}: {wanted}")
    folder = source / "results" if (source / "results").is_dir() else source
    paths = sorted(path.relative_to(folder) for path in folder.glob("*/*/*.jsonl"))
    files = [File(folder, *path.parts[:2], path.stem) for path in paths if not any(part.startswith(".") for part in path.parts)]
    if not files:
        raise ValueError(f"there are no rows in {source}: {wanted}")
    return files


def read(file: File, papers: Collection[str], say: Callable[[str], None]) -> Checked:
    """A file of rows as it is at one moment, while another process may write to it.

    raises RowError where it is not what its name says, or a row of it is damaged. A row with damaged arrays is marked as refused.
    """
    _check_place(file, papers)
    for _ in range(TRIES):
        found, unfinished = rows_of(file.path)
        for row in found.values():
            _check(row, file)
        checked = Checked(file, {key: _with_arrays(file.path, row) for key, row in found.items()})
        again = rows_of(file.path)[0]
        if all(again.get(key) == row for key, row in found.items()):  # else the arrays may be those of another row
            if unfinished:
                say(f"{file}: its last line is unfinished, that run is being recorded or was stopped; the row is passed over")
            return checked
    raise RowError(f"{file.path} is being changed all the time: wait until its run has ended, then merge again")


def rows_of(path: Path) -> tuple[dict[str, dict], bool]:
    """The rows of a file by key, and whether its last line is unfinished. raises RowError for a damaged file"""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            return storage.read(path), bool(caught)
        except (ValueError, TypeError, RecursionError) as error:  # what is JSON and cannot have been a row
            raise RowError(f"{path} holds a line that is no row of this book ({error})") from error


def mark_without_bits(checked: list[Checked], target: Path) -> None:
    """Mark rows whose bits or scores were left behind, such as by a copy of the `.jsonl` files only.

    A row does not say whether it has arrays. But the same code stores the same: where another row of the run has, by the same
    code, the bits of a metric that this row has too, this row had them.
    """
    stored: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for there in checked:
        run = (there.file.paper, there.file.run)
        if run not in stored:
            stored[run] = _stored_by(target, *run)
        stored[run] |= {(r.row["code"], name) for r in there.rows.values() if "code" in r.row for name in r.names}
    for there in checked:
        measured = [(code, name, names.measured(name)) for code, name in sorted(stored[there.file.paper, there.file.run])]
        for r in there.rows.values():
            had = {name for code, name, of in measured if of and code == r.row.get("code") and of[1] in r.row["metrics"]}
            if not had <= r.names:
                r.lacks = f"its arrays were left behind ('{min(had - r.names)}'): copy the .npz files beside its rows too"


def _stored_by(target: Path, paper: str, run: str) -> set[tuple[str, str]]:
    """What the book's rows of a run have beside them: code and names of arrays."""
    found = set()
    for path in target.glob(f"{paper}/*/{run}.jsonl"):
        with contextlib.suppress(OSError, RowError):  # it is told where its own rows are merged
            stored = [(row["code"], storage.arrays_path(path, row)) for row in rows_of(path)[0].values() if "code" in row]
            found |= {(code, name) for code, beside in stored if beside.exists() for name in load_arrays(beside)}
    return found


def _check_place(file: File, papers: Collection[str]) -> None:
    if not (re.fullmatch(NAME, file.paper) and re.fullmatch(NAME, file.run)):
        raise RowError(f"{file.path}: a paper and a run are named by letters, digits, _ and -")
    if file.profile not in PROFILES:
        raise RowError(f"{file.path}: there is no profile {file.profile!r}; there are: {', '.join(PROFILES)}")
    if file.paper not in papers:
        raise RowError(f"{file.path}: the book has no paper {file.paper!r}; it has: {', '.join(sorted(papers)) or 'none'}")
    for folder in (file.path.parent.parent, file.path.parent):
        if folder.is_symlink():
            raise RowError(f"{folder} is a link: copy what it stands for in its place")
    check_plain(file.path)


def _check(row: dict, file: File) -> None:
    """raises RowError where a row is not of its file, or a field is not what readers take it to be"""
    where = f"{file.path}, row {row['key']}"
    if wrong := [k for k, kind in KINDS.items() if not isinstance(row[k], kind) or isinstance(row[k], bool)]:
        raise RowError(f"{where}: its {wrong[0]} is no {_kind(KINDS[wrong[0]])}: it was edited by hand")
    if (row["run"], row["profile"]) != (file.run, file.profile):
        raise RowError(f"{where} is of run {row['run']!r} at {row['profile']}: put it into that file")
    if not all(type(v) in (int, float) and abs(v) <= sys.float_info.max for v in row["metrics"].values()):
        raise RowError(f"{where}: its metrics are not all finite numbers")
    splits = row["data"].values()
    if not all(isinstance(s, dict) and isinstance(s.get("name"), str) and isinstance(s.get("digest"), str) for s in splits):
        raise RowError(f"{where}: its data have no names and digests")
    if type(row["args"].get("seed")) is not int or not isinstance(row.get("code", ""), str):
        raise RowError(f"{where} has no seed among its arguments, or a code that is no text")
    try:
        storage.canonical(row)
    except ValueError as error:
        raise RowError(f"{where} holds what is no number ({error})") from error


def _kind(kind) -> str:
    return {str: "text", dict: "table of values", int: "whole number"}.get(kind, "number")


def _with_arrays(path: Path, row: dict) -> Incoming:
    """A row with what is known of its arrays. A plain row does not say that it has some: a file that is there is its file."""
    beside = storage.arrays_path(path, row)
    if row.get("arrays") == "none" or not ("arrays" in row or os.path.lexists(beside)):
        return Incoming(row)
    try:
        if os.path.lexists(beside):
            check_plain(beside)
        arrays, content = load_arrays(beside), _hash(beside)
        if "arrays" in row and not content.startswith(row["arrays"]):
            raise RowError(f"{beside} is not what was stored with its row: copy both again")
        _check_arrays(arrays, row, beside)
    except (OSError, RowError) as error:
        return Incoming(row, refused=str(error))
    return Incoming(row, beside, content, frozenset(arrays))


def _check_arrays(arrays: dict[str, np.ndarray], row: dict, path: Path) -> None:
    """raises RowError for arrays that would not be stored, or that do not give the metrics of this row"""
    try:
        for name, array in arrays.items():
            check_array(name, array)
        for template, metric in sorted({found for name in arrays if (found := names.measured(name))}):
            if not abs(_value(arrays, template, metric) - row["metrics"][metric]) <= 1e-6:  # seven digits are stored
                raise RowError(f"{path} does not give its row's {metric}, it is of another row: copy both again")
        resolved(arrays)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RowError(f"{path} holds what cannot be stored ({error}): restore it, or delete its row") from error


def _value(arrays: dict[str, np.ndarray], template: str, metric: str) -> float:
    """A metric, computed from its bits or scores. raises an error of some kind where they are not such"""
    if template == names.RIGHT:
        return arrays[template.format(metric=metric)].mean()
    from helpers.metrics import auroc  # torch is slow to import, and most rows have no scores
    from helpers.results import scores_of

    return auroc(*scores_of(arrays, metric).sides().values())


def check_plain(path: Path) -> None:
    """raises RowError for a link, and for what would block or is a folder"""
    if path.is_symlink() or not path.is_file():
        raise RowError(f"{path} is a link, or no plain file: copy what it stands for in its place")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
