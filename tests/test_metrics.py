"""Accuracy, AUROC and evaluation mode: hand-made cases and what must not change a measurement."""

import numpy as np
import pytest
import torch
from torch import nn

from helpers.metrics import (
    accuracy,
    aupr,
    auroc,
    correct,
    eval_mode,
    fpr_at_tpr,
    in_batches,
    knn_auroc,
    misread,
    one_standard_error,
    outcomes,
    paired_auroc_se,
    predict,
)


def identity(x):
    return x


def recorded(sizes):
    def model(x):
        sizes.append(len(x))
        return x

    return model


def with_dropout_and_batch_norm(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3))


def samples(n=23, d=6, *, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


# accuracy


def test_accuracy_is_the_share_of_right_classes():
    logits = torch.tensor([[2.0, 1, 0], [0, 1, 2], [0, 3, 1], [5, 0, 0]])
    y = torch.tensor([0, 2, 0, 1])
    assert correct(identity, logits, y).tolist() == [True, True, False, False]
    assert accuracy(identity, logits, y) == 0.5


@pytest.mark.parametrize("row", [[torch.nan, 0, 0], [torch.nan, torch.nan, torch.nan], [9, torch.nan, 0]])
def test_nan_logits_are_no_prediction(row):
    """A network of NaN is right nowhere, which would be a perfect attack on it."""
    logits = torch.tensor([row, [1.0, 0, 0]])
    for measured in (correct, accuracy, outcomes, misread):
        with pytest.raises(ValueError, match="the model returned NaN for 1 of 2 samples"):
            measured(lambda x: logits, torch.zeros(2, 3), torch.tensor([0, 0]))


def test_accuracy_of_many_samples_is_exact():
    y = torch.zeros(100_003, dtype=torch.long)
    y[0] = 1
    assert accuracy(identity, torch.tensor([[1.0, 0.0]]).expand(len(y), 2), y) == 100_002 / 100_003


@pytest.mark.parametrize("batch_size", [1, 7, 23, 1000])
def test_the_batch_size_does_not_change_what_is_measured(batch_size):
    model, x = with_dropout_and_batch_norm().double(), samples().double()
    y = torch.arange(23) % 3
    torch.testing.assert_close(predict(model, x, batch_size=batch_size), predict(model, x), rtol=1e-12, atol=1e-12)
    assert torch.equal(correct(model, x, y, batch_size=batch_size), correct(model, x, y))


def test_batches_are_no_larger_than_asked_and_keep_their_order():
    sizes = []
    assert torch.equal(predict(recorded(sizes), samples(), batch_size=10), samples())
    assert sizes == [10, 10, 3]


@pytest.mark.parametrize(
    ("shape", "rows", "size"),
    [((1, 28, 28), 600, 250), ((3, 32, 32), 600, 250), ((10,), 600, 250), ((3, 224, 224), 45, 19), ((3, 299, 299), 25, 11),
     ((3, 400, 400), 23, 10)],
    ids=str,
)  # fmt: skip
def test_large_images_go_in_small_batches_and_small_ones_as_is_fast(shape, rows, size):
    """On a CPU. No more than three million values at once, nor fewer than ten images."""
    sizes, x = [], torch.zeros(1).expand(rows, *shape)
    assert in_batches(recorded(sizes), x).shape == x.shape
    assert sizes[:-1] == (rows // size) * [size] and sizes[-1] == rows % size
    sizes.clear()
    in_batches(recorded(sizes), x, batch_size=rows)
    assert sizes == [rows], "unless told otherwise"


def test_the_first_tensor_sets_the_size_of_batches():
    """Labels, or images, beside it are cut alike; nothing in it is no reason to stop."""
    sizes = []

    def f(x, y):
        sizes.append((len(x), len(y)))
        return y

    large, y = torch.zeros(1).expand(40, 3, 224, 224), torch.arange(40)
    assert torch.equal(in_batches(f, large, y), y) and sizes == [(19, 19), (19, 19), (2, 2)]
    sizes.clear()
    in_batches(lambda y, x: f(x, y), y, large)
    assert sizes == [(40, 40)]
    assert in_batches(lambda x: x, torch.zeros(0, 3, 224, 224)).shape == (0, 3, 224, 224)


def test_in_batches_slices_all_tensors_alike():
    a, b = torch.arange(5), 10 * torch.arange(5)
    assert in_batches(torch.add, a, b, batch_size=2).tolist() == [0, 11, 22, 33, 44]


def test_measuring_keeps_no_graph():
    model = with_dropout_and_batch_norm()
    assert not predict(model, samples()).requires_grad


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0).long(), "empty batch"),
        (torch.zeros(4, 3), torch.zeros(3).long(), r"of shape \(4,\), not a tensor int64 \(3,\)"),
        (torch.zeros(4, 3), torch.zeros(4, 1).long(), r"not a tensor int64 \(4, 1\)"),
        (torch.zeros(4, 3), torch.zeros(4), r"labels must be int64"),
    ],
    ids=["empty", "too few labels", "labels as a column", "labels as floats"],
)
def test_samples_that_cannot_be_judged_are_refused(x, y, message):
    for f in (correct, accuracy, outcomes):
        with pytest.raises(ValueError, match=message):
            f(identity, x, y)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(batch_size):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        predict(identity, samples(), batch_size=batch_size)


