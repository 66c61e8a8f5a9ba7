"""Tables of the page, as HTML: paper against ours, sentences, provenance, the chapter's line on the front page.

Each takes an experiment, which brings its rows, settings and provenance. What a table judges stays with the experiment, for the
scoreboard. A number links to the rows behind it: `../results/<paper>/<profile>/<run>.jsonl#<group>`. In JupyterLab that opens the
file; the site turns it into a page that explains each row.
"""

from collections.abc import Callable
from functools import partial
from html import escape

import numpy as np
import pandas as pd
from IPython.display import HTML

from helpers import checks as masking
from helpers import claims, defences, drops
from helpers.formats import amount, number, percent, without_zeros  # noqa: F401  a chapter says tables.number
from helpers.markup import bar, glue, mark, picture, provenance, reduced_line, rows_link, table  # noqa: F401  ... tables.glue


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
    by = _axis(experiment, by)
    body = []
    for row in dict.fromkeys(experiment.rows[by]):
        line = [escape(str(row))]
        for column in columns:
            words = (also or {}).get((row, column))
            more = f'<br><span class="paper">{escape(words)}</span>' if words else ""
            line.append(cell(experiment, row, column, by=by, unit="small %" if small in column else unit) + more)
        body.append(line)
    many = experiment.rows.groupby(by).seed.nunique().max() > 1
    notes = ["in percent"] * (unit == "%") + ["± is the 95 % interval over networks"] * bool(many)
    line = f'<p class="provenance">{"; ".join(notes).capitalize()}.</p>' if notes else ""
    head = [f"{escape(c)}, %" if small in c else escape(c) for c in columns]
    return HTML(table(["", *head], body) + line + provenance(experiment))


def cell(experiment, row: str, column: str, *, by: str | None = None, unit: str = "") -> str:
    """One cell of `means`: our mean, with its 95 % interval over networks if there are several, linked to its rows.

    unit : "%" prints percent, "small %" percent to two significant digits
    A line without the column, or with no number in it, gives a dash.
    """
    text, rows = percent if unit == "small %" else partial(amount, printed=unit), experiment.rows
    values = claims.by_seed(rows, _axis(experiment, by), row, column).dropna() if column in rows else pd.Series(dtype=float)
    if values.empty:
        return "–"
    low, high = claims.interval(values.to_numpy())
    spread = f" ± {text((high - low) / 2)}" if len(values) > 1 else ""
    return rows_link(experiment, str(row), f"<b>{text(values.mean())}</b>{spread}")


def _axis(experiment, by: str | None) -> str:
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


def paper(
    experiment,
    source: str,
    *,
    by: str | None = None,
    cells: pd.DataFrame | None = None,
    declared: str | None = None,
    images: int | str = "test",
    by_column: dict[str, dict] | None = None,
    reference: tuple[str, str, str] | None = None,
    also: dict[tuple[str, str], str] | None = None,
    group: Callable[[str], str] = str,
    count: bool = True,
    **how,
) -> HTML:
    """The paper's table with our number, its 95 % interval and a verdict in each cell; each number links to its rows.

    source : of the claims; by : as of `means`; cells : some of the claims instead of all
    declared : the source under which the paper's settings are declared, where it is not `source`
    images : how many images our rates were measured on, the setting that says so, or the role of their split
    by_column : {column: what is different there, of `images`, `paper_images`, `sampling`}
    reference : compare drops below this cell, as `drops.compare` does
    also : further words under a cell, by (row, column)
    group : of a row of the table, the rows of the experiment that it links to; "" for all of them
    count : whether the scoreboard counts these verdicts
    how : further arguments of `claims.judge`. How many test images the paper has, and how many runs it averages, stands in what
        the claims declare
    """
    paper_of, by = experiment.study.paper, _axis(experiment, by)
    cells = claims.read(paper_of) if cells is None else cells
    said = claims.declared(paper_of, declared or source)
    how = {"averaged": said.get("averaged", 1), "paper_images": said.get("test images"), **how, "images": images}
    mine = cells[(cells.source == source) & (cells.kind != "sentence")]
    if reference:
        how = {"images": _images(experiment, images), "paper_images": how["paper_images"]}
        result = drops.compare(cells, experiment.rows, source, reference, row_axis=by, **how)
    else:
        parts = []
        if mine.empty:
            raise KeyError(f"the claims have no numbers from {source!r}")
        for columns, changed in _apart(mine, by_column or {}):
            options = {**how, **changed}
            options["images"] = _images(experiment, options["images"])
            parts.append(claims.compare(columns, experiment.rows, source, row_axis=by, **options))
        result = mine[["row", "column"]].merge(pd.concat(parts), on=["row", "column"])  # in the paper's order
    result = result.assign(source=source)
    experiment.judge("numbers", result, count=count)
    return HTML(
        _paper_table(result, experiment, also or {}, group)
        + reduced_line(experiment, said)
        + provenance(experiment)
        + _details(result)
    )


