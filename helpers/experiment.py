"""Experiments: one table or figure, its settings at each profile, its rows, and what was judged from them.

An experiment is made by `Study.run`, which computes the rows that are missing. At `report` nothing is computed: shown are the
stored rows of the first profile, and there of the newest settings, that have at least two whole seeds (or all that are wanted).
"""

import copy
import os
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import data as datasets
from helpers import names, provenance
from helpers import results as measured
from helpers import rows as storage
from helpers.declaration import RESERVED, Variant, check_declaration
from helpers.identity import identity
from helpers.metrics import Right, Scores
from helpers.profiles import PROFILES
from helpers.progress import GridProgress
from helpers.results import scores_of
from helpers.rows import RowError
from helpers.seeding import seeded

ENOUGH = 2  # whole seeds, before an unfinished experiment is shown


class MissingRows(RuntimeError):
    """`report` found no profile at which enough of an experiment is stored."""


class Experiment:
    """One table or figure of a study. See `Study.run` for what declares it.

    rows : DataFrame, one line per combination of the arguments: arguments, metrics, `key`
    records : the same rows as they are stored, with where each came from
    profile, settings : those that are shown at `report`, else the study's own
    verdicts, sentences, survivals : what `tables` judged from it, as DataFrames
    """

    def __init__(
        self,
        study,
        name: str,
        measure: Callable[..., dict],
        *,
        data: Callable[[dict], dict],
        over: Mapping[str, list] | None = None,
        version: int = 1,
        replaces: Iterable[dict] = (),
        **profiles: dict,
    ):
        self.study, self.name, self.measure, self.data = study, name, measure, data
        if not isinstance(over or {}, Mapping):
            raise TypeError(f"{name}: `over` must be a dict of lists, such as {{'method': ['FGS']}}, not {over!r}")
        self.over, self.version, self.profiles = dict(over or {}), version, profiles
        check_declaration(name, self.over, profiles, version)
        if not callable(measure) or not callable(data):
            raise TypeError(f"{name}: the run and `data` must be functions: (settings, data, **arguments) and (settings)")
        self.variants = [Variant(version, self.over, profiles), *map(self._earlier, replaces)]
        self.code = identity(measure, data)
        self.records: list[dict] = []
        self.rows = pd.DataFrame()
        if study.profile == "report":
            self.profile, self.variant, self.seeds = self._shown()
        else:
            self.profile, self.variant, self.seeds = study.profile, self.variants[0], self._asked()
        self.settings = self.variant.profiles[self.profile]
        self.wanted = self.variants[0].profiles[self.profile]["seeds"]

    @property
    def path(self) -> Path:
        """The file of the rows that are shown."""
        return self.study.path(self.profile, self.name)

    def complete(self) -> "Experiment":
        """Compute and store what is missing, then read all rows. Returns itself."""
        arguments = self.variant.arguments(self.profile, self.seeds)
        keys = self.variant.keys(self.name, self.profile, arguments)
        stored = storage.read(self.path)
        if self.study.profile != "report":
            self._compute_missing(dict(zip(keys, arguments, strict=True)), stored)
        self._take([stored[key] for key in keys])
        return self

    def _compute_missing(self, wanted: dict[str, dict], stored: dict[str, dict]) -> None:
        """Compute those of the wanted rows that are not stored, and add them there as well.

        Of working runs also those that other code or other data made; the old ones stay until the new ones are there.
        """
        stale = {key for key, row in stored.items() if self.study.working and row.get("code") != self.code}
        todo = {key for key in wanted if key not in stored or key in stale}
        there = [stored[key] for key in wanted if key not in todo]
        if not todo and not (self.study.working and _newest_file(self.study.data_root) > min(row["utc"] for row in there)):
            return
        self.study.opened = {}
        data = self.data(self.settings)
        digests, shared = {role: split.digest for role, split in data.items()}, self.study.opened
        other = [row for row in there if _digests(row) != digests]
        if other and not self.study.working:  # before anything is computed that could not stand beside them
            self._same_data([*other, {"data": {r: {"name": v.name, "digest": v.digest} for r, v in data.items()}}])
        todo |= {row["key"] for row in other}
        with GridProgress(self.name, len(wanted), len(wanted) - len(todo)) as progress:
            for key, args in wanted.items():
                if key in todo:
                    progress.at(args)
                    row, arrays = self._compute(key, args, data, shared)
                    if self.study.working:
                        stored[key] = storage.replace(self.path, row, arrays)
                    elif storage.append(self.path, row, arrays):
                        stored[key] = row
                    else:  # another process was first
                        stored[key] = storage.read(self.path)[key]
                    progress.done()

    def _compute(self, key: str, args: dict, data: dict, shared: dict) -> tuple[dict, dict]:
        started = time.monotonic()
        self.study.opened = dict(shared)  # networks that the data come from
        with seeded(args["seed"], self.study.device):
            result = self.measure(copy.deepcopy(self.settings), data, **args)  # a run that changes its own changes no key
        metrics, arrays = measured.split(result, f"{self.name} {args}", {*args, *RESERVED})
        row = {
            "run": self.name,
            "key": key,
            "args": args,
            "metrics": metrics,
            "profile": self.profile,
            "settings": self.variant.settings(self.profile),
            "version": self.version,
            "seconds": round(time.monotonic() - started, 1),
            "utc": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
            "device": provenance.device_name(self.study.device),
            "versions": provenance.versions(),
            "commit": provenance.commit(),
            "data": {role: {"name": v.name, "size": len(v), "digest": v.digest} for role, v in data.items()},
            "networks": self.study.opened,
            "code": self.code,
        }
        return row, arrays

    def _take(self, records: list[dict]) -> None:
        self._same_data(records)
        self.records = records
        self.rows = pd.DataFrame([{**row["args"], **row["metrics"], "key": row["key"]} for row in records])

    def _same_data(self, rows: list[dict]) -> None:
        """raises RowError where rows were measured on different data"""
        for role in dict.fromkeys(role for row in rows for role in row["data"]):
            splits = [row["data"].get(role, {"name": "nothing", "digest": ""}) for row in rows]
            if len({split["digest"] for split in splits}) > 1:
                name = max((split["name"] for split in splits), key=lambda name: name != "nothing")
                what = f"its rows were measured on different versions of {name}, as {role}"
                raise RowError(f"{self.path}: {what}; delete those that you do not want")

    def _asked(self) -> list[int]:
        own = range(self.profiles[self.study.profile]["seeds"])
        asked = self.study.seeds
        seeds = [seed for seed in asked or own if seed in own]
        if asked and not seeds:
            self.study.say(f"{self.name} has the seeds 0 to {len(own) - 1} and none that was asked for: it takes its own")
        return seeds or list(own)

    def _earlier(self, earlier: dict) -> Variant:
        """A variant that this experiment replaces: what is not given is as at present."""
        known = {"why", "version", "over", *PROFILES}
        if not isinstance(earlier, dict) or not earlier.get("why") or not earlier.keys() <= known:
            raise ValueError(f"{self.name}: `replaces` is a list of dicts of `why`, and of {', '.join(sorted(known - {'why'}))}")
        profiles = {p: {"seeds": self.profiles[p]["seeds"], **earlier.get(p, self.profiles[p])} for p in PROFILES}
        variant = Variant(earlier.get("version", self.version), dict(earlier.get("over", self.over)), profiles, earlier["why"])
        if (variant.version, variant.over, variant.profiles) == (self.version, self.over, self.profiles):
            raise ValueError(
                f"{self.name}: what it replaces ({variant.why}) is what it has: give the version or settings that differ"
            )
        return variant

    def _shown(self) -> tuple[str, Variant, list[int]]:
        for profile in PROFILES:
            stored = storage.read(self.study.path(profile, self.name))
            for variant in self.variants:
                wanted = range(variant.profiles[profile]["seeds"])
                whole = [
                    seed
                    for seed in wanted
                    if all(key in stored for key in variant.keys(self.name, profile, variant.arguments(profile, [seed])))
                ]
                if len(whole) >= min(ENOUGH, len(wanted)):
                    return profile, variant, whole
        raise MissingRows(
            f"'{self.name}' has too few rows at every profile under {self.study.rows_root}: "
            f"stored rows exist for the settings that the chapter came with; after changing them, or adding an experiment, "
            f"set profile='smoke' (or 'cpu') in the parameters cell to compute"
        )

    # what tables and figures read

    def images(self, role: str) -> int:
        """How many images the split of a role has that the rows were measured on. raises KeyError for an unknown role"""
        splits = self.records[0]["data"]
        if role not in splits:
            raise KeyError(f"{self.name} has no split {role!r}; it has: {', '.join(splits)}")
        return splits[role]["size"]

    def view(self, rows: pd.DataFrame) -> "Experiment":
        """This experiment with other rows, made from its own: some of them, renamed, joined. Links and provenance stay."""
        other = copy.copy(self)
        other.rows = rows
        return other

    def where(self, **values) -> "Experiment":
        """This experiment with those rows whose arguments have the given values; a list means any of them. raises KeyError"""
        rows = self.rows
        if unknown := values.keys() - set(rows):
            raise KeyError(f"{self.name} has no column {', '.join(sorted(unknown))}; it has: {', '.join(rows)}")
        for argument, value in values.items():
            rows = rows[rows[argument].isin(value if isinstance(value, list | tuple | set) else [value])]
        if rows.empty:
            raise KeyError(f"{self.name} has no rows where {values}")
        return self.view(rows)

    def long(self, template: str, value: str = "value", **values: Iterable) -> pd.DataFrame:
        """The metrics whose names the template gives, as a tidy table: arguments, the template's fields, `value`.

        template : as the run wrote them, e.g. "{attack} {eps:g}"; values : of each field, in the order that is wanted
        raises KeyError for a name that no row has
        """
        arguments = [a for a in (*self.over, "seed") if a in self.rows]
        parts = []
        for fields, metric in names.expand(template, **values):
            if metric not in self.rows:
                raise KeyError(f"{self.name} has no metric {metric!r}")
            parts.append(self.rows[arguments].assign(**fields, **{value: self.rows[metric]}))
        return pd.concat(parts, ignore_index=True)

    def arrays(self, row=None, **values) -> dict[str, np.ndarray]:
        """The arrays that a run returned: of a row of `rows`, else of the first row whose arguments have the given values."""
        record = self._record(row.key if row is not None else self.where(**values).rows["key"].iloc[0])
        path = storage.arrays_path(self.path, record)
        if not path.exists():
            raise RowError(
                f"no arrays are stored beside row {record['key']} of {self.name}: its run returned none, or {path} is gone"
            )
        return storage.load_arrays(path)

    def right(self, metric: str, role: str = "test", **values) -> Right:
        """Which images of a split were right, one row per seed; rows that were stored without it are left out.

        metric : one that the run returned as a bool array; values : of the arguments, so that one row per seed is left
        raises ValueError where several rows of one seed are left
        """
        name = names.RIGHT.format(metric=metric)
        found = {seed: arrays[name] for seed, arrays in self._arrays_by_seed(metric, values).items() if name in arrays}
        return Right(found, self.records[0]["data"][role]["digest"])

    def scores(self, metric: str, **values) -> dict[int, Scores]:
        """The scores that an AUROC was computed from, by seed; rows that were stored without them are left out.

        metric : one that the run returned as `Scores`; values : of the arguments, so that one row per seed is left
        raises ValueError where several rows of one seed are left
        """
        found = {seed: scores_of(arrays, metric) for seed, arrays in self._arrays_by_seed(metric, values).items()}
        return {seed: scores for seed, scores in found.items() if scores is not None}

    def _arrays_by_seed(self, metric: str, values: dict) -> dict[int, dict[str, np.ndarray]]:
        rows = self.where(**values).rows
        if metric not in rows:
            raise KeyError(f"{self.name} has no metric {metric!r}; it has: {', '.join(rows)}")
        if rows.seed.duplicated().any():
            raise ValueError(f"{self.name} has several rows of one seed where {values}: name all its arguments")
        paths = {row.seed: storage.arrays_path(self.path, self._record(row.key)) for row in rows.itertuples()}
        return {seed: storage.load_arrays(path) for seed, path in paths.items() if path.exists()}

    def _record(self, key: str) -> dict:
        return next(row for row in self.records if row["key"] == key)

    @property
    def verdicts(self) -> pd.DataFrame:
        """The printed numbers that were judged from this experiment, with the fields of `claims.Verdict`."""
        return self.study.judged_of("numbers", self.name)

    @property
    def sentences(self) -> pd.DataFrame:
        """The sentences that were judged from this experiment."""
        return self.study.judged_of("sentences", self.name)

    @property
    def survivals(self) -> pd.DataFrame:
        """What was judged to be left of defences in this experiment."""
        return self.study.judged_of("survivals", self.name)

    def judge(self, kind: str, frame: pd.DataFrame, *, count: bool = True) -> None:
        """Keep what was judged from this experiment, for the scoreboard if it counts; judged again, it replaces itself."""
        self.study.keep(kind, self.name, frame, count)

    def notes(self) -> list[str]:
        """What a reader has to know of the rows that are shown: seeds that are still missing, earlier settings, changed code."""
        notes = []
        if self.variant.why:
            notes.append(f"by an earlier version: {self.variant.why}")
        if len(self.seeds) < self.wanted and self.study.profile == "report":
            notes.append(f"{len(self.seeds)} of {self.wanted} seeds")
        if any(row.get("code", self.code) != self.code for row in self.records) and not self.variant.why:
            notes.append("code changed since")
        return notes

    def status(self) -> dict:
        """What the status page says of this experiment."""
        rows = self.records
        per_seed = len(self.variant.arguments(self.profile, [0]))
        return {
            "experiment": self.name,
            "profile": self.profile,
            "rows": f"{len(rows)} of {per_seed * max(self.wanted, len(self.seeds))}",
            "seeds": len({r["args"]["seed"] for r in rows}),
            "minutes": round(sum(r["seconds"] for r in rows) / 60, 1),
            "device": "; ".join(sorted({r["device"] for r in rows})),
            "commit": ", ".join(sorted({r["commit"] for r in rows})),
            "torch": ", ".join(sorted({r["versions"]["torch"] for r in rows})),
            "last row": max((r["utc"] for r in rows), default="")[:10],
            "notes": "; ".join(self.notes()),
        }


def _digests(row: dict) -> dict[str, str]:
    return {role: split["digest"] for role, split in row["data"].items()}


def _newest_file(data_root) -> str:
    """When the newest file of the datasets was changed, as rows write their time; "" where there is none."""
    try:
        root = Path(data_root).expanduser() if data_root else datasets.default_root()
        # a copy may keep the old file's time; when it came here it does not keep
        newest = max((max(entry.stat().st_mtime, entry.stat().st_ctime) for entry in os.scandir(root)), default=0.0)
    except (OSError, RuntimeError):
        return ""
    return datetime.fromtimestamp(newest, UTC).strftime("%Y-%m-%d %H:%M:%S")
