"""What the verdicts on an experiment are drawn from: stored bits and scores, its settings, and the paper's own attack."""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pandas as pd

from helpers import checks as masking
from helpers import claims, names
from helpers.claims import statistics
from helpers.claims.defences import NONE, Suite
from helpers.claims.printed import facts
from helpers.claims.settings import UNJUDGED, Settings, compare_settings

CLOSE = 1e-6  # a stored rate has seven digits


def settings_of(experiment, source: str, *, strict: bool = True) -> Settings:
    """How an experiment's settings relate to what its paper declares for a source.

    strict : whether a declared name that the experiment does not have is an error; else it is passed over
    """
    first, paper = experiment.records[0], experiment.study.paper
    how = claims.declared(paper, source), claims.unstated(paper, source)
    return compare_settings(first["settings"], first["data"], *how, strict=strict)


def bits_of(experiment, by: str) -> Callable[[str, str], dict[int, np.ndarray] | None]:
    """(row, column) -> which images were right, by seed, as far as they are stored; None where they are not.

    A column that a chapter has put in place of the stored one has none: its values are not the means of the bits.
    """

    @cache
    def found(row: str, column: str) -> dict[int, np.ndarray] | None:
        mine = _stored(experiment, by, row, column)
        if mine is None:
            return None
        role = next(iter(experiment.records[0]["data"]), "")
        right = experiment.right(column, role, **{by: row}).images if role else {}
        means = mine.set_index("seed")[column]
        return {s: b for s, b in right.items() if abs(b.mean() - means[s]) < CLOSE} or None

    return found


def measured_of(experiment, by: str, *, matched: bool) -> Callable[[str, str], statistics.Estimate | None]:
    """(row, column) -> the estimate of a rate from its bits, or of an AUROC from its scores; None where some network lacks them.

    matched : whether each image outside was made from one inside, where there are as many
    """
    bits = bits_of(experiment, by)

    @cache
    def found(row: str, column: str) -> statistics.Estimate | None:
        mine = _stored(experiment, by, row, column)
        if mine is None:
            return None
        right, seeds = bits(row, column) or {}, sorted(mine.seed)
        if set(right) == set(seeds) and len({len(b) for b in right.values()}) == 1:
            return statistics.crossed(np.array([right[s] for s in seeds]))
        scores = experiment.scores(column, **{by: row})
        sides = [[scores[s].sides()[side] for s in seeds] for side in ("inside", "outside")] if set(scores) == set(seeds) else []
        if not sides or any(len({len(x) for x in side}) > 1 for side in sides):
            return None
        inside, outside = map(np.array, sides)
        return statistics.auroc(inside, outside, matched=matched and inside.shape == outside.shape)

    return found


def rerun_of(experiment, by: str, metric: str, rows: list[str]):
    """The experiment of the same study that holds our rerun of the paper's own attack on the same networks; None without one.

    It has the metric for all of `rows`, and every group of settings that both have is the same: so the networks are.
    """
    return next((e for e in _on_same_networks(experiment) if _has(e, by, metric, rows)), None)


def suite_of(experiment, by: str, row: str, metric: str) -> Suite:
    """What is known of the attacks behind a worst case: the rows of `attacks.worst_case` have the same at twice the budget, and
    another experiment on the same networks the masking checks.

    Rows without the one are of other attacks than the suite; networks without the other have not been checked.
    """
    doubled, rows = names.doubled(metric), experiment.rows
    if doubled not in rows:
        return Suite()
    mine = rows[rows[by] == row]
    checked = next((e for e in _on_same_networks(experiment) if _has(e, by, "PGD transferred", [row])), None)
    flags = None
    if checked is not None:
        measured = checked.rows[checked.rows[by] == row].mean(numeric_only=True)
        flags = masking.flags_of(measured, eps=checked.settings["eps"], radii=checked.settings["radii"])
    return Suite(complete=True, doubled=float((mine[metric] - mine[doubled]).mean()), flags=flags)


def _has(experiment, by: str, metric: str, rows: list[str]) -> bool:
    """Whether an experiment has the metric for all of the rows."""
    there = experiment.rows
    return metric in there and by in there and set(rows) <= set(there.loc[there[metric].notna(), by])


def _on_same_networks(experiment) -> Iterator:
    """The other experiments of the study at the same profile whose groups of settings, as far as both have them, are the same."""
    groups = {k: v for k, v in experiment.settings.items() if isinstance(v, dict)}
    for other in experiment.study.experiments:
        shared = groups.keys() & other.settings.keys()
        same = shared and all(other.settings[k] == groups[k] for k in shared) and other.profile == experiment.profile
        if same and other.name != experiment.name and not other.unavailable:
            yield other


def paired(paper: str, source: str) -> bool:
    """Whether networks of one seed are compared as pairs: they share initialisation, split and order of batches unless the
    claims declare them `[[unpaired]]`, with the reason."""
    return not facts(paper, "unpaired", source)


def at_hand(experiment, source: str, images: int | str) -> int:
    """The most images that could be measured: of a data set's test images, as many as the paper declares."""
    mine = images_of(experiment, images)
    declared = claims.declared(experiment.study.paper, source).get("test images", mine) if images == "test" else mine
    return max(mine, declared)


def substituted(settings: Settings) -> bool:
    """Whether another network, dataset or threat model took the place of the paper's: then there is no verdict."""
    return settings.mark in UNJUDGED


def images_of(experiment, images: int | str) -> int:
    """How many images: a number, one of the experiment's settings, or the role of a split."""
    if not isinstance(images, str):
        return images
    return experiment.settings[images] if images in experiment.settings else experiment.images(images)


def marked(judged: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """What was judged, with its settings mark; without verdicts where network, dataset or threat model are not the paper's."""
    judged = judged.assign(settings=settings.mark)
    if not substituted(settings):
        return judged
    nothing = {"needed_networks": np.nan, "needed_images": np.nan, "chance": np.nan}
    return judged.assign(verdict=NONE, reason=settings.mark, **nothing)


def _stored(experiment, by: str, row: str, column: str):
    """The rows of one line with a column, where each is a stored row of its own; else None."""
    rows = experiment.rows
    if "key" not in rows or column not in rows:
        return None
    mine = rows[rows[by] == row]
    keys = {record["key"] for record in experiment.records}
    return mine if len(mine) and not mine.seed.duplicated().any() and set(mine.key) <= keys else None
