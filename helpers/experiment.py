"""Experiments: one table or figure, its settings at each profile, its rows, and what was judged from them.

An experiment is made by `Study.run`, which computes the rows that are missing. At `report`, and of an experiment that a run was
not asked for, nothing is computed: shown are the stored rows of the first profile, and there of the newest settings, that have at
least two whole seeds (or all that are wanted).
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from helpers import names
from helpers import rows as storage
from helpers.computing import compute_missing
from helpers.declaration import Variant, check_declaration
from helpers.identity import identity
from helpers.metrics import Right, Scores
from helpers.profiles import PROFILES
from helpers.results import scores_of
from helpers.rows import RowError
from helpers.selection import tell

ENOUGH = 2  # whole seeds, before an unfinished experiment is shown


class MissingRows(RuntimeError):
    """There is no profile at which enough of an experiment is stored, and it is not to be computed."""


class Experiment:
    """One table or figure of a study. See `Study.run` for what declares it.

    rows : DataFrame, one line per combination of the arguments: arguments, metrics, `key`
    records : the same rows as they are stored, with where each came from
    profile, settings : those that are shown where nothing is computed, else the study's own
    selected : whether this run was asked for it
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
        self.selected = study.selects(name, range(profiles[study.profile]["seeds"])) if study.profile != "report" else False
        self._missing = ""  # why there is nothing to show
        self._paths: dict[str, Path] = {}  # the files of the rows that were read, by key
        self.records = []
        self.profile, self.variant, self.seeds = self._own() if self.selected else self._shown()
        self.settings = self.variant.profiles[self.profile]
        self.wanted = self.variants[0].profiles[self.profile]["seeds"]

    @property
    def path(self) -> Path:
        """The file that rows which are computed are added to."""
        return self.study.path(self.profile, self.name)

    @property
    def records(self) -> list[dict]:
        """The rows as they are stored. raises MissingRows where there are none, and the run was not asked for them"""
        if self._missing:
            raise MissingRows(self._missing)
        return self._records

    @records.setter
    def records(self, records: list[dict]) -> None:
        self._records = records
        self.rows = pd.DataFrame([{**row["args"], **row["metrics"], "key": row["key"]} for row in records])

    @property
    def rows(self) -> pd.DataFrame:
        """One line per combination of the arguments: arguments, metrics, `key`. raises MissingRows as `records` does"""
        if self._missing:
            raise MissingRows(self._missing)
        return self._rows

    @rows.setter
    def rows(self, rows: pd.DataFrame) -> None:
        self._rows = rows

    def complete(self) -> "Experiment":
        """Compute and store what is missing, if this run was asked for it, then read all rows. Returns itself."""
        tell("declared", self.name, seeds=self.profiles.get(self.study.profile, {}).get("seeds"), rows=self.declared())
        if self._missing:
            tell("missing", self.name)
            return self
        arguments = self.variant.arguments(self.profile, self.seeds)
        keys = self.variant.keys(self.name, self.profile, arguments)
        stored = self._read(self.profile)
        if self.selected:
            try:
                compute_missing(self, dict(zip(keys, arguments, strict=True)), stored)
            except BaseException:
                tell("failed", self.name)
                raise
        records = [stored[key] for key in keys]
        self.check_data(records)
        self.records = records
        if self.selected:
            tell("done", self.name)
        return self

    @property
    def unavailable(self) -> str:
        """Why it has no rows to show; empty where it has."""
        return self._missing

    @property
    def publishes(self) -> bool:
        """Whether this run makes its networks of seed 0, which join the zoo."""
        return self.selected and 0 in self.seeds

    def declared(self) -> dict[str, dict[str, dict]]:
        """The arguments of every row that it wants, by profile and key."""
        found = {}
        for profile in PROFILES:
            arguments = self.variants[0].arguments(profile)
            found[profile] = dict(zip(self.variants[0].keys(self.name, profile, arguments), arguments, strict=True))
        return found

    def check_data(self, rows: list[dict]) -> None:
        """raises RowError where rows were measured on different data"""
        for role in dict.fromkeys(role for row in rows for role in row["data"]):
            splits = [row["data"].get(role, {"name": "nothing", "digest": ""}) for row in rows]
            if len({split["digest"] for split in splits}) > 1:
                name = max((split["name"] for split in splits), key=lambda name: name != "nothing")
                what = f"its rows were measured on different versions of {name}, as {role}"
                raise RowError(f"{self.path}: {what}; delete those that you do not want")

    def _read(self, profile: str) -> dict[str, dict]:
        """The stored rows at a profile by key, from all folders that this run reads."""
        found = {}
        for root in self.study.reads if self.selected else self.study.shows:
            path = root / self.study.paper / profile / f"{self.name}.jsonl"
            rows = storage.read(path)
            self._paths |= {key: path for key in rows if key not in found}
            found = rows | found
        return found

    def _own(self) -> tuple[str, Variant, list[int]]:
        own = range(self.profiles[self.study.profile]["seeds"])
        return self.study.profile, self.variants[0], self.study.selection.of_seeds(own)

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
            stored = self._read(profile)
            for variant in self.variants:
                wanted = range(variant.profiles[profile]["seeds"])
                whole = [
                    seed
                    for seed in wanted
                    if all(key in stored for key in variant.keys(self.name, profile, variant.arguments(profile, [seed])))
                ]
                if len(whole) >= min(ENOUGH, len(wanted)):
                    return profile, variant, whole
        if self.study.profile == "report":
            raise MissingRows(
                f"'{self.name}' has too few rows at every profile under {self.study.shows[0]}: "
                f"stored rows exist for the settings that the chapter came with; after changing them, or adding an experiment, "
                f"set profile='smoke' (or 'cpu') in the parameters cell to compute"
            )
        self._missing = f"'{self.name}' has too few rows at every profile, and this run was not asked to compute them"
        return self._own()

    # what tables and figures read

    def images(self, role: str) -> int:
        """How many images the split of a role has that the rows were measured on. raises KeyError for an unknown role"""
        splits = self.records[0]["data"]
        if role not in splits:
            raise KeyError(f"{self.name} has no split {role!r}; it has: {', '.join(splits)}")
        return splits[role]["size"]

    def view(self, rows: pd.DataFrame) -> "Experiment":
        """This experiment with other rows, made from its own: some of them, renamed, joined. Links and provenance stay."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
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
        path = self._beside(record)
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
        paths = {row.seed: self._beside(self._record(row.key)) for row in rows.itertuples()}
        return {seed: storage.load_arrays(path) for seed, path in paths.items() if path.exists()}

    def _beside(self, record: dict) -> Path:
        """The file of a row's arrays."""
        return storage.arrays_path(self._paths.get(record["key"], self.path), record)

    def _record(self, key: str) -> dict:
        return next(row for row in self.records if row["key"] == key)

    def __getstate__(self) -> dict:
        """For a worker: what declares it. No run may read the rows of an experiment: they are no part of its key or identity."""
        said = f"a run cannot read the rows of '{self.name}': measure in one run what belongs together"
        return {**self.__dict__, "_records": [], "_rows": pd.DataFrame(), "_missing": said}

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
        if len(self.seeds) < self.wanted and not self.selected:
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
