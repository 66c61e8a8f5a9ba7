"""One training loop for all chapters. What is learned is the objective's business: `objective(model, x, y) -> scalar`."""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from helpers.checkpoints import Checkpoint, account, restore, store
from helpers.data import Split
from helpers.inputs import (
    check_callable,
    check_classes,
    check_finite,
    check_floats,
    check_label_shape,
    check_module,
    check_no_bytes,
    check_number,
    check_real,
    check_whole,
)
from helpers.metrics import eval_mode
from helpers.precision import FUSED, check_precision, in_bf16
from helpers.schedules import Schedule, cosine, factor_of, linear  # noqa: F401  a chapter takes them from here

Tensor = torch.Tensor
CHECKPOINT_SECONDS = 60  # an epoch that ends later than this after the last checkpoint writes one


def fit(
    model: nn.Module,
    data: Split,
    objective: Callable[[nn.Module, Tensor, Tensor], Tensor],
    *,
    epochs: int,
    lr: float,
    batch_size: int = 100,
    momentum: float | None = None,
    optimiser: Callable[..., torch.optim.Optimizer] | None = None,
    parameters: list | None = None,
    clip: float | None = None,
    schedule: Schedule = linear,
    precision: str = "float32",
    seed: int,
    checkpoint: str | Path | Checkpoint | None = None,
    after_epoch: Callable[[int, nn.Module], dict | None] | None = None,
) -> list[dict]:
    """Minimise the objective by SGD, or another optimiser; returns one dict per epoch.

    model : trained in place, left in training mode
    momentum : of SGD; None: 0.9
    optimiser : (parameters, lr=...) -> torch optimiser, e.g. torch.optim.Adam, in place of SGD with momentum; the schedule scales
        its lr
    parameters : groups as torch's optimisers take them, e.g. with a weight_decay each; None: all, without weight decay
    clip : the largest L2 norm of the gradient over all parameters; a longer one is shortened to it
    schedule : share of the training done, in [0, 1) -> factor of the learning rate
    precision : "float32", or "bf16": the network's passes, forward and backward, by torch.autocast in bfloat16, and a fused SGD
        where torch has one; another optimiser is used as it is given. Weights, their gradients and losses stay float32 (see
        `precision.in_bf16`), and so does what after_epoch measures. It is faster only on a processor that computes in bfloat16 (a
        GPU, or a CPU with avx512_bf16 or amx_bf16); others work too, but take several times as long as in float32. It changes
        the results a little, so it belongs in the settings, and thereby in the key, of a row. It is not for networks that compute
        likelihoods (helpers.glow, helpers.mixtures): those would lose digits
    seed : decides the order of the batches; what the objective or dropout draws comes from torch's global generator, which
        this function seeds too
    checkpoint : a file that receives the state at epoch boundaries. If it is there, and of this training, it is continued from:
        the result is the same as without the interruption. One of another training (seed, rate, epochs, data, architecture, ...)
        is not used; a warning says what differs
    after_epoch : called with the number of finished epochs and the network; the numbers that it returns join the epoch's
    returns per epoch {"loss": mean over the samples, "seconds": of training alone, **what after_epoch returned}
    raises ValueError for data as in `check_data`, a last batch of one image with batch normalisation over single values, an
        objective without a gradient, settings out of range, an unknown precision, or bf16 of weights that are not float32,
        FloatingPointError if the loss is no longer finite, RuntimeError at the start if the checkpoint's folder cannot be written
    """
    check_module("model", model)
    check_callable("objective", objective)
    check_number("seed", seed, whole=True)
    check_real("lr", lr)
    check_real("clip", clip)
    check_whole("epochs", epochs)
    check_whole("batch_size", batch_size)
    if None in (epochs, batch_size, lr) or epochs < 1 or batch_size < 1 or not 0 < lr < math.inf:
        raise ValueError(f"epochs and batch_size must be at least 1 and lr finite and above 0, not {epochs}, {batch_size}, {lr}")
    if clip is not None and not 0 < clip < math.inf:
        raise ValueError(f"clip must be a finite number above 0, or None for no clipping, not {clip}")
    if momentum is not None and optimiser is not None:
        raise ValueError("momentum is for SGD, the default: another optimiser brings its own, as functools.partial say")
    check_data(data)
    check_last_batch(model, data, batch_size)
    check_precision(precision, model)
    checkpoint, device = Checkpoint.of(checkpoint), data.images.device
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    fused = {"fused": True} if precision == "bf16" and device.type in FUSED else {}
    make = optimiser or partial(torch.optim.SGD, momentum=0.9 if momentum is None else momentum, **fused)
    optimiser = make(model.parameters() if parameters is None else parameters, lr=lr)
    settings = {"seed": seed, "epochs": epochs, "lr": lr, "batch_size": batch_size, "clip": clip}
    settings |= {"schedule": schedule, "objective": objective}
    if precision == "bf16":  # float32 is not named: checkpoints from before there was a choice stay valid
        settings["precision"], objective = precision, partial(in_bf16, objective)
    about = {} if checkpoint is None else account(model, *data.xy, {"optimiser": optimiser}, **settings)
    total = epochs * -(-len(data) // batch_size)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: factor_of(schedule, min(step, total - 1) / total))
    parts = {"model": model, "optimiser": optimiser, "rate": rate}
    history = restore(checkpoint, about, parts, order)
    saved = time.monotonic()
    for epoch in range(len(history), epochs):
        model.train()
        started = time.monotonic()
        running = torch.zeros((), device=device, dtype=torch.float64)
        for index in torch.randperm(len(data), generator=order).to(device).split(batch_size):
            loss = _loss(objective, model, data.images[index], data.labels[index])
            optimiser.zero_grad(set_to_none=True)
            loss.sum().backward()
            if clip is not None:
                shorten([w.grad for w in model.parameters() if w.grad is not None], clip)
            optimiser.step()
            rate.step()
            running += loss.detach().sum() * len(index)
        mean = (running / len(data)).item()
        if not math.isfinite(mean):
            raise FloatingPointError(f"the loss became {mean} in epoch {epoch + 1}: lower the learning rate ({lr})")
        history.append({"loss": mean, "seconds": round(time.monotonic() - started, 3)})
        if after_epoch is not None:
            measured = after_epoch(epoch + 1, model) or {}
            if not isinstance(measured, dict) or measured.keys() & history[-1].keys():
                raise ValueError(f"after_epoch must return None or a dict without loss and seconds, not {measured!r}")
            history[-1] |= {name: float(value) for name, value in measured.items()}
        if checkpoint is not None and epoch + 1 < epochs and time.monotonic() - saved >= CHECKPOINT_SECONDS:
            store(checkpoint, about, parts, order, history)
            saved = time.monotonic()
    return history


def check_data(data: Split) -> None:
    """raises ValueError for data that nothing can be learned from: none, no float images, values that are not finite, whole
    numbers up to 255, labels that are no class, as many as images or not"""
    if torch.is_tensor(data.images) and len(data) == 0:
        raise ValueError(f"{data.name} is empty: there is nothing to train on")
    check_floats("images", data.images, dims=2)
    check_finite("images", data.images)
    check_no_bytes("images", data.images)
    check_label_shape("labels", data.labels, len(data.images))
    check_classes(data.labels)


def check_last_batch(model: nn.Module, data: Split, batch_size: int) -> None:
    """raises ValueError where a batch of one image is left over for a network whose batch normalisation may see one value only"""
    if batch_size > 1 and len(data) % batch_size != 1:
        return
    norms = (nn.modules.batchnorm._BatchNorm,)
    if not any(isinstance(m, norms) for m in model.modules()):
        return
    seen: list[int] = []

    def look(module: nn.Module, given: tuple) -> None:
        seen.append(given[0].numel() // given[0].shape[1])

    hooks = [m.register_forward_pre_hook(look) for m in model.modules() if isinstance(m, norms)]
    try:
        with torch.no_grad(), eval_mode(model):
            model(data.images[:1])
    except (RuntimeError, TypeError, ValueError):
        return  # a model that is not called with images alone: its objective knows how
    finally:
        for hook in hooks:
            hook.remove()
    if 1 in seen:
        raise ValueError(
            f"{len(data)} images in batches of {batch_size} leave one image alone, of which batch normalisation has no variance: "
            f"take another batch_size, or leave one image out"
        )


def _loss(objective: Callable, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The objective's value; raises ValueError for one that cannot be minimised, and for labels that the model does not have."""
    try:
        loss = objective(model, x, y)
    except (IndexError, RuntimeError) as error:
        if "out of bounds" in str(error):
            raise ValueError(f"labels run from {y.min()} to {y.max()}, which the model has no class for: {error}") from error
        raise
    if not torch.is_tensor(loss) or loss.numel() != 1:
        got = tuple(loss.shape) if torch.is_tensor(loss) else type(loss).__name__
        raise ValueError(f"the objective must return a scalar, the mean over the batch, not {got}")
    if not loss.requires_grad:
        raise ValueError(
            "the objective's value has no gradient: train outside of torch.no_grad() and torch.inference_mode(), and a network "
            "of load_pretrained after .requires_grad_()"
        )
    return loss


def shorten(gradients: list[Tensor], limit: float) -> None:
    """Scale a network's gradients, in place: their L2 norm over all tensors becomes at most `limit`."""
    squares = sum(g.reshape(1, -1).square().sum(dim=1) for g in gradients)
    factor = (limit / squares.sqrt().clamp_min(torch.finfo(squares.dtype).tiny)).clamp_max(1.0)
    for g in gradients:
        g.mul_(factor[0])
