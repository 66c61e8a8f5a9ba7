"""Purifiers: PCA against scikit-learn, autoencoders that learn, noise, down-sampling, JPEG, and what attacks on them need."""

import io
import math
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import decomposition
from torch import nn

from helpers import models, purifiers
from helpers.data import Split, load
from helpers.purifiers import (
    PCA,
    Autoencoder,
    ConvAutoencoder,
    DownSample,
    Expectation,
    StraightThrough,
    UniformNoise,
    jpeg,
    reconstruction,
)
from helpers.training import fit

SHAPE = (3, 4, 5)
GRAY = (1, 28, 28)


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(1)  # not the seed of `images`


def images(n=7, shape=SHAPE, dtype=torch.float32):
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(0), dtype=dtype)


def correlated(n, shape=SHAPE, dtype=torch.float64):
    """Images whose variance falls off along the components."""
    values = math.prod(shape)
    scale = 0.8 ** torch.arange(values, dtype=dtype)
    rotation = torch.linalg.qr(images(values, (values,), dtype) - 0.5).Q
    return (0.5 + 0.2 * (images(n, (values,), dtype) - 0.5) * scale @ rotation).view(n, *shape)


def projector(pca):
    return pca.components.T @ pca.components


# PCA


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("number", [12, 59, 60, 61, 200], ids="{} images of 60 values".format)
def test_pca_equals_scikit_learns(number, share):
    x = correlated(number)
    ours = PCA.fit(x, share)
    theirs = decomposition.PCA(share, svd_solver="full").fit(x.flatten(1).numpy())
    components = torch.from_numpy(theirs.components_)
    assert 1 < len(ours.components) == theirs.n_components_ < min(number, 60)
    torch.testing.assert_close(ours.mean, torch.from_numpy(theirs.mean_))
    torch.testing.assert_close((ours.components * components).sum(dim=1).abs(), torch.ones(len(components)).double())
    torch.testing.assert_close(projector(ours), components.T @ components)
    back = torch.from_numpy(theirs.inverse_transform(theirs.transform(x.flatten(1).numpy()))).view_as(x)
    torch.testing.assert_close(ours(x), back)


def test_both_ways_to_the_components_are_one(monkeypatch):
    """60 images of 60 values are decomposed by the covariance; with 12 more values that never vary, by equation (1)."""
    x = correlated(60)
    covariance = PCA.fit(x)
    wide = torch.cat([x, torch.full_like(x, 0.5)[:, :, :, :1]], dim=3)
    gram = PCA.fit(wide)
    inner = gram.components.view(-1, 3, 4, 6)
    assert len(gram.components) == len(covariance.components) and inner[..., 5].abs().max() < 1e-12
    inner = inner[..., :5].flatten(1)
    torch.testing.assert_close(inner.T @ inner, projector(covariance))
    monkeypatch.setattr(purifiers, "BLOCK", 7 * 60)  # blocks of 7 rows or columns, the last one shorter
    for way, whole in ((x, covariance), (wide, gram)):
        blocks = PCA.fit(way)
        torch.testing.assert_close(projector(blocks), projector(whole))
        torch.testing.assert_close(blocks.mean, whole.mean)


@pytest.mark.parametrize("number", [20, 100])
def test_the_components_are_orthonormal_and_the_projection_idempotent(number):
    pca = PCA.fit(correlated(number), 0.9)
    rows = pca.components
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)).double())
    x = pca(correlated(number))
    assert x.min() > 0 and x.max() < 1, "clamped, it would not be a projection"
    torch.testing.assert_close(pca(x), x)
    assert (pca(correlated(number)) - correlated(number)).abs().max() > 1e-3


