"""The verdict on a printed number: agrees, differs, within spread, or undecided with its reason and what would decide it.

The rule takes noise for what it is: none of the three verdicts can be earned by it. It assumes that the paper's runs scatter as
ours do; where the paper prints one run, that cannot be checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from helpers.claims.deciding import FEWEST, IMAGES, MARGIN, SEEDS, Needed, futures, search
from helpers.claims.printed import CAP, margin_of, parse_number
from helpers.claims.statistics import Estimate, binomial_variance, estimate, normal, quantile

VERDICTS = ("agrees", "differs", "within spread", "undecided")
SAMPLINGS = ("same", "part", "other")


@dataclass(frozen=True)
class Case:
    """What a verdict is drawn from; rates as fractions.

    paper, margin, half_unit : the printed number, M, and half a unit of its last digit
    values : ours, one per network; averaged : the runs m that the printed number is the mean of
    per_image : variance of our mean from the images, times their number; 0 for the paper's own full test set
    theirs : variance of the printed number from images that are not ours
    images : ours; whole : the images that ours are a part of, infinite where they are a sample by themselves
    at_hand : the most images that could be measured
    """

    paper: float
    margin: float
    half_unit: float
    values: tuple[float, ...]
    averaged: int = 1
    per_image: float = 0.0
    theirs: float = 0.0
    images: int = 1
    whole: float = float("inf")
    at_hand: int = 1

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def spread(self) -> float:
        """s of the networks; 0 for one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0

    def own(self, images: int) -> float:
        """I_o with that many images."""
        return self.per_image / images * max(0.0, 1 - images / self.whole)


@dataclass(frozen=True)
class Verdict:
    """The verdict of a cell, one of VERDICTS, with what it was drawn from; rates as fractions."""

    verdict: str
    paper: float
    ours: float  # mean over the networks
    half: float  # "± 95 %" of ours: over networks, images held fixed
    difference: float  # d: ours − paper
    bound: float  # b_o: of our mean against the number as printed
    prediction: float  # b_p: of the mean of the paper's m runs
    rest: float  # b_∞: what no work of ours removes
    margin: float  # M
    least: float  # M + b_p: the least |d| that would have been called differs
    n: int  # independently trained networks
    reason: str  # of an undecided verdict, see `deciding.Needed`
    needed_networks: float
    needed_images: float
    chance: float
    sampling: str  # how the images' part was found: "bits", "binomial", "standard error", "none"


