"""Networks, and the zoo of trained ones.

A network is an `nn.Sequential`, so that a layer's output is a slice: `network[:-1]` computes the features before the last
layer, `network[-1]` the logits from them, both sharing the network's parameters. Images come as float in [0, 1]; where a
network wants them normalised, that is its first layer.
"""

import json
import os
from pathlib import Path

import torch
from torch import nn

from helpers.encoders import resnet18, traffic_signs
from helpers.inputs import check_file_name, check_module, check_number, device_of
from helpers.layers import Dropout, LocalNorm, Normalise, Residual

WEIGHTS = Path(__file__).parent / "weights"


def mlp(inputs: int, hidden: tuple[int, ...], classes: int, *, dropout: float = 0.0) -> nn.Sequential:
    """Fully connected network with ReLU: Flatten, (Linear, ReLU[, Dropout]) per hidden layer, Linear to logits (N, classes).

    inputs : values of one image, e.g. 784
    dropout : probability of zeroing a hidden unit in training; 0 leaves the layer out
    """
    check_number("dropout", dropout)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), not {dropout}")
    for name, number in {"inputs": inputs, "classes": classes, **{f"hidden[{i}]": n for i, n in enumerate(hidden)}}.items():
        check_number(name, number, 1, whole=True)
    layers: list[nn.Module] = [nn.Flatten()]
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        if dropout:
            layers.append(Dropout(dropout))
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def lenet(classes: int = 10, *, widths: tuple[int, int] = (20, 50), hidden: int = 100, activation: str = "tanh") -> nn.Sequential:
    """LeNet for (N, 1, 28, 28): two 5×5 convolutions, each with activation and 2×2 max-pooling, a layer of `hidden` with
    activation, logits. As it stands, with 106,680 parameters, the network of Huang et al.'s later notebooks.

    activation : "tanh" or "relu"
    """
    if len(widths) != 2 or min(*widths, hidden, classes) < 1 or activation not in ("tanh", "relu"):
        wanted = "two widths, hidden and classes of at least 1 and tanh or relu"
        raise ValueError(f"{wanted} are wanted, not {widths}, {hidden}, {classes}, {activation!r}")
    act = {"tanh": nn.Tanh, "relu": nn.ReLU}[activation]
    return nn.Sequential(
        *(nn.Conv2d(1, widths[0], 5), act(), nn.MaxPool2d(2)),
        *(nn.Conv2d(*widths, 5), act(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * widths[1], hidden), act(), nn.Linear(hidden, classes)),
    ).to(memory_format=torch.channels_last)  # 1.4 times as fast to train on a CPU


