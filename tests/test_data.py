"""Datasets: what is embedded, what is cached, what is fetched, and what is refused. Nothing here leaves the machine."""

import functools
import gzip
import hashlib
import http.server
import os
import struct
import threading
import urllib.error
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import data
from helpers.data import DATASETS, DataError, Split, default_root, held_out, load


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


def no_network():
    raise urllib.error.URLError("no route to host")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test here may download: a fetch is an error unless the test puts its own in place."""
    fetch_with(monkeypatch, no_network)


def fetch_with(monkeypatch, fetch, **changes):
    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], fetch=fetch, **changes))


def cached(folder, **changes):
    """A folder with an mnist.npz; an array that is None is left out."""
    content = {k: v for k, v in (arrays() | changes).items() if v is not None}
    np.savez(folder / "mnist.npz", **content)
    return folder


# embedded digits


@pytest.mark.parametrize(("split", "size", "digest"), [("train", 1297, "deeb17b0795c546a"), ("test", 500, "1634bf389a7067a4")])
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


@pytest.mark.parametrize(("split", "size", "digest"), [("train", 1297, "f5c35b435a4a818a"), ("test", 500, "bd8a43cbe677e244")])
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


def test_embedded_data_needs_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_DATA", str(tmp_path / "not there"))
    load("digits", "test", data_root=tmp_path / "nor there")
    assert list(tmp_path.iterdir()) == []


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
    assert len(split.digest) == 16
    other_label = replace(split, labels=split.labels.clone().index_fill_(0, torch.tensor([3]), 9))
    other_pixel = replace(split, images=split.images.clone().index_fill_(0, torch.tensor([3]), 0.5))
    digests = [s.digest for s in (split, split[:19], split[1:], split[torch.arange(20).flip(0)], other_label, other_pixel)]
    assert len(set(digests)) == len(digests)
    assert split[:].digest == split.digest
    assert split_of().digest == split.digest


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
    with pytest.raises(ValueError, match="unknown dataset 'minst'; known are: mnist, digits"):
        load("minst", "test")
    for name in DATASETS:
        with pytest.raises(ValueError, match=f"{name} has no split 'validation'; it has: train, test"):
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


def test_a_cache_may_hold_one_split_only(tmp_path):
    folder = cached(tmp_path, train_images=None, train_labels=None)
    assert len(load("mnist", "test", data_root=folder)) == 6
    with pytest.raises(DataError, match=r"mnist\.npz holds no split 'train' with labels, only: test") as caught:
        load("mnist", "train", data_root=folder)
    assert "damaged" not in str(caught.value)


def test_images_without_labels_are_no_split(tmp_path):
    with pytest.raises(DataError, match="no split 'test' with labels"):
        load("mnist", "test", data_root=cached(tmp_path, test_labels=None))


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
    fetch_with(monkeypatch, no_network, splits={"train": 9, "test": 6}, sha256=sha256)
    assert len(load("mnist", "test", data_root=cached(tmp_path))) == 6
    with pytest.raises(DataError, match="mnist/train in .*SHA-256 is .*, not 0000000000000000…"):
        load("mnist", "train", data_root=tmp_path)
    other = IMAGES.copy()
    other[3, 14, 14] ^= 1
    with pytest.raises(DataError, match=f"SHA-256 is .*, not {sha256['test'][:16]}…. Delete the file"):
        load("mnist", "test", data_root=cached(tmp_path, test_images=other))


def test_a_part_of_a_split_has_no_checksum(tmp_path, monkeypatch):
    fetch_with(monkeypatch, no_network, splits={"train": 9, "test": 7}, sha256={"test": "0" * 64, "train": "0" * 64})
    assert len(load("mnist", "test", data_root=cached(tmp_path))) == 6


def test_every_checksum_of_the_table_belongs_to_a_split():
    for dataset in DATASETS.values():
        assert set(dataset.splits) == {"train", "test"}
        if dataset.sha256:
            assert set(dataset.sha256) <= set(dataset.splits)
            assert all(len(v) == 64 and int(v, 16) for v in dataset.sha256.values())


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


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), TimeoutError("timed out"), RuntimeError("bad MD5")])
def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch, error):
    def fetch():
        raise error

    fetch_with(monkeypatch, fetch)
    with pytest.raises(DataError, match=r"could not download mnist .*mnist\.npz .*BOOK_DATA .*profile='smoke'") as caught:
        load("mnist", "test", data_root=tmp_path / "new")
    assert str(error.args[0]) in str(caught.value)
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
    (tmp_path / "file").write_text("no folder")
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
def mirror(tmp_path, monkeypatch):
    """torchvision's MNIST, served small from a folder: returns that folder."""
    from helpers.torchvision_import import torchvision

    folder, resources = tmp_path / "mirror", []
    folder.mkdir()
    for stem, key in (("train", "train"), ("t10k", "test")):
        for kind, name in (("images", "images-idx3-ubyte"), ("labels", "labels-idx1-ubyte")):
            path = folder / f"{stem}-{name}.gz"
            path.write_bytes(gzip.compress(idx(arrays()[f"{key}_{kind}"])))
            resources.append((path.name, hashlib.md5(path.read_bytes()).hexdigest()))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    mnist = torchvision().datasets.MNIST
    monkeypatch.setattr(mnist, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(mnist, "resources", resources)
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "127.0.0.1")
    fetch_with(monkeypatch, data._fetch_mnist)
    yield folder
    server.shutdown()
    server.server_close()


