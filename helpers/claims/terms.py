"""The comparisons of a sentence as numbers: what each network says, in margins, and how uncertain the images leave it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from helpers import names
from helpers.claims.predicates import MARGIN, is_number, parse_predicate
from helpers.claims.printed import margin_of, parse_number
from helpers.claims.statistics import binomial_variance, crossed, difference

SMALLEST = 1e-9  # a margin of a quantity that is 0
Bits = Callable[[str, str], dict[int, np.ndarray] | None]  # (row, column) -> which images were right, by seed


@dataclass(frozen=True)
class Term:
    """One comparison, z = first − second + constant, in units of its scale.

    first, second : (n,) one value per network; images : variance of z from the images; scale : the margin, or what `equal` allows
    two_sided : supported where |z| ≤ 1 (`equal`); else where z > 0, contradicted where z < −tolerance
    sampling : how the images' part was found, as of `numbers.Verdict`
    """

    form: str
    first: np.ndarray
    second: np.ndarray
    constant: float
    images: float
    scale: float
    two_sided: bool
    tolerance: float
    sampling: str


def terms(
    predicate: str,
    cells: pd.DataFrame,
    rows: pd.DataFrame,
    *,
    row_axis: str,
    images: int,
    se: bool = False,
    paired: bool = True,
    bits: Bits | None = None,
    kinds: Callable[[str], str] | None = None,
) -> list[Term]:
    """The comparisons of a predicate. Cells of a table that repeat one another make one comparison, not two.

    cells : of one source; rows : of an experiment; images : of each rate; se, paired, bits, kinds : as of `judge_sentence`
    raises KeyError for a cell that no row answers, ValueError for cells of other networks than the others
    """
    found = Cells(cells, rows, row_axis, images, se, bits, kinds or (lambda column: "attack"))
    unique = dict.fromkeys((form, *map(found.canonical, arguments)) for form, arguments in parse_predicate(predicate))
    return [_term(form, arguments, found, paired) for form, *arguments in unique]


@dataclass(frozen=True)
class Cells:
    """Where the cells of a predicate are looked up. See `terms`."""

    printed: pd.DataFrame
    rows: pd.DataFrame
    row_axis: str
    images: int
    se: bool
    bits: Bits | None
    kinds: Callable[[str], str]

    def canonical(self, name: str) -> str:
        """The cell that a cell repeats, else itself."""
        row, _, column = name.partition("/")
        cell = self._cell(row, column)
        if not len(cell) or "same_as" not in cell or not cell.same_as.iloc[0]:
            return name
        source, _, other = cell.same_as.iloc[0].partition("/")
        return other if source == cell.source.iloc[0] else name

    def values(self, name: str) -> np.ndarray:
        """(n,) one value per network, by seed."""
        mine = by_seed(self.rows, self.row_axis, *name.partition("/")[::2])
        if set(mine.index) != set(self.rows.seed):
            raise ValueError(f"the predicate's cell {name!r} lacks seeds that other cells have: they cannot be paired")
        return mine.to_numpy()

    def kind(self, name: str) -> str:
        """clean, attack or other: as printed, else as declared."""
        row, _, column = name.partition("/")
        cell = self._cell(row, column)
        return cell.kind.iloc[0] if len(cell) else self.kinds(column)

    def margin(self, name: str, mean: float) -> float:
        """Of the printed number, else of our own."""
        cell = self._cell(*name.partition("/")[::2])
        told = parse_number(cell.value.iloc[0], cell.unit.iloc[0])[0] if len(cell) else mean
        return margin_of(told, self.kind(name))

    def variance(self, name: str, mean: float) -> tuple[float, str]:
        """Of the mean of a cell, from the images. What is no rate has no binomial error."""
        row, _, column = name.partition("/")
        if (
            self.se
            and names.se(column) in self.rows
            and (own := by_seed(self.rows, self.row_axis, row, names.se(column)).mean()) > 0
        ):
            return float(own) ** 2, "standard error"
        if self.kind(name) == "other" or not 0 <= mean <= 1:
            return 0.0, "none"
        return binomial_variance(mean, self.images), "binomial"

    def bits_of(self, name: str) -> np.ndarray | None:
        """Which images were right, (n, N) by seed; None where a network lacks them."""
        found = self.bits(*name.partition("/")[::2]) if self.bits else None
        seeds = sorted(set(self.rows.seed))
        if not found or any(seed not in found for seed in seeds) or len({len(found[seed]) for seed in seeds}) > 1:
            return None
        return np.array([found[seed] for seed in seeds], dtype=float)

    def _cell(self, row: str, column: str) -> pd.DataFrame:
        return self.printed[(self.printed.row == row) & (self.printed.column == column)]


def by_seed(rows: pd.DataFrame, row_axis: str, row: str, column: str) -> pd.Series:
    """One value per independently trained network, by seed; what one network has several of is averaged. raises KeyError"""
    mine = rows[rows[row_axis] == row]
    if mine.empty or column not in mine:
        raise KeyError(f"our rows have no value for {row}, {column}")
    return mine.groupby("seed")[column].mean()


def _term(form: str, arguments: list[str], cells: Cells, paired: bool) -> Term:
    a = cells.values(arguments[0])
    number = form == "below" or is_number(arguments[1])
    b = np.full(len(a), float(arguments[1])) if number else cells.values(arguments[1])
    variance, sampling = _sampled(arguments, number, a, b, cells, paired)
    margin = max(cells.margin(arguments[0], float(a.mean())), SMALLEST)
    by = arguments[2] if len(arguments) == 3 else None
    if form == "equal":
        scale, constant, tolerance = float(by), 0.0, 1.0
    else:  # a sentence that names an amount is held to it; one that says "greatly" means the margin at least
        amount = margin if by == MARGIN else float(by or 0.0)
        scale, constant, tolerance = margin, -amount / margin, 1.0 if by is None else 0.0
    sign = -1 if form == "below" else 1
    return Term(
        form, sign * a / scale, sign * b / scale, constant, variance / scale**2, scale, form == "equal", tolerance, sampling
    )  # fmt: skip


def _sampled(arguments, number: bool, a: np.ndarray, b: np.ndarray, cells: Cells, paired: bool) -> tuple[float, str]:
    """The variance of the images in one comparison: from bits where both sides have them, image by image."""
    first, second = cells.bits_of(arguments[0]), None if number else cells.bits_of(arguments[1])
    if first is not None and (number or (second is not None and second.shape == first.shape)):
        return (crossed(first) if number else difference(first, second, paired=paired)).images, "bits"
    found = [cells.variance(arguments[0], float(a.mean()))]
    found += [] if number else [cells.variance(arguments[1], float(b.mean()))]
    return sum(v for v, _ in found), joined(how for _, how in found)


def joined(ways: Iterable[str]) -> str:
    """One word for how several parts were found: the weakest of them."""
    ways = set(ways)
    return next((w for w in ("binomial", "standard error", "bits") if w in ways), "none")
