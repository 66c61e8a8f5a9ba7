"""Checkpoints: the state of a training on disk, continued from only by the training that it belongs to."""

import contextlib
import copy
import functools
import hashlib
import io
import json
import os
import re
import secrets
import warnings
from pathlib import Path
from types import FunctionType

import numpy as np
import torch
from torch import nn

Tensor = torch.Tensor
PLAIN = (bool, int, float, str, type(None))


class Checkpoint:
    """A file that holds the state of a training, and what that training was.

    identity : of the code that trains, which the training cannot know; a checkpoint of another identity, or of another version of
        torch, is not continued
    commit : the one that trains; `commits` are all that had a part in the training, in order
    """

    def __init__(self, path: str | Path, *, identity: str = "", commit: str = ""):
        self.path = Path(path)
        self.identity, self.commits = identity, [commit]
        self._warned = False

    @classmethod
    def of(cls, value: "str | Path | Checkpoint | None") -> "Checkpoint | None":
        """A checkpoint, of a path or of itself; None of None."""
        return value if value is None or isinstance(value, cls) else cls(value)

    def check_folder(self) -> None:
        """Make the folder and try to write there. raises RuntimeError for a folder that cannot be made or written into"""
        try:
            self._write(b"", keep=False)
        except OSError as error:
            raise RuntimeError(
                f"cannot write checkpoints into {self.path.parent} ({error}): choose a folder that can be written, or free space"
            ) from error

    def save(self, state: dict, about: dict) -> bool:
        """Replace the file, whole or not at all; returns whether that succeeded. A failure gives one warning, the first time.

        state : tensors, numbers, strings, None, and dicts and lists of those
        about : what decides the result of the training: JSON
        """
        try:
            file = io.BytesIO()
            torch.save({"about": json.dumps(self._whole(about)), "commits": self.commits, "state": state}, file)
            content = file.getvalue()
            self._write(hashlib.sha256(content).digest() + content, keep=True)
        except (OSError, RuntimeError, MemoryError) as error:
            if not self._warned:
                warnings.warn(f"could not write {self.path} ({error}): the training goes on without a checkpoint", stacklevel=2)
            self._warned = True
            return False
        return True

    def resume(self, about: dict) -> dict | None:
        """The state that was saved; None, with one warning, where it is damaged or of another training; None if there is no file.

        The file is never unpickled: it may come from somewhere else
        """
        try:
            content = self.path.read_bytes()
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                raise ValueError("its checksum is wrong")
            stored = torch.load(io.BytesIO(content[32:]), weights_only=True, map_location="cpu")
            state, before, commits = stored["state"], json.loads(stored["about"]), list(stored["commits"])
        except FileNotFoundError:
            return None
        except Exception as error:  # torch raises a dozen kinds for a damaged file
            self.reject(f"cannot be read ({one_line(error)})")
            return None
        changed = differences(before, json.loads(json.dumps(self._whole(about))))
        if changed:
            more = [f"and {len(changed) - 3} more"] if len(changed) > 3 else []
            self.reject(f"is of another training ({'; '.join(changed[:3] + more)})")
            return None
        self.commits = list(dict.fromkeys([*commits, *self.commits]))
        return state

    def reject(self, reason: str) -> None:
        """Warn that the file is not used."""
        warnings.warn(f"checkpoint {self.path} {reason}: the training starts anew", stacklevel=2)

    def unlink(self) -> None:
        """Delete the file, and what a killed process left of it. Where that is impossible, the files stay."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
            for path in list(self.path.parent.iterdir()):
                if path.name.startswith(f"{self.path.name}.") and path.suffix == ".part":
                    path.unlink(missing_ok=True)

    def _whole(self, about: dict) -> dict:
        return {**about, "identity": self.identity, "torch": torch.__version__}

    def _write(self, content: bytes, *, keep: bool) -> None:
        """Write a temporary file of this process alone; then put it in the checkpoint's place, or delete it. raises OSError"""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        try:
            with part.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if keep:
                os.replace(part, self.path)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def one_line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def differences(before: dict, now: dict, prefix: str = "") -> list[str]:
    """In which values two nested dicts differ, e.g. ["seed was 1, is now 2"]; long values are shortened."""

    def short(value) -> str:
        text = "missing" if value is None else str(value)
        return text if len(text) <= 40 else f"{text[:18]}…{text[-18:]}"

    changed = []
    for name in [*before, *(n for n in now if n not in before)]:
        a, b = before.get(name), now.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            changed += differences(a, b, f"{prefix}{name} ")
        elif a != b:
            changed.append(f"{prefix}{name} was {short(a)}, is now {short(b)}")
    return changed


