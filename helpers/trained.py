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
    together : other seeds to train at the same time where they are missing too; `train` then gets lists of networks and of
        seeds, as `fit` takes them, and returns a list of histories
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
        self.others = [
            Trained(study, name, build, train, settings, data, version, {**args, "seed": seed})
            for seed in dict.fromkeys(together)
            if seed != args["seed"]
        ]

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
        """Train, together with those of `others` that are not there yet, and store what came of it."""
        group = [self, *(other for other in self.others if not other.path.exists())]
        seeds = [handle.about["args"]["seed"] for handle in group]
        args, settings = self.about["args"], self.about["settings"]
        if len(group) == 1:
            networks, checkpoint = [network], self.path.with_suffix(".checkpoint")
            histories = [self.train(network, self.data, settings, checkpoint=checkpoint, **args)]
        else:
            networks = [network, *(handle._built() for handle in group[1:])]
            checkpoint = self.path.with_suffix(f".{'-'.join(map(str, seeds))}.checkpoint")
            histories = self.train(networks, self.data, settings, checkpoint=checkpoint, **{**args, "seed": seeds})
        for handle, trained, history in zip(group, networks, histories, strict=True):
            handle._save(trained, history)
        checkpoint.unlink(missing_ok=True)

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
