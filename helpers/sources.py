"""Where the datasets come from: the table `DATASETS`; `fetchers` has how each of them is fetched."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from helpers import embedded, fetchers
from helpers.embedded import Arrays


@dataclass(frozen=True)
class Dataset:
    """An entry of the table: what it is, where it comes from, and how to get it."""

    splits: dict[str, int]  # images of each split when complete
    shape: tuple[int, ...]  # of one image: (H, W) or (H, W, 3)
    classes: tuple[str, ...] | Callable[[], tuple[str, ...]]  # a function where they come out of another package
    source: str
    licence: str
    fetch: Callable[[], Arrays] | None = None  # returns the arrays of the cache file; None for a part of another dataset
    # Of complete splits; None where copies may be lossy, where none was at hand, and where the dataset is embedded: its digest is
    # asserted by the tests, and another release of a package must not stop a reader.
    sha256: dict[str, str] | None = None  # of the pixel bytes, in the dataset's own order
    labels_sha256: dict[str, str] | None = None  # of the labels as int64, little-endian, in that order
    samples_sha256: dict[str, str] | None = None  # of images with their labels in any order, see `data.samples_sha256`
    embedded: bool = False  # made from an installed package: never cached, never downloaded
    part_of: str | None = None  # the dataset that it is without the labels `without`; the other labels stay what they are
    without: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, label 0 first."""
        return self.classes() if callable(self.classes) else self.classes


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
# The German traffic signs in the alphabetical order of their German names. Before each: the benchmark's class, and how many
# training images that has.
_GTSRB = """
    7 1440 speed limit 100 km/h; 8 1410 speed limit 120 km/h; 0 210 speed limit 20 km/h; 1 2220 speed limit 30 km/h;
    2 2250 speed limit 50 km/h; 3 1410 speed limit 60 km/h; 4 1980 speed limit 70 km/h; 6 420 end of speed limit 80 km/h;
    5 1860 speed limit 80 km/h; 30 450 ice or snow; 29 270 bicycles crossing; 28 540 children crossing;
    31 780 wild animals crossing; 26 600 traffic signals; 25 1500 road works; 15 630 no vehicles;
    11 1320 priority at the next crossing; 27 240 pedestrians; 18 1200 general caution; 40 360 roundabout;
    10 2010 no overtaking by lorries; 42 240 end of no overtaking by lorries; 16 420 no lorries; 23 510 slippery road;
    21 330 double curve; 19 210 curve to the left; 20 360 curve to the right; 14 780 stop; 9 1470 no overtaking;
    41 240 end of no overtaking; 32 240 end of all limits; 22 390 bumpy road; 17 1110 no entry; 24 270 road narrows;
    39 300 keep left; 38 2070 keep right; 12 2100 priority road; 13 2160 give way; 35 1200 straight ahead only;
    37 210 straight ahead or left; 36 390 straight ahead or right; 34 420 turn left; 33 689 turn right
"""
_COVID_CT = "https://github.com/UCSD-AI4H/COVID-CT/raw/0c83254a43230de176489a9b4e3ac12e23b0df53/Images-processed/"
_SIGNS = [sign.split(maxsplit=2) for sign in _GTSRB.strip().split(";")]
# fmt: off
DATASETS: dict[str, Dataset] = {
    "mnist": Dataset(
        splits={"train": 60_000, "test": 10_000}, shape=(28, 28), classes=_TEN,
        source="http://yann.lecun.com/exdb/mnist/, through torchvision.datasets.MNIST and its mirrors",
        licence="CC BY-SA 3.0", fetch=partial(fetchers.from_torchvision, "MNIST"),
        sha256={"train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
                "test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161"},
        labels_sha256={"train": "e474323ac02fc156161b0bbb1f8c9cfeb327a74bcd9f9680a8385269a24f566c",
                       "test": "2fd8de6bdb8d11780b4b96dc57847bcfe6953f7c32aa48bfcd8237c3b7847243"},
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
        licence="none stated; cite Krizhevsky 2009",
        fetch=partial(fetchers.from_torchvision, "CIFAR10", {"https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz":
                      "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"}),
        samples_sha256={"train": "6c3d94351344c6460973c9795f4a4fcc19984b1b894a9b39889a02e380f4d4d3",
                        "test": "7742db831caeba84ea1d4663e0d07ca1879cbb76e501e036935be5fd5506749b"},
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
        licence="MIT", fetch=partial(fetchers.from_torchvision, "FashionMNIST"),
        sha256={"train": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
                "test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a"},
        labels_sha256={"train": "e3245b63f7c40d1c8b652835f19744d970c1613b40ddac6bcfc87b9c46e16a0b",
                       "test": "d51d859896c55775b9e9e219b77ff03bcec1b6ac322f313544dc3f9e7bc94fae"},
    ),
    "notmnist": Dataset(
        splits={"all": 10_000}, shape=(28, 28), classes=_LETTERS,
        source="yaroslavvb.blogspot.com/2011/09/notmnist-dataset.html, sample of github.com/davidflanagan/notMNIST-to-MNIST",
        licence="none stated",
        fetch=partial(fetchers.from_idx, "all", "https://raw.githubusercontent.com/davidflanagan/notMNIST-to-MNIST/master/t10k-",
                      images="70ae9e06201f2827e5b0a3781a3169d735dd2efc69996b9eeaee7f10ed4044d7",
                      labels="1fa03836e01c862542f8eb83463bb951bebec6fcb3efa28dad748c6b38a9021b"),
        samples_sha256={"all": "4bf973c14bf160361886f8b61fb8a7a12e75ecb8e79e10b0ff0125621ab8ace7"},
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
        licence="non-commercial use only",
        fetch=partial(fetchers.from_torchvision, "SVHN", {f"http://ufldl.stanford.edu/housenumbers/{split}_32x32.mat": digest
                      for split, digest in (("train", "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"),
                                            ("test", "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"))}),
    ),
    "cifar100": Dataset(
        splits={"train": 50_000, "test": 10_000}, shape=(32, 32, 3), classes=tuple(_CIFAR100.split()),
        source="https://www.cs.toronto.edu/~kriz/cifar.html, fine labels, through torchvision.datasets.CIFAR100",
        licence="none stated; cite Krizhevsky 2009",
        fetch=partial(fetchers.from_torchvision, "CIFAR100", {"https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz":
                      "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"}),
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
        fetch=partial(fetchers.from_github, "https://github.com/EliSchwartz/imagenet-sample-images/archive/"
                      "bc69043e2862758a1906c6a24a792bb28c6bb2ff.zip", "", images=1_000, categories=1_000),
    ),
    "imagenet_liang2020": Dataset(
        splits={"all": 1_000}, shape=(224, 224, 3), classes=tuple(_IMAGENET200.split()),
        source="https://github.com/liangbright/OOD_Attack_NN, data/ImageNet/imagen/S224, five images of each category",
        licence="ImageNet's: non-commercial research only",
        fetch=partial(fetchers.from_github, "https://github.com/liangbright/OOD_Attack_NN/archive/"
                      "b0da79876c481724c20c944597cd0b7dd9557f54.zip", "data/ImageNet/imagen/S224/", images=1_000, categories=200),
        samples_sha256={"all": "fb80cdb90e6dc24e0e4567988080fbc4b140f4f1716083d66f95c29eb233e56f"},
    ),
    "photographs": Dataset(
        splits={"train": 48, "test": 36}, shape=(224, 224, 3), classes=_imagenet,
        source="crops of photographs in scikit-image (chelsea, coffee, rocket, motorcycle, camera) and scikit-learn (flower)",
        licence="CC0 and public domain; flower CC BY; motorcycle none stated (Middlebury 2014)",
        fetch=embedded.photographs, embedded=True,
    ),
    "gtsrb": Dataset(
        splits={"train": 39_209, "test": 12_630}, shape=(32, 32, 3), classes=tuple(name for *_, name in _SIGNS),
        source="https://benchmark.ini.rub.de (German Traffic Sign Recognition Benchmark), resized; labels are not its own",
        licence="none stated, free to use; cite Stallkamp et al. 2012",
        fetch=partial(fetchers.gtsrb, {int(number): int(images) for number, images, _ in _SIGNS}),
    ),
    "covid_ct": Dataset(
        splits={"all": 746}, shape=(224, 224), classes=("not COVID", "COVID"),
        source="https://github.com/UCSD-AI4H/COVID-CT, Images-processed: CT slices out of preprints, resized",
        licence="of the preprints that the slices come from; cite Yang et al. 2020",
        fetch=partial(fetchers.from_folders, "all", {f"{_COVID_CT}{name}.zip": {f"{name}/": images} for name, images in
                      (("CT_NonCOVID", 397), ("CT_COVID", 349))}, size=224, mode="L"),
    ),
    # What Liang et al. 2020 have. The page says, as they do, 1,230 slices without COVID; there are 1,229 in the archive.
    "sarscov2_ct": Dataset(
        splits={"all": 2_481}, shape=(224, 224), classes=("not COVID", "COVID"),
        source="https://www.kaggle.com/datasets/plameneduardo/sarscov2-ctscan-dataset: CT slices of Soares et al. 2020, resized",
        licence="CC BY-NC-SA 4.0",
        fetch=partial(fetchers.from_folders, "all", {"https://www.kaggle.com/api/v1/datasets/download/plameneduardo/"
                      "sarscov2-ctscan-dataset": {"non-COVID/": 1_229, "COVID/": 1_252}}, size=224, mode="L"),
    ),
    # 1,000 of each class for training, as Liang et al. 2020 have; their test set is Kermany et al.'s, 242 of each, this one 250.
    "octmnist": Dataset(
        splits={"train": 4_000, "test": 1_000}, shape=(224, 224),
        classes=("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        source="https://medmnist.com, OCTMNIST at 224×224 (of Kermany et al. 2018), 4,000 of its 97,477 training images",
        licence="CC BY 4.0", fetch=partial(fetchers.from_medmnist, "OCTMNIST", size=224, of_each=1_000),
    ),
    "celeba64": Dataset(
        splits={"all": 202_599}, shape=(64, 64, 3), classes=("face",),
        source="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, aligned, through torchvision.datasets.CelebA, resized",
        licence="non-commercial research only",
        fetch=partial(fetchers.celeba, sha256="46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74"),
    ),
    "faces": Dataset(
        splits={"train": 60, "test": 40}, shape=(32, 32, 3), classes=("face",),
        source="skimage.data.lfw_subset (grey faces of Labeled Faces in the Wild), resized",
        licence="none stated; cite Huang et al. 2007", fetch=embedded.faces, embedded=True,
    ),
}
# fmt: on
