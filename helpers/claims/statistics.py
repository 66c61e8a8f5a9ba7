"""Intervals of rates where networks and images are crossed: every network is measured on the same images.

One interval of the book is "± 95 % over networks": the half width `over_networks`, in which the images are held fixed. What a
verdict is drawn from has the sampling of the images in it too: `Estimate.half`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

CLEAN = 1000  # images that nobody attacked, the fewest that a threshold at 95 % TPR may be taken from


@dataclass(frozen=True)
class Estimate:
    """A mean over networks and what makes it uncertain.

    mean : of the networks
    networks : variance of that mean from the networks, s² / n; freedom : its degrees of freedom, 0 for one network
    images : variance of that mean from the sampling of images
    binomial : whether a binomial stands in for the bits of which images were right
    """

    mean: float
    networks: float
    freedom: float
    images: float
    binomial: bool = False

    def half(self, level: float = 0.95) -> float:
        """Half width of the interval of the mean at a confidence level; infinite for one network."""
        if self.freedom <= 0:
            return float("inf")
        return float(np.sqrt(quantile(self.freedom, level) ** 2 * self.networks + normal(level) ** 2 * self.images))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Lower and upper end of the interval of the mean."""
        return self.mean - self.half(level), self.mean + self.half(level)


@lru_cache(maxsize=4096)
def quantile(freedom: float, level: float = 0.95) -> float:
    """Student's t for a two-sided interval."""
    return float(stats.t.ppf((1 + level) / 2, freedom))


@lru_cache(maxsize=64)
def normal(level: float = 0.95) -> float:
    """The normal quantile for a two-sided interval: 1.96 at 95 %."""
    return 1.96 if level == 0.95 else float(stats.norm.ppf((1 + level) / 2))


def over_networks(values: Sequence[float]) -> float:
    """ "± 95 %": t(.975, n − 1) s / √n of one value per network, images held fixed; infinite for one network."""
    return estimate(values).half()


def interval(values: Sequence[float], variance: float = 0.0) -> tuple[float, float]:
    """95 % interval of the mean of one value per network, with a further variance of that mean. One network: infinite."""
    return estimate(values, variance).interval()


def estimate(values: Sequence[float], images: float = 0.0, *, binomial: bool = False) -> Estimate:
    """The mean of one value per network, (n,), with a given variance from the images. raises ValueError for none, or no number"""
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError("wanted is a non-empty sequence of finite numbers, one per network")
    n = len(values)
    networks = float(values.var(ddof=1)) / n if n > 1 else 0.0
    return Estimate(float(values.mean()), networks, n - 1, float(images), binomial)


def binomial_variance(rate: float, images: int) -> float:
    """Variance of a rate of that many images; a rate of 0 or 1 keeps one, as if one image more were right and one wrong."""
    p = (rate * images + 1) / (images + 2)
    return p * (1 - p) / images


def crossed(bits: np.ndarray) -> Estimate:
    """The mean of bits D (n networks, N images), with the variance of the images that all networks share.

    bits : which images were right, 0 or 1, or any number per image, such as the difference of two bits
    I = max(s_C²/N − MS_E/(nN), 2/N²), where s_C² is the variance of the images' means and MS_E the mean square of what is
    left once networks and images are taken out. raises ValueError for another shape, or fewer than 2 images
    """
    bits = _bits(bits)
    images = max(_shared(bits), 2 / bits.shape[1] ** 2)
    return estimate(bits.mean(axis=1), images)


def difference(first: np.ndarray, second: np.ndarray, *, paired: bool) -> Estimate:
    """The mean difference of two methods on the same images: bits (n_A, N) and (n_B, N).

    paired : whether network i of both shares initialisation, split and order of batches; else Welch's degrees of freedom hold
    raises ValueError for different images, or different numbers of networks that are called paired
    """
    first, second = _bits(first), _bits(second)
    if first.shape[1] != second.shape[1] or (paired and len(first) != len(second)):
        raise ValueError(f"bits of the same images are wanted, paired ones of as many networks: {first.shape}, {second.shape}")
    if paired:
        return crossed(first - second)
    count = first.shape[1]
    images = (first.mean(axis=0) - second.mean(axis=0)).var(ddof=1) / count
    images -= (_residual(first) / len(first) + _residual(second) / len(second)) / count
    return welch(first.mean(axis=1), second.mean(axis=1), max(images, 2 / count**2))


