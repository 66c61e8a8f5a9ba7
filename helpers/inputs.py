"""What the functions of `helpers` refuse. Every check names the argument, says what was given, and what to do about it.

All raise ValueError. Checks of values read a tensor once and bring one small result to the host; checks of types and shapes bring
none. Nothing here draws a random number.
"""

import math
import numbers
import re
from collections.abc import Sequence

import torch

Tensor = torch.Tensor
NORMS = ("l2", "linf", "l1")
FAR = 50.0  # an L2 radius that experiments take for "no bound at all", at the least
UNIT = "images have values in [0, 1]"


def told(value) -> str:
    """What a value is, in a few words, for a message."""
    if torch.is_tensor(value):
        return f"a tensor {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"a {type(value).__module__.partition('.')[0]} array {value.dtype} {tuple(value.shape)}"
    if value is None or isinstance(value, str | numbers.Number):
        return repr(value)
    return f"a {type(value).__name__}"


def check_number(
    name: str, value, low: float = -math.inf, high: float = math.inf, *, whole: bool = False, inside: bool = False
) -> None:
    """A finite number from low to high; whole: an integer; inside: neither low nor high themselves."""
    kind = numbers.Integral if whole else numbers.Real
    right = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    if right and (low < value < high if inside else low <= value <= high):
        return
    ends = f"{' above' if inside else ' >='} {low:g}" if low > -math.inf else ""
    ends += f"{' and below' if inside else ' and <=' if ends else ' <='} {high:g}" if high < math.inf else ""
    raise ValueError(f"{name} must be a {'whole' if whole else 'finite'} number{ends}, not {told(value)}")


def check_real(name: str, value) -> None:
    """A number, whatever it is, or None: of a setting whose bounds are checked later."""
    if value is not None and (not isinstance(value, numbers.Real) or isinstance(value, bool)):
        raise ValueError(f"{name} must be a number, not {told(value)}")


def check_whole(name: str, value) -> None:
    """A whole number, whatever it is, or None."""
    if value is not None and (not isinstance(value, numbers.Integral) or isinstance(value, bool)):
        raise ValueError(f"{name} must be a whole number, not {told(value)}")


def check_choice(name: str, value, allowed: Sequence[str]) -> None:
    """One of the names that are allowed."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {told(value)}")


def check_norm(norm: str, allowed: tuple[str, ...] = NORMS) -> None:
    """A norm among those that are allowed."""
    check_choice("norm", norm, allowed)


def check_eps(eps: float, norm: str | None = None, image: int | None = None, clip: bool = True) -> None:
    """A radius: finite and at least 0. With the norm and the number of values of an image in [0, 1]: one that says something.

    clip : False for what may leave [0, 1]: then twice as far
    """
    check_number("eps", eps, 0)
    if norm is None or image is None:
        return
    most = {"linf": 1.0, "l2": max(FAR, 2 * math.sqrt(image)), "l1": max(FAR, 2.0 * image)}[norm]
    if eps > most * (1 if clip else 2):
        raise ValueError(f"eps = {eps:g} in {norm} reaches past any image of pixels in [0, 1]: give it in units of these pixels, "
                         f"for 8-bit steps as {eps:g}/255")  # fmt: skip


def check_generator(generator) -> None:
    """A torch.Generator, or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(f"generator must be a torch.Generator, as torch.Generator().manual_seed(0), not {told(generator)}")


def check_callable(name: str, f) -> None:
    """A function or a module."""
    if not callable(f):
        raise ValueError(f"{name} must be a function of a batch or an nn.Module, not {told(f)}")


def check_module(name: str, module, kind: type = torch.nn.Module) -> None:
    """An nn.Module, or one of a kind."""
    if not isinstance(module, kind):
        raise ValueError(f"{name} must be an nn.{kind.__name__}, not {told(module)}")


