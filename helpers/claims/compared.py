"""A paper's table joined with our rows, a verdict in each cell; as accuracies, or as drops below the clean one."""

from collections.abc import Callable
from decimal import Decimal

import pandas as pd

from helpers import names
from helpers.claims.numbers import judge
from helpers.claims.statistics import Estimate
from helpers.claims.terms import by_seed


def compare(
    cells: pd.DataFrame,
    rows: pd.DataFrame,
    source: str,
    *,
    row_axis: str,
    se: bool = False,
    measured: Callable[[str, str], Estimate | None] | None = None,
    **how,
) -> pd.DataFrame:
    """Join the numbers of a paper's table with our rows: one line per cell, with the fields of `numbers.Verdict`.

    rows : of an `Experiment`; the cell of row r and column c is metric c of the rows whose `row_axis` is r
    se : whether `names.se(c)` is its standard error from the images; networks share the images, so the mean of theirs counts
    measured : (r, c) -> the estimate from stored bits or scores, or None where rows lack them
    how : as in `judge`. raises KeyError for a cell that no row answers
    """
    cells = cells[(cells.source == source) & (cells.kind != "sentence")]
    if cells.empty:
        raise KeyError(f"the claims have no numbers from {source!r}")
    lines = []
    for cell in cells.itertuples():
        mine = by_seed(rows, row_axis, cell.row, cell.column)
        told = {"measured": measured(cell.row, cell.column)} if measured else {}
        if se:
            told["image_se"] = by_seed(rows, row_axis, cell.row, names.se(cell.column)).mean()
        verdict = judge(cell.value, mine.tolist(), kind=cell.kind, unit=cell.unit, **{**how, **told})
        lines.append(
            {
                "row": cell.row,
                "column": cell.column,
                "printed": cell.value + (" %" if cell.unit == "percent" else ""),
                "same_as": cell.same_as,
                "kind": cell.kind,
                **vars(verdict),
            }
        )
    return pd.DataFrame(lines)


def as_drops(cells: pd.DataFrame, source: str, reference: tuple[str, str, str]) -> pd.DataFrame:
    """The printed numbers of a source as drops below the one at `reference` (source, row, column), exactly: 75.85 − 55.25 is
    "20.60". The reference itself is left out: its drop says nothing. Their kind is "drop", whose margin is that of an attack.

    raises KeyError for a source without numbers, or a reference that is not printed
    """
    top = cells[(cells.source == reference[0]) & (cells.row == reference[1]) & (cells.column == reference[2])]
    mine = cells[(cells.source == source) & (cells.kind != "sentence")].drop(top.index, errors="ignore")
    if top.empty or mine.empty:
        raise KeyError(f"the claims have no {'reference ' + '/'.join(reference) if top.empty else 'numbers from ' + source}")
    if (mine.unit != top.unit.iloc[0]).any():
        raise ValueError(f"{source} prints another unit than {'/'.join(reference)}")
    return mine.assign(value=[str(Decimal(top.value.iloc[0]) - Decimal(v)) for v in mine.value], kind="drop")


def compare_drops(
    cells: pd.DataFrame,
    rows: pd.DataFrame,
    source: str,
    reference: tuple[str, str, str],
    *,
    row_axis: str,
    images: int,
    paper_images: int,
    averaged: int = 1,
) -> pd.DataFrame:
    """As `compare`, on drops: `rows` hold for each column c the metrics `names.drop(c)` and `names.se(c)`, its standard error
    over the images, paired. The paper's images are others, so their sampling counts too, with our variance per image."""
    wanted = as_drops(cells, source, reference)
    mine = rows.assign(**{column: rows[names.drop(column)] for column in wanted.column.unique()})
    how = {"row_axis": row_axis, "images": images, "paper_images": paper_images, "averaged": averaged}
    return compare(wanted, mine, source, se=True, **how)