# accuracy, rejection, error

READ = torch.eye(4)[[0, 1, 3, 3, 2, 0, 3, 1]]  # logits whose classes these are
TRUE = torch.tensor([0, 1, 0, 1, 1, 2, 3, 0])


@pytest.mark.parametrize(
    ("reject", "expected"),
    [(3, [3, 2, 3]), (None, [3, 0, 5]), (2, [3, 1, 4]), (0, [3, 1, 4])],
)
def test_a_sample_is_read_rightly_or_rejected_or_misread(reject, expected):
    """One of the samples that class 3 claims belongs there."""
    shares = outcomes(identity, READ, TRUE, reject=reject)
    assert list(shares) == ["accuracy", "rejected", "error"]
    assert [8 * share for share in shares.values()] == expected
    assert shares["accuracy"] == accuracy(identity, READ, TRUE)


def test_the_three_shares_make_one_whatever_the_logits():
    logits, y = samples(997, 5), torch.arange(997) % 5
    for reject in (None, 0, 4):
        assert sum(outcomes(identity, logits, y, reject=reject).values()) == pytest.approx(1, abs=1e-12)


def test_outcomes_are_measured_in_batches_and_in_evaluation_mode():
    sizes, y = [], torch.arange(23) % 3
    expected = outcomes(identity, samples(d=3), y, reject=2)
    assert outcomes(recorded(sizes), samples(d=3), y, reject=2, batch_size=10) == expected and sizes == [10, 10, 3]
    model, x = with_dropout_and_batch_norm().train(), samples()
    shares = outcomes(model, x, y, reject=2)
    assert all(flags(model)) and outcomes(model.eval(), x, y, reject=2) == shares


# evaluation mode


def flags(model):
    return [m.training for m in model.modules()]


def test_eval_mode_puts_every_submodule_back_as_it_was():
    a, b = with_dropout_and_batch_norm(), nn.Dropout()
    a.train()
    a[1].eval()
    b.eval()
    before = flags(a), flags(b)
    with eval_mode(a, b, identity):
        assert not any(flags(a) + flags(b))
    assert (flags(a), flags(b)) == before
    with pytest.raises(ZeroDivisionError), eval_mode(a, b):
        raise ZeroDivisionError
    assert (flags(a), flags(b)) == before


def test_measuring_a_network_in_training_mode_neither_depends_on_it_nor_changes_it():
    model, x = with_dropout_and_batch_norm(), samples()
    y = torch.arange(len(x)) % 3
    model.eval()
    expected, expected_accuracy = predict(model, x), accuracy(model, x, y)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    assert torch.equal(predict(model, x), expected)
    assert accuracy(model, x, y) == expected_accuracy
    assert all(flags(model))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()), "running statistics moved"


