"""What would decide an undecided verdict, and with what chance: more networks, more images, both, or nothing."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

FEWEST, MOST = 3, 30  # networks: with fewer there is no verdict, and more are not thought of
DRAWS, SEED = 2000, 0
MARGIN, SEEDS, IMAGES, BOTH = "on the margin", "seeds", "images", "both"
OUT_OF_REACH = ", out of reach"


@dataclass(frozen=True)
class Needed:
    """Why a verdict is undecided and what would decide it.

    reason : "on the margin", "seeds", "images", "both", or the larger term with ", out of reach"; "" where it is decided
    networks, images : how many would decide it if mean and spread persist; NaN where nothing would
    chance : that they do, over DRAWS futures; NaN where there is nothing to draw from
    """

    reason: str = ""
    networks: float = float("nan")
    images: float = float("nan")
    chance: float = float("nan")


def search(decided: Callable[[int, int], bool], n: int, images: int, at_hand: int, larger: str) -> Needed:
    """The least that decides: networks up to MOST, else images up to those at hand, else both, else nothing.

    decided : (networks, images) -> whether the verdict is decided with mean and spread held; the more, the sooner
    larger : the larger term of the uncertainty, "seeds" or "images", named where nothing is in reach
    """
    start = max(n, FEWEST)
    for more in range(start, MOST + 1):
        if decided(more, images):
            return Needed(SEEDS, more, images)
    if n >= FEWEST and at_hand > images and decided(n, at_hand):
        return Needed(IMAGES, n, _least(lambda count: decided(n, count), images, at_hand))
    if at_hand > images:
        for more in range(start, MOST + 1):
            if decided(more, at_hand):
                return Needed(BOTH, more, at_hand)
    return Needed(larger + OUT_OF_REACH)


def _least(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The least integer above `low` for which it holds; it holds for `high`."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def futures(values: np.ndarray, more: int, drift: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of k quantities once `more` networks have joined, in DRAWS futures: two (DRAWS, k).

    values : (n, k) of the networks at hand, n at least 2. The true variance is (n − 1) s² / χ²(n − 1), one draw for all k, the
    true mean ȳ + z σ / √n; the networks that join scatter as those at hand do, together. drift : standard deviation of what more
    images will change in each mean, (k,)
    """
    values = np.asarray(values, dtype=float)
    n, rng = len(values), np.random.default_rng(SEED)
    if n < 2:
        raise ValueError("one network says nothing of how networks scatter")
    rest = (values - values.mean(axis=0)) / np.sqrt(n - 1)  # z @ rest has the covariance of the networks
    scale = np.sqrt((n - 1) / rng.chisquare(n - 1, DRAWS))[:, None]
    true = values.mean(axis=0) + scale * (rng.standard_normal((DRAWS, n)) @ rest) / np.sqrt(n)
    joined = np.broadcast_to(values, (DRAWS, *values.shape))
    if more:
        new = true[:, None] + scale[:, None] * (rng.standard_normal((DRAWS, more, n)) @ rest)
        joined = np.concatenate([joined, new], axis=1)
    moved = drift * rng.standard_normal((DRAWS, values.shape[1]))
    return joined.mean(axis=1) + moved, joined.std(axis=1, ddof=1)
