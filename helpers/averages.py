"""Tables of our own means, where the paper prints nothing to compare with."""

from functools import partial
from html import escape

import numpy as np
import pandas as pd
from IPython.display import HTML

from helpers import claims
from helpers.formats import amount, percent, without_zeros
from helpers.markup import provenance, rows_link, table

SEVERAL = 3  # networks: of fewer the values are shown, since their interval says nothing
PLUS_MINUS = "± is the 95 % interval over networks, images held fixed"


def means(
    experiment,
    columns: list[str],
    *,
    by: str | None = None,
    also: dict[tuple[str, str], str] | None = None,
    unit: str = "",
    small: str = "MAPE",
) -> HTML:
    """Our means with their 95 % intervals over networks where the paper prints nothing to compare with; numbers link to rows.

    by : a line per value of this column of the rows; None: the experiment's only argument
    columns : of the rows; one that a line does not have stays empty
    also : further words under a cell, by (line, column); unit : "%" prints rates in percent
    small : columns with this word in their name are shares that may be tiny: in percent, to two significant digits
    """
    by = axis(experiment, by)
    body = []
    for row in dict.fromkeys(experiment.rows[by]):
        line = [escape(str(row))]
        for column in columns:
            words = (also or {}).get((row, column))
            more = f'<br><span class="paper">{escape(words)}</span>' if words else ""
            line.append(cell(experiment, row, column, by=by, unit="small %" if small in column else unit) + more)
        body.append(line)
    many = any("±" in c for line in body for c in line)
    notes = ["in percent"] * (unit == "%") + [PLUS_MINUS] * bool(many)
    line = f'<p class="provenance">{"; ".join(notes).capitalize()}.</p>' if notes else ""
    head = [f"{escape(c)}, %" if small in c else escape(c) for c in columns]
    return HTML(table(["", *head], body) + line + provenance(experiment))


def cell(experiment, row: str, column: str, *, by: str | None = None, unit: str = "") -> str:
    """One cell of `means`: our mean, with "± 95 %" over networks if there are several (`spread_of`), linked to its rows.

    unit : "%" prints percent, "small %" percent to two significant digits
    A line without the column, or with no number in it, gives a dash.
    """
    text, rows = percent if unit == "small %" else partial(amount, printed=unit), experiment.rows
    values = claims.by_seed(rows, axis(experiment, by), row, column).dropna() if column in rows else pd.Series(dtype=float)
    if values.empty:
        return "–"
    return rows_link(experiment, str(row), f"<b>{text(values.mean())}</b>{spread_of(values.to_numpy(), text)}")


def spread_of(values: np.ndarray, text) -> str:
    """What stands after a mean: "± 95 %" over networks, or the values themselves where an interval would say nothing.

    That is where there are two, or where the interval of values in [0, 1] leaves [0, 1] on both sides. One network has none.
    """
    if len(values) < 2:
        return ""
    mean, half = values.mean(), claims.over_networks(values)
    impossible = values.min() >= 0 and values.max() <= 1 and mean - half < 0 and mean + half > 1
    if len(values) < SEVERAL or impossible:
        return f" ({', '.join(text(v) for v in values)})"
    return f" ± {text(half)}"


def axis(experiment, by: str | None) -> str:
    """The column of the rows that tells lines apart. raises ValueError where there are several and none is named"""
    if by is None and len(experiment.over) != 1:
        raise ValueError(f"{experiment.name}: name the column that tells its lines apart (by=...): {', '.join(experiment.rows)}")
    return by or next(iter(experiment.over))


def beside(cells: pd.DataFrame, source: str, words: str) -> dict[tuple[str, str], str]:
    """The numbers of a source, to show under our own: {(row, column): "words .746"}. raises KeyError for an unknown source"""
    mine = cells[cells.source == source]
    if mine.empty:
        raise KeyError(f"the claims have nothing from {source!r}")
    return {(c.row, c.column): f"{words} {without_zeros(c.value)}" for c in mine.itertuples()}
