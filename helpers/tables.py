"""Tables of the page, as HTML: paper against ours, sentences, provenance, the chapter's line on the front page.

A number links to the rows behind it: `../results/<paper>/<profile>/<run>.jsonl#<group>`. In JupyterLab that opens the file; the
site turns it into a page that explains each row.
"""

import base64
import io
from collections.abc import Callable
from functools import partial
from html import escape

import numpy as np
import pandas as pd
from IPython.display import HTML, display
from PIL import Image

from helpers import claims
from helpers import rows as storage
from helpers.formats import amount, number, percent, without_zeros  # noqa: F401  a chapter says tables.number

MARKS = {
    "agrees": "✓",
    "differs": "✗",
    "undecided": "?",
    "holds": "✓",
    "contradicted": "✗",
    "in part": "◐",
    "survives": "✓",
    "broken": "✗",
}
MANY = {"agrees": "agree", "differs": "differ", "holds": "hold"}


def mark(verdict: str) -> str:
    """A verdict as a coloured word with a sign, so that colour is never alone."""
    return f'<span class="verdict {verdict.replace(" ", "-")}">{MARKS[verdict]} {verdict}</span>'


def rows_link(experiment, group: str, text: str) -> str:
    """A link to the rows of `experiment` whose arguments other than the seed are `group`; to all of them where none are."""
    name = storage.anchor(group)
    at = f"#{name}" if name in map(storage.group_of, experiment.rows) else "#"
    target = f"../results/{experiment.study.paper}/{experiment.profile}/{experiment.name}.jsonl{at}"
    return f'<a href="{escape(target)}" title="the rows behind this number">{text}</a>'