@pytest.mark.parametrize("number", [20, 100])
def test_the_share_is_met_by_the_fewest_components(number):
    x = correlated(number).flatten(1)
    variance = (x - x.mean(dim=0)).square().sum()
    for share in (0.3, 0.8, 0.999):
        rows = PCA.fit(x.view(-1, *SHAPE), share).components
        held = ((x - x.mean(dim=0)) @ rows.T).square().sum(dim=0) / variance
        assert held[:-1].sum() < share <= held.sum()
        assert held.tolist() == sorted(held.tolist(), reverse=True)
    everything = PCA.fit(x.view(-1, *SHAPE), 1.0)
    torch.testing.assert_close(everything(x.view(-1, *SHAPE)), x.view(-1, *SHAPE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("copies", [1, 2, 30], ids="each {} times".format)
def test_images_that_repeat_have_no_more_components_than_directions(copies, dtype):
    x = images(4, dtype=dtype).repeat(copies, 1, 1, 1)
    pca = PCA.fit(x, 1.0)
    assert len(pca.components) == 3
    assert pca.components.dtype == pca.mean.dtype == dtype
    torch.testing.assert_close(pca(x), x)
    torch.testing.assert_close(pca.components @ pca.components.T, torch.eye(3, dtype=dtype))


def test_two_images_have_one_component_and_the_input_stays_as_it_is():
    x = images(2)
    before = x.clone()
    pca = PCA.fit(x, 0.01)
    direction = nn.functional.normalize((x[1] - x[0]).flatten(), dim=0)
    assert len(pca.components) == 1 and torch.equal(x, before)
    torch.testing.assert_close((pca.components[0] @ direction).abs(), torch.tensor(1.0))


def test_what_leaves_the_range_is_clamped():
    pca = PCA.fit(images(5), 0.8)
    out = pca(2 * images(50) - 0.5)
    assert out.min() == 0 and out.max() == 1 and out.shape == (50, *SHAPE)


def test_a_pca_is_stored_by_its_buffers():
    pca = PCA.fit(images(30), 0.9)
    other = PCA(SHAPE, len(pca.components))
    assert not list(other.parameters())
    other.load_state_dict(pca.state_dict())
    assert torch.equal(other(images()), pca(images()))


@pytest.mark.parametrize(
    ("x", "message"),
    [(images(1), "images must (hold|be)"), (images(0), "images must (hold|be)"), (images()[0], "images must (hold|be)"),
     ((255 * images()).byte(), "images must be a float tensor"), (images(1).repeat(5, 1, 1, 1), "all equal"),
     (torch.full((99, *SHAPE), 0.1), "all equal"), (torch.full((3, *SHAPE), 0.1).double(), "all equal"),
     (torch.full((3, *SHAPE), math.nan), "finite"), (images() / 0, "finite")],
)  # fmt: skip
def test_images_without_components_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        PCA.fit(x)


@pytest.mark.parametrize("share", [0, -0.1, 1.01, 99, math.nan])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(ValueError, match=r"share must (lie in \(0, 1\]|be a finite number)"):
        PCA.fit(images(), share)
    with pytest.raises(ValueError, match=r"share must (lie in \(0, 1\]|be a finite number)"):
        DownSample(share)


# autoencoders


FULL, CONVOLUTIONAL = partial(Autoencoder, GRAY, 30), partial(ConvAutoencoder, GRAY, 49, width=4)


def test_the_decoder_of_an_autoencoder_has_the_encoders_weights():
    network, x = Autoencoder(SHAPE, 6).double().eval(), images(dtype=torch.float64)
    assert {name: tuple(p.shape) for name, p in network.named_parameters()} == {
        "weight": (6, 60), "hidden": (6,), "centre": (60,)
    }  # fmt: skip
    grey = torch.full((1, *SHAPE), 0.5).double()
    torch.testing.assert_close(network(grey), grey)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
        code = (x.flatten(1) - network.centre) @ network.weight.T + network.hidden
        before, after = (torch.where(t > 0, t, 0.1 * t) for t in (network.hidden, code))
        expected = network.centre + (after - before) @ network.weight
        assert (code > 0).any() and (code < 0).any() and (network.hidden < 0).any()
        torch.testing.assert_close(network(x), expected.view_as(x).clamp(0, 1))
        torch.testing.assert_close(network.train()(x), expected.view_as(x))
    reconstruction(network, x, None).backward()
    assert all(p.grad.abs().max() > 0 for p in network.parameters())


@pytest.mark.parametrize(
    ("shape", "units", "codes"),
    [((3, 32, 32), 650, (10, 8, 8)), ((3, 32, 32), 670, (10, 8, 8)), ((3, 32, 32), 673, (11, 8, 8)), (GRAY, 300, (6, 7, 7)),
     (GRAY, 1, (1, 7, 7)), ((3, 224, 224), 600, (12, 7, 7)), ((1, 14, 30), 105, (1, 7, 15)), ((2, 44, 28), 154, (2, 11, 7))],
    ids=str,
)  # fmt: skip
def test_the_code_of_a_convolutional_autoencoder_has_about_as_many_values(shape, units, codes):
    network, x = ConvAutoencoder(shape, units, width=2), images(2, shape)
    assert network.codes == codes == network.encoder(x).shape[1:]
    assert network(x).shape == x.shape
    halvings = (shape[1] // codes[1]).bit_length() - 1
    assert [type(m) for m in network.encoder] == [nn.Conv2d, *(halvings - 1) * [nn.ReLU, nn.Conv2d]], "the code is linear"
    assert [type(m) for m in network.decoder] == [nn.ConvTranspose2d, *(halvings - 1) * [nn.ReLU, nn.ConvTranspose2d]]
    assert [m.out_channels for m in network.encoder[::2]] == [*(2 << i for i in range(halvings - 1)), codes[0]]


@pytest.mark.parametrize("build", [FULL, CONVOLUTIONAL], ids=["full", "convolutional"])
def test_autoencoders_clamp_in_evaluation_mode_alone(build):
    network = build()
    with torch.no_grad():
        [p.mul_(4) for p in network.parameters()]
        x = images(20, GRAY)
        free, clamped = network.train()(x), network.eval()(x)
    assert free.min() < 0 and free.max() > 1
    assert torch.equal(clamped, free.clamp(0, 1))


def test_a_convolutional_autoencoder_is_its_encoder_its_decoder_and_the_clamp():
    network, x = CONVOLUTIONAL().eval(), images(20, GRAY)
    with torch.no_grad():
        [p.mul_(4) for p in network.parameters()]
        code, free = network.encode(x), network.unclamped(x)
    assert code.shape == (20, *network.codes) and torch.equal(code, network.encoder(x - 0.5))
    assert torch.equal(free, 0.5 + network.decoder(code)) and free.min() < 0 and free.max() > 1
    assert torch.equal(network(x), free.clamp(0, 1)) and torch.equal(network.train()(x), free)
    for f in (network.encode, network.unclamped):
        with pytest.raises(ValueError, match=r"x must be \(N, 1, 28, 28\)"):
            f(images(2, (1, 28, 14)))


@pytest.mark.long
@pytest.mark.parametrize(("build", "lr"), [(FULL, 5e-3), (CONVOLUTIONAL, 1e-2)], ids=["full", "convolutional"])
def test_autoencoders_learn_to_reconstruct(build, lr):
    network = build()
    data = load("digits", "train")[:800]
    blank = data.images.var(dim=0, correction=0).mean()  # of the best image that is the same for all
    fit(network, data, reconstruction, epochs=5, lr=lr, batch_size=20, optimiser=torch.optim.Adam, seed=0)
    other = load("digits", "test").images[:200]
    assert reconstruction(network.eval(), other) < 0.5 * blank


def test_reconstruction_is_the_mean_squared_error_of_a_value():
    x = images()
    assert reconstruction(lambda images: images + 0.5, x, torch.zeros(7)).item() == pytest.approx(0.25)
    assert reconstruction(lambda images: images, x).shape == ()


@pytest.mark.parametrize("build", [PCA, Autoencoder, ConvAutoencoder])
@pytest.mark.parametrize(
    ("shape", "units"),
    [((1, 28), 5), ((1, 1, 28, 28), 5), ((0, 28, 28), 5), ((1, -28, 28), 5), (GRAY, 0), (GRAY, -1), (GRAY, 785)],
    ids=str,
)
def test_what_is_no_shape_or_no_bottleneck_is_refused(build, shape, units):
    with pytest.raises(ValueError, match=r"a shape \(C, H, W\) and units from 1 to C·H·W are wanted"):
        build(shape, units)


@pytest.mark.parametrize("shape", [(1, 27, 28), (1, 28, 27), (1, 12, 12), (1, 28, 8), (3, 299, 299)], ids=str)
def test_a_convolutional_autoencoder_wants_sides_it_can_halve(shape):
    with pytest.raises(ValueError, match="height and width must be even and at least 14"):
        ConvAutoencoder(shape, 5)
    with pytest.raises(ValueError, match="width must be a whole number >= 1"):
        ConvAutoencoder(GRAY, 5, width=0)


@pytest.mark.parametrize("build", [partial(PCA, GRAY, 5), FULL, CONVOLUTIONAL], ids=["PCA", "full", "convolutional"])
def test_images_of_another_shape_are_refused(build):
    network = build()
    for shape in ((1, 28, 27), (3, 28, 28), (1, 14, 56)):
        with pytest.raises(ValueError, match=r"x must be \(N, 1, 28, 28\), not .*\(2, "):
            network(images(2, shape))
    with pytest.raises(ValueError, match="add the batch dimension"):
        network(images(1, GRAY)[0])


# noise, down-sampling, JPEG


def test_noise_is_uniform_and_its_own_for_each_value():
    x = torch.full((50, 3, 20, 20), 0.5)
    noise = (UniformNoise(0.2)(x) - x) / 0.2
    assert -1 <= noise.min() < -0.999 and 0.999 < noise.max() <= 1
    counts = torch.histc(noise, bins=10, min=-1, max=1) / noise.numel()
    assert (counts - 0.1).abs().max() < 6 * (0.09 / noise.numel()) ** 0.5
    for a, b in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1]), (noise[..., 1:], noise[..., :-1])):
        assert abs((a * b).mean()) < 0.01


