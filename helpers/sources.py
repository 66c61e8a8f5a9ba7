"""Where the datasets come from: the table `DATASETS`, and how each of them is fetched.

A fetcher returns the arrays of a cache file (see `data`). It raises DataError for a file that is damaged, and lets the errors of
a download through: `data` says what to do about both.
"""

import gzip
import io
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from helpers import embedded
from helpers.embedded import Arrays


class DataError(RuntimeError):
    """A dataset that is not there or not what it should be; the message says which and what to do."""


@dataclass(frozen=True)
class Dataset:
    """An entry of the table: what it is, where it comes from, and how to get it."""

    splits: dict[str, int]  # images of each split when complete
    shape: tuple[int, ...]  # of one image: (H, W) or (H, W, 3)
    classes: tuple[str, ...] | Callable[[], tuple[str, ...]]  # a function where they come out of another package
    source: str
    licence: str
    fetch: Callable[[], Arrays] | None = None  # returns the arrays of the cache file; None for a part of another dataset
    sha256: dict[str, str] | None = None  # of a complete split's pixel bytes; None where copies may be lossy or in another order
    embedded: bool = False  # made from an installed package: never cached, never downloaded
    part_of: str | None = None  # the dataset that it is without the labels `without`; the other labels stay what they are
    without: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, label 0 first."""
        return self.classes() if callable(self.classes) else self.classes


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


def _from_github(url: str, folder: str, *, images: int, categories: int) -> Arrays:
    """The split `all` from a repository's archive: RGB photographs in one folder of it, in the order of their names. Those begin
    with a WordNet id, by which ImageNet's classes are ordered; a label is the rank of the id among those that are there."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "archive.zip")
        torch.hub.download_url_to_file(url, str(path))  # shows progress
        try:
            with zipfile.ZipFile(path) as archive:
                pattern = re.compile(rf"[^/]+/{re.escape(folder)}(n\d{{8}})_[^/]+\.jpe?g", re.IGNORECASE)
                files = sorted(filter(None, map(pattern.fullmatch, archive.namelist())), key=lambda file: file[0])
                ids, labels = np.unique([file[1] for file in files], return_inverse=True)
                if (len(files), len(ids)) != (images, categories):
                    raise ValueError(f"{len(files)} images in {len(ids)} categories, not {images} in {categories}")
                pixels = np.stack([_square(Image.open(io.BytesIO(archive.read(file[0])))) for file in files])
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"the archive is damaged or another one ({error})") from error
    return {"all_images": pixels, "all_labels": labels.astype(np.int64)}


def _square(image) -> np.ndarray:
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


def _imagenet() -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes, which torchvision has."""
    from helpers.torchvision_import import torchvision

    return tuple(torchvision().models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


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
# ILSVRC's object detection categories, in the order of their WordNet ids.
_IMAGENET200 = """
    person goldfish ray bird frog turtle lizard snake scorpion tick centipede koala_bear jellyfish snail lobster isopod whale seal
    dog fox domestic_cat lion tiger bear ladybug bee ant dragonfly butterfly starfish rabbit hamster porcupine squirrel horse
    zebra swine hippopotamus cattle sheep antelope camel otter skunk armadillo monkey elephant red_panda giant_panda accordion
    airplane axe baby_bed backpack balance_beam band_aid banjo baseball basketball bathing_cap beaker bench bicycle binder
    bookshelf bow bowl bow_tie brassiere bus can_opener car cart cello chain_saw chair chime cocktail_shaker coffee_maker
    computer_keyboard corkscrew trumpet hat_with_a_wide_brim cream croquet_ball crutch diaper digital_clock dishwasher
    tv_or_monitor drum dumbbell electric_fan face_powder filing_cabinet flute french_horn frying_pan golf_ball golfcart guitar
    hair_spray hammer hair_dryer harmonica harp helmet horizontal_bar iPod ladle lamp laptop lipstick maillot maraca microphone
    microwave milk_can miniskirt motorcycle computer_mouse cup_or_mug nail neck_brace oboe pencil_box pencil_sharpener perfume
    piano ping-pong_ball pitcher plastic_bag plate_rack flower_pot power_drill printer puck punching_bag purse racket refrigerator
    remote_control rubber_eraser rugby_ball ruler salt_or_pepper_shaker saxophone screwdriver ski snowmobile snowplow
    soap_dispenser soccer_ball sofa spatula stethoscope stove strainer stretcher sunglasses swimming_trunks syringe table
    tape_player tennis_ball toaster train trombone unicycle vacuum watercraft violin volleyball waffle_iron washer water_bottle
    tie wine_bottle traffic_light guacamole popsicle bagel pretzel hamburger hotdog head_cabbage cucumber artichoke bell_pepper
    mushroom apple strawberry orange lemon fig pineapple banana pomegranate pizza burrito
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
    "imagenet_sample": Dataset(
        splits={"all": 1_000}, shape=(224, 224, 3), classes=_imagenet,
        source="https://github.com/EliSchwartz/imagenet-sample-images, one image of each class, very likely of the training set",
        licence="ImageNet's: non-commercial research only",
        fetch=partial(_from_github, "https://github.com/EliSchwartz/imagenet-sample-images/archive/"
                      "bc69043e2862758a1906c6a24a792bb28c6bb2ff.zip", "", images=1_000, categories=1_000),
    ),
    "imagenet_liang2020": Dataset(
        splits={"all": 1_000}, shape=(224, 224, 3), classes=tuple(_IMAGENET200.split()),
        source="https://github.com/liangbright/OOD_Attack_NN, data/ImageNet/imagen/S224, five images of each category",
        licence="ImageNet's: non-commercial research only",
        fetch=partial(_from_github, "https://github.com/liangbright/OOD_Attack_NN/archive/"
                      "b0da79876c481724c20c944597cd0b7dd9557f54.zip", "data/ImageNet/imagen/S224/", images=1_000, categories=200),
    ),
    "photographs": Dataset(
        splits={"train": 48, "test": 36}, shape=(224, 224, 3), classes=_imagenet,
        source="crops of photographs in scikit-image (chelsea, coffee, rocket, motorcycle, camera) and scikit-learn (flower)",
        licence="CC0 and public domain; flower CC BY; motorcycle none stated (Middlebury 2014)",
        fetch=embedded.photographs, embedded=True,
    ),
}
# fmt: on
