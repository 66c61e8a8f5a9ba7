"""Studies: experiments whose rows are computed once, stored the moment they are known, and read ever after.

    study = Study("huang2015", profile="cpu")
    table1 = study.experiment("table1", version=1, axes={"method": [...]}, data=data, smoke={...}, cpu={...}, paper={...})
    rows = table1.grid(measure)                    # measure(settings, data, *, method, seed) -> {metric: value}

`report` computes nothing: it shows each experiment at the best profile whose rows are complete.
"""

import itertools
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from helpers import data as datasets
from helpers import models
from helpers import rows as storage
from helpers.fingerprint import fingerprint
from helpers.metrics import accuracy
from helpers.progress import GridProgress
from helpers.rows import ROOT, RowError, canonical, key_of
from helpers.trained import Trained

PROFILES = ("paper", "cpu", "smoke")  # best first


class MissingRows(RuntimeError):
    """`report` found no profile at which an experiment is complete."""


def parse_seeds(seeds: str | int | list[int] | None) -> list[int] | None:
    """ "0-4", "0,3", 5 (that many) or a list -> a list of seeds; None stays None. raises ValueError for anything else."""
    given = seeds
    try:
        if seeds is None or seeds == "":
            return None
        if isinstance(seeds, int):
            return list(range(seeds))
        if isinstance(seeds, str):
            spans = [part.split("-") for part in seeds.split(",")]
            seeds = [n for a, *b in spans for n in range(int(a), int(b[0] if b else a) + 1)]
        if all(isinstance(n, int) and n >= 0 for n in seeds) and seeds:
            return sorted(set(seeds), key=seeds.index)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"seeds must look like 0-4 or 0,3, not {given!r}")


def per_profile(**settings) -> dict[str, dict]:
    """{profile: settings} for `Study.experiment`; a tuple holds one value per profile, in the order smoke, cpu, paper."""

    def at(i: int) -> dict:
        return {k: v[i] if isinstance(v, tuple) else v for k, v in settings.items()}

    if wrong := [k for k, v in settings.items() if isinstance(v, tuple) and len(v) != len(PROFILES)]:
        raise ValueError(f"{', '.join(wrong)}: a tuple needs one value for each of smoke, cpu, paper")
    return {profile: at(i) for i, profile in enumerate(reversed(PROFILES))}


class Study:
    """The experiments of one chapter at one profile.

    paper : name of the folder under `results/`, e.g. "huang2015"
    profile : "report" (stored rows only), "smoke", "cpu" or "paper"
    seeds : only these of each experiment's own, see `parse_seeds`; an experiment that has none of them keeps its own
    device, data_root : where to compute, where the datasets are; None: a GPU if there is one, `data.default_root()`
    record : add to the committed `results/` instead of working under `_build/<profile>`

    $BOOK_RESULTS moves everything that is computed, rows and networks, into another folder.
    """

    def __init__(self, paper: str, profile: str = "report", *, seeds=None, device=None, data_root=None, record: bool = False):
        if profile not in ("report", *PROFILES):
            raise ValueError(f"unknown profile {profile!r}; known are: report, {', '.join(reversed(PROFILES))}")
        self.paper, self.profile, self.seeds = paper, profile, parse_seeds(seeds)
        if device and str(device).startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device {device!r}: torch sees no GPU here; leave the device out, or name cpu")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.data_root, self.record = data_root, record
        self.working = profile != "report" and not record  # under _build, where a changed cell makes its rows anew
        moved = os.environ.get("BOOK_RESULTS") if profile != "report" else None
        home = Path(moved).expanduser() if moved else ROOT / "_build" / ("record" if record else profile)
        self.rows_root = ROOT / "results" if profile == "report" or (record and not moved) else home / "results"
        self.networks = home / "networks" / paper
        self.at_once = self.device.type == "cuda"  # two cores are busy with one network, a GPU is not
        self.experiments: list[Experiment] = []
        self.opened: dict[str, float] = {}  # networks that the row in the making used, with their training seconds
        if self.device.type == "cuda":  # attacks and scores run in full float32
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def load(self, name: str, split: str) -> datasets.Split:
        """A split of a dataset on this study's device."""
        return datasets.load(name, split, data_root=self.data_root, device=self.device)

    def path(self, profile: str, run: str) -> Path:
        """Where the rows of an experiment at a profile are stored."""
        return self.rows_root / self.paper / profile / f"{run}.jsonl"

    def experiment(self, name: str, **options) -> "Experiment":
        """Declare an experiment: one table or figure. See `Experiment`."""
        if name in {e.name for e in self.experiments} and self.record:
            raise ValueError(f"there is an experiment '{name}' already; its rows would mix")
        self.experiments = [e for e in self.experiments if e.name != name]  # a cell that is run again replaces its own
        self.experiments.append(Experiment(self, name, **options))
        return self.experiments[-1]

    def trained(
        self,
        name: str,
        build: Callable,
        train: Callable,
        *,
        settings: dict,
        data: datasets.Split,
        version: int = 1,
        together: Sequence[int] = (),
        **args,
    ):
        """A handle on a trained network; nothing is read or computed until its `open()`. See `Trained`.

        together : all seeds that the experiment will want; on a GPU the first to be opened trains those of them that are missing
            and asked for, all at once
        """
        siblings = [s for s in together if self.seeds is None or s in self.seeds] if self.at_once else []
        return Trained(self, name, build, train, settings, data, version, args, siblings)

    def publish(self, name: str, network, test: datasets.Split, about: dict, measure: Callable | None = None) -> None:
        """When recording, add a network to the zoo, unless it or one of a better profile is there. Delete a card to renew it.

        network : a module, or a function that opens one, called only where the zoo lacks it
        about : see `save_pretrained`; {"before": the name of another one} for a purifier, whose accuracy is theirs together
        measure : (network, test) -> {words on the card: number}; None: the clean accuracy
        """
        there = models.card(name) if name in models.zoo() else {}
        card = {**about, "test images": [test.name, len(test), test.digest], "profile": self.profile}
        better = there and PROFILES.index(there["profile"]) < PROFILES.index(self.profile)
        if not self.record or better or all(k in there and canonical(there[k]) == canonical(card[k]) for k in card):
            return
        network = network if isinstance(network, torch.nn.Module) else network()
        before = [models.load_pretrained(about["before"], device=self.device)] if "before" in about else []
        whole = torch.nn.Sequential(network, *before)
        measured = measure(network, test) if measure else {"clean accuracy": accuracy(whole, *test.xy)}
        measured = {words: round(float(value), 4) for words, value in measured.items()}
        models.save_pretrained(name, network, {**card, **measured, "paper": self.paper, "commit": storage.commit()})


