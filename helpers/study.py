"""Studies: experiments whose rows are computed once, stored the moment they are known, and read ever after.

    study = Study("huang2015", profile="cpu")
    table1 = study.run("table1", measure, over={"method": [...]}, data=splits, smoke={...}, cpu={...}, paper={...})
    table1.rows                                    # measure(settings, data, *, method, seed) -> {metric: value}

`report` computes nothing: it shows each experiment at the best profile of which enough rows are stored.
"""

import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from helpers import data as datasets
from helpers import models, provenance
from helpers.experiment import Experiment, MissingRows  # noqa: F401  a chapter's errors come from here
from helpers.metrics import accuracy
from helpers.profiles import PROFILES, parse_seeds, per_profile  # noqa: F401  chapters take both from here
from helpers.rows import ROOT, canonical
from helpers.selection import NAMES, Selection
from helpers.trained import Trained

JUDGED = {  # the columns that every judgement of a kind has
    "numbers": ["source", "row", "column", "same_as", "verdict"],
    "sentences": ["source", "value", "predicate", "verdict"],
    "survivals": ["source", "row", "verdict"],
}


class Study:
    """The experiments of one chapter at one profile.

    paper : name of the folder under `results/`, e.g. "huang2015"
    profile : "report" (stored rows only), "smoke", "cpu" or "paper"
    seeds : only these of each experiment's own, see `parse_seeds`
    device, data_root : where to compute, where the datasets are; None: a GPU if there is one, `data.default_root()`
    record : add to the committed `results/` instead of working under `_build/<profile>`

    $BOOK_RESULTS moves everything that is computed, rows, networks and candidates for the zoo, into another folder; the record is
    read from both. $BOOK_EXPERIMENTS names the experiments that are asked for, comma-separated; unset, all are. One that is not
    asked for, or has none of the seeds, shows the committed rows, as at `report`. $BOOK_CLUSTER is where rows are computed: a
    Dask scheduler's address or file; unset, in this process.
    """

    def __init__(self, paper: str, profile: str = "report", *, seeds=None, device=None, data_root=None, record: bool = False):
        if not re.fullmatch(r"\w[\w-]*", paper):
            raise ValueError(f"a study's name is a folder's name: letters, digits, _ and -, not {paper!r}")
        if profile not in ("report", *PROFILES):
            raise ValueError(f"unknown profile {profile!r}; known are: report, {', '.join(reversed(PROFILES))}")
        self.paper, self.profile = paper, profile
        self.selection = Selection.of(os.environ.get(NAMES) if profile != "report" else None, parse_seeds(seeds))
        if device and str(device).startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device {device!r}: torch sees no GPU here; leave the device out, or name cpu")
        self.device, self.any_device = torch.device(device or best_device()), device is None
        self.data_root, self.record = data_root, record
        self.working = profile != "report" and not record  # under _build, where a changed cell makes its rows anew
        moved = os.environ.get("BOOK_RESULTS") if profile != "report" else None
        home = Path(moved).expanduser() if moved else ROOT / "_build" / ("record" if record else profile)
        committed = ROOT / "results"
        self.rows_root = committed if profile == "report" or (record and not moved) else home / "results"
        self.reads = list(dict.fromkeys([self.rows_root, committed] if record else [self.rows_root]))
        self.shows = self.reads if record else [committed]  # for experiments that are not computed
        self.home, self.networks = home, home / "networks" / paper
        self.weights = home / "weights" if moved else models.WEIGHTS
        self.cluster = os.environ.get("BOOK_CLUSTER") if profile != "report" else None
        self.asks = None  # on a worker: what it does about networks that are not there
        self.experiments: list[Experiment] = []
        self.opened: dict[str, dict] = {}  # networks that the row in the making used: seconds of training, commit
        self.judged: dict[tuple, tuple[pd.DataFrame, bool]] = {}  # what tables judged, in the order of the page
        if self.device.type == "cuda":  # attacks and scores run in full float32
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def load(self, name: str, split: str) -> datasets.Split:
        """A split of a dataset on this study's device."""
        return datasets.load(name, split, data_root=self.data_root, device=self.device)

    def __getstate__(self) -> dict:
        """For a worker: without what was computed and judged."""
        return {**self.__dict__, "experiments": [], "judged": {}, "opened": {}, "cluster": None, "asks": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self.any_device:  # the worker's, not the one of whoever asked it
            self.device = torch.device(best_device())

    def path(self, profile: str, run: str) -> Path:
        """Where the rows of an experiment that are computed at a profile are stored."""
        return self.rows_root / self.paper / profile / f"{run}.jsonl"

    def run(self, name: str, measure: Callable[..., dict], *, data: Callable, over=None, version=1, replaces=(), **profiles):
        """Declare an experiment, compute the rows that are missing, and return it with all of them: an `Experiment`.

        name : of its file of rows
        measure : (settings, data, **arguments) -> {metric: number, bool (N,), `metrics.Scores`, or array}, see `results.split`;
            what it returns is stored as it is at the end, so a mask that is in the result must not be changed afterwards
        data : function of the settings that returns {role: Split}; called only when a row is missing
        over : {argument: values, words or numbers}; `seed` is added, from the settings' "seeds" (how many are wanted)
        version : raise it when the meaning of the run changes but its settings do not
        replaces : what its rows were made by before, shown while the new ones are being made: dicts of `why`, and of those of
            `version`, `over`, `smoke`, `cpu`, `paper` that were different
        smoke, cpu, paper : the settings of all three profiles, plain JSON values, among them "seeds"; `per_profile` writes them
        """
        there = [e.name for e in self.experiments]
        if name in there and self.record:
            raise ValueError(f"there is an experiment '{name}' already; its rows would mix")
        experiment = Experiment(self, name, measure, data=data, over=over, version=version, replaces=replaces, **profiles)
        if self.profile != "report" and not experiment.selected and self.selection.names is None:
            last = profiles[self.profile]["seeds"] - 1
            self.say(f"{name} is left out: it has the seeds 0 to {last}, and none that was asked for")
        experiment.complete()
        self.judged = {key: value for key, value in self.judged.items() if key[1] != name}
        if name in there:  # a cell that is run again replaces its own
            self.experiments[there.index(name)] = experiment
        else:
            self.experiments.append(experiment)
        return experiment

    def selects(self, name: str, own: range) -> bool:
        """Whether this run was asked for an experiment with these seeds of its own."""
        return self.selection.has(name, own)

    def trained(
        self, name: str, build: Callable, train: Callable, *, settings: dict, data: datasets.Split, version: int = 1, **args
    ) -> Trained:
        """A handle on a trained network; nothing is read or computed until its `open()`. See `Trained`."""
        return Trained(self, name, build, train, settings, data, version, args)

    def keep(self, kind: str, name: str, frame: pd.DataFrame, count: bool) -> None:
        """Keep what was judged from an experiment: "numbers", "sentences" or "survivals"; the same judged again replaces it."""
        label = [c for c in JUDGED[kind] if c not in ("verdict", "same_as")]
        identity = tuple(frame[label].astype(str).itertuples(index=False, name=None))
        self.judged[(kind, name, identity)] = (frame, count)

    def judged_of(self, kind: str, name: str | None = None, *, counted: bool = False) -> pd.DataFrame:
        """All that was judged of a kind, of one experiment or of all; `counted`: only what the scoreboard counts."""
        frames = [
            frame
            for (its_kind, its_name, _), (frame, count) in self.judged.items()
            if its_kind == kind and name in (None, its_name) and (count or not counted)
        ]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=JUDGED[kind])

    def say(self, text: str) -> None:
        """A line for whoever runs the chapter; not at `report`, whose pages hold no such lines."""
        if self.profile != "report":
            print(text, file=sys.stderr)

    def publish(self, name: str, network, test: datasets.Split, about: dict, measure: Callable | None = None) -> None:
        """When recording, add a network to the zoo, unless it or one of a better profile is there. Delete a card to renew it.

        network : a module, or a function that opens one, called only where the zoo lacks it
        about : see `save_pretrained`; {"before": the name of another one} for a purifier, whose accuracy is theirs together
        measure : (network, test) -> {words on the card: number}; None: the clean accuracy
        """
        card = {**about, "test images": [test.name, len(test), test.digest], "profile": self.profile}
        if not self.record or any(_serves(there, card) for there in map(partial(models.card_in, name), self._zoos())):
            return
        network = network if isinstance(network, torch.nn.Module) else network()
        before = [self._of_the_zoo(about["before"])] if "before" in about else []
        whole = torch.nn.Sequential(network, *before)
        result = measure(network, test) if measure else {"clean accuracy": accuracy(whole, *test.xy)}
        result = {words: round(float(value), 4) for words, value in result.items()}
        about = {**card, **result, "paper": self.paper, "commit": provenance.commit()}
        models.save_pretrained(name, network, about, folder=self.weights)

    def _of_the_zoo(self, name: str) -> torch.nn.Module:
        folder = next((folder for folder in self._zoos() if models.card_in(name, folder)), models.WEIGHTS)
        return models.load_pretrained(name, device=self.device, folder=folder)

    def _zoos(self) -> list[Path]:
        return list(dict.fromkeys([self.weights, models.WEIGHTS]))


def best_device() -> str:
    """A GPU if torch sees one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _serves(there: dict | None, card: dict) -> bool:
    """Whether a card that is there is of this very network, or of one of a better profile."""
    if there is None:
        return False
    better = PROFILES.index(there["profile"]) < PROFILES.index(card["profile"])
    return better or all(k in there and canonical(there[k]) == canonical(card[k]) for k in card)