def _apart(cells: pd.DataFrame, by_column: dict[str, dict]) -> list[tuple[pd.DataFrame, dict]]:
    """The cells of the columns that are judged alike, with what is different for them."""
    parts = [(cells[cells.column == column], changed) for column, changed in by_column.items()]
    return [(part, changed) for part, changed in [(cells[~cells.column.isin(by_column)], {}), *parts] if len(part)]


def _images(experiment, images: int | str) -> int:
    """How many images: a number, one of the experiment's settings, or the role of a split."""
    if not isinstance(images, str):
        return images
    return experiment.settings[images] if images in experiment.settings else experiment.images(images)


def _paper_table(result: pd.DataFrame, experiment, also: dict[tuple[str, str], str], group: Callable[[str], str]) -> str:
    fullest = max((cells for _, cells in result.groupby("row", sort=False)), key=len)  # its order is the paper's
    columns = list(dict.fromkeys([*fullest.column, *result.column]))
    body = []
    for row, cells in result.groupby("row", sort=False):
        line = [escape(row)]
        for column in columns:
            if not (cells.column == column).any():
                line.append("–")  # the paper prints nothing here
                continue
            c = cells[cells.column == column].iloc[0]
            ours = rows_link(experiment, group(row), f"<b>{amount(c.ours, c.printed)}</b> ± {amount(c.half, c.printed)}")
            words = also.get((row, column))
            more = f'<span class="paper">{escape(words)}</span><br>' if words else ""
            line.append(f'{ours}<br><span class="paper">paper {without_zeros(c.printed)}</span><br>{more}{mark(c.verdict)}')
        body.append(line)
    return table(["", *map(escape, columns)], body, "paper-table")


def _details(result: pd.DataFrame) -> str:
    head = ["cell", "paper", "ours ± 95 %", "difference ± b", "margin", "networks", "verdict"]
    body = [
        [
            escape(f"{c.row}, {c.column}"),
            c.printed,
            f"{amount(c.ours, c.printed, 2)} ± {amount(c.half, c.printed, 2)}",
            f"{amount(c.difference, c.printed, 2)} ± {amount(c.bound, c.printed, 2)}",
            amount(c.margin, c.printed, 2),
            str(c.n),
            mark(c.verdict),
        ]
        for c in result.itertuples()
    ]
    return f"<details><summary>How each verdict was reached</summary>{table(head, body)}</details>"


def sentences(
    experiment,
    *sources: str,
    by: str | None = None,
    cells: pd.DataFrame | None = None,
    images: int | str = "test",
    se: bool = False,
    count: bool = True,
) -> HTML:
    """What the paper says, as drawn from its `sources`, with a verdict each. by, cells, images, count : as of `paper`

    se : whether the rows hold standard errors, as of `claims.compare`
    """
    cells, how = claims.read(experiment.study.paper) if cells is None else cells, {"row_axis": _axis(experiment, by), "se": se}
    how["images"] = _images(experiment, images)
    judged = [claims.judge_sentences(cells, experiment.rows, s, **how).assign(source=s) for s in sources]
    judged = pd.concat(judged, ignore_index=True)
    experiment.judge("sentences", judged, count=count)
    body = [
        [
            escape(s.value),
            f'{mark(s.verdict)}<br><span class="paper">{s.supported} of {s.supported + s.contradicted + s.undecided} comparisons '
            f"supported, {s.contradicted} contradicted</span>",
            f"<details><summary>predicate</summary><code>{escape(s.predicate)}</code></details>",
        ]
        for s in judged.itertuples()
    ]
    return HTML(table(["what the paper says", "verdict", "as a test"], body, "sentences"))


def survival(
    experiment,
    source: str,
    judged: pd.DataFrame | None = None,
    *,
    by: str | None = None,
    declared: str | None = None,
    unit: str = "",
    count: bool = True,
    images: int | str = "test",
    metric: str | dict[str, str] = "",
    **how,
) -> HTML:
    """What stronger attacks leave of each defence; numbers link to the rows.

    source, by, declared, count, images : as of `paper`; unit : "%" prints rates in percent
    metric : the worst case among the rows' metrics; {words: metric} for several, whose lines are named by the words, in which
        {row} stands for the defence
    how : further arguments of `defences.survivals`
    judged : of `defences.survivals` or made like it, where the experiment is judged in another way
    """
    if judged is None:
        cells, by = claims.read(experiment.study.paper), _axis(experiment, by)
        how |= {"row_axis": by, "images": _images(experiment, images)}
        parts = []
        for words, name in (metric if isinstance(metric, dict) else {"{row}": metric}).items():
            found = defences.survivals(cells, experiment.rows, source, metric=name, **how)
            parts.append(found.assign(group=found.row, row=[words.format(row=row) for row in found.row]))
        judged = pd.concat(parts, ignore_index=True)
    experiment.judge("survivals", judged.assign(source=source), count=count)

    def text(value: float) -> str:
        return amount(value, unit)

    head = ["", "worst case", "undefended, worst case", "advantage (95 % interval)", "advertised", "left", "margin", "verdict"]
    body = [
        [
            escape(s.row),
            rows_link(experiment, getattr(s, "group", s.row), f"<b>{text(s.defended)}</b>"),
            text(s.undefended),
            f"{text(s.advantage)} ({text(s.low)} to {text(s.high)})",
            text(s.advertised),
            f"{max(s.left, 0):.0%}" if np.isfinite(s.left) else "–",  # who ends below the undefended has nothing left
            text(s.margin),
            mark(s.verdict),
        ]
        for s in judged.itertuples()
    ]
    said = claims.declared(experiment.study.paper, declared or source)
    return HTML(table(head, body) + reduced_line(experiment, said) + provenance(experiment))