class Experiment:
    """One table or figure, with its settings at each profile and its own rows.

    axes : {argument: values}; `seed` is added from the settings' "seeds" (a count)
    data : function of the settings that returns {name: Split}; called only when a row is missing
    version : raise it when the meaning of the run changes but its settings do not
    smoke, cpu, paper : the settings, plain JSON values; `settings` is the current profile's (at `report` the one shown)
    """

    def __init__(
        self,
        study: Study,
        name: str,
        *,
        data: Callable,
        axes: dict[str, list] | None = None,
        version: int = 1,
        **profiles: dict,
    ):
        if set(profiles) != set(PROFILES):
            raise ValueError(f"{name}: settings are needed for {', '.join(PROFILES)}, not {', '.join(profiles)}")
        if lacking := [p for p in PROFILES if not isinstance(profiles[p].get("seeds"), int) or profiles[p]["seeds"] < 1]:
            raise ValueError(f'{name}: the settings at {", ".join(lacking)} need "seeds", a count of at least 1')
        self.study, self.name, self.version, self.axes, self.data = study, name, version, axes or {}, data
        self.profiles, self.rows = profiles, []
        self.profile = study.profile if study.profile != "report" else self._best()
        self.settings = profiles[self.profile]

    def arguments(self, profile: str) -> list[dict]:
        """The arguments of each row of the grid, seed by seed, so that an interrupted grid has whole seeds."""
        own = range(self.profiles[profile]["seeds"])
        asked = self.study.seeds if self.study.profile != "report" else None
        seeds = [seed for seed in asked or own if seed in own] or own
        return [
            dict(zip((*self.axes, "seed"), (*values, seed), strict=True))
            for seed in seeds
            for values in itertools.product(*self.axes.values())
        ]

    def _stored(self, profile: str) -> tuple[list[str], dict[str, dict]]:
        """Keys that the grid asks for, and all rows of the file."""
        # how many seeds there are does not change what one row measures
        keyed = {k: v for k, v in self.profiles[profile].items() if k != "seeds"}
        keys = [key_of(self.name, args, keyed, self.version) for args in self.arguments(profile)]
        return keys, storage.read(self.study.path(profile, self.name))

    def _best(self) -> str:
        for profile in PROFILES:
            keys, rows = self._stored(profile)
            if all(key in rows for key in keys):
                return profile
        raise MissingRows(
            f"'{self.name}' is complete at no profile under {self.study.rows_root}: "
            f"stored rows exist for the settings that the chapter came with; after changing them, or adding an experiment, "
            f"set profile='smoke' (or 'cpu') in the parameters cell to compute"
        )

    def grid(self, run: Callable[..., dict]) -> pd.DataFrame:
        """One row per combination of the axes: arguments, metrics, `key`. Computes what is missing and stores each at once.

        run : (settings, data, **arguments) -> {metric: finite number, or array}; arrays are stored beside the rows
        """
        keys, rows = self._stored(self.profile)
        code = fingerprint(run) if self.study.working else None
        if stale := [key for key in keys if code and key in rows and rows[key].get("code") != code]:
            storage.remove(
                self.study.path(self.profile, self.name), stale
            )  # a cell was changed since: what it made is made again
            rows = {key: row for key, row in rows.items() if key not in stale}
        todo = [(key, args) for key, args in zip(keys, self.arguments(self.profile), strict=True) if key not in rows]
        if todo and self.study.profile == "report":
            raise MissingRows(f"{len(todo)} rows of '{self.name}' are missing")
        with GridProgress(self.name, len(keys), len(keys) - len(todo)) as progress:
            data = self.data(self.settings) if todo else {}
            for key, args in todo:
                progress.at(args)
                rows[key] = self._compute(run, key, args, data, code)
                progress.done()
        self.rows = [rows[key] for key in keys]
        for name in self.rows[0]["data"]:
            digests = {row["data"].get(name, {}).get("digest") for row in self.rows}
            if len(digests) > 1:
                path = self.study.path(self.profile, self.name)
                raise RowError(
                    f"{path}: its rows were measured on different versions of {name}; delete those that you do not want"
                )
        return pd.DataFrame([{**r["args"], **r["metrics"], "key": r["key"]} for r in self.rows])

    def _compute(self, run: Callable, key: str, args: dict, data: dict, code: str | None) -> dict:
        started = time.monotonic()
        self.study.opened = {}
        with torch.random.fork_rng(devices=[self.study.device] if self.study.device.type == "cuda" else []):
            torch.manual_seed(args["seed"])
            result = run(self.settings, data, **args)
        if not isinstance(result, dict):
            raise TypeError(f"the run of '{self.name}' must return {{metric: number or array}}, not {type(result).__name__}")
        path = self.study.path(self.profile, self.name)
        arrays = {k: v for k, v in result.items() if isinstance(v, np.ndarray)}
        metrics = {k: round(float(v), 6) for k, v in result.items() if k not in arrays}
        bad = [k for k, v in {**metrics, **arrays}.items() if not np.isfinite(v).all()]
        if bad:
            raise ValueError(f"{self.name} {args}: {', '.join(bad)} came out as NaN or infinite; such a row is not stored")
        if arrays:
            storage.save_arrays(path.with_name(f"{self.name}-{key}.npz"), arrays)
        row = {
            "run": self.name,
            "key": key,
            "args": args,
            "metrics": metrics,
            "profile": self.profile,
            "settings": {k: v for k, v in self.settings.items() if k != "seeds"},
            "version": self.version,
            "seconds": round(time.monotonic() - started, 1),
            "utc": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
            "device": storage.device_name(self.study.device),
            "versions": storage.versions(),
            "commit": storage.commit(),
            "data": {v.name: {"size": len(v), "digest": v.digest} for v in data.values()},
            "networks": self.study.opened,
        }
        if code:
            row["code"] = code
        storage.append(path, row)
        return row

    def images(self, split: str) -> int:
        """Images of a split that the stored rows were measured on."""
        return next(d["size"] for name, d in self.rows[0]["data"].items() if name.endswith(f"/{split}"))

    def arrays(self, row) -> dict[str, np.ndarray]:
        """The arrays that the run of a row (of `grid`) returned."""
        return storage.load_arrays(self.study.path(self.profile, self.name).with_name(f"{self.name}-{row.key}.npz"))

    def status(self) -> dict:
        """What the status page says of this experiment."""
        keys, rows = self._stored(self.profile)
        mine = [rows[k] for k in keys if k in rows]
        partly = []
        for better in PROFILES[: PROFILES.index(self.profile)]:
            wanted, there = self._stored(better)
            if any(k in there for k in wanted):
                partly.append(f"{better}: {sum(k in there for k in wanted)} of {len(wanted)} rows")
        return {
            "experiment": self.name,
            "profile": self.profile,
            "rows": f"{len(mine)} of {len(keys)}",
            "seeds": len({r["args"]["seed"] for r in mine}),
            "minutes": round(sum(r["seconds"] for r in mine) / 60, 1),
            "device": "; ".join(sorted({r["device"] for r in mine})),
            "commit": ", ".join(sorted({r["commit"] for r in mine})),
            "torch": ", ".join(sorted({r["versions"]["torch"] for r in mine})),
            "last row": max((r["utc"] for r in mine), default="")[:10],
            "also there": "; ".join(partly),
        }
