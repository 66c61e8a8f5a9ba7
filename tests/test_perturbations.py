"""Universal perturbations: what is read, what is fetched, and what is refused. Nothing here leaves the machine."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from helpers import perturbations
from helpers.data import DataError
from helpers.perturbations import NAME, SHA256, SOURCE, load_perturbations

NETWORKS = ("CaffeNet", "GoogLeNet", "ResNet-152", "VGG-16", "VGG-19", "VGG-F")
REAL = dict(SHA256)


def values(network, scale=10):
    generator = np.random.default_rng(NETWORKS.index(network))
    return generator.uniform(-scale, scale, (224, 224, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def mirror(tmp_path, monkeypatch):
    """Six small perturbations in a folder that stands for the source, with their checksums."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setattr(perturbations, "SOURCE", f"{folder.as_uri()}/")
    for network in NETWORKS:
        savemat(folder / f"{network}.mat", {"r": values(network)})
        sign(monkeypatch, folder / f"{network}.mat")
    return folder


def sign(monkeypatch, path):
    monkeypatch.setitem(SHA256, path.stem, hashlib.sha256(path.read_bytes()).hexdigest())


def test_the_table_has_six_networks_a_commit_and_checksums():
    assert tuple(SHA256) == NETWORKS
    assert SOURCE == "https://raw.githubusercontent.com/davisliang/adversarial/aeb848e994a5f0bee9049f59f63854cd65ffd791/data/"
    assert all(len(v) == 64 and int(v, 16) for v in REAL.values()) and len(set(REAL.values())) == 6


def test_perturbations_are_fetched_once_and_in_units_of_pixels(mirror, tmp_path):
    loaded = load_perturbations(str(tmp_path / "data"))
    assert (loaded.name, loaded.names, len(loaded)) == (NAME, NETWORKS, 6)
    assert loaded.tensors.shape == (6, 3, 224, 224) and loaded.tensors.dtype == torch.float32 and loaded.tensors.is_contiguous()
    for network, tensor in zip(loaded.names, loaded.tensors, strict=True):
        torch.testing.assert_close(tensor, torch.from_numpy(values(network)).permute(2, 0, 1) / 255)
    assert sorted(path.name for path in (tmp_path / "data" / NAME).iterdir()) == [f"{network}.mat" for network in NETWORKS]
    for path in mirror.iterdir():
        path.unlink()
    assert load_perturbations(tmp_path / "data").digest == loaded.digest


def test_only_a_file_that_is_missing_is_fetched(mirror, tmp_path):
    digest = load_perturbations(tmp_path).digest
    (tmp_path / NAME / "VGG-F.mat").unlink()
    for network in NETWORKS[:-1]:
        (mirror / f"{network}.mat").unlink()
    assert load_perturbations(tmp_path).digest == digest


def test_book_data_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_DATA", str(tmp_path / "book"))
    load_perturbations()
    assert (tmp_path / "book" / NAME / "VGG-16.mat").exists()


def test_the_digest_changes_with_every_value_name_and_their_order(tmp_path):
    loaded = load_perturbations(tmp_path)
    order = torch.tensor([1, 0, 2, 3, 4, 5])
    others = [
        replace(loaded, tensors=loaded.tensors[order]),
        replace(loaded, tensors=-loaded.tensors),
        replace(loaded, names=tuple(loaded.names[i] for i in order)),
        replace(loaded, tensors=loaded.tensors[:5], names=loaded.names[:5]),
    ]
    assert len({p.digest for p in (loaded, *others)}) == 5 and all(len(p.digest) == 16 for p in others)
    assert load_perturbations(tmp_path).digest == loaded.digest


@pytest.mark.parametrize("damage", ["missing", "cut", "another file"])
def test_a_file_that_cannot_be_fetched_leaves_nothing_and_says_what_to_do(mirror, tmp_path, damage):
    path = mirror / "VGG-16.mat"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9] if damage == "cut" else (mirror / "VGG-19.mat").read_bytes())
    message = "No such file" if damage == "missing" else "invalid hash value"
    with pytest.raises(DataError, match=rf"could not download file:.*VGG-16\.mat .*{message}.*BOOK_DATA"):
        load_perturbations(tmp_path / "data")
    assert {p.name for p in (tmp_path / "data" / NAME).iterdir()} == {"CaffeNet.mat", "GoogLeNet.mat", "ResNet-152.mat"}


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(DataError, match=r"could not download .*CaffeNet\.mat .*BOOK_DATA"):
        load_perturbations(tmp_path / "file")


R = values("VGG-F")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param({"s": R}, "there is no 'r' in it, only: s", id="key"),
        pytest.param({}, "there is no 'r' in it, only: nothing", id="empty"),
        pytest.param({"r": R[:, :223]}, r"must be float32 of shape \(224, 224, 3\), not float32 \(224, 223, 3\)", id="size"),
        pytest.param({"r": R.transpose(2, 0, 1)}, r"not float32 \(3, 224, 224\)", id="channels first"),
        pytest.param({"r": R.astype(float)}, r"not float64", id="float64"),
        pytest.param({"r": "text"}, r"must be float32 .* not <U4", id="text"),
        pytest.param({"r": R * 1.01}, r"must lie in \[-10, 10\], not in \[-10\.\d+, 10\.\d+\]", id="range"),
        pytest.param({"r": np.where(R > 9, np.float32("nan"), R)}, r"must lie in \[-10, 10\], not in \[nan", id="nan"),
        pytest.param({"r": -R}, "its SHA-256 is [0-9a-f]{16}…, not [0-9a-f]{16}…", id="another"),
    ],
)
def test_a_file_that_is_not_the_perturbation_is_refused(tmp_path, content, message):
    load_perturbations(tmp_path)
    savemat(tmp_path / NAME / "VGG-F.mat", content)
    with pytest.raises(DataError, match=rf"VGG-F\.mat: .*{message}.*\. Delete the file, and it will be fetched again"):
        load_perturbations(tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage" * 99, "half", "a folder"], ids=["empty", "garbage", "half", "a folder"])
def test_a_damaged_file_is_named(tmp_path, content):
    load_perturbations(tmp_path)
    path = tmp_path / NAME / "VGG-F.mat"
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink()
    if content == "a folder":
        path.mkdir()
    else:
        path.write_bytes(half if content == "half" else content)
    with pytest.raises(DataError, match=r"VGG-F\.mat is damaged \(.*delete it"):
        load_perturbations(tmp_path)


def test_the_real_perturbations_fill_their_range(monkeypatch):
    folder = os.environ.get("BOOK_DATA")
    if not folder or not (Path(folder).expanduser() / NAME).is_dir():
        pytest.skip(f"needs the perturbations: point BOOK_DATA at a folder with {NAME}")
    for network, sha256 in REAL.items():
        monkeypatch.setitem(SHA256, network, sha256)
    loaded = load_perturbations()
    assert torch.equal(loaded.tensors.abs().amax(dim=(1, 2, 3)), torch.full((6,), 10 / 255)), "each as large as it may be"
    assert (loaded.tensors.abs().mean(dim=(1, 2, 3)) > 1 / 255).all()
