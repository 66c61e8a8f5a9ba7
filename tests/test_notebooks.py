"""Every chapter: the committed notebook, `report` without anything to compute from, and `smoke` against the stored rows."""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tomllib

import nbformat
import pytest

from helpers import reproduction, run
from helpers import rows as storage
from helpers.profiles import PARAMETERS
from helpers.rows import ROOT

CHAPTERS = run.chapters()
MEGABYTE = 1_000_000


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
class TestCommitted:
    def test_is_executed_in_order_at_report_without_traces_of_a_run(self, path):
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        assert [c.execution_count for c in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
        assert "papermill" not in notebook.metadata and set(notebook.metadata) == {"kernelspec", "language_info"}
        assert not any("injected-parameters" in c.metadata.get("tags", []) or "execution" in c.metadata for c in notebook.cells)
        parameters = next(c for c in code_cells(notebook) if "parameters" in c.metadata.get("tags", []))
        assert 'profile = "report"' in parameters.source
        assert all(re.search(rf"^{name} = ", parameters.source, re.M) for name in PARAMETERS)

    def test_has_no_error_widget_or_stderr_and_stays_small(self, path):
        outputs = [o for c in code_cells(nbformat.read(path, 4)) for o in c.outputs]
        assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
        assert not [o for o in outputs if "widget" in str(o.get("data", {}).keys())]
        assert path.stat().st_size < MEGABYTE
        plots = [len(json.dumps(o)) for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
        assert plots and max(plots) < 300_000

    def test_reads_as_an_article(self, path):
        notebook = nbformat.read(path, 4)
        lengths = [len(c.source.splitlines()) for c in code_cells(notebook)]
        shown = [c for c in code_cells(notebook) if not {"hide-input", "remove-cell"} & set(c.metadata.get("tags", []))]
        assert max(lengths) <= 40 and statistics.median(len(c.source.splitlines()) for c in shown) <= 8
        assert max(len(line) for c in shown for line in c.source.splitlines()) <= 92  # what the page shows
        prose = sum(len(c.source.split()) for c in notebook.cells if c.cell_type == "markdown")
        assert prose > sum(len(c.source.split()) for c in shown)

    def test_pictures_have_words(self, path):
        for cell in code_cells(nbformat.read(path, 4)):
            kinds = {kind for o in cell.outputs for kind in o.get("data", {})}
            if "image/png" in kinds:
                assert cell.metadata.get("mystnb", {}).get("image", {}).get("alt"), cell.id
            if "application/vnd.plotly.v1+json" in kinds:
                assert cell.metadata.get("mystnb", {}).get("figure", {}).get("caption"), cell.id

    def test_colab_bootstrap_and_site_name_the_same_address(self, path):
        import yaml

        configured = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
        notebook = nbformat.read(path, 4)
        source = "\n".join(c.source for c in code_cells(notebook))
        assert re.search(r'^REPOSITORY = "(.*)"', source, re.M)[1] == configured
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert re.search(r'^TAG = "v(.*)"', source, re.M)[1] == project["version"]
        badge = (
            "how_to_run.md#on-colab"
            if not configured
            else f"colab.research.google.com/github/{configured.removeprefix('https://github.com/')}"
        )
        assert badge in notebook.cells[0].source

    @pytest.mark.long  # make test compares the outputs at `report` by nbval; that nothing else is needed is shown here
    def test_report_needs_no_data_no_networks_and_no_network(self, path, tmp_path):
        """From a copy without `_build`, with an empty data folder, and with sockets other than local ones refused."""
        copy = tmp_path / "book"
        ignore = shutil.ignore_patterns(".git", ".venv", "_build", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=ignore)
        (tmp_path / "guard").mkdir()
        (tmp_path / "guard/sitecustomize.py").write_text(
            "import socket\n_connect = socket.socket.connect\n"
            "def connect(self, address):\n"
            "    if self.family != getattr(socket, 'AF_UNIX', None) and address[0] not in ('127.0.0.1', '::1', 'localhost'):\n"
            "        raise OSError('the test has no network')\n"
            "    return _connect(self, address)\nsocket.socket.connect = connect\n",
            encoding="utf-8",
        )
        environment = {
            **os.environ,
            "PYTHONPATH": f"{copy}:{tmp_path / 'guard'}",
            "BOOK_DATA": str(tmp_path / "empty"),
            "OMP_NUM_THREADS": "1",
        }
        before = nbformat.read(path, 4)
        command = [sys.executable, "-m", "helpers.run", "--profile", "report", "--chapters", path.stem]
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stdout + done.stderr
        after = nbformat.read(copy / "book" / path.name, 4)
        for old, new in zip(before.cells, after.cells, strict=True):
            if old.cell_type == "code" and "nbval-ignore-output" not in old.metadata.get("tags", []):
                texts = [
                    [{k: v for k, v in o.get("data", {}).items() if k != "image/png"} for o in c.outputs] for c in (old, new)
                ]
                assert texts[0] == texts[1], (
                    f"{path.stem}, cell {old.id}: its output changes; execute it again: python -m helpers.run --profile report"
                )
        assert not (tmp_path / "empty").exists() and not list((copy / "_build").rglob("*.safetensors"))


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """`make reproduce` of the whole book at smoke, in a copy of the tree."""
    copy = tmp_path_factory.mktemp("smoke") / "book"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "_build", "*.egg-info", "__pycache__"))
    committed = {p.relative_to(copy): p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    environment = {k: v for k, v in os.environ.items() if k not in ("BOOK_DATA", "BOOK_RESULTS")}
    environment |= {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "helpers.run"], cwd=copy, env=environment, capture_output=True, encoding="utf-8")
    return copy, done, committed


@pytest.mark.timeout(3000)  # six chapters beside the other tests
class TestReproduce:
    def test_every_stored_smoke_row_comes_out_again(self, reproduced):
        copy, done, _ = reproduced
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        stored = {p.relative_to(ROOT / "results"): storage.read(p) for p in (ROOT / "results").glob("*/smoke/*.jsonl")}
        again = {p: storage.read(next((copy / "_build/reproduced/smoke").glob(f"*/results/{p}"))) for p in stored}
        assert stored and all(again[p].keys() >= stored[p].keys() for p in stored)
        off = [
            (p, r) for p in stored for r in reproduction.came_out_again(stored[p], again[p], close=True) if r["verdict"] == "no"
        ]
        assert not off
        for path, rows in stored.items():
            assert (
                f"{path.parts[0]} {path.stem}: {len(rows)} of {len(rows)} of the book's smoke rows came out again" in done.stdout
            )

    def test_it_shows_the_chapter_and_the_run_while_it_works(self, reproduced):
        _, done, _ = reproduced
        assert re.search(r"\d\d\w+ · \w+.*: \d+ of \d+ stored.* \| \d+ of \d+ rows.* \| \d of 6 chapters", done.stderr)

    def test_it_builds_a_site_of_its_own_and_leaves_the_book_alone(self, reproduced):
        copy, done, committed = reproduced
        assert "_build/smoke/html/index.html" in done.stdout and (copy / "_build/smoke/html/index.html").exists()
        page = (copy / "_build/smoke/html/book/01_learning_with_adversary.html").read_text(encoding="utf-8")
        assert "profile <b>smoke</b>" in page and "injected" not in page
        assert "A reproduction at profile" in page
        assert {p: (copy / p).read_bytes() for p in committed} == committed
