"""What a chapter found, on one line, and what would decide what it left undecided."""

from collections.abc import Callable
from html import escape

import numpy as np
import pandas as pd
from IPython.display import HTML

from helpers import claims
from helpers.claims.defences import BROKEN, NEVER, NONE, SURVIVES, UNDECIDED
from helpers.claims.detectors import NEVER_DETECTED
from helpers.claims.sentences import UNTESTED
from helpers.claims.settings import ALTERED, UNJUDGED
from helpers.claims.settings import MARKS as SETTINGS
from helpers.markup import bar, mark, rows_link, table
from helpers.reasons import NOTHING, because, remedy, wanted

NUMBERS = ("agrees", "within spread", "undecided", "differs")
SENTENCES = ("holds", "in part", "undecided", "contradicted")
DEFENCES = (SURVIVES, UNDECIDED, BROKEN, NEVER, NEVER_DETECTED, NONE)
OPEN = (UNDECIDED, NONE, UNTESTED)  # what is no decided verdict
FEW = 10  # networks
PAGE = "undecided.html"  # would more runs decide it?
WRONG = 0.05  # of decided verdicts, the most that noise can have earned


def scoreboard(study, page: str, title: str, sources: Callable[[str], bool] = bool) -> HTML:
    """A chapter's line on the front page: verdicts of numbers and sentences, and what stronger attacks left of each defence.

    Everything that the tables above judged and that counts is in it; a number that repeats another one is counted once, one that
    agrees by construction not at all. Verdicts at the paper's settings, unstated and altered ones are counted apart.
    sources : which sources of the claims the chapter is about; by default all
    """
    cells, said = counted_numbers(study), study.judged_of("sentences", counted=True)
    printed = claims.read(study.paper)
    printed = claims.count(printed[[sources(source) for source in printed.source]], study.paper)
    left = study.judged_of("survivals", counted=True)
    of_verdict = {v: left.row[left.verdict == v] for v in DEFENCES}
    stronger = "<br>".join(f"{mark(v)}: {'; '.join(map(escape, rows))}" for v, rows in of_verdict.items() if len(rows))
    judged = cells[cells.verdict != NONE]
    decided = sum(int((~frame.verdict.isin(OPEN)).sum()) for frame in (cells, said, left))
    wrong = f"{decided} decided verdicts, of which up to {int(np.ceil(WRONG * decided))} may be wrong if all lay on the margin"
    line = [
        f'<a href="{escape(page)}">{escape(title)}</a><br><span class="paper">{wrong}. '
        f'<a href="{PAGE}#{anchor_of(page)}">What is undecided, and what would decide it</a></span>',
        _by_settings(cells, NUMBERS),
        _by_settings(said, SENTENCES),
        stronger,
    ]
    head = ["paper", f"{len(judged)} of {printed} printed numbers", f"{len(said)} sentences", "under stronger attacks"]
    return HTML(table(head, [line], "scoreboard"))


def anchor_of(page: str) -> str:
    """Where a chapter's part begins on the page of what is undecided: "undecided-05b" for 05b_ood_detectors.html."""
    return f"undecided-{page.split('_')[0]}"


def counted_numbers(study) -> pd.DataFrame:
    """The printed numbers that count: each once, none that follows from another, and none that agrees by construction."""
    cells = study.judged_of("numbers", counted=True)
    constructed = (cells.verdict == "agrees") & (cells.get("condition", pd.Series("", cells.index)).fillna("") != "")
    follows = cells.get("follows", pd.Series("", cells.index)).fillna("") != ""
    return cells[(cells.same_as == "") & ~constructed & ~follows]


def _by_settings(judged: pd.DataFrame, order: tuple[str, ...]) -> str:
    """A bar for each settings mark, so that no count mixes them; what was substituted or not tested is only counted."""
    parts = []
    for settings in SETTINGS:
        mine = judged[(judged.get("settings") == settings) & ~judged.verdict.isin((NONE, UNTESTED))]
        if len(mine) and settings not in UNJUDGED:
            css = ALTERED if settings == ALTERED else ""
            parts.append(f'<span class="settings">{escape(settings)}</span>{bar(mine.verdict, order, css)}')
    for verdict, words in ((NONE, "substituted, no verdict"), (UNTESTED, "not tested")):
        if number := int((judged.verdict == verdict).sum()):
            parts.append(f'<span class="paper">{number} {words}</span>')
    return "<br>".join(parts)


def undecided(study, *, counted: bool = True) -> HTML:
    """Would more runs decide it? Every undecided number, sentence and defence: its reason, what would decide it, the chance.

    counted : only what the scoreboard counts
    """
    questions = open_questions(study, counted=counted)
    body = [
        [escape(what), escape(kind), escape(remedy(line)), _chance(line), escape(because(line))] for kind, what, line in questions
    ]
    head = ["undecided", "", "what would decide it", "chance", "why"]
    return HTML(f"<p>{_in_short([line for _, _, line in questions])}</p>{table(head, body, 'undecided')}")


def _in_short(lines: list) -> str:
    """How many would be decided by what."""
    few = [line for line in lines if wanted(line) and _known(line, "needed_networks") <= FEW]
    more = [line for line in lines if wanted(line) and _known(line, "needed_networks") > FEW]
    never = [line for line in lines if remedy(line) == NOTHING]
    rest = len(lines) - len(few) - len(more) - len(never)
    parts = [f"{len(few)} would be decided by at most {FEW} networks, or by more images", f"{len(more)} by more networks"]
    parts += [f"{rest} by other attacks or measurements"] * bool(rest)
    return f"{len(lines)} are undecided: {', '.join(parts)}, and {len(never)} by nothing in reach."


def open_questions(study, *, counted: bool = True) -> list[tuple[str, str, tuple]]:
    """(kind, name, what was judged) of everything undecided; first what the fewest networks would decide with the best chance."""
    numbers = counted_numbers(study) if counted else study.judged_of("numbers")
    frames = {"number": numbers, "sentence": study.judged_of("sentences", counted=counted)}
    frames["defence"] = study.judged_of("survivals", counted=counted)
    names = {
        "number": lambda line: f"{line.source}: {line.row}, {line.column}",
        "sentence": lambda line: line.value,
        "defence": lambda line: line.row,
    }
    found = [
        (kind, names[kind](line), line)
        for kind, frame in frames.items()
        for line in frame.itertuples()
        if line.verdict == UNDECIDED
    ]
    return sorted(found, key=lambda q: (not wanted(q[2]), -_known(q[2], "chance"), _known(q[2], "needed_networks")))


def _known(line, name: str) -> float:
    value = getattr(line, name, np.nan)
    return float(value) if np.isfinite(value) else 0.0


def _chance(line) -> str:
    return f"{line.chance:.0%}" if wanted(line) and np.isfinite(line.chance) else "–"


def status(study) -> HTML:
    """Where a chapter's numbers come from: one line per experiment, linked to its rows; notes stand beneath its name."""
    lines, body = [e.status() for e in study.experiments], []
    for e, line in zip(study.experiments, lines, strict=True):
        name, notes = line.pop("experiment"), line.pop("notes")
        more = f'<br><span class="paper">{escape(notes)}</span>' if notes else ""
        body.append([rows_link(e, "", name) + more, *(escape(str(v)) for v in line.values())])
    return HTML(table(["experiment", *lines[0]], body))
