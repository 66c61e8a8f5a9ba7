"""Glow is invertible and its density exact; its objective learns; the scores of the likelihood detectors."""

import copy
import io
import math
import zlib
from functools import partial

import pytest
import torch
from PIL import Image

from helpers.data import Split
from helpers.detectors.likelihood import Likelihood, LikelihoodComplexity, png_bits
from helpers.glow import LEAST_STD, Glow, Step, nll_objective
from helpers.training import fit

SHAPE = (3, 8, 8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=6, shape=SHAPE, dtype=torch.float32):
    return torch.rand(n, *shape, generator=generator(1), dtype=dtype)


def smooth(n=64, shape=SHAPE):
    """Images of few degrees of freedom: 2×2 values each, enlarged."""
    values = torch.rand(n, shape[0], 2, 2, generator=generator(2))
    return torch.nn.functional.interpolate(values, shape[1:], mode="bilinear")


def glow(shape=SHAPE, *, seed=0, noise=0.1, dtype=torch.float32, **sizes):
    """A flow whose zeros are noise, so that couplings and priors do something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = Glow(shape, **{"levels": 2, "depth": 2, "hidden": 8, **sizes}).to(dtype)
        with torch.no_grad():
            for weight in flow.parameters():
                weight += noise * torch.randn_like(weight)
    return flow


SIZES = [((1, 4, 4), 1, 1), ((1, 4, 4), 2, 2), ((3, 8, 8), 2, 2), ((2, 4, 8), 2, 1), ((3, 8, 8), 3, 1)]


@pytest.mark.parametrize(("shape", "levels", "depth"), SIZES, ids=str)
def test_decode_inverts_encode_and_encode_decode(shape, levels, depth):
    flow, x = glow(shape, levels=levels, depth=depth, dtype=torch.float64), images(5, shape, torch.float64)
    z, log_det = flow.encode(x)
    assert z.shape == (5, math.prod(shape)) and log_det.shape == (5,)
    assert (z - (x - 0.5).flatten(1)).abs().max() > 0.1  # no identity
    torch.testing.assert_close(flow.decode(z), x, rtol=0, atol=1e-10)
    torch.testing.assert_close(flow.encode(flow.decode(2 * z))[0], 2 * z, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("shape", "levels", "depth"), SIZES[:4], ids=str)
def test_log_det_is_that_of_the_jacobian(shape, levels, depth):
    flow, x = glow(shape, levels=levels, depth=depth, dtype=torch.float64), images(2, shape, torch.float64)
    values = math.prod(shape)
    for image, log_det in zip(x, flow.encode(x)[1], strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow.encode(v[None])[0][0], image).view(values, values)
        torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet)


def test_the_density_of_two_by_two_pixels_integrates_to_one():
    """By importance sampling: one level, one step, over all space, with a wide normal proposal."""
    flow = glow((1, 2, 2), levels=1, depth=1, dtype=torch.float64)
    proposal = torch.distributions.Normal(0.5, 1.5)
    x = 0.5 + 1.5 * torch.randn(200_000, 1, 2, 2, generator=generator(), dtype=torch.float64)
    with torch.no_grad():
        log_p = -4 * math.log(2) * (flow.bits(x) - math.log2(flow.bins))
    weights = (log_p - proposal.log_prob(x).sum(dim=(1, 2, 3))).exp()
    error = weights.std().item() / math.sqrt(len(x))
    assert error < 0.02 and abs(weights.mean().item() - 1) < 4 * error


@pytest.mark.parametrize("bins", [2, 32, 256])
def test_bits_are_the_papers_formula(bins):
    flow, x = glow(bins=bins, dtype=torch.float64), images(4, dtype=torch.float64)
    z, log_det = flow.encode(x)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=1) + log_det
    # −log2 of the mass of a cell of volume bins^−D, per dimension
    expected = -(log_p - 192 * math.log(bins)) / (192 * math.log(2))
    torch.testing.assert_close(flow.bits(x), expected)
    torch.testing.assert_close(flow(x), -expected)


def test_a_uniform_density_would_cost_log2_bins():
    """A flow that is linear: a step with a given matrix, against the multivariate normal with that matrix."""
    flow = Glow((1, 2, 2), levels=1, depth=1, hidden=4, bins=32).double()
    [step] = flow.levels[0]
    with torch.no_grad():
        step.shift.uniform_(-1, 1)
        step.log_scale.uniform_(-1, 1)
        step.mix.add_(0.3 * torch.randn(4, 4))
        step.net[-1].bias[:2] = 1e3  # the coupling's scales are then sigmoid(2 + LIMIT)
    scales = torch.tensor([1, 1, *[1 / (1 + math.exp(-6))] * 2], dtype=torch.float64)
    matrix = scales.diag() @ step.mix.detach() @ step.log_scale.detach().exp().diag()
    x = images(3, (1, 2, 2), torch.float64)
    inverse = matrix.inverse()
    normal = torch.distributions.MultivariateNormal(-step.shift.detach(), inverse @ inverse.T)
    expected = -normal.log_prob((x - 0.5).flatten(1)) / (4 * math.log(2)) + 5
    torch.testing.assert_close(flow.bits(x), expected)


def test_the_gradient_is_that_of_finite_differences_and_reaches_every_pixel():
    flow, x = glow(dtype=torch.float64), images(2, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(flow.bits(x).sum(), x)
    assert (gradient != 0).all()
    direction = torch.randn(x.shape, generator=generator(), dtype=torch.float64)
    with torch.no_grad():
        slope = (flow.bits(x + 1e-6 * direction) - flow.bits(x - 1e-6 * direction)) / 2e-6
    torch.testing.assert_close((gradient * direction).sum(dim=(1, 2, 3)), slope, rtol=1e-6, atol=1e-8)


def test_an_images_bits_do_not_depend_on_its_batch():
    flow, x = glow(), images(7)
    alone = torch.cat([flow.bits(image[None]) for image in x])
    torch.testing.assert_close(flow.bits(x), alone, rtol=1e-5, atol=1e-5)
    assert torch.equal(flow.bits(x), flow.bits(x))


def test_actnorm_starts_from_the_images():
    x = smooth(32) * 0.2 + 0.5
    flow = glow(noise=0)
    assert flow.initialise(x) is flow
    x = torch.nn.functional.pixel_unshuffle(x - 0.5, 2)
    for step in flow.levels[0]:
        normed = (x + step.shift.view(-1, 1, 1)) * step.log_scale.exp().view(-1, 1, 1)
        torch.testing.assert_close(normed.mean(dim=(0, 2, 3)), torch.zeros(12), rtol=0, atol=1e-4)
        torch.testing.assert_close(normed.var(dim=(0, 2, 3), correction=0), torch.ones(12), rtol=0, atol=1e-3)
        x, _ = step(x)
    again = glow(noise=0).initialise(smooth(32) * 0.2 + 0.5)
    assert all(torch.equal(a, b) for a, b in zip(flow.state_dict().values(), again.state_dict().values(), strict=True))


def test_channels_that_never_vary_are_not_stretched():
    flow = glow(noise=0).initialise(torch.full((4, *SHAPE), 0.25))
    assert flow.levels[0][0].log_scale.max().item() == pytest.approx(-math.log(LEAST_STD))
    assert flow.bits(images()).isfinite().all()


def odd_images(side):
    """Images that no camera takes: constant ones, checkerboards per channel, noise, single pixels."""
    i = torch.arange(side)
    boards = [((i[:, None] // a + i // b) % 2).float() for a in (1, 2, side // 2) for b in (1, 2, side // 2)]
    boards = torch.stack([torch.stack([boards[(j + s) % 9] for s in (0, 1, 3)]) for j in range(9)])
    constant = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, side, side)
    noise = torch.rand(4, 3, side, side, generator=generator())
    dot = torch.zeros(1, 3, side, side)
    dot[..., side // 2, side // 2] = 1
    return torch.cat([boards, 1 - boards, constant, noise, (noise < 0.5).float(), dot])


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_bits_and_gradient_stay_finite_whatever_the_image(noise):
    """Also with couplings far wilder than training makes them."""
    flow = glow((3, 16, 16), levels=3, depth=8, hidden=16, noise=0.0).initialise(smooth(32, (3, 16, 16)) * 0.1 + 0.4)
    with torch.no_grad():
        for module in flow.modules():
            if isinstance(module, Step):
                for weight in module.net.parameters():
                    weight += noise * torch.randn(weight.shape, generator=generator())
    x = odd_images(16).requires_grad_()
    bits = flow.bits(x)
    assert bits.isfinite().all() and torch.autograd.grad(bits.sum(), x)[0].isfinite().all()
    assert bits.detach().max() > bits.detach().min() + 1


def test_samples_are_images_and_decided_by_the_generator():
    flow = glow(noise=0.05)
    x = flow.sample(5, generator=generator())
    assert x.shape == (5, *SHAPE) and 0 <= x.min() < x.max() <= 1 and not x.requires_grad
    assert torch.equal(x, flow.sample(5, generator=generator())) and not torch.equal(x, flow.sample(5, generator=generator(1)))
    z = 0.3 * torch.randn(5, 192, generator=generator())
    torch.testing.assert_close(flow.sample(5, 0.3, generator()), flow.decode(z).clamp(0, 1).detach())
    mode = flow.sample(2, 0.0)
    assert torch.equal(mode[0], mode[1])


def learned(epochs=12, seed=0):
    x = smooth()
    flow = glow(noise=0, depth=1).initialise(x)
    data = Split("toy/train", x, torch.zeros(len(x), dtype=torch.int64), ("any",))
    adam = torch.optim.Adam
    history = fit(flow, data, nll_objective, epochs=epochs, lr=1e-2, batch_size=16, optimiser=adam, clip=1.0, seed=seed)
    return flow.eval(), [epoch["loss"] for epoch in history]


def test_training_lowers_the_bits_of_images_like_those_seen_and_not_of_noise():
    flow, losses = learned()
    untrained = glow(noise=0, depth=1).initialise(smooth())
    new, noise = smooth(96)[64:], images(32)
    assert losses[-1] < losses[0] - 0.5
    assert flow.bits(new).mean() < untrained.bits(new).mean() - 0.5
    assert flow.bits(noise).min() > flow.bits(new).max() + 1


def test_training_is_decided_by_the_seed_and_a_copy_holds_all_that_counts():
    (flow, losses), x = learned(2), images()
    again, same = learned(2)
    assert losses == same and torch.equal(flow.bits(x), again.bits(x))
    assert learned(2, seed=1)[1] != losses
    fresh = glow(seed=5, depth=1)
    assert not torch.allclose(fresh.bits(x), flow.bits(x))
    fresh.load_state_dict(copy.deepcopy(flow.state_dict()))
    assert torch.equal(fresh.bits(x), flow.bits(x))


@pytest.mark.parametrize("bins", [8, 32, 256])
def test_the_objective_spreads_each_grey_level_over_its_cell(bins):
    seen = []

    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bins = bins

        def forward(self, x):
            seen.append(x)
            return x.new_full((len(x),), -3.0)

    levels = torch.arange(256)
    x = (levels / 255).view(1, 1, 16, 16).repeat(200, 1, 1, 1)
    assert nll_objective(Spy(), x).item() == 3
    [noisy] = seen
    cells = (noisy.double() * bins).view(200, 256)
    assert noisy.min() >= 0 and noisy.max() <= 1
    assert torch.equal(cells.floor().clamp(max=bins - 1)[0], (levels * bins // 256).double())
    within = cells - levels * bins // 256
    assert 0 <= within.min() < 0.01 and 0.99 < within.max() <= 1 and within.mean().item() == pytest.approx(0.5, abs=0.01)


def test_the_objective_is_the_bits_but_for_the_noise():
    flow, x = glow(bins=256, noise=0.02), (255 * images(500)).round() / 255
    assert nll_objective(flow, x).item() == pytest.approx(flow.bits(x).mean().item(), abs=0.02)


# The detectors


def png_chunks(x):
    """Bits per dimension of one colour image as a PNG file made by hand: signature, header, best of the plain filters, end."""
    pixels = (255 * x).round().to(torch.uint8).permute(1, 2, 0)
    raw = b"".join(b"\0" + bytes(row.flatten().tolist()) for row in pixels)
    return 8 * (8 + 25 + 12 + len(zlib.compress(raw, 9)) + 12) / x.numel()


def test_png_bits_count_a_readable_file_and_tell_simple_from_complex():
    x = torch.cat([torch.full((1, 3, 32, 32), 0.4), smooth(1, (3, 32, 32)), images(1, (3, 32, 32))])
    bits = png_bits(x)
    assert bits.shape == (3,) and bits.dtype == torch.float32
    assert bits[0] < 0.5 < bits[1] < 6 and 8 < bits[2] < 8.5
    # A flat image and noise are not helped by filters, so that a file by hand is about as long
    assert bits[0].item() == pytest.approx(png_chunks(x[0]), abs=0.03)
    assert bits[2].item() == pytest.approx(png_chunks(x[2]), abs=0.03)
    torch.testing.assert_close(bits.flip(0), png_bits(x.flip(0)))
    file = io.BytesIO()
    Image.fromarray((255 * x[1]).round().byte().permute(1, 2, 0).numpy()).save(file, "PNG", optimize=True)
    assert bits[1].item() == pytest.approx(8 * len(file.getvalue()) / 3072)


def test_png_bits_of_grey_images_of_eight_bits():
    x = images(2, (1, 16, 16), torch.float64)
    assert (png_bits(x) < 1.1 * 8 + 8 * 70 / 256).all() and png_bits(x).dtype == torch.float64
    eight = (255 * x).round() / 255
    assert torch.equal(png_bits(x), png_bits(eight)) and torch.equal(png_bits(x), png_bits(eight + 0.4 / 255 * (eight < 0.9)))
    assert png_bits(x[:0]).shape == (0,)


def test_the_scores_are_the_papers():
    flow, x = glow(), images(4)
    plain, both = Likelihood(flow), LikelihoodComplexity(flow)
    torch.testing.assert_close(plain(x), -flow.bits(x))
    torch.testing.assert_close(both(x), -(flow.bits(x) - png_bits(x)))
    for detector in (plain, both):
        assert detector(x).shape == (4,) and torch.equal(detector.encode(x), detector(x)[:, None])
        assert {id(w) for w in detector.parameters()} == {id(w) for w in flow.parameters()}


def test_the_complexity_is_a_constant_to_the_gradient_but_not_to_the_score():
    flow = glow()
    gradients = []
    for detector in (Likelihood(flow), LikelihoodComplexity(flow)):
        x = images(3).requires_grad_()
        gradients.append(torch.autograd.grad(detector.encode(x).sum(), x)[0])
    assert torch.equal(*gradients) and gradients[0].abs().max() > 0
    both, flat = LikelihoodComplexity(flow), torch.full((1, *SHAPE), 0.5)
    moved = flat + 0.02 * images(1)
    change = both(moved) - both(flat)
    torch.testing.assert_close(change, png_bits(moved) - png_bits(flat) - flow.bits(moved) + flow.bits(flat))
    assert png_bits(moved) > png_bits(flat) + 1


BAD = [
    (partial(Glow, (3, 8)), "shape"),
    (partial(Glow, (3, 12, 8), levels=3), "divisible by 2\\^3"),
    (partial(Glow, (0, 8, 8)), "shape"),
    (partial(Glow, SHAPE, levels=0), "at least 1"),
    (partial(Glow, SHAPE, depth=0), "at least 1"),
    (partial(Glow, SHAPE, hidden=0), "at least 1"),
    (partial(Glow, SHAPE, bins=100), "power of two"),
    (lambda: glow().bits(images(2, (3, 8, 4))), r"x must be \(N, 3, 8, 8\)"),
    (lambda: glow().bits(images(2)[0]), r"not a tensor float32 \(3, 8, 8\)"),
    (lambda: glow().bits(images(0)), r"not a tensor float32 \(0, 3, 8, 8\)"),
    (lambda: glow().bits((255 * images(2)).byte()), "uint8"),
    (lambda: glow().bits(images(2) * torch.nan), "NaN or infinity"),
    (lambda: glow().bits(images(2) / 0), "NaN or infinity"),
    (lambda: nll_objective(glow(), images(2) * torch.nan), "NaN or infinity"),
    (lambda: nll_objective(glow(), images(2) / 0), "NaN or infinity"),
    (lambda: glow().decode(torch.zeros(2, 191)), r"\(N, 192\)"),
    (lambda: glow().initialise(images(1)), "must hold 2 samples or more"),
    (lambda: glow().initialise(images(2) + 0.5), r"\[0, 1\]"),
    (lambda: glow().initialise(images(2) * torch.nan), "NaN"),
    (lambda: glow().sample(0), "at least 1"),
    (lambda: glow().sample(1, -0.1), "temperature"),
    (lambda: glow().sample(1, math.nan), "temperature"),
    (lambda: png_bits(images(2, (2, 8, 8))), "1 or 3"),
    (lambda: png_bits(images(2) - 0.5), r"\[0, 1\]"),
    (lambda: png_bits(images(2) * torch.nan), "NaN"),
    (lambda: png_bits((255 * images(2)).byte()), "uint8"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_what_cannot_be_used_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
