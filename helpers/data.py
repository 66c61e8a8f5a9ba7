"""Datasets: one file format and one function `load`; the table of them is `sources.DATASETS`.

Every dataset is cached as `<data_root>/<name>.npz` with `{split}_images` (uint8, N×H×W or N×H×W×3) and `{split}_labels`
(int64; where there is one class only, they may be missing). `data_root` is the argument, else $BOOK_DATA, else a folder in the
user's cache. A cache may hold a part of a dataset; it is used as it is, and its size and digest go into every row that comes
from it. What is downloaded has to be whole, and a whole split has to be the one that its checksums in the table are of. A
dataset that is a part of another comes out of that one's cache if it has none of its own. Embedded datasets need no file at all.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch

from helpers.embedded import Arrays
from helpers.fetchers import DataError
from helpers.inputs import check_number, device_of
from helpers.sources import DATASETS, Dataset

Tensor = torch.Tensor


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

    @functools.cached_property
    def digest(self) -> str:
        """First 16 hex digits of a SHA-256 of shape, pixels (as float32), labels (as int64) and class names: what a row keeps."""
        return digest_of(self.images, self.labels, self.classes)


def digest_of(values: Tensor, labels: Tensor, names: tuple[str, ...]) -> str:
    """First 16 hex digits of a SHA-256 of values (N, ...) as float32, labels as int64, their shapes, and names."""
    header = json.dumps([list(values.shape), list(labels.shape), list(names)])
    sha = hashlib.sha256(header.encode() + b"\n")  # it says how many numbers follow, so none is taken for another
    for part in values.detach().split(256):  # a chunk at a time: no second copy of images that may be large
        sha.update(np.ascontiguousarray(part.to("cpu", torch.float32).numpy(), "<f4").tobytes())
    sha.update(np.ascontiguousarray(labels.to("cpu", torch.int64).numpy(), "<i8").tobytes())
    return sha.hexdigest()[:16]


def default_root() -> Path:
    """$BOOK_DATA, else `robustness-book` in the user's cache folder. raises DataError where no home folder is known"""
    cache = os.environ.get("XDG_CACHE_HOME") or ""
    folder = os.environ.get("BOOK_DATA") or os.path.join(cache if os.path.isabs(cache) else "~/.cache", "robustness-book")
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        raise DataError(f"there is no home folder for {folder}: point BOOK_DATA at a folder for datasets") from None


def load(name: str, split: str, *, data_root: str | Path | None = None, device: str | torch.device = "cpu") -> Split:
    """One split of a dataset, whole, on `device`; downloaded, checked and cached the first time.

    raises ValueError for an unknown name or split, listing the known ones; DataError for a split that the cache lacks, a
    damaged or wrong cache file, or a download that fails
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; known are: {', '.join(DATASETS)}")
    if split not in DATASETS[name].splits:
        raise ValueError(f"{name} has no split {split!r}; it has: {', '.join(DATASETS[name].splits)}")
    device = device_of(device)
    root = Path() if DATASETS[name].embedded else Path(data_root or default_root()).expanduser()
    images, labels = _arrays(name, split, root)
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()  # (N, C, H, W)
    pixels = pixels.float().div_(255)  # put in order as bytes, divided in place: one copy in floats, which may be large
    # divided before they move: a GPU multiplies by 1/255 instead, whose last bits differ, and so would the digest
    return Split(f"{name}/{split}", pixels.to(device), torch.tensor(labels, device=device), DATASETS[name].names)


def _arrays(name: str, split: str, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one split, checked: embedded, or cached, or out of the whole that it is a part of, or downloaded."""
    dataset, path = DATASETS[name], root / f"{name}.npz"
    if dataset.embedded:
        arrays, path = _made(dataset.fetch), "the embedded data"  # a name for the message of a check that fails
    elif dataset.part_of and not path.exists():
        path = root / f"{dataset.part_of}.npz"
        images, labels = _arrays(dataset.part_of, split, root)
        kept = ~np.isin(labels, dataset.without)
        arrays = {f"{split}_images": images[kept], f"{split}_labels": labels[kept]}
    else:
        if not path.exists():
            _download(name, dataset, path)
        arrays = _read(path, split, dataset)
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    _check(name, dataset, split, images, labels, path)
    return images, labels


@functools.cache
def _made(fetch: Callable[[], Arrays]) -> Arrays:
    """Embedded data, made once a process; whoever takes them has to copy what it changes."""
    return fetch()


def held_out(split: Split, n: int, seed: int) -> tuple[Split, Split]:
    """A random part of `n` samples set aside for validation: (the rest, the n). Another seed sets aside other samples."""
    check_number("n", n, whole=True)
    check_number("seed", seed, whole=True)
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
    for split, wanted in dataset.splits.items():
        if (n := len(arrays[f"{split}_images"])) != wanted:
            what = f"what was downloaded as {name} from {dataset.source}"
            raise DataError(f"{what} has {n} images of {split}, not {wanted}: try again")
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


def _read(path: Path, split: str, dataset: Dataset) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            present = sorted({key.rsplit("_", 1)[0] for key in file.files if key.endswith(("_images", "_labels"))})
            images, labels = f"{split}_images", f"{split}_labels"
            if images in file.files and labels not in file.files and len(dataset.names) == 1:  # a label would say nothing
                return {images: (pixels := file[images]), labels: np.zeros(pixels.shape[:1], np.int64)}
            if not {images, labels} <= set(file.files):
                raise DataError(f"{path} holds no split {split!r} with labels, only: {', '.join(present) or 'nothing'}")
            return {key: file[key] for key in (images, labels)}
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
    elif labels.min() < 0 or labels.max() >= len(dataset.names):
        problem = f"labels run from {labels.min()} to {labels.max()}, but there are {len(dataset.names)} classes"
    elif np.isin(labels, dataset.without).any():
        problem = f"there are images of classes that are no part of {name}"
    elif len(images) == dataset.splits[split]:
        problem = _other(dataset, split, images, labels)
    if problem:
        raise DataError(f"{name}/{split} in {origin}: {problem}. Delete the file, and it will be fetched again.")


def _other(dataset: Dataset, split: str, images: np.ndarray, labels: np.ndarray) -> str | None:
    """What says that images and labels of a whole split are not those of the dataset; None: nothing does."""
    known = {
        "the pixels'": (dataset.sha256, lambda: hashlib.sha256(images.tobytes()).hexdigest()),
        "the labels'": (dataset.labels_sha256, lambda: hashlib.sha256(np.ascontiguousarray(labels, "<i8").tobytes()).hexdigest()),
        "the samples'": (dataset.samples_sha256, lambda: samples_sha256(images, labels)),
    }
    for what, (wanted, compute) in known.items():
        if wanted and (digest := compute()) != wanted[split]:
            return f"{what} SHA-256 is {digest[:16]}…, not {wanted[split][:16]}…"
    return None


def samples_sha256(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of the sorted SHA-256 of every image (N, ...) uint8 with its label (N,): the same in whatever order they come."""
    pixels, classes = np.ascontiguousarray(images), np.ascontiguousarray(labels, "<i8")
    each = sorted(hashlib.sha256(x.tobytes() + y.tobytes()).digest() for x, y in zip(pixels, classes, strict=True))
    return hashlib.sha256(b"".join(each)).hexdigest()
