"""How often the rule for printed numbers says what, where the truth is known: by simulation."""

import numpy as np

from helpers.claims.numbers import VERDICTS, Case, decide

DRAWS = 2000


def frequencies(
    distances: np.ndarray, n: int, *, averaged: int = 1, spread: float = 0.5, printed: bool = False, draws: int = DRAWS
) -> np.ndarray:
    """The share of each of VERDICTS, (D, 4), at D true distances between our expectation and the paper's.

    Our n networks and the paper's `averaged` runs scatter alike, and the images are the same on both sides.
    distances, spread : in margins; spread is the standard deviation from run to run
    printed : distances are those from the number as it is printed, which *agrees* speaks of, so that its scatter does not count
    draws : simulated studies at each distance, with a fixed seed
    """
    generator = np.random.default_rng(0)
    case = Case(paper=0.0, margin=1.0, half_unit=0.0, values=(0.0,) * n, averaged=averaged)
    ours = generator.normal(0, spread / np.sqrt(n), draws)
    theirs = 0.0 if printed else generator.normal(0, spread / np.sqrt(averaged), draws)
    seen = spread * np.sqrt(generator.chisquare(n - 1, draws) / (n - 1))
    found = [decide(case, distance + ours - theirs, seen, n, 1) for distance in np.asarray(distances, dtype=float)]
    return np.array([[(verdicts == i).mean() for i in range(len(VERDICTS))] for verdicts in found])
