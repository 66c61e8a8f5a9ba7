"""Networks, saving and loading them, and every network that ships with the book against its card."""

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers import models, purifiers
from helpers.data import DATASETS, default_root, held_out, load
from helpers.metrics import accuracy, predict
from helpers.models import (
    ARCHITECTURES,
    Dropout,
    LocalNorm,
    Normalise,
    Residual,
    card,
    cnn,
    cuda_convnet,
    last_convolution,
    lenet,
    load_pretrained,
    mlp,
    resnet,
    save_pretrained,
    vgg16,
    zoo,
)

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
    with pytest.raises(ValueError, match=r"dropout must (lie in \[0, 1\)|be a finite number)"):
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


@pytest.mark.parametrize(("activation", "layer"), [("tanh", nn.Tanh), ("relu", nn.ReLU)])
def test_lenet_takes_other_widths_and_another_activation(activation, layer):
    network = lenet(7, widths=(3, 4), hidden=6, activation=activation)
    assert [tuple(p.shape) for p in network.parameters() if p.ndim > 1] == [(3, 1, 5, 5), (4, 3, 5, 5), (6, 64), (7, 6)]
    block = [nn.Conv2d, layer, nn.MaxPool2d]
    assert [type(m) for m in network] == [*block, *block, nn.Flatten, nn.Linear, layer, nn.Linear]
    assert network(images(shape=(1, 28, 28))).shape == (7, 7)


@pytest.mark.parametrize(
    "options",
    [{"widths": (20,)}, {"widths": (20, 50, 50)}, {"widths": (0, 50)}, {"widths": (20, -1)}, {"hidden": 0}, {"classes": 0},
     {"activation": "gelu"}, {"activation": "ReLU"}, {"activation": None}],
    ids=str,
)  # fmt: skip
def test_a_lenet_that_makes_no_sense_is_refused(options):
    with pytest.raises(ValueError, match="two widths, hidden and classes of at least 1 and tanh or relu are wanted"):
        lenet(**options)