def bounds(case: Case, spread, n: int, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """b_o, b_p and b_∞ for a spread (a number, or an array of futures) of n networks on that many images."""
    spread, own = np.asarray(spread, dtype=float), case.own(images)
    t2 = quantile(n - 1) ** 2 if n > 1 else 0.0
    own_bound = np.sqrt(t2 * spread**2 / n + normal() ** 2 * own)
    prediction = np.sqrt(t2 * spread**2 * (1 / n + 1 / case.averaged) + normal() ** 2 * (own + case.theirs))
    rest = normal() * np.sqrt(spread**2 / case.averaged + case.theirs)
    return own_bound + case.half_unit, prediction + case.half_unit, rest + case.half_unit


def decide(case: Case, mean, spread, n: int, images: int) -> np.ndarray:
    """The index in VERDICTS, for a mean and a spread (numbers, or arrays of futures) of n networks."""
    away = np.abs(np.asarray(mean, dtype=float) - case.paper)
    own, prediction, rest = bounds(case, spread, n, images)
    if n < FEWEST:
        return np.full(away.shape, VERDICTS.index("undecided"))
    agrees, differs = away + own <= case.margin, away - prediction > case.margin
    within = (away - own > case.margin) & (away - rest <= case.margin)
    return np.select([agrees, differs, within], [0, 1, 2], 3)


def verdict_of(case: Case, sampling: str = "none") -> Verdict:
    """The verdict, with its reason and what would decide it where it is undecided."""
    n, mean, spread = len(case.values), case.mean, case.spread
    own, prediction, rest = (float(b) for b in bounds(case, spread, n, case.images))
    verdict = VERDICTS[int(decide(case, mean, spread, n, case.images))]
    needed = what_would_decide(case) if verdict == "undecided" else Needed()
    return Verdict(
        verdict, case.paper, mean, estimate(case.values).half(), mean - case.paper, own, prediction, rest,
        case.margin, case.margin + prediction, n,
        needed.reason, needed.networks, needed.images, needed.chance, sampling,
    )  # fmt: skip


def what_would_decide(case: Case) -> Needed:
    """The reason of an undecided verdict, the least that would decide it with mean and spread held, and its chance."""
    n, mean, spread = len(case.values), case.mean, case.spread
    gap = abs(case.margin - abs(mean - case.paper))
    if n == 1:  # nothing is known of the spread
        return Needed(SEEDS, FEWEST, case.images)
    if n >= FEWEST and (case.half_unit >= gap or gap < case.margin / 10):
        return Needed(MARGIN)
    t2 = quantile(n - 1) ** 2
    larger = SEEDS if t2 * spread**2 / n >= normal() ** 2 * case.own(case.images) else IMAGES
    needed = search(
        lambda more, images: VERDICTS[int(decide(case, mean, spread, more, images))] != "undecided",
        n, case.images, case.at_hand, larger,
    )  # fmt: skip
    return needed if np.isnan(needed.networks) else replace(needed, chance=chance(case, int(needed.networks), int(needed.images)))


def chance(case: Case, networks: int, images: int) -> float:
    """The share of futures with that many networks and images in which the verdict is decided."""
    drift = np.sqrt(max(0.0, case.per_image * (1 / case.images - 1 / images)))
    means, spreads = futures(np.array(case.values)[:, None], networks - len(case.values), drift)
    return float((decide(case, means[:, 0], spreads[:, 0], networks, images) != VERDICTS.index("undecided")).mean())


def judge(
    value: str,
    ours: Sequence[float],
    *,
    kind: str,
    unit: str = "fraction",
    averaged: int = 1,
    images: int | None = None,
    paper_images: int | None = None,
    sampling: str = "other",
    image_se: float | None = None,
    measured: Estimate | None = None,
    at_hand: int | None = None,
) -> Verdict:
    """The verdict of one printed number.

    value : text exactly as printed
    ours : one number per independently trained network, rates as fractions
    kind : "clean" or "attack" (rates), "drop" (of a rate below another, with its image_se), or "other", which is no rate and has
        no binomial error
    averaged : runs that the paper averaged
    images, paper_images, sampling : test images of each rate, ours and the paper's, and how they relate: the `same`, a `part` of
        the paper's, or `other` ones. Where the number of the paper's is not known, its sampling is left out
    image_se : standard error from our images where it is not binomial (bootstrap; paired for drops)
    measured : the estimate from bits or scores, `statistics.crossed` or `statistics.auroc`, whose variance from images counts
    at_hand : the most images that could be measured; by default the paper's where ours are a part of them, else ours
    raises ValueError for what cannot be judged
    """
    mean = estimate(ours).mean
    paper, half_unit = parse_number(value, unit)
    margin = margin_of(paper, kind, half_unit)
    if kind in CAP and (min(ours) < -(kind == "drop") or max(ours) > 1):
        raise ValueError(f"rates must be fractions in [0, 1], not {min(ours):g} to {max(ours):g}")
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling must be same, part or other, not {sampling!r}")
    if averaged < 1:
        raise ValueError(f"a printed number is the mean of at least one run, not of {averaged}")
    given = measured is not None or image_se is not None
    if kind in CAP and not (images and images > 0) and not (given and sampling != "part"):
        raise ValueError("a rate needs the number of test images that it was measured on")
    if sampling == "part" and kind in CAP and not (paper_images and paper_images > 0):
        raise ValueError("ours are a part of the paper's images: how many it has is wanted")
    count = images or 1
    if measured is not None:
        how, variance = "bits", measured.images
    elif image_se is not None:
        how, variance = "standard error", image_se**2
    elif kind in CAP:
        how, variance = "binomial", binomial_variance(mean, count)
    else:
        how, variance = "none", 0.0
    other = sampling == "other" and paper_images and how != "none" and images
    scaled = image_se is not None or kind == "drop"  # with our variance per image; else that of a rate such as ours
    theirs = (variance if scaled else binomial_variance(mean, count)) * count / paper_images if other else 0.0
    whole = float(paper_images) if sampling == "part" and paper_images else float("inf")
    case = Case(
        paper, margin, half_unit, tuple(float(v) for v in ours), averaged,
        0.0 if sampling == "same" else variance * count,
        theirs,
        count, whole, max(count, at_hand or (paper_images if sampling == "part" and paper_images else count)),
    )  # fmt: skip
    return verdict_of(case, how)
