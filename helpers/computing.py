"""Computing the rows that an experiment lacks: one by one in this process, or as tasks of a cluster."""

import contextlib
import copy
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch

from helpers import data as datasets
from helpers import provenance, results
from helpers import rows as storage
from helpers.declaration import RESERVED
from helpers.progress import GridProgress
from helpers.seeding import seeded

Row, Arrays = dict, dict


class Here:
    """Computes the rows of an experiment in this process; its data are loaded once."""

    def __init__(self, x):
        self.x, study = x, x.study
        study.opened = {}
        self.data = x.data(x.settings)
        self.splits = described(self.data)
        self.shared = study.opened  # networks that the data come from

    def rows(self, todo: dict[str, dict], progress: GridProgress) -> Iterator[tuple[Row, Arrays]]:
        """Each row of {key: arguments}, when it is known."""
        for key, args in todo.items():
            progress.at(args)
            yield make_row(self.x, key, args, self.data, self.splits, self.shared)


def compute_missing(x, wanted: dict[str, dict], stored: dict[str, dict]) -> None:
    """Compute those rows of {key: arguments} that are not among `stored`, and add them there as well as to the experiment's file.

    Of working runs also those that other code or other data made; the old ones stay until the new ones are there.
    raises RowError before anything is computed where the record has rows of other data
    """
    working = x.study.working
    stale = {key for key, row in stored.items() if working and row.get("code") != x.code}
    todo = {key for key in wanted if key not in stored or key in stale}
    there = [stored[key] for key in wanted if key not in todo]
    if not todo and not (working and _newest_file(x.study.data_root) > min(row["utc"] for row in there)):
        return
    with _engine(x) as engine:
        other = [row for row in there if _digests(row["data"]) != _digests(engine.splits)]
        if other and not working:  # before anything is computed that could not stand beside them
            x.check_data([*other, {"data": engine.splits}])
        todo |= {row["key"] for row in other}
        with GridProgress(x.name, len(wanted), len(wanted) - len(todo)) as progress:
            for row, arrays in engine.rows({key: args for key, args in wanted.items() if key in todo}, progress):
                stored[row["key"]] = _keep(x, row, arrays)
                progress.done()


def make_row(x, key: str, args: dict, data: dict, splits: dict, shared: dict) -> tuple[Row, Arrays]:
    """Measure one row of an experiment. Returns it with where it came from, and its arrays.

    data, splits : {role: Split}, and what `described` says of them
    shared : networks that the data come from, as rows name them
    """
    study = x.study
    started, used = time.monotonic(), time.process_time()
    study.opened = dict(shared)
    with seeded(args["seed"], study.device):
        result = x.measure(copy.deepcopy(x.settings), data, **args)  # a run that changes its own changes no key
    metrics, arrays = results.split(result, f"{x.name} {args}", {*args, *RESERVED})
    row = {
        "run": x.name,
        "key": key,
        "args": args,
        "metrics": metrics,
        "profile": x.profile,
        "settings": x.variant.settings(x.profile),
        "version": x.version,
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - used, 1),
        "threads": torch.get_num_threads(),
        "utc": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "device": provenance.device_name(study.device),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "data": splits,
        "networks": study.opened,
        "code": x.code,
    }
    return row, arrays


def described(data: dict) -> dict[str, dict]:
    """What a row says of the split of each role."""
    return {role: {"name": split.name, "size": len(split), "digest": split.digest} for role, split in data.items()}


@contextlib.contextmanager
def _engine(x) -> Iterator:
    if not x.study.cluster:
        yield Here(x)
        return
    from helpers.cluster import Tasks  # Dask is imported only where it is asked for

    with Tasks(x) as tasks:
        yield tasks


def _keep(x, row: Row, arrays: Arrays) -> Row:
    """Store a row; returns it as it is stored."""
    if x.study.working:
        return storage.replace(x.path, row, arrays)
    if storage.append(x.path, row, arrays):
        return row
    return storage.read(x.path)[row["key"]]  # another process was first


def _digests(splits: dict) -> dict[str, str]:
    return {role: split["digest"] for role, split in splits.items()}


def _newest_file(data_root) -> str:
    """When the newest file of the datasets was changed, as rows write their time; "" where there is none."""
    try:
        root = Path(data_root).expanduser() if data_root else datasets.default_root()
        # a copy may keep the old file's time; when it came here it does not keep
        newest = max((max(entry.stat().st_mtime, entry.stat().st_ctime) for entry in os.scandir(root)), default=0.0)
    except (OSError, RuntimeError):
        return ""
    return datetime.fromtimestamp(newest, UTC).strftime("%Y-%m-%d %H:%M:%S")
