"""The verdict on what stronger attacks leave of a defence's advantage."""

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


def survival(
    defended: Sequence[float], undefended: Sequence[float], advertised: float, *, images: int, variance: float | None = None
) -> dict:
    """Whether a defence's advantage survives: worst case over all attacks per sample, paired by seed.

    defended, undefended : robust accuracies, one per seed, in the same order
    advertised : the advantage that the paper prints. The margin is 5 points, or half of what is advertised where that is less:
        a defence that keeps all of a small promise is not broken
    variance : of the difference from the images, where it is not that of two rates of `images` each
    returns verdict (survives, broken, undecided), advantage, low, high, margin, and `left`: our advantage / the advertised
    """
    a, b = np.asarray(defended, dtype=float), np.asarray(undefended, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or not len(a) or not (np.isfinite(a) & np.isfinite(b)).all():
        raise ValueError("defended and undefended must be finite, not empty, and paired by seed")
    if variance is None:
        variance = sum(claims.image_variance(float(v.mean()), images, None, "other") for v in (a, b))
    low, high = claims.interval(a - b, variance)
    margin = min(claims.CAP["attack"], advertised / 2) if advertised > 0 else claims.CAP["attack"]
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


def detection(before: Sequence[float], after: Sequence[Sequence[float]], *, images: int) -> dict:
    """Whether a detector keeps what it had over guessing, an AUROC of one half: the fields of `survival`, defended, undefended.

    before : AUROC before any attack, one per network; its mean over one half is what is advertised
    after : the same after each of several attacks, (attacks, networks); network by network the one that leaves least counts
    images : of each AUROC
    """
    before, after = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if after.ndim != 2 or before.shape != after.shape[1:]:
        raise ValueError(f"AUROC after is wanted by attack and network, for {before.shape} networks, not {after.shape}")
    worst, guess = after.min(axis=0), np.full(len(before), 0.5)
    variance = claims.image_variance(float(worst.mean()), images, None, "other")
    judged = survival(worst, guess, float(before.mean()) - 0.5, images=images, variance=variance)
    if len(worst) > 1:
        judged |= {k: float(np.clip(judged[k], -0.5, 0.5)) for k in ("low", "high")}
    if judged["advertised"] <= 0:
        judged["left"] = float("nan")  # of nothing
    return {"defended": float(worst.mean()), "undefended": 0.5, **judged}
