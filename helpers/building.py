"""Building the site: of the committed notebooks, or of executed copies."""

import shutil
import subprocess
import sys
from pathlib import Path

from helpers.chapters import BOOK, BUILD, Refused
from helpers.rows import ROOT
from helpers.scratch import locked, on_stop, private_folder


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
