"""Mixtures against torch's and scikit-learn's, CCU against its formula, and its bound against what is found in the ball."""

import math

import pytest
import sklearn.mixture
import torch
from torch import distributions, nn
from torch.nn.functional import cross_entropy

from helpers.mixtures import CCU, GaussianMixture, Whitening
from helpers.outliers import with_outliers

SHAPE = (1, 2, 3)


def clouds(n=300, seed=0, dtype=torch.float32):
    """Three clouds of images of different widths, that overlap."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(3, (n,), generator=generator)
    centres, widths = torch.tensor([0.2, 0.5, 0.7]), torch.tensor([0.05, 0.1, 0.2])
    noise = torch.randn(n, *SHAPE, generator=generator)
    return (centres[place].view(-1, 1, 1, 1) + widths[place].view(-1, 1, 1, 1) * noise).to(dtype)


def mixture(centres, widths, weights=None, dtype=torch.float64):
    """A mixture whose centres are grey images of these values, or these images."""
    made = GaussianMixture(SHAPE, len(widths)).to(dtype)
    centres = torch.as_tensor(centres, dtype=dtype)
    made.centres.copy_(centres.view(-1, 1, 1, 1).expand(-1, *SHAPE) if centres.ndim == 1 else centres)
    made.log_widths.copy_(torch.tensor(widths).log())
    made.log_weights.copy_(torch.tensor(weights or [1.0] * len(widths)).log())
    return made


class Sure(nn.Module):
    """A classifier that is always sure of a class, and of another one for darker images."""

    def forward(self, x):
        bright = 1e4 * (x.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([bright, -bright, -(bright**2)], dim=1)


def ccu(classifier=None, **options):
    inside = mixture([0.4, 0.6], [0.1, 0.2], [0.3, 0.7])
    return CCU(classifier or Sure(), inside, mixture([0.5, 0.3], [0.5, 0.4]), **options)


def linear(classes=3, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, classes)).double()


def test_the_density_is_torchs():
    made, x = mixture([0.1, 0.4, 0.9], [0.05, 0.3, 1.5], [0.2, 0.5, 0.3]), clouds(dtype=torch.float64)
    kinds = distributions.Independent(distributions.Normal(made.centres.flatten(1), made.log_widths.exp()[:, None]), 1)
    theirs = distributions.MixtureSameFamily(distributions.Categorical(logits=made.log_weights), kinds)
    torch.testing.assert_close(made.log_density(x), theirs.log_prob(x.flatten(1)), rtol=1e-10, atol=1e-10)
    shifted = mixture([0.1, 0.4, 0.9], [0.05, 0.3, 1.5], [2.0, 5.0, 3.0])
    torch.testing.assert_close(shifted.log_density(x), made.log_density(x))  # weights that do not sum to 1
    torch.testing.assert_close(made.log_density(x[:1]), made.log_density(x)[:1])


def test_the_density_has_its_gradient_and_is_exact_in_many_dimensions():
    made = mixture([0.1, 0.4], [0.1, 0.3])
    assert torch.autograd.gradcheck(made.log_density, clouds(4, dtype=torch.float64).requires_grad_())
    large = GaussianMixture((3, 32, 32), 1)
    large.centres.fill_(0.9)
    large.log_widths.fill_(math.log(0.01))
    x = torch.full((1, 3, 32, 32), 0.901)
    step = float(x[0, 0, 0, 0].double() - large.centres[0, 0, 0, 0].double())
    expected = 3072 * distributions.Normal(0.0, large.log_widths.double().exp().item()).log_prob(torch.tensor(step).double())
    assert large.log_density(x).item() == pytest.approx(expected.item(), rel=1e-7)  # float32 distances are 1e-3 off here


@pytest.mark.parametrize("steps", [1, 7])
def test_expectation_maximisation_is_scikit_learns(steps):
    x = clouds(dtype=torch.float64)
    first, last = (GaussianMixture.fit(x, 3, seed=0, steps=s, floor=1e-6) for s in (0, steps))
    theirs = sklearn.mixture.GaussianMixture(
        3, covariance_type="spherical", max_iter=steps, tol=0, reg_covar=0, means_init=first.centres.flatten(1).numpy(),
        weights_init=first.log_weights.exp().numpy(), precisions_init=(-2 * first.log_widths).exp().numpy(),
    )  # fmt: skip
    with pytest.warns(UserWarning, match="did not converge"):
        theirs.fit(x.flatten(1).numpy())
    torch.testing.assert_close(last.centres.flatten(1), torch.from_numpy(theirs.means_), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close((2 * last.log_widths).exp(), torch.from_numpy(theirs.covariances_), rtol=1e-6, atol=0)
    torch.testing.assert_close(last.log_weights.exp(), torch.from_numpy(theirs.weights_), rtol=1e-6, atol=0)
    torch.testing.assert_close(last.log_density(x), torch.from_numpy(theirs.score_samples(x.flatten(1).numpy())))


@pytest.mark.parametrize("shared", [False, True])
def test_each_step_makes_the_images_likelier_up_to_what_they_come_from(shared):
    x = clouds()
    fits = [GaussianMixture.fit(x, 3, seed=0, steps=s, shared=shared) for s in range(8)]
    likelihood = torch.stack([m.log_density(x).mean() for m in fits])
    assert (likelihood.diff() > -1e-6).all() and likelihood[-1] > likelihood[0] + 1e-4
    widths = fits[-1].log_widths.exp()
    assert (widths.max() - widths.min() == 0) if shared else (widths.max() > 2 * widths.min())
    if not shared:
        truth = mixture([0.2, 0.5, 0.7], [0.05, 0.1, 0.2], dtype=torch.float32)
        assert likelihood[-1] > truth.log_density(x).mean() - 0.02


def test_a_fit_is_decided_by_its_seed_and_of_the_images_type_and_blocks_change_nothing(monkeypatch):
    x, device = clouds(), torch.device("cpu")
    first, again, other = (GaussianMixture.fit(x, 8, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.centres, again.centres) and not torch.equal(first.centres, other.centres)
    assert {w.dtype for w in first.parameters()} == {torch.float32} and first.centres.device == device
    assert not any(w.requires_grad for w in first.parameters())
    monkeypatch.setattr("helpers.mixtures.BLOCK", 6 * 7)  # 7 images at a time
    torch.testing.assert_close(GaussianMixture.fit(x, 8, seed=1).centres, first.centres)


def test_a_component_of_one_image_has_the_floors_width_and_one_of_none_no_weight():
    lone = torch.cat([0.1 * clouds(50), torch.full((1, *SHAPE), 0.95)])
    fitted = GaussianMixture.fit(lone, 2, seed=0, floor=0.03)
    assert fitted.log_widths.exp().min().item() == pytest.approx(0.03)
    equal = GaussianMixture.fit(torch.full((9, *SHAPE), 0.5), 3, seed=0, floor=0.03)
    black = torch.zeros(1, *SHAPE)
    one = GaussianMixture.fit(torch.full((9, *SHAPE), 0.5), 1, seed=0, floor=0.03)
    torch.testing.assert_close(equal.log_density(black), one.log_density(black))
    x = torch.rand(2, *SHAPE, requires_grad=True)
    assert torch.autograd.grad(equal.log_density(x).sum(), x)[0].isfinite().all()


def test_ccu_is_the_papers_formula():
    for odds in (1.0, 0.2):
        model, x = ccu(linear(), odds=odds), clouds(dtype=torch.float64)
        inside, outside = model.inside.log_density(x).exp()[:, None], odds * model.outside.log_density(x).exp()[:, None]
        expected = (model.classifier(x).softmax(dim=1) * inside + outside / 3) / (inside + outside)
        torch.testing.assert_close(model(x).exp(), expected)
        torch.testing.assert_close(model.score(x), expected.amax(dim=1).log())
        torch.testing.assert_close(model.log_ratio(x).exp()[:, None], inside / outside * odds)
        torch.testing.assert_close(model.density(x), model.inside.log_density(x))
        torch.testing.assert_close(model.encode(x), model.classifier(x))
    assert torch.autograd.gradcheck(model, x[:3].clone().requires_grad_())


def test_ccu_is_the_classifier_at_the_data_and_uniform_far_from_them_without_overflow():
    model = CCU(linear(), mixture([0.5], [1e-3]), mixture([0.5], [1.0])).float()
    near, far = torch.full((1, *SHAPE), 0.5), torch.full((1, *SHAPE), 0.9)
    torch.testing.assert_close(model(near), model.classifier(near).log_softmax(dim=1), rtol=0, atol=1e-5)
    assert model(near).dtype == torch.float32
    torch.testing.assert_close(model(far), torch.full((1, 3), -math.log(3)))
    assert model.log_ratio(far).item() < -1e4
    logits = torch.autograd.grad(model(far.requires_grad_()).sum(), far)[0]
    assert logits.isfinite().all()


def test_ccus_objective_is_that_of_outliers_with_weight_one():
    model, x, z = ccu(linear()), clouds(5, dtype=torch.float64), clouds(1, seed=1, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1])
    expected = -model(x)[range(5), y].mean() - model(z).mean()
    torch.testing.assert_close(with_outliers(z, 1.0)(model, x, y), expected)
    torch.testing.assert_close(cross_entropy(model(x), y), -model(x)[range(5), y].mean())


def in_a_metric():
    """CCU in a metric that doubles one pixel's differences and leaves the others."""
    white = Whitening(SHAPE).double()
    white.matrix[0, 0] = 2.0
    model = ccu().double()
    return CCU(model.classifier, model.inside, model.outside, metric=white)


