"""Why a verdict is undecided and what would decide it, in words."""

import numpy as np

from helpers.claims.deciding import BOTH, IMAGES, MARGIN, OUT_OF_REACH, SEEDS
from helpers.claims.defences import ATTACK, BEFORE
from helpers.claims.detectors import NO_FPR, UNSURE

PLAIN = {
    BEFORE: "whether there was an advantage under the paper’s own attack is not known",
    ATTACK: "the suite of attacks is not complete, or its budget was not doubled",
    UNSURE: "whether it detected anything before any attack is not sure",
    NO_FPR: "the FPR at 95 % TPR is not stored for every attack",
    "substituted": "another network or dataset than the paper’s",
    "another threat model": "another ε or norm than the paper’s",
    "nothing advertised": "the paper advertises no advantage",
}

NAMED = {BOTH: "seeds and images", BEFORE: "whether there was an advantage under the paper’s own attack is not sure"}


NOTHING = "nothing in reach"
OTHERWISE = {  # what would decide it where neither networks nor images would
    BEFORE: "the paper’s own attack on these networks",
    ATTACK: "the whole suite, and its budget doubled",
    NO_FPR: "the FPR before any attack and after each",
}


def why(judged) -> str:
    """One line for something that was judged: its reason, what would decide it, and the chance that it does; "" where decided."""
    needed = wanted(judged)
    if not needed:
        return because(judged)
    chance = f", which decides in {judged.chance:.0%} of draws" if np.isfinite(judged.chance) else ""
    return f"{because(judged)}: {needed}{chance}"


def because(judged) -> str:
    """The reason of what is undecided, in words."""
    reason = reason_of(judged)
    if reason == MARGIN:
        return "on the margin: nothing would decide it"
    if reason.endswith(OUT_OF_REACH):
        term = {SEEDS: "the spread of the runs", IMAGES: "the sampling of the images"}[reason.removesuffix(OUT_OF_REACH)]
        return f"nothing in reach would decide it; {term} is the larger part"
    return NAMED[reason] if reason in NAMED and wanted(judged) else PLAIN.get(reason, reason)


def remedy(judged) -> str:
    """What would decide it: so many networks or images, something else that is missing, or "nothing in reach"."""
    reason = reason_of(judged)
    missing = OTHERWISE.get(reason, "") if reason != BEFORE or not np.isfinite(getattr(judged, "before", np.nan)) else ""
    return wanted(judged) or missing or NOTHING


def wanted(judged) -> str:
    """How many networks and images would decide it: "10 networks"; "" where nothing is named."""
    reason, parts = reason_of(judged), []
    if reason in (SEEDS, BOTH, BEFORE) and np.isfinite(judged.needed_networks):
        parts.append(f"{judged.needed_networks:.0f} networks")
    if reason in (IMAGES, BOTH) and np.isfinite(judged.needed_images):
        parts.append(f"{judged.needed_images:,.0f} images")
    return " and ".join(parts)


def reason_of(judged) -> str:
    """The reason as it was judged; "" for what has none."""
    reason = getattr(judged, "reason", "")
    return reason if isinstance(reason, str) else ""
