"""How two rows of the same key differ, and which rows cannot stand in one table: pure functions, for merging."""

import numpy as np

from helpers.names import RIGHT, SCORES
from helpers.reproduction import TOLERANCE, distances
from helpers.rows import canonical

MOST = 3  # differences of one row that are named


def differ(ours: dict, mine: dict[str, np.ndarray], theirs: dict, arrays: dict[str, np.ndarray]) -> str:
    """What differs between two rows of one key, the book's with its arrays and another; "" where they are the same.

    They are the same where they have the same metrics, within TOLERANCE, and arrays of the same names, kinds and shapes, and
    where arrays of truth values, such as which images were right, differ in at most the share TOLERANCE.
    """
    found = _metrics(ours["metrics"], theirs["metrics"]) + _arrays(mine, arrays)
    more = f"; and {len(found) - MOST} more" if len(found) > MOST else ""
    return "; ".join(found[:MOST]) + more


def resolved(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays with the scores of each metric in full, also those stored as the name of equal ones. raises KeyError"""
    of_scores = SCORES.partition("{")[0]
    shared = {name for name, a in arrays.items() if name.startswith(of_scores) and a.dtype.kind == "U" and a.ndim == 0}
    return {name: arrays[a.item()] if name in shared else a for name, a in arrays.items()}


def other_data(staying: list[dict], new: list[dict]) -> dict[str, str]:
    """Which of the new rows were measured on other data than the rows that they would stand beside: {key: in words}.

    Rows of the same settings and version stand in one table. Where none of them stays, the new ones must agree with each other.
    """
    kept, reasons = _by_table(staying), {}
    for table, rows in _by_table(new).items():
        beside = kept.get(table, rows)
        allowed = [_digests(row) for row in beside]
        mixed = table not in kept and any(digests != allowed[0] for digests in allowed)
        for row in rows:
            if mixed or _digests(row) not in allowed:
                stands = next(r for r in beside if _digests(r) != _digests(row))
                reasons[row["key"]] = _other(stands, row, "the book's rows" if table in kept else "another row of its file")
    return reasons


def _metrics(ours: dict[str, float], theirs: dict[str, float]) -> list[str]:
    off = distances(ours, theirs)
    beyond = sorted((name for name in off if off[name] > 1), key=lambda name: (-off[name], name))
    return [f"{name} is {ours[name]} here, {theirs[name]} there" for name in beyond] + _only("metric", ours, theirs)


def _arrays(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> list[str]:
    found = _only("array", ours, theirs)
    ours, theirs = resolved(ours), resolved(theirs)
    for name in sorted(ours.keys() & theirs.keys()):
        a, b = ours[name], theirs[name]
        if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
            found.append(f"array '{name}' is {a.dtype} {a.shape} here, {b.dtype} {b.shape} there")
        elif a.dtype == bool and (off := int((a != b).sum())) > TOLERANCE * a.size:
            what = "images" if name.startswith(RIGHT.format(metric="")) else "values"
            found.append(f"array '{name}' differs for {off} of {a.size} {what}")
    return found


def _only(kind: str, ours: dict, theirs: dict) -> list[str]:
    """What one of the two has and the other lacks."""
    sides = (("here", ours.keys() - theirs.keys()), ("there", theirs.keys() - ours.keys()))
    return [f"{kind} '{name}' is only {where}" for where, names in sides for name in sorted(names)]


def _by_table(rows: list[dict]) -> dict[str, list[dict]]:
    tables: dict[str, list[dict]] = {}
    for row in rows:
        tables.setdefault(canonical([row["settings"], row["version"]]), []).append(row)
    return tables


def _digests(row: dict) -> dict[str, str]:
    return {role: split["digest"] for role, split in row["data"].items()}


def _other(stands: dict, row: dict, whose: str) -> str:
    ours, theirs = _digests(stands), _digests(row)
    role = min(role for role in {*ours, *theirs} if ours.get(role) != theirs.get(role))
    name = {**stands["data"], **row["data"]}[role]["name"]
    digests = f"{theirs.get(role, 'none')}, not {ours.get(role, 'none')}"
    return f"it was measured on another version of {name}, as {role}, than {whose} ({digests}): they cannot stand in one table"
