"""The two networks that Liang et al. 2020 train themselves, to be had from `models` as all others: network[:-1] is the encoder
z = f(x) that they attack, network[-1] the classifier of its features."""

from functools import partial

import torch
from torch import nn

from helpers.inputs import check_images
from helpers.layers import Normalise, Residual

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # the map that leaves an image as it is, as affine_grid takes it


def resnet18(width: int = 64, classes: int = 2, channels: int = 1, norm: str = "instance") -> nn.Sequential:
    """ResNet-18 (He et al. 2016) for (N, channels, 224, 224), or other sizes: a 7×7 convolution and max-pooling, of stride 2
    each, eight residual blocks of 1, 1, 2, 2, 4, 4, 8, 8 times `width`, the mean over positions; network[:-1] gives these
    (N, 8 · width) features. Pixels are centred first: (x − 0.5) / 0.25.

    channels : 1 for grey images; three equal channels instead would add weights to the first convolution, and no other function
    norm : "batch", or "instance", for which Liang et al. 2020 (appendix B.2) replaced it: torch's InstanceNorm2d as it stands,
        without scale and shift of its own. It normalises each image alone, in training as in evaluation, and so needs two
        positions or more: of the image one side must have 33 pixels or more, as the last blocks see a 32nd of it, rounded up
    raises ValueError for another norm, or numbers below 1, the network for images too small for its norm
    """
    norms = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}
    if min(width, classes, channels) < 1 or norm not in norms:
        wanted = "width, classes and channels of at least 1 and a norm of batch or instance"
        raise ValueError(f"{wanted} are wanted, not {width}, {classes}, {channels}, {norm!r}")
    layers = [Normalise((0.5,) * channels, (0.25,) * channels, least=33 if norm == "instance" else 1)]
    layers += [nn.Conv2d(channels, width, 7, 2, padding=3, bias=False)]
    layers += [norms[norm](width), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    block, before = partial(Residual, norm=norms[norm], shortcut_norm=True), width
    for stage in range(4):
        for stride in (2 if stage else 1, 1):
            layers.append(block(before, width * 2**stage, stride))
            before = width * 2**stage
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))
    # on a CPU, what is faster for batch normalisation is slower for that of instances
    return network.to(memory_format=torch.channels_last) if norm == "batch" else network


def traffic_signs(
    widths: tuple[int, int, int] = (32, 48, 64),
    *,
    latent: int = 128,
    classes: int = 43,
    localisation: tuple[int, int, int] = (16, 16, 32),
) -> nn.Sequential:
    """A small network like Arcos-García et al. 2018's for traffic signs (N, 3, 32, 32): three times a spatial transformer, a
    convolution (7×7, then 4×4), ReLU, 2×2 max-pooling and local contrast normalisation; a layer of `latent` with ReLU, whose
    output network[:-1] gives; logits. Liang et al. 2020 (appendix B.3) name that network and 128, no other size: theirs is for
    48×48 pixels, of widths 200, 250, 350 and a latent space of 400. Pixels are centred first: (x − 0.5) / 0.25.

    localisation : of each `SpatialTransformer`
    raises ValueError for numbers below 1, or not three of them
    """
    if len(widths) != 3 or min(*widths, latent, classes) < 1:
        raise ValueError(f"three widths, latent and classes of at least 1 are wanted, not {widths}, {latent}, {classes}")
    layers, before, side = [Normalise((0.5,) * 3, (0.25,) * 3)], 3, 32
    for width, kernel in zip(widths, (7, 4, 4), strict=True):
        layers += [SpatialTransformer(before, side, localisation), nn.Conv2d(before, width, kernel, padding=2)]
        layers += [nn.ReLU(), nn.MaxPool2d(2), ContrastNorm()]
        before, side = width, (side + 5 - kernel) // 2
    head = (nn.Flatten(), nn.Linear(before * side**2, latent), nn.ReLU(), nn.Linear(latent, classes))
    return nn.Sequential(*layers, *head).to(memory_format=torch.channels_last)


class SpatialTransformer(nn.Module):
    """Shift, scale, turn and shear each image as a network that looks at it says (Jaderberg et al. 2015).

    images (N, C, S, S) -> (N, C, S, S). The network: 2×2 max-pooling, twice a 5×5 convolution, ReLU and 2×2 max-pooling, a
    layer with ReLU, the six numbers of an affine map. It starts at the identity. Pixels are interpolated linearly, and are 0
    outside of the image. On a GPU torch sums the gradient to the image in no fixed order: its last digits vary.

    channels, side : C and S of an image, S at least 8
    widths : of the two convolutions and the layer
    raises ValueError for sizes out of range, and for images of other shapes
    """

    def __init__(self, channels: int, side: int, widths: tuple[int, int, int] = (16, 16, 32)):
        super().__init__()
        if len(widths) != 3 or min(channels, *widths) < 1 or side < 8:
            wanted = "three widths and channels of at least 1 and a side of at least 8"
            raise ValueError(f"{wanted} are wanted, not {widths}, {channels}, {side}")
        self.shape = (channels, side, side)
        self.localisation = nn.Sequential(
            *(nn.MaxPool2d(2), nn.Conv2d(channels, widths[0], 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(widths[0], widths[1], 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(widths[1] * (side // 8) ** 2, widths[2]), nn.ReLU(), nn.Linear(widths[2], 6)),
        )
        with torch.no_grad():
            self.localisation[-1].weight.zero_()
            self.localisation[-1].bias.copy_(torch.tensor(IDENTITY))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_images("x", x, least=0)
        if x.shape[1:] != self.shape:
            raise ValueError(f"images {self.shape} are wanted, not {tuple(x.shape[1:])}")
        grid = nn.functional.affine_grid(self.localisation(x).view(-1, 2, 3), list(x.shape), align_corners=False)
        return nn.functional.grid_sample(x, grid, align_corners=False)


class ContrastNorm(nn.Module):
    """Local contrast normalisation (Jarrett et al. 2009, §2.1), with windows of equal weights: from each value the mean of a
    window over all maps is subtracted; the rest is divided by its root mean square in such a window, where that is above its mean
    over the image's positions, elsewhere by this mean. (N, C, H, W) -> the same. Of windows, the part within the image counts.

    `LocalNorm("contrast")` is another one: within a map, and it subtracts nothing. raises ValueError for an even window
    """

    def __init__(self, window: int = 7):
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window must be odd and at least 1, not {window}")
        self.window = window

    def _around(self, x: torch.Tensor) -> torch.Tensor:
        maps = x.mean(dim=1, keepdim=True)
        return nn.functional.avg_pool2d(maps, self.window, 1, self.window // 2, count_include_pad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_images("x", x, least=0)
        rest = x - self._around(x)
        # a root's gradient at 0, of an even image, would be infinite
        contrast = self._around(rest.square()).clamp_min(max(1e-8, torch.finfo(x.dtype).tiny)).sqrt()
        return rest / torch.maximum(contrast, contrast.mean(dim=(2, 3), keepdim=True))
