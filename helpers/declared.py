"""What chapters declare: which experiments, with which rows at each profile; what is stored of them, and what is still to do."""

import hashlib
import json
import os
import statistics
from collections.abc import Iterator
from pathlib import Path

from helpers import rows as storage
from helpers.chapters import BOOK, BUILD, Refused, execute, paper_of
from helpers.environments import ONE_THREAD
from helpers.rows import ROOT
from helpers.scratch import private_folder, write_whole

HELPERS = Path(__file__).resolve().parent
Declared = dict[str, dict[str, dict[str, dict]]]  # {experiment: {profile: {key: arguments}}}


def declared(path: Path) -> Declared:
    """The rows that each experiment of a chapter wants, at each profile.

    The chapter is executed once, without computing; what it declared is kept under `_build` until its code changes.
    """
    kept, code = BUILD / "declared" / f"{path.stem}.json", _code(path)
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["code"] == code:
            return found["experiments"]
    except (OSError, ValueError, KeyError):
        pass
    print(f"{path.stem}: reading what it declares", flush=True)
    with private_folder(BUILD) as folder:
        events = execute(path, folder / path.name, {"profile": "smoke"}, asked=frozenset(), **ONE_THREAD)
    experiments = {event["name"]: event["rows"] for event in events}
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps({"code": code, "experiments": experiments}))
    return experiments


def _code(path: Path) -> str:
    """A hash of what decides what a chapter declares: its code, the modules beside it, the helpers."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    digest = hashlib.sha256("".join("".join(c["source"]) for c in cells if c["cell_type"] == "code").encode())
    for module in sorted([*HELPERS.rglob("*.py"), *BOOK.rglob("*.py")]):
        digest.update(module.name.encode() + module.read_bytes())
    return digest.hexdigest()[:16]


def picked(chapters: list[Path], profile: str, names: str | None, seeds: list[int] | None) -> dict[Path, frozenset[str] | None]:
    """Of each chapter that has some, the experiments that are asked for; None: all. Says what is left out.

    raises Refused for a name, or for seeds, that no chapter of these has, with the valid ones
    """
    if names is None and seeds is None:
        return dict.fromkeys(chapters)
    has = {path: declared(path) for path in chapters}
    every = {name for experiments in has.values() for name in experiments}
    asked = every if names is None else set(filter(None, map(str.strip, names.split(","))))
    if unknown := sorted(asked - every) or (["''"] if not asked else []):
        valid = "; ".join(f"{path.stem}: {', '.join(experiments)}" for path, experiments in has.items())
        raise Refused(f"no experiment {', '.join(unknown)} in these chapters; there are: {valid}")
    own = {seed for x in has.values() for n in x if n in asked for seed in _seeds_of(x[n][profile])}
    if strange := sorted(set(seeds or ()) - own):
        valid = "; ".join(f"{n}: {in_words(_seeds_of(x[n][profile]))}" for x in has.values() for n in x if n in asked)
        raise Refused(f"none of these experiments has the seeds {in_words(strange)} at {profile}; there are: {valid}")
    fit = {p: frozenset(n for n in x if n in asked and _seeds_of(x[n][profile], seeds)) for p, x in has.items()}
    left = [path.stem for path, some in fit.items() if not some]
    for path, some in fit.items():
        left += [f"{path.stem} {name}" for name in has[path] if some and name not in some and (name in asked or names is None)]
    if left:
        print(f"left out: {', '.join(left)}", flush=True)
    return {path: some for path, some in fit.items() if some}


def missing(path: Path, profile: str, names: frozenset[str] | None, seeds: list[int] | None) -> dict[str, dict[str, dict]]:
    """{experiment: {key: arguments}} of the rows that a chapter declares and that neither `results/` nor $BOOK_RESULTS has."""
    paper, found = paper_of(path), {}
    for name, profiles in declared(path).items():
        if names is None or name in names:
            stored = _stored(paper, profile, name)
            rows = {key: args for key, args in profiles[profile].items() if key not in stored}
            rows = {key: args for key, args in rows.items() if seeds is None or args["seed"] in seeds}
            found |= {name: rows} if rows else {}
    return found


def todo(asked: dict[Path, frozenset[str] | None], profiles: list[str], seeds: list[int] | None = None) -> Iterator[str]:
    """What is declared and not stored, as lines of arguments of `make record`, each after a line that says how much it is."""
    for profile in profiles:
        for path, names in asked.items():
            for name, rows in missing(path, profile, names, seeds).items():
                stored = _stored(paper_of(path), profile, name)
                seconds = [row["seconds"] for row in stored.values()]
                minutes = f"about {statistics.mean(seconds) * len(rows) / 60:.0f} min" if seconds else "no row to go by"
                own = in_words(sorted({args["seed"] for args in rows.values()}))
                yield f"# {len(rows)} {'rows' if len(rows) > 1 else 'row'}, {minutes}"
                yield f"PROFILE={profile} CHAPTERS={path.stem} EXPERIMENTS={name} SEEDS={own}"


def in_words(seeds: list[int]) -> str:
    """Seeds as make takes them: "0-4", "0,2-3"."""
    spans: list[list[int]] = []
    for seed in seeds:
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def expected_rows(asked: dict[Path, frozenset[str] | None], profile: str) -> int:
    """How many rows there are to be made, at a guess: those of the experiments that are named, else as many as the book has."""
    named = [len(declared(path)[name][profile]) for path, names in asked.items() for name in names or ()]
    papers = {paper_of(path) for path, names in asked.items() if names is None} - {None}
    files = [path for paper in papers for path in (ROOT / "results").glob(f"{paper}/{profile}/*.jsonl")]
    return sum(named) + sum(path.read_bytes().count(b"\n") for path in files)


def _stored(paper: str, profile: str, name: str) -> dict[str, dict]:
    folders = [ROOT / "results", *([Path(moved) / "results"] if (moved := os.environ.get("BOOK_RESULTS")) else [])]
    found: dict[str, dict] = {}
    for folder in folders:
        found = storage.read(folder / paper / profile / f"{name}.jsonl") | found
    return found


def _seeds_of(rows: dict[str, dict], asked: list[int] | None = None) -> list[int]:
    """The seeds of an experiment's rows, those that are asked for."""
    return sorted({args["seed"] for args in rows.values() if asked is None or args["seed"] in asked})