@pytest.mark.parametrize("make", [lambda: ccu().double(), in_a_metric], ids=["pixels", "metric"])
@pytest.mark.parametrize("radius", [0.05, 0.3, 1.0])
def test_no_image_in_the_ball_is_surer_than_the_bound(radius, make):
    model, x = make(), clouds(40, seed=3, dtype=torch.float64)
    x[20:] = 3 * x[20:] - 2  # some far from the data
    bound = model.certified_bound(x, radius)
    assert bound.shape == (40,) and ((bound >= 1 / 3) & (bound <= 1)).all()
    generator, most = torch.Generator().manual_seed(0), torch.zeros(40, dtype=torch.float64)
    centres = torch.cat([model.inside.centres, model.outside.centres])
    steps = [torch.randn(40, *SHAPE, generator=generator, dtype=torch.float64) for _ in range(200)]
    steps += [sign * (c - x) for c in centres for sign in (-1, 1)]  # towards each centre and away from it
    for step in steps:
        unit = step / step.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
        for share in (0.3, 1.0):
            most = most.maximum(model.score(x + share * radius * unit).exp())
    assert (most <= bound + 1e-9).all()
    if radius < 1:
        assert (bound[20:] < 0.9).any(), "a bound that says nothing would pass too"
        assert (bound - most < 0.3).any()


