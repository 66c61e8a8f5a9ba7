"""The verdict on a sentence: each of its comparisons, and what its quantifier makes of them together.

`each` holds if every comparison is supported, and is contradicted if one is beyond its margin on the wrong side at level .05/k.
`overall` holds if the mean of all is supported, half of them are, and none can lie beyond the margin on the wrong side; it is
contradicted if the mean is. `some` holds if one is supported at level .05/k, and is contradicted if all are. Comparisons are
divided by their margins before they are averaged.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from helpers.claims.deciding import FEWEST, IMAGES, MARGIN, SEEDS, Needed, futures, search
from helpers.claims.printed import kind_of
from helpers.claims.statistics import normal, quantile
from helpers.claims.terms import Bits, Term, joined, terms

VERDICTS = ("holds", "contradicted", "in part", "undecided")
UNTESTED = "not tested"  # no run of ours tests what the sentence says


@dataclass(frozen=True)
class Statement:
    """A sentence as numbers: k comparisons, and after them their mean for each form, g of those.

    first, second : (n, k + g) one line per network; the other arrays are (k + g,). paired : whether first − second is taken
    network by network
    """

    quantifier: str
    first: np.ndarray
    second: np.ndarray
    constant: np.ndarray
    images: np.ndarray
    two_sided: np.ndarray
    tolerance: np.ndarray
    k: int
    paired: bool
    count: int  # of images

    @property
    def n(self) -> int:
        return len(self.first)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation over networks of every comparison and pooled form."""
        ddof = 1 if self.n > 1 else 0
        if self.paired:
            z = self.first - self.second
            return z.mean(axis=0) + self.constant, z.std(axis=0, ddof=ddof)
        mean = self.first.mean(axis=0) - self.second.mean(axis=0) + self.constant
        return mean, np.hypot(self.first.std(axis=0, ddof=ddof), self.second.std(axis=0, ddof=ddof))

    def freedom(self, n: int) -> np.ndarray:
        """Degrees of freedom with n networks a side: n − 1, or Welch's."""
        if self.paired or self.n < 2:
            return np.full(len(self.constant), n - 1.0)
        a, b = self.first.var(axis=0, ddof=1), self.second.var(axis=0, ddof=1)
        with np.errstate(invalid="ignore"):
            return (n - 1) * np.where(a + b > 0, (a + b) ** 2 / (a**2 + b**2), 2.0)

    def future(self, more: int, drift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`deciding.futures` of every comparison and pooled form."""
        if self.paired:
            mean, spread = futures(self.first - self.second, more, drift)
            return mean + self.constant, spread
        (a, of_a), (b, of_b) = futures(self.first, more, drift), futures(self.second[::-1], more)
        return a - b[::-1] + self.constant, np.hypot(of_a, of_b[::-1])


def statement(found: list[Term], quantifier: str, *, paired: bool, count: int) -> Statement:
    """Comparisons and their means by form as one `Statement`; the images are shared, so their variance does not average out."""
    forms = list(dict.fromkeys(t.form for t in found))
    groups = [[i] for i in range(len(found))] + [[i for i, t in enumerate(found) if t.form == form] for form in forms]

    def each(of) -> np.ndarray:
        values = [of(t) for t in found]
        return np.array([np.mean([values[i] for i in group], axis=0) for group in groups])

    return Statement(
        quantifier,
        each(lambda t: t.first).T,
        each(lambda t: t.second).T,
        each(lambda t: t.constant),
        each(lambda t: t.images),
        np.array([found[group[0]].two_sided for group in groups]),
        each(lambda t: t.tolerance),
        len(found),
        paired,
        count,
    )


def sides(s: Statement, mean: np.ndarray, spread: np.ndarray, n: int, images: int, level: float) -> tuple[np.ndarray, ...]:
    """Supported and contradicted, and whether it lies surely above −margin: three bool (..., k + g)."""
    t = np.array([quantile(f, level) for f in s.freedom(n)])
    half = np.sqrt(t**2 * spread**2 / n + normal(level) ** 2 * s.images * s.count / images)
    low, high = mean - half, mean + half
    supported = np.where(s.two_sided, (low >= -1) & (high <= 1), low > 0)
    contradicted = np.where(s.two_sided, (low > 1) | (high < -1), high < -s.tolerance)
    return supported, contradicted, np.where(s.two_sided, np.maximum(-low, high) < 2, low > -1)


def decide(s: Statement, mean: np.ndarray, spread: np.ndarray, n: int, images: int) -> np.ndarray:
    """The index in VERDICTS, for means and spreads (k + g,) of n networks, or arrays of futures (draws, k + g)."""
    if n < FEWEST:
        return np.full(mean.shape[:-1], VERDICTS.index("undecided"))
    supported, contradicted, above = sides(s, mean, spread, n, images, 0.95)
    sure, surely_not, _ = sides(s, mean, spread, n, images, 1 - 0.05 / s.k)
    each, pooled = np.s_[..., : s.k], np.s_[..., s.k :]
    if s.quantifier == "overall":
        holds = supported[pooled].all(-1) & (supported[each].mean(-1) >= 0.5) & above[each].all(-1)
        false = contradicted[pooled].any(-1)
    elif s.quantifier == "some":
        holds, false = sure[each].any(-1), contradicted[each].all(-1)
    else:
        holds, false = supported[each].all(-1), surely_not[each].any(-1)
    in_part = supported[each].any(-1) & contradicted[each].any(-1)
    return np.select([false, holds, in_part], [1, 0, 2], 3)


def what_would_decide(s: Statement, at_hand: int) -> Needed:
    """The reason of an undecided sentence, the least that would decide it with means and spreads held, and the chance."""
    mean, spread = s.moments()
    undecided = VERDICTS.index("undecided")
    if s.n == 1:
        return Needed(SEEDS, FEWEST, s.count)
    if decide(replace(s, images=0 * s.images), mean, 0 * spread, max(s.n, FEWEST), s.count) == undecided:
        return Needed(MARGIN)  # without any uncertainty it would be neither
    seeds, images = quantile(s.n - 1) ** 2 * spread**2 / s.n, normal() ** 2 * s.images
    larger = SEEDS if seeds[: s.k].mean() >= images[: s.k].mean() else IMAGES
    needed = search(
        lambda more, count: decide(s, mean, spread, more, count) != undecided, s.n, s.count, max(at_hand, s.count), larger
    )
    if np.isnan(needed.networks):
        return needed
    drift = np.sqrt(s.images * (1 - s.count / needed.images))
    verdicts = decide(s, *s.future(int(needed.networks) - s.n, drift), int(needed.networks), int(needed.images))
    return replace(needed, chance=float((verdicts != undecided).mean()))


def judge_sentence(
    predicate: str,
    cells: pd.DataFrame,
    rows: pd.DataFrame,
    *,
    row_axis: str,
    images: int,
    se: bool = False,
    quantifier: str = "each",
    paired: bool = True,
    bits: Bits | None = None,
    kinds: Callable[[str], str] | None = None,
    at_hand: int | None = None,
) -> dict:
    """The verdict of a sentence whose predicate compares cells "row/column", as `predicates.parse_predicate` reads it.

    A cell is one of the table's, or, where the paper only draws a curve, any metric of ours.
    images : of each rate; at_hand : the most that could be measured; by default as many
    se : whether `names.se(column)` is a cell's standard error from the images, where it is above 0
    paired : whether networks of one seed share initialisation, split and order of batches, so that they are compared one by one
    bits : which images were right, by cell; without them a binomial stands in for rates
    kinds : the kind of a column that the paper prints no number for; by default a rate under attack

    returns verdict (holds, contradicted, in part, undecided, not tested), how many comparisons are supported, contradicted and
    undecided by themselves, n, reason, needed_networks, needed_images, chance, sampling. raises KeyError for a cell without rows
    """
    if quantifier == "untested":
        return _line(UNTESTED, 0, 0, 0, 0, Needed(), "none")
    found = terms(predicate, cells, rows, row_axis=row_axis, images=images, se=se, paired=paired, bits=bits, kinds=kinds)
    s = statement(found, quantifier, paired=paired, count=images)
    mean, spread = s.moments()
    verdict = VERDICTS[int(decide(s, mean, spread, s.n, images))]
    k = s.k
    supported, contradicted = (0, 0)
    if s.n > 1:
        supported, contradicted = (int(side[:k].sum()) for side in sides(s, mean, spread, s.n, images, 0.95)[:2])
    needed = what_would_decide(s, at_hand or images) if verdict == "undecided" else Needed()
    return _line(verdict, supported, contradicted, k - supported - contradicted, s.n, needed, joined(t.sampling for t in found))


def _line(verdict: str, supported: int, contradicted: int, undecided: int, n: int, needed: Needed, sampling: str) -> dict:
    counts = {"supported": supported, "contradicted": contradicted, "undecided": undecided, "n": n, "reason": needed.reason}
    more = {"needed_networks": needed.networks, "needed_images": needed.images, "chance": needed.chance, "sampling": sampling}
    return {"verdict": verdict, **counts, **more}


def judge_sentences(cells: pd.DataFrame, rows: pd.DataFrame, source: str, *, paper: str | None = None, **how) -> pd.DataFrame:
    """Every sentence drawn from a table, with its verdict: columns value, predicate, quantifier and those of `judge_sentence`.

    paper : whose `claims/<paper>.toml` declares which quantities are no rates; how : further arguments of `judge_sentence`
    """
    mine = cells[cells.source == source]
    if not (mine.kind == "sentence").any():
        raise KeyError(f"the claims have no sentences from {source!r}")
    said = mine[mine.kind == "sentence"].reset_index(drop=True)
    said = said if "quantifier" in said else said.assign(quantifier="each")
    if paper:
        how = {"kinds": lambda column: kind_of(paper, column), **how}
    judged = [judge_sentence(s.predicate, mine, rows, quantifier=s.quantifier, **how) for s in said.itertuples()]
    return said[["value", "predicate", "quantifier"]].join(pd.DataFrame(judged))
