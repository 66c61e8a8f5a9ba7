"""What a reproduction says: which of the book's stored rows came out again, which differ, and which were not made again."""

import csv
import io
from collections.abc import Collection
from pathlib import Path

import numpy as np

from helpers import rows as storage
from helpers.scratch import write_whole

TOLERANCE = 0.03  # of a rate at `smoke`, absolute; of another quantity, relative


def distances(old: dict[str, float], new: dict[str, float]) -> dict[str, float]:
    """How far each metric that both have lies from its old value, in units of TOLERANCE: beyond 1 it is another value."""
    return {name: abs(new[name] - old[name]) / (TOLERANCE * max(1.0, abs(old[name]))) for name in old.keys() & new.keys()}


def came_out_again(stored: dict[str, dict], again: dict[str, dict], *, close: bool) -> list[dict]:
    """For each row computed again: whether the stored row of the same key came out, with every metric that it has. Arrays of
    figures are not compared, nor is what is measured now and was not then.

    close : compare within TOLERANCE, which another processor also meets; else a value has to lie inside the 95 % prediction
        interval of the stored seeds (within TOLERANCE of the stored value where there is only one seed)
    returns dicts with args, verdict ("yes", "no" or "not stored"), and the metric that is furthest off with both values
    """
    from scipy import stats

    results = []
    for key, row in again.items():
        entry = _entry(row, "not stored")
        if key in stored:
            old, new = stored[key]["metrics"], row["metrics"]
            entry["verdict"] = "yes" if old.keys() <= new.keys() else "no"
            siblings = [r["metrics"] for r in stored.values() if _family(r) == _family(stored[key])]
            off = distances(old, new)
            for name in off:
                values = np.array([m[name] for m in siblings if name in m])
                if not close and len(values) > 1:
                    n, centre = len(values), values.mean()
                    allowed = max(0.003, stats.t.ppf(0.975, n - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / n))
                    off[name] = abs(new[name] - centre) / allowed
            if off:
                worst = max(sorted(off), key=off.get)
                entry |= {"metric": worst, "stored": old[worst], "again": new[worst]}
                entry["verdict"] = "no" if off[worst] > 1 else entry["verdict"]
        results.append(entry)
    return results


def not_made_again(stored: dict[str, dict], again: dict[str, dict], seeds: Collection[int] | None = None) -> list[dict]:
    """The stored rows of a run that a reproduction, which was asked for `seeds` (None: all), did not make.

    returns dicts as `came_out_again` does, with verdict "not made again", or "no longer declared" where the rows made again have
    other settings or another version, so that the chapter has left these behind
    """
    declared = [_declared(row) for row in again.values()]
    asked = {k: row for k, row in stored.items() if k not in again and (seeds is None or row["args"].get("seed") in seeds)}
    left_behind = {k for k, row in asked.items() if declared and _declared(row) not in declared}
    return [_entry(row, "no longer declared" if k in left_behind else "not made again") for k, row in asked.items()]


def compare(
    book: Path,
    again: list[Path],
    profile: str,
    output: Path,
    *,
    seeds: Collection[int] | None = None,
    papers: Collection[str] = (),
) -> bool:
    """Say which of the book's stored rows came out again; the rows one by one go to the table `output`.

    book, again : the committed results, and those of each chapter that was reproduced
    seeds : those that were asked for; None: each experiment's own
    papers : those of which every chapter was asked for: a stored run of theirs that was not made at all counts too
    returns whether at least one row was compared, all came out again, and none is left
    """
    made = {path.relative_to(folder): path for folder in again for path in sorted(folder.glob(f"*/{profile}/*.jsonl"))}
    whole = {path.relative_to(book) for paper in papers for path in book.glob(f"{paper}/{profile}/*.jsonl")}
    lines = [("paper", "run", "arguments", "came out again", "metric with the largest difference", "stored", "again")]
    total = dict.fromkeys(("yes", "no", "not stored", "not made again", "no longer declared"), 0)
    for path in sorted({*made, *whole}):
        stored, new = storage.read(book / path), storage.read(made[path]) if path in made else {}
        results = came_out_again(stored, new, close=profile == "smoke") + not_made_again(stored, new, seeds)
        count = {verdict: sum(r["verdict"] == verdict for r in results) for verdict in total}
        total = {verdict: n + count[verdict] for verdict, n in total.items()}
        lines += [(path.parts[0], path.stem, *(r[k] for k in ("args", "verdict", "metric", "stored", "again"))) for r in results]
        _say(f"{path.parts[0]} {path.stem}", profile, results, count)
    output.parent.mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(lines)
    write_whole(output, table.getvalue())
    if not total["yes"] + total["no"]:
        print(f"nothing was compared: the book has none of these rows at {profile}")
    if total["no longer declared"]:
        print(f"{total['no longer declared']} stored rows have settings that their chapters no longer declare; they do not count")
    if total["not made again"]:
        print(f"{total['not made again']} stored rows were not made again")
    return bool(total["yes"]) and not total["no"] + total["not made again"]


def _say(name: str, profile: str, results: list[dict], count: dict[str, int]) -> None:
    """A line for each row that differs or is missing, and one for the run."""
    for r in results:
        if r["verdict"] == "no":
            print(f"  {name} {r['args']}: {r['metric']} was {r['stored']}, now {r['again']}")
        if r["verdict"] == "not made again":
            print(f"  {name} {r['args']}: stored, but not made again")
    words = {"not stored": "not in the book", "not made again": "not made again", "no longer declared": "no longer declared"}
    extra = "".join(f", {count[verdict]} {said}" for verdict, said in words.items() if count[verdict])
    print(f"{name}: {count['yes']} of {count['yes'] + count['no']} of the book's {profile} rows came out again{extra}")


def _entry(row: dict, verdict: str) -> dict:
    return {"args": " ".join(map(str, row["args"].values())), "verdict": verdict, "metric": "", "stored": "", "again": ""}


def _declared(row: dict) -> list:
    return [row["settings"], row["version"]]


def _family(row: dict) -> list:
    return [{k: v for k, v in row["args"].items() if k != "seed"}, *_declared(row)]
