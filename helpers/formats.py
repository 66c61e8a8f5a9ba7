"""Numbers as a reader sees them: rates as this field prints them, percent where the paper does, tiny shares to two digits."""

import re

import numpy as np


def number(value: float, digits: int = 3) -> str:
    """A rate as it is printed in this field: `.885`; 1 stays `1.000`."""
    if not np.isfinite(value):
        return "–"
    text = f"{round(float(value), digits) + 0.0:.{digits}f}"  # + 0.0 turns a rounded -0 into 0
    return without_zeros(text).replace("-", "−")


def amount(value: float, printed: str = "", digits: int = 1) -> str:
    """A number in the unit in which the paper prints its own: 0.3514 beside "35.14 %" is `35.1`, beside "0.35" `.351`.

    digits : of a percentage; a fraction has two more
    """
    if not printed.endswith("%") or not np.isfinite(value):
        return number(value, digits + 2)
    return f"{round(100 * float(value), digits) + 0.0:.{digits}f}".replace("-", "−")


def percent(value: float) -> str:
    """A share of any size in percent, to two significant digits: 0.00124 is `0.12`, 0.3456 `35`; beyond 1000 % only that."""
    if not np.isfinite(value):
        return "–"
    if value == 0 or value > 10:
        return "0" if value == 0 else "> 1000"
    rounded = float(f"{100 * value:.1e}")
    return f"{rounded:.{max(0, 1 - int(np.floor(np.log10(rounded))))}f}" if rounded >= 1e-4 else "< 0.0001"


def without_zeros(text: str) -> str:
    """Rates in a text as they are printed in this field: 0.885 becomes .885."""
    return re.sub(r"\b0\.", ".", text)
