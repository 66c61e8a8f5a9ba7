"""Losses against their formulas, at logits where a float32 softmax has long been 0 or 1."""

import pytest
import torch

from helpers.losses import check_labels, dlr_loss, log_odds, margin, others

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
