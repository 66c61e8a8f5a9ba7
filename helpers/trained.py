"""Trained networks on disk: `safetensors` in a folder that git ignores, with their history and what made them."""

import json
import os
from collections.abc import Sequence

import torch

from helpers import data as datasets
from helpers.fingerprint import fingerprint
from helpers.rows import RowError, key_of


class Trained:
    """A trained network that is not there yet: `open()` loads it, or trains and stores it.

    build : (settings, **args) -> untrained network, its initial weights decided by `seed` among the arguments
    train : (network, data, settings, checkpoint=path, **args) -> one dict per epoch, of `training.fit`
    together : seeds to train at the same time, where they are missing too; `train` then gets lists of networks and of seeds, as
        `fit` takes them, and returns a list of histories
    """

    def __init__(
        self,
        study,
        name: str,
        build,
        train,
        settings: dict,
        data: datasets.Split,
        version: int,
        args: dict,
        together: Sequence[int] = (),
    ):
        self.study, self.name, self.build, self.train, self.data = study, name, build, train, data
        self.about = {
            "name": name,
            "args": args,
            "settings": settings,
            "data": [data.name, data.digest],
            "version": version,
        }
        code = {"code": fingerprint(build, train)} if study.working else {}
        key = key_of(name, args, {**settings, "digest": data.digest, **code}, version)
        words = "-".join(str(v) for v in args.values())
        self.path = study.networks / f"{name}-{words}-{key}.safetensors"
        self.seeds = sorted({*together, args["seed"]}) if together else [args["seed"]]
        rest = {k: v for k, v in args.items() if k != "seed"}
        self.group = f"{name}-{key_of(name, rest, {**settings, 'digest': data.digest, **code}, version)}"

    def _of(self, seed: int) -> "Trained":
        """The same network from another seed."""
        a, args = self.about, {**self.about["args"], "seed": seed}
        return Trained(self.study, self.name, self.build, self.train, a["settings"], self.data, a["version"], args)

    def open(self) -> torch.nn.Module:
        """The network in evaluation mode on the study's device; `history` then holds one dict per epoch.

        raises RowError for a damaged file
        """
        network = self._built()
        if self.path.exists():
            self._load(network)
        else:
            self._train(network)
        self.study.opened[self.path.stem] = round(sum(epoch["seconds"] for epoch in self.history), 1)
        return network.eval()

    def _built(self) -> torch.nn.Module:
        torch.manual_seed(self.about["args"]["seed"])
        return self.build(self.about["settings"], **self.about["args"]).to(self.study.device)

    def _load(self, network: torch.nn.Module) -> None:
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file

        try:
            network.load_state_dict(load_file(self.path, device=str(self.study.device)))
            with safe_open(self.path, "pt") as file:
                self.history = json.loads(file.metadata()["history"])
        except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise RowError(f"{self.path} is damaged ({error}): delete it to train the network again") from error

    def _train(self, network: torch.nn.Module) -> None:
        """Train, together with the others of the group that are not there yet, and store what came of it.

        A group that was interrupted is gone on with as it was, whoever opens first; what is stored stays as it is.
        """
        seeds = next((s for s in self._interrupted() if self.about["args"]["seed"] in s), None)
        handles = [self if s == self.about["args"]["seed"] else self._of(s) for s in seeds or self.seeds]
        if seeds is None:
            handles = [h for h in handles if h is self or not h.path.exists()]
        args, settings = self.about["args"], self.about["settings"]
        if len(handles) == 1:
            networks, checkpoint = [network], self.path.with_suffix(".checkpoint")
            histories = [self.train(network, self.data, settings, checkpoint=checkpoint, **args)]
        else:
            seeds = [h.about["args"]["seed"] for h in handles]
            networks = [network if h is self else h._built() for h in handles]
            checkpoint = self.study.networks / f"{self.group}.{'-'.join(map(str, seeds))}.checkpoint"
            histories = self.train(networks, self.data, settings, checkpoint=checkpoint, **{**args, "seed": seeds})
        if len(histories) != len(handles) or not all(isinstance(h, list) for h in histories):
            raise TypeError(f"train of '{self.name}' must return a history, a list of dicts, for each of {len(handles)} networks")
        for handle, trained, history in zip(handles, networks, histories, strict=True):
            if handle is self or not handle.path.exists():
                handle._save(trained, history)
        checkpoint.unlink(missing_ok=True)

    def _interrupted(self) -> list[list[int]]:
        """The seeds of each group of these networks whose training was interrupted."""
        names = [p.name.split(".")[-2] for p in self.study.networks.glob(f"{self.group}.*.checkpoint")] if self.seeds[1:] else []
        return [[int(s) for s in name.split("-")] for name in names]

    def _save(self, network: torch.nn.Module, history: list[dict]) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        self.history = history
        self.path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"about": json.dumps(self.about), "history": json.dumps(history)}
        partial = self.path.with_suffix(".part")
        try:
            save_file({k: v.contiguous() for k, v in network.state_dict().items()}, partial, metadata=metadata)
            os.replace(partial, self.path)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise RowError(f"could not write {self.path} ({error}); free some space, then start again") from error
