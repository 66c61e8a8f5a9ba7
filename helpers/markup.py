"""Pieces of HTML that tables are made of: verdicts, links to rows, pictures, provenance."""

import base64
import io
from html import escape

import numpy as np
import pandas as pd
from IPython.display import HTML, display
from PIL import Image

from helpers import rows as storage
from helpers.claims.settings import ALTERED, Settings

MARKS = {
    "agrees": "✓",
    "differs": "✗",
    "within spread": "≈",
    "undecided": "?",
    "holds": "✓",
    "contradicted": "✗",
    "in part": "◐",
    "survives": "✓",
    "broken": "✗",
    "never there": "∅",
    "never detected": "∅",
    "no verdict": "–",
    "not tested": "–",
}
MANY = {"agrees": "agree", "differs": "differ", "holds": "hold"}


def mark(verdict: str, settings: str = "", condition: str = "") -> str:
    """A verdict as a coloured word with a sign, so that colour is never alone; beside it how the settings relate to the paper's.

    settings : one of `claims.settings.MARKS`; verdicts at altered settings are hatched. condition : of a cell that agrees by
    construction
    """
    css = f"{verdict.replace(' ', '-')} {ALTERED if settings == ALTERED else ''}".strip()
    text = f'<span class="verdict {css}">{MARKS[verdict]} {verdict}</span>'
    if settings:
        text += f' <span class="settings">{escape(settings)}</span>'
    return text + (f' <span class="settings">by construction, if {escape(condition)}</span>' if condition else "")


def rows_link(experiment, group: str, text: str) -> str:
    """A link to the rows of `experiment` whose arguments other than the seed are `group`; to all of them where none are."""
    name = storage.anchor(group)
    at = f"#{name}" if name in map(storage.group_of, experiment.records) else "#"
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


def provenance(*experiments) -> str:
    """The line beneath a table: rows, profile, seeds, device, day, commit. Of several experiments a folded list of such lines."""
    lines = []
    for experiment in experiments:
        status = experiment.status()
        number_of_rows = status["rows"].split()[0]
        count = rows_link(experiment, "", f"{number_of_rows} row{'s' if number_of_rows != '1' else ''}")
        words = [f"{count} at profile <b>{status['profile']}</b>, {status['seeds']} seed{'s' if status['seeds'] != 1 else ''}"]
        words += [escape(status["device"]), status["last row"], f"commit {escape(status['commit'])}"]
        words += [f"<b>{escape(note)}</b>" for note in experiment.notes()]
        lines.append(f'<p class="provenance">{" · ".join(words)}</p>')
    if len(lines) < 2:
        return "".join(lines)
    summary = f"<summary>The rows behind it, of {len(lines)} experiments</summary>"
    return f'<details class="provenance">{summary}{"".join(lines)}</details>'


def settings_line(settings: Settings) -> str:
    """The line beneath a table that says in what the settings differ from the paper's, and what the paper does not say."""
    words = f"<b>{escape(settings.mark.capitalize())}</b>"
    if settings.words:
        words += f": {'; '.join(map(escape, settings.words))}"
    guessed = f". Not in the paper: {', '.join(map(escape, settings.guessed))}" if settings.guessed else ""
    return f'<p class="provenance">{words}{guessed}.</p>'


def bar(verdicts: pd.Series, order: tuple[str, ...], css: str = "") -> str:
    """Counts of verdicts as one bar with words beneath it; what `order` does not name comes last."""
    counts = {v: int((verdicts == v).sum()) for v in [*order, *(v for v in verdicts.unique() if v not in order)]}
    parts = "".join(f'<span class="bar {v.replace(" ", "-")} {css}" style="flex:{n}">{n}</span>' for v, n in counts.items() if n)
    words = ", ".join(f"{n} {v if n == 1 else MANY.get(v, v)}" for v, n in counts.items() if n)
    return f'<div class="bars" role="img" aria-label="{words}">{parts}</div><span class="paper">{words}</span>'


def glue(name: str, html: HTML, *, shown: bool = True) -> None:
    """Display HTML and keep it under a name that any page of the site can show (MyST-NB's `glue`, without needing MyST-NB).

    shown : whether the page of this notebook shows it too
    """
    prefix = "" if shown else "application/papermill.record/"
    display({f"{prefix}text/html": html.data}, raw=True, metadata={"scrapbook": {"name": name, "mime_prefix": prefix}})
