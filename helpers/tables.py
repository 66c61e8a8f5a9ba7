"""Tables of the page, as HTML: paper against ours, sentences, what stronger attacks left, masking checks.

Each takes an experiment, which brings its rows, settings and provenance. What a table judges stays with the experiment, for the
scoreboard. A number links to the rows behind it: `../results/<paper>/<profile>/<run>.jsonl#<group>`. In JupyterLab that opens the
file; the site turns it into a page that explains each row.
"""

from collections.abc import Callable
from html import escape

import pandas as pd
from IPython.display import HTML

from helpers import checks as masking
from helpers import claims, judging
from helpers.averages import axis, beside, cell, means, spread_of  # noqa: F401  a chapter says tables.means
from helpers.boards import scoreboard, status, undecided  # noqa: F401  ... tables.scoreboard
from helpers.claims.printed import entry_for, facts
from helpers.formats import amount, number, percent, without_zeros  # noqa: F401  ... tables.number
from helpers.markup import bar, glue, mark, picture, provenance, rows_link, settings_line, table  # noqa: F401  ... tables.glue
from helpers.reasons import why
from helpers.surviving import detected, detection, survival  # noqa: F401  ... tables.survival


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
    reference : compare drops below this cell, as `claims.compare_drops` does
    also : further words under a cell, by (row, column)
    group : of a row of the table, the rows of the experiment that it links to; "" for all of them
    count : whether the scoreboard counts these verdicts; it leaves out what agrees by construction, see `claims`
    how : further arguments of `claims.judge`. How many test images the paper has, and how many runs it averages, stands in what
        the claims declare
    """
    paper_of, by = experiment.study.paper, axis(experiment, by)
    cells = claims.read(paper_of) if cells is None else cells
    said = claims.declared(paper_of, declared or source)
    how = {"averaged": said.get("averaged", 1), "paper_images": said.get("test images"), **how, "images": images}
    mine = cells[(cells.source == source) & (cells.kind != "sentence")]
    if reference:
        how = {"images": judging.images_of(experiment, images), "paper_images": how["paper_images"], "averaged": how["averaged"]}
        result = claims.compare_drops(cells, experiment.rows, source, reference, row_axis=by, **how)
    else:
        parts = []
        if mine.empty:
            raise KeyError(f"the claims have no numbers from {source!r}")
        measured = judging.measured_of(experiment, by, matched=bool(how.get("se")))
        for columns, changed in _apart(mine, by_column or {}):
            options = {**how, **changed}
            options["images"] = judging.images_of(experiment, options["images"])
            parts.append(claims.compare(columns, experiment.rows, source, row_axis=by, measured=measured, **options))
        result = mine[["row", "column"]].merge(pd.concat(parts), on=["row", "column"])  # in the paper's order
    settings = judging.settings_of(experiment, declared or source)
    result = judging.marked(result.assign(source=source), settings)
    for name, kind, what in (("condition", "by_construction", "condition"), ("follows", "follows", "why")):
        found = (entry_for(paper_of, kind, source, c.row, c.column) for c in result.itertuples())
        result[name] = [entry.get(what, "") for entry in found]
    experiment.judge("numbers", result, count=count)
    return HTML(
        _paper_table(result, experiment, also or {}, group, settings.network)
        + settings_line(settings)
        + provenance(experiment)
        + _details(result, said.get("averaged", 1), facts(paper_of, "reading", source))
    )


def _apart(cells: pd.DataFrame, by_column: dict[str, dict]) -> list[tuple[pd.DataFrame, dict]]:
    """The cells of the columns that are judged alike, with what is different for them."""
    parts = [(cells[cells.column == column], changed) for column, changed in by_column.items()]
    return [(part, changed) for part, changed in [(cells[~cells.column.isin(by_column)], {}), *parts] if len(part)]


def _paper_table(
    result: pd.DataFrame, experiment, also: dict[tuple[str, str], str], group: Callable[[str], str], network: str
) -> str:
    fullest = max((cells for _, cells in result.groupby("row", sort=False)), key=len)  # its order is the paper's
    columns = list(dict.fromkeys([*fullest.column, *result.column]))
    body = []
    for row, cells in result.groupby("row", sort=False):
        line = [escape(row) + (f'<br><span class="paper">ours: {escape(network)}</span>' if network else "")]
        for column in columns:
            if not (cells.column == column).any():
                line.append("–")  # the paper prints nothing here
                continue
            c = cells[cells.column == column].iloc[0]
            spread = f" ± {amount(c.half, c.printed)}" if c.n > 2 else ""
            ours = rows_link(experiment, group(row), f"<b>{amount(c.ours, c.printed)}</b>{spread}")
            words = also.get((row, column))
            more = [f'<span class="paper">{escape(words)}</span>'] if words else []
            theirs = f'<span class="paper">paper {without_zeros(c.printed)}</span>'
            line.append("<br>".join([mark(c.verdict, c.settings, c.condition), ours, theirs, *more]))
        body.append(line)
    return table(["", *map(escape, columns)], body, "paper-table")


def _details(result: pd.DataFrame, averaged: int, readings: list[dict]) -> str:
    head = ["cell", "verdict", "paper", "ours, networks", "d", "b<sub>o</sub>", "b<sub>p</sub>", "margin M"]
    head += ["M + b<sub>p</sub>", "why"]
    body = []
    for c in result.itertuples():
        d, own, prediction, margin, least = (
            amount(x, c.printed, 2) for x in (c.difference, c.bound, c.prediction, c.margin, c.least)
        )
        ours = f"{amount(c.ours, c.printed, 2)}, {c.n}"
        body.append(
            [escape(f"{c.row}, {c.column}"), mark(c.verdict, c.settings, c.condition), c.printed, ours]
            + [d, own, prediction, margin, least, escape(why(c))]
        )
    ways = ", ".join(sorted({SAMPLING[s] for s in result.sampling}))
    note = (
        '<p class="provenance">d: ours − paper. b<sub>o</sub>: how uncertain our mean is. b<sub>p</sub>: how far the mean of '
        "the paper’s runs may lie from ours. M + b<sub>p</sub>: the least |d| that would have been called <i>differs</i>. "
        f"The part of the images: {ways}. {RUNS[averaged > 1]}</p>"
    )
    note += "".join(
        f'<p class="provenance">Counted: {escape(r["counts"])}. Not counted: {escape(r["other"])}. {escape(r["why"])} '
        f"({escape(r['place'])})</p>"
        for r in readings
    )
    return f"<details><summary>How each verdict was reached</summary>{table(head, body)}{note}</details>"


RUNS = {
    False: "The rule takes it that the paper’s runs scatter as ours do; as it prints one run, that cannot be checked.",
    True: "The rule takes it that the paper’s runs scatter as ours do.",
}
SAMPLING = {
    "bits": "from stored bits or scores",
    "binomial": "a binomial stands in",
    "standard error": "a standard error of the rows",
    "none": "none",
}


def sentences(
    experiment,
    *sources: str,
    by: str | None = None,
    cells: pd.DataFrame | None = None,
    declared: str | None = None,
    images: int | str = "test",
    se: bool = False,
    count: bool = True,
) -> HTML:
    """What the paper says, as drawn from its `sources`, with a verdict each. by, cells, declared, images, count : as of `paper`

    se : whether the rows hold standard errors, as of `claims.compare`
    """
    of, by = experiment.study.paper, axis(experiment, by)
    cells = claims.read(of) if cells is None else cells
    how = {"row_axis": by, "se": se, "images": judging.images_of(experiment, images)}
    how["bits"] = judging.bits_of(experiment, by)
    judged, lines = [], []
    for source in sources:
        settings = judging.settings_of(experiment, declared or source, strict=False)
        lines.append(settings_line(settings))
        how["paired"] = judging.paired(of, source)
        how["at_hand"] = judging.at_hand(experiment, declared or source, images)
        found = claims.judge_sentences(cells, experiment.rows, source, paper=of, **how).assign(source=source)
        judged.append(judging.marked(found, settings))
    judged = pd.concat(judged, ignore_index=True)
    experiment.judge("sentences", judged, count=count)
    body = [
        [
            escape(s.value),
            f'{mark(s.verdict, s.settings)}<br><span class="paper">{s.supported} of {s.supported + s.contradicted + s.undecided} '
            f"comparisons supported, {s.contradicted} contradicted</span>",
            f"<details><summary>{escape(QUANTIFIED[s.quantifier])}</summary><code>{escape(s.predicate)}</code>"
            f"<br>{escape(why(s))}</details>",
        ]
        for s in judged.itertuples()
    ]
    return HTML(table(["what the paper says", "verdict", "as a test"], body, "sentences") + "".join(dict.fromkeys(lines)))


QUANTIFIED = {"each": "each has to hold", "overall": "overall", "some": "at least one", "untested": "no run of ours tests it"}


def checks(experiment, *, by: str | None = None, **how) -> HTML:
    """The gradient-masking checks, a line each, a column per network: the means of the rows, judged.

    how : eps, radii, chance, unbounded, as of `checks.judge_checks`; radii : by default the experiment's own
    """
    measured = experiment.rows.groupby(axis(experiment, by), sort=False).mean(numeric_only=True)
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
