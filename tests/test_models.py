"""Networks, saving and loading them, and every network that ships with the book against its card."""

import json

import pytest
import torch
from torch import nn

from helpers import models
from helpers.data import DATASETS, default_root, load
from helpers.metrics import accuracy, predict
from helpers.models import Dropout, Normalise, card, cnn, lenet, load_pretrained, mlp, save_pretrained, zoo

SMALL = {"architecture": {"name": "mlp", "arguments": {"inputs": 4, "hidden": [5, 6], "classes": 3}}}


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(0)


def images(n=7, shape=(1, 2, 2)):
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(0))


# mlp


@pytest.mark.parametrize(
    ("hidden", "shapes"), [((), [(3, 4)]), ((5,), [(5, 4), (3, 5)]), ((5, 6), [(5, 4), (6, 5), (3, 6)])], ids=str
)
def test_an_mlp_has_the_layers_asked_for(hidden, shapes):
    network = mlp(4, hidden, 3)
    assert [tuple(m.weight.shape) for m in network if isinstance(m, nn.Linear)] == shapes
    assert [type(m) for m in network] == [nn.Flatten, *len(hidden) * [nn.Linear, nn.ReLU], nn.Linear]
    assert network(images()).shape == (7, 3)


def test_an_mlp_drops_only_hidden_units_and_only_in_training():
    network = mlp(4, (500, 6), 3, dropout=0.25)
    assert [type(m) for m in network] == [nn.Flatten, *2 * [nn.Linear, nn.ReLU, Dropout], nn.Linear]
    assert {m.p for m in network if isinstance(m, nn.Dropout)} == {0.25}
    x = torch.ones(40, 500)
    assert 0.2 < (network[3](x) == 0).double().mean() < 0.3
    assert torch.equal(network.eval()[3](x), x)


def test_dropout_depends_on_the_seed_alone_and_keeps_the_mean():
    dropped = Dropout(0.2)(torch.ones(12))
    assert (dropped > 0).int().tolist() == [0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1]  # with any version of torch
    assert dropped.unique().tolist() == [0.0, 1.25]
    x = torch.ones(3, requires_grad=True)
    (gradient,) = torch.autograd.grad(Dropout(0.5)(x * 1).sum(), x)
    assert set(gradient.tolist()) <= {0.0, 2.0}


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5, float("nan")])
def test_a_dropout_that_is_no_probability_below_one_is_refused(dropout):
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\)"):
        mlp(4, (5,), 3, dropout=dropout)


# convolutional networks


def test_lenet_has_the_layers_of_the_notebooks():
    network = lenet()
    shapes = [tuple(p.shape) for p in network.parameters() if p.ndim > 1]
    assert shapes == [(20, 1, 5, 5), (50, 20, 5, 5), (100, 800), (10, 100)]
    block = [nn.Conv2d, nn.Tanh, nn.MaxPool2d]
    assert [type(m) for m in network] == [*block, *block, nn.Flatten, nn.Linear, nn.Tanh, nn.Linear]
    assert sum(p.numel() for p in network.parameters()) == 106_680
    assert network(images(shape=(1, 28, 28))).shape == (7, 10)


