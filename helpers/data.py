"""Datasets: one table in code, one file format, one function `load`.

Every dataset is cached as `<data_root>/<name>.npz` with `{split}_images` (uint8, N×H×W or N×H×W×3) and `{split}_labels`
(int64). `data_root` is the argument, else $BOOK_DATA, else a folder in the user's cache. A cache may hold a part of a dataset;
it is used as it is, and its size and digest go into every row that comes from it. Embedded datasets need no file at all.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

Tensor = torch.Tensor
Arrays = dict[str, np.ndarray]


class DataError(RuntimeError):
    """A dataset that is not there or not what it should be; the message says which and what to do."""


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W) float32 in [0, 1] and labels (N,) int64 of one split, on one device."""

    name: str  # e.g. "mnist/test"
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index) -> "Split":
        """The samples at a slice or an index tensor."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    @property
    def xy(self) -> tuple[Tensor, Tensor]:
        """Images and labels."""
        return self.images, self.labels

    @cached_property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the pixels (as uint8) and labels: names the samples in a row of results."""
        pixels = (self.images * 255).round().to(torch.uint8).cpu().numpy()
        return hashlib.sha256(pixels.tobytes() + self.labels.cpu().numpy().tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Dataset:
    """An entry of the table: what it is, where it comes from, and how to get it."""

    splits: dict[str, int]  # images of each split when complete
    shape: tuple[int, ...]  # of one image: (H, W) or (H, W, 3)
    classes: tuple[str, ...]
    source: str
    licence: str
    fetch: Callable[[], Arrays]  # returns the arrays of the cache file
    sha256: dict[str, str] | None = None  # of a complete split's pixel bytes; None where copies may be lossy or in another order
    embedded: bool = False  # made from an installed package: never cached, never downloaded


def _fetch_mnist() -> Arrays:
    from helpers.torchvision_import import torchvision

    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "test"):
            mnist = torchvision().datasets.MNIST(folder, train=split == "train", download=True)  # checks MD5, shows progress
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = mnist.data.numpy(), mnist.targets.numpy()
    return arrays


def _make_digits() -> Arrays:
    """Scikit-learn's 8×8 digits brought to 28×28 as MNIST was: 20×20 pixels in a border of 4. The last 500 are the test split;
    the set is ordered by writer, so they come from other hands than most of the training images."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = (digits.images * (255 / 16)).round().astype(np.uint8)
    large = np.stack([np.pad(np.asarray(Image.fromarray(s).resize((20, 20), Image.Resampling.BILINEAR)), 4) for s in small])
    labels = digits.target.astype(np.int64)
    return {
        "train_images": large[:-500],
        "train_labels": labels[:-500],
        "test_images": large[-500:],
        "test_labels": labels[-500:],
    }


def _make_digits_rgb() -> Arrays:
    """The digits in colour on 32×32 patches of scikit-learn's two photographs: a stand-in for photographs of objects. Each digit
    is blended over a patch of its own, in a colour far from the patch's mean; both are drawn from a fixed seed."""
    from sklearn.datasets import load_sample_images

    rng, photographs = np.random.default_rng(0), load_sample_images().images
    arrays = _make_digits()
    for split in ("train", "test"):
        grey = np.pad(arrays[f"{split}_images"], ((0, 0), (2, 2), (2, 2)))[..., None] / 255
        height, width, _ = photographs[0].shape
        which, tops, lefts = rng.integers([2, height - 32, width - 32], size=(len(grey), 3)).T
        patches = np.stack([photographs[i][t : t + 32, l : l + 32] for i, t, l in zip(which, tops, lefts, strict=True)]).astype(
            float
        )
        colours = (patches.mean(axis=(1, 2)) + rng.uniform(96, 160, size=(len(grey), 3))) % 256
        arrays[f"{split}_images"] = (patches * (1 - grey) + colours[:, None, None] * grey).round().astype(np.uint8)
    return arrays


def _fetch_cifar10() -> Arrays:
    from helpers.torchvision_import import torchvision

    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "test"):
            cifar = torchvision().datasets.CIFAR10(folder, train=split == "train", download=True)  # checks MD5, shows progress
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = cifar.data, np.array(cifar.targets, dtype=np.int64)
    return arrays


