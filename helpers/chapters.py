"""Chapters as notebooks: which there are, and executing one, by papermill with parameters or in place at `report`."""

import contextlib
import json
import re
from pathlib import Path

from helpers.rows import ROOT
from helpers.scratch import private_folder, write_whole
from helpers.selection import EVENTS, NAMES, told

BOOK, BUILD = ROOT / "book", ROOT / "_build"
TIMEOUT = 600  # seconds for a cell at `report`


class Refused(SystemExit):
    """A request that cannot be carried out; the message is one line."""

    def __init__(self, message: str, *, others_go_on: bool = False):
        super().__init__(f"run: {message}")
        self.message, self.others_go_on = message, others_go_on


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
    lines = (line for kind, text in _cells(path) if kind == "markdown" for line in text.splitlines())
    return next((line.lstrip("# ").strip() for line in lines if line.startswith("# ")), path.stem)


def paper_of(path: Path) -> str | None:
    """The folder under `results/` that a chapter's study names; None for a page without a study."""
    found = (re.search(r"\bStudy\(\s*[\"']([\w.-]+)", text) for kind, text in _cells(path) if kind == "code")
    return next((match[1] for match in found if match), None)


def _cells(path: Path) -> list[tuple[str, str]]:
    """Kind and source of each cell of a notebook."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [(c["cell_type"], "".join(c["source"])) for c in cells]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{path} is no notebook ({error}); git can restore it") from None


def execute(path: Path, output: Path, parameters: dict, *, asked: frozenset[str] | None = None, **variables: str) -> list[dict]:
    """Run a chapter by papermill with `parameters`. Returns what each of its experiments declares; see `declared`.

    asked : the experiments that are computed; the others show committed rows. None: all
    variables : of the kernel's environment
    raises Refused for a parameter that the chapter does not have, or where it stops
    """
    import papermill

    from helpers import engine
    from helpers.kernels import kernel_options

    source, target = (str(p).replace("{", "{{").replace("}", "}}") for p in (path, output))  # papermill formats its paths
    with one_line(path.stem, f"\nThe notebook up to there: {output}"), private_folder() as folder:
        _cells(path)
        known = papermill.inspect_notebook(source)
        if unknown := set(parameters) - set(known):
            raise Refused(f"{path.stem} has no parameter {', '.join(sorted(unknown))}; it has: {', '.join(known)}")
        output.parent.mkdir(parents=True, exist_ok=True)
        events = folder / "events"
        variables |= {"BOOK_CHAPTER": path.stem, EVENTS: str(events)} | (
            {} if asked is None else {NAMES: ",".join(sorted(asked))}
        )
        with kernel_options(**variables) as options:
            options |= {"engine_name": engine.NAME, "events": events, "asked": asked}
            options |= {"resources": {"metadata": {"path": str(BOOK)}}}  # papermill's `cwd` is the whole process's
            options |= {"request_save_on_cell_execute": False, "written": output}  # twice a cell costs more than the cells
            papermill.execute_notebook(source, target, parameters, progress_bar=False, **options)
        if unreached := sorted((asked or frozenset()) - {event["name"] for event in told(events, "done")}):
            reasons = [event["name"] for event in told(events, "left out") if not event["name"].startswith("MissingRows")]
            raise Refused(f"{path.stem}: {', '.join(unreached)} was not reached: {(reasons or ['no cell declares it'])[0]}")
        return told(events, "declared")


def execute_report(path: Path) -> None:
    """Execute a committed chapter in place at `report`, and leave nothing in it but its cells and outputs, 1..N."""
    import nbformat
    from nbclient import NotebookClient

    from helpers.kernels import kernel_options

    with one_line(f"{path.stem} at `report`"), kernel_options() as options:
        _cells(path)
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(notebook, timeout=TIMEOUT, resources={"metadata": {"path": str(BOOK)}}, **options)
        with client.setup_kernel():  # `execute` would put its own handlers of signals in place of the runner's
            for index, cell in enumerate(notebook.cells):
                client.execute_cell(cell, index)
    complaints = [o.text for c in notebook.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
    if complaints:
        raise Refused(f"{path.stem} wrote to stderr at `report`: {complaints[0].strip()[:300]}")
    tidy(notebook)
    write_whole(path, nbformat.writes(notebook).rstrip("\n") + "\n")


@contextlib.contextmanager
def one_line(chapter: str, more: str = ""):
    """Raise Refused, which says what stopped a chapter, in place of what its libraries raise."""
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from nbformat import ValidationError
    from papermill import PapermillExecutionError

    try:
        yield
    except (CellExecutionError, PapermillExecutionError) as error:
        lost = error.ename == "RowsLost"  # the rest of the experiment was computed; other chapters have no part in it
        raise Refused(f"{chapter} stopped with {error.ename}: {error.evalue}{more}", others_go_on=lost) from None
    except DeadKernelError:
        raise Refused(f"{chapter}: its kernel died; often there was too little memory{more}") from None
    except CellTimeoutError as error:
        raise Refused(f"{chapter} stopped: {str(error).splitlines()[0]}{more}") from None
    except (OSError, RuntimeError, ValueError, ValidationError) as error:  # no kernel, no space, no notebook
        raise Refused(f"{chapter} was not executed: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}") from None


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
