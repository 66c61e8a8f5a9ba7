"""Chapters as notebooks: which there are, and executing one, by papermill with parameters or in place at `report`."""

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

from helpers.rows import ROOT

BOOK, BUILD = ROOT / "book", ROOT / "_build"
PARAMETERS = ("profile", "seeds", "device", "data_root", "record")  # what every chapter's parameters cell offers


class Refused(SystemExit):
    """A request that cannot be carried out; the message is one line."""

    def __init__(self, message: str):
        super().__init__(f"run: {message}")
        self.message = message


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
        with kernel_config() as config, environment(BOOK_CHAPTER=path.stem, **threads):
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
