"""How the datasets of `sources.DATASETS` are fetched.

A fetcher returns the arrays of a cache file (see `data`). It raises DataError for a file that is damaged, and lets the errors of
a download through: `data` says what to do about both.
"""

import contextlib
import gzip
import hashlib
import io
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch

from helpers.embedded import Arrays


class DataError(RuntimeError):
    """A dataset that is not there or not what it should be; the message says which and what to do."""


def fetch_file(url: str, path: Path, sha256: str) -> None:
    """Download one file of a folder that lies in `data_root`, all of it or nothing. raises DataError that says what to do"""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256)  # shows progress
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"could not download {url} ({error}), and there is no {path}. Either put {path.name} there, or into "
            f"a folder {path.parent.name} and point BOOK_DATA at the one that it lies in (or data_root)."
        ) from error


def from_torchvision(name: str, files: dict[str, str] | None = None) -> Arrays:
    """Both splits of one of torchvision's datasets.

    files : {address: SHA-256} of what it reads. They are downloaded and checked first: torchvision knows MD5 only, which can be
        forged, takes some over http, and unpickles CIFAR's. None where the arrays have checksums and nothing is unpickled
    """
    from helpers.torchvision_import import torchvision

    arrays, make = {}, getattr(torchvision().datasets, name)
    svhn = name == "SVHN"  # the one that has splits by name, channels first and `labels`
    with tempfile.TemporaryDirectory() as folder:
        for url, sha256 in (files or {}).items():
            torch.hub.download_url_to_file(url, str(Path(folder, url.rsplit("/", 1)[1])), hash_prefix=sha256)  # shows progress
        for split in ("train", "test"):
            part = make(folder, split if svhn else split == "train", download=True)  # checks MD5, shows progress
            images, labels = (part.data.transpose(0, 2, 3, 1), part.labels) if svhn else (part.data, part.targets)
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = np.ascontiguousarray(images), np.asarray(labels, np.int64)
    return arrays


def from_idx(split: str, url: str, **sha256: str) -> Arrays:
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


def from_github(url: str, folder: str, *, images: int, categories: int) -> Arrays:
    """The split `all` from a repository's archive: RGB photographs in one folder of it, in the order of their names. Those begin
    with a WordNet id, by which ImageNet's classes are ordered; a label is the rank of the id among those that are there."""
    from PIL import Image

    with _archive(url) as archive:
        pattern = re.compile(rf"[^/]+/{re.escape(folder)}(n\d{{8}})_[^/]+\.jpe?g", re.IGNORECASE)
        files = sorted(filter(None, map(pattern.fullmatch, archive.namelist())), key=lambda file: file[0])
        ids, labels = np.unique([file[1] for file in files], return_inverse=True)
        if (len(files), len(ids)) != (images, categories):
            raise ValueError(f"{len(files)} images in {len(ids)} categories, not {images} in {categories}")
        pixels = np.stack([square(Image.open(io.BytesIO(archive.read(file[0])))) for file in files])
    return {"all_images": pixels, "all_labels": labels.astype(np.int64)}


def from_folders(split: str, archives: dict[str, dict[str, int]], *, size: int, mode: str) -> Arrays:
    """One split from zip archives, by their addresses: each has the images of a class in a folder, and how many there are. Labels
    count the folders as they are given; within a folder the images are in the order of their names."""
    from PIL import Image

    pixels, counts = [], []
    for url, folders in archives.items():
        with _archive(url) as archive:
            for folder, images in folders.items():
                pattern = re.compile(rf"{re.escape(folder)}[^/]+\.(png|jpe?g|ppm)", re.IGNORECASE)
                files = sorted(filter(pattern.fullmatch, archive.namelist()))
                if len(files) != images:
                    raise ValueError(f"{len(files)} images in {folder}, not {images}")
                pixels += [resized(Image.open(io.BytesIO(archive.read(file))), size, mode) for file in files]
                counts.append(images)
    return {f"{split}_images": np.stack(pixels), f"{split}_labels": np.repeat(np.arange(len(counts)), counts)}


