"""Layers that torch lacks, or draws or computes otherwise than the book wants them; `models` makes networks of them."""

from collections.abc import Callable

import torch
from torch import nn

from helpers.inputs import check_floats


class Dropout(nn.Dropout):
    """nn.Dropout with a mask that depends on the seed alone: torch draws its own differently from one version to another."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        keep = 1 - self.p
        return x * (torch.rand(x.shape, dtype=torch.float64, device=x.device) < keep).to(x.dtype).div(keep)


class Residual(nn.Module):
    """relu(shortcut(x) + two 3×3 convolutions of x), each convolution with a normalisation, ReLU between them.

    The shortcut is the identity, or a 1×1 convolution where the width or the size changes.

    norm : width -> layer, e.g. nn.BatchNorm2d
    shortcut_norm : normalise the shortcut's convolution too, which then has no bias, as torchvision's ResNet-18 has it
    """

    def __init__(
        self,
        before: int,
        width: int,
        stride: int = 1,
        *,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        shortcut_norm: bool = False,
    ):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(before, width, 3, stride, padding=1, bias=False), norm(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, padding=1, bias=False), norm(width)),
        )
        self.shortcut = nn.Identity()
        if before != width or stride != 1:
            self.shortcut = nn.Conv2d(before, width, 1, stride, bias=not shortcut_norm)
            if shortcut_norm:
                self.shortcut = nn.Sequential(self.shortcut, norm(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.shortcut(x) + self.body(x)).relu()


class LocalNorm(nn.Module):
    """Divide each value by (1 + scale · mean of squares in its window)^power (cuda-convnet's rnorm, cmrnorm and cnorm layers).

    window : side of the square within one map, or channels across the maps
    over : "map": the squares of a window of that map; "contrast": the same of the deviations from the window's mean;
        "channels": across neighbouring maps at one position (torch.nn.LocalResponseNorm, which is far slower on a CPU)
    """

    def __init__(self, over: str = "map", *, window: int = 3, scale: float = 5e-5, power: float = 0.75):
        super().__init__()
        if (
            over not in ("map", "contrast", "channels")
            or window < 1
            or window % 2 == 0
            or not (0 <= scale < torch.inf and 0 <= power < torch.inf)
        ):
            wanted = "over must be map, contrast or channels, window odd, scale and power finite"
            raise ValueError(f"{wanted}, not {over!r}, {window}, {scale}, {power}")
        self.over, self.window, self.scale, self.power = over, window, scale, power

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_floats("x", x, dims=4, least=0)
        half = self.window // 2
        if self.over == "channels":
            padded = nn.functional.pad(x.square(), (0, 0, 0, 0, half, half))
            squares = sum(padded[:, i : i + x.shape[1]] for i in range(self.window)) / self.window
        else:
            around = x
            if self.over == "contrast":
                around = x - nn.functional.avg_pool2d(x, self.window, 1, half, count_include_pad=False)
            squares = nn.functional.avg_pool2d(around.square(), self.window, 1, half)
        return x * (1 + self.scale * squares).pow(-self.power)


class Normalise(nn.Module):
    """(x − mean) / std per channel, as the first layer of a network, so that every ε is in units of pixels in [0, 1].

    least : pixels that an image's longer side must have, where the layers behind need them
    raises ValueError for a mean or std that is not finite, a std not above 0, and images that are smaller or of other channels
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], *, least: int = 1):
        super().__init__()
        if len(mean) != len(std) or not all(0 < s < torch.inf for s in std) or not torch.tensor(mean).isfinite().all():
            raise ValueError("mean and std need one finite value for each channel, std above 0")
        self.least = least
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_floats("x", x, least=0)
        if x.ndim < 3 or x.shape[-3] != len(self.mean):
            how = {2: ": add batch and channel, x[None, None]"}.get(x.ndim, "")
            how = ": channels come before height and width, x.permute(0, 3, 1, 2)" if x.shape[-1:] == (len(self.mean),) else how
            raise ValueError(f"images of {len(self.mean)} channels are wanted, not {tuple(x.shape)}{how}")
        if max(x.shape[-2:]) < self.least:
            raise ValueError(f"images with a side of {self.least} pixels or more are wanted, not {tuple(x.shape)}")
        return (x - self.mean) / self.std