def test_the_bound_is_reached_at_radius_zero_and_grows_with_the_radius():
    model, x = ccu(odds=0.7).double(), clouds(30, dtype=torch.float64)
    torch.testing.assert_close(model.certified_bound(x, 0.0), model.score(x).exp())
    radii = torch.linspace(0, 2, 30, dtype=torch.float64)
    same = x[:1].expand(30, *SHAPE)
    bounds = model.certified_bound(same, radii)
    assert (bounds.diff() >= 0).all() and bounds[-1] > bounds[0]
    torch.testing.assert_close(bounds[7], model.certified_bound(x[:1], radii[7].item())[0])
    inside, outside = mixture([0.5], [0.2]), mixture([0.5], [0.4])
    direct = CCU(Sure(), inside, outside).certified_bound(torch.full((1, *SHAPE), 0.9, dtype=torch.float64), 0.25)
    distance = 0.4 * 6**0.5
    odds = (0.4 / 0.2) ** 6 * math.exp(-((distance - 0.25) ** 2) / (2 * 0.04) + (distance + 0.25) ** 2 / (2 * 0.16))
    assert direct.item() == pytest.approx((1 + 3 * odds) / (3 * (1 + odds)), rel=1e-6)


def test_far_from_the_data_the_widest_component_decides_and_a_floor_makes_it_the_outliers():
    inside = GaussianMixture.fit(clouds(), 3, seed=0, shared=True)
    widest, grey = inside.log_widths.exp().max().item(), 0.5 + 0.02 * (clouds(seed=1) - 0.5)
    far = torch.full((1, *SHAPE), 20.0)
    for floor, uniform in ((0.01, False), (1.1 * widest, True)):
        outside = GaussianMixture.fit(grey, 2, seed=0, floor=floor)
        model = CCU(Sure(), inside, outside)
        expected = 1 / 3 if uniform else 1.0
        assert model.score(far).exp().item() == pytest.approx(expected, abs=1e-6)
        assert model.certified_bound(far, 0.3).item() == pytest.approx(expected, abs=1e-6)


