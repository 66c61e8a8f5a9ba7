"""Trained networks on disk: `safetensors` in a folder that git ignores, with their history and what made them."""

import contextlib
import json
import os
import re
import uuid
from pathlib import Path

import torch

from helpers import data as datasets
from helpers import provenance
from helpers.checkpoints import Checkpoint
from helpers.identity import identity
from helpers.rows import RowError, key_of
from helpers.scratch import locked
from helpers.seeding import seeded


class Trained:
    """A trained network that need not be there yet: `open()` loads it, or trains and stores it, once for all processes.

    build : (settings, **args) -> untrained network, its initial weights decided by `seed` among the arguments
    train : (network, data, settings, checkpoint=checkpoint, **args) -> one dict per epoch, of `training.fit`

    The file's name holds the identity of `build` and `train`, so that other code trains another network. The file carries that
    identity, the commit and the versions that trained it; a row names the commit of each network that it used.
    """

    def __init__(self, study, name: str, build, train, settings: dict, data: datasets.Split, version: int, args: dict):
        self.study, self.name, self.build, self.train, self.data = study, name, build, train, data
        self.about = {"name": name, "args": args, "settings": settings, "data": [data.name, data.digest], "version": version}
        self.code = study.asks.code_of(build, train) if study.asks else identity(build, train)
        key = key_of(name, args, {**settings, "digest": data.digest, "code": self.code}, version)
        words = re.sub(r"[^\w .,=+-]", "_", "-".join(map(str, (name, *args.values()))))  # it is part of a file's name
        self.path: Path = study.networks / f"{words}-{key}.safetensors"
        self.history: list[dict] = []

    def open(self) -> torch.nn.Module:
        """The network in evaluation mode on the study's device; `history` then holds one dict per epoch.

        Whether it is loaded or trained, the random state of whoever opens it stays as it was. raises RowError for a damaged file
        """
        args, settings = self.about["args"], self.about["settings"]
        with seeded(args["seed"], self.study.device):
            network = self.build(settings, **args).to(self.study.device)
            before, self.study.opened = self.study.opened, {}
            commit = self._load(network) if self.path.exists() else self._make(network)
            self.study.opened = before | self.study.opened  # with those that its training used
        seconds = round(sum(epoch["seconds"] for epoch in self.history), 1)
        self.study.opened[self.path.stem] = {"seconds": seconds, "commit": commit}
        return network.eval()

    def _load(self, network: torch.nn.Module) -> str:
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file

        try:
            network.load_state_dict(load_file(self.path, device=str(self.study.device)))
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata()
            self.history = json.loads(metadata["history"])
            self.study.opened |= json.loads(metadata["networks"])
            return metadata["commit"]
        except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise RowError(f"{self.path} is damaged ({error}): delete it to train the network again") from error

    def _make(self, network: torch.nn.Module) -> str:
        """Train the network, or load it where another process has trained it meanwhile."""
        lock = self.path.with_suffix(".lock")
        with contextlib.ExitStack() as stack:
            if self.study.asks:
                stack.enter_context(self.study.asks.training(self.path.stem))
            try:
                stack.enter_context(locked(lock))
            except BlockingIOError:
                if self.study.asks:
                    self.study.asks.busy(self.path.stem)
                self.study.say(f"another process trains {self.path.stem}; waiting for it")
                stack.enter_context(locked(lock, wait=True))
            except OSError as error:
                raise RowError(f"could not write {lock} ({error}); free some space, then start again") from error
            return self._at_last(network, lock)

    def _at_last(self, network: torch.nn.Module, lock: Path) -> str:
        there = self.path.exists()
        commit = self._load(network) if there else self._train(network)
        lock.unlink(missing_ok=True)  # whoever waits for it finds the network
        if self.study.asks and not there:
            self.study.asks.trained()
        return commit

    def _train(self, network: torch.nn.Module) -> str:
        checkpoint = Checkpoint(self.path.with_suffix(".checkpoint"), identity=self.code, commit=provenance.commit())
        history = self.train(network, self.data, self.about["settings"], checkpoint=checkpoint, **self.about["args"])
        if not isinstance(history, list) or not all(isinstance(epoch, dict) and "seconds" in epoch for epoch in history):
            raise TypeError(f"train of '{self.name}' must return a history: a dict per epoch, each with its seconds")
        self.history = history
        commits = ", ".join(checkpoint.commits)  # more than one where an interrupted training was continued
        self._save(network, commits)
        checkpoint.unlink()
        return commits

    def _save(self, network: torch.nn.Module, commit: str) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        metadata = {
            "about": json.dumps(self.about),
            "history": json.dumps(self.history),
            "networks": json.dumps(self.study.opened),
            "code": self.code,
            "commit": commit,
            "versions": json.dumps(provenance.versions()),
        }
        # a name of its own: of two processes that train one network, each stores it, and the file is always whole
        partial = self.path.with_suffix(f".{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            weights = {k: v.detach().clone().contiguous() for k, v in network.state_dict().items()}  # layers may share them
            save_file(weights, partial, metadata=metadata)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(self.path)
        except (OSError, SafetensorError) as error:
            raise RowError(f"could not write {self.path} ({error}); free some space, then start again") from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()