def test_noise_is_drawn_anew_in_evaluation_mode_and_repeats_by_its_generator():
    x = images()
    free = UniformNoise(0.1).eval()
    assert not torch.equal(free(x), free(x))
    seeded = UniformNoise(0.1, torch.Generator().manual_seed(3)).eval()
    before = torch.get_rng_state()
    first, second = seeded(x), seeded(x)
    assert torch.equal(before, torch.get_rng_state()), "the global generator is left alone"
    assert not torch.equal(first, second)
    again = UniformNoise(0.1, torch.Generator().manual_seed(3))
    assert torch.equal(again(x), first) and torch.equal(again(x), second)


def test_noise_is_clamped_and_none_changes_nothing():
    x = images().round()
    noisy = UniformNoise(0.5)(x)
    assert noisy.min() == 0 and noisy.max() == 1 and not torch.equal(noisy, x)
    assert torch.equal(UniformNoise(0)(x), x)
    for amount in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="amount must be a finite number >= 0"):
            UniformNoise(amount)


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.75, 1.0])
def test_down_sampling_leaves_constant_images_alone(share):
    x = images(9, (3, 1, 1)).expand(-1, -1, 28, 32)
    torch.testing.assert_close(DownSample(share)(x), x)


def test_down_sampling_removes_fine_detail_and_keeps_coarse():
    fine = torch.zeros(1, 1, 32, 32)
    fine[..., ::2] = 1
    torch.testing.assert_close(DownSample(0.5)(fine)[..., 4:-4], torch.full((1, 1, 32, 24), 0.5))
    x = images(3, (3, 28, 20))
    torch.testing.assert_close(DownSample(1.0)(x), x)
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    torch.testing.assert_close(DownSample(0.5)(ramp)[..., 4:-4], ramp[..., 4:-4])
    roughness = [(DownSample(share)(x) - x).square().mean() for share in (0.75, 0.5, 0.25)]
    assert 0 < roughness[0] < roughness[1] < roughness[2]
    out = DownSample(0.3)(x)
    assert out.shape == x.shape and out.min() >= 0 and out.max() <= 1