def welch(first: Sequence[float], second: Sequence[float], images: float = 0.0, *, binomial: bool = False) -> Estimate:
    """The difference of the means of two groups of networks that are not paired, each with its own spread."""
    a, b = estimate(first), estimate(second)
    networks = a.networks + b.networks
    if min(a.freedom, b.freedom) < 1:
        freedom = 0.0
    elif networks == 0:
        freedom = a.freedom + b.freedom
    else:
        freedom = networks**2 / (a.networks**2 / a.freedom + b.networks**2 / b.freedom)
    return Estimate(a.mean - b.mean, networks, freedom, float(images), binomial)


def placements(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Placement values of a detector's scores, higher being more in-distribution: (N_in,) and (N_out,).

    That of an image inside is the share of those outside which score lower, a tie counting half; that of an image outside the
    share of those inside which score higher. Both have the AUROC as their mean.
    """
    inside, outside = (np.asarray(side, dtype=float) for side in (inside, outside))
    if inside.ndim != 1 or outside.ndim != 1 or not len(inside) or not len(outside):
        raise ValueError(f"scores of one network are wanted, (N_in,) and (N_out,), not {inside.shape} and {outside.shape}")
    below = [np.searchsorted(np.sort(outside), inside, side) for side in ("left", "right")]
    above = [np.searchsorted(np.sort(inside), outside, side) for side in ("left", "right")]
    return (below[0] + below[1]) / 2 / len(outside), 1 - (above[0] + above[1]) / 2 / len(inside)


def auroc(inside: np.ndarray, outside: np.ndarray, *, matched: bool = False) -> Estimate:
    """The AUROC of scores (n, N_in) and (n, N_out): placements averaged over networks, then DeLong's variance.

    matched : whether image j outside was made from image j inside, so that both are drawn together
    """
    return of_placements(_placed(inside, outside), matched=matched)


def auroc_difference(first: tuple, second: tuple, *, matched: bool = False) -> Estimate:
    """AUROC of `first` minus that of `second`, each (inside, outside) of the same images and networks: placements subtracted."""
    a, b = _placed(*first), _placed(*second)
    if any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
        raise ValueError("the AUROCs must be of the same networks and images")
    return of_placements(tuple(x - y for x, y in zip(a, b, strict=True)), matched=matched)


def of_placements(placed: tuple[np.ndarray, np.ndarray], *, matched: bool = False) -> Estimate:
    """The estimate of placements (n, N_in) and (n, N_out), or of differences of placements."""
    inside, outside = (side.mean(axis=0) for side in placed)
    if matched:
        if len(inside) != len(outside):
            raise ValueError("matched images are as many inside as outside")
        images = (inside + outside).var(ddof=1) / len(inside)
    else:
        images = inside.var(ddof=1) / len(inside) + outside.var(ddof=1) / len(outside)
    return estimate(placed[0].mean(axis=1), max(images, 2 / min(len(inside), len(outside)) ** 2))


def passing(clean: np.ndarray, outside: np.ndarray, tpr: float = 0.95) -> np.ndarray:
    """Which images outside pass as inside at the threshold that a share `tpr` of clean images reaches: bits (n, N_out).

    clean : scores of images inside that nobody attacked, (n, at least 1,000); outside : (n, N_out). A score at the threshold
    passes. raises ValueError for fewer clean images
    """
    clean, outside = np.atleast_2d(np.asarray(clean, float)), np.atleast_2d(np.asarray(outside, float))
    if clean.shape[1] < CLEAN:
        raise ValueError(f"a threshold needs scores of at least {CLEAN:,} clean images, not {clean.shape[1]}")
    kept = int(np.ceil(tpr * clean.shape[1] - 1e-9))
    thresholds = np.sort(clean, axis=1)[:, -kept]
    return outside >= thresholds[:, None]


def _placed(inside, outside) -> tuple[np.ndarray, np.ndarray]:
    pairs = [placements(a, b) for a, b in zip(np.atleast_2d(inside), np.atleast_2d(outside), strict=True)]
    return tuple(np.array(side) for side in zip(*pairs, strict=True))


def _bits(bits) -> np.ndarray:
    bits = np.asarray(bits, dtype=float)
    if bits.ndim != 2 or bits.shape[0] < 1 or bits.shape[1] < 2 or not np.isfinite(bits).all():
        raise ValueError(f"bits are wanted as (networks, images), at least two images, not {bits.shape}")
    return bits


def _residual(bits: np.ndarray) -> float:
    """MS_E: the mean square of what networks and images leave; 0 for one network."""
    n, count = bits.shape
    left = bits - bits.mean(axis=1, keepdims=True) - bits.mean(axis=0) + bits.mean()
    return float((left**2).sum() / ((n - 1) * (count - 1))) if n > 1 else 0.0


def _shared(bits: np.ndarray) -> float:
    n, count = bits.shape
    return float(bits.mean(axis=0).var(ddof=1) / count - _residual(bits) / (n * count))
