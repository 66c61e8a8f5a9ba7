"""Tables of what stronger attacks left of defences and detectors."""

from collections.abc import Callable, Iterable
from functools import partial
from html import escape

import numpy as np
import pandas as pd
from IPython.display import HTML

from helpers import claims, judging
from helpers.averages import axis
from helpers.claims.defences import survivals
from helpers.claims.printed import facts
from helpers.formats import amount, number
from helpers.markup import mark, provenance, rows_link, settings_line, table
from helpers.reasons import why


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
    before=None,
    **how,
) -> HTML:
    """What stronger attacks leave of each defence; numbers link to the rows.

    source, by, declared, count, images : as of `paper`; unit : "%" prints rates in percent
    metric : the worst case among the rows' metrics; {words: metric} for several, whose lines are named by the words, in which
        {row} stands for the defence
    before : the experiment with our rerun of the paper's own attack on the same networks; by default it is looked for
    how : further arguments of `claims.defences.survivals`; who is undefended and what is advertised stands in the claims
    judged : of `claims.defences.survivals` or made like it, where the experiment is judged in another way
    """
    settings = judging.settings_of(experiment, declared or source, strict=False)
    if judged is None:
        how = {**_advertised(experiment.study.paper, source), **how}
        if not {"advertised", "undefended"} <= how.keys():
            raise ValueError(f"name the undefended network and the advertised column: the claims declare none for {source!r}")
        cells, by = claims.read(experiment.study.paper), axis(experiment, by)
        before = before or judging.rerun_of(experiment, by, how["advertised"], list(experiment.rows[by].unique()))
        how |= {"row_axis": by, "images": judging.images_of(experiment, images), "substituted": judging.substituted(settings)}
        how |= {"paired": judging.paired(experiment.study.paper, source)}
        how |= {"bits": judging.bits_of(experiment, by), "at_hand": judging.at_hand(experiment, declared or source, images)}
        how |= {"before": before.rows, "before_images": judging.images_of(before, images)} if before else {}
        parts = []
        for words, name in (metric if isinstance(metric, dict) else {"{row}": metric}).items():
            suites = partial(judging.suite_of, experiment, by, metric=name)
            found = survivals(cells, experiment.rows, source, metric=name, suites=suites, **how)
            parts.append(found.assign(group=found.row, row=[words.format(row=row) for row in found.row]))
        judged = pd.concat(parts, ignore_index=True)
    judged = judging.marked(judged, settings)
    experiment.judge("survivals", judged.assign(source=source), count=count)

    def text(value: float) -> str:
        return amount(value, unit)

    head = ["", "verdict", "worst case", "undefended, worst case", "advantage (95 % interval)", "under the paper’s attack"]
    head += ["advertised", "left", "margin", "why"]
    body = [
        [
            escape(s.row),
            mark(s.verdict, s.settings),
            rows_link(experiment, getattr(s, "group", s.row), f"<b>{text(s.defended)}</b>"),
            text(s.undefended),
            _between(text, s.advantage, s.low, s.high),
            _between(text, getattr(s, "before", np.nan), getattr(s, "before_low", np.nan), getattr(s, "before_high", np.nan)),
            text(s.advertised),
            f"{max(s.left, 0):.0%}" if np.isfinite(s.left) else "–",  # who ends below the undefended has nothing left
            text(s.margin),
            escape(why(s)),
        ]
        for s in judged.itertuples()
    ]
    return HTML(table(head, body) + settings_line(settings) + provenance(experiment))


def _advertised(paper: str, source: str) -> dict:
    """Who is undefended and which column advertises an advantage, as `[[advertised]]` in the claims declares it."""
    for entry in facts(paper, "advertised", source):
        return {"undefended": entry["undefended"], "advertised": entry["column"], "errors": entry.get("errors", False)}
    return {}


def detected(row: str, experiment, before: str, *after: str, images: int, also: Iterable[tuple] = ()) -> dict:
    """What attacks leave of one detector, a line for `detection`: `claims.detection` of an experiment's metrics.

    before, after : metrics with the AUROC, one before any attack and one for each attack. The FPR at 95 % TPR of "AUROC past" is
        the metric "FPR past", that of any other "x" is "FPR x". Where an attack has none, the verdict lacks that scale
    images : of each side; also : (experiment, metric) of other experiments. They count where they stand at the same profile
    """
    ways = [(experiment, m) for m in after] + [(e, m) for e, m in also if e.profile == experiment.profile]

    def of(pairs, name):
        return [e.rows.groupby("seed")[name(m)].mean() for e, m in pairs if name(m) in e.rows]

    first, rates, passed = of([(experiment, before)], _fpr), of(ways, str), of(ways, _fpr)
    how = {"fpr_before": first[0]} if first else {}
    how |= {"fpr_after": passed} if first and len(passed) == len(ways) else {}
    found = claims.detection(of([(experiment, before)], str)[0], rates, images=images, **how)
    return {"row": row, "experiment": experiment, **found}


def _fpr(metric: str) -> str:
    """The metric with the FPR at 95 % TPR beside one with the AUROC."""
    return f"FPR {metric.removeprefix('AUROC')}".replace("  ", " ").strip()


def _between(text: Callable[[float], str], mean: float, low: float, high: float) -> str:
    """A mean and its interval, where it has one."""
    return f"{text(mean)} ({text(low)} to {text(high)})" if np.isfinite([low, high]).all() else text(mean)


def detection(judged: pd.DataFrame, *, count: bool | list[str] = True) -> HTML:
    """What is left of detectors under attack. judged : `row`, `experiment` and the fields of
    `claims.detectors.detection`.

    count : whether the scoreboard counts them, or the rows that it counts
    """
    counted = judged.row.isin(count) if isinstance(count, list) else pd.Series(bool(count), judged.index)
    for d, counts in zip(judged.itertuples(), counted, strict=True):
        line = judged.loc[[d.Index]].drop(columns="experiment").assign(source="")
        d.experiment.judge("survivals", line, count=bool(counts))
    head = ["", "verdict", "AUROC before", "worst case", "over guessing (95 % interval)", "left", "FPR before", "FPR", "why"]
    body = [
        [
            escape(d.row),
            mark(d.verdict),
            number(0.5 + d.advertised),
            rows_link(d.experiment, "", f"<b>{number(d.defended)}</b>"),
            _between(number, d.advantage, d.low, d.high),
            f"{max(d.left, 0):.0%}" if np.isfinite(d.left) else "–",
            number(getattr(d, "fpr_before", np.nan)),
            number(getattr(d, "fpr", np.nan)),
            escape(why(d)),
        ]
        for d in judged.itertuples()
    ]
    note = "" if np.isfinite(judged.low).all() else '<p class="provenance">Without an interval: one network.</p>'
    return HTML(table(head, body) + note + provenance(*{e.name: e for e in judged.experiment}.values()))
