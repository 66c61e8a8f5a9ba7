"""Rows on disk: one line of JSON each, appended the moment it is known, with where it came from."""

import contextlib
import hashlib
import json
import os
import re
import warnings
from pathlib import Path

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

ROOT = Path(__file__).resolve().parent.parent
FIELDS = {
    "run",
    "key",
    "args",
    "settings",
    "version",
    "metrics",
    "profile",
    "seconds",
    "utc",
    "device",
    "versions",
    "commit",
    "data",
    "networks",
}


class RowError(RuntimeError):
    """A file of rows that cannot be used; the message names file and line."""


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
    if not path.exists():
        return {}
    *lines, rest = path.read_bytes().split(b"\n")
    if rest:
        warnings.warn(f"{path.name}: the last line is unfinished and left out; its run will be made again", stacklevel=2)
    rows: dict[str, dict] = {}
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RowError(
                f"{where} is not JSON ({error}): restore the file, or delete the line to have it computed again"
            ) from error
        if not isinstance(row, dict) or not row.keys() >= FIELDS:
            missing = sorted(FIELDS - row.keys()) if isinstance(row, dict) else sorted(FIELDS)
            raise RowError(f"{where} is no row of this book: it lacks {', '.join(missing)}")
        if row["key"] != key_of(row["run"], row["args"], row["settings"], row["version"]):
            raise RowError(f"{where}: its key does not belong to its run, arguments, settings and version: it was edited by hand")
        if row["key"] in rows:
            raise RowError(f"{where} has the same key as an earlier line: delete one of the two")
        rows[row["key"]] = row
    return rows


def append(path: Path, row: dict, arrays=None) -> None:
    """Add one row and wait until it is on the disk. After an error, the file holds what it held before.

    Two processes may add to one file: it is locked meanwhile, and a row that the other has stored is not stored twice.
    """
    if arrays:
        save_arrays(arrays_path(path, row), arrays)
    text = json.dumps(row, allow_nan=False).encode() + b"\n"
    size = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content = file.read()
            size = content.rfind(b"\n") + 1  # what follows is a line that a killed process left unfinished
            if f'"key": "{row["key"]}"'.encode() in content[:size]:
                return
            file.truncate(size)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if size is not None:
            os.truncate(path, size)
        raise RowError(f"could not write to {path} ({error}); what it held before is intact") from error


def anchor(*arguments) -> str:
    """The name of a group of rows on its page, from the arguments that they share: letters, digits and hyphens only."""
    return "-".join(["rows", *re.findall(r"\w+", " ".join(map(str, arguments)))])


def group_of(row: dict) -> str:
    """The name, on its page, of the group that a row belongs to: those that differ from it in the seed only."""
    return anchor(*(v for k, v in row["args"].items() if k != "seed"))


def remove(path: Path, keys: list[str]) -> None:
    """Take rows out of a file, whole or not at all."""
    kept = [json.dumps(row) + "\n" for key, row in read(path).items() if key not in keys]
    partial = path.with_suffix(".part")
    partial.write_text("".join(kept))
    partial.replace(path)


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as one compressed `.npz`, floats as float32 rounded to four decimals, whole or not at all."""
    rounded = {k: np.round(a.astype(np.float32), 4) if a.dtype.kind == "f" else a for k, a in arrays.items()}
    partial = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez_compressed(file, **rounded)
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise RowError(f"could not write {path} ({error})") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` that `save_arrays` wrote."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {k: file[k] for k in file.files}
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a damaged file
        raise RowError(
            f"{path} is missing or damaged ({error}): restore it, or delete its row to have both computed again"
        ) from error


def arrays_path(path, row):
    """provisional"""
    return path.with_name(f"{path.stem}-{row['key']}.npz")


def replace(path, row, arrays=None):
    """provisional"""
    if path.exists():
        remove(path, [row["key"]])
    append(path, row, arrays)


TOLERANCE = 0.03  # of a rate at `smoke`, absolute; of another quantity, relative


def came_out_again(stored: dict[str, dict], again: dict[str, dict], *, close: bool) -> list[dict]:
    """For each row computed again: whether the stored row of the same key came out, with every metric that it has. Arrays of
    figures are not compared, nor is what is measured now and was not then.

    close : compare within TOLERANCE, which another processor also meets; else a value has to lie inside the 95 % prediction
        interval of the stored seeds (within TOLERANCE of the stored value where there is only one seed)
    returns dicts with args, verdict ("yes", "no" or "not stored"), and the metric that is furthest off with both values
    """
    from scipy import stats

    def family(row: dict) -> list:
        return [{k: v for k, v in row["args"].items() if k != "seed"}, row["settings"], row["version"]]

    results = []
    for key, row in again.items():
        entry = {
            "args": " ".join(str(v) for v in row["args"].values()),
            "verdict": "not stored",
            "metric": "",
            "stored": "",
            "again": "",
        }
        if key in stored:
            old, new = stored[key]["metrics"], row["metrics"]
            entry["verdict"] = "yes" if old.keys() <= new.keys() else "no"
            siblings = [r["metrics"] for r in stored.values() if family(r) == family(stored[key])]
            off = {}
            for name in old.keys() & new.keys():
                allowed, centre = TOLERANCE * max(1.0, abs(old[name])), old[name]
                values = np.array([m[name] for m in siblings if name in m])
                if not close and len(values) > 1:
                    n, centre = len(values), values.mean()
                    allowed = max(0.003, stats.t.ppf(0.975, n - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / n))
                off[name] = abs(new[name] - centre) / allowed
            if off:
                worst = max(sorted(off), key=off.get)
                entry |= {"metric": worst, "stored": old[worst], "again": new[worst]}
                entry["verdict"] = "no" if off[worst] > 1 else entry["verdict"]
        results.append(entry)
    return results
