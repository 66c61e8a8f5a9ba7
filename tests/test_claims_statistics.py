"""Intervals where networks and images are crossed: against variance components, other estimators, and simulation."""

import numpy as np
import pytest

from helpers.claims import statistics as st
from helpers.metrics import auroc, fpr_at_tpr


def world(n, images, rng, run=0.0, hard=0.15, base=0.8):
    """Bits (n, images) of networks that find the same images hard, each with its own luck."""
    p = base + run * rng.standard_normal((n, 1)) + hard * rng.standard_normal(images)
    return rng.random((n, images)) < np.clip(p, 0.02, 0.98)


def test_the_variance_of_shared_images_is_the_classical_component_of_a_crossed_design():
    bits = world(4, 400, np.random.default_rng(0)).astype(float)
    n, count = bits.shape
    total = ((bits - bits.mean()) ** 2).sum()
    of_networks = count * ((bits.mean(axis=1) - bits.mean()) ** 2).sum()
    of_images = n * ((bits.mean(axis=0) - bits.mean()) ** 2).sum()
    residual = (total - of_networks - of_images) / ((n - 1) * (count - 1))
    component = (of_images / (count - 1) - residual) / n  # ANOVA's estimate of σ_C²
    found = st.crossed(bits)
    assert found.images == pytest.approx(component / count) and found.mean == pytest.approx(bits.mean())
    assert found.networks == pytest.approx(bits.mean(axis=1).var(ddof=1) / n) and found.freedom == 3


def test_images_that_tell_nothing_keep_a_variance():
    assert st.crossed(np.ones((3, 50))).images == pytest.approx(2 / 50**2)
    assert st.crossed(np.ones((1, 50))).half() == np.inf, "one network"


@pytest.mark.parametrize(("n", "lowest"), [(3, 0.93), (10, 0.93)])
def test_the_interval_covers_what_it_should(n, lowest):
    rng, inside, draws = np.random.default_rng(1), 0, 400
    truth = 0.8
    for _ in range(draws):
        low, high = st.crossed(world(n, 150, rng, run=0.03, hard=0.1)).interval()
        inside += low <= truth <= high
    assert inside / draws >= lowest - 0.02


def test_pairing_by_image_and_network_is_narrower_and_unpaired_networks_are_welchs():
    rng = np.random.default_rng(2)
    first = world(5, 400, rng, run=0.05)
    second = first & (rng.random(first.shape) < 0.97)
    paired, apart = (st.difference(first, second, paired=p) for p in (True, False))
    assert paired.mean == pytest.approx(apart.mean) and paired.half() < apart.half()
    a, b = first.mean(axis=1), second.mean(axis=1)
    va, vb = a.var(ddof=1) / 5, b.var(ddof=1) / 5
    assert apart.networks == pytest.approx(va + vb)
    assert apart.freedom == pytest.approx((va + vb) ** 2 / (va**2 / 4 + vb**2 / 4))
    assert paired.images == pytest.approx(st.crossed(first.astype(float) - second).images)
    assert st.welch([0.5] * 3, [0.4] * 4).freedom == 5 and st.welch([0.5], [0.4] * 4).half() == np.inf


@pytest.mark.parametrize(("second", "paired"), [((3, 11), True), ((4, 10), True), ((3, 9), False)])
def test_bits_of_other_images_or_networks_are_not_subtracted(second, paired):
    with pytest.raises(ValueError, match="bits of the same images"):
        st.difference(np.zeros((3, 10)), np.zeros(second), paired=paired)


@pytest.mark.parametrize("bits", [np.zeros(5), np.zeros((3, 1)), np.full((3, 5), np.nan)])
def test_what_are_no_bits_is_refused(bits):
    with pytest.raises(ValueError, match="bits are wanted"):
        st.crossed(bits)


def test_placements_have_the_auroc_as_their_mean_and_ties_count_half():
    rng = np.random.default_rng(3)
    inside, outside = rng.integers(0, 9, 40).astype(float), rng.integers(0, 7, 30).astype(float)
    of_inside, of_outside = st.placements(inside, outside)
    assert of_inside.mean() == pytest.approx(auroc(inside, outside)) == of_outside.mean()
    assert of_inside[0] == pytest.approx((outside < inside[0]).mean() + (outside == inside[0]).mean() / 2)


def test_the_variance_of_an_auroc_is_delongs():
    """Of 3 inside {3, 2, 1} and 2 outside {2.5, 0}: placements inside 1, ½, ½; outside ⅓, 1."""
    found = st.auroc([[3.0, 2.0, 1.0]], [[2.5, 0.0]])
    assert found.mean == pytest.approx(2 / 3)
    assert found.images == pytest.approx(max(np.var([1, 0.5, 0.5], ddof=1) / 3 + np.var([1 / 3, 1], ddof=1) / 2, 2 / 4))


def test_the_variance_of_an_auroc_is_that_of_drawing_its_images_again():
    rng = np.random.default_rng(4)
    drawn = [st.auroc(rng.normal(1, 1, (1, 80)), rng.normal(0, 1, (1, 60))) for _ in range(300)]
    assert np.mean([d.images for d in drawn]) == pytest.approx(np.var([d.mean for d in drawn]), rel=0.2)


def test_matched_images_are_drawn_together():
    rng = np.random.default_rng(5)
    inside = rng.normal(0, 1, (1, 200))
    outside = inside + rng.normal(0, 0.05, (1, 200))  # copies of the same scores: AUROC .5 whatever the images
    assert st.auroc(inside, outside, matched=True).images < 0.1 * st.auroc(inside, outside).images


def test_differences_of_aurocs_subtract_placements_first():
    rng = np.random.default_rng(6)
    inside, outside = rng.normal(1, 1, (3, 500)), rng.normal(0, 1, (3, 500))
    nearly = outside + rng.normal(0, 0.05, outside.shape)
    difference = st.auroc_difference((inside, outside), (inside, nearly))
    both = st.auroc(inside, outside)
    assert difference.mean == pytest.approx(both.mean - st.auroc(inside, nearly).mean) and difference.images < 0.2 * both.images
    with pytest.raises(ValueError, match="same networks and images"):
        st.auroc_difference((inside, outside), (inside, nearly[:, :50]))


def test_a_threshold_comes_from_a_thousand_clean_images():
    rng = np.random.default_rng(7)
    clean, outside = rng.normal(0, 1, (2, 1000)), rng.normal(-1, 1, (2, 300))
    passed = st.passing(clean, outside)
    assert passed.mean(axis=1).tolist() == pytest.approx([fpr_at_tpr(clean[i], outside[i]) for i in range(2)])
    with pytest.raises(ValueError, match="at least 1,000 clean images"):
        st.passing(clean[:, :999], outside)


def test_the_one_interval_that_stands_behind_a_mean_is_over_networks():
    values = [0.1, 0.2, 0.4]
    assert st.over_networks(values) == pytest.approx(4.30265 * np.std(values, ddof=1) / np.sqrt(3), rel=1e-5)
    low, high = st.interval(values)
    assert (high - low) / 2 == pytest.approx(st.over_networks(values)) and st.over_networks([0.3]) == np.inf
    with pytest.raises(ValueError, match="finite numbers"):
        st.over_networks([])
