"""Run chapters: `python -m helpers.run --help`. The Makefile's targets are thin names for this."""

import argparse
import contextlib
import csv
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from helpers import provenance
from helpers import rows as storage
from helpers.chapters import BOOK, BUILD, Refused, chapters, environment, execute, execute_report, tidy, title
from helpers.profiles import PROFILES, parse_seeds
from helpers.progress import ChapterProgress
from helpers.rows import ROOT

BANNER = "tables and figures show this run; the text between them, and pages without numbers of their own, describe the book's."


def build_site(source: Path, output: Path) -> Path:
    """Build the site of a folder with `_config.yml`; any warning fails it. Returns its front page."""
    with tempfile.TemporaryDirectory(dir=BUILD) as work:
        command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(source)]
        command += ["--path-output", work, "-W", "-n", "--keep-going", "-q"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not (Path(work) / "_build/html/index.html").exists():
            raise Refused(f"the site was not built:\n{(done.stdout + done.stderr)[-4000:]}")
        shutil.rmtree(output, ignore_errors=True)
        shutil.move(Path(work) / "_build/html", output)
    return output / "index.html"


def copy_source(target: Path, notebooks: list[Path], results: list[Path]) -> None:
    """A source tree for a site of executed copies: the book's pages, with `notebooks` and `results` in place of the committed."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(BOOK, target / "book", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, target / name)
    for notebook in notebooks:
        shutil.copy(notebook, target / "book" / notebook.name)
    for folder in (ROOT / "results", *results):
        if folder.exists():
            shutil.copytree(folder, target / "results", dirs_exist_ok=True)


def reproduce(picked: list[Path], profile: str, parameters: dict) -> int:
    """Run chapters from no stored rows, each in a folder of its own, build their site, compare rows. Returns an exit status.

    A chapter's reproduction that was interrupted goes on; one that was finished, or made by other code, starts anew. At smoke,
    where a chapter takes one thread, as many run at a time as there are cores.
    """
    base = Path(os.environ.get("BOOK_RESULTS") or BUILD).expanduser() / "reproduced" / profile
    homes = {path: base / path.stem for path in picked}
    work = partial(_reproduce_one, profile=profile, parameters=parameters, identity=provenance.commit() + provenance.changes())
    at_once = min(len(picked), os.cpu_count() or 1) if profile == "smoke" else 1
    with ChapterProgress(len(picked)) as progress, contextlib.ExitStack() as stack:
        if at_once == 1:
            complaints = map(work, homes.keys(), homes.values())
        else:
            pool = ProcessPoolExecutor(at_once, multiprocessing.get_context("spawn"), _end_with, (os.getpid(),))
            stack.callback(pool.shutdown, cancel_futures=True)
            complaints = (f.result() for f in as_completed([pool.submit(work, *item) for item in homes.items()]))
        for complaint in complaints:
            if complaint:
                raise Refused(complaint)
            progress.bar.update()
    source = BUILD / profile / "source"
    copy_source(source, [home / path.name for path, home in homes.items()], [home / "results" for home in homes.values()])
    page = build_site(source, BUILD / profile / "html")
    table = BUILD / profile / "comparison.csv"
    good = report_comparison(ROOT / "results", [home / "results" for home in homes.values()], profile, table)
    print(f"site: {page}\nrow by row: {table}")
    return 0 if good else 1


def _reproduce_one(path: Path, home: Path, *, profile: str, parameters: dict, identity: str) -> str:
    """A chapter's part of `reproduce`. Returns what stopped it, empty if nothing did."""
    marker = home / "made-by"
    if not marker.exists() or marker.read_text() != identity:
        shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)
    marker.write_text(identity)
    try:
        with environment(BOOK_RESULTS=str(home)):
            execute(path, home / path.name, {**parameters, "profile": profile})
    except Refused as refused:
        return refused.message
    _tidy_file(home / path.name, profile)
    marker.write_text("finished")
    return ""


