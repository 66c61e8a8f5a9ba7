"""Losses against their formulas, at logits where a float32 softmax has long been 0 or 1."""

import pytest
import torch

from helpers.losses import check_labels, dlr_loss, least_likely, log_odds, margin, merge_reject, others

LOSSES = [log_odds, margin, dlr_loss]


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
        (2, [0, 0, 0], r"K >= 2, not \(3, 1\)"),
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
    with pytest.raises(ValueError, match=rf"from 1 to K, not .* and {classes}"):
        least_likely(torch.zeros(shape), classes=classes)


@pytest.mark.parametrize("f", [check_labels, *LOSSES])
@pytest.mark.parametrize(
    ("logits", "y", "message"),
    [
        pytest.param(torch.zeros(4), torch.zeros(4).long(), r"logits must be \(N, K\)", id="one dimension"),
        pytest.param(torch.zeros(4, 1), torch.zeros(4).long(), r"K >= 2, not \(4, 1\)", id="one class"),
        pytest.param(torch.zeros(4, 3, 1), torch.zeros(4).long(), r"logits must be \(N, K\)", id="three dimensions"),
        pytest.param(torch.zeros(4, 3), torch.zeros(3).long(), r"int64 of shape \(4,\), not torch.int64 \(3,\)", id="too few"),
        pytest.param(torch.zeros(4, 3), torch.zeros(4, 1).long(), r"not torch.int64 \(4, 1\)", id="a column"),
        pytest.param(torch.zeros(4, 3), torch.zeros(4), "labels must be int64 .* not torch.float32", id="float"),
        pytest.param(torch.zeros(4, 3), torch.zeros(4).int(), "labels must be int64 .* not torch.int32", id="int32"),
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
