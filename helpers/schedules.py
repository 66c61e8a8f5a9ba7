"""Schedules: the share of the way that is done, in [0, 1) -> the factor of the rate, for trainings and attacks alike."""

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


def linear(progress: float) -> float:
    """The factor of the rate after this share of the way, in [0, 1): from 1 down to 0."""
    return 1 - progress


def cosine(progress: float) -> float:
    """The same as half a cosine: from 1 down to 0, slowly at both ends."""
    return (1 + math.cos(math.pi * progress)) / 2


def factor_of(schedule: Schedule, progress: float) -> float:
    """What a schedule says. raises ValueError for a factor that is negative or not finite"""
    factor = schedule(progress)
    if not 0 <= factor < math.inf:
        raise ValueError(f"the schedule's factor must be finite and >= 0, not {factor} at {progress:.0%} of the way")
    return factor