def table(head: list[str], body: list[list[str]], css: str = "") -> str:
    """An HTML table from escaped text or ready HTML; the first column is the row's head."""
    top = "".join(f'<th scope="col">{h}</th>' for h in head)
    lines = "".join(f'<tr><th scope="row">{line[0]}</th>' + "".join(f"<td>{c}</td>" for c in line[1:]) + "</tr>" for line in body)
    return f'<div class="wide"><table class="claims {css}"><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def picture(pixels: np.ndarray, alt: str) -> str:
    """An image (H, W, 3) uint8 as an HTML image that brings its pixels along, to stand in a cell of `table`."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/jpeg;base64,{data}" width="{pixels.shape[1]}" height="{pixels.shape[0]}">'


def means_table(
    rows: pd.DataFrame,
    experiment,
    row_axis: str,
    columns: list[str],
    also: dict[tuple[str, str], str] | None = None,
    unit: str = "",
    small: str = "MAPE",
) -> HTML:
    """Our means with their 95 % intervals over networks where the paper prints nothing to compare with; numbers link to rows.

    rows : of `experiment.grid`; a line per value of `row_axis`; a column that a row does not have stays empty
    also : as in `paper_table`; unit : "%" prints rates in percent
    small : columns with this word in their name are shares that may be tiny: in percent, to two significant digits
    """
    body = []
    for row in dict.fromkeys(rows[row_axis]):
        line = [escape(str(row))]
        for column in columns:
            words = (also or {}).get((row, column))
            more = f'<br><span class="paper">{escape(words)}</span>' if words else ""
            line.append(mean_cell(rows, experiment, row_axis, row, column, "small %" if small in column else unit) + more)
        body.append(line)
    many = rows.groupby(row_axis).seed.nunique().max() > 1
    notes = ["in percent"] * (unit == "%") + ["± is the 95 % interval over networks"] * bool(many)
    line = f'<p class="provenance">{"; ".join(notes).capitalize()}.</p>' if notes else ""
    head = [f"{escape(c)}, %" if small in c else escape(c) for c in columns]
    return HTML(table(["", *head], body) + line + provenance(experiment))


def mean_cell(rows: pd.DataFrame, experiment, row_axis: str, row: str, column: str, unit: str = "") -> str:
    """One cell of `means_table`: our mean, with its 95 % interval over networks if there are several, linked to its rows.

    unit : "%" prints percent, "small %" percent to two significant digits
    A row without the column, or with no number in it, gives a dash.
    """
    text = percent if unit == "small %" else partial(amount, printed=unit)
    values = claims.by_seed(rows, row_axis, row, column).dropna() if column in rows else pd.Series(dtype=float)
    if values.empty:
        return "–"
    low, high = claims.interval(values.to_numpy())
    spread = f" ± {text((high - low) / 2)}" if len(values) > 1 else ""
    return rows_link(experiment, str(row), f"<b>{text(values.mean())}</b>{spread}")


def provenance(*experiments) -> str:
    """The line beneath a table: rows, profile, seeds, device, day, commit. Of several experiments a folded list of such lines."""
    lines = []
    for experiment in experiments:
        status = experiment.status()
        number_of_rows = status["rows"].split()[0]
        count = rows_link(experiment, "", f"{number_of_rows} row{'s' if number_of_rows != '1' else ''}")
        words = [f"{count} at profile <b>{status['profile']}</b>, {status['seeds']} seed{'s' if status['seeds'] != 1 else ''}"]
        words += [escape(status["device"]), status["last row"], f"commit {escape(status['commit'])}"]
        lines.append(f'<p class="provenance">{" · ".join(words)}</p>')
    if len(lines) < 2:
        return "".join(lines)
    summary = f"<summary>The rows behind it, of {len(lines)} experiments</summary>"
    return f'<details class="provenance">{summary}{"".join(lines)}</details>'


def beside(cells: pd.DataFrame, source: str, words: str) -> dict[tuple[str, str], str]:
    """The numbers of a source, to show under our own: {(row, column): "words .746"}. raises KeyError for an unknown source"""
    mine = cells[cells.source == source]
    if mine.empty:
        raise KeyError(f"the claims have nothing from {source!r}")
    return {(c.row, c.column): f"{words} {without_zeros(c.value)}" for c in mine.itertuples()}


def paper_table(
    result: pd.DataFrame,
    experiment,
    declared: dict,
    also: dict[tuple[str, str], str] | None = None,
    group: Callable[[str], str] = str,
) -> HTML:
    """The paper's table with our number, its 95 % interval and a verdict in each cell; each number links to its rows.

    result : of `claims.compare`; declared : what the paper says of its settings, as in `claims.reduced`
    also : further words under a cell, by (row, column)
    group : of a row of the table, the rows of the experiment that it links to; "" for all of them
    """
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
            words = (also or {}).get((row, column))
            more = f'<span class="paper">{escape(words)}</span><br>' if words else ""
            line.append(f'{ours}<br><span class="paper">paper {without_zeros(c.printed)}</span><br>{more}{mark(c.verdict)}')
        body.append(line)
    return HTML(
        table(["", *map(escape, columns)], body, "paper-table")
        + reduced_line(experiment, declared)
        + provenance(experiment)
        + _details(result)
    )


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


def sentence_table(sentences: pd.DataFrame) -> HTML:
    """The paper's sentences with their verdicts. sentences : columns `value`, `predicate` and the fields of `judge_sentence`."""
    body = [
        [
            escape(s.value),
            f'{mark(s.verdict)}<br><span class="paper">{s.supported} of {s.supported + s.contradicted + s.undecided} comparisons '
            f"supported, {s.contradicted} contradicted</span>",
            f"<details><summary>predicate</summary><code>{escape(s.predicate)}</code></details>",
        ]
        for s in sentences.itertuples()
    ]
    return HTML(table(["what the paper says", "verdict", "as a test"], body, "sentences"))


def reduced_line(experiment, declared: dict) -> str:
    """The line beneath a table that says in what an experiment's runs are smaller than the paper's."""
    first = experiment.rows[0]
    reduced = claims.reduced(first["settings"], first["data"], declared)
    words = "Reduced: " + "; ".join(map(escape, reduced)) if reduced else "Nothing that the paper declares is reduced"
    return f'<p class="provenance">{words}.</p>'


