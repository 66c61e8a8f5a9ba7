"""Run chapters: `python -m helpers.run --help`. The Makefile's targets are thin names for this."""

import argparse
import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers import rows as storage
from helpers.progress import ChapterProgress
from helpers.rows import ROOT
from helpers.study import PROFILES, parse_seeds

BOOK, BUILD = ROOT / "book", ROOT / "_build"
BANNER = "tables and figures show this run; the text between them, and pages without numbers of their own, describe the book's."
PARAMETERS = ("profile", "seeds", "device", "data_root", "record")  # what every chapter's parameters cell offers


class Refused(SystemExit):
    """A request that cannot be carried out; the message is one line."""

    def __init__(self, message: str):
        super().__init__(f"run: {message}")


def chapters(wanted: str | None = None) -> list[Path]:
    """The chapters' notebooks, in order; `wanted` names some by the start of their file names: "01,03".

    raises Refused for a name that fits none, listing the valid ones
    """
    every = sorted(BOOK.glob("[0-9]*.ipynb"))
    if not wanted:
        return every
    picked = []
    for name in wanted.split(","):
        fits = [path for path in every if name.strip() and path.stem.startswith(name.strip())]
        if not fits:
            raise Refused(f"no chapter {name!r}; there are: {', '.join(path.stem for path in every)}")
        picked += fits
    return sorted(set(picked))


def title(path: Path) -> str:
    """The first heading of a notebook."""
    cells = json.loads(path.read_text())["cells"]
    return next(line.lstrip("# ").strip() for c in cells for line in "".join(c["source"]).splitlines() if line.startswith("# "))


@contextlib.contextmanager
def kernel_config():
    """Sockets in a folder of their own instead of TCP ports: no warning, and two runs at once do not meet."""
    from traitlets.config import Config

    if sys.platform == "win32":
        yield Config()
        return
    with tempfile.TemporaryDirectory(prefix="book-") as folder:
        yield Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})


def execute(path: Path, output: Path, parameters: dict) -> None:
    """Run a chapter by papermill with `parameters`. raises Refused for a parameter that it does not have, or a failing cell."""
    import papermill

    known = papermill.inspect_notebook(str(path))
    if unknown := set(parameters) - set(known):
        raise Refused(f"{path.stem} has no parameter {', '.join(sorted(unknown))}; it has: {', '.join(known)}")
    output.parent.mkdir(parents=True, exist_ok=True)
    # smoke's short trainings amplify the order in which threads add up: one thread, and a row comes out again
    threads = {"OMP_NUM_THREADS": "1"} if parameters.get("profile") == "smoke" else {}
    try:
        with kernel_config() as config, environment(**threads):
            papermill.execute_notebook(str(path), str(output), parameters, cwd=str(BOOK), progress_bar=False, config=config)
    except papermill.PapermillExecutionError as error:
        raise Refused(f"{path.stem} stopped with {error.ename}: {error.evalue}\nThe notebook up to there: {output}") from None


def execute_report(path: Path) -> None:
    """Execute a committed chapter in place at `report`, and leave nothing in it but its cells and outputs, 1..N."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)
    with kernel_config() as config:
        client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(BOOK)}}, config=config)
        try:
            client.execute()
        except CellExecutionError as error:
            raise Refused(f"{path.stem} stopped at `report` with {error.ename}: {error.evalue}") from None
    complaints = [o.text for c in notebook.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
    if complaints:
        raise Refused(f"{path.stem} wrote to stderr at `report`: {complaints[0].strip()[:300]}")
    tidy(notebook)
    partial = path.with_suffix(".part")
    nbformat.write(notebook, partial)
    partial.replace(path)


def tidy(notebook) -> None:
    """Take out what says only how a notebook was run: papermill's cell and metadata, timestamps, the kernel's version."""
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.execution_count = number
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        cell.metadata.pop("papermill", None)
    notebook.metadata = type(notebook.metadata)(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )


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

    A chapter's reproduction that was interrupted goes on; one that was finished, or made by other code, starts anew.
    """
    base = Path(os.environ.get("BOOK_RESULTS") or BUILD).expanduser() / "reproduced" / profile
    homes = {path: base / path.stem for path in picked}
    identity = storage.commit() + storage.changes()
    with ChapterProgress(len(picked)) as progress:
        for path, home in homes.items():
            progress.at(path.stem)
            marker = home / "made-by"
            if not marker.exists() or marker.read_text() != identity:
                shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True, exist_ok=True)
            marker.write_text(identity)
            with environment(BOOK_RESULTS=str(home)):
                execute(path, home / path.name, {**parameters, "profile": profile})
            _tidy_file(home / path.name, profile)
            marker.write_text("finished")
            progress.bar.update()
    source = BUILD / profile / "source"
    copy_source(source, [home / path.name for path, home in homes.items()], [home / "results" for home in homes.values()])
    page = build_site(source, BUILD / profile / "html")
    table = BUILD / profile / "comparison.csv"
    good = report_comparison(ROOT / "results", [home / "results" for home in homes.values()], profile, table)
    print(f"site: {page}\nrow by row: {table}")
    return 0 if good else 1


@contextlib.contextmanager
def environment(**values: str):
    """Set environment variables for what is started inside, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


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
        changed = storage.dirty()
    except (OSError, subprocess.CalledProcessError):  # no .git: $BOOK_COMMIT has to name the code
        changed = [] if os.environ.get("BOOK_COMMIT") else ["no git repository, and BOOK_COMMIT is not set"]
    if changed and not allow_dirty:
        raise Refused(f"results are recorded from committed code only; commit first, or --allow-dirty: {', '.join(changed[:5])}")
    with ChapterProgress(len(picked)) as progress, environment(BOOK_COMMIT=storage.commit()):
        for path in picked:  # one commit names the code of all, though recording itself changes files
            progress.at(path.stem)
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
