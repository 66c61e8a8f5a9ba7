"""Run chapters: `python -m helpers.run --help`. The Makefile's targets are thin names for this."""

import argparse
import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from helpers import declared, provenance
from helpers.building import build_site
from helpers.chapters import BUILD, Refused, chapters, paper_of, title
from helpers.environments import arithmetic, environment
from helpers.merge import merge
from helpers.merge_zoo import merge_zoo
from helpers.processes import stop_on_signals
from helpers.profiles import PROFILES, parse_seeds
from helpers.reproduce import Asked, check_committed, record, report, reproduce
from helpers.rows import ROOT, RowError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str):
        raise Refused(f"{message}; see python -m helpers.run --help")


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="python -m helpers.run", description="Run chapters of the book and build its site.")
    parser.add_argument(
        "--profile",
        choices=["report", *reversed(PROFILES)],
        help="report: execute the committed notebooks in place from stored rows; the others compute (default: smoke)",
    )
    parser.add_argument("--chapters", metavar="01,02", help="start of their names, comma-separated (default: all)")
    parser.add_argument("--experiments", metavar="a,b", help="the others of these chapters show stored rows (default: all)")
    parser.add_argument("--seeds", metavar="0-4", help="of each experiment's own (default: all)")
    parser.add_argument(
        "--data-root", metavar="DIR", help="folder with <dataset>.npz (default: $BOOK_DATA, else the user's cache)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument("--workers", metavar="N", help="processes here that compute rows (default: at smoke, one a core)")
    parser.add_argument("--cluster", metavar="ADDRESS", help="a Dask scheduler, tcp://host:8786, or its file scheduler.json")
    parser.add_argument("--record", action="store_true", help="add to the committed results/ and execute the chapters at report")
    parser.add_argument("--allow-dirty", action="store_true", help="record from a tree with uncommitted changes; the rows say so")
    parser.add_argument("--todo", action="store_true", help="list the rows that are declared and not stored, and stop")
    parser.add_argument("--merge", metavar="DIR", help="bring in the rows that were recorded elsewhere, and stop")
    parser.add_argument("--replace", metavar="RUNS", help="with --merge: runs whose rows take the place of the book's")
    parser.add_argument("--zoo", action="store_true", help="with --merge: the networks for the zoo too")
    parser.add_argument("--list", action="store_true", help="list the chapters and stop")
    parser.add_argument("--site", action="store_true", help="build the site from the committed notebooks and stop")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = arguments().parse_args(argv)
    try:
        places = {name: _place(os.environ[name]) for name in ("BOOK_RESULTS", "BOOK_DATA") if os.environ.get(name)}
        with environment(**places):  # kernels work in another folder
            return _obey(args)
    except (OSError, RowError) as error:
        raise Refused(f"{type(error).__name__}: {error}") from None


def _obey(args: argparse.Namespace) -> int:
    picked = chapters(args.chapters)
    if args.list:
        print("\n".join(f"{path.stem}: {title(path)}" for path in picked))
        return 0
    if args.site:
        print(f"site: {build_site(ROOT, BUILD / 'html')}")
        return 0
    if args.merge:
        return _merge(Path(_place(args.merge)), args)
    profile = args.profile or "smoke"
    if profile == "report" and args.todo:
        raise Refused("nothing is computed at `report`; name a profile that computes: smoke, cpu or paper")
    if profile == "report" and args.record:
        raise Refused("there is nothing to record at `report`; name a profile that computes: smoke, cpu or paper")
    if profile == "report":
        report(picked)
        return 0
    try:
        seeds = parse_seeds(args.seeds)
    except ValueError as error:
        raise Refused(str(error)) from None
    if args.todo:
        profiles = [args.profile] if args.profile else list(reversed(PROFILES))
        asked = declared.picked(picked, profiles[0], args.experiments, None)
        print("\n".join(declared.todo(asked, profiles, seeds)) or "# all is stored")
        return 0
    given = {"seeds": args.seeds, "device": args.device, "data_root": _place(args.data_root) if args.data_root else None}
    parameters = {name: value for name, value in given.items() if value is not None}
    workers = _workers(args, profile)
    wanted = declared.picked(picked, profile, args.experiments, seeds)
    if args.record:
        if not args.allow_dirty:
            check_committed()
        wanted = {path: names for path, names in wanted.items() if _is_to_do(path, profile, names, seeds)}
    with _computed_at(args.cluster if wanted else None, workers if wanted else None, profile) as address:
        side = os.cpu_count() or 1 if profile == "smoke" and not args.record else 1  # a kernel at smoke takes one thread
        at_once = (workers or len(wanted)) + 1 if address else side
        asked = Asked(wanted, profile, parameters, seeds, address, at_once)
        return record(asked) if args.record else reproduce(asked)


def _is_to_do(path: Path, profile: str, names: frozenset[str] | None, seeds: list[int] | None) -> bool:
    """Whether the record lacks rows of a chapter, or a card of its paper's zoo was deleted to be made anew."""
    return bool(declared.missing(path, profile, names, seeds)) or provenance.deleted(f"helpers/weights/{paper_of(path)}")


def _workers(args: argparse.Namespace, profile: str) -> int | None:
    """How many worker processes are to be started; None: rows are computed by the kernels, or by a cluster that is there."""
    there = importlib.util.find_spec("distributed") is not None
    if args.workers is None or args.cluster:
        if args.workers is not None:
            raise Refused("WORKERS starts a cluster here and CLUSTER uses another one: give one of the two")
        if args.cluster and not there:
            raise Refused("CLUSTER needs Dask's `distributed`: pip install -e '.[cluster]'")
        cores = os.cpu_count() or 1
        if profile != "smoke" or args.cluster or cores < 2:
            return None
        if not there:
            print("run: each kernel computes its own rows; with Dask's `distributed`, workers would share them", flush=True)
        return cores if there else None
    if not args.workers.isdecimal() or not 1 <= int(args.workers) <= 1024:
        raise Refused(f"WORKERS must be a whole number from 1 to 1024, not {args.workers!r}; without it, kernels compute")
    if not there:
        raise Refused("WORKERS needs Dask's `distributed`: pip install -e '.[cluster]'")
    return int(args.workers)


@contextlib.contextmanager
def _computed_at(cluster: str | None, workers: int | None, profile: str) -> Iterator[str | None]:
    """The address of the scheduler that rows are sent to; None: kernels compute them."""
    if workers:
        from helpers.local_cluster import local_cluster

        with local_cluster(workers, arithmetic(profile, one_thread=True)) as address:
            yield address
    elif cluster:
        from helpers.cluster import ClusterError, connect

        where = _place(cluster) if cluster.endswith(".json") else cluster
        try:
            connect(where, Path(os.environ.get("BOOK_RESULTS") or BUILD))
        except ClusterError as error:
            raise Refused(str(error)) from None
        yield where
    else:
        yield None


def _merge(source: Path, args: argparse.Namespace) -> int:
    """Bring in rows from elsewhere, then execute the chapters that they belong to at `report`."""
    every = chapters()
    replace = [run.strip() for run in (args.replace or "").split(",") if run.strip()]
    try:
        merged = merge(source, ROOT / "results", replace=replace, papers={paper_of(path) for path in every} - {None})
        zoo = merge_zoo(source) if args.zoo else None
    except ValueError as error:
        raise Refused(str(error)) from None
    report(path for path in every if paper_of(path) in merged.papers)
    return 0 if merged.good and (zoo is None or zoo.good) else 1


def _place(folder: str) -> str:
    """A folder as the caller means it, wherever a kernel works. raises Refused for a ~ where no home is known"""
    try:
        return str(Path(folder).expanduser().absolute())
    except RuntimeError as error:
        raise Refused(f"{folder}: {error}") from None


if __name__ == "__main__":
    stop_on_signals("run: interrupted; what was finished is stored, and the same command goes on from there")
    sys.exit(main())