def cnn(widths: tuple[int, ...] = (32, 64, 64), hidden: int = 128, classes: int = 10) -> nn.Sequential:
    """A small convolutional network for (N, 3, 32, 32): per width a 3×3 convolution, ReLU and 2×2 max-pooling, then a layer of
    `hidden` with ReLU, logits. Pixels are centred first: (x − 0.5) / 0.25."""
    for name, number in {"hidden": hidden, "classes": classes, **{f"widths[{i}]": n for i, n in enumerate(widths)}}.items():
        check_number(name, number, 1, whole=True)
    layers: list[nn.Module] = [Normalise((0.5,) * 3, (0.25,) * 3)]
    for before, width in zip((3, *widths), widths, strict=False):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    inputs = widths[-1] * (32 // 2 ** len(widths)) ** 2
    head = (nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    return nn.Sequential(*layers, *head).to(memory_format=torch.channels_last)


def cuda_convnet(
    widths: tuple[int, int, int] = (32, 32, 64),
    *,
    shape: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
    mean: tuple[float, ...] | None = None,
    norm: str = "map",
    scale: float = 5e-5,
    dropout: float = 0.5,
) -> nn.Sequential:
    """cuda-convnet's layers-18pct.cfg, with dropout before the last layer: three 5×5 convolutions, each with 3×3 pooling of
    stride 2 (the first by maximum, before its ReLU), a local normalisation after the first two, logits.

    shape : channels, height, width of an image; mean : subtracted from each channel
    norm, scale : of `LocalNorm`; "contrast" is the network in the words of Abbasi & Gagné 2018 instead: after each convolution
        ReLU, max-pooling and local contrast normalisation
    """
    if len(widths) != 3 or min(*widths, classes) < 1 or len(shape) != 3 or not 0 <= dropout < 1:
        wanted = "three widths and classes of at least 1, a shape of 3 numbers and dropout in [0, 1)"
        raise ValueError(f"{wanted} are wanted, not {widths}, {classes}, {shape}, {dropout}")
    channels, side = shape[0], shape[1:]
    layers: list[nn.Module] = [Normalise(mean, (1.0,) * channels)] if mean is not None else []
    for number, (before, width) in enumerate(zip((channels, *widths), widths, strict=False)):
        convolution, relu = nn.Conv2d(before, width, 5, padding=2), nn.ReLU()
        pool = (nn.AvgPool2d if number and norm != "contrast" else nn.MaxPool2d)(3, 2, ceil_mode=True)
        layers += [convolution, relu, pool] if number or norm == "contrast" else [convolution, pool, relu]
        if number < 2 or norm == "contrast":
            layers.append(LocalNorm(norm, scale=scale))
        side = [-(-(s - 3) // 2) + 1 for s in side]
    layers += [nn.Flatten(), Dropout(dropout)] if dropout else [nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(widths[2] * side[0] * side[1], classes)).to(memory_format=torch.channels_last)


def vgg16(
    widths: tuple[int, ...] = (64, 128, 256, 512, 512),
    hidden: int = 512,
    *,
    classes: int = 10,
    mean: tuple[float, ...] = (0.5, 0.5, 0.5),
    dropout: float = 0.5,
    batch_norm: bool = True,
) -> nn.Sequential:
    """VGG-16 for (N, 3, 32, 32): 2, 2, 3, 3, 3 3×3 convolutions of the five widths, each group followed by 2×2 max-pooling; two
    layers of `hidden` with ReLU and dropout; logits. batch_norm : after each convolution"""
    if len(widths) != 5 or min(*widths, hidden, classes) < 1:
        raise ValueError(f"five widths, hidden and classes of at least 1 are wanted, not {widths}, {hidden}, {classes}")
    layers, before = [Normalise(mean, (1.0,) * 3)], 3
    for width, depth in zip(widths, (2, 2, 3, 3, 3), strict=True):
        for _ in range(depth):
            layers.append(nn.Conv2d(before, width, 3, padding=1, bias=not batch_norm))
            layers += [nn.BatchNorm2d(width), nn.ReLU()] if batch_norm else [nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2))
    head = mlp(before, (hidden, hidden), classes, dropout=dropout)
    return nn.Sequential(*layers, *head).to(memory_format=torch.channels_last)


def resnet(
    blocks: int = 1,
    widths: tuple[int, int, int] = (16, 32, 64),
    *,
    classes: int = 10,
    mean: tuple[float, float, float] | None = None,
) -> nn.Sequential:
    """Residual network for small colour images (N, 3, H, W) (He et al. 2016, §4.2): a 3×3 convolution, three stacks of `blocks`
    residual blocks, the last two halving the image at their start, the mean over positions, logits. 6 · blocks + 2 layers.

    mean : subtracted from each channel; None: the pixels as they are
    """
    if len(widths) != 3 or min(*widths, classes, blocks) < 1:
        raise ValueError(f"three widths, blocks and classes of at least 1 are wanted, not {widths}, {blocks}, {classes}")
    layers: list[nn.Module] = [Normalise(mean, (1.0,) * 3)] if mean is not None else []
    layers += [nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    before = widths[0]
    for stack, width in enumerate(widths):
        for block in range(blocks):
            layers.append(Residual(before, width, 2 if stack and not block else 1))
            before = width
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))
    return nn.Sequential(*layers, *head).to(memory_format=torch.channels_last)


def last_convolution(network: nn.Sequential) -> int:
    """How many top-level layers of a network lie up to its last convolution's activation: `network[:i]` computes that,
    `network[i:]` the logits from it. raises ValueError for a network without convolutions"""
    check_module("network", network, nn.Sequential)
    convolutions = [i for i, layer in enumerate(network) if any(isinstance(m, nn.Conv2d) for m in layer.modules())]
    if not convolutions:
        raise ValueError("the network has no convolution")
    i = convolutions[-1] + 1
    while i < len(network) and isinstance(network[i], nn.BatchNorm2d | nn.ReLU | nn.Tanh):
        i += 1
    return i


ARCHITECTURES = {f.__name__: f for f in (mlp, lenet, cnn, cuda_convnet, vgg16, resnet, resnet18, traffic_signs)}


def zoo() -> list[str]:
    """Names of the trained networks that ship with the book, as `load_pretrained` takes them."""
    return sorted(p.relative_to(WEIGHTS).with_suffix("").as_posix() for p in WEIGHTS.rglob("*.json"))


def card(name: str) -> dict:
    """What is known of a network of the zoo: paper, method, architecture, profile, seed, commit, accuracy on clean images.

    raises ValueError for an unknown name, listing the known ones
    """
    if name not in zoo():
        raise ValueError(f"no network named {name!r} in the zoo; there are: {', '.join(zoo()) or 'none yet'}")
    return card_in(name, WEIGHTS)


def card_in(name: str, folder: Path) -> dict | None:
    """The card of a network in a folder of networks; None where there is none."""
    path = folder / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError as error:
        raise ValueError(f"the card {path} is damaged ({error}): restore it from git") from error


def _architectures() -> dict:
    """What the zoo can hold: networks, fitted or trained purifiers, and the flow (their modules stand above this one)."""
    from helpers import glow, purifiers

    fitted = {c.__name__: c for c in (purifiers.PCA, purifiers.Autoencoder, purifiers.ConvAutoencoder, glow.Glow)}
    return ARCHITECTURES | fitted


def load_pretrained(name: str, *, device: str | torch.device = "cpu", folder: Path | None = None) -> nn.Module:
    """The trained network `name` (e.g. "huang2015/lwa") in evaluation mode, float32, its parameters frozen: ready to attack.

    folder : of candidates, in place of the zoo's own
    Where the card names a network that it stands "before", it is a purifier: `nn.Sequential(it, load_pretrained(that))`
    """
    from safetensors.torch import load_file

    device, path = device_of(device), (folder or WEIGHTS) / f"{name}.safetensors"
    about = card_in(name, folder) if folder else card(name)
    if about is None:
        raise ValueError(f"no network named {name!r} in {folder}")
    try:
        state = load_file(path)
    except Exception as error:  # safetensors has errors of its own, for a file that is short, and raises OSError for none
        raise ValueError(f"{path} cannot be read ({error}): restore it from git, or train it again") from error
    try:
        network = built(about, state)
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} and its card do not fit: {error}") from error
    return network.eval().requires_grad_(False).to(device)


def built(about: dict, state: dict[str, torch.Tensor]) -> nn.Module:
    """The network of a card with the parameters `state`, in float32. raises errors of many kinds where the two do not fit"""
    network = _architectures()[about["architecture"]["name"]](**about["architecture"]["arguments"])
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return network


def text_of(about: dict) -> str:
    """A card as it is written."""
    return json.dumps(about, indent=1, sort_keys=True) + "\n"


def save_pretrained(name: str, network: nn.Module, about: dict, *, folder: Path | None = None) -> Path:
    """Add a network to the zoo: `<name>.safetensors` in float16 and its card `<name>.json`. Returns the weights' path.

    raises ValueError for a name that leaves the folder, a card without an architecture of ours, and values that float16 cannot
    hold; then, and where the disk is full, what there was before stays

    folder : of candidates, in place of the zoo's own
    about : at least {"architecture": {"name": a key of ARCHITECTURES, or a purifier's class, "arguments": {...}}}
    """
    from safetensors.torch import save

    check_file_name(name)
    check_module("network", network)
    architecture = about.get("architecture") if isinstance(about, dict) else None
    if not isinstance(architecture, dict) or architecture.get("name") not in _architectures():
        raise ValueError(f"about['architecture']['name']: architecture must be one of {', '.join(_architectures())}")
    half = {k: v.detach().half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    if bad := [k for k, v in half.items() if v.is_floating_point() and not v.isfinite().all()]:
        raise ValueError(f"{', '.join(bad)} holds NaN, infinity, or values past 65504, the largest of float16: nothing was saved")
    content = {".safetensors": save({k: v.contiguous().cpu().clone() for k, v in half.items()}), ".json": text_of(about).encode()}
    path = (folder or WEIGHTS) / f"{name}.safetensors"
    parts = {suffix: path.with_name(f"{path.stem}{suffix}.{os.getpid()}.part") for suffix in content}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for suffix, part in parts.items():  # both are whole before either is replaced: a full disk leaves what there was
            part.write_bytes(content[suffix])
        path.with_suffix(".json").unlink(missing_ok=True)  # killed from here on, a network has no card, never a wrong one
        for suffix, part in parts.items():
            part.replace(path.with_suffix(suffix))
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return path
