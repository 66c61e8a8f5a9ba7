"""Drops in place of accuracies: what can be compared where the clean accuracy cannot, on other images or another network."""

from decimal import Decimal

import pandas as pd

from helpers import claims, names


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


def compare(
    cells: pd.DataFrame,
    rows: pd.DataFrame,
    source: str,
    reference: tuple[str, str, str],
    *,
    row_axis: str,
    images: int,
    paper_images: int,
) -> pd.DataFrame:
    """As `claims.compare`, on drops: `rows` hold for each column c the metrics `names.drop(c)` and `names.se(c)`, its standard
    error over the images, paired. The paper's images are others, so their sampling counts too, with our variance per image."""
    wanted = as_drops(cells, source, reference)
    mine = rows.assign(**{column: rows[names.drop(column)] for column in wanted.column.unique()})
    return claims.compare(wanted, mine, source, row_axis=row_axis, se=True, images=images, paper_images=paper_images)
