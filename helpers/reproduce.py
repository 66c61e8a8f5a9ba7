"""The two commands that compute: to reproduce the book's rows from nothing, and to add to the record."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from helpers import declared, kernels, provenance
from helpers.building import build_site, copy_source
from helpers.chapters import BOOK, BUILD, Refused, chapters, execute, execute_report, paper_of, tidy
from helpers.environments import arithmetic
from helpers.progress import ChapterProgress
from helpers.reproduction import compare
from helpers.rows import ROOT
from helpers.scratch import locked, private_folder, write_whole

BANNER = "tables and figures show this run; the text between them, and pages without numbers of their own, describe the book's."


@dataclass(frozen=True)
class Asked:
    """What a command was asked for.

    chapters : the experiments of each; None: all of them
    parameters : of the chapters' parameters cells
    at : where rows are computed: a scheduler's address, or None for the kernels
    at_once : how many chapters run side by side
    """

    chapters: dict[Path, frozenset[str] | None]
    profile: str
    parameters: dict
    seeds: list[int] | None = None
    at: str | None = None
    at_once: int = 1

    def variables(self, *, one_thread: bool) -> dict[str, str]:
        """Of a kernel's environment."""
        where = {"BOOK_CLUSTER": self.at} if self.at else {}
        return where | arithmetic(self.profile, one_thread=one_thread or bool(self.at))


def reproduce(asked: Asked) -> int:
    """Run chapters from no stored rows, each in a folder of its own, compare rows, build their site. Returns an exit status.

    A chapter's reproduction that was interrupted goes on; one that was finished, or made by other code, starts anew. The first
    chapter that stops ends the others.
    """
    base = _results_folder() / "reproduced" / asked.profile
    homes = {path: base / path.stem for path in asked.chapters}
    identity = provenance.commit() + provenance.changes()
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(private_folder(BUILD)) / "source"  # before hours of work: can the site be written?
        for path in homes:
            stack.enter_context(_only_one(path, base))
        side_by_side(lambda path: reproduce_one(path, homes[path], asked, identity), asked)
        results, table = [home / "results" for home in homes.values()], BUILD / asked.profile / "comparison.csv"
        whole = {path for path, names in asked.chapters.items() if names is None}
        papers = {paper_of(path) for path in whole} - {paper_of(path) for path in chapters() if path not in whole} - {None}
        good = compare(ROOT / "results", results, asked.profile, table, seeds=asked.seeds, papers=papers)
        print(f"row by row: {table}", flush=True)
        copy_source(source, [home / path.name for path, home in homes.items()], results)
        print(f"site: {build_site(source, BUILD / asked.profile / 'html')}")
    return 0 if good else 1


def reproduce_one(path: Path, home: Path, asked: Asked, identity: str) -> None:
    """A chapter's part of `reproduce`. raises Refused where it stops"""
    marker = home / "made-by"
    try:
        if not (marker.exists() and marker.read_text(encoding="utf-8") == identity):
            shutil.rmtree(home, ignore_errors=not home.exists())
            home.mkdir(parents=True)
            write_whole(marker, identity)  # a marker that a kill left half written would cost all that is stored
        variables = {**asked.variables(one_thread=False), "BOOK_RESULTS": str(home)}
        parameters = {**asked.parameters, "profile": asked.profile}
        execute(path, home / path.name, parameters, asked=asked.chapters[path], **variables)
        _tidy_file(home / path.name, asked.profile)
        write_whole(marker, "finished")
    except OSError as error:
        raise Refused(f"{path.stem}: {error}") from None


def check_committed() -> None:
    """raises Refused where the tree differs from its commit, or nothing names the code"""
    try:
        changed = provenance.dirty()
    except (OSError, subprocess.CalledProcessError):  # no .git: $BOOK_COMMIT has to name the code
        changed = [] if os.environ.get("BOOK_COMMIT") else ["no git repository, and BOOK_COMMIT is not set"]
    if changed:
        words = "results are recorded from committed code only; commit first, or ALLOW_DIRTY=1 (--allow-dirty)"
        raise Refused(f"{words}: {', '.join(changed[:5])}")


def record(asked: Asked) -> int:
    """Add to the committed results, or to $BOOK_RESULTS, what neither has; then execute the chapters at `report`."""
    if not asked.chapters:
        print("all rows that were asked for are stored: nothing to do")
        return 0
    commit = provenance.commit()  # one commit names the code of all, though recording itself changes files

    def record_one(path: Path) -> None:
        with _only_one(path, _results_folder() / "record"):
            variables = {**asked.variables(one_thread=True), "BOOK_COMMIT": commit}
            parameters = {**asked.parameters, "profile": asked.profile, "record": True}
            execute(path, BUILD / "record" / path.name, parameters, asked=asked.chapters[path], **variables)

    side_by_side(record_one, asked)
    if moved := os.environ.get("BOOK_RESULTS"):
        print(f"rows: {Path(moved) / 'results'}; bring them into the book with: make merge FROM={moved}")
        return 0
    report(asked.chapters)
    print(f"rows: {ROOT / 'results'}\nchapters at report: {BOOK}\ncommit both before you record again")
    return 0


def report(paths) -> None:
    """Execute chapters in place at `report`."""
    for path in paths:
        execute_report(path)
        print(f"executed at report: {path}", flush=True)


def side_by_side(work: Callable[[Path], None], asked: Asked) -> None:
    """Call `work` for each chapter, `asked.at_once` at a time, with a bar. The first that stops ends the others.

    raises Refused with what stopped it. A chapter that lost rows does not end the others; it is raised when they are done
    """
    paths, complaints = list(asked.chapters), []
    rows = declared.expected_rows(asked.chapters, asked.profile)
    with ChapterProgress(len(paths), rows) as progress, _pool(min(len(paths), asked.at_once)) as pool:
        for future in as_completed([pool.submit(work, path) for path in paths]):
            try:
                future.result()
            except Refused as refused:
                if not refused.others_go_on:
                    raise
                complaints.append(refused.message)
            progress.chapter_done()
    if complaints:
        raise Refused("; ".join(complaints))


@contextlib.contextmanager
def _pool(at_once: int) -> Iterator[ThreadPoolExecutor]:
    """Threads, each for a chapter. Where what is inside stops, the chapters that still run end, and no other one begins."""
    with ThreadPoolExecutor(max(1, at_once)) as pool:
        try:
            yield pool
        except BaseException:
            kernels.end()  # one that has been asked for meanwhile is not started
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _results_folder() -> Path:
    return Path(os.environ.get("BOOK_RESULTS") or BUILD)


@contextlib.contextmanager
def _only_one(path: Path, folder: Path) -> Iterator[None]:
    """Let no second process work on a chapter in a folder at the same time."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / f"{path.stem}.lock"))
        except BlockingIOError:
            raise Refused(f"another process is at {path.stem} in {folder}; wait until it ends, or end it") from None
        yield


def _tidy_file(path: Path, profile: str) -> None:
    """Tidy an executed copy and say at its top that the text is not about its numbers."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    tidy(notebook)
    notebook.cells[0].source += f"\n\n:::{{warning}}\nA reproduction at profile `{profile}`: {BANNER}\n:::"
    nbformat.write(notebook, path)
