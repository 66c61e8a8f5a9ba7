"""Run chapters: `python -m helpers.run --help`. The Makefile's targets are thin names for this."""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from helpers import provenance
from helpers.chapters import BOOK, BUILD, Refused, chapters, environment, execute, execute_report, paper_of, tidy, title
from helpers.processes import side_by_side, stop_on_signals
from helpers.profiles import PROFILES, parse_seeds
from helpers.progress import ChapterProgress
from helpers.reproduction import compare
from helpers.rows import ROOT, RowError
from helpers.scratch import locked, on_stop, private_folder, write_whole

BANNER = "tables and figures show this run; the text between them, and pages without numbers of their own, describe the book's."


def build_site(source: Path, output: Path) -> Path:
    """Build the site of a folder with `_config.yml`; any warning fails it. Returns its front page."""
    with private_folder(BUILD) as work:
        command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(source)]
        command += ["--path-output", str(work), "-W", "-n", "--keep-going", "-q"]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8", "errors": "replace"}
        with subprocess.Popen(command, **options) as builder, on_stop(builder.kill):
            said = builder.communicate()[0]
        if builder.returncode or not (work / "_build/html/index.html").exists():
            raise Refused(f"the site was not built:\n{said[-4000:]}")
        with locked(output.with_name(f"{output.name}.lock"), wait=True):  # of two builds at once, the later one stays
            shutil.rmtree(output, ignore_errors=True)
            shutil.move(work / "_build/html", output)
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
    """Run chapters from no stored rows, each in a folder of its own, compare rows, build their site. Returns an exit status.

    A chapter's reproduction that was interrupted goes on; one that was finished, or made by other code, starts anew. At smoke,
    where a chapter takes one thread, as many run at a time as there are cores. The first that stops ends the others.
    """
    base = _results_folder() / "reproduced" / profile
    homes = {path: base / path.stem for path in picked}
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(private_folder(BUILD)) / "source"  # before hours of work: can the site be written?
        for path in picked:
            stack.enter_context(_only_one(path, base))
        _run_all(homes, profile, parameters)
        results, table = [home / "results" for home in homes.values()], BUILD / profile / "comparison.csv"
        papers = {paper_of(path) for path in picked} - {paper_of(path) for path in chapters() if path not in picked} - {None}
        seeds = parse_seeds(parameters.get("seeds"))
        good = compare(ROOT / "results", results, profile, table, seeds=seeds, papers=papers)
        print(f"row by row: {table}", flush=True)
        copy_source(source, [home / path.name for path, home in homes.items()], results)
        print(f"site: {build_site(source, BUILD / profile / 'html')}")
    return 0 if good else 1


def _run_all(homes: dict[Path, Path], profile: str, parameters: dict) -> None:
    work = partial(_reproduce_one, profile=profile, parameters=parameters, identity=provenance.commit() + provenance.changes())
    at_once = min(len(homes), os.cpu_count() or 1) if profile == "smoke" else 1
    with ChapterProgress(len(homes)) as progress:
        if at_once == 1:
            answers = ((item, work(*item)) for item in homes.items())
        else:
            answers = side_by_side(work, list(homes.items()), at_once)
        with contextlib.closing(answers):
            for (path, _), complaint in answers:
                if complaint is None:
                    raise Refused(f"{path.stem}: its process died; often there was too little memory")
                if complaint:
                    raise Refused(complaint)
                progress.bar.update()


def _results_folder() -> Path:
    return Path(os.environ.get("BOOK_RESULTS") or BUILD)


@contextlib.contextmanager
def _only_one(path: Path, folder: Path):
    """Let no second process work on a chapter in a folder at the same time."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / f"{path.stem}.lock"))
        except BlockingIOError:
            raise Refused(f"another process is at {path.stem} in {folder}; wait until it ends, or end it") from None
        yield


def _reproduce_one(path: Path, home: Path, *, profile: str, parameters: dict, identity: str) -> str:
    """A chapter's part of `reproduce`. Returns what stopped it, empty if nothing did."""
    marker = home / "made-by"
    try:
        if not (marker.exists() and marker.read_text(encoding="utf-8") == identity):
            shutil.rmtree(home, ignore_errors=not home.exists())
            home.mkdir(parents=True)
            write_whole(marker, identity)  # a marker that a kill left half written would cost all that is stored
        with environment(BOOK_RESULTS=str(home)):
            execute(path, home / path.name, {**parameters, "profile": profile})
        _tidy_file(home / path.name, profile)
        write_whole(marker, "finished")
    except Refused as refused:
        return refused.message
    except OSError as error:
        return f"{path.stem}: {error}"
    return ""


def _tidy_file(path: Path, profile: str) -> None:
    """Tidy an executed copy and say at its top that the text is not about its numbers."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    tidy(notebook)
    notebook.cells[0].source += f"\n\n:::{{warning}}\nA reproduction at profile `{profile}`: {BANNER}\n:::"
    nbformat.write(notebook, path)


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
            with _only_one(path, _results_folder() / "record"):
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
    given = {"seeds": args.seeds, "device": args.device, "data_root": _place(args.data_root) if args.data_root else None}
    parameters = {name: value for name, value in given.items() if value is not None}
    if args.record:
        return record(picked, args.profile, parameters, args.allow_dirty)
    return reproduce(picked, args.profile, parameters)


def _place(folder: str) -> str:
    """A folder as the caller means it, wherever a kernel works. raises Refused for a ~ where no home is known"""
    try:
        return str(Path(folder).expanduser().absolute())
    except RuntimeError as error:
        raise Refused(f"{folder}: {error}") from None


if __name__ == "__main__":
    stop_on_signals("run: interrupted; what was finished is stored, and the same command goes on from there")
    sys.exit(main())
