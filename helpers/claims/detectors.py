"""What attacks leave of a detector: of what it had over guessing, on two scales, the AUROC and the FPR at 95 % TPR."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from helpers.claims.deciding import FEWEST
from helpers.claims.defences import BROKEN, MARGIN, NONE, SURVIVES, UNDECIDED
from helpers.claims.statistics import Estimate, auroc, binomial_variance, crossed, estimate, passing

NEVER_DETECTED = "never detected"
UNSURE, NO_FPR = "before any attack", "no FPR"  # why it is undecided: whether it detected anything, or what is not stored
SIDES = 50  # images a side, the fewest for a verdict on a detector
FALSE = 0.05  # FPR at 95 % TPR of a score that tells nothing is .95: what it has over guessing is 1 − FPR − .05


@dataclass(frozen=True)
class Detector:
    """What a detector has over guessing, on two scales: AUROC − .5 and (1 − FPR at 95 % TPR) − .05; None where not measured."""

    auroc: Estimate | None
    fpr: Estimate | None = None

    @property
    def scales(self) -> list[Estimate]:
        return [scale for scale in (self.auroc, self.fpr) if scale is not None]


def detector(
    inside: np.ndarray, outside: np.ndarray | Sequence[np.ndarray], clean: np.ndarray, *, matched: bool = False
) -> Detector:
    """Both scales from scores, higher being more in-distribution: of images inside (n, N_in) and outside (n, N_out).

    outside : of one attack, or a list of them, of which the highest score counts for each image: one AUROC of those, since the
        least of several noisy AUROCs is biased low
    clean : of at least 1,000 images inside that nobody attacked, (n, N), for the threshold; matched : as of `statistics.auroc`
    """
    several = np.asarray(outside, dtype=float)
    worst = several.max(axis=0) if several.ndim == 3 else several
    passed = crossed(passing(clean, worst))
    of_auroc = auroc(inside, worst, matched=matched)
    return Detector(replace(of_auroc, mean=of_auroc.mean - 0.5), replace(passed, mean=1 - passed.mean - FALSE))


def decide_detector(before: Detector, after: Detector, images: int, margin: float = MARGIN) -> tuple[str, str]:
    """Verdict and reason of a detector, by what it has over guessing before and after the attacks.

    never detected : less than the margin before any attack, on one scale; undecided : not surely more on both
    broken : less than the margin after the attacks on either scale, at level .9875; survives : more on both
    """
    if images < SIDES:
        return NONE, f"fewer than {SIDES} images"
    if min(s.freedom for s in [*before.scales, *after.scales]) < FEWEST - 1:
        return NONE, f"fewer than {FEWEST} networks"
    if any(s.interval()[1] < margin for s in before.scales):
        return NEVER_DETECTED, ""
    if any(s.interval()[0] <= margin for s in before.scales):
        return UNDECIDED, UNSURE
    if before.fpr is None:
        return UNDECIDED, NO_FPR
    if any(s.interval(0.975)[1] < margin for s in after.scales):  # an upper bound at .9875
        return BROKEN, ""
    if after.fpr is not None and all(s.interval()[0] > margin for s in after.scales):
        return SURVIVES, ""
    return UNDECIDED, "" if after.fpr is not None else NO_FPR


def detection(
    before: Sequence[float],
    after: Sequence[Sequence[float]],
    *,
    images: int,
    fpr_before: Sequence[float] | None = None,
    fpr_after: Sequence[Sequence[float]] | None = None,
) -> dict:
    """Whether a detector keeps what it had over guessing, where rows hold rates and no scores: else `detector` has more to say.

    before : AUROC before any attack, one per network
    after : the same after each of several attacks, (attacks, networks); network by network the one that leaves least counts
    fpr_before, fpr_after : FPR at 95 % TPR, alike; the largest counts. Without the first no detector has detected anything
    images : of each side

    returns the fields of `survival` on the scale of the AUROC, defended, undefended, and `fpr`, `fpr_before` as means
    """
    worst = _worst(before, after, np.min)
    first = Detector(_scale(before, 0.5, images), None if fpr_before is None else _scale(fpr_before, 1 - FALSE, images, -1))
    passed = None if fpr_after is None or fpr_before is None else _worst(fpr_before, fpr_after, np.max)
    last = Detector(_scale(worst, 0.5, images), None if passed is None else _scale(passed, 1 - FALSE, images, -1))
    verdict, reason = decide_detector(first, last, images)
    (low, high), had = last.auroc.interval(), first.auroc.mean
    return {
        "defended": float(worst.mean()), "undefended": 0.5, "verdict": verdict, "reason": reason,
        "advantage": last.auroc.mean, "low": max(low, -0.5) if np.isfinite(low) else low,
        "high": min(high, 0.5) if np.isfinite(high) else high, "before": had, "margin": MARGIN, "advertised": had,
        "left": last.auroc.mean / had if had > 0 else float("nan"), "n": len(worst),
        "fpr_before": np.nan if fpr_before is None else float(np.mean(fpr_before)),
        "fpr": np.nan if passed is None else float(passed.mean()),
        "needed_networks": np.nan, "needed_images": np.nan, "chance": np.nan,
    }  # fmt: skip


def _scale(rates: Sequence[float], guess: float, images: int, sign: int = 1) -> Estimate:
    rates = np.asarray(rates, dtype=float)
    return estimate(sign * (rates - guess), binomial_variance(float(rates.mean()), images), binomial=True)


def _worst(before, after, of) -> np.ndarray:
    before, after = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if after.ndim != 2 or before.shape != after.shape[1:]:
        raise ValueError(f"AUROC after is wanted by attack and network, for {before.shape} networks, not {after.shape}")
    return of(after, axis=0)
