"""Trained networks on disk: `safetensors` in a folder that git ignores, with their history and what made them."""

import json
import os

import torch

from helpers import data as datasets
from helpers.fingerprint import fingerprint
from helpers.rows import RowError, key_of


class Trained:
    """A trained network that is not there yet: `open()` loads it, or trains and stores it.

    build : (settings, **args) -> untrained network, its initial weights decided by `seed` among the arguments
    train : (network, data, settings, checkpoint=path, **args) -> one dict per epoch, of `training.fit`
    """

    def __init__(self, study, name: str, build, train, settings: dict, data: datasets.Split, version: int, args: dict):
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

    def open(self) -> torch.nn.Module:
        """The network in evaluation mode on the study's device; `history` then holds one dict per epoch.

        raises RowError for a damaged file
        """
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file, save_file

        args, settings = self.about["args"], self.about["settings"]
        torch.manual_seed(args["seed"])
        network = self.build(settings, **args).to(self.study.device)
        if self.path.exists():
            try:
                network.load_state_dict(load_file(self.path, device=str(self.study.device)))
                with safe_open(self.path, "pt") as file:
                    self.history = json.loads(file.metadata()["history"])
            except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
                raise RowError(f"{self.path} is damaged ({error}): delete it to train the network again") from error
        else:
            checkpoint = self.path.with_suffix(".checkpoint")
            self.history = self.train(network, self.data, settings, checkpoint=checkpoint, **args)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            metadata = {"about": json.dumps(self.about), "history": json.dumps(self.history)}
            partial = self.path.with_suffix(".part")
            try:
                save_file({k: v.contiguous() for k, v in network.state_dict().items()}, partial, metadata=metadata)
                os.replace(partial, self.path)
            except (OSError, SafetensorError) as error:
                partial.unlink(missing_ok=True)
                raise RowError(f"could not write {self.path} ({error}); free some space, then start again") from error
            checkpoint.unlink(missing_ok=True)
        self.study.opened[self.path.stem] = round(sum(epoch["seconds"] for epoch in self.history), 1)
        return network.eval()