def test_mnist_comes_through_torchvision(mirror):
    fetched = data._fetch_mnist()
    assert fetched.keys() == arrays().keys()
    for k, v in arrays().items():
        assert fetched[k].dtype == v.dtype
        assert np.array_equal(fetched[k], v)


def test_mnist_from_torchvision_is_cached_and_loaded_without_the_mirror(mirror, tmp_path):
    assert len(load("mnist", "train", data_root=tmp_path / "data")) == 9
    for path in mirror.iterdir():
        path.unlink()
    assert load("mnist", "test", data_root=tmp_path / "data").labels.tolist() == LABELS.tolist()
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["mnist.npz"]


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-9]), Path.unlink], ids=["cut", "missing"])
def test_a_file_of_the_mirror_that_is_cut_or_missing_is_a_failed_download(mirror, tmp_path, damage):
    damage(mirror / "t10k-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match="(?s)could not download mnist .*profile='smoke'"):
        load("mnist", "train", data_root=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_cifar10_comes_through_torchvision(monkeypatch):
    class CIFAR10:
        """As torchvision's: pixels as an array, labels as a list."""

        def __init__(self, root, train, download):
            assert download and Path(root).is_dir()
            part = "train" if train else "test"
            content = arrays(shape=(32, 32, 3))
            self.data, self.targets = content[f"{part}_images"], content[f"{part}_labels"].tolist()

    from helpers.torchvision_import import torchvision

    monkeypatch.setattr(torchvision().datasets, "CIFAR10", CIFAR10)
    fetched, expected = data._fetch_cifar10(), arrays(shape=(32, 32, 3))
    assert fetched.keys() == expected.keys()
    assert all(fetched[k].dtype == v.dtype and np.array_equal(fetched[k], v) for k, v in expected.items())


# the real thing

BOOK_DATA = os.environ.get("BOOK_DATA")
needs_mnist = pytest.mark.skipif(
    not BOOK_DATA or not (Path(BOOK_DATA).expanduser() / "mnist.npz").exists(),
    reason="needs MNIST: point BOOK_DATA at a folder with mnist.npz",
)


@needs_mnist
@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_has_its_size_its_checksum_and_its_range(split):
    mnist = load("mnist", split)  # raises if a complete split fails its checksum
    full = DATASETS["mnist"].splits[split]
    if len(mnist) < full:
        pytest.skip(f"the mnist.npz that is here holds {len(mnist)} of the {full} {split} images")
    assert mnist.images.shape == (full, 1, 28, 28)
    assert (mnist.images.amin(), mnist.images.amax()) == (0, 1)
    pixels = (mnist.images * 255).round().to(torch.uint8).numpy().tobytes()
    assert hashlib.sha256(pixels).hexdigest() == DATASETS["mnist"].sha256[split]
    if split == "test":
        assert mnist.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