# AUROC


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [
        ([2, 3], [0, 1], 1),
        ([0, 1], [2, 3], 0),
        ([1, 1], [1, 1, 1], 0.5),
        ([1, 3], [2], 0.5),
        ([2, 3], [1, 2], 3.5 / 4),
        ([5], [1, 2, 7], 2 / 3),
    ],
)
def test_auroc_by_hand(positive, negative, expected):
    assert auroc(positive, negative) == pytest.approx(expected, abs=1e-12)
    assert auroc(torch.tensor(positive), np.array(negative)) == pytest.approx(expected, abs=1e-12)


def test_auroc_counts_pairs():
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 8, 40) + 1, generator.integers(0, 8, 30)
    pairs = (a[:, None] > b) + 0.5 * (a[:, None] == b)
    assert auroc(a, b) == pytest.approx(pairs.mean(), abs=1e-12)


@pytest.mark.parametrize(
    ("positive", "negative"),
    [([], [1]), ([1], []), ([[1, 2]], [1]), ([1], [[1, 2]]), ([np.nan], [1]), ([1], [np.inf])],
    ids=["no positive", "no negative", "2-d positive", "2-d negative", "NaN", "infinity"],
)
def test_scores_that_cannot_be_compared_are_refused(positive, negative):
    for f in (auroc, fpr_at_tpr, aupr, paired_auroc_se):
        with pytest.raises(ValueError, match=rf"^{f.__name__} needs (two non-empty one-dimensional|finite scores)"):
            f(positive, negative)


@pytest.mark.parametrize(
    ("inside", "outside", "tpr", "expected"),
    [
        (range(1, 21), [0, 1, 2, 3], 0.95, 2 / 4),  # the threshold is 2, which 19 of 20 reach
        (range(1, 21), [0, 1, 2, 3], 1, 3 / 4),
        (range(1, 21), [0, 1, 2, 3], 0.951, 3 / 4),
        (range(1, 21), [19.5, 20, 20.5], 0.05, 2 / 3),
        (range(1, 21), [19.5, 20, 20.5], 0.01, 2 / 3),
        (range(1, 101), [45.5, 46, 46.5], 0.55, 2 / 3),  # 0.55 · 100 is 55.000000000000007
        ([5] * 10, [5, 5, 4], 0.95, 2 / 3),  # ties pass
        ([1, 2], [3], 0.95, 1),
        ([1, 2], [0], 0.95, 0),
    ],
)
def test_fpr_at_tpr_by_hand(inside, outside, tpr, expected):
    assert fpr_at_tpr(list(inside), outside, tpr) == pytest.approx(expected, abs=1e-12)
    assert fpr_at_tpr(torch.tensor(list(inside)).double(), np.array(outside), tpr) == pytest.approx(expected, abs=1e-12)


def test_fpr_at_tpr_is_the_best_point_of_the_curve_that_keeps_enough():
    from sklearn.metrics import roc_curve

    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 30, 70) + 5, generator.integers(0, 30, 90)
    for tpr in (0.1, 0.5, 0.8, 0.95):
        fprs, tprs, _ = roc_curve(np.r_[np.ones(70), np.zeros(90)], np.r_[a, b], drop_intermediate=False)
        assert fpr_at_tpr(a, b, tpr) == pytest.approx(fprs[tprs >= tpr - 1e-12].min(), abs=1e-12)


@pytest.mark.parametrize("tpr", [0, -0.1, 1.1, np.nan])
def test_fpr_at_tpr_refuses_a_share_that_is_none(tpr):
    with pytest.raises(ValueError, match="tpr must lie in"):
        fpr_at_tpr([1], [0], tpr)


@pytest.mark.parametrize(
    ("inside", "outside", "expected"),
    [([2, 3], [0, 1], 1), ([1, 1], [1, 1, 1], 2 / 5), ([3, 1], [2], (1 + 2 / 3) / 2), ([0], [1, 2, 3], 1 / 4)],
)
def test_aupr_by_hand(inside, outside, expected):
    assert aupr(inside, outside) == pytest.approx(expected, abs=1e-12)


