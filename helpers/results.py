"""What a run returns, made into what a row stores: metrics as plain numbers, and arrays beside them."""

from collections.abc import Iterable

import numpy as np
import torch

from helpers import names
from helpers.metrics import Scores, auroc

KEPT = tuple(name.partition("{")[0] for name in (names.RIGHT, names.SCORES))  # how names begin that are written here
DIGITS = 7  # significant ones, of a stored metric: what a float32 holds


def split(result: dict, where: str, taken: Iterable[str]) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics {name: number} and arrays {name: array} of what a run returned.

    result : {name: number | bool (N,) | `Scores` | array}. The metric of a bool array is its mean: which images were right is
        stored beside it. The metric of `Scores` is their AUROC, computed from what is stored, float32.
    where : words that begin an error message; taken : names that a metric must not have
    raises TypeError or ValueError for anything else, for numbers that are not finite, and for a run that measured nothing
    """
    if not isinstance(result, dict) or not result:
        kind = "an empty dict" if result == {} else type(result).__name__
        raise TypeError(f"{where}: the run must return {{metric: number or array}}, not {kind}")
    metrics, arrays, scores = {}, {}, {}
    for name, value in result.items():
        if not isinstance(name, str) or not name or name in set(taken) or name.startswith(KEPT):
            raise ValueError(
                f"{where}: a metric cannot be named {name!r}: it must be a word that no argument has, "
                f"and that does not begin with {' or '.join(map(repr, KEPT))}"
            )
        if isinstance(value, Scores):
            sides = {side: _array(scores).astype(np.float32) for side, scores in value.sides().items()}
            scores |= {names.SCORES.format(metric=name, side=side): values for side, values in sides.items()}
            value = auroc(*sides.values()) if _finite(*sides.values()) else np.nan
        value = _array(value)
        if value.ndim == 0:
            metrics[name] = _number(value, where, name)
        elif value.dtype == bool:
            if value.ndim != 1 or not len(value):
                raise ValueError(f"{where}: {name} says which images were right: bool (N,), N at least 1, not {value.shape}")
            metrics[name] = _number(value.mean(), where, name)
            arrays[names.RIGHT.format(metric=name)] = value
        else:
            arrays[name] = value
    arrays |= scores
    if wrong := [name for name, a in arrays.items() if a.dtype.kind not in "biuf"]:
        raise TypeError(f"{where}: {', '.join(wrong)} must hold numbers")
    if bad := [name for name, v in {**metrics, **arrays}.items() if not _finite(np.asarray(v))]:
        raise ValueError(f"{where}: {', '.join(bad)} came out as NaN or infinite; such a row is not stored")
    return metrics, arrays | _once(scores)


def scores_of(arrays: dict[str, np.ndarray], metric: str) -> Scores | None:
    """The scores that a metric was computed from, out of a row's stored arrays; None where there are none."""
    found = [arrays.get(names.SCORES.format(metric=metric, side=side)) for side in ("inside", "outside")]
    if any(side is None for side in found):
        return None
    return Scores(*(arrays[side.item()] if side.dtype.kind == "U" else side for side in found))


def _once(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores that several metrics share, such as those of the clean images, once: the others have the name of the first."""
    stored, first = {}, {}
    for name, values in scores.items():
        same = first.setdefault(values.tobytes(), name)
        stored[name] = values if same == name else np.array(same)
    return stored


def _array(value) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    value = value.detach().cpu().numpy()
    return value.reshape(()) if value.size == 1 and value.dtype != bool else value  # such as the length of one image


def _number(value: np.ndarray, where: str, name: str) -> float:
    if value.dtype.kind not in "biuf":
        raise TypeError(f"{where}: {name} must be a number, not {value.item()!r}")
    return float(f"{float(value):.{DIGITS}g}")


def _finite(*arrays: np.ndarray) -> bool:
    return all(np.isfinite(a).all() for a in arrays)
