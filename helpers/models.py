"""Networks, and the zoo of trained ones.

A network is an `nn.Sequential`, so that a layer's output is a slice: `network[:-1]` computes the features before the last
layer, `network[-1]` the logits from them, both sharing the network's parameters. Images come as float in [0, 1]; where a
network wants them normalised, that is its first layer.
"""

import json
from pathlib import Path

import torch
from torch import nn

WEIGHTS = Path(__file__).parent / "weights"


class Dropout(nn.Dropout):
    """nn.Dropout with a mask that depends on the seed alone: torch draws its own differently from one version to another."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        keep = 1 - self.p
        return x * (torch.rand(x.shape, dtype=torch.float64, device=x.device) < keep).to(x.dtype).div(keep)


def mlp(inputs: int, hidden: tuple[int, ...], classes: int, *, dropout: float = 0.0) -> nn.Sequential:
    """Fully connected network with ReLU: Flatten, (Linear, ReLU[, Dropout]) per hidden layer, Linear to logits (N, classes).

    inputs : values of one image, e.g. 784
    dropout : probability of zeroing a hidden unit in training; 0 leaves the layer out
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), not {dropout}")
    layers: list[nn.Module] = [nn.Flatten()]
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        if dropout:
            layers.append(Dropout(dropout))
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


ARCHITECTURES = {"mlp": mlp}


def zoo() -> list[str]:
    """Names of the trained networks that ship with the book, as `load_pretrained` takes them."""
    return sorted(str(p.relative_to(WEIGHTS).with_suffix("")) for p in WEIGHTS.rglob("*.json"))


def card(name: str) -> dict:
    """What is known of a network of the zoo: paper, method, architecture, profile, seed, commit, accuracy on clean images.

    raises ValueError for an unknown name, listing the known ones
    """
    if name not in zoo():
        raise ValueError(f"no network named {name!r} in the zoo; there are: {', '.join(zoo()) or 'none yet'}")
    return json.loads((WEIGHTS / f"{name}.json").read_text())


def load_pretrained(name: str, *, device: str | torch.device = "cpu") -> nn.Sequential:
    """The trained network `name` (e.g. "huang2015/lwa") in evaluation mode, float32, its parameters frozen: ready to attack."""
    from safetensors.torch import load_file

    about = card(name)
    network = ARCHITECTURES[about["architecture"]["name"]](**about["architecture"]["arguments"])
    state = load_file(WEIGHTS / f"{name}.safetensors")
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return network.eval().requires_grad_(False).to(device)


def save_pretrained(name: str, network: nn.Module, about: dict) -> Path:
    """Add a network to the zoo: `<name>.safetensors` in float16 and its card `<name>.json`. Returns the weights' path.

    about : at least {"architecture": {"name": a key of ARCHITECTURES, "arguments": {...}}}
    """
    from safetensors.torch import save_file

    if about["architecture"]["name"] not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}")
    path = WEIGHTS / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    save_file({k: v.contiguous().cpu() for k, v in half.items()}, path)
    path.with_suffix(".json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")
    return path