def detection(judged: pd.DataFrame, *, count: bool | list[str] = True) -> HTML:
    """What is left of detectors under attack. judged : `row`, `experiment` and the fields of `defences.detection`.

    count : whether the scoreboard counts them, or the rows that it counts
    """
    counted = judged.row.isin(count) if isinstance(count, list) else pd.Series(bool(count), judged.index)
    for d, counts in zip(judged.itertuples(), counted, strict=True):
        line = judged.loc[[d.Index]].drop(columns="experiment").assign(source="")
        d.experiment.judge("survivals", line, count=bool(counts))
    head = ["", "verdict", "AUROC before", "worst case", "over guessing (95 % interval)", "left", "margin"]
    body = [
        [
            escape(d.row),
            mark(d.verdict),
            number(0.5 + d.advertised),
            rows_link(d.experiment, "", f"<b>{number(d.defended)}</b>"),
            f"{number(d.advantage)} ({number(d.low)} to {number(d.high)})" if np.isfinite(d.low) else f"{number(d.advantage)}",
            f"{max(d.left, 0):.0%}" if np.isfinite(d.left) else "–",
            number(d.margin),
        ]
        for d in judged.itertuples()
    ]
    note = "" if np.isfinite(judged.low).all() else '<p class="provenance">Without an interval: one network.</p>'
    return HTML(table(head, body) + note + provenance(*{e.name: e for e in judged.experiment}.values()))


def checks(experiment, *, by: str | None = None, **how) -> HTML:
    """The gradient-masking checks, a line each, a column per network: the means of the rows, judged.

    how : eps, radii, chance, unbounded, as of `checks.judge_checks`; radii : by default the experiment's own
    """
    measured = experiment.rows.groupby(_axis(experiment, by), sort=False).mean(numeric_only=True)
    how = {"radii": experiment.settings.get("radii"), **how}
    judged = {row: masking.judge_checks(values, **how) for row, values in measured.iterrows()}
    names = [name for name, _, _ in next(iter(judged.values()))]
    body = [
        [
            escape(name),
            *(
                f"{'✓' if line[i][1] else '⚑'} {rows_link(experiment, row, without_zeros(escape(line[i][2])))}"
                for row, line in judged.items()
            ),
        ]
        for i, name in enumerate(names)
    ]
    return HTML(table(["what a sound gradient does", *map(escape, judged)], body, "checks") + provenance(experiment))


def scoreboard(study, page: str, title: str, sources: Callable[[str], bool] = bool) -> HTML:
    """A chapter's line on the front page: verdicts of numbers and sentences, and what stronger attacks left of each defence.

    Everything that the tables above judged and that counts is in it; a number that repeats another one is counted once.
    sources : which sources of the claims the chapter is about; by default all
    """
    cells, said = study.judged_of("numbers", counted=True), study.judged_of("sentences", counted=True)
    printed = claims.read(study.paper)
    printed = claims.count(printed[[sources(source) for source in printed.source]])
    cells, left = cells[cells.same_as == ""], study.judged_of("survivals", counted=True)
    of_verdict = {v: left.row[left.verdict == v] for v in ("survives", "undecided", "broken")}
    stronger = "<br>".join(f"{mark(v)}: {'; '.join(map(escape, rows))}" for v, rows in of_verdict.items() if len(rows))
    line = [
        f'<a href="{escape(page)}">{escape(title)}</a>',
        bar(cells.verdict, ("agrees", "undecided", "differs")),
        bar(said.verdict, ("holds", "in part", "undecided", "contradicted")),
        stronger,
    ]
    head = ["paper", f"{len(cells)} of {printed} printed numbers", f"{len(said)} sentences", "under stronger attacks"]
    return HTML(table(head, [line], "scoreboard"))


def status(study) -> HTML:
    """Where a chapter's numbers come from: one line per experiment, linked to its rows; notes stand beneath its name."""
    lines, body = [e.status() for e in study.experiments], []
    for e, line in zip(study.experiments, lines, strict=True):
        name, notes = line.pop("experiment"), line.pop("notes")
        more = f'<br><span class="paper">{escape(notes)}</span>' if notes else ""
        body.append([rows_link(e, "", name) + more, *(escape(str(v)) for v in line.values())])
    return HTML(table(["experiment", *lines[0]], body))