def test_down_sampling_equals_pillows():
    """Pillow's own bilinear filter has the same antialiasing."""
    x = images(1, (1, 28, 20))
    small = Image.fromarray(x[0, 0].numpy()).resize((10, 14), Image.Resampling.BILINEAR)
    back = np.asarray(small.resize((20, 28), Image.Resampling.BILINEAR))
    torch.testing.assert_close(DownSample(0.5)(x)[0, 0], torch.from_numpy(back.copy()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("quality", [10, 95])
def test_jpeg_is_pillows(quality):
    x = images(2, (3, 20, 28)).requires_grad_()
    out = jpeg(x, quality)
    for mine, image in zip(out, x.detach(), strict=True):
        file = io.BytesIO()
        Image.fromarray((255 * image).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        assert torch.equal((255 * mine).round().byte().permute(1, 2, 0), torch.from_numpy(np.array(Image.open(file))))
    assert out.dtype == x.dtype and not out.requires_grad
    assert jpeg(x[:0]).shape == (0, 3, 20, 28) and jpeg(x.double()).dtype == torch.float64


def test_jpeg_keeps_smooth_images_and_takes_more_at_lower_quality():
    smooth = nn.functional.interpolate(images(2, (3, 4, 4)), 64, mode="bilinear")
    errors = [(jpeg(smooth, quality) - smooth).abs().mean() for quality in (95, 50, 5)]
    assert errors[0] < 0.02 and errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize(
    ("shape", "quality"), [((1, 8, 8), 95), ((4, 8, 8), 95), ((8, 8), 95), ((3, 8, 8), 0), ((3, 8, 8), 101)], ids=str
)
def test_jpeg_refuses_what_it_cannot_store(shape, quality):
    with pytest.raises(ValueError, match=r"a quality from 1 to 100 are wanted|must be images \(N, C, H, W\)"):
        jpeg(images(2, shape), quality)


# gradients, and attacks through purifiers


@pytest.mark.parametrize(
    "build",
    [lambda: PCA.fit(correlated(20), 0.9), lambda: Autoencoder(SHAPE, 6), lambda: DownSample(0.5)],
    ids=["PCA", "Autoencoder", "DownSample"],
)
def test_the_gradient_is_exact(build):
    x = correlated(2)
    assert torch.autograd.gradcheck(build().double().eval(), x.requires_grad_())


def test_the_gradient_of_a_convolutional_autoencoder_is_exact():
    network = ConvAutoencoder((1, 14, 14), 49, width=2).double().eval()
    assert torch.autograd.gradcheck(network, images(1, (1, 14, 14), torch.float64).requires_grad_())


def test_the_gradient_of_noise_is_that_of_the_clamp():
    x = images(50).requires_grad_()
    out = UniformNoise(0.3)(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, ((out > 0) & (out < 1)).float()) and 0 < gradient.mean() < 1


@pytest.mark.parametrize(
    "f", [torch.round, partial(jpeg, quality=50), nn.Threshold(0.5, 0.0), lambda x: 1 - x], ids=["round", "jpeg", "module", "1-x"]
)
def test_straight_through_computes_f_and_passes_the_gradient_on(f):
    x, weights = images(2, (3, 16, 16)).requires_grad_(), torch.randn(2, 3, 16, 16)
    out = StraightThrough(f)(x)
    assert torch.equal(out, f(x)) and not torch.equal(out, x)
    (gradient,) = torch.autograd.grad((out * weights).sum(), x)
    assert torch.equal(gradient, weights)
    with pytest.raises(ValueError, match="f must keep the shape"):
        StraightThrough(lambda x: x[:1])(x)


def test_expectation_is_the_mean_softmax_of_a_loop():
    network = nn.Sequential(UniformNoise(0.3), models.mlp(60, (8,), 5)).eval()
    x = images()
    torch.manual_seed(5)
    out = Expectation(network, 6)(x)
    torch.manual_seed(5)
    loop = torch.stack([network(x).softmax(dim=1) for _ in range(6)])
    assert (loop[0] - loop[1]).abs().max() > 1e-3
    torch.testing.assert_close(out, loop.mean(dim=0).log())
    torch.testing.assert_close(out.exp().sum(dim=1), torch.ones(7))


def test_expectation_of_a_fixed_model_is_its_log_softmax_and_survives_saturation():
    network, x = models.mlp(60, (8,), 5), images()
    torch.testing.assert_close(Expectation(network, 4)(x), network(x).log_softmax(dim=1))
    with torch.no_grad():
        network[-1].weight.mul_(1e5)
    assert Expectation(network, 4)(x).isfinite().all()
    for draws in (0, -1):
        with pytest.raises(ValueError, match="draws must be a whole number >= 1"):
            Expectation(network, draws)


def test_a_purifier_before_a_network_is_a_network():
    data = Split("toy", images(20), torch.arange(20) % 5, tuple("abcde"))
    for purifier in (PCA.fit(data.images, 0.9), Autoencoder(SHAPE, 6), UniformNoise(0.1), DownSample(0.5)):
        network = nn.Sequential(purifier, models.mlp(60, (8,), 5)).eval()
        x = data.images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(x).sum(), x)
        assert network(x).shape == (20, 5) and gradient.abs().sum(dim=(1, 2, 3)).min() > 0
