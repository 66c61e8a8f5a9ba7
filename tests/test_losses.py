"""Losses against their formulas, at logits where a float32 softmax has long been 0 or 1."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from helpers.inputs import check_labels, check_shapes
from helpers.losses import (
    dlr_loss,
    entropy,
    hr_loss,
    hr_slope,
    hr_weights,
    least_likely,
    log_odds,
    margin,
    merge_reject,
    others,
    renyi_fit,
    uniform_cross_entropy,
)

LOSSES = [log_odds, margin, dlr_loss]
ALPHAS = [1, 1 + 1e-9, 1.0001, 1.6, 5, 50]


def random_logits(n=64, classes=5, *, seed=0, scale=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=generator, dtype=dtype)
    return logits, torch.randint(classes, (n,), generator=generator)


def alpha_y(logits, y):
    return logits.softmax(dim=1)[range(len(y)), y]


def gradient(f, logits, y):
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(f(logits, y).sum(), logits)[0]


def test_others_hides_exactly_the_entry_of_the_class():
    logits = torch.tensor([[3.0, -1.0, 2.0], [-5.0, -6.0, -7.0]])
    y = torch.tensor([0, 1])
    hidden = others(logits, y)
    assert hidden.tolist() == [[-torch.inf, -1, 2], [-5, -torch.inf, -7]]
    assert logits.tolist() == [[3, -1, 2], [-5, -6, -7]], "the argument was changed"
    assert hidden.softmax(dim=1)[range(2), y].tolist() == [0, 0]


@pytest.mark.parametrize("classes", [2, 5])
def test_log_odds_is_the_log_of_alpha_over_one_minus_alpha(classes):
    logits, y = random_logits(classes=classes)
    alpha = alpha_y(logits, y)
    torch.testing.assert_close(log_odds(logits, y), (alpha / (1 - alpha)).log(), rtol=1e-9, atol=1e-9)


def test_log_odds_of_two_classes_is_the_difference_of_the_logits():
    logits = torch.tensor([[2.5, -1.0], [2.5, -1.0]])
    assert log_odds(logits, torch.tensor([0, 1])).tolist() == [3.5, -3.5]


def test_the_gradient_of_log_odds_points_where_alpha_grows():
    logits, y = random_logits()
    a, b = gradient(log_odds, logits, y), gradient(alpha_y, logits, y)
    torch.testing.assert_close(a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("y", [0, 1, 2])
def test_log_odds_does_not_saturate(dtype, y):
    logits, y = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype), torch.tensor([y])
    assert (gradient(alpha_y, logits, y) == 0).all(), "this test wants logits where the softmax itself has no gradient"
    assert log_odds(logits, y).item() == [1e4, -2e4, -1e4][y]
    assert gradient(log_odds, logits, y).isfinite().all()
    assert gradient(log_odds, logits, y)[0, y].item() == 1
    assert gradient(log_odds, logits, y).sum().item() == pytest.approx(0, abs=1e-6)


def test_the_margin_is_positive_exactly_where_the_prediction_is_right():
    logits, y = random_logits(500)
    right = logits.argmax(dim=1) == y
    assert 0 < right.sum() < len(y)
    assert torch.equal(margin(logits, y) > 0, right)


def test_the_margin_is_measured_to_the_strongest_other_class():
    logits = torch.tensor([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0], [-3.0, -1.0, -2.0]])
    assert margin(logits, torch.tensor([0, 1, 1])).tolist() == [-3, 2, 1]


def test_dlr_loss_follows_its_formula():
    logits = torch.tensor([[1.0, 4.0, 2.0, 0.5]]).repeat(4, 1)
    # z sorted: 4, 2, 1, 0.5, so z_(1) - z_(3) = 3
    expected = [-(1 - 4) / 3, -(4 - 2) / 3, -(2 - 4) / 3, -(0.5 - 4) / 3]
    assert dlr_loss(logits, torch.arange(4)).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("classes", [3, 5])
def test_dlr_loss_is_unchanged_by_shift_and_scale_and_grows_toward_a_mistake(classes):
    logits, y = random_logits(classes=classes)
    torch.testing.assert_close(dlr_loss(1000 * logits - 7, y), dlr_loss(logits, y), rtol=1e-9, atol=1e-9)
    assert torch.equal(dlr_loss(logits, y) > 0, logits.argmax(dim=1) != y)


def test_dlr_loss_of_equal_logits_is_finite():
    assert dlr_loss(torch.zeros(1, 4), torch.tensor([2])).tolist() == [0]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_is_one_number_per_sample_that_no_other_sample_changes(loss):
    logits, y = random_logits(6)
    together = loss(logits, y)
    assert together.shape == (6,)
    assert together.dtype == logits.dtype
    alone = torch.cat([loss(logits[i : i + 1], y[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)


def test_the_reject_class_counts_for_the_true_class_and_for_no_other():
    logits = torch.tensor([[1.0, 4.0, 2.0, 3.0], [1.0, 4.0, 2.0, 0.0], [-1.0, -4.0, -2.0, -1.5]])
    before = logits.clone()
    assert merge_reject(logits, torch.tensor([0, 2, 1])).tolist() == [[3, 4, 2], [1, 4, 2], [-1, -1.5, -2]]
    assert torch.equal(logits, before), "the argument was changed"


def test_without_a_mistake_among_the_proper_classes_merged_logits_show_none():
    """The class that is read, if it is the reject class, is no mistake."""
    logits, y = random_logits(500, 6)
    y = y % 5
    read = logits.argmax(dim=1)
    merged = merge_reject(logits, y)
    assert merged.shape == (500, 5) and merged.dtype == logits.dtype
    assert (read == 5).sum() > 50
    assert torch.equal(merged.argmax(dim=1) != y, (read != y) & (read != 5))


def test_the_gradient_of_merged_logits_goes_to_the_higher_of_the_two():
    logits, y = torch.tensor([[1.0, 4.0, 3.0], [3.5, 4.0, 3.0]]), torch.tensor([0, 0])
    assert gradient(lambda z, y: margin(merge_reject(z, y), y), logits, y).tolist() == [[0, -1, 1], [1, -1, 0]]


@pytest.mark.parametrize(
    ("classes", "y", "message"),
    [
        (4, [0, 1, 3], "labels run from 0 to 3; the model has classes 0 to 2"),
        (4, [0, 1, 4], "labels run from 0 to 4; the model has classes 0 to 3"),
        (2, [0, 0, 0], r"two classes and a reject class"),
        (4, [0, 1], r"int64 of shape \(3,\)"),
    ],
    ids=["the reject class", "too high", "one proper class", "too few"],
)
def test_labels_that_merged_logits_cannot_have_are_refused(classes, y, message):
    with pytest.raises(ValueError, match=message):
        merge_reject(torch.zeros(3, classes), torch.tensor(y))


def test_the_least_likely_class_has_the_lowest_logit_of_those_allowed():
    logits = torch.tensor([[3.0, -1.0, 2.0, -9.0], [-5.0, -4.0, -6.0, 0.0]])
    assert least_likely(logits).tolist() == [3, 2]
    assert least_likely(logits, classes=3).tolist() == [1, 2]
    assert least_likely(logits, classes=1).tolist() == [0, 0]
    check_labels(logits, least_likely(logits))
    logits, _ = random_logits()
    assert torch.equal(least_likely(logits), logits.softmax(dim=1).min(dim=1).indices)


@pytest.mark.parametrize(("shape", "classes"), [((3, 4), 5), ((3, 4), -1), ((3, 4), 0), ((4,), 2), ((3, 4, 1), 2)], ids=str)
def test_the_least_likely_class_is_one_of_those_that_the_logits_have(shape, classes):
    with pytest.raises(ValueError, match=rf"from 1 to K, not .* and {classes}|logits must be"):
        least_likely(torch.zeros(shape), classes=classes)


def weights_at_2(logits, y):
    return hr_weights(logits, y, alpha=2)


MISSHAPEN = [
    pytest.param(torch.zeros(4), torch.zeros(4).long(), r"logits must be \(N, K\)", id="one dimension"),
    pytest.param(torch.zeros(4, 1), torch.zeros(4).long(), r"K >= 2, floats, not a tensor float32 \(4, 1\)", id="one class"),
    pytest.param(torch.zeros(4, 3, 1), torch.zeros(4).long(), r"logits must be \(N, K\)", id="three dimensions"),
    pytest.param(torch.zeros(4, 3), torch.zeros(3).long(), r"int64 of shape \(4,\), not a tensor int64 \(3,\)", id="too few"),
    pytest.param(torch.zeros(4, 3), torch.zeros(4, 1).long(), r"not a tensor int64 \(4, 1\)", id="a column"),
    pytest.param(torch.zeros(4, 3), torch.zeros(4), "labels must be int64 .* not a tensor float32", id="float"),
    pytest.param(torch.zeros(4, 3), torch.zeros(4).int(), "labels must be int64 .* not a tensor int32", id="int32"),
]


@pytest.mark.parametrize("f", [check_labels, *LOSSES, hr_slope, weights_at_2])
@pytest.mark.parametrize(
    ("logits", "y", "message"),
    [
        *MISSHAPEN,
        pytest.param(torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), "from 0 to 3; the model has classes 0 to 2", id="too high"),
        pytest.param(torch.zeros(4, 3), torch.tensor([0, 1, -1, 2]), "labels run from -1 to 2", id="negative"),
    ],
)
def test_labels_that_do_not_fit_are_named(f, logits, y, message):
    with pytest.raises(ValueError, match=message):
        f(logits, y)


def test_dlr_loss_refuses_two_classes():
    with pytest.raises(ValueError, match="at least 3 classes"):
        dlr_loss(torch.zeros(4, 2), torch.zeros(4).long())


# entropy and Rényi divergence of a batch


def at(f, alpha):
    return lambda logits, y: f(logits, y, alpha=alpha)


def saturated(gap, dtype=torch.float32):
    """Four images of which one is read wrong by `gap`, one right by `gap`, and two are in between."""
    logits = torch.tensor([[0, gap, -1], [gap, 1, 0], [0.5, 0, -0.5], [1, 3, 0.25]], dtype=dtype)
    return logits, torch.tensor([0, 0, 2, 1])


def test_the_entropy_is_that_of_the_probabilities():
    logits, _ = random_logits()
    p = logits.softmax(dim=1)
    torch.testing.assert_close(entropy(logits), -(p * p.log()).sum(dim=1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(entropy(torch.full((2, 8), 3.0)), torch.full((2,), math.log(8)))
    assert ((entropy(logits) > 0) & (entropy(logits) < math.log(5))).all()


@pytest.mark.parametrize("gap", [90, 300, 1e4])
def test_the_entropy_of_a_certain_prediction_is_zero_and_its_gradient_finite(gap):
    logits = torch.tensor([[0.0, gap, -1.0]], requires_grad=True)
    value = entropy(logits)
    assert value.item() == pytest.approx(0, abs=1e-30) and value.item() >= 0
    assert torch.autograd.grad(value.sum(), logits)[0].isfinite().all()


@pytest.mark.parametrize("shape", [(4,), (4, 3, 1)], ids=str)
def test_the_entropy_wants_one_row_of_logits_per_sample(shape):
    with pytest.raises(ValueError, match=r"logits must be \(N, K\)"):
        entropy(torch.zeros(shape))


@pytest.mark.parametrize("alpha", [1.01, 1.6, 5, 50])
@pytest.mark.parametrize("classes", [2, 5])
def test_hr_loss_follows_its_formula(classes, alpha):
    logits, y = random_logits(classes=classes)
    p = logits.softmax(dim=1).numpy()
    own = p[np.arange(len(y)), y.numpy()]
    fit = np.log(np.mean(own ** (1 - alpha))) / (alpha - 1)
    assert renyi_fit(logits, y, alpha=alpha).item() == pytest.approx(fit, rel=1e-10)
    assert hr_loss(logits, y, alpha=alpha).item() == pytest.approx(fit - np.mean((p * np.log(p)).sum(axis=1)), rel=1e-10)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("scale", [0.01, 3, 40])
def test_the_gradient_of_hr_loss_is_that_of_its_differences(alpha, scale):
    logits, y = random_logits(6, 4, scale=scale)
    assert torch.autograd.gradcheck(lambda z: hr_loss(z, y, alpha=alpha), logits.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [1, 1.0, 1 + 1e-12, 1 + 1e-6])
def test_next_to_alpha_one_hr_loss_is_cross_entropy_plus_entropy(alpha, dtype):
    logits, y = random_logits(dtype=dtype)
    limit = cross_entropy(logits, y)
    tolerance = {"rtol": 3e-5 if alpha > 1 + 1e-9 else 1e-6 if dtype == torch.float32 else 1e-10, "atol": 0.0}
    torch.testing.assert_close(renyi_fit(logits, y, alpha=alpha), limit, **tolerance)
    torch.testing.assert_close(hr_loss(logits, y, alpha=alpha), limit + entropy(logits).mean(), **tolerance)


@pytest.mark.parametrize("scale", [0.1, 3, 30])
@pytest.mark.parametrize("alpha", [1 + 1e-9, 1 + 1e-7, 1 + 1e-5, 1.001, 1.03, 1.3])
def test_next_to_alpha_one_float32_is_as_good_as_float64(alpha, scale):
    """log(mean(p^(1 − alpha))) / (alpha − 1) has no correct digit left in float32 for the smaller ones of these."""
    logits, y = random_logits(scale=scale, dtype=torch.float32)
    torch.testing.assert_close(
        renyi_fit(logits, y, alpha=alpha).double(), renyi_fit(logits.double(), y, alpha=alpha), rtol=2e-6, atol=0
    )
    a, b = gradient(at(hr_loss, alpha), logits, y), gradient(at(hr_loss, alpha), logits.double(), y)
    assert (a - b).norm() < 1e-5 * b.norm()


def test_next_to_alpha_one_the_second_order_is_half_the_variance():
    logits, y = random_logits()
    log_p = alpha_y(logits, y).log()
    rise = (renyi_fit(logits, y, alpha=1 + 1e-6) - renyi_fit(logits, y, alpha=1)) / 1e-6
    assert rise.item() == pytest.approx(log_p.var(correction=0).item() / 2, rel=1e-4)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("gap", [80, 87, 90, 103, 300, 1e4])
def test_hr_loss_is_exact_where_float32_knows_no_such_probability(gap, alpha):
    logits, y = saturated(gap)
    value, expected = hr_loss(logits, y, alpha=alpha), hr_loss(logits.double(), y, alpha=alpha)
    assert expected >= gap / 4
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    a, b = gradient(at(hr_loss, alpha), logits, y), gradient(at(hr_loss, alpha), logits.double(), y)
    assert a.isfinite().all() and (a - b).norm() < 1e-4 * b.norm()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_for_a_single_image_hr_loss_is_cross_entropy_plus_entropy_whatever_alpha(alpha):
    for logits, y in (random_logits(1), saturated(1e4, torch.float64)):
        for i in range(len(y)):
            z, label = logits[i : i + 1], y[i : i + 1]
            assert renyi_fit(z, label, alpha=alpha).item() == pytest.approx(cross_entropy(z, label).item(), rel=1e-12)
            expected = cross_entropy(z, label) + entropy(z)[0]
            assert hr_loss(z, label, alpha=alpha).item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_divergence_grows_with_alpha_from_the_cross_entropy_to_the_largest_term():
    logits, y = random_logits()
    terms = -alpha_y(logits, y).log()
    alphas = [1, 1 + 1e-6, 1.001, 1.01, 1.1, 1.2, 1.3, 1.5, 2, 5, 20, 100, 1e4, 1e8]
    values = [renyi_fit(logits, y, alpha=a).item() for a in alphas]
    assert values[0] == pytest.approx(terms.mean().item(), rel=1e-12)
    assert all(a < b for a, b in zip(values, values[1:], strict=False))
    for alpha, value in zip(alphas[1:], values[1:], strict=True):
        assert terms.max() - math.log(len(y)) / (alpha - 1) - 1e-6 <= value <= terms.max() + 1e-6
    assert values[-1] == pytest.approx(terms.max().item(), rel=1e-6)
    assert all(cross_entropy(logits, y) <= hr_loss(logits, y, alpha=a) for a in alphas)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_order_of_a_batch_and_a_shift_of_its_logits_change_nothing(alpha):
    logits, y = random_logits()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
    for f in (hr_loss, renyi_fit):
        expected = f(logits, y, alpha=alpha)
        assert expected.shape == () and expected.dtype == torch.float64
        torch.testing.assert_close(f(logits[order], y[order], alpha=alpha), expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(f(logits + 17, y, alpha=alpha), expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(f(torch.cat(2 * [logits]), torch.cat(2 * [y]), alpha=alpha), expected, rtol=1e-12, atol=0)
    weights = hr_weights(logits, y, alpha=alpha)
    torch.testing.assert_close(hr_weights(logits[order], y[order], alpha=alpha), weights[order], rtol=1e-12, atol=0)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_hr_loss_of_several_networks_at_once_is_that_of_each(alpha):
    batches = [random_logits(6, seed=seed, scale=scale) for seed, scale in ((0, 0.1), (1, 3), (2, 90))]
    logits, y = (torch.stack(v) for v in zip(*batches, strict=True))
    values = torch.func.vmap(at(hr_loss, alpha))(logits, y)
    torch.testing.assert_close(values, torch.stack([hr_loss(*b, alpha=alpha) for b in batches]), rtol=1e-12, atol=0)
    slopes = torch.func.vmap(torch.func.grad(at(hr_loss, alpha)))(logits, y)
    expected = torch.stack([gradient(at(hr_loss, alpha), *b) for b in batches])
    torch.testing.assert_close(slopes, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("f", [hr_loss, renyi_fit])
@pytest.mark.parametrize("alpha", [0.999, 0, -1, math.nan, math.inf, -math.inf])
def test_an_alpha_below_one_or_without_end_is_refused(f, alpha):
    with pytest.raises(ValueError, match=f"alpha must be a finite number >= 1, not {alpha}"):
        f(torch.zeros(4, 3), torch.zeros(4).long(), alpha=alpha)


@pytest.mark.parametrize("f", [check_shapes, at(hr_loss, 2), at(renyi_fit, 1)], ids=["check_shapes", "hr_loss", "renyi_fit"])
@pytest.mark.parametrize(
    ("logits", "y", "message"),
    MISSHAPEN,
)
def test_shapes_that_do_not_fit_are_named(f, logits, y, message):
    with pytest.raises(ValueError, match=message):
        f(logits, y)


def test_the_shapes_are_checked_without_a_look_at_the_labels():
    logits, y = torch.zeros(4, 3), torch.tensor([0, 1, -1, 3])
    check_shapes(logits, y)
    check_shapes(logits.to("meta"), y.to("meta"))
    with pytest.raises(ValueError, match="labels run from -1 to 3"):
        check_labels(logits, y)


# the gradient of an image's share, where it rounds to zero


def weighted(weight):
    return lambda logits, y: entropy(logits) + weight * cross_entropy(logits, y, reduction="none")


@pytest.mark.parametrize("weight", [1, 0, 0.1, 30.0, "one each"])
@pytest.mark.parametrize("classes", [2, 5])
def test_hr_slope_times_one_minus_p_is_the_gradient_of_entropy_plus_weighted_cross_entropy(classes, weight):
    logits, y = random_logits(classes=classes)
    if weight == "one each":
        weight = 5 * torch.rand(len(y), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slope, expected = gradient(lambda z, y: hr_slope(z, y, weight), logits, y), gradient(weighted(weight), logits, y)
    assert (torch.cosine_similarity(slope, expected, eps=1e-30) - 1).abs().max() < 1e-10
    torch.testing.assert_close(slope * (1 - alpha_y(logits, y))[:, None], expected, rtol=1e-9, atol=1e-12)


def test_hr_slope_weighs_the_cross_entropy_by_one_unless_told():
    logits, y = random_logits()
    assert torch.equal(hr_slope(logits, y), hr_slope(logits, y, 1.0))
    assert torch.equal(hr_slope(logits, y), hr_slope(logits, y, torch.ones(len(y))))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_with_hr_weights_hr_slope_has_the_direction_of_the_gradient_of_the_whole_batch(alpha):
    logits, y = random_logits()
    weights = hr_weights(logits, y, alpha=alpha)
    slope, expected = gradient(lambda z, y: hr_slope(z, y, weights), logits, y), gradient(at(hr_loss, alpha), logits, y)
    assert (torch.cosine_similarity(slope, expected, eps=1e-30) - 1).abs().max() < 1e-10
    torch.testing.assert_close(slope * (1 - alpha_y(logits, y))[:, None] / len(y), expected, rtol=1e-8, atol=1e-13)


def test_hr_slope_is_one_number_per_sample_that_no_other_sample_changes():
    logits, y = random_logits(6)
    together = hr_slope(logits, y, torch.arange(6))
    assert together.shape == (6,) and together.dtype == logits.dtype
    alone = torch.cat([hr_slope(logits[i : i + 1], y[i : i + 1], i) for i in range(6)])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weight", [0, 1, 20.0])
@pytest.mark.parametrize("gap", [12, 30, 90, 300])
def test_hr_slope_keeps_its_direction_where_the_gradient_itself_is_zero_in_float32(gap, weight):
    logits, y = torch.tensor([[gap, 0, 1, -2.0], [0, -1, gap, -0.5]]), torch.tensor([0, 2])
    if gap >= 90:
        assert (gradient(weighted(weight), logits, y).abs() < 1e-30).all(), "this test wants logits where softmax is 0 or 1"
    slope, expected = gradient(lambda z, y: hr_slope(z, y, weight), logits, y), gradient(weighted(weight), logits.double(), y)
    for i, own in enumerate(y.tolist()):
        wrong = [j for j in range(4) if j != own]
        a, b = slope[i, wrong].double(), expected[i, wrong]
        torch.testing.assert_close(a / a.norm(), b / b.norm(), rtol=1e-5, atol=1e-6)
        assert a.norm() > 1 and slope[i, own].item() == pytest.approx(-a.sum().item(), rel=1e-5)


@pytest.mark.parametrize("gap", [1, 12, 30, 90, 300])
def test_between_two_classes_hr_slope_points_where_log_odds_falls(gap):
    logits, y = torch.tensor([[gap, 0.0], [0.0, -gap]]), torch.tensor([0, 0])
    a, b = gradient(hr_slope, logits, y), gradient(log_odds, logits, y)
    torch.testing.assert_close(a / a.norm(dim=1, keepdim=True), -b / b.norm(dim=1, keepdim=True), rtol=1e-6, atol=0)


@pytest.mark.parametrize("gap", [30, 90, 1e4])
def test_hr_slope_of_an_image_that_is_read_wrong_is_the_gradient_itself(gap):
    logits, y = torch.tensor([[0, gap, -1.0]]), torch.tensor([0])
    slope = gradient(lambda z, y: hr_slope(z, y, 2.0), logits, y)
    torch.testing.assert_close(slope, gradient(weighted(2.0), logits, y), rtol=1e-5, atol=1e-10)
    assert slope[0].tolist() == pytest.approx([-2, 2, 0], abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [1, 1.6, 5])
def test_hr_weights_are_of_mean_one_and_go_to_those_that_are_read_wrong(alpha, dtype):
    logits, y = random_logits(dtype=dtype)
    weights, own = hr_weights(logits, y, alpha=alpha), alpha_y(logits, y)
    assert weights.shape == (64,) and weights.dtype == dtype
    assert weights.mean().item() == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(weights, own ** (1 - alpha) / (own ** (1 - alpha)).mean(), rtol=1e-4, atol=0)
    falling = weights[own.argsort()]
    if alpha == 1:
        torch.testing.assert_close(weights, torch.ones_like(weights))
    else:
        assert (falling[:-1] > falling[1:]).all()


def test_hr_weights_of_an_image_that_is_far_off_are_all_that_there_is():
    for gap in (90, 300, 1e4):
        torch.testing.assert_close(hr_weights(*saturated(gap), alpha=5), torch.tensor([4.0, 0, 0, 0]))


@pytest.mark.parametrize("alpha", [0.5, math.nan, math.inf])
def test_weights_of_an_order_that_the_loss_does_not_take_are_refused(alpha):
    with pytest.raises(ValueError, match="alpha must be a finite number >= 1"):
        hr_weights(torch.zeros(2, 3), torch.tensor([0, 1]), alpha=alpha)


def test_an_empty_batch_has_no_loss():
    with pytest.raises(ValueError, match="empty batch"):
        hr_loss(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), alpha=1.6)


def test_the_uniform_cross_entropy_is_minus_the_mean_log_probability_at_least_log_k():
    logits, _ = random_logits()
    torch.testing.assert_close(uniform_cross_entropy(logits), -logits.log_softmax(dim=1).mean(dim=1))
    torch.testing.assert_close(uniform_cross_entropy(logits + 7), uniform_cross_entropy(logits))
    soft = cross_entropy(logits, torch.full_like(logits, 1 / 5), reduction="none")
    torch.testing.assert_close(uniform_cross_entropy(logits), soft)
    assert (uniform_cross_entropy(logits) > math.log(5)).all()
    torch.testing.assert_close(uniform_cross_entropy(torch.full((2, 5), 3.0)), torch.full((2,), math.log(5)))
    assert uniform_cross_entropy(torch.tensor([[1e4, 0.0]])).item() == pytest.approx(5e3)  # where a float32 softmax is 1 and 0
    assert torch.autograd.gradcheck(uniform_cross_entropy, logits[:3].clone().requires_grad_())


def test_the_uniform_cross_entropy_of_what_are_no_logits_is_refused():
    with pytest.raises(ValueError, match=r"logits must be \(N, K\)"):
        uniform_cross_entropy(torch.zeros(3))
