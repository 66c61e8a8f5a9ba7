"""Initial out-of-distribution images: what is drawn, read, fetched and refused. Nothing here leaves the machine."""

import hashlib
import os
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import start_images
from helpers.data import DataError
from helpers.start_images import FILES, FOLDER, NAMES, SOURCE, random_starts, start_image

REAL = dict(FILES)
GREY = ("x-ray", "gray spiral")


@pytest.fixture(autouse=True)
def mirror(tmp_path, monkeypatch):
    """Small files in a folder that stands for the source, with their checksums: wide ones, two of them grey."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setattr(start_images, "SOURCE", f"{folder.as_uri()}/")
    rng = np.random.default_rng(0)
    for name, (file, _) in REAL.items():
        pixels = rng.integers(30, 200, (60, 90) if name in GREY else (60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / file, quality=95)
        monkeypatch.setitem(FILES, name, (file, hashlib.sha256((folder / file).read_bytes()).hexdigest()))
    return folder


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_every_image_has_its_shape_and_fills_its_range(name, channels, tmp_path):
    for size in (8, 33):
        image = start_image(name, size, channels=channels, data_root=tmp_path)
        assert image.shape == (channels, size, size) and image.dtype == torch.float32 and image.is_contiguous()
        assert (image.min(), image.max()) == (0, 1)
        assert torch.equal(image, start_image(name, size, channels=channels, data_root=tmp_path))
        coloured = channels == 3 and name in ("ct", "colour spiral", "spiral")
        assert (image == image[:1]).all() != coloured


def test_the_images_differ():
    images = [start_image(name, 32) for name in NAMES[4:]]
    assert all((a - b).abs().mean() > 0.1 for i, a in enumerate(images) for b in images[:i])


def test_a_checkerboard_has_as_many_fields_a_side():
    expected = torch.zeros(32, 32)
    expected[:16, 16:] = expected[16:, :16] = 1
    assert torch.equal(start_image("checkerboard 2", 32), expected.expand(3, -1, -1))
    board = start_image("checkerboard 8", 28, channels=1)[0]
    assert board[0, 0] == 0 and (board.diff(dim=0) != 0).any(dim=1).sum() == (board.diff(dim=1) != 0).any(dim=0).sum() == 7
    assert (board.diff(dim=1).abs().sum(dim=1) == 7).all(), "in every row"
    assert torch.equal(
        start_image("checkerboard 8", 8, channels=1)[0], torch.from_numpy(np.indices((8, 8)).sum(axis=0) % 2).float()
    )


def test_the_spiral_has_three_arms_and_turns():
    spiral = start_image("spiral", 128)
    assert (spiral.std(dim=(1, 2)) > 0.2).all()
    torch.testing.assert_close(spiral.sum(dim=0), torch.full((128, 128), 1.5), rtol=0, atol=0.01)
    middle, angles = 63.5, torch.linspace(0, 2 * torch.pi, 721)[:-1]
    for radius in (20, 50):
        ring = spiral[0, (middle + radius * angles.sin()).round().long(), (middle + radius * angles.cos()).round().long()]
        assert torch.fft.rfft(ring).abs()[1:].argmax() == 2, "three waves around"
    a, b = (spiral[0, 63, 64 + radius] for radius in (20, 28))
    assert (a - b).abs() > 0.2, "and others further out"


def test_a_file_is_resized_in_floats_antialiased_and_stretched(tmp_path):
    path = tmp_path / "fine.png"
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[::2, :64], pixels[:, 64:] = 80, (200, 100, 120)  # lines of one pixel; a colour
    Image.fromarray(pixels).save(path)
    image = start_images._photograph(path, 16, 3, grey=False)
    assert image.shape == (3, 16, 16)
    torch.testing.assert_close(image[:, :, 10:], (torch.tensor([200, 100, 120]) / 255)[:, None, None].expand(3, 16, 6))
    torch.testing.assert_close(image[:, 1:-1, :6], torch.full((3, 14, 6), 40 / 255), rtol=0, atol=0.01)
    grey = (0.299 * 200 + 0.587 * 100 + 0.114 * 120) / 255
    for channels in (1, 3):
        image = start_images._photograph(path, 16, channels, grey=True)
        torch.testing.assert_close(image[:, :, 10:], torch.full((channels, 16, 6), grey), rtol=0, atol=1 / 255)


def test_the_fundus_is_scikit_images_retina_in_grey():
    import skimage

    own = skimage.color.rgb2gray(skimage.data.retina())
    own = skimage.transform.resize(own, (64, 64), anti_aliasing=True)
    own = torch.from_numpy((own - own.min()) / (own.max() - own.min())).float()
    assert torch.corrcoef(torch.stack([own.flatten(), start_image("fundus", 64)[0].flatten()]))[0, 1] > 0.99


@pytest.mark.parametrize("missing", ["package", "file"])
def test_without_the_retina_the_error_says_what_to_install(missing, monkeypatch, tmp_path):
    class Without:
        def locate_file(self, path):
            return tmp_path / path

    def distribution(name):
        if missing == "package":
            raise metadata.PackageNotFoundError(name)
        return Without()

    monkeypatch.setattr(metadata, "distribution", distribution)
    with pytest.raises(DataError, match="'fundus'.*pip install scikit-image"):
        start_image("fundus", 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("xray", 32), f"unknown start image 'xray'; there are: {', '.join(NAMES)}"),
        (("spiral", 7), "size must be a whole number of pixels, 8 or more, not 7"),
        (("spiral", 32.0), "not 32.0"),
        (("spiral", float("nan")), "not nan"),
        (("spiral", 32, 2), "channels must be 1 or 3, not 2"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    name, size, *channels = arguments
    with pytest.raises(ValueError, match=message):
        start_image(name, size, **({"channels": channels[0]} if channels else {}))


# the authors' files


def test_the_table_has_four_files_of_one_commit_with_checksums():
    assert SOURCE == "https://raw.githubusercontent.com/liangbright/OOD_Attack_NN/b0da79876c481724c20c944597cd0b7dd9557f54/data/"
    assert NAMES[:4] == tuple(REAL) == ("x-ray", "ct", "colour spiral", "gray spiral")
    assert len({sha256 for _, sha256 in REAL.values()}) == 4 and all(len(v) == 64 and int(v, 16) for _, v in REAL.values())


@pytest.mark.parametrize("name", REAL)
def test_a_file_is_fetched_once_and_by_itself(name, mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_DATA", str(tmp_path / "book"))
    image = start_image(name, 16)
    assert [path.name for path in (tmp_path / "book" / FOLDER).iterdir()] == [FILES[name][0]]
    for path in mirror.iterdir():
        path.unlink()
    assert torch.equal(start_image(name, 16), image)
    with pytest.raises(DataError, match="could not download"):
        start_image(name, 16, data_root=tmp_path / "elsewhere")


@pytest.mark.parametrize("damage", ["missing", "cut", "another file"])
def test_a_file_that_cannot_be_fetched_leaves_nothing_and_says_what_to_do(mirror, tmp_path, damage):
    path = mirror / "ct.jpg"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9] if damage == "cut" else (mirror / "x_ray.jpg").read_bytes())
    message = "No such file" if damage == "missing" else "invalid hash value"
    with pytest.raises(DataError, match=rf"could not download file:.*ct\.jpg .*{message}.*folder {FOLDER}.*BOOK_DATA"):
        start_image("ct", 16, data_root=tmp_path / "data")
    assert not list((tmp_path / "data" / FOLDER).iterdir())


@pytest.mark.parametrize("damage", ["cut", "another file", "a folder"])
def test_a_file_that_is_not_the_authors_is_refused(mirror, tmp_path, damage):
    start_image("ct", 16, data_root=tmp_path)
    path = tmp_path / FOLDER / "ct.jpg"
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    else:
        path.write_bytes(content[:-9] if damage == "cut" else (mirror / "x_ray.jpg").read_bytes())
    message = "cannot be read" if damage == "a folder" else "its SHA-256 is [0-9a-f]{16}…, not [0-9a-f]{16}…"
    with pytest.raises(DataError, match=rf"ct\.jpg.* {message}.*it will be fetched again"):
        start_image("ct", 16, data_root=tmp_path)


def test_the_real_files_are_as_the_authors_code_makes_them(monkeypatch):
    folder = os.environ.get("BOOK_DATA")
    if not folder or not (Path(folder).expanduser() / FOLDER).is_dir():
        pytest.skip(f"needs the authors' images: point BOOK_DATA at a folder with {FOLDER}")
    from skimage.transform import resize

    for name, entry in REAL.items():
        monkeypatch.setitem(FILES, name, entry)
        own = np.asarray(Image.open(Path(folder).expanduser() / FOLDER / entry[0])) / 255
        own = resize(own if own.ndim == 3 else np.repeat(own[..., None], 3, axis=-1), (64, 64), anti_aliasing=True)
        own = torch.from_numpy((own - own.min()) / (own.max() - own.min())).permute(2, 0, 1).float()
        assert (start_image(name, 64) - own).abs().mean() < 0.015


# noise


def test_random_starts_are_uniform_each_its_own_and_follow_the_batch():
    like = torch.zeros(5, 3, 40, 40, dtype=torch.float64)
    noise = random_starts(like, torch.Generator().manual_seed(0))
    assert noise.shape == like.shape and noise.dtype == torch.float64
    assert noise.min() >= 0 and noise.max() < 1
    torch.testing.assert_close(torch.histc(noise, 10, 0, 1) / noise.numel(), torch.full((10,), 0.1).double(), rtol=0.06, atol=0)
    assert len({image.numpy().tobytes() for image in noise}) == 5
    assert torch.equal(noise, random_starts(like, torch.Generator().manual_seed(0)))
    assert not torch.equal(noise, random_starts(like, torch.Generator().manual_seed(1)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        a, b = random_starts(like), random_starts(like)
    assert not torch.equal(a, b)


def test_a_smoothed_image_is_the_mean_about_each_pixel_with_mirrored_edges():
    x = torch.rand(2, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    y = start_images.smooth(x, 3)
    assert y.shape == x.shape
    torch.testing.assert_close(y[:, :, 4, 5], x[:, :, 3:6, 4:7].mean(dim=(2, 3)))
    corner = x[:, :, :2, :2]
    mirrored = (corner[..., 0, 0] + 2 * corner[..., 0, 1] + 2 * corner[..., 1, 0] + 4 * corner[..., 1, 1]) / 9
    torch.testing.assert_close(y[:, :, 0, 0], mirrored)
    torch.testing.assert_close(start_images.smooth(x, 1), x)


@pytest.mark.parametrize("side", [0, 2, 17, -3])
def test_a_side_that_is_even_or_too_wide_is_refused(side):
    with pytest.raises(ValueError, match="side must be odd"):
        start_images.smooth(torch.rand(1, 3, 8, 8), side)
