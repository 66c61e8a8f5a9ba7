"""Datasets that are made from installed packages: scikit-learn's digits, letters from matplotlib's fonts, both also in colour;
crops of photographs in scikit-image and scikit-learn; faces in scikit-image.

Every maker returns the arrays of a cache file (see `data`), the same in every process and every version of the packages.
"""

import numpy as np

Arrays = dict[str, np.ndarray]

# Those with capitals whose outlines are the same in matplotlib 3.9 to 3.11.
TRAIN_FONTS = (
    "DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "DejaVuSansMono", "DejaVuSansMono-Bold",
    "DejaVuSansMono-BoldOblique", "DejaVuSerif-Bold", "STIXGeneral", "STIXGeneralBol", "STIXGeneralBolIta",
    "cmb10", "cmmi10", "cmr10", "cmsy10", "cmtt10",
)  # fmt: skip
TEST_FONTS = ("DejaVuSans-Bold", "DejaVuSansMono-Oblique", "DejaVuSerif", "STIXGeneralItalic", "cmss10")

# Package, file, and the ImageNet class that a person would choose, of those that EfficientNet-Lite0 finds in most of the crops.
PHOTOGRAPHS = (
    ("scikit-image", "skimage/data/chelsea.png", 285),  # Egyptian cat
    ("scikit-image", "skimage/data/coffee.png", 967),  # espresso
    ("scikit-image", "skimage/data/rocket.jpg", 657),  # missile
    ("scikit-image", "skimage/data/motorcycle_left.png", 665),  # moped
    ("scikit-image", "skimage/data/camera.png", 872),  # tripod
    ("scikit-learn", "sklearn/datasets/images/flower.jpg", 985),  # daisy
)


def digits() -> Arrays:
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


def letters() -> Arrays:
    """Letters A to J as white 28×28 glyphs, notMNIST's recipe with the fonts that matplotlib ships. Each is turned, stretched,
    sized and shifted by numbers of its own from a fixed seed; the test split has other fonts than the training split."""
    arrays, rng = {}, np.random.default_rng(0)
    for split, fonts, copies in (("train", TRAIN_FONTS, 4), ("test", TEST_FONTS, 6)):
        glyphs = [outline(font, letter) for font in fonts for letter in "ABCDEFGHIJ"] * copies
        arrays[f"{split}_images"] = np.stack([raster(_varied(glyph, rng)) for glyph in glyphs])
        arrays[f"{split}_labels"] = np.arange(len(glyphs), dtype=np.int64) % 10
    return arrays


def digits_rgb() -> Arrays:
    """The digits in colour on photographs: a stand-in for photographs of objects."""
    return _on_photographs(digits(), seed=0)


def letters_rgb() -> Arrays:
    """The letters in colour on photographs: other objects than those of `digits_rgb`, before the same scenes."""
    return _on_photographs(letters(), seed=1)


def photographs() -> Arrays:
    """Square crops of `PHOTOGRAPHS`, 8 of each for training and 6 for the test, as (224, 224, 3) with ImageNet's labels. Test
    crops show more of a photograph: 85 to 100 % of its short side, training crops 60 to 80 %."""
    from importlib.metadata import distribution

    from PIL import Image

    arrays, rng, whole = {}, np.random.default_rng(0), []
    for package, path, _ in PHOTOGRAPHS:
        with Image.open(distribution(package).locate_file(path)) as file:  # without an import of the package
            whole.append(file.convert("RGB"))
    for split, copies, sides in (("train", 8, (0.6, 0.8)), ("test", 6, (0.85, 1))):
        crops = [_crop(photograph, sides, rng)[:, :: 1 - 2 * (i % 2)] for i in range(copies) for photograph in whole]
        arrays[f"{split}_images"] = np.stack(crops)  # every other one mirrored
        arrays[f"{split}_labels"] = np.array([label for *_, label in PHOTOGRAPHS] * copies)
    return arrays