def device_of(device: str | torch.device) -> torch.device:
    """The device of this name; raises ValueError for a name that torch does not know, or a device that is not there."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be cpu, cuda, cuda:0, mps or another that torch knows, not {told(device)}") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r} is not there: this torch sees no GPU. Take 'cpu'")
    return found


def check_floats(name: str, x, *, dims: int = 1, shape: Sequence[int] | None = None, least: int = 1) -> None:
    """A tensor of floats of so many dimensions or more, and of `least` samples or more; shape: of one sample."""
    if not torch.is_tensor(x):
        how = f": torch.as_tensor({name}).float()" if hasattr(x, "dtype") or isinstance(x, list | tuple) else ""
        raise ValueError(f"{name} must be a float tensor, not {told(x)}{how}")
    if not x.is_floating_point():
        how = f": {name}.float() / 255" if x.dtype == torch.uint8 else f": {name}.float()"
        raise ValueError(f"{name} must be a float tensor, not {told(x)}{'' if x.is_complex() else how}")
    if x.ndim < dims:
        how = f": add the batch dimension, {name}[None]" if x.ndim + 1 == dims else ""
        raise ValueError(f"{name} must have a batch dimension and {dims - 1} or more others, not {told(x)}{how}")
    if shape is not None and tuple(x.shape[1:]) != tuple(shape):
        raise ValueError(f"{name} must be (N, {', '.join(map(str, shape))}), not {told(x)}{_shape_advice(name, x, shape)}")
    if len(x) < least or (least and x.numel() == 0):
        raise ValueError(f"{name} must hold {least} samples or more, not {told(x)}: it is an empty batch" if least == 1 else
                         f"{name} must hold {least} samples or more, not {told(x)}")  # fmt: skip


def _shape_advice(name: str, x: Tensor, shape: Sequence[int]) -> str:
    given, shape = tuple(x.shape), tuple(shape)
    if given == shape:
        return f": add the batch dimension, {name}[None]"
    if len(shape) == 3 and given == shape[1:] and shape[0] == 1:
        return f": add batch and channel, {name}[None, None]"
    if len(shape) == 3 and given[1:] == shape[1:] and len(given) == 3 and shape[0] == 1:
        return f": add the channel, {name}[:, None]"
    if len(shape) == 3 and len(given) == 4 and given[1:] == (*shape[1:], shape[0]):
        return f": channels come before height and width, {name}.permute(0, 3, 1, 2)"
    return ""


def check_images(name: str, x, *, shape: Sequence[int] | None = None, least: int = 1) -> None:
    """Float images (N, C, H, W); looks at no value."""
    if torch.is_tensor(x) and x.is_floating_point() and x.ndim != 4 and shape is None:
        how = {2: f": add batch and channel, {name}[None, None]", 3: f": add the batch dimension, {name}[None]"}.get(x.ndim, "")
        raise ValueError(f"{name} must be images (N, C, H, W), not {told(x)}{how}")
    check_floats(name, x, dims=4, shape=shape, least=least)


def check_finite(name: str, x: Tensor) -> None:
    """No NaN and no infinity."""
    if not x.isfinite().all():
        raise ValueError(f"{name} contains NaN or infinity")


def check_range(name: str, low: float, high: float) -> None:
    """The least and the largest value of images: finite and in [0, 1]."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{name} contains NaN or infinity")
    if low < 0 or high > 1:
        how = f": {name} / 255" if low >= 0 and 1 < high <= 255 else "; normalisation belongs in the model"
        raise ValueError(f"{name}: image values must lie in [0, 1], not [{low:.3g}, {high:.3g}]: scale them{how}")


def check_pixels(name: str, x, *, shape: Sequence[int] | None = None, least: int = 1) -> None:
    """Float images (N, C, H, W) in [0, 1]. One transfer to the host."""
    check_images(name, x, shape=shape, least=least)
    if x.numel():
        check_range(name, *torch.stack(x.aminmax()).tolist())


def check_no_bytes(name: str, x: Tensor, high: float | None = None) -> None:
    """Not the 8-bit pixels 0..255 of images, as floats: what is no image of one or three channels passes, whatever its values.

    high : the largest value, where it is known; else one transfer to the host
    """
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.numel():
        high = x.amax().item() if high is None else high
        if 2 <= high <= 255 and (x == x.round()).all():
            raise ValueError(f"{name} holds whole numbers up to {high:g}; {UNIT}: {name} / 255")


def check_label_shape(name: str, y, number: int) -> None:
    """Labels (N,) int64, one for each sample; looks at no value."""
    if not torch.is_tensor(y):
        how = f"torch.full(({number},), {y})" if isinstance(y, int) else f"torch.as_tensor({name})"
        raise ValueError(f"labels must be int64 of shape ({number},), not {told(y)}: {name} = {how}")
    if y.shape != (number,) or y.dtype != torch.int64:
        how = f": {name}.argmax(dim=1)" if y.ndim == 2 and y.dtype != torch.int64 else f": {name}.long()" if y.ndim == 1 else ""
        raise ValueError(f"labels must be int64 of shape ({number},), not {told(y)}{how if y.dtype != torch.int64 else ''}")