def test_bad_settings_are_refused():
    for wrong in [((2, 3), 1), ((1, 2, 0), 1), (SHAPE, 0)]:
        with pytest.raises(ValueError, match="a shape"):
            GaussianMixture(*wrong)
    x = clouds(5)
    for wrong in [{"components": 0}, {"components": 6}, {"components": 1, "steps": -1}, {"components": 1, "floor": 0.0}]:
        with pytest.raises(ValueError, match="components from 1 to the 5 images"):
            GaussianMixture.fit(x, **{"seed": 0, **wrong})
    for wrong in [x[0], x.long(), x * torch.nan]:
        with pytest.raises(ValueError, match=r"images (must be (images|a float tensor)|contains NaN)"):
            GaussianMixture.fit(wrong, 1, seed=0)
    with pytest.raises(ValueError, match=r"x must be \(N, 1, 2, 3\), not .*\(5, 1, 3, 2\)"):
        mixture([0.5], [1.0]).log_density(x.transpose(2, 3))
    with pytest.raises(ValueError, match="both mixtures must be of images of one shape"):
        CCU(Sure(), mixture([0.5], [1.0]), GaussianMixture((1, 2, 2), 1))
    for odds in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="odds must be finite and above 0"):
            ccu(odds=odds)
    for radius in (-0.1, math.nan, math.inf, torch.ones(4)):
        with pytest.raises(ValueError, match="radius must be a finite number"):
            ccu().certified_bound(x.double(), radius)
    with pytest.raises(ValueError, match="NaN or infinity: nothing is certified"):
        ccu().certified_bound(x.double() * math.nan, 0.1)


def test_whitening_gives_its_images_no_mean_and_the_identity_as_covariance():
    images = clouds(500, dtype=torch.float64) + torch.randn(500, 1, 1, 1).double()
    white = Whitening.fit(images)
    rows = white(images).flatten(1)
    torch.testing.assert_close(rows.mean(dim=0), torch.zeros(6).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.T @ rows / 500, torch.eye(6).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(white.matrix, white.matrix.T)


def test_a_variance_below_the_floor_counts_as_the_floor():
    images = torch.zeros(200, *SHAPE, dtype=torch.float64)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = torch.randn(2, 200).double() * torch.tensor([[1.0], [1e-3]]).double()
    across = Whitening.fit(images, floor=0.01)(images).flatten(1).std(dim=0, correction=0)
    assert across[0].item() == pytest.approx(1, abs=1e-4)
    assert across[1] < 0.02 and across[2:].max() < 1e-12  # divided by a tenth of the largest deviation, not by their own


def test_ccu_looks_at_images_in_its_metric():
    x = clouds(20, seed=3, dtype=torch.float64)
    white = Whitening.fit(clouds(400, dtype=torch.float64)).double()
    pair = [mixture([0.1, -0.3], [0.5, 1.0]), mixture([0.0], [2.0])]
    with_metric, plain = CCU(Sure(), *pair, metric=white), CCU(Sure(), *pair)
    torch.testing.assert_close(with_metric.log_ratio(x), plain.log_ratio(white(x)))
    torch.testing.assert_close(with_metric.density(x), plain.density(white(x)))
    stretched = 0.3 * torch.linalg.matrix_norm(white.matrix, 2)
    torch.testing.assert_close(with_metric.certified_bound(x, 0.3), plain.certified_bound(white(x), stretched))
    assert not torch.allclose(with_metric.log_ratio(x), plain.log_ratio(x))


@pytest.mark.parametrize(
    ("images", "floor", "message"),
    [
        (torch.rand(1, *SHAPE), 1e-6, "at least two"),
        (torch.rand(5, *SHAPE), 0.0, "floor"),
        (torch.full((5, *SHAPE), torch.nan), 1e-6, "finite"),
        (torch.ones(5, *SHAPE), 1e-6, "all equal"),
    ],
)
def test_what_cannot_be_whitened_is_refused(images, floor, message):
    with pytest.raises(ValueError, match=message):
        Whitening.fit(images, floor=floor)
    with pytest.raises(ValueError, match=r"x must be \(N, 1, 2, 3\)"):
        Whitening(SHAPE)(torch.rand(2, 3))