def restore(checkpoint: Checkpoint | None, about: dict, parts: dict, order: torch.Generator) -> list[dict]:
    """Put back what `store` saved; returns the history of the finished epochs, empty where nothing can be continued.

    parts : name -> anything with a state_dict: networks, optimisers, schedules. They stay as they are where nothing is continued
    raises RuntimeError for a folder that cannot be written
    """
    if checkpoint is None:
        return []
    checkpoint.check_folder()
    state = checkpoint.resume(about)
    if state is None:
        return []
    before = copy.deepcopy(_state(parts, order, []))
    try:
        return _load(state, parts, order)
    except Exception as error:  # whole, but not what this code stores
        _load(before, parts, order)
        checkpoint.reject(f"does not fit ({one_line(error)})")
        return []


def store(checkpoint: Checkpoint, about: dict, parts: dict, order: torch.Generator, history: list[dict]) -> None:
    """Save the states of the parts, of the order, of torch's generators, and the history. Warns where the disk cannot take it."""
    checkpoint.save(_state(parts, order, history), about)


def _state(parts: dict, order: torch.Generator, history: list[dict]) -> dict:
    state = {"parts": {name: part.state_dict() for name, part in parts.items()}, "history": history}
    state |= {"order": order.get_state(), "rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda_rng"] = torch.cuda.get_rng_state()
    return state


def _load(state: dict, parts: dict, order: torch.Generator) -> list[dict]:
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    order.set_state(state["order"])
    torch.set_rng_state(state["rng"])
    if "cuda_rng" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda_rng"])
    return state["history"]


# what a training is


def account(model: nn.Module, images: Tensor, labels: Tensor, optimisers: dict, **settings) -> dict:
    """What decides the result of a training, as JSON: the architecture, the data, the optimisers, and the settings as they are.

    Initial weights are not part of it: a checkpoint replaces them.
    optimisers : name -> torch optimiser, before its first step
    settings : numbers, strings and functions; see `described`
    """
    names = {id(p): name for name, p in model.named_parameters()}

    def group(options: dict) -> dict:
        return described({**options, "params": [names.get(id(p), "") for p in options["params"]]})

    steps = {
        name: {"kind": type(optimiser).__name__, **{str(i): group(g) for i, g in enumerate(optimiser.param_groups)}}
        for name, optimiser in optimisers.items()
    }
    network = [re.sub(r"0x[0-9a-f]+", "", str(model))]  # an address in memory says nothing
    state = model.state_dict(keep_vars=True)
    network += [(name, str(v.dtype), v.shape, v.requires_grad) for name, v in state.items() if isinstance(v, Tensor)]
    return {
        **{name: described(value) for name, value in settings.items()},
        "data": f"{len(images)} samples, {digest_of(images, labels)}",
        "network": hashlib.sha256(repr(network).encode()).hexdigest()[:16],
        "device": images.device.type,
        **steps,
    }


def digest_of(*tensors: Tensor) -> str:
    """16 hex digits of the SHA-256 of tensors' types, shapes and values."""
    digest = hashlib.sha256()
    for t in tensors:
        digest.update(f"{t.dtype} {tuple(t.shape)} ".encode())
        digest.update(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def described(value, depth: int = 4):
    """A setting as JSON, the same in every process: plain values as they are, tensors by their digest, a function by its name
    and what it was given: a partial's arguments, a closure's variables. Of other objects only the type."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Tensor):
        return digest_of(value)
    if depth and isinstance(value, list | tuple):
        return [described(v, depth - 1) for v in value]
    if depth and isinstance(value, dict):
        return {str(k): described(v, depth - 1) for k, v in value.items()}
    if depth and isinstance(value, functools.partial):
        given = {str(i): v for i, v in enumerate(value.args)} | value.keywords
        return {"name": described(value.func, depth - 1), **described(given, depth)}
    if depth and isinstance(value, FunctionType):
        closed = described(_closed(value), depth)
        return {"name": value.__qualname__, **closed} if closed else value.__qualname__
    return getattr(value, "__qualname__", type(value).__name__)


def _closed(function: FunctionType) -> dict:
    """The variables of the functions around it that a function reads, by name."""
    values = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not assigned yet
            values[name] = cell.cell_contents
    return values