def test_the_bootstrap_of_pairs_is_that_of_resampled_aurocs():
    generator = np.random.default_rng(3)
    a, b = generator.integers(0, 12, 40) + 2, generator.integers(0, 12, 40)
    drawn = np.random.default_rng(7).integers(0, 40, (50, 40))
    expected = np.std([auroc(a[i], b[i]) for i in drawn], ddof=1)
    assert paired_auroc_se(a, b, draws=50, seed=7) == pytest.approx(expected, abs=1e-12)
    assert paired_auroc_se(a, b, draws=50, seed=8) != paired_auroc_se(a, b, draws=50, seed=7)
    assert paired_auroc_se(a, b) == paired_auroc_se(a, b)


def test_the_error_of_pairs_is_right_and_less_where_they_move_together():
    """Beside the scatter of AUROC over many samples."""
    generator = np.random.default_rng(0)
    errors = []
    for shared in (0.0, 0.95):
        common, own = generator.normal(size=(300, 100)), generator.normal(size=(2, 300, 100))
        a, b = shared * common + np.sqrt(1 - shared**2) * own
        scatter = np.std([auroc(x, y) for x, y in zip(a, b, strict=True)], ddof=1)
        errors.append(np.mean([paired_auroc_se(x, y, draws=100) for x, y in zip(a[:30], b[:30], strict=True)]))
        assert errors[-1] == pytest.approx(scatter, rel=0.2)
    assert errors[1] < 0.5 * errors[0]
    assert paired_auroc_se([1.0, 2, 3], [1.0, 2, 3]) == 0, "each pair equal: half whatever is drawn"


@pytest.mark.parametrize(("inside", "outside", "draws"), [([1, 2], [1], 400), ([1], [1], 400), ([1, 2], [1, 2], 1)])
def test_the_bootstrap_of_pairs_needs_pairs(inside, outside, draws):
    with pytest.raises(ValueError, match="two pairs and two draws or more"):
        paired_auroc_se(inside, outside, draws)


def test_knn_auroc_tells_shifted_features_and_only_those():
    reference, clean = samples(300, 4, seed=1), samples(300, 4, seed=2)
    assert knn_auroc(reference, clean, samples(300, 4, seed=3, shift=6.0)) > 0.99
    assert knn_auroc(reference, clean, samples(300, 4, seed=3, shift=1.0)) > 0.6
    assert abs(knn_auroc(reference, clean, samples(300, 4, seed=3)) - 0.5) < 0.1


def test_knn_auroc_reads_the_kth_neighbour():
    """Beside two of five reference points, so near for k = 2 and far for k = 3."""
    reference = torch.tensor([[0.0], [0.1], [10.0], [10.1], [10.2]])
    clean, other = torch.tensor([[10.05]]), torch.tensor([[0.05]])
    assert knn_auroc(reference, clean, other, k=3) == 1
    assert knn_auroc(reference, torch.tensor([[10.5]]), other, k=2) == 0


@pytest.mark.parametrize("k", [0, -1, 6])
def test_knn_auroc_refuses_a_k_that_the_reference_cannot_serve(k):
    with pytest.raises(ValueError, match="between 1 and the 5 reference samples"):
        knn_auroc(samples(5), samples(4), samples(3), k=k)


# choice of a setting


@pytest.mark.parametrize(
    ("scores", "errors", "expected"),
    [
        ([0.90, 0.95, 0.96], [0.02, 0.02, 0.02], 1),
        ([0.90, 0.95, 0.96], [0.02, 0.02, 0.001], 2),
        ([0.90, 0.95, 0.96], [0.0, 0.0, 0.1], 0),
        ([0.99, 0.95, 0.96], [0.02, 0.02, 0.02], 0),
        ([0.90, 0.97, 0.96], [0.001, 0.001, 0.001], 1),
    ],
)
def test_one_standard_error_takes_the_mildest_setting_that_is_not_worse(scores, errors, expected):
    assert one_standard_error(scores, errors) == expected


@pytest.mark.parametrize("lengths", [(5, 1), (5, 4), (500, 10)])
def test_tensors_of_unequal_length_are_refused_before_anything_is_computed(lengths):
    with pytest.raises(ValueError, match="as many rows"):
        in_batches(lambda a, b: a + b, *(torch.zeros(n, 2) for n in lengths))