def faces() -> Arrays:
    """The 100 faces of scikit-image's `lfw_subset`, 25×25 and grey, brought to 32×32 with three equal channels: 60 for training,
    40 for the test. Nothing says who is who, so a person may be in both."""
    from importlib.metadata import distribution

    from PIL import Image

    small = np.load(distribution("scikit-image").locate_file("skimage/data/lfw_subset.npy"))[:100]  # others are no faces
    small = (255 * small).round().astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(s).resize((32, 32), Image.Resampling.BILINEAR)) for s in small])
    large, labels = np.repeat(large[..., None], 3, axis=-1), np.zeros(100, np.int64)
    return {
        "train_images": large[:60],
        "train_labels": labels[:60],
        "test_images": large[60:],
        "test_labels": labels[60:],
    }


def outline(font: str, letter: str) -> np.ndarray:
    """Closed outline of a letter as E straight edges (E, 2 ends, x and y), y upwards, in hundredths of the font's size."""
    import matplotlib
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    file = f"{matplotlib.get_data_path()}/fonts/ttf/{font}.ttf"
    polygons = TextPath((0, 0), letter, size=100, prop=FontProperties(fname=file)).to_polygons()
    return np.concatenate([np.stack([p[:-1], p[1:]], axis=1) for p in polygons])


def raster(edges: np.ndarray, size: int = 28) -> np.ndarray:
    """Edges (E, 2, 2) in pixels, y downwards -> (size, size) uint8, 255 where the outline's inside fills a pixel.

    An edge that crosses a scan line adds what lies to its right, with the sign of its direction; a hole, which runs the other
    way round, takes it off again. Exact along the line, 5 lines a pixel (255 = 5·51). No FreeType, so no version of it.
    """
    (x0, y0), (x1, y1) = edges.transpose(1, 2, 0)[..., None]
    lines = (np.arange(5 * size) + 0.5) / 5
    direction = (y0 <= lines).astype(int) - (y1 <= lines)  # (E, lines): 0 where an edge does not cross
    edge, line = direction.nonzero()
    x0, y0, x1, y1 = (v[edge, 0] for v in (x0, y0, x1, y1))
    x = x0 + (lines[line] - y0) * (x1 - x0) / (y1 - y0)
    right = np.clip(np.arange(1, size + 1) - x[:, None], 0, 1)  # of each pixel, the part to the right of the crossing
    filled = np.zeros((size, size))
    np.add.at(filled, line // 5, direction[edge, line][:, None] * right)
    return np.minimum(np.abs(filled) * 51, 255).round().astype(np.uint8)


def _varied(edges: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A glyph's edges turned by up to 0.15 rad, stretched and centred, 20 to 26 of 28 pixels long, up to one pixel off."""
    angle, stretch, size, *shift = rng.uniform([-0.15, 0.8, 20, -1, -1], [0.15, 1.25, 26, 1, 1])
    cos, sin = np.cos(angle), np.sin(angle)
    edges = edges @ np.array([[stretch * cos, stretch * sin], [sin, -cos]])  # and y downwards
    low, high = edges.min(axis=(0, 1)), edges.max(axis=(0, 1))
    return (edges - (low + high) / 2) * (size / (high - low).max()) + 14 + shift


def _on_photographs(arrays: Arrays, seed: int) -> Arrays:
    """Grey 28×28 images, in colour on 32×32 patches of scikit-learn's two photographs. Each is blended over a patch of its own,
    in a colour far from the patch's mean; both are drawn from `seed`."""
    from sklearn.datasets import load_sample_images

    rng, photographs = np.random.default_rng(seed), load_sample_images().images
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


def _crop(photograph, sides: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """A square out of a PIL photograph, (224, 224, 3) uint8: its side, as a part of the short side, and its place are drawn."""
    from PIL import Image

    side = min(photograph.size) * rng.uniform(*sides)
    left, top = (rng.uniform(0, length - side) for length in photograph.size)
    return np.asarray(photograph.resize((224, 224), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)))
