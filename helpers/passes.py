"""A pass of a model, forward or back, as attacks and detectors take it: what the model is given stays as it was, what it returns
is logits that can be attacked, and where there is no gradient the error says what to do."""

import functools
import re
from collections.abc import Callable

import torch
from torch import nn

from helpers.inputs import check_callable, check_labels, check_logit_shape

Tensor = torch.Tensor
Model = Callable[[Tensor], Tensor]
NO_GRADIENT = (
    "what the model returns has no gradient with respect to x. A purifier without one (JPEG, rounding, a median) wants "
    "purifiers.StraightThrough(purifier), the identity's gradient (BPDA, Athalye et al. 2018); a model must not detach x, nor "
    "work under torch.no_grad() or torch.inference_mode()"
)


# What torch says where a network is given images of another shape than it was made for
MISFIT = (
    "shapes cannot be multiplied|Expected .*D|to have \\d+ channels|[Ss]ize mismatch|too small|must match|invalid for input|"
    "[Kk]ernel size"
)


def call(model: Model, x: Tensor):
    """model(x); raises ValueError for images of a shape or precision that the model, an nn.Module, was not made for."""
    try:
        return model(x)
    except RuntimeError as error:
        weights = {str(p.dtype) for p in model.parameters()} if isinstance(model, nn.Module) else set()
        if weights and str(x.dtype) not in weights:
            raise ValueError(
                f"x is {x.dtype}, the network's weights are {' and '.join(sorted(weights))}: convert one, by x.float() or "
                "model.double()"
            ) from error
        if not isinstance(model, nn.Module) or not re.search(MISFIT, str(error)):
            raise
        raise ValueError(
            f"the network was not made for x {tuple(x.shape)}; images are (N, C, H, W), with the channels and the size of those "
            f"that it was trained on. It says: {error}"
        ) from error


def works_in_place(model) -> bool:
    """Whether a layer of the module says that it overwrites what it is given, as nn.ReLU(inplace=True) does."""
    return isinstance(model, nn.Module) and any(getattr(m, "inplace", False) for m in model.modules())


def _first(model):
    while isinstance(model, nn.Sequential) and len(model):
        model = model[0]
    return model


def on_a_copy(model: Model) -> Model:
    """The model; of one that works in place, a function that gives it a copy of what it is given itself."""
    check_callable("model", model)
    return (lambda x: call(model, x.clone())) if works_in_place(model) else (lambda x: call(model, x))


def checked_logits(model: Model, x: Tensor, y: Tensor | None) -> Tensor:
    """model(x), finite logits (N, K) with the classes y, in the dtype of x: under autocast a model returns another."""
    check_callable("model", model)
    logits = call(model, x.clone() if getattr(_first(model), "inplace", False) else x)
    check_logit_shape(logits, len(x))
    if y is not None:
        check_labels(logits, y)
    if not logits.isfinite().all():
        raise ValueError("the model returned logits that are not finite")
    if x.requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
        raise ValueError(NO_GRADIENT)
    return logits.to(x.dtype)


def gradient_of(value: Tensor, x: Tensor, **how) -> Tensor:
    """∂value/∂x, finite, of a scalar. how: `retain_graph`, as torch.autograd.grad takes it"""
    return checked_gradient(raw_gradient(value, x, **how))


def raw_gradient(value: Tensor, x: Tensor, **how) -> Tensor:
    """The same, not yet looked at."""
    g = torch.autograd.grad(value, x, allow_unused=True, **how)[0] if value.requires_grad else None
    if g is None:
        raise ValueError(NO_GRADIENT)
    return g


def checked_gradient(gradient: Tensor) -> Tensor:
    """The gradient; raises ValueError for one that is not finite."""
    if gradient.numel() and not torch.stack(gradient.aminmax()).isfinite().all():  # NaN is both; a fifth of isfinite's time
        raise ValueError("the model's gradient is not finite: such an attack would measure nothing")
    return gradient


def rounding_of(dtype: torch.dtype) -> float:
    """By what share of the largest logit a network's logits may differ when it computes them in another batch.

    In float32 those of the zoo differ by up to 18 roundings, in float64 by 7, and less in half precision, which sums in float32
    """
    eps, single = torch.finfo(dtype).eps, torch.finfo(torch.float32).eps
    return 1e-5 * eps / single if eps <= single else 4 * eps


def with_gradients(f: Callable) -> Callable:
    """`f`, also under torch.inference_mode(): gradients that it takes inside are recorded, what it returns is an ordinary tensor.

    raises ValueError for a module whose parameters were made in that mode: no gradient can go through them
    """

    @functools.wraps(f)
    def run(*args, **kwargs):
        given = (*args, *kwargs.values())
        for module in (m for m in given if isinstance(m, nn.Module)):
            if any(p.is_inference() for p in module.parameters()):
                raise ValueError(
                    "the model's parameters were made under torch.inference_mode() and carry no gradient: make or load it outside"
                )
        if not torch.is_inference_mode_enabled() and not any(torch.is_tensor(v) and v.is_inference() for v in given):
            return f(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return f(*map(_ordinary, args), **{name: _ordinary(v) for name, v in kwargs.items()})

    return run


def _ordinary(value):
    return value.clone() if torch.is_tensor(value) and value.is_inference() else value
