"""Datasets: one table in code, one file format, one function `load`.

Every dataset is cached as `<data_root>/<name>.npz` with `{split}_images` (uint8, N×H×W or N×H×W×3) and `{split}_labels`
(int64). `data_root` is the argument, else $BOOK_DATA, else a folder in the user's cache. A cache may hold a part of a dataset;
it is used as it is, and its size and digest go into every row that comes from it. A dataset that is a part of another comes out
of that one's cache if it has none of its own. Embedded datasets need no file at all.
"""

import contextlib
import gzip
import hashlib
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch

from helpers import embedded
from helpers.embedded import Arrays

Tensor = torch.Tensor


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
    fetch: Callable[[], Arrays] | None = None  # returns the arrays of the cache file; None for a part of another dataset
    sha256: dict[str, str] | None = None  # of a complete split's pixel bytes; None where copies may be lossy or in another order
    embedded: bool = False  # made from an installed package: never cached, never downloaded
    part_of: str | None = None  # the dataset that it is without the labels `without`; the other labels stay what they are
    without: tuple[int, ...] = ()


def _from_torchvision(name: str) -> Arrays:
    """Both splits of one of torchvision's datasets."""
    from helpers.torchvision_import import torchvision

    arrays, make = {}, getattr(torchvision().datasets, name)
    svhn = name == "SVHN"  # the one that has splits by name, channels first and `labels`
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "test"):
            part = make(folder, split if svhn else split == "train", download=True)  # checks MD5, shows progress
            images, labels = (part.data.transpose(0, 2, 3, 1), part.labels) if svhn else (part.data, part.targets)
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = np.ascontiguousarray(images), np.asarray(labels, np.int64)
    return arrays


def _from_idx(split: str, url: str, **sha256: str) -> Arrays:
    """One split from a pair of gzipped IDX files, MNIST's format, at `url` + MNIST's names; a checksum for `images`, `labels`."""
    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, rank, dtype in (("images", 3, np.uint8), ("labels", 1, np.int64)):
            path = Path(folder, f"{kind}-idx{rank}-ubyte.gz")
            torch.hub.download_url_to_file(url + path.name, str(path), hash_prefix=sha256[kind])  # all of it; shows progress
            arrays[f"{split}_{kind}"] = _read_idx(path, rank).astype(dtype)
    return arrays


def _read_idx(path: Path, rank: int) -> np.ndarray:
    """The uint8 array in a gzipped IDX file: magic number 2048 + rank and the sizes, big-endian, then the values."""
    try:
        content = gzip.decompress(path.read_bytes())
        magic, *sizes = struct.unpack_from(f">{rank + 1}I", content)
        if magic != 2048 + rank:
            raise ValueError(f"magic number {magic}, not {2048 + rank}")
        return np.frombuffer(content, np.uint8, offset=4 * (rank + 1)).reshape(sizes)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise DataError(f"{path.name} is damaged ({error})") from error


_TEN, _LETTERS = tuple("0123456789"), tuple("ABCDEFGHIJ")
_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle caterpillar
    cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl
    hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road
    rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