@pytest.mark.parametrize(("widths", "last"), [((8, 16, 16), 16 * 16), ((32, 64, 64), 64 * 16), ((4,), 4 * 256)], ids=str)
def test_a_cnn_halves_the_image_after_each_width(widths, last):
    network = cnn(widths, hidden=12, classes=5)
    blocks = len(widths) * [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    assert [type(m) for m in network] == [Normalise, *blocks, nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    assert torch.equal(network[0](torch.full((1, 3, 1, 1), 0.75)), torch.ones(1, 3, 1, 1))
    assert [m.out_channels for m in network if isinstance(m, nn.Conv2d)] == list(widths)
    assert [m.in_features for m in network if isinstance(m, nn.Linear)] == [last, 12]
    assert network(images(shape=(3, 32, 32))).shape == (7, 5)


def test_normalisation_is_a_layer_so_that_eps_stays_in_pixels():
    x = images(shape=(3, 4, 4)).requires_grad_()
    layer = Normalise((0.1, 0.2, 0.3), (0.5, 0.25, 0.2))
    z = layer(x)
    assert torch.allclose(z[:, 1], (x[:, 1] - 0.2) / 0.25) and torch.allclose(z[:, 2], (x[:, 2] - 0.3) / 0.2)
    assert torch.allclose(torch.autograd.grad(z[:, 1].sum(), x)[0][:, 1], torch.full((7, 4, 4), 4.0))
    assert layer.state_dict() == {} and layer.double()(x.double()).dtype == torch.float64
    for mean, std in (((0.5,), (0.0,)), ((float("nan"),), (1.0,)), ((0.5, 0.5), (1.0,))):
        with pytest.raises(ValueError, match="std above 0"):
            Normalise(mean, std)
    with pytest.raises(ValueError, match="3 channels"):
        layer(images(shape=(1, 4, 4)))


def test_a_network_in_channels_last_computes_the_same():
    network = lenet()
    x = images(shape=(1, 28, 28))
    expected = network(x)
    assert torch.allclose(network.to(memory_format=torch.contiguous_format)(x), expected, atol=1e-6)


def test_a_slice_of_a_network_computes_features_and_shares_its_parameters():
    network = mlp(4, (5, 6), 3)
    features, head = network[:-1], network[-1]
    assert features(images()).shape == (7, 6)
    assert torch.equal(head(features(images())), network(images()))
    assert {id(p) for p in features.parameters()} | {id(p) for p in head.parameters()} == {id(p) for p in network.parameters()}
    with torch.no_grad():
        head.weight.zero_()
    assert torch.equal(network(images()), head.bias.expand(7, 3))


# a zoo of one's own


@pytest.fixture
def empty_zoo(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "WEIGHTS", tmp_path / "weights")
    return tmp_path / "weights"


def test_a_network_comes_back_as_it_was_saved(empty_zoo):
    network = mlp(4, (5, 6), 3)
    path = save_pretrained("paper/method", network, {**SMALL, "seed": 3})
    assert path == empty_zoo / "paper" / "method.safetensors"
    assert zoo() == ["paper/method"]
    assert card("paper/method") == {**SMALL, "seed": 3}
    back = load_pretrained("paper/method")
    assert back.state_dict().keys() == network.state_dict().keys()
    for k, v in network.state_dict().items():
        assert back.state_dict()[k].dtype == torch.float32
        assert torch.equal(back.state_dict()[k], v.half().float()), "not the float16 rounding of what was saved"
    torch.testing.assert_close(back(images()), network(images()), rtol=0, atol=2e-3)
    assert all(v.dtype == torch.float32 for v in network.state_dict().values()), "saving changed the network"
    assert path.stat().st_size < 2 * sum(p.numel() for p in network.parameters()) + 2000


def test_a_loaded_network_is_ready_to_attack(empty_zoo):
    about = {"architecture": {"name": "mlp", "arguments": {**SMALL["architecture"]["arguments"], "dropout": 0.5}}}
    save_pretrained("a", mlp(4, (5, 6), 3, dropout=0.5).train(), about)
    network = load_pretrained("a")
    assert not any(m.training for m in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    assert torch.equal(network(images()), network(images()))


def test_saving_again_replaces_the_network_and_its_card(empty_zoo):
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = mlp(4, (5, 6), 3)
        save_pretrained("a", network, {**SMALL, "seed": seed})
    assert zoo() == ["a"]
    assert card("a")["seed"] == 1
    torch.testing.assert_close(load_pretrained("a")(images()), network(images()), rtol=0, atol=2e-3)


def test_the_zoo_is_sorted_and_its_folders_are_part_of_the_names(empty_zoo):
    assert zoo() == []
    for name in ("z", "a/v1.5", "a/c", "a/b", "a/a"):
        save_pretrained(name, mlp(4, (5, 6), 3), SMALL)
    assert zoo() == ["a/a", "a/b", "a/c", "a/v1.5", "z"]
    assert load_pretrained("a/v1.5")(images()).shape == (7, 3)


def test_an_unknown_network_is_refused_with_the_known_ones(empty_zoo):
    for f in (card, load_pretrained):
        with pytest.raises(ValueError, match="no network named 'x/y' in the zoo; there are: none yet"):
            f("x/y")
    save_pretrained("paper/a", mlp(4, (5, 6), 3), SMALL)
    save_pretrained("paper/b", mlp(4, (5, 6), 3), SMALL)
    for f in (card, load_pretrained):
        with pytest.raises(ValueError, match="no network named 'paper/c' in the zoo; there are: paper/a, paper/b"):
            f("paper/c")


def test_an_unknown_architecture_is_refused_before_anything_is_written(empty_zoo):
    with pytest.raises(ValueError, match="architecture must be one of mlp"):
        save_pretrained("a", mlp(4, (5, 6), 3), {"architecture": {"name": "transformer", "arguments": {}}})
    assert not empty_zoo.exists()


# the zoo of the book


def test_weights_and_cards_come_in_pairs_and_are_40_mb_at_most():
    weights = list(models.WEIGHTS.rglob("*.safetensors"))
    assert {p.with_suffix(".json") for p in weights} == set(models.WEIGHTS.rglob("*.json"))
    assert sum(p.stat().st_size for p in weights) <= 40e6


@pytest.mark.parametrize("name", zoo())
def test_a_network_of_the_book_is_small_and_its_card_complete(name):
    path = models.WEIGHTS / f"{name}.safetensors"
    assert path.stat().st_size <= 4.2e6
    about = card(name)
    assert {"paper", "method", "profile", "seed", "commit", "clean accuracy", "test images", "architecture"} <= set(about)
    assert about["paper"] == name.split("/")[0]
    assert path.with_suffix(".json").read_text() == json.dumps(about, indent=1, sort_keys=True) + "\n"
    assert all(v.isfinite().all() for v in load_pretrained(name).state_dict().values())


@pytest.mark.parametrize("name", zoo())
def test_a_network_of_the_book_is_as_accurate_as_its_card_says(name):
    about = card(name)
    split, size, digest = about["test images"]
    dataset, part = split.split("/")
    if not DATASETS[dataset].embedded and not (default_root() / f"{dataset}.npz").exists():
        pytest.skip(f"needs {dataset}: point BOOK_DATA at a folder with {dataset}.npz")
    test = load(dataset, part)[:size]
    if test.digest != digest:
        pytest.skip(f"the {dataset}.npz that is here holds other images than the card's")
    assert accuracy(load_pretrained(name), test.images, test.labels) == pytest.approx(about["clean accuracy"], abs=0.002)


@pytest.mark.parametrize("name", zoo())
def test_a_network_of_the_book_reads_digits_that_it_was_not_trained_on(name):
    digits = load("digits_rgb" if card(name)["architecture"]["name"] == "cnn" else "digits", "test")
    network = load_pretrained(name)
    assert predict(network, digits.images).shape == (500, 10)
    if "digit" in card(name)["test images"][0] or "mnist" in card(name)["test images"][0]:
        assert accuracy(network, digits.images, digits.labels) > 0.5
