"""Rows on disk: one line of JSON each, appended the moment it is known, with where it came from."""

import contextlib
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import torch

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


def append(path: Path, row: dict) -> None:
    """Add one row and wait until it is on the disk. After an error, the file holds what it held before.

    Two processes may add to one file: it is locked meanwhile, and a row that the other has stored is not stored twice.
    """
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


@cache
def commit() -> str:
    """The code's commit: $BOOK_COMMIT, which a recording run sets at its start and where there is no .git; else git's, 12 digits,
    with a `+` where the tree differs from it."""
    if os.environ.get("BOOK_COMMIT"):
        return os.environ["BOOK_COMMIT"]
    try:
        git = ["git", "-C", str(ROOT)]
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        return head + ("+" if dirty() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def dirty() -> list[str]:
    """Files that differ from the commit, but for what recording itself writes: `results/` and the zoo."""
    outside = [".", ":!results", ":!helpers/weights"]
    command = ["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=all", "--", *outside]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def changes() -> str:
    """A hash of how the code differs from its commit; empty where it does not, or where there is no git."""
    if not commit().endswith("+"):
        return ""
    diff = subprocess.run(
        ["git", "-C", str(ROOT), "diff", "HEAD", "--", ".", ":!results"], capture_output=True, check=True
    ).stdout
    return hashlib.sha256(diff + "".join(dirty()).encode()).hexdigest()[:12]


def device_name(device: torch.device) -> str:
    """What computes: the GPU's name, or the processor's and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())[1].strip()
    except (OSError, TypeError):
        model = platform.processor() or platform.machine()
    return f"{model}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of what a number depends on."""
    return {"python": ".".join(map(str, sys.version_info[:3])), "torch": torch.__version__, "numpy": np.__version__}