@pytest.mark.parametrize(("widths", "last"), [((8, 16, 16), 16 * 16), ((32, 64, 64), 64 * 16), ((4,), 4 * 256)], ids=str)
def test_a_cnn_halves_the_image_after_each_width(widths, last):
    network = cnn(widths, hidden=12, classes=5)
    blocks = len(widths) * [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    assert [type(m) for m in network] == [Normalise, *blocks, nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    assert torch.equal(network[0](torch.full((1, 3, 1, 1), 0.75)), torch.ones(1, 3, 1, 1))
    assert [m.out_channels for m in network if isinstance(m, nn.Conv2d)] == list(widths)
    assert [m.in_features for m in network if isinstance(m, nn.Linear)] == [last, 12]
    assert network(images(shape=(3, 32, 32))).shape == (7, 5)


CFG = [nn.Conv2d, nn.MaxPool2d, nn.ReLU, LocalNorm, nn.Conv2d, nn.ReLU, nn.AvgPool2d, LocalNorm, nn.Conv2d, nn.ReLU,
       nn.AvgPool2d]  # fmt: skip
WORDS = 3 * [nn.Conv2d, nn.ReLU, nn.MaxPool2d, LocalNorm]


@pytest.mark.parametrize(
    ("norm", "layers"), [("map", CFG), ("channels", CFG), ("contrast", WORDS)], ids=["map", "channels", "contrast"]
)
def test_cuda_convnet_has_the_layers_of_its_file_or_of_the_papers_words(norm, layers):
    network = cuda_convnet(norm=norm)
    assert [type(m) for m in network] == [*layers, nn.Flatten, Dropout, nn.Linear]
    convolutions = [m for m in network if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [32, 32, 64]
    assert {(m.kernel_size, m.padding, m.stride) for m in convolutions} == {((5, 5), (2, 2), (1, 1))}
    assert {(m.kernel_size, m.stride) for m in network if isinstance(m, nn.MaxPool2d | nn.AvgPool2d)} == {(3, 2)}
    norms = {(m.over, m.window, m.scale, m.power) for m in network if isinstance(m, LocalNorm)}
    assert norms == {(norm, 3, 5e-5, 0.75)}


@pytest.mark.parametrize(
    ("shape", "sides", "parameters"),
    [((1, 28, 28), [(14, 14), (7, 7), (3, 3)], 83_498), ((3, 32, 32), [(16, 16), (8, 8), (4, 4)], 89_578),
     ((2, 9, 40), [(4, 20), (2, 10), (1, 5)], 832 + 800 + 25_632 + 51_264 + 3210)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("norm", ["map", "contrast"])
def test_cuda_convnet_pools_as_its_authors_did(norm, shape, sides, parameters):
    network, x, seen = cuda_convnet(shape=shape, norm=norm).eval(), images(2, shape), []
    for layer in network:
        x = layer(x)
        seen += [tuple(x.shape[2:])] * isinstance(layer, nn.MaxPool2d | nn.AvgPool2d)
    assert seen == sides
    assert x.shape == (2, 10) and sum(p.numel() for p in network.parameters()) == parameters


def test_cuda_convnet_takes_other_widths_and_leaves_out_what_is_not_wanted():
    network = cuda_convnet((4, 5, 6), classes=11, dropout=0, scale=0.5)
    assert [tuple(p.shape[:2]) for p in network.parameters() if p.ndim > 1] == [(4, 1), (5, 4), (6, 5), (11, 54)]
    assert not any(isinstance(m, Dropout | Normalise) for m in network)
    assert {m.scale for m in network if isinstance(m, LocalNorm)} == {0.5}
    assert [m.p for m in cuda_convnet((4, 5, 6), dropout=0.2) if isinstance(m, Dropout)] == [0.2]
    for widths in ((4, 5), (4, 5, 6, 7)):
        with pytest.raises(ValueError, match="three widths"):
            cuda_convnet(widths)


def test_cuda_convnet_subtracts_the_mean_of_each_channel():
    network, x = cuda_convnet((4, 5, 6), shape=(3, 32, 32), mean=(0.1, 0.2, 0.3)).eval(), images(shape=(3, 32, 32))
    centred = torch.stack([x[:, 0] - 0.1, x[:, 1] - 0.2, x[:, 2] - 0.3], dim=1)
    assert torch.allclose(network(x), network[1:](centred), atol=1e-6)
    assert not torch.allclose(network(x), network[1:](x), atol=1e-3)
    with pytest.raises(ValueError, match="one finite value for each channel"):
        cuda_convnet(mean=(0.1, 0.2, 0.3))


@pytest.mark.parametrize(("batch_norm", "convolutional"), [(False, 14_714_688), (True, 14_714_688 + 4224)])
def test_vgg16_has_as_many_parameters_as_its_authors_print(batch_norm, convolutional):
    """Batch normalisation has two numbers for a channel in place of the convolution's one."""
    network = vgg16(batch_norm=batch_norm)
    assert sum(p.numel() for p in network.parameters() if p.ndim != 2) - (512 + 512 + 10) == convolutional
    assert [tuple(p.shape) for p in network.parameters() if p.ndim == 2] == [(512, 512), (512, 512), (10, 512)]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_vgg16_has_thirteen_convolutions_in_five_groups_and_three_full_layers(batch_norm):
    network = vgg16((4, 5, 6, 7, 8), 9, classes=11, mean=(0.1, 0.2, 0.3), dropout=0.25, batch_norm=batch_norm)
    one = [nn.Conv2d, *[nn.BatchNorm2d] * batch_norm, nn.ReLU]
    groups = [layer for depth in (2, 2, 3, 3, 3) for layer in [*depth * one, nn.MaxPool2d]]
    assert [type(m) for m in network] == [Normalise, *groups, nn.Flatten, *2 * [nn.Linear, nn.ReLU, Dropout], nn.Linear]
    convolutions = [m for m in network if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [4, 4, 5, 5, 6, 6, 6, 7, 7, 7, 8, 8, 8]
    assert {(m.kernel_size, m.padding, m.bias is None) for m in convolutions} == {((3, 3), (1, 1), batch_norm)}
    assert {m.p for m in network if isinstance(m, Dropout)} == {0.25}
    assert network[0].mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3]) and network[0].std.unique().tolist() == [1]
    assert network.eval()(images(shape=(3, 32, 32))).shape == (7, 11)


def test_vgg16_without_dropout_and_with_a_wrong_number_of_widths():
    assert not any(isinstance(m, Dropout) for m in vgg16((4, 4, 4, 4, 4), 8, dropout=0))
    with pytest.raises(ValueError, match="five widths"):
        vgg16((4, 4))


# residual networks


def main_path(network):
    """The layers with weights that an image passes through, shortcuts left out."""
    blocks = [m.body if isinstance(m, Residual) else [m] for m in network]
    return [m for block in blocks for m in block if isinstance(m, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_resnet_has_six_layers_per_block_and_two_more(blocks):
    network = resnet(blocks, (2, 3, 4), classes=5)
    stem = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert [type(m) for m in network] == [*stem, *3 * blocks * [Residual], nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear]
    layers = main_path(network)
    assert len(layers) == 6 * blocks + 2
    assert [m.out_channels for m in layers[:-1]] == [2, *2 * blocks * [2], *2 * blocks * [3], *2 * blocks * [4]]
    assert {(m.kernel_size, m.padding, m.bias) for m in layers[:-1]} == {((3, 3), (1, 1), None)}
    assert [i for i, m in enumerate(layers[:-1]) if m.stride == (2, 2)] == [2 * blocks + 1, 4 * blocks + 1]
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert [(m.in_channels, m.out_channels, m.stride) for m in convolutions] == [(2, 3, (2, 2)), (3, 4, (2, 2))]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == 6 * blocks + 1


def test_a_resnet_has_as_many_parameters_as_its_layers_say():
    """Of a width, a 3×3 convolution has 9 · in · out weights and its batch normalisation 2 · out."""
    three = [(3, 16), (16, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)]
    shortcuts = (16 + 1) * 32 + (32 + 1) * 64
    expected = sum(9 * a * b + 2 * b for a, b in three) + shortcuts + (64 + 1) * 10
    assert sum(p.numel() for p in resnet().parameters()) == expected == 77_946


@pytest.mark.parametrize(
    ("side", "sides"),
    [((32, 32), [(32, 32), (16, 16), (8, 8)]), ((28, 28), [(28, 28), (14, 14), (7, 7)]),
     ((9, 40), [(9, 40), (5, 20), (3, 10)]), ((1, 1), 3 * [(1, 1)])],
    ids=str,
)  # fmt: skip
def test_a_resnet_halves_images_of_any_size_twice(side, sides):
    network, x, seen = resnet(2, (2, 3, 4), classes=5).eval(), images(shape=(3, *side)), []
    for layer in network:
        x = layer(x)
        seen += [tuple(x.shape[1:])] * isinstance(layer, Residual)
    assert seen == [(width, *shape) for width, shape in zip((2, 3, 4), sides, strict=True) for _ in range(2)]
    assert x.shape == (7, 5)


def test_a_resnet_reads_the_mean_over_all_positions():
    network = resnet(1, (2, 3, 4), classes=5).eval()
    x = images(shape=(3, 8, 8))
    torch.testing.assert_close(network(x), network[-1](network[:-3](x).mean(dim=(2, 3))))


def test_a_resnet_subtracts_the_mean_of_each_channel():
    network, x = resnet(1, (2, 3, 4), mean=(0.1, 0.2, 0.3)).eval(), images(shape=(3, 8, 8))
    assert isinstance(network[0], Normalise) and network[0].std.unique().tolist() == [1]
    centred = torch.stack([x[:, 0] - 0.1, x[:, 1] - 0.2, x[:, 2] - 0.3], dim=1)
    torch.testing.assert_close(network(x), network[1:](centred))
    assert not torch.allclose(network(x), network[1:](x), atol=1e-3)
    assert not any(isinstance(m, Normalise) for m in resnet(1, (2, 3, 4)))
    assert isinstance(resnet(1, (2, 3, 4), mean=(0, 0, 0))[0], Normalise)
    with pytest.raises(ValueError, match="one finite value for each channel"):
        resnet(mean=(0.1, 0.2))


@pytest.mark.parametrize(
    "options",
    [{"blocks": 0}, {"blocks": -1}, {"widths": (2, 3)}, {"widths": (2, 3, 4, 5)}, {"widths": (2, 0, 4)}, {"classes": 0}],
    ids=str,
)
def test_a_resnet_that_makes_no_sense_is_refused(options):
    with pytest.raises(ValueError, match="three widths, blocks and classes of at least 1 are wanted"):
        resnet(**options)


def test_the_shortcut_is_the_identity_unless_width_or_size_changes():
    x = images(2, (4, 6, 6))
    assert isinstance(Residual(4, 4).shortcut, nn.Identity) and Residual(4, 4)(x).shape == (2, 4, 6, 6)
    for width, stride, shape in ((5, 1, (5, 6, 6)), (4, 2, (4, 3, 3)), (5, 2, (5, 3, 3))):
        block = Residual(4, width, stride)
        assert (block.shortcut.kernel_size, block.shortcut.stride) == ((1, 1), (stride, stride))
        assert block(x).shape == (2, *shape)


@pytest.mark.parametrize(("width", "stride"), [(4, 1), (5, 1), (4, 2), (5, 2)])
def test_a_block_whose_body_is_zero_is_its_rectified_shortcut(width, stride):
    block, x = Residual(4, width, stride).eval(), images(2, (4, 6, 6)) - 0.5
    with torch.no_grad():
        block.body[-1].weight.zero_()
    expected = x if (width, stride) == (4, 1) else block.shortcut(x)
    assert (expected < 0).any() and torch.equal(block(x), expected.clamp_min(0))


def test_a_block_adds_its_body_to_the_shortcut_before_the_last_relu():
    """In evaluation mode, batch normalisation as it is initialised leaves everything as it is, but for its eps."""
    block, x = Residual(4, 5, 2).eval(), images(2, (4, 6, 6)) - 0.5
    conv = nn.functional.conv2d
    inner = conv(x, block.body[0].weight, stride=2, padding=1).clamp_min(0)
    outer = conv(inner, block.body[3].weight, padding=1) + conv(x, block.shortcut.weight, block.shortcut.bias, stride=2)
    torch.testing.assert_close(block(x), outer.clamp_min(0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "shape", "features"),
    [
        pytest.param(cnn((4, 5), hidden=6), (3, 32, 32), (5, 16, 16), id="cnn"),
        pytest.param(cuda_convnet((4, 5, 6)), (1, 28, 28), (6, 7, 7), id="cuda_convnet"),
        pytest.param(cuda_convnet((4, 5, 6), norm="contrast"), (1, 28, 28), (6, 7, 7), id="cuda_convnet, contrast"),
        pytest.param(vgg16((4, 4, 4, 4, 8), 9), (3, 32, 32), (8, 2, 2), id="vgg16"),
        pytest.param(vgg16((4, 4, 4, 4, 8), 9, batch_norm=False), (3, 32, 32), (8, 2, 2), id="vgg16 without batch_norm"),
    ],
)
def test_a_network_divides_behind_the_activation_of_its_last_convolution(network, shape, features):
    network, x, i = network.eval(), images(shape=shape), last_convolution(network)
    at = network[:i](x)
    assert at.shape == (7, *features) and at.min() == 0, "before the pooling, after the ReLU"
    assert not any(isinstance(m, nn.Conv2d | nn.ReLU) for m in network[i : i + 2])
    assert torch.equal(network[i:](at), network(x))


def test_a_network_without_convolutions_has_no_last_one():
    with pytest.raises(ValueError, match="the network has no convolution"):
        last_convolution(mlp(4, (5, 6), 3))


def by_loops(x, over, window, scale, power):
    """`LocalNorm` of "map" and "contrast", a value at a time."""
    half, places = window // 2, list(product(range(x.shape[2]), range(x.shape[3])))

    def around(one, i, j):
        return one[max(i - half, 0) : i + half + 1, max(j - half, 0) : j + half + 1]

    result = x.clone()
    for one, normed in zip(x.flatten(0, 1), result.flatten(0, 1), strict=True):
        deviation = one.clone()
        for i, j in places:
            deviation[i, j] -= around(one, i, j).mean() if over == "contrast" else 0
        for i, j in places:
            normed[i, j] /= (1 + scale * around(deviation, i, j).square().sum() / window**2) ** power
    return result


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize("over", ["map", "contrast"])
def test_local_normalisation_within_a_map_is_that_of_a_loop(over, window):
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    expected = by_loops(x, over, window, 2.0, 0.6)
    torch.testing.assert_close(LocalNorm(over, window=window, scale=2.0, power=0.6)(x), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(expected, x) == (over == "contrast" and window == 1), "a pixel does not deviate from itself"


@pytest.mark.parametrize("window", [1, 3, 5, 9])
def test_local_normalisation_across_channels_is_that_of_torch(window):
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    expected = nn.LocalResponseNorm(window, alpha=2.0, beta=0.6, k=1.0)(x)
    torch.testing.assert_close(LocalNorm("channels", window=window, scale=2.0, power=0.6)(x), expected, rtol=1e-12, atol=1e-12)


def test_a_constant_map_has_no_contrast_and_is_divided_by_its_own_square_otherwise():
    x = torch.full((1, 3, 5, 5), 2.0)
    assert torch.equal(LocalNorm("contrast", scale=7.0)(x), x)
    for over in ("map", "channels"):
        inner = LocalNorm(over, scale=2.0, power=0.5)(x)[0, 1, 2, 2]
        assert inner.item() == pytest.approx(2 / 3), "2 / (1 + 2 · 4)^½"


@pytest.mark.parametrize(
    "bad",
    [{"over": "maps"}, {"over": None}, {"window": 0}, {"window": 2}, {"window": -1}, {"scale": -1e-9}, {"scale": float("nan")},
     {"scale": float("inf")}],
    ids=str,
)  # fmt: skip
def test_a_local_normalisation_that_makes_no_sense_is_refused(bad):
    with pytest.raises(ValueError, match="over must be map, contrast or channels, window odd, scale and power finite"):
        LocalNorm(**bad)


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


def test_a_resnet_comes_back_with_what_its_batch_normalisation_has_seen(empty_zoo):
    arguments = {"blocks": 1, "widths": [2, 3, 4], "classes": 5, "mean": [0.1, 0.2, 0.3]}
    network, x = ARCHITECTURES["resnet"](**arguments), images(shape=(3, 8, 8))
    for _ in range(3):
        network(x)
    network[2].num_batches_tracked.fill_(4097)  # which float16 does not know
    save_pretrained("a", network, {"architecture": {"name": "resnet", "arguments": arguments}})
    back = load_pretrained("a")
    assert back[2].num_batches_tracked.item() == 4097 and back[2].num_batches_tracked.dtype == torch.int64
    for k, v in network.state_dict().items():
        assert torch.equal(back.state_dict()[k], v.half().float() if v.is_floating_point() else v)
    assert not torch.equal(back[2].running_mean, torch.zeros(2)) and not torch.equal(back[4].body[1].running_var, torch.ones(2))
    assert torch.equal(back[0].mean, network[0].mean)
    torch.testing.assert_close(back(x), network.eval()(x), rtol=0, atol=1e-2)


def test_every_architecture_is_known_by_its_functions_name():
    assert {name: f.__name__ for name, f in ARCHITECTURES.items()} == {name: name for name in ARCHITECTURES}
    assert all(getattr(models, name) is f for name, f in ARCHITECTURES.items())
    assert set(ARCHITECTURES) == {"mlp", "lenet", "cnn", "cuda_convnet", "vgg16", "resnet", "resnet18", "traffic_signs"}


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


def test_a_purifier_comes_back_as_it_was_fitted(empty_zoo):
    pca = purifiers.PCA.fit(torch.rand(9, 3, 4, 4), 0.9)
    about = {"architecture": {"name": "PCA", "arguments": {"shape": [3, 4, 4], "units": len(pca.components)}}}
    save_pretrained("paper/pca", pca, about)
    x = torch.rand(5, 3, 4, 4)
    torch.testing.assert_close(load_pretrained("paper/pca")(x), pca(x), rtol=0, atol=2e-3)


def test_an_unknown_architecture_is_refused_before_anything_is_written(empty_zoo):
    with pytest.raises(ValueError, match="architecture must be one of mlp"):
        save_pretrained("a", mlp(4, (5, 6), 3), {"architecture": {"name": "transformer", "arguments": {}}})
    assert not empty_zoo.exists()


# the zoo of the book

MEASURES = {  # of what does not classify
    "bits per dimension": lambda flow, x: predict(flow.bits, x).mean().item(),
    "mean squared error": lambda coder, x: (predict(coder, x) - x).square().mean().item(),
}
CLASSIFIERS = [name for name in zoo() if "clean accuracy" in card(name)]


def test_weights_and_cards_come_in_pairs_and_are_40_mb_at_most():
    weights = list(models.WEIGHTS.rglob("*.safetensors"))
    assert {p.with_suffix(".json") for p in weights} == set(models.WEIGHTS.rglob("*.json"))
    assert sum(p.stat().st_size for p in weights) <= 40e6


@pytest.mark.parametrize("name", zoo())
def test_a_network_of_the_book_is_small_and_its_card_complete(name):
    path = models.WEIGHTS / f"{name}.safetensors"
    assert path.stat().st_size <= 4.2e6
    about = card(name)
    assert {"paper", "method", "profile", "seed", "commit", "test images", "architecture"} <= set(about)
    assert len(set(about) & {"clean accuracy", *MEASURES}) == 1
    assert about["paper"] == name.split("/")[0]
    assert path.with_suffix(".json").read_text(encoding="utf-8") == json.dumps(about, indent=1, sort_keys=True) + "\n"
    assert all(v.isfinite().all() for v in load_pretrained(name).state_dict().values())


def whole(name):
    """A network of the zoo; a purifier together with the network that it stands before."""
    before = card(name).get("before")
    return nn.Sequential(load_pretrained(name), load_pretrained(before)).eval() if before else load_pretrained(name)


@pytest.mark.parametrize("name", zoo())
def test_a_network_of_the_book_is_as_good_as_its_card_says(name):
    about = card(name)
    split, size, digest = about["test images"]
    source, part = split.split("/")
    dataset, _, divided = source.partition(" ")  # "svhn test/test": a part that was held out of the only split at hand
    if not DATASETS[dataset].embedded and not (default_root() / f"{dataset}.npz").exists():
        pytest.skip(f"needs {dataset}: point BOOK_DATA at a folder with {dataset}.npz")
    test = held_out(load(dataset, divided), size, 0)[1] if divided else load(dataset, part)[:size]
    if "relabelled" in about:
        test = replace(test, labels=test.labels.unique(return_inverse=True)[1])
    if test.digest != digest:
        pytest.skip(f"the {dataset}.npz that is here holds other images than the card's")
    if name in CLASSIFIERS:
        assert accuracy(whole(name), test.images, test.labels) == pytest.approx(about["clean accuracy"], abs=0.002)
        return
    (words,) = MEASURES.keys() & about.keys()
    assert MEASURES[words](load_pretrained(name), test.images) == pytest.approx(about[words], rel=0.01)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_network_of_the_book_reads_digits_that_it_was_not_trained_on(name):
    about = card(name)
    tested_on = about["test images"][0]
    colour = any(name in tested_on for name in ("cifar", "rgb", "svhn", "gtsrb"))
    digits, network = load("digits_rgb" if colour else "digits", "test"), whole(name)
    if about["architecture"]["name"] == "resnet18":  # for images of 224 × 224, which it halves five times
        digits = replace(digits, images=nn.functional.interpolate(digits.images, (64, 64)))
    assert predict(network, digits.images).shape == (500, about["architecture"]["arguments"].get("classes", 10))
    if "digit" in tested_on or "mnist" in tested_on:
        assert accuracy(network, digits.images, digits.labels) > 0.5


def test_the_last_convolution_of_a_residual_network_is_in_its_last_block():
    network = models.resnet(2, (2, 3, 4))
    cut = models.last_convolution(network)
    assert isinstance(network[cut - 1], models.Residual) and isinstance(network[cut], nn.AdaptiveAvgPool2d)


# what must not reach the zoo, and what is damaged there


ABOUT = {"architecture": {"name": "mlp", "arguments": {"inputs": 4, "hidden": [3], "classes": 2}}}


def tiny(value: float = 0.5) -> nn.Sequential:
    made = mlp(4, (3,), 2)
    with torch.no_grad():
        made[1].weight.fill_(value)
    return made


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e6])
def test_values_that_float16_cannot_hold_are_refused_and_what_there_was_stays(tmp_path, value):
    path = save_pretrained("paper/a", tiny(), ABOUT, folder=tmp_path)
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    with pytest.raises(ValueError, match=r"1\.weight holds NaN, infinity, or values past 65504.*nothing was saved"):
        save_pretrained("paper/a", tiny(value), ABOUT, folder=tmp_path)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before


def test_a_disk_that_is_full_leaves_the_network_that_there_was(tmp_path, monkeypatch):
    path = save_pretrained("paper/a", tiny(), ABOUT, folder=tmp_path)
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    write = Path.write_bytes

    def full(self, content):
        if ".json." in self.name:
            raise OSError(28, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_pretrained("paper/a", tiny(0.25), ABOUT, folder=tmp_path)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before


@pytest.mark.parametrize("name", ["../a", "paper/../../a", "/a", "", "a b", "paper//a", ".hidden"])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="name must be words of letters"):
        save_pretrained(name, tiny(), ABOUT, folder=tmp_path / "zoo")
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_of_the_zoo_are_named(tmp_path):
    path = save_pretrained("paper/a", tiny(), ABOUT, folder=tmp_path)
    weights, card = path.read_bytes(), path.with_suffix(".json").read_bytes()
    for content, message in ((b"", "cannot be read"), (weights[:-8], "cannot be read"), (b"x" * 100, "cannot be read")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"a\.safetensors {message}.*restore it"):
            models.load_pretrained("paper/a", folder=tmp_path)
    path.write_bytes(weights)
    path.with_suffix(".json").write_bytes(card[:-10])
    with pytest.raises(ValueError, match=r"a\.json is damaged"):
        models.load_pretrained("paper/a", folder=tmp_path)
    path.with_suffix(".json").write_bytes(card.replace(b'"classes": 2', b'"classes": 3'))
    with pytest.raises(ValueError, match="its card do not fit"):
        models.load_pretrained("paper/a", folder=tmp_path)
    with pytest.raises(ValueError, match="no network named 'paper/b'"):
        models.load_pretrained("paper/b", folder=tmp_path)
