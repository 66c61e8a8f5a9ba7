"""Initial out-of-distribution images, from which an attack sets out (Liang et al. 2020, §2 and §3, Algorithm 1, x'_out).

Four are the authors' own, as files in `<data_root>/start_images_liang2020/`; what is not there is downloaded, with a checksum.
"""

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from helpers.data import default_root
from helpers.fetchers import DataError, fetch_file
from helpers.inputs import check_generator, check_images

Tensor = torch.Tensor

FOLDER = "start_images_liang2020"
SOURCE = "https://raw.githubusercontent.com/liangbright/OOD_Attack_NN/b0da79876c481724c20c944597cd0b7dd9557f54/data/"
FILES = {
    "x-ray": ("x_ray.jpg", "4ba221b94dc77ef2e3663231b816fcf07d411067e8d09b40e72e707bc157c4cd"),
    "ct": ("ct.jpg", "ad820471f083edd4c76cfad2a5ab17eccf4512771b9705e246eea226b13effeb"),
    "colour spiral": ("color-spiral-1.jpg", "13ba8ebc45639f94cdf65c055921d5b00efa536f561b39e81558ab0265e1235a"),
    "gray spiral": ("gray_spiral_1.jpg", "8fb6d12ab22716d0beb4d134f0b53f1328f89115f8add106920c8d23213bc889"),
}
NAMES = (*FILES, "fundus", "checkerboard 2", "checkerboard 8", "spiral")


def start_image(name: str, size: int, *, channels: int = 3, data_root: str | Path | None = None) -> Tensor:
    """The image `name`, one of NAMES, as (channels, size, size) float32, stretched: its least value is 0, its greatest 1.

    "x-ray", "ct", "colour spiral", "gray spiral" are the authors' files. "fundus" is scikit-image's photograph of a retina in
    grey, in place of theirs, which is not public; "checkerboard 2" and "checkerboard 8" have so many fields a side, the first
    one black (their Figure 6 has the former); "spiral" is ours, in colour, for runs without any file.

    As the authors do, an image is made smaller in floats, whatever its proportions, and then stretched. They take skimage's
    `resize`, which blurs by a Gaussian first; this is torch's bilinear, antialiased interpolation.

    size : side in pixels, 8 or more
    channels : 3, or 1 for grey; a grey image has three equal channels
    data_root : where the files' folder lies; None: as for datasets
    raises ValueError for another name, size or number of channels; DataError, which says what to do, where a file is damaged or
        another one, cannot be downloaded, or is no part of the scikit-image that is installed
    """
    if name not in NAMES:
        raise ValueError(f"unknown start image {name!r}; there are: {', '.join(NAMES)}")
    if not isinstance(size, int) or isinstance(size, bool) or size < 8:
        raise ValueError(f"size must be a whole number of pixels, 8 or more, not {size!r}")
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels!r}")
    if name == "spiral":
        image = _spiral(size, channels)
    elif name.startswith("checkerboard"):
        field = torch.arange(size) * int(name[-1]) // size
        image = ((field[:, None] + field) % 2).float().expand(channels, size, size)
    else:
        path = _fundus() if name == "fundus" else _file(Path(data_root or default_root()).expanduser() / FOLDER, *FILES[name])
        image = _photograph(path, size, channels, grey=name == "fundus")
    return (image - image.min()) / (image.max() - image.min())


def random_starts(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Random-noise images, one of its own for each image of the batch `like` (N, C, H, W): every value from U(0, 1), in the
    shape, dtype and device of `like` (Liang et al. 2020, §3.1). generator: on that device; None: torch's own"""
    check_images("like", like, least=0)
    check_generator(generator)
    return torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def smooth(x: Tensor, side: int = 9) -> Tensor:
    """Images (N, C, H, W), each value the mean of the side × side pixels about it, edges mirrored: another point for an attack to
    begin at than a random one, which is as rough as noise. raises ValueError for a side that is even or reaches past an image
    """
    check_images("x", x, least=0)
    if x.ndim != 4 or not isinstance(side, int) or side < 1 or side % 2 == 0 or side // 2 >= min(x.shape[2:]):
        raise ValueError(f"side must be odd and fit images (N, C, H, W), not {side} for {tuple(x.shape)}")
    return F.avg_pool2d(F.pad(x, (side // 2,) * 4, mode="reflect"), side, stride=1)


def _spiral(size: int, channels: int) -> Tensor:
    """Three arms, turning as they go out: each channel a wave of a phase of its own, so that colours follow one another."""
    x = (torch.arange(size) + 0.5) / size * 2 - 1
    radius, angle = torch.hypot(x[:, None], x), torch.atan2(x[:, None], x.expand(size, size))
    turns = 3 * angle / (2 * math.pi) + 1.5 * (radius + 0.1).log()
    return torch.stack([torch.cos(2 * math.pi * (turns - channel / 3)) for channel in range(channels)])


def _photograph(path: Path, size: int, channels: int, *, grey: bool) -> Tensor:
    """An image file as (channels, size, size) in [0, 1]."""
    from PIL import Image

    with Image.open(path) as file:
        pixels = np.array(file.convert("L" if grey or channels == 1 else "RGB"))
    image = torch.from_numpy(pixels).float().div(255)
    image = image.permute(2, 0, 1) if image.ndim == 3 else image.expand(channels, *image.shape)
    return F.interpolate(image[None], size=(size, size), mode="bilinear", antialias=True, align_corners=False)[0]


def _file(folder: Path, file: str, sha256: str) -> Path:
    """Where one of the authors' files lies, downloaded first if need be."""
    path = folder / file
    if not path.exists():
        fetch_file(SOURCE + file, path, sha256)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}): delete it, and it will be fetched again") from error
    if digest != sha256:
        raise DataError(
            f"{path}: its SHA-256 is {digest[:16]}…, not {sha256[:16]}…. Delete the file, and it will be fetched again."
        )
    return path


def _fundus() -> Path:
    """Where scikit-image's photograph of a retina lies (Häggström 2014, CC0): in the package, without an import of it."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        path = Path(distribution("scikit-image").locate_file("skimage/data/retina.jpg"))
    except PackageNotFoundError as error:
        raise DataError("the start image 'fundus' is a file of scikit-image: pip install scikit-image==0.26.0") from error
    if not path.exists():
        raise DataError(f"there is no {path}, the start image 'fundus': pip install scikit-image==0.26.0, which has it")
    return path
