"""ResNet-18 against torchvision's, the network of traffic signs and its layers against formulas."""

import math

import pytest
import torch
from torch import nn

from helpers import models
from helpers.encoders import ContrastNorm, SpatialTransformer, resnet18, traffic_signs
from helpers.layers import Normalise, Residual
from helpers.torchvision_import import torchvision


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(0)


def stirred(network):
    """The network in evaluation mode, with other weights and statistics of batch normalisation than those it starts with."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                values.data.uniform_(0.5, 1.5)
    return network.eval()


def moving(network):
    """The network, its spatial transformers no longer at the identity and depending on the image."""
    for module in network.modules():
        if isinstance(module, SpatialTransformer):
            nn.init.normal_(module.localisation[-1].weight, std=0.3)
    return network.eval()


# ResNet-18


def test_resnet18_is_that_of_torchvision():
    theirs = stirred(torchvision().models.resnet18(weights=None, num_classes=7))
    ours = resnet18(64, 7, 3, "batch").eval()
    state = theirs.state_dict()
    assert [v.shape for v in ours.state_dict().values()] == [v.shape for v in state.values()]
    ours.load_state_dict(dict(zip(ours.state_dict(), state.values(), strict=True)))  # both in the order of their layers
    x = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(ours(x), theirs((x - 0.5) / 0.25), rtol=1e-4, atol=1e-4)


def test_resnet18_with_instance_norm_is_that_of_torchvision_with_it():
    theirs = torchvision().models.resnet18(weights=None, num_classes=2, norm_layer=nn.InstanceNorm2d)
    ours = resnet18(64, 2, 3)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(ours(x), theirs((x - 0.5) / 0.25), rtol=1e-4, atol=1e-4)


def test_resnet18_has_its_layers_and_as_many_features_as_the_paper_says():
    network = resnet18()
    head = [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear]
    stem = [Normalise, nn.Conv2d, nn.InstanceNorm2d, nn.ReLU, nn.MaxPool2d]
    assert [type(m) for m in network] == [*stem, *8 * [Residual], *head]
    assert network[-1].in_features == 512 and network[-1].out_features == 2
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert len(convolutions) + 1 == 18 and convolutions[0].in_channels == 1
    x, seen = torch.rand(1, 1, 224, 224), []
    small = resnet18(4, 3)
    for layer in small:
        x = layer(x)
        seen += [tuple(x.shape[1:])] * isinstance(layer, nn.MaxPool2d | Residual)
    assert seen == [(4, 56, 56)] * 3 + [(8, 28, 28)] * 2 + [(16, 14, 14)] * 2 + [(32, 7, 7)] * 2
    assert small[:-1](torch.rand(2, 1, 224, 224)).shape == (2, 32) and x.shape == (1, 3)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_resnet18_treats_each_image_alone_and_is_differentiable(norm):
    network = stirred(resnet18(4, norm=norm)).double()
    x = torch.rand(3, 1, 64, 64, dtype=torch.float64, requires_grad=True)
    together = network(x)
    torch.testing.assert_close(together, torch.cat([network(one[None]) for one in x]))
    assert (torch.equal(network.train()(x), together)) == (norm == "instance")
    check_gradient(network.eval(), x)


def check_gradient(network, x):
    """Against a central difference along one direction. x : (N, C, H, W) float64, which needs gradients"""
    direction = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(network[:-1](x).square().sum(), x)
    with torch.no_grad():
        step = 1e-7
        up, down = (network[:-1](x + s * step * direction).square().sum() for s in (1, -1))
    assert (gradient * direction).sum().item() == pytest.approx(((up - down) / (2 * step)).item(), rel=1e-4)
    assert gradient.flatten(1).any(dim=1).all() and gradient.isfinite().all()


@pytest.mark.parametrize("options", [{"width": 0}, {"classes": 0}, {"channels": 0}, {"norm": "layer"}, {"norm": None}], ids=str)
def test_a_resnet18_that_makes_no_sense_is_refused(options):
    with pytest.raises(ValueError, match="at least 1 and a norm of batch or instance are wanted, not"):
        resnet18(**options)
    with pytest.raises(ValueError, match="images of 1 channels are wanted"):
        resnet18(2)(torch.rand(1, 3, 32, 32))


def test_an_instance_of_one_position_is_refused_and_the_smallest_image_is_not():
    network = resnet18(2).eval()
    for shape in ((33, 1), (1, 33), (33, 33)):
        assert network(torch.rand(2, 1, *shape)).isfinite().all()
    for shape in ((32, 32), (1, 32)):
        with pytest.raises(ValueError, match="a side of 33 pixels or more"):
            network(torch.rand(2, 1, *shape))
        assert resnet18(2, norm="batch").eval()(torch.rand(2, 1, *shape)).isfinite().all()


# the network of traffic signs


def test_the_network_of_traffic_signs_has_three_transformers_and_a_latent_space_of_128():
    network = traffic_signs()
    block = [SpatialTransformer, nn.Conv2d, nn.ReLU, nn.MaxPool2d, ContrastNorm]
    assert [type(m) for m in network] == [Normalise, *3 * block, nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    assert [m.shape for m in network if isinstance(m, SpatialTransformer)] == [(3, 32, 32), (32, 15, 15), (48, 8, 8)]
    assert [m.kernel_size for m in network if isinstance(m, nn.Conv2d)] == [(7, 7), (4, 4), (4, 4)]
    x = torch.rand(5, 3, 32, 32)
    features = network[:-1](x)
    assert features.shape == (5, 128) and features.min() == 0 < features.max()
    assert network(x).shape == (5, 43)
    other = traffic_signs((4, 5, 6), latent=7, classes=8, localisation=(2, 3, 4))
    assert other[:-1](x).shape == (5, 7) and other(x).shape == (5, 8)
    convolutions = [m.out_channels for m in other.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions == [2, 3, 4, 2, 3, 5, 2, 3, 6]


def test_the_network_of_traffic_signs_treats_each_image_alone_and_is_differentiable():
    network = moving(traffic_signs((4, 5, 6), latent=16, localisation=(3, 3, 4))).double()
    x = torch.rand(3, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(network(x), torch.cat([network(one[None]) for one in x]))
    assert torch.equal(network(x), network(x)) and torch.equal(network.train()(x), network.eval()(x))
    check_gradient(network, x)


def test_an_even_image_has_a_finite_gradient():
    network = moving(traffic_signs((4, 5, 6)))
    x = torch.full((2, 3, 32, 32), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x).sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("options", [{"widths": (4, 5)}, {"widths": (4, 0, 6)}, {"latent": 0}, {"classes": 0}], ids=str)
def test_a_network_of_traffic_signs_that_makes_no_sense_is_refused(options):
    with pytest.raises(ValueError, match="three widths, latent and classes of at least 1 are wanted"):
        traffic_signs(**options)


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [("resnet18", {"width": 3, "classes": 4, "channels": 3, "norm": "batch"}, (3, 64, 64)),
     ("traffic_signs", {"widths": [3, 4, 5], "latent": 6, "classes": 7, "localisation": [2, 2, 3]}, (3, 32, 32))],
)  # fmt: skip
def test_an_encoder_comes_back_from_the_zoo(tmp_path, monkeypatch, name, arguments, shape):
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    network, x = stirred(moving(models.ARCHITECTURES[name](**arguments))), torch.rand(2, *shape)
    models.save_pretrained("a", network, {"architecture": {"name": name, "arguments": arguments}})
    torch.testing.assert_close(models.load_pretrained("a")(x), network(x), rtol=0.02, atol=0.02)


# its layers


def test_a_spatial_transformer_starts_as_the_identity():
    for side in (8, 15, 32):
        x = torch.rand(2, 3, side, side)
        torch.testing.assert_close(SpatialTransformer(3, side)(x), x)


def transformer(numbers):
    layer = SpatialTransformer(2, 8, (2, 2, 2))
    with torch.no_grad():
        layer.localisation[-1].bias.copy_(torch.tensor(numbers))
    return layer


def test_a_spatial_transformer_moves_the_image_as_its_numbers_say():
    """Of 8 positions between −1 and 1 each is 1/4 wide: a shift by 1/4 is one of a pixel, and 0 comes in from outside."""
    x = torch.rand(3, 2, 8, 8)
    shifted = transformer((1.0, 0.0, 0.25, 0.0, 1.0, -0.5))(x)
    torch.testing.assert_close(shifted[:, :, 2:, :-1], x[:, :, :-2, 1:])
    assert shifted[:, :, :2].abs().max() < 1e-6 and shifted[..., -1].abs().max() < 1e-6
    torch.testing.assert_close(transformer((-1.0, 0.0, 0.0, 0.0, 1.0, 0.0))(x), x.flip(3))
    torch.testing.assert_close(transformer((0.0, 1.0, 0.0, 1.0, 0.0, 0.0))(x), x.mT)
    quarter = transformer((0.0, 1.0, 0.0, -1.0, 0.0, 0.0))(x)
    torch.testing.assert_close(quarter, x.rot90(-1, (2, 3)))


def test_a_spatial_transformer_looks_at_each_image_and_learns():
    layer = SpatialTransformer(2, 8)
    x = torch.rand(3, 2, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), layer.localisation[-1].weight)
    assert gradient.any(), "the weights that start at 0 do not move"
    moved = moving(layer)
    maps = moved.localisation(x)
    assert maps.shape == (3, 6) and (maps[0] - maps[1]).abs().max() > 1e-4
    assert not torch.allclose(moved(x), x, atol=1e-3)


def test_a_spatial_transformer_that_makes_no_sense_is_refused():
    for arguments in ((0, 8), (2, 7), (2, 8, (2, 2)), (2, 8, (2, 0, 2))):
        with pytest.raises(ValueError, match="three widths and channels of at least 1 and a side of at least 8"):
            SpatialTransformer(*arguments)
    with pytest.raises(ValueError, match=r"images \(2, 8, 8\) are wanted, not \(2, 9, 9\)"):
        SpatialTransformer(2, 8)(torch.rand(1, 2, 9, 9))


@pytest.mark.parametrize("window", [1, 3, 5, 9])
def test_contrast_normalisation_is_that_of_a_loop(window):
    x, half = torch.randn(2, 3, 5, 6, dtype=torch.float64), window // 2
    places = [(i, j) for i in range(5) for j in range(6)]

    def around(image, i, j):
        return image[:, max(i - half, 0) : i + half + 1, max(j - half, 0) : j + half + 1]

    expected = torch.empty_like(x)
    for image, normed in zip(x, expected, strict=True):
        rest = image.clone()
        for i, j in places:
            rest[:, i, j] -= around(image, i, j).mean()
        contrast = torch.tensor([[math.sqrt(around(rest, i, j).square().mean()) for j in range(6)] for i in range(5)])
        normed[:] = rest / contrast.to(rest).clamp_min(contrast.mean().item())
    torch.testing.assert_close(ContrastNorm(window)(x), expected, rtol=1e-6, atol=1e-6)


def test_contrast_normalisation_forgets_brightness_and_contrast():
    x = torch.rand(2, 3, 15, 15, dtype=torch.float64)
    torch.testing.assert_close(ContrastNorm()(5 + 7 * x), ContrastNorm()(x), rtol=1e-6, atol=1e-6)
    assert torch.equal(ContrastNorm()(torch.ones(1, 2, 4, 4)), torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize("window", [0, 2, -1])
def test_a_window_without_a_middle_is_refused(window):
    with pytest.raises(ValueError, match="window must be odd"):
        ContrastNorm(window)