def survival_table(survivals: pd.DataFrame, experiment, declared: dict, unit: str = "") -> HTML:
    """What stronger attacks leave of each defence. survivals : of `defences.survivals`; numbers link to the rows.

    unit : "%" prints rates in percent
    """

    def text(value: float) -> str:
        return amount(value, unit)

    head = ["", "worst case", "undefended, worst case", "advantage (95 % interval)", "advertised", "left", "margin", "verdict"]
    body = [
        [
            escape(s.row),
            rows_link(experiment, s.row, f"<b>{text(s.defended)}</b>"),
            text(s.undefended),
            f"{text(s.advantage)} ({text(s.low)} to {text(s.high)})",
            text(s.advertised),
            f"{max(s.left, 0):.0%}" if np.isfinite(s.left) else "–",  # who ends below the undefended has nothing left
            text(s.margin),
            mark(s.verdict),
        ]
        for s in survivals.itertuples()
    ]
    return HTML(table(head, body) + reduced_line(experiment, declared) + provenance(experiment))


def detection_table(judged: pd.DataFrame) -> HTML:
    """What is left of detectors under attack. judged : `row`, `experiment` and the fields of `defences.detection`."""
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
    return HTML(table(head, body) + note + provenance(*{id(e): e for e in judged.experiment}.values()))


def checks_table(judged: dict[str, list[tuple[str, bool, str]]], experiment) -> HTML:
    """The gradient-masking checks, a line each, a column per network. judged : {row: of `checks.judge_checks`}"""
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


def bar(verdicts: pd.Series, order: tuple[str, ...]) -> str:
    """Counts of verdicts as one bar with words beneath it."""
    counts = {v: int((verdicts == v).sum()) for v in order}
    parts = "".join(f'<span class="bar {v.replace(" ", "-")}" style="flex:{n}">{n}</span>' for v, n in counts.items() if n)
    words = ", ".join(f"{n} {v if n == 1 else MANY.get(v, v)}" for v, n in counts.items() if n)
    return f'<div class="bars" role="img" aria-label="{words}">{parts}</div><span class="paper">{words}</span>'


def scoreboard(
    link: str, title: str, printed: int, cells: pd.DataFrame, sentences: pd.DataFrame, survivals: pd.DataFrame
) -> HTML:
    """A chapter's line on the front page: verdicts of numbers and sentences, and what stronger attacks left of each defence.

    printed : numbers that the paper prints; cells : those compared, of `claims.compare`, a repeated one counted once
    sentences : of `claims.judge_sentences`; survivals : of `defences.survivals`
    """
    cells = cells[cells.same_as == ""]
    of_verdict = {v: survivals.row[survivals.verdict == v] for v in ("survives", "undecided", "broken")}
    stronger = "<br>".join(f"{mark(v)}: {'; '.join(map(escape, names))}" for v, names in of_verdict.items() if len(names))
    line = [
        f'<a href="{escape(link)}">{escape(title)}</a>',
        bar(cells.verdict, ("agrees", "undecided", "differs")),
        bar(sentences.verdict, ("holds", "in part", "undecided", "contradicted")),
        stronger,
    ]
    head = ["paper", f"{len(cells)} of {printed} printed numbers", f"{len(sentences)} sentences", "under stronger attacks"]
    return HTML(table(head, [line], "scoreboard"))


def status_table(study) -> HTML:
    """Where a chapter's numbers come from: one line per experiment, linked to its rows."""
    lines = [e.status() for e in study.experiments]
    body = [
        [rows_link(e, "", line["experiment"]), *(escape(str(v)) for k, v in line.items() if k != "experiment")]
        for e, line in zip(study.experiments, lines, strict=True)
    ]
    return HTML(table(list(lines[0]), body))


def glue(name: str, html: HTML) -> None:
    """Display HTML and keep it under a name that any page of the site can show (MyST-NB's `glue`, without needing MyST-NB)."""
    display({"text/html": html.data}, raw=True, metadata={"scrapbook": {"name": name, "mime_prefix": ""}})
