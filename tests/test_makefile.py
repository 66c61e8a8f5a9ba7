"""What is given to make reaches the runner as it was typed, runs nothing, and what other tools exported counts for nothing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers.environments import MALLOC

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = ("PROFILE", "CHAPTERS", "EXPERIMENTS", "SEEDS", "DATA_ROOT", "DEVICE", "WORKERS", "CLUSTER", "ALLOW_DIRTY", "FROM")
NAMES = (*OPTIONS, "PYTHON", "TORCH_INDEX")


@pytest.fixture
def make(tmp_path):
    """A function that calls make with an interpreter that writes down what it is given, and returns that: one list a call."""
    folder = tmp_path / "a checkout"
    (folder / "bin").mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    python = folder / "bin/python"
    python.write_text(
        '#!/bin/sh\nfor a in "$@"; do printf "%s\\0" "$a" >> calls; done; printf "\\n\\0" >> calls\n', encoding="utf-8"
    )
    python.chmod(0o755)
    (folder / "stamp").touch()

    def call(*arguments: str, **environment: str) -> list[list[str]]:
        (folder / "calls").unlink(missing_ok=True)
        env = {k: v for k, v in os.environ.items() if k not in NAMES} | environment
        command = ["make", "--no-print-directory", *arguments, f"PY={python}"]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        assert not list(folder.rglob("ran*")), "a part of a value was run"
        calls = (folder / "calls").read_bytes().decode().removesuffix("\0\n\0")
        return [call.split("\0") for call in calls.split("\0\n\0")]

    return call


def options(call: list[str]) -> dict[str, str]:
    return dict(word.removeprefix("--").split("=", 1) for word in call if "=" in word)


HARD = [
    "/a folder/with  spaces",
    "~/x",
    "/a;touch ran",
    "$(shell touch ran)",
    "${HOME}",
    "$HOME",
    "`touch ran`",
    "$$(touch ran)",
    "it's",
    'say "this"',
    "a#b",
    "a&&touch ran",
    "back\\slash",
    "--list",
    "*",
    "α",
    "two\nlines",
]


@pytest.mark.parametrize("value", HARD)
def test_a_value_arrives_as_it_was_typed(make, value):
    (call,) = make("reproduce", "STAMP=stamp", f"DATA_ROOT={value}", f"DEVICE={value}")
    assert options(call) == {"data-root": value, "device": value}


def test_every_variable_becomes_its_option(make):
    (call,) = make("record", "STAMP=stamp", "PROFILE=cpu", "CHAPTERS=01,02", "SEEDS=0-4", "DEVICE=cuda:1", "ALLOW_DIRTY=1")
    assert call[:2] == ["-m", "helpers.run"] and {"--record", "--allow-dirty"} <= set(call)
    assert options(call) == {"profile": "cpu", "chapters": "01,02", "seeds": "0-4", "device": "cuda:1"}
    (call,) = make("reproduce", "STAMP=stamp", "EXPERIMENTS=a,b", "WORKERS=2", "CLUSTER=tcp://h:1")
    assert options(call) == {"experiments": "a,b", "workers": "2", "cluster": "tcp://h:1"}
    (call,) = make("merge", "STAMP=stamp", "FROM=/a folder", "REPLACE=a,b", "ZOO=1")
    assert options(call) == {"merge": "/a folder", "replace": "a,b"} and "--zoo" in call
    (call,) = make("todo", "STAMP=stamp", "PROFILE=cpu")
    assert options(call) == {"profile": "cpu"} and "--todo" in call
    assert make("bench", "STAMP=stamp", "DEVICE=cuda")[-1] == ["tests/bench_attacks.py", "--device=cuda"]


@pytest.mark.parametrize("more", [[], ["-e"]])
def test_what_the_environment_holds_counts_for_nothing(make, more):
    environment = dict.fromkeys(OPTIONS, "$(shell touch ran)")
    (call,) = make("record", "STAMP=stamp", *more, **environment)
    assert options(call) == {} and "--allow-dirty" not in call and "--record" in call


def test_python_and_the_index_may_come_from_the_environment(make, tmp_path):
    other = tmp_path / "my python"
    shutil.copy(tmp_path / "a checkout/bin/python", other)
    calls = make("setup", "STAMP=new", PYTHON=str(other), TORCH_INDEX="https://a.example/whl?a&b")
    assert calls[0][0] == "-c" and "import sys" in calls[0][1], "the interpreter with a space in its path was asked"
    assert [w for c in calls for w in c if "index" in w] == ["--index-url=https://a.example/whl?a&b"]
    assert all("--index-url" not in word for c in make("setup", "-B", "STAMP=new", f"PYTHON={other}") for word in c)


def test_tests_get_the_malloc_settings_of_kernels():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "MALLOC  := " + " ".join(f"{name}={value}" for name, value in MALLOC.items()) in text


def test_help_names_every_target():
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, encoding="utf-8").stdout
    assert all(
        word in text
        for word in ("make reproduce", "make record", "make todo", "make merge", "test", "bench", "book", "lab", "lint", "clean")
    )
