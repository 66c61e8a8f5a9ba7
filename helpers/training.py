"""One training loop for all chapters. What is learned is the objective's business: `objective(model, x, y) -> scalar`."""

import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from helpers.data import Split
from helpers.schedules import Schedule, cosine, factor_of, linear  # noqa: F401  a chapter takes them from here

Tensor = torch.Tensor
CHECKPOINT_SECONDS = 60  # an epoch that ends later than this after the last checkpoint writes one


def fit(
    model: nn.Module | Sequence[nn.Module],
    data: Split,
    objective: Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor],
    *,
    epochs: int,
    lr: float,
    batch_size: int = 100,
    momentum: float | None = None,
    optimiser: Callable[..., torch.optim.Optimizer] | None = None,
    parameters: list | None = None,
    clip: float | None = None,
    schedule: Schedule = linear,
    seed: int | Sequence[int],
    checkpoint: Path | None = None,
    after_epoch: Callable[[int, nn.Module], dict | None] | None = None,
) -> list[dict] | list[list[dict]]:
    """Minimise the objective by SGD, or another optimiser; returns one dict per epoch.

    model : trained in place, left in training mode. Or several of one architecture, with a seed each: they then train at once
        (`Together`), each as it would alone but for rounding, and a list of dicts per network returns. Several small networks
        leave a GPU less idle than one. Networks that draw random numbers, for dropout say, cannot train together
    momentum : of SGD; None: 0.9
    optimiser : (parameters, lr=...) -> torch optimiser, e.g. torch.optim.Adam, in place of SGD with momentum; the schedule scales
        its lr. For several networks it must treat values one by one
    parameters : groups as torch's optimisers take them, e.g. with a weight_decay each; None: all, without weight decay
    clip : the largest L2 norm of a network's gradient over all its parameters; a longer one is shortened to it
    schedule : share of the training done, in [0, 1) -> factor of the learning rate
    seed : decides the order of the batches; what the objective or dropout draws comes from torch's global generator, which
        this function seeds too
    checkpoint : a file that receives the state at epoch boundaries and is continued from if it is there; the result is the same
        as without the interruption
    after_epoch : called with the number of finished epochs and the network; the numbers that it returns join the epoch's
    returns per epoch {"loss": mean over the samples, "seconds": of training alone, **what after_epoch returned}; of networks that
        trained at once each has its share of the seconds
    raises ValueError for empty data or settings out of range, FloatingPointError if the loss is no longer finite
    """
    alone = isinstance(model, nn.Module)
    if alone == isinstance(seed, Sequence):
        raise ValueError("one network takes one seed, several take a list with a seed each")
    networks, seeds = ([model], [seed]) if alone else (list(model), list(seed))
    if not networks or len(networks) != len(seeds):
        raise ValueError(f"as many seeds as networks are wanted, at least one, not {len(seeds)} and {len(networks)}")
    if epochs < 1 or batch_size < 1 or not 0 < lr < math.inf:
        raise ValueError(f"epochs and batch_size must be at least 1 and lr finite and above 0, not {epochs}, {batch_size}, {lr}")
    if clip is not None and not 0 < clip < math.inf:
        raise ValueError(f"clip must be a finite number above 0, or None for no clipping, not {clip}")
    if momentum is not None and optimiser is not None:
        raise ValueError("momentum is for SGD, the default: another optimiser brings its own, as functools.partial say")
    if len(data) == 0:
        raise ValueError(f"{data.name} is empty: there is nothing to train on")
    if parameters is not None and not alone:
        raise ValueError("parameter groups are for one network: several that train together have all their weights in one group")
    trainee = model if alone else Together(networks)
    torch.manual_seed(seeds[0])
    orders = [torch.Generator().manual_seed(s) for s in seeds]
    make = optimiser or partial(torch.optim.SGD, momentum=0.9 if momentum is None else momentum)
    optimiser = make(trainee.parameters() if parameters is None else parameters, lr=lr)
    total = epochs * -(-len(data) // batch_size)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: factor_of(schedule, min(step, total - 1) / total))
    history: list[list[dict]] = [[] for _ in networks]
    parts = {"model": trainee, "optimiser": optimiser, "rate": rate}
    if checkpoint is not None and checkpoint.exists():
        history = resume(checkpoint, parts, orders, data.images.device)
        if not alone:
            trainee.unstack()
    saved = time.monotonic()
    for epoch in range(len(history[0]), epochs):
        trainee.train()
        started = time.monotonic()
        running = torch.zeros(len(networks), device=data.images.device, dtype=torch.float64)
        shuffled = torch.stack([torch.randperm(len(data), generator=order) for order in orders]).to(data.images.device)
        for index in shuffled.split(batch_size, dim=1):
            if alone:
                loss = objective(model, data.images[index[0]], data.labels[index[0]])
            else:
                loss = trainee.losses(objective, data.images[index], data.labels[index])
            if loss.numel() != len(networks):
                raise ValueError(f"the objective must return a scalar, the mean over the batch, not {tuple(loss.shape)}")
            optimiser.zero_grad(set_to_none=True)
            loss.sum().backward()
            if clip is not None:
                shorten([w.grad if not alone else w.grad[None] for w in trainee.parameters() if w.grad is not None], clip)
            optimiser.step()
            rate.step()
            running += loss.detach() * index.shape[1]
        means = (running / len(data)).tolist()
        if not all(map(math.isfinite, means)):
            raise FloatingPointError(
                f"the loss became {means[0] if alone else means} in epoch {epoch + 1}: lower the learning rate ({lr})"
            )
        seconds = round((time.monotonic() - started) / len(networks), 3)
        if not alone:
            trainee.unstack()
        for past, mean, network in zip(history, means, networks, strict=True):
            past.append({"loss": mean, "seconds": seconds})
            if after_epoch is not None:
                measured = after_epoch(epoch + 1, network) or {}
                if not isinstance(measured, dict) or measured.keys() & past[-1].keys():
                    raise ValueError(f"after_epoch must return None or a dict without loss and seconds, not {measured!r}")
                past[-1] |= {name: float(value) for name, value in measured.items()}
        if checkpoint is not None and epoch + 1 < epochs and time.monotonic() - saved >= CHECKPOINT_SECONDS:
            save(checkpoint, parts, orders, history)
            saved = time.monotonic()
    return history[0] if alone else history


def shorten(gradients: list[Tensor], limit: float) -> None:
    """Scale each network's gradients, in place: their L2 norm over all tensors (networks, ...) becomes at most `limit`."""
    squares = sum(g.reshape(len(g), -1).square().sum(dim=1) for g in gradients)
    factor = (limit / squares.sqrt().clamp_min(torch.finfo(squares.dtype).tiny)).clamp_max(1.0)
    for g in gradients:
        g.mul_(factor.view(-1, *[1] * (g.ndim - 1)))


class Together(nn.Module):
    """Networks of one architecture as one module: each parameter and buffer of all of them in one tensor, (networks, ...).

    Their gradients do not mix, so that any optimiser that treats values one by one moves each network as it would alone.
    raises ValueError for networks of different architectures
    """

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        kinds = [(str(n), [(name, v.shape, v.dtype) for name, v in n.state_dict().items()]) for n in networks]
        if any(kind != kinds[0] for kind in kinds):
            raise ValueError("networks that train together must be of one architecture")
        self.networks = list(networks)  # in a list, so that they are no part of this module
        self.names = dict(networks[0].named_parameters()), dict(networks[0].named_buffers())
        self.train()
        stacked = torch.func.stack_module_state(self.networks)
        self.weights = nn.ParameterList(
            nn.Parameter(stacked[0][name].detach(), requires_grad=own.requires_grad) for name, own in self.names[0].items()
        )
        for i, name in enumerate(self.names[1]):
            self.register_buffer(f"buffer{i}", stacked[1][name])

    def train(self, mode: bool = True) -> "Together":
        """Put all the networks in training mode, or out of it."""
        for network in self.networks:
            network.train(mode)
        return super().train(mode)

    def _states(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        buffers = {name: getattr(self, f"buffer{i}") for i, name in enumerate(self.names[1])}
        return dict(zip(self.names[0], self.weights, strict=True)), buffers

    def losses(self, objective: Callable, x: Tensor, y: Tensor) -> Tensor:
        """The objective of each network on its own batch: x (networks, N, ...), y (networks, N) -> (networks,)."""
        skeleton = self.networks[0]

        def one(parameters: dict, buffers: dict, x: Tensor, y: Tensor) -> Tensor:
            return objective(lambda images: torch.func.functional_call(skeleton, (parameters, buffers), (images,)), x, y)

        return torch.func.vmap(one)(*self._states(), x, y)

    @torch.no_grad()
    def unstack(self) -> None:
        """Write the present state into the networks."""
        for tensors, of in zip(self._states(), (nn.Module.named_parameters, nn.Module.named_buffers), strict=True):
            for i, network in enumerate(self.networks):
                for name, value in of(network):
                    value.copy_(tensors[name][i])


def save(path: Path, parts: dict, orders: list[torch.Generator], history: list[list[dict]]) -> None:
    """Write a checkpoint, whole or not at all: the states of the parts, of the orders, of torch's generators, and the history.

    parts : name -> anything with a state_dict: networks, optimisers, schedules
    raises RuntimeError for a disk that cannot take it
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: part.state_dict() for name, part in parts.items()}
    state |= {"orders": [order.get_state() for order in orders], "rng": torch.get_rng_state(), "history": history}
    if torch.cuda.is_available():
        state["cuda_rng"] = torch.cuda.get_rng_state()
    partial = path.with_suffix(".part")
    try:
        torch.save(state, partial)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise RuntimeError(f"could not write {path} ({error}): free some space, then start again") from error


def resume(path: Path, parts: dict, orders: list[torch.Generator], device: torch.device) -> list[list[dict]]:
    """Put all back as `save` found it; returns the history. raises RuntimeError for a file that is damaged or of other parts"""
    try:
        state = torch.load(path, weights_only=True, map_location=device)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        for order, stored in zip(orders, state["orders"], strict=True):
            order.set_state(stored.cpu())
    except Exception as error:  # a damaged file, or one of another network
        raise RuntimeError(f"{path} cannot be continued from ({error}): delete it to train from the start") from error
    torch.set_rng_state(state["rng"].cpu())
    if "cuda_rng" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda_rng"].cpu())
    return state["history"]