def gtsrb(classes: dict[int, int], *, size: int = 32) -> Arrays:
    """Both splits of the German traffic signs. `classes` maps the benchmark's class to how many training images it has; labels
    count the classes as they are given. torchvision's own training split is an older one, of 26,640 images."""
    from helpers.torchvision_import import torchvision

    url = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/GTSRB_Final_Training_Images.zip"
    folders = {f"GTSRB/Final_Training/Images/{number:05d}/": images for number, images in classes.items()}
    arrays = from_folders("train", {url: folders}, size=size, mode="RGB")
    with tempfile.TemporaryDirectory() as folder:
        test = torchvision().datasets.GTSRB(folder, "test", download=True)  # checks MD5, shows progress
        images, labels = zip(*(test[i] for i in range(len(test))), strict=True)
        arrays["test_images"] = np.stack([resized(image, size, "RGB") for image in images])
    ours = {number: label for label, number in enumerate(classes)}
    arrays["test_labels"] = np.array([ours[label] for label in labels])
    return arrays


def celeba(size: int = 64, *, sha256: str) -> Arrays:
    """The split `all` of CelebA's aligned photographs, which are 178 wide and 218 high: the square in the centre, resized.

    sha256 : of the archive of photographs, checked before one of them is read
    """
    from helpers.torchvision_import import torchvision

    with tempfile.TemporaryDirectory() as folder:
        part = torchvision().datasets.CelebA(folder, "all", target_type=[], download=True)  # checks MD5, shows progress
        with Path(folder, "celeba", "img_align_celeba.zip").open("rb") as file:
            if (digest := hashlib.file_digest(file, "sha256").hexdigest()) != sha256:
                raise RuntimeError(f"the archive's SHA-256 is {digest[:16]}…, not {sha256[:16]}…")
        pixels = np.empty((len(part), size, size, 3), np.uint8)  # 2.5 GB, so not twice
        for i in range(len(part)):
            pixels[i] = resized(part[i][0].crop((0, 20, 178, 198)), size, "RGB")
    return {"all_images": pixels, "all_labels": np.zeros(len(pixels), np.int64)}


def from_medmnist(name: str, *, size: int, of_each: int) -> Arrays:
    """The test split of one of medmnist's datasets, and of the training split so many of each class, drawn by a fixed seed. All
    of it is downloaded, and the training split read, so this takes as much memory: 5 GB for OCTMNIST at 224."""
    from helpers.torchvision_import import torchvision

    torchvision()  # medmnist imports it, and must find it in order
    try:
        import medmnist
    except ImportError as error:
        raise DataError(f"{error}: pip install medmnist") from error
    with tempfile.TemporaryDirectory() as folder:
        train, test = (getattr(medmnist, name)(split=s, download=True, root=folder, size=size) for s in ("train", "test"))  # MD5
    labels, rng = train.labels.reshape(-1), np.random.default_rng(0)
    drawn = np.sort(np.concatenate([rng.permutation(np.flatnonzero(labels == y))[:of_each] for y in np.unique(labels)]))
    return {
        "train_images": train.imgs[drawn],
        "train_labels": labels[drawn].astype(np.int64),
        "test_images": test.imgs,
        "test_labels": test.labels.reshape(-1).astype(np.int64),
    }


@contextlib.contextmanager
def _archive(url: str) -> Iterator[zipfile.ZipFile]:
    """The zip archive at an address. What is wrong with it, and a ValueError of whoever reads it, comes out as DataError."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "archive.zip")
        torch.hub.download_url_to_file(url, str(path))  # shows progress
        try:
            with zipfile.ZipFile(path) as archive:
                yield archive
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"the archive is damaged or another one ({error})") from error


def resized(image, size: int, mode: str) -> np.ndarray:
    """A PIL image as (size, size) uint8 or (size, size, 3), whatever its proportions: bilinear, antialiased. mode: PIL's, "L" for
    grey or "RGB"."""
    from PIL import Image

    return np.asarray(image.convert(mode).resize((size, size), Image.Resampling.BILINEAR))


def square(image) -> np.ndarray:
    """A PIL photograph as (224, 224, 3) uint8: as it is where it has this size, else, as networks are tested on ImageNet, brought
    to a short side of 256 (bilinear, antialiased) and cut out of the centre."""
    from PIL import Image

    image = image.convert("RGB")
    if image.size != (224, 224):
        width, height = (round(side * 256 / min(image.size)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - 224) // 2, (height - 224) // 2
        image = image.crop((left, top, left + 224, top + 224))
    return np.asarray(image)
