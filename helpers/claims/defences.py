"""What stronger attacks leave of a defence's advantage.

A defence survives a suite of attacks at a budget, never all attacks; what was never there cannot be broken. Nothing that no
paper advertised has a verdict.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from helpers.claims.deciding import FEWEST, IMAGES, SEEDS, Needed, futures, search
from helpers.claims.deciding import MARGIN as ON_THE_MARGIN
from helpers.claims.printed import CAP, value
from helpers.claims.statistics import Estimate, binomial_variance, difference, estimate, normal, quantile, welch
from helpers.claims.terms import Bits

MARGIN = CAP["attack"]
NEVER, SURVIVES, BROKEN, UNDECIDED = "never there", "survives", "broken", "undecided"
NONE = "no verdict"
BEFORE, ATTACK = "before", "attack"  # what is undecided: whether there was an advantage, or whether the suite took it


@dataclass(frozen=True)
class Suite:
    """What is known of the attacks that a defence met.

    complete : whether all of the suite's attacks were run; doubled : by how much accuracy fell when their budget was doubled,
    None where it was not; flags : how many signs of masked gradients are up, None where nobody looked
    """

    complete: bool = False
    doubled: float | None = None
    flags: int | None = None

    @property
    def sufficient(self) -> bool:
        """Whether an advantage that it leaves has survived it."""
        return self.complete and self.doubled is not None and self.doubled < 0.005 and self.flags == 0


def survival(
    defended: Sequence[float],
    undefended: Sequence[float],
    advertised: float,
    *,
    images: int,
    at_hand: int | None = None,
    variance: float | None = None,
    before: Estimate | tuple | None = None,
    suite: Suite | None = None,
    bits: tuple[np.ndarray, np.ndarray] | None = None,
    substituted: bool = False,
    paired: bool = True,
) -> dict:
    """Whether a defence's advantage survives: worst case over all attacks per sample, of networks by seed.

    defended, undefended : robust accuracies under the suite, one per seed, in the same order
    advertised : the advantage that the paper prints. The margin M_s is 5 points, or half of what is advertised where that is less
    images, at_hand : of each rate, and the most that could be measured; by default as many
    variance : of the difference from the images; by default that of `bits`, (n, N) of both, else of two rates of `images` each
    before : Δ0, the advantage under our rerun of the paper's own attack: an `Estimate`, or (defended, undefended, images)
    suite : what is known of the attacks; without it nothing survives for sure
    substituted : whether another network or dataset took the place of the paper's
    paired : whether networks of one seed share initialisation, split and order of batches

    returns verdict (never there, survives, broken, undecided, no verdict), reason, Δ1 as advantage, low, high, Δ0 as before,
    before_low, before_high, margin, advertised, `left` (advantage / advertised), n, needed_networks, needed_images, chance
    """
    a, b = np.asarray(defended, dtype=float), np.asarray(undefended, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or not len(a) or not (np.isfinite(a) & np.isfinite(b)).all():
        raise ValueError("defended and undefended must be finite, not empty, and paired by seed")
    if variance is None and bits is not None:
        variance = difference(*bits, paired=paired).images
    if variance is None:
        variance = sum(binomial_variance(float(v.mean()), images) for v in (a, b))
    after, margin = over_seeds(a, b, variance, paired), margin_of_defence(advertised)
    before = before if before is None or isinstance(before, Estimate) else advantage(*before, paired=paired)
    verdict, reason = decide(before, after, margin, advertised, suite or Suite(), substituted)
    needed = Needed()
    if verdict == UNDECIDED and reason in ("", BEFORE) and before is not None:
        needed = what_would_decide(a - b, before, after, margin, images, max(images, at_hand or 0))
    low, high = after.interval()
    first = before.interval() if before else (np.nan, np.nan)
    return {
        "verdict": verdict, "reason": reason or needed.reason,
        "advantage": after.mean, "low": low, "high": high,
        "before": before.mean if before else np.nan, "before_low": first[0], "before_high": first[1],
        "margin": margin, "advertised": advertised,
        "left": after.mean / advertised if advertised else float("nan"), "n": len(a),
        "needed_networks": needed.networks, "needed_images": needed.images, "chance": needed.chance,
    }  # fmt: skip


def margin_of_defence(advertised: float) -> float:
    """M_s: 5 points, or half of what is advertised where that is less; a defence that keeps all of a small promise survives."""
    return min(MARGIN, advertised / 2) if advertised > 0 else MARGIN


def advantage(defended: Sequence[float], undefended: Sequence[float], images: int, *, paired: bool = True) -> Estimate:
    """The advantage over the undefended, with the error of two rates of that many images. paired : as of `survival`"""
    a, b = np.asarray(defended, dtype=float), np.asarray(undefended, dtype=float)
    return over_seeds(a, b, sum(binomial_variance(float(v.mean()), images) for v in (a, b)), paired, binomial=True)


def over_seeds(a: np.ndarray, b: np.ndarray, images: float, paired: bool, *, binomial: bool = False) -> Estimate:
    """The mean of a − b over seeds: of the pairs, or of two groups that each have their own spread."""
    return estimate(a - b, images, binomial=binomial) if paired else welch(a, b, images, binomial=binomial)


def decide(
    before: Estimate | None, after: Estimate, margin: float, advertised: float, suite: Suite, substituted: bool = False
) -> tuple[str, str]:
    """Verdict and reason: rules 1 to 4, in this order."""
    if advertised <= 0:
        return NONE, "nothing advertised"
    if substituted:
        return NONE, "substituted"
    if min(after.freedom, FEWEST if before is None else before.freedom) < FEWEST - 1:
        return NONE, f"fewer than {FEWEST} networks"
    if before is None:
        return UNDECIDED, BEFORE
    if before.interval()[1] < margin:
        return NEVER, ""
    if before.interval()[0] <= margin:
        return UNDECIDED, BEFORE
    low, high = after.interval()
    if low > margin:
        return (SURVIVES, "") if suite.sufficient else (UNDECIDED, ATTACK)
    return (BROKEN, "") if high < margin else (UNDECIDED, "")


def what_would_decide(values: np.ndarray, before: Estimate, after: Estimate, margin: float, images: int, at_hand: int) -> Needed:
    """The networks or images at which the intervals would clear the margin if mean and spread persist, and the chance.

    values : the advantages under the suite, (n,). Δ0 is decided by more networks; its chance is not drawn
    """
    n = len(values)

    def clear(mean, networks: float, sampled: float, more: int):
        half = np.sqrt(quantile(more - 1) ** 2 * networks / more + normal() ** 2 * sampled)
        return np.abs(np.asarray(mean) - margin) > half

    def decided(more: int, count: int) -> bool:
        there = clear(before.mean, before.networks * (before.freedom + 1), before.images, more) or before.interval()[0] > margin
        never = there and before.mean < margin
        return bool(never or (there and clear(after.mean, after.networks * n, after.images * images / count, more)))

    gap = abs(after.mean - margin)
    larger = SEEDS if quantile(n - 1) ** 2 * after.networks >= normal() ** 2 * after.images else IMAGES
    if gap < margin / 10:
        return Needed(ON_THE_MARGIN)
    needed = search(decided, n, images, at_hand, larger)
    if np.isnan(needed.networks):
        return needed
    sampled = after.images * images / needed.images
    means, spreads = futures(values[:, None], int(needed.networks) - n, np.sqrt(after.images - sampled))
    chance = clear(means[:, 0], spreads[:, 0] ** 2, sampled, int(needed.networks)).mean()
    return replace(needed, chance=float(chance))


def survivals(
    cells: pd.DataFrame,
    rows: pd.DataFrame,
    source: str,
    *,
    row_axis: str,
    undefended: str,
    advertised: str,
    metric: str,
    images: int,
    errors: bool = False,
    before: pd.DataFrame | None = None,
    before_images: int | None = None,
    bits: Bits | None = None,
    suites: Callable[[str], Suite] | None = None,
    **how,
) -> pd.DataFrame:
    """`survival` of every row but `undefended`; the advantage advertised is the paper's, in the column `advertised`.

    Where the paper prints no such number for a row, it advertises nothing.
    errors : whether that column counts errors, or successes of the adversary, so that less of it is better
    suites : row -> what is known of the attacks that it met
    before, before_images : rows of our rerun of the paper's own attack on the same networks, in which `advertised` is a metric,
        and on how many images; bits : which images withstood the suite, by row and metric; how : further arguments of `survival`
    """
    accuracy = rows.pivot_table(index="seed", columns=row_axis, values=metric)
    if accuracy.isna().any(axis=None):
        raise ValueError(f"{metric} lacks seeds for some networks: defended and undefended cannot be paired")
    first = None if before is None else before.pivot_table(index="seed", columns=row_axis, values=advertised).dropna()
    lines = []
    for row in (name for name in rows[row_axis].unique() if name != undefended):
        promise = _promise(cells, source, row, undefended, advertised)
        told = {**how, "suite": suites(row) if suites else None}
        if first is not None:
            pair = first[undefended], first[row]
            told["before"] = (*(pair if errors else pair[::-1]), before_images or images)
        if bits is not None:
            told["bits"] = _both(bits(row, metric), bits(undefended, metric), list(accuracy.index))
        result = survival(accuracy[row], accuracy[undefended], -promise if errors else promise, images=images, **told)
        lines.append({"row": row, "defended": accuracy[row].mean(), "undefended": accuracy[undefended].mean(), **result})
    return pd.DataFrame(lines)


def _promise(cells: pd.DataFrame, source: str, row: str, undefended: str, column: str) -> float:
    """By how much a printed number lies above that of the undefended; 0 where it is not printed."""
    try:
        return value(cells, source, row, column) - value(cells, source, undefended, column)
    except KeyError:
        return 0.0


def _both(first: dict | None, second: dict | None, seeds: list[int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Bits of both sides, (n, N) each; None where a network lacks them or saw other images."""
    if not first or not second or any(seed not in side for side in (first, second) for seed in seeds):
        return None
    if len({len(side[seed]) for side in (first, second) for seed in seeds}) > 1:
        return None
    return tuple(np.array([side[seed] for seed in seeds], dtype=float) for side in (first, second))
