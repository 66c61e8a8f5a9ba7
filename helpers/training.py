"""One training loop for all chapters. What is learned is the objective's business: `objective(model, x, y) -> scalar`."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from helpers.data import Split

Tensor = torch.Tensor
Schedule = Callable[[float], float]
CHECKPOINT_SECONDS = 60  # an epoch that ends later than this after the last checkpoint writes one


def linear(progress: float) -> float:
    """The factor of the learning rate after this share of the training, in [0, 1): from 1 down to 0."""
    return 1 - progress


def _factor(schedule: Schedule, progress: float) -> float:
    factor = schedule(progress)
    if not 0 <= factor < math.inf:
        raise ValueError(f"the schedule's factor must be finite and >= 0, not {factor} at {progress:.0%} of the training")
    return factor


def fit(
    model: nn.Module,
    data: Split,
    objective: Callable[[nn.Module, Tensor, Tensor], Tensor],
    *,
    epochs: int,
    lr: float,
    batch_size: int = 100,
    momentum: float = 0.9,
    parameters: list | None = None,
    schedule: Schedule = linear,
    seed: int,
    checkpoint: Path | None = None,
    after_epoch: Callable[[int], dict | None] | None = None,
) -> list[dict]:
    """Minimise the objective by SGD; returns one dict per epoch.

    model : trained in place, left in training mode
    parameters : groups as torch's optimisers take them, e.g. with a weight_decay each; None: all, without weight decay
    schedule : share of the training done, in [0, 1) -> factor of the learning rate
    seed : decides the order of the batches; what the objective or dropout draws comes from torch's global generator, which
        this function seeds too
    checkpoint : a file that receives the state at epoch boundaries and is continued from if it is there; the result is the same
        as without the interruption
    after_epoch : called with the number of finished epochs; the numbers that it returns join the epoch's
    returns per epoch {"loss": mean over the samples, "seconds": of training alone, **what after_epoch returned}
    raises ValueError for empty data or settings out of range, FloatingPointError if the loss is no longer finite
    """
    if epochs < 1 or batch_size < 1 or not 0 < lr < math.inf:
        raise ValueError(f"epochs and batch_size must be at least 1 and lr finite and above 0, not {epochs}, {batch_size}, {lr}")
    if len(data) == 0:
        raise ValueError(f"{data.name} is empty: there is nothing to train on")
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(model.parameters() if parameters is None else parameters, lr=lr, momentum=momentum)
    total = epochs * -(-len(data) // batch_size)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _factor(schedule, min(step, total - 1) / total))
    history: list[dict] = []
    parts = {"model": model, "optimiser": optimiser, "rate": rate}
    if checkpoint is not None and checkpoint.exists():
        history = _resume(checkpoint, parts, order, data.images.device)
    saved = time.monotonic()
    for epoch in range(len(history), epochs):
        model.train()
        started = time.monotonic()
        running = torch.zeros((), device=data.images.device, dtype=torch.float64)
        for index in torch.randperm(len(data), generator=order).to(data.images.device).split(batch_size):
            loss = objective(model, data.images[index], data.labels[index])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            rate.step()
            running += loss.detach() * len(index)
        mean = running.item() / len(data)
        if not math.isfinite(mean):
            raise FloatingPointError(f"the loss became {mean} in epoch {epoch + 1}: lower the learning rate ({lr})")
        history.append({"loss": mean, "seconds": round(time.monotonic() - started, 3)})
        if after_epoch is not None:
            measured = after_epoch(epoch + 1) or {}
            if not isinstance(measured, dict) or measured.keys() & history[-1].keys():
                raise ValueError(f"after_epoch must return None or a dict without loss and seconds, not {measured!r}")
            history[-1] |= {name: float(value) for name, value in measured.items()}
        if checkpoint is not None and epoch + 1 < epochs and time.monotonic() - saved >= CHECKPOINT_SECONDS:
            _save(checkpoint, parts, order, history)
            saved = time.monotonic()
    return history


def _save(path: Path, parts: dict, order: torch.Generator, history: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: part.state_dict() for name, part in parts.items()}
    state |= {"order": order.get_state(), "rng": torch.get_rng_state(), "history": history}
    if torch.cuda.is_available():
        state["cuda_rng"] = torch.cuda.get_rng_state()
    partial = path.with_suffix(".part")
    try:
        torch.save(state, partial)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise RuntimeError(f"could not write {path} ({error}): free some space, then start again") from error


def _resume(path: Path, parts: dict, order: torch.Generator, device: torch.device) -> list[dict]:
    try:
        state = torch.load(path, weights_only=True, map_location=device)
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except Exception as error:  # a damaged file, or one of another network
        raise RuntimeError(f"{path} cannot be continued from ({error}): delete it to train from the start") from error
    order.set_state(state["order"].cpu())
    torch.set_rng_state(state["rng"].cpu())
    if "cuda_rng" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda_rng"].cpu())
    return state["history"]