def check_logit_shape(logits, number: int | None = None, *, least: int = 2) -> None:
    """Logits (N, K) of floats with K of at least 2; looks at no value."""
    if not torch.is_tensor(logits):
        how = {"tuple": ": take its first, lambda x: model(x)[0]", "ndarray": ": torch.from_numpy"}.get(type(logits).__name__, "")
        how = ": take its logits, lambda x: model(x)['logits']" if isinstance(logits, dict) else how
        raise ValueError(f"logits must be (N, K), a tensor, not {told(logits)}{how}")
    if logits.ndim != 2 or logits.shape[1] < least or not logits.is_floating_point():
        wanted = f"(N, K) with K >= {least}, floats"
        raise ValueError(f"logits must be {wanted}, not {told(logits)}: does the model end in its logits?")
    if number is not None and len(logits) != number:
        raise ValueError(f"logits must be ({number}, K), a row for each sample, not {told(logits)}")


def check_shapes(logits: Tensor, y: Tensor) -> None:
    """Logits (N, K) with K >= 2 and labels (N,) int64. Looks at no value, so it costs nothing in training."""
    check_logit_shape(logits)
    check_label_shape("y", y, len(logits))


def check_classes(y: Tensor, classes: int | None = None, name: str = "labels") -> None:
    """Labels name one of the classes, 0 and up. One transfer to the host."""
    low, high = torch.stack(y.aminmax()).tolist() if len(y) else (0, 0)
    if low < 0 or (classes is not None and high >= classes):
        known = f"the model has classes 0 to {classes - 1}" if classes else "classes are 0 and up"
        raise ValueError(f"{name} run from {low} to {high}; {known}")


def check_labels(logits: Tensor, y: Tensor) -> None:
    """`check_shapes`, and each label names one of the K classes. One transfer to the host."""
    check_shapes(logits, y)
    check_classes(y, logits.shape[1])


def check_input(x: Tensor, y: Tensor, eps: float, clip: bool, norm: str | None = None, *, name: str = "x") -> None:
    """What every attack is given, as the head of `helpers.attacks` has it. One transfer to the host."""
    check_eps(eps)
    check_floats(name, x, dims=2)
    check_label_shape("y", y, len(x))
    if x.ndim != 4 and clip:
        how = f": add the batch dimension, {name}[None]" if x.ndim == 3 else ""
        raise ValueError(
            f"{name} is {told(x)}, and clip=True is for images (N, C, H, W){how}; features have no range: clip=False"
        )
    wide = torch.promote_types(x.dtype, torch.float32)
    low, high, first = torch.stack([v.to(wide) for v in (*x.aminmax(), y.amin())]).tolist()
    if clip:
        check_range(name, low, high)
    elif not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{name} contains NaN or infinity")
    if first < 0:
        raise ValueError(f"labels run from {first:.0f}; classes are 0 and up")
    if norm is not None:
        check_norm(norm)
        check_eps(eps, norm, x[0].numel() if x.ndim == 4 and low >= 0 and high <= 1 else None, clip)


def check_probabilities(name: str, p: Tensor) -> None:
    """Rows (N, K) of numbers in [0, 1] that sum to 1."""
    check_floats(name, p, dims=2)
    total = p.sum(dim=-1)
    if not (p >= 0).all() or not (total - 1).abs().amax() <= p.shape[-1] * 1e-3:
        raise ValueError(
            f"{name} must be probabilities (N, K), at least 0 and of sum 1, not {told(p)}: of logits, .softmax(dim=1)"
        )


def check_shape(name: str, shape, *, divisor: int = 1) -> tuple[int, int, int]:
    """The shape (C, H, W) of an image, whole numbers above 0, the last two divisible by `divisor`; returned as a tuple."""
    fits = isinstance(shape, tuple | list | torch.Size) and len(shape) == 3
    if not fits or not all(isinstance(n, numbers.Integral) and n > 0 for n in shape) or shape[1] % divisor or shape[2] % divisor:
        also = f", H and W divisible by {divisor}" if divisor > 1 else ""
        raise ValueError(f"{name} must be a shape (C, H, W) of whole numbers above 0{also}, not {shape!r}")
    return tuple(shape)


def check_file_name(name: str, kind: str = "name") -> None:
    """A name that stays below its folder: words of letters, digits, dots, - and _, with / between them."""
    if not isinstance(name, str) or not all(re.fullmatch(r"[\w-][\w.-]*", part, re.ASCII) for part in name.split("/")):
        raise ValueError(f"{kind} must be words of letters, digits, dots, - and _, with / between them, not {name!r}")
