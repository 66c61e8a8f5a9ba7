"""What a paper prints against what our runs gave: verdicts by equivalence testing, so that more data only ever helps.

Every verdict of the book comes from the three rules here: `judge` for a printed number, `judge_sentence` for a sentence drawn
from them, `survival` for a defence under stronger attacks. A difference is called only where the 95 % interval clears a
margin that matters, agreement only where it lies inside.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from helpers import names

CLAIMS = Path(__file__).resolve().parent.parent / "claims"
COLUMNS = ("source", "row", "column", "value", "unit", "kind", "same_as", "predicate")
UNITS = {"fraction": 1.0, "percent": 0.01}
CAP = {"clean": 0.03, "attack": 0.05, "drop": 0.05}  # M: the largest margin of a rate, or of a difference of two
FORMS = re.compile(r"(greater|equal|below)\(([^()]*)\)")


@dataclass(frozen=True)
class Verdict:
    """The verdict of a cell: agrees, differs or undecided; with what it was drawn from, rates as fractions."""

    verdict: str
    paper: float
    ours: float  # mean over the networks
    half: float  # half width of the 95 % interval of our own value
    difference: float  # ours − paper
    bound: float  # b: half width of the 95 % interval of the difference
    margin: float
    n: int  # independently trained networks


def read(paper: str) -> pd.DataFrame:
    """`claims/<paper>.csv` as text. raises ValueError naming the line for an unknown unit, kind or predicate."""
    cells = pd.read_csv(CLAIMS / f"{paper}.csv", dtype=str, keep_default_na=False)
    if missing := set(COLUMNS) - set(cells.columns):
        raise ValueError(f"claims/{paper}.csv lacks the columns {', '.join(sorted(missing))}")
    for number, cell in enumerate(cells.itertuples(), 2):
        where = f"claims/{paper}.csv, line {number}"
        if cell.kind == "sentence":
            parse_predicate(cell.predicate, where)
        elif cell.kind not in ("clean", "attack", "other") or (cell.kind != "other" and cell.unit not in UNITS):
            raise ValueError(f"{where}: kind {cell.kind!r} with unit {cell.unit!r} is unknown")
        else:
            float(cell.value)
    return cells


def declared(paper: str, source: str) -> dict:
    """What the paper declares of its settings for a source, {name: value}, from `claims/<paper>.toml`.

    An entry names the sources that it holds for (`of`), or holds for all; the entry that names the source counts more. Every
    entry has its place in the paper. "averaged" is the number of runs that a printed number is the mean of; every other name is
    one of the settings or "<role> images", see `reduced`. raises ValueError for an entry without name, value or place
    """
    found = {}  # in the order of the file
    for entry in tomllib.loads((CLAIMS / f"{paper}.toml").read_text(encoding="utf-8"))["declared"]:
        wrong = {"name", "value", "place"} - entry.keys() or entry.keys() - {"name", "value", "place", "of"}
        if wrong or not isinstance(entry.get("of", []), list):
            raise ValueError(f"claims/{paper}.toml: an entry has name, value, place and perhaps `of`, a list, not {entry}")
        if source in entry.get("of", [source]) and ("of" in entry or entry["name"] not in found):
            found[entry["name"]] = entry["value"]
    return found


def value(cells: pd.DataFrame, source: str, row: str, column: str) -> float:
    """One printed number, rates as fractions. raises KeyError where the paper prints none."""
    cell = cells[(cells.source == source) & (cells.row == row) & (cells.column == column)]
    if cell.empty:
        raise KeyError(f"{source} has no cell {row}, {column}")
    return printed(cell.value.iloc[0], cell.unit.iloc[0])[0]


def count(cells: pd.DataFrame) -> int:
    """How many different numbers the paper prints: a cell that repeats another counts once."""
    return int(((cells.kind != "sentence") & (cells.same_as == "")).sum())


def printed(value: str, unit: str) -> tuple[float, float]:
    """A printed number and half a unit of its last digit; percentages as fractions."""
    scale = UNITS.get(unit, 1.0)
    digits = len(value.partition(".")[2])
    return float(value) * scale, 0.5 * 10.0**-digits * scale


def margin_of(value: float, kind: str, half_unit: float = 0.0) -> float:
    """The smallest difference that matters: for rates min(M, max(0.003, ½ min(v, 1 − v))), else 10 % of v.

    half_unit : of the last printed digit; where a paper rounds so coarsely that this exceeds half the margin, it is doubled
        and taken instead, or no run could ever agree with "100 %". raises ValueError for an unknown kind
    """
    if kind not in (*CAP, "other"):
        raise ValueError(f"kind must be one of {', '.join(CAP)}, other, not {kind!r}")
    rule = min(CAP[kind], max(0.003, 0.5 * min(abs(value), 1 - value))) if kind in CAP else 0.1 * abs(value)
    return max(rule, 2 * half_unit)


def image_variance(rate: float, images: int, paper_images: int | None, sampling: str) -> float:
    """Variance of a rate from the sampling of test images: `same` images as the paper, a `part` of them, or `other` ones."""
    if sampling == "same":
        return 0.0
    p = (rate * images + 1) / (images + 2)  # keeps a variance at 0 and 1
    if sampling == "part":
        return p * (1 - p) / images * max(0.0, 1 - images / paper_images)
    if sampling == "other":
        return p * (1 - p) * (1 / images + (1 / paper_images if paper_images else 0.0))
    raise ValueError(f"sampling must be same, part or other, not {sampling!r}")


def _t(n: int) -> float:
    return float(stats.t.ppf(0.975, n - 1))


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
) -> Verdict:
    """The verdict of one printed number.

    value : text exactly as printed
    ours : one number per independently trained network, rates as fractions
    kind : "clean" or "attack" (rates), "drop" (of a rate below another, with its image_se), or "other"
    averaged : runs that the paper averaged
    images, paper_images, sampling : test images of each rate, ours and the paper's, and how they relate (`image_variance`)
    image_se : standard error from our images where it is not binomial (bootstrap; paired for drops); with the number of `other`
        images of both, theirs have the same variance per image
    """
    ours = np.asarray(ours, dtype=float)
    if ours.ndim != 1 or not len(ours) or not np.isfinite(ours).all():
        raise ValueError("ours must be a non-empty sequence of finite numbers, one per network")
    paper, half_unit = printed(value, unit)
    n, mean, margin = len(ours), float(ours.mean()), margin_of(paper, kind, half_unit)
    if kind in CAP and (ours.min() < -(kind == "drop") or ours.max() > 1):
        raise ValueError(f"rates must be fractions in [0, 1], not {ours.min():g} to {ours.max():g}")
    if kind in CAP and image_se is None and not (images and images > 0):
        raise ValueError("a rate needs the number of test images that it was measured on")
    spread = float(ours.std(ddof=1)) if n > 1 else 0.0
    if image_se is not None:
        own, other = image_se**2, sampling == "other" and images and paper_images
        theirs = own * (1 + images / paper_images if other else 1)
    elif kind in CAP:
        own, theirs = image_variance(mean, images, None, "other"), image_variance(mean, images, paper_images, sampling)
    else:
        own = theirs = 0.0
    t = _t(n) if n > 1 else 0.0
    half = float(np.sqrt((t * spread) ** 2 / n + 1.96**2 * own))
    bound = float(np.sqrt((t * spread) ** 2 * (1 / n + 1 / averaged) + 1.96**2 * theirs)) + half_unit
    difference = mean - paper
    if abs(difference) - bound > (margin if n > 1 else 5 * margin):
        verdict = "differs"
    else:
        verdict = "agrees" if n > 1 and abs(difference) + bound <= margin else "undecided"
    return Verdict(verdict, paper, mean, half, difference, bound, margin, n)


def compare(cells: pd.DataFrame, rows: pd.DataFrame, source: str, *, row_axis: str, se: bool = False, **how) -> pd.DataFrame:
    """Join the numbers of a paper's table with our rows: one line per cell, with the fields of `Verdict`.

    rows : of an `Experiment`; the cell of row r and column c is metric c of the rows whose `row_axis` is r
    se : whether `names.se(c)` is its standard error from the images; networks share the images, so the mean of theirs counts
    how : as in `judge`. raises KeyError for a cell that no row answers
    """
    cells = cells[(cells.source == source) & (cells.kind != "sentence")]
    if cells.empty:
        raise KeyError(f"the claims have no numbers from {source!r}")
    lines = []
    for cell in cells.itertuples():
        mine = by_seed(rows, row_axis, cell.row, cell.column)
        if se:
            how["image_se"] = by_seed(rows, row_axis, cell.row, names.se(cell.column)).mean()
        verdict = judge(cell.value, mine.tolist(), kind=cell.kind, unit=cell.unit, **how)
        lines.append(
            {
                "row": cell.row,
                "column": cell.column,
                "printed": cell.value + (" %" if cell.unit == "percent" else ""),
                "same_as": cell.same_as,
                **vars(verdict),
            }
        )
    return pd.DataFrame(lines)


def by_seed(rows: pd.DataFrame, row_axis: str, row: str, column: str) -> pd.Series:
    """One value per independently trained network, by seed; what one network has several of is averaged. raises KeyError"""
    mine = rows[rows[row_axis] == row]
    if mine.empty or column not in mine:
        raise KeyError(f"our rows have no value for {row}, {column}")
    return mine.groupby("seed")[column].mean()


def parse_predicate(text: str, where: str = "predicate") -> list[tuple[str, list[str]]]:
    """ "greater(a, b); below(a, 0.5)" -> [("greater", ["a", "b"]), ...]. raises ValueError for any other form."""
    terms = []
    for part in text.split(";"):
        match = FORMS.fullmatch(part.strip())
        arguments = [a.strip() for a in match[2].split(",")] if match else []
        if not match or len(arguments) not in {"greater": (2, 3), "equal": (3,), "below": (2,)}[match[1]]:
            raise ValueError(f"{where}: {part.strip()!r} is none of greater(a, b[, by]), equal(a, b, margin), below(a, limit)")
        amount = arguments[-1] if match[1] != "greater" or len(arguments) == 3 else "0"
        if not re.fullmatch(r"\d+(\.\d+)?", amount):
            raise ValueError(f"{where}: {amount!r} in {part.strip()!r} must be a plain number, at least 0")
        terms.append((match[1], arguments))
    return terms


def interval(values: np.ndarray, variance: float = 0.0) -> tuple[float, float]:
    """95 % interval of the mean of one value per network, with a further variance of that mean. One network: infinite."""
    n = len(values)
    if n < 2:
        return -np.inf, np.inf
    mean, half = values.mean(), np.sqrt(_t(n) ** 2 * values.var(ddof=1) / n + 1.96**2 * variance)
    return float(mean - half), float(mean + half)


def judge_sentence(
    predicate: str, cells: pd.DataFrame, rows: pd.DataFrame, *, row_axis: str, images: int, se: bool = False
) -> dict:
    """The verdict of a sentence whose predicate compares cells "row/column", paired by seed.

    b may be a number; `greater(a, b, by)` claims that a exceeds b by at least that much, with no margin beside. A cell is one of
    the table's, or, where the paper only draws a curve, any metric of ours.
    se : as in `compare`, for cells that have such a metric above 0; the others are rates of `images`

    Each term is supported (its interval lies on the claimed side), contradicted (beyond the margin on the other side) or
    undecided. Together: `holds` (none contradicted, and the pooled difference of each form supported), `contradicted`, `in part`
    or `undecided`, with the counts.
    """

    def values(name: str) -> np.ndarray:
        if re.fullmatch(r"[\d.]+", name):  # a printed amount
            return np.full(len(a), float(name))
        row, _, column = name.partition("/")
        mine = by_seed(rows, row_axis, row, column)
        if set(mine.index) != set(rows.seed):
            raise ValueError(f"the predicate's cell {name!r} lacks seeds that other cells have: they cannot be paired")
        return mine.to_numpy()

    def sampled(name: str, v: np.ndarray) -> float:  # a quantity that is no rate has no binomial variance
        row, _, column = name.partition("/")
        if se and names.se(column) in rows and (own := by_seed(rows, row_axis, row, names.se(column)).mean()) > 0:
            return float(own) ** 2
        other = ((cells.row == row) & (cells.column == column) & (cells.kind == "other")).any()
        return 0.0 if other or not 0 <= v.mean() <= 1 else image_variance(float(v.mean()), images, None, "other")

    count = {"supported": 0, "contradicted": 0, "undecided": 0}
    slacks = {}  # by form: how far each term lies on the claimed side, and its variance
    for form, arguments in parse_predicate(predicate):
        a = values(arguments[0])
        limit = float(arguments[-1]) if form != "greater" or len(arguments) == 3 else 0.0
        b = values(arguments[1]) if form != "below" else None
        variance = sampled(arguments[0], a)
        variance += sampled(arguments[1], b) if b is not None and "/" in arguments[1] else 0.0
        row, _, column = arguments[0].partition("/")
        cell = cells[(cells.row == row) & (cells.column == column)]
        told = (printed(cell.value.iloc[0], cell.unit.iloc[0])[0], cell.kind.iloc[0]) if len(cell) else (a.mean(), "attack")
        margin = margin_of(*told) if len(arguments) == 2 else 0.0  # a sentence that names an amount brings its own
        if form == "equal":
            low, high = interval(a - b, variance)
            verdict = (
                "supported"
                if -limit <= low and high <= limit
                else "contradicted"
                if low > limit or high < -limit
                else "undecided"
            )
            slack = limit - np.abs(a - b)
        else:
            slack = a - b - limit if form == "greater" else limit - a
            low, high = interval(slack, variance)
            verdict = "supported" if low > 0 else "contradicted" if high < -margin else "undecided"
        count[verdict] += 1
        slacks.setdefault(form, []).append((slack, variance))
    pooled = []  # lower bounds; the terms of a form share their images, so their variance does not average out
    for terms in slacks.values():
        values_of_form, variances = zip(*terms, strict=True)
        pooled.append(interval(np.mean(values_of_form, axis=0), float(np.mean(variances)))[0])
    decided = count["supported"] + count["contradicted"]
    if not count["contradicted"] and min(pooled) > 0:
        verdict = "holds"
    elif decided and count["contradicted"] == decided:
        verdict = "contradicted"
    else:
        verdict = "in part" if count["contradicted"] and count["supported"] else "undecided"
    return {"verdict": verdict, **count}


def judge_sentences(
    cells: pd.DataFrame, rows: pd.DataFrame, source: str, *, row_axis: str, images: int, se: bool = False
) -> pd.DataFrame:
    """Every sentence drawn from a table, with its verdict: columns value, predicate and the fields of `judge_sentence`."""
    mine = cells[cells.source == source]
    if not (mine.kind == "sentence").any():
        raise KeyError(f"the claims have no sentences from {source!r}")
    said = mine[mine.kind == "sentence"].reset_index(drop=True)
    judged = [judge_sentence(p, mine, rows, row_axis=row_axis, images=images, se=se) for p in said.predicate]
    return said[["value", "predicate"]].join(pd.DataFrame(judged))


def reduced(settings: dict, data: dict, declared: dict) -> list[str]:
    """In what our run is smaller than what the paper declares: e.g. ["train images: 1,297 instead of 50,000"].

    declared : {name: value}; a name is looked up among the settings, then as "<role> images" among the splits of a row. How many
        runs the paper averages is no setting. What the paper does not declare is not compared.
    """
    settings = {k: v for group in settings.values() if isinstance(group, dict) for k, v in group.items()} | settings
    sizes = {f"{role} images": split["size"] for role, split in data.items()}
    marks = []
    for name, value in declared.items():
        if name == "averaged":
            continue
        mine = settings.get(name, sizes.get(name))
        if mine is None:
            raise KeyError(f"nothing named {name!r} among the settings or the data of the row")
        numbers = all(isinstance(v, int | float) for v in (mine, value))
        if mine != value and (not numbers or mine < value):
            words = [f"{v:,}" if isinstance(v, int) else str(v) for v in (mine, value)]
            marks.append(f"{name}: {' instead of '.join(words)}")
    return marks
