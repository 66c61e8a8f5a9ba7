"""What stronger attacks leave of a defence: the verdict on its advantage over the undefended network."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from helpers import claims


def survivals(
    cells: pd.DataFrame,
    rows: pd.DataFrame,
    source: str,
    *,
    row_axis: str,
    undefended: str,
    advertised: str,
    metric: str,
    images: int,
    errors: bool = False,
) -> pd.DataFrame:
    """`survival` of every row but `undefended`; the advantage advertised is the paper's, in the column `advertised`.

    errors : whether that column counts errors, or successes of the adversary, so that less of it is better
    """
    accuracy = rows.pivot_table(index="seed", columns=row_axis, values=metric)
    if accuracy.isna().any(axis=None):
        raise ValueError(f"{metric} lacks seeds for some networks: defended and undefended cannot be paired")
    lines = []
    for row in (name for name in rows[row_axis].unique() if name != undefended):
        promise = claims.value(cells, source, row, advertised) - claims.value(cells, source, undefended, advertised)
        promise = -promise if errors else promise
        result = survival(accuracy[row], accuracy[undefended], promise, images=images)
        lines.append({"row": row, "defended": accuracy[row].mean(), "undefended": accuracy[undefended].mean(), **result})
    return pd.DataFrame(lines)


def survival(defended: Sequence[float], undefended: Sequence[float], advertised: float, *, images: int) -> dict:
    """Whether a defence's advantage survives: worst case over all attacks per sample, paired by seed.

    defended, undefended : robust accuracies, one per seed, in the same order
    advertised : the advantage that the paper prints
    returns verdict (survives, broken, undecided), advantage, low, high, margin, and `left`: our advantage / the advertised
    """
    a, b = np.asarray(defended, dtype=float), np.asarray(undefended, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or not len(a) or not (np.isfinite(a) & np.isfinite(b)).all():
        raise ValueError("defended and undefended must be finite, not empty, and paired by seed")
    variance = sum(claims.image_variance(float(v.mean()), images, None, "other") for v in (a, b))
    low, high = claims.interval(a - b, variance)
    margin = claims.CAP["attack"]
    verdict = "survives" if low > margin else "broken" if high < margin else "undecided"
    advantage = float((a - b).mean())
    return {
        "verdict": verdict,
        "advantage": advantage,
        "low": low,
        "high": high,
        "margin": margin,
        "advertised": advertised,
        "left": advantage / advertised if advertised else float("nan"),
    }
