"""What the papers print: numbers and sentences, read from `claims/<paper>.csv` and checked."""

import re
import tomllib
from functools import lru_cache
from pathlib import Path

import pandas as pd

from helpers.claims.predicates import parse_predicate

CLAIMS = Path(__file__).resolve().parent.parent.parent / "claims"
COLUMNS = ("source", "row", "column", "value", "unit", "kind", "same_as", "predicate")
OPTIONAL = {"quantifier": "each"}  # of a sentence; a file that lacks the column has this everywhere
UNITS = {"fraction": 1.0, "percent": 0.01}
CAP = {"clean": 0.03, "attack": 0.05, "drop": 0.05}  # M: the largest margin of a rate, or of a difference of two
KINDS = ("clean", "attack", "other")
QUANTIFIERS = ("each", "overall", "some", "untested")


def read(paper: str) -> pd.DataFrame:
    """`claims/<paper>.csv` as text, with the columns COLUMNS and OPTIONAL.

    raises ValueError naming the line for a number, unit, kind, predicate or quantifier that does not fit, for a cell that stands
    twice, and for a `same_as` that names no cell
    """
    cells = pd.read_csv(CLAIMS / f"{paper}.csv", dtype=str, keep_default_na=False)
    if missing := set(COLUMNS) - set(cells.columns):
        raise ValueError(f"claims/{paper}.csv lacks the columns {', '.join(sorted(missing))}")
    cells = cells.assign(**{c: default for c, default in OPTIONAL.items() if c not in cells})
    names, seen = set(cells.source + "/" + cells.row + "/" + cells.column), set()
    for number, cell in enumerate(cells.itertuples(), 2):
        where, name = f"claims/{paper}.csv, line {number}", f"{cell.source}/{cell.row}/{cell.column}"
        if cell.kind == "sentence":
            parse_predicate(cell.predicate, where)
            if cell.quantifier not in QUANTIFIERS:
                raise ValueError(f"{where}: the quantifier {cell.quantifier!r} is none of {', '.join(QUANTIFIERS)}")
            continue
        _check_number(cell, where)
        if name in seen:
            raise ValueError(f"{where}: {name} stands twice")
        if cell.same_as and (cell.same_as not in names or cell.same_as == name):
            raise ValueError(f"{where}: there is no other cell {cell.same_as!r} that it could be the same as")
        seen.add(name)
    return cells


def _check_number(cell, where: str) -> None:
    if cell.kind not in KINDS or (cell.kind != "other" and cell.unit not in UNITS) or not cell.unit:
        raise ValueError(f"{where}: kind {cell.kind!r} with unit {cell.unit!r} is unknown")
    if not re.fullmatch(r"-?\d+(\.\d+)?", cell.value):
        raise ValueError(f"{where}: {cell.value!r} is no printed number: digits, and perhaps a point and more digits")
    if cell.kind != "other" and not 0 <= parse_number(cell.value, cell.unit)[0] <= 1:
        raise ValueError(f"{where}: {cell.value} {cell.unit} is no rate")


def facts(paper: str, kind: str, source: str | None = None) -> list[dict]:
    """The entries `[[kind]]` of `claims/<paper>.toml`, of all sources or of those that hold for one (`of`, a list; none: all).

    A file may lack a kind, and a paper the file. raises ValueError for an entry without its place in the paper
    """
    path = CLAIMS / f"{paper}.toml"
    entries = _parsed(path, path.stat().st_mtime_ns).get(kind, []) if path.exists() else []
    for entry in entries:
        if not entry.get("place") or not isinstance(entry.get("of", []), list):
            raise ValueError(
                f"claims/{paper}.toml: an entry of {kind} has its place in the paper, and perhaps `of`, a list: {entry}"
            )
    return [e for e in entries if source is None or source in e.get("of", [source])]


@lru_cache(maxsize=32)
def _parsed(path: Path, changed: int) -> dict:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def value(cells: pd.DataFrame, source: str, row: str, column: str) -> float:
    """One printed number, rates as fractions. raises KeyError where the paper prints none."""
    cell = cells[(cells.source == source) & (cells.row == row) & (cells.column == column)]
    if cell.empty:
        raise KeyError(f"{source} has no cell {row}, {column}")
    return parse_number(cell.value.iloc[0], cell.unit.iloc[0])[0]


def count(cells: pd.DataFrame, paper: str = "") -> int:
    """How many different numbers the paper prints: a cell that repeats another, or follows from another, counts once."""
    numbers = cells[(cells.kind != "sentence") & (cells.same_as == "")]
    return sum(not entry_for(paper, "follows", c.source, c.row, c.column) for c in numbers.itertuples())


def entry_for(paper: str, kind: str, source: str, row: str, column: str) -> dict:
    """The entry `[[kind]]` of the claims that holds for one cell, by its source and the rows and columns that it names; or {}."""
    for entry in facts(paper, kind, source) if paper else []:
        if row in entry.get("rows", [row]) and column in entry.get("columns", [column]):
            return entry
    return {}


def parse_number(value: str, unit: str) -> tuple[float, float]:
    """A printed number and half a unit of its last digit; percentages as fractions, any other unit as it is."""
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


def kind_of(paper: str, column: str) -> str:
    """The kind of a quantity that the paper prints no number for: as `[[quantity]]` declares it, else a rate under attack."""
    entries = [e for e in facts(paper, "quantity") if column in e["columns"]]
    return entries[0]["kind"] if entries else "attack"