def _end_with(parent: int) -> None:
    """Let this process end when the one that started it is killed: what it was at goes on when it is started again."""

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _tidy_file(path: Path, profile: str) -> None:
    """Tidy an executed copy and say at its top that the text is not about its numbers."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    tidy(notebook)
    notebook.cells[0].source += f"\n\n:::{{warning}}\nA reproduction at profile `{profile}`: {BANNER}\n:::"
    nbformat.write(notebook, path)


def report_comparison(book: Path, again: list[Path], profile: str, output: Path) -> bool:
    """Say which of the book's stored rows came out again; the rows one by one go to `output`. Returns whether all did."""
    lines, good = [("paper", "run", "arguments", "came out again", "metric with the largest difference", "stored", "again")], True
    for path in sorted(p for folder in again for p in folder.glob(f"*/{profile}/*.jsonl")):
        stored = storage.read(book / Path(*path.parts[-3:]))
        results = storage.came_out_again(stored, storage.read(path), close=profile == "smoke")
        for r in results:
            lines.append((path.parts[-3], path.stem, *(r[k] for k in ("args", "verdict", "metric", "stored", "again"))))
            if r["verdict"] == "no":
                print(f"  {path.stem} {r['args']}: {r['metric']} was {r['stored']}, now {r['again']}")
        count = {v: sum(r["verdict"] == v for r in results) for v in ("yes", "no", "not stored")}
        good &= not count["no"]
        extra = f", {count['not stored']} not in the book" if count["not stored"] else ""
        asked = count["yes"] + count["no"]
        print(f"{path.parts[-3]} {path.stem}: {count['yes']} of {asked} of the book's {profile} rows came out again{extra}")
    with output.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return good


def record(picked: list[Path], profile: str, parameters: dict, allow_dirty: bool) -> int:
    """Add to the committed results, then execute the chapters at `report`."""
    try:
        changed = provenance.dirty()
    except (OSError, subprocess.CalledProcessError):  # no .git: $BOOK_COMMIT has to name the code
        changed = [] if os.environ.get("BOOK_COMMIT") else ["no git repository, and BOOK_COMMIT is not set"]
    if changed and not allow_dirty:
        raise Refused(f"results are recorded from committed code only; commit first, or --allow-dirty: {', '.join(changed[:5])}")
    with ChapterProgress(len(picked)) as progress, environment(BOOK_COMMIT=provenance.commit()):
        for path in picked:  # one commit names the code of all, though recording itself changes files
            execute(path, BUILD / "record" / path.name, {**parameters, "profile": profile, "record": True})
            progress.bar.update()
    if moved := os.environ.get("BOOK_RESULTS"):
        print(f"rows: {Path(moved) / 'results'}; copy them into {ROOT / 'results'}, then run this with --profile report")
        return 0
    for path in picked:
        execute_report(path)
    print(f"rows: {ROOT / 'results'}\nchapters at report: {BOOK}\ncommit both before you record again")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m helpers.run", description="Run chapters of the book and build its site.")
    parser.add_argument(
        "--profile",
        choices=["report", *reversed(PROFILES)],
        default="smoke",
        help="report: execute the committed notebooks in place from stored rows; the others compute (default: smoke)",
    )
    parser.add_argument("--chapters", metavar="01,02", help="start of their names, comma-separated (default: all)")
    parser.add_argument("--seeds", metavar="0-4", help="instead of each experiment's own")
    parser.add_argument(
        "--data-root", metavar="DIR", help="folder with <dataset>.npz (default: $BOOK_DATA, else the user's cache)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument("--record", action="store_true", help="add to the committed results/ and execute the chapters at report")
    parser.add_argument("--allow-dirty", action="store_true", help="record from a tree with uncommitted changes; the rows say so")
    parser.add_argument("--list", action="store_true", help="list the chapters and stop")
    parser.add_argument("--site", action="store_true", help="build the site from the committed notebooks and stop")
    args = parser.parse_args(argv)
    picked = chapters(args.chapters)
    BUILD.mkdir(exist_ok=True)
    if args.list:
        print("\n".join(f"{path.stem}: {title(path)}" for path in picked))
        return 0
    if args.site:
        print(f"site: {build_site(ROOT, BUILD / 'html')}")
        return 0
    if args.profile == "report" and args.record:
        raise Refused("there is nothing to record at `report`; name a profile that computes: smoke, cpu or paper")
    if args.profile == "report":
        for path in picked:
            execute_report(path)
            print(f"executed at report: {path}")
        return 0
    try:
        parse_seeds(args.seeds)
    except ValueError as error:
        raise Refused(str(error)) from None
    given = {
        "seeds": args.seeds,
        "device": args.device,
        "data_root": str(Path(args.data_root).resolve()) if args.data_root else None,
    }
    parameters = {name: value for name, value in given.items() if value is not None}
    if args.record:
        return record(picked, args.profile, parameters, args.allow_dirty)
    return reproduce(picked, args.profile, parameters)


if __name__ == "__main__":
    sys.exit(main())
