"""The grammar of metric and array names: one template writes a name and reads it again.

A chapter keeps a template such as "{attack} attack {eps:g}", writes metrics with `template.format(attack=..., eps=...)` and reads
them with `Experiment.long(template, attack=..., eps=...)`. The names that `helpers` itself writes and reads stand here.
"""

import itertools
import re
from collections.abc import Iterable, Iterator

# of a metric: the standard error of `metric` over the images, and how far `metric` lies below the clean one
SE, DROP = "se {metric}", "drop {metric}"
DOUBLED = "{metric}, twice the budget"  # what a worst case leaves when its attacks have twice the budget
# of stored arrays: which images were right, and a detector's scores of images inside and outside the distribution
RIGHT, SCORES = "right: {metric}", "scores: {metric}, {side}"
# of a feature space: what `geometry.projection` writes and `plots.pca3d` reads, by kind of image
PREDICTION, CONFIDENCE, LABEL, AUROC = "{kind}_prediction", "{kind}_confidence", "{kind}_label", "AUROC {kind}"


def se(metric: str) -> str:
    """The name of a metric's standard error over the images."""
    return SE.format(metric=metric)


def drop(metric: str) -> str:
    """The name of how far a metric lies below the clean one."""
    return DROP.format(metric=metric)


def doubled(metric: str) -> str:
    """The name of a worst case when its attacks have twice the budget."""
    return DOUBLED.format(metric=metric)


def is_derived(metric: str) -> bool:
    """Whether a metric is the standard error or the drop of another one."""
    return metric.startswith((se(""), drop("")))


def measured(array: str) -> tuple[str, str] | None:
    """RIGHT or SCORES, and the metric, for the name of an array that holds a metric's bits or scores; None for any other."""
    for template in (RIGHT, SCORES):
        pattern = re.escape(template).replace(r"\{metric\}", "(.+)").replace(r"\{side\}", "(?:inside|outside)")
        if match := re.fullmatch(pattern, array, re.DOTALL):
            return template, match[1]
    return None


def expand(template: str, **values: Iterable) -> Iterator[tuple[dict, str]]:
    """Every combination of `values`, with the name that the template gives it.

    raises KeyError for a field of the template without values
    """
    for combination in itertools.product(*values.values()):
        fields = dict(zip(values, combination, strict=True))
        yield fields, template.format(**fields)