# Vehicles 1 and 2, medium-sized mammals, small mammals, large carnivores: the superclasses that overlap CIFAR-10.
_LIKE_CIFAR10 = """
    bicycle bus motorcycle pickup_truck train lawn_mower rocket streetcar tank tractor fox porcupine possum raccoon skunk hamster
    mouse rabbit shrew squirrel bear leopard lion tiger wolf
"""
# fmt: off
DATASETS: dict[str, Dataset] = {
    "mnist": Dataset(
        splits={"train": 60_000, "test": 10_000}, shape=(28, 28), classes=_TEN,
        source="http://yann.lecun.com/exdb/mnist/, through torchvision.datasets.MNIST and its mirrors",
        licence="CC BY-SA 3.0", fetch=partial(_from_torchvision, "MNIST"),
        sha256={"train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
                "test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161"},
    ),
    "digits": Dataset(
        splits={"train": 1_297, "test": 500}, shape=(28, 28), classes=_TEN,
        source="sklearn.datasets.load_digits (UCI Optical Recognition of Handwritten Digits), resized",
        licence="CC BY 4.0", fetch=embedded.digits, embedded=True,
    ),
    "cifar10": Dataset(
        splits={"train": 50_000, "test": 10_000}, shape=(32, 32, 3),
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        source="https://www.cs.toronto.edu/~kriz/cifar.html, through torchvision.datasets.CIFAR10",
        licence="none stated; cite Krizhevsky 2009", fetch=partial(_from_torchvision, "CIFAR10"),
    ),
    "digits_rgb": Dataset(
        splits={"train": 1_297, "test": 500}, shape=(32, 32, 3), classes=_TEN,
        source="`digits` on patches of sklearn.datasets.load_sample_images (china.jpg, flower.jpg)",
        licence="digits CC BY 4.0; photographs CC BY", fetch=embedded.digits_rgb, embedded=True,
    ),
    "fashion_mnist": Dataset(
        splits={"train": 60_000, "test": 10_000}, shape=(28, 28),
        classes=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        source="https://github.com/zalandoresearch/fashion-mnist, through torchvision.datasets.FashionMNIST",
        licence="MIT", fetch=partial(_from_torchvision, "FashionMNIST"),
        sha256={"train": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
                "test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a"},
    ),
    "notmnist": Dataset(
        splits={"all": 10_000}, shape=(28, 28), classes=_LETTERS,
        source="yaroslavvb.blogspot.com/2011/09/notmnist-dataset.html, sample of github.com/davidflanagan/notMNIST-to-MNIST",
        licence="none stated",
        fetch=partial(_from_idx, "all", "https://raw.githubusercontent.com/davidflanagan/notMNIST-to-MNIST/master/t10k-",
                      images="70ae9e06201f2827e5b0a3781a3169d735dd2efc69996b9eeaee7f10ed4044d7",
                      labels="1fa03836e01c862542f8eb83463bb951bebec6fcb3efa28dad748c6b38a9021b"),
    ),
    "letters": Dataset(
        splits={"train": 600, "test": 300}, shape=(28, 28), classes=_LETTERS,
        source="outlines of the fonts in matplotlib (DejaVu, STIX, Computer Modern), as notMNIST was made of other fonts",
        licence="of the fonts: Bitstream Vera, STIX, BaKoMa", fetch=embedded.letters, embedded=True,
    ),
    "letters_rgb": Dataset(
        splits={"train": 600, "test": 300}, shape=(32, 32, 3), classes=_LETTERS,
        source="`letters` on patches of sklearn.datasets.load_sample_images (china.jpg, flower.jpg)",
        licence="fonts as `letters`; photographs CC BY", fetch=embedded.letters_rgb, embedded=True,
    ),
    "svhn": Dataset(
        splits={"train": 73_257, "test": 26_032}, shape=(32, 32, 3), classes=_TEN,
        source="http://ufldl.stanford.edu/housenumbers/, cropped digits, through torchvision.datasets.SVHN",
        licence="non-commercial use only", fetch=partial(_from_torchvision, "SVHN"),
    ),
    "cifar100": Dataset(
        splits={"train": 50_000, "test": 10_000}, shape=(32, 32, 3), classes=tuple(_CIFAR100.split()),
        source="https://www.cs.toronto.edu/~kriz/cifar.html, fine labels, through torchvision.datasets.CIFAR100",
        licence="none stated; cite Krizhevsky 2009", fetch=partial(_from_torchvision, "CIFAR100"),
    ),
    "cifar100_ood": Dataset(
        splits={"train": 37_500, "test": 7_500}, shape=(32, 32, 3), classes=tuple(_CIFAR100.split()),
        source="`cifar100` without five superclasses that overlap CIFAR-10", licence="as `cifar100`",
        part_of="cifar100", without=tuple(_CIFAR100.split().index(name) for name in _LIKE_CIFAR10.split()),
    ),
}
# fmt: on


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
    if split not in DATASETS[name].splits:
        raise ValueError(f"{name} has no split {split!r}; it has: {', '.join(DATASETS[name].splits)}")
    images, labels = _arrays(name, split, Path(data_root or default_root()).expanduser())
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device).float() / 255
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()  # (N, C, H, W)
    return Split(f"{name}/{split}", pixels, torch.from_numpy(labels).to(device), DATASETS[name].classes)


def _arrays(name: str, split: str, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one split, checked: embedded, or cached, or out of the whole that it is a part of, or downloaded."""
    dataset, path = DATASETS[name], root / f"{name}.npz"
    if dataset.embedded:
        arrays, path = dataset.fetch(), "the embedded data"  # a name for the message of a check that fails
    elif dataset.part_of and not path.exists():
        path = root / f"{dataset.part_of}.npz"
        images, labels = _arrays(dataset.part_of, split, root)
        kept = ~np.isin(labels, dataset.without)
        arrays = {f"{split}_images": images[kept], f"{split}_labels": labels[kept]}
    else:
        if not path.exists():
            _download(name, dataset, path)
        arrays = _read(path, split)
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    _check(name, dataset, split, images, labels, path)
    return images, labels


def held_out(split: Split, n: int, seed: int) -> tuple[Split, Split]:
    """A random part of `n` samples set aside for validation: (the rest, the n). Another seed sets aside other samples."""
    if not 0 < n < len(split):
        raise ValueError(f"cannot hold out {n} of the {len(split)} samples of {split.name}")
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed)).to(split.labels.device)
    return split[order[n:]], split[order[:n]]


def _download(name: str, dataset: Dataset, path: Path) -> None:
    try:
        arrays = dataset.fetch()
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"could not download {name} from {dataset.source} ({error}), and there is no {path}. "
            f"Either put {path.name} into a folder and point BOOK_DATA at it (or data_root), or choose "
            f"profile='smoke', which needs no download."
        ) from error
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            np.savez(file, **arrays)
        unfinished.replace(path)
    except OSError as error:
        raise DataError(f"could not write {path} ({error}): free some space or point BOOK_DATA at another folder") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


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
    elif np.isin(labels, dataset.without).any():
        problem = f"there are images of classes that are no part of {name}"
    elif dataset.sha256 and len(images) == dataset.splits[split]:
        digest = hashlib.sha256(images.tobytes()).hexdigest()
        if digest != dataset.sha256[split]:
            problem = f"the pixels' SHA-256 is {digest[:16]}…, not {dataset.sha256[split][:16]}…"
    if problem:
        raise DataError(f"{name}/{split} in {origin}: {problem}. Delete the file, and it will be fetched again.")
