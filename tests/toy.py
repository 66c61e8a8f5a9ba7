"""A book of toy chapters for the tests of the runner."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent


def write_chapter(path: Path, *sources: str, parameters: str = "profile = 'report'") -> Path:
    """A notebook with a title, a parameters cell and one cell for each source."""
    cells = [
        nbformat.v4.new_markdown_cell("# A chapter"),
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *map(nbformat.v4.new_code_cell, sources),
    ]
    kernel = {"name": "python3", "display_name": "x", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def said(path: Path) -> str:
    """What the cells of an executed notebook printed."""
    outputs = [o for c in nbformat.read(path, 4).cells for o in c.get("outputs", [])]
    return "".join(o.get("text", "") for o in outputs)


class Book:
    """A checkout with this tree's helpers and chapters of its own, and its command line."""

    def __init__(self, root: Path, **chapters: str):
        self.root, self.temporary = root, root.parent / "tmp"
        shutil.copytree(ROOT / "helpers", root / "helpers", ignore=shutil.ignore_patterns("weights", "__pycache__"))
        for name, source in chapters.items():
            write_chapter(root / f"book/{name.lstrip('_')}.ipynb", source)
        self.temporary.mkdir()

    def environment(self, **more: str) -> dict[str, str]:
        usual = {k: v for k, v in os.environ.items() if not k.startswith("BOOK_")}
        own = {"PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary), "BOOK_COMMIT": "toy"}
        return {**usual, **own, **more}

    def start(self, *arguments: str, environment: dict[str, str] | None = None, **options) -> subprocess.Popen:
        command = [sys.executable, "-m", "helpers.run", *arguments]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8", "cwd": self.root, **options}
        return subprocess.Popen(command, env=self.environment(**environment or {}), **options)

    def run(self, *arguments: str, **options) -> subprocess.CompletedProcess:
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def row(run: str = "t", settings: dict | None = None, version: int = 1, metrics: dict | None = None, **args) -> dict:
    """A stored row."""
    from helpers import rows

    args, settings = {"seed": 0, **args}, {"epochs": 1} if settings is None else settings
    rest = {"profile": "smoke", "seconds": 1.0, "utc": "", "device": "", "versions": {}, "commit": "", "data": {}, "networks": {}}
    key = rows.key_of(run, args, settings, version)
    body = {"run": run, "key": key, "args": args, "settings": settings, "version": version, "metrics": metrics or {"a": 0.5}}
    return {**body, **rest}


def store(folder: Path, paper: str, *rows: dict, profile: str = "smoke") -> None:
    """Write rows as files of a results folder."""
    for r in rows:
        path = folder / paper / profile / f"{r['run']}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(r) + "\n")