_TEN = tuple("0123456789")
DATASETS: dict[str, Dataset] = {
    "mnist": Dataset(
        splits={"train": 60_000, "test": 10_000},
        shape=(28, 28),
        classes=_TEN,
        source="http://yann.lecun.com/exdb/mnist/, through torchvision.datasets.MNIST and its mirrors",
        licence="CC BY-SA 3.0",
        fetch=_fetch_mnist,
        sha256={
            "train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
            "test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        },
    ),
    "digits": Dataset(
        splits={"train": 1_297, "test": 500},
        shape=(28, 28),
        classes=_TEN,
        source="sklearn.datasets.load_digits (UCI Optical Recognition of Handwritten Digits), resized",
        licence="CC BY 4.0",
        fetch=_make_digits,
        embedded=True,
    ),
    "cifar10": Dataset(
        splits={"train": 50_000, "test": 10_000},
        shape=(32, 32, 3),
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        source="https://www.cs.toronto.edu/~kriz/cifar.html, through torchvision.datasets.CIFAR10",
        licence="none stated; cite Krizhevsky 2009",
        fetch=_fetch_cifar10,
    ),
    "digits_rgb": Dataset(
        splits={"train": 1_297, "test": 500},
        shape=(32, 32, 3),
        classes=_TEN,
        source="`digits` on patches of sklearn.datasets.load_sample_images (china.jpg, flower.jpg)",
        licence="digits CC BY 4.0; photographs CC BY",
        fetch=_make_digits_rgb,
        embedded=True,
    ),
}


def default_root() -> Path:
    """$BOOK_DATA, else `robustness-book` in the user's cache folder."""
    if os.environ.get("BOOK_DATA"):
        return Path(os.environ["BOOK_DATA"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "robustness-book"


def load(name: str, split: str, *, data_root: str | Path | None = None, device: str | torch.device = "cpu") -> Split:
    """One split of a dataset, whole, on `device`; downloaded with a checksum and cached the first time.

    raises ValueError for an unknown name or split, listing the known ones; DataError for a split that the cache lacks, a
    damaged or wrong cache file, or a download that fails
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; known are: {', '.join(DATASETS)}")
    dataset = DATASETS[name]
    if split not in dataset.splits:
        raise ValueError(f"{name} has no split {split!r}; it has: {', '.join(dataset.splits)}")
    if dataset.embedded:
        arrays, origin = dataset.fetch(), "the embedded data"
    else:
        origin = Path(data_root or default_root()).expanduser() / f"{name}.npz"
        if not origin.exists():
            _download(name, dataset, origin)
        arrays = _read(origin, split)
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    _check(name, dataset, split, images, labels, origin)
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device).float() / 255
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()  # (N, C, H, W)
    return Split(f"{name}/{split}", pixels, torch.from_numpy(labels).to(device), dataset.classes)


def held_out(split: Split, n: int, seed: int) -> tuple[Split, Split]:
    """A random part of `n` samples set aside for validation: (the rest, the n). Another seed sets aside other samples."""
    if not 0 < n < len(split):
        raise ValueError(f"cannot hold out {n} of the {len(split)} samples of {split.name}")
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed)).to(split.labels.device)
    return split[order[n:]], split[order[:n]]


def _download(name: str, dataset: Dataset, path: Path) -> None:
    try:
        arrays = dataset.fetch()
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"could not download {name} from {dataset.source} ({error}), and there is no {path}. "
            f"Either put {path.name} into a folder and point BOOK_DATA at it (or data_root), or choose "
            f"profile='smoke', which needs no download."
        ) from error
    partial = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        partial.replace(path)
    except OSError as error:
        raise DataError(f"could not write {path} ({error}): free some space or point BOOK_DATA at another folder") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _read(path: Path, split: str) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            present = sorted({key.rsplit("_", 1)[0] for key in file.files if key.endswith(("_images", "_labels"))})
            if not {f"{split}_images", f"{split}_labels"} <= set(file.files):
                raise DataError(f"{path} holds no split {split!r} with labels, only: {', '.join(present) or 'nothing'}")
            return {key: file[key] for key in (f"{split}_images", f"{split}_labels")}
    except DataError:
        raise
    except Exception as error:  # numpy and zipfile raise a dozen kinds for a damaged file
        raise DataError(f"{path} is damaged ({error}): delete it, and it will be fetched again") from error


def _check(name: str, dataset: Dataset, split: str, images: np.ndarray, labels: np.ndarray, origin) -> None:
    problem = None
    if images.dtype != np.uint8 or images.shape[1:] != dataset.shape:
        problem = f"images must be uint8 of shape (N, {', '.join(map(str, dataset.shape))}), not {images.dtype} {images.shape}"
    elif labels.dtype != np.int64 or labels.shape != images.shape[:1] or not len(labels):
        problem = f"labels must be int64, one for each of the {len(images)} images, not {labels.dtype} {labels.shape}"
    elif labels.min() < 0 or labels.max() >= len(dataset.classes):
        problem = f"labels run from {labels.min()} to {labels.max()}, but there are {len(dataset.classes)} classes"
    elif dataset.sha256 and len(images) == dataset.splits[split]:
        digest = hashlib.sha256(images.tobytes()).hexdigest()
        if digest != dataset.sha256[split]:
            problem = f"the pixels' SHA-256 is {digest[:16]}…, not {dataset.sha256[split][:16]}…"
    if problem:
        raise DataError(f"{name}/{split} in {origin}: {problem}. Delete the file, and it will be fetched again.")
