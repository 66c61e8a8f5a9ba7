"""Identity of code: every change of what a run computes by changes it, and nothing else does."""

import functools
import importlib
import os
import subprocess
import sys

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from helpers import attacks, rows
from helpers.identity import identity

IMPORTS = """
import enum, functools
from functools import partial
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from helpers import attacks, metrics
from helpers.metrics import accuracy
from helpers.identity import identity
"""


@pytest.fixture
def session():
    """(cells, what is handed over) -> its identity in a notebook of its own, where these cells ran one after another."""
    main, opened = sys.modules["__main__"], []

    def run(*cells, given="measure", history=True):
        opened.append(InteractiveShell(config=Config({"HistoryManager": {"enabled": False}})))
        for cell in (IMPORTS, *cells, f"found = identity({given})"):
            opened[-1].run_cell(cell, store_history=history).raise_error()
        return opened[-1].user_ns["found"]

    yield run
    sys.modules["__main__"] = main


# a notebook, what is replaced in it, by what; what is handed over is `measure`, if a fourth does not say otherwise
CHANGES = {
    "body": ("def measure(x): return x + 1", "1", "2"),
    "default": ("def measure(x, k=1): return x + k", "k=1", "k=2"),
    "default of another": ("K = 1\ndef measure(x, k=K): return x + k", "K = 1", "K = 2"),
    "helper": ("def f(x): return x + 1\ndef measure(x): return f(x)", "x + 1", "x - 1"),
    "class of a cell": ("class A:\n    def __call__(self): return .3\ndef measure(): return A()()", ".3", ".5"),
    "class attribute": ("class A:\n    scale = 3\ndef measure(): return A.scale", "3", "4"),
    "base class": ("class B:\n    k = 1\nclass A(B): pass\ndef measure(): return A().k", "1", "2"),
    "dataclass": (
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    k: int = 1\ndef measure(): return A()",
        "= 1",
        "= 2",
    ),
    "metaclass argument": ("class A(dict, metaclass=type): k = 1\ndef measure(): return A", "k = 1", "k = 2"),
    "instance": ("class A:\n    def __init__(s, k): s.k = k\na = A(1)\ndef measure(): return a.k", "A(1)", "A(2)"),
    "bound method": ("class A:\n    def __init__(s, k): s.k = k\n    def m(s): return s.k\nrun = A(1).m", "A(1)", "A(2)", "run"),
    "method of an unnamed instance": (
        "class A:\n    def __init__(s, k): s.k = k\n    def m(s): return s.k",
        "return s.k",
        "return -s.k",
        "A(1).m",
    ),
    "method's code": ("class A:\n    def m(s): return 1", "1", "2", "A().m"),
    "callable instance": (
        "class A:\n    def __init__(s, k): s.k = k\n    def __call__(s): return s.k\na = A(1)",
        "A(1)",
        "A(2)",
        "a",
    ),
    "enum": ("class E(enum.Enum):\n    A = 1\ndef measure(): return E.A.value", "1", "2"),
    "enum member": ("class E(enum.Enum):\n    A = 1\n    B = 2\ndef measure(e): return e", "E.A", "E.B", "partial(measure, E.A)"),
    "tensor": ("T = torch.tensor([1., 2])\ndef measure(): return T", "1.", "1.5"),
    "array": ("T = np.arange(3)\ndef measure(): return T", "3", "4"),
    "range": ("R = range(3)\ndef measure(): return R", "3", "4"),
    "slice": ("R = slice(3)\ndef measure(): return R", "3", "4"),
    "closure over a number": ("def make(k):\n    def f(): return k\n    return f\nrun = make(1)", "make(1)", "make(2)", "run"),
    "closure unnamed": ("def make(k):\n    def f(): return k\n    return f", "return k", "return -k", "make(1)"),
    "closure over a dict": ("def make(d):\n    def f(): return d\n    return f", "'a': 1", "'a': 2", "make({'a': 1})"),
    "closure over a tensor": ("def make(d):\n    return lambda: d", "ones", "zeros", "make(torch.ones(2))"),
    "closure over an array": ("def make(d):\n    return lambda: d", "ones", "zeros", "make(np.ones(2))"),
    "closure over an instance": ("class A:\n    k = 1\ndef make(d): return lambda: d", "k = 1", "k = 2", "make(A())"),
    "closure in a dict of functions": (
        "def make(k): return lambda: k\nT = {'a': make(1)}\ndef measure(): return T",
        "(1)",
        "(2)",
    ),
    "cached": ("@functools.cache\ndef f(): return 1\ndef measure(): return f()", "1", "2"),
    "cached itself": ("@functools.lru_cache(maxsize=3)\ndef measure(): return 1", "return 1", "return 2"),
    "cached by assignment": ("def f(): return 1\nf = functools.cache(f)\ndef measure(): return f()", "1", "2"),
    "decorator": ("def d(f): return lambda: f() + 1\n@d\ndef measure(): return 0", "+ 1", "+ 2"),
    "decorator's argument": ("def d(k):\n    def w(f): return f\n    return w\n@d(1)\ndef measure(): return 0", "d(1)", "d(2)"),
    "decorator with wraps": (
        "def d(f):\n    @functools.wraps(f)\n    def w(): return f() + 1\n    return w\n@d\ndef measure(): return 0",
        "+ 1",
        "+ 2",
    ),
    "under no_grad": ("@torch.no_grad()\ndef measure(): return 0", "return 0", "return 1"),
    "registered by a decorator": (
        "T = {}\ndef r(f): T[f.__name__] = f\n@r\ndef f(): return 1\ndef measure(): return T",
        "1",
        "2",
    ),
    "global set by a call": ("def up():\n    global K\n    K = 1\nup()\ndef measure(): return K", "1", "2"),
    "alias of a library function": ("attack = attacks.pgd\ndef measure(): return attack", "pgd", "fgsm"),
    "import under a name": ("from helpers.attacks import pgd as attack\ndef measure(): return attack", "pgd", "fgsm"),
    "library by attribute": ("def measure(): return attacks.pgd", "pgd", "fgsm"),
    "library of another package": ("def measure(x): return np.exp(x)", "np.", "torch."),
    "partial of a library function": (
        "attack = partial(attacks.pgd, steps=1)\ndef measure(): return attack",
        "steps=1",
        "steps=2",
    ),
    "partial unnamed": ("", "steps=1", "steps=2", "partial(attacks.pgd, steps=1)"),
    "numbers that run together": ("", "1, 11", "11, 1", "partial(attacks.pgd, 1, 11)"),
    "words that run together": ("", "'ab', 'c'", "'a', 'bc'", "partial(attacks.pgd, 'ab', 'c')"),
    "words or one word": ("", "'a', 'b'", "\"a', 'b\"", "partial(attacks.pgd, 'a', 'b')"),
    "tuples that run together": ("", "(1,), 2", "1, (2,)", "partial(attacks.pgd, (1,), 2)"),
    "text by text": ("def measure(): return pgd(steps=1, restarts=11)", "1, restarts=11", "11, restarts=1"),
    "constant of a constant": ("A = 1\nB = A + 1\nC = [B]\ndef measure(): return C", "A = 1", "A = 2"),
    "loop that fills a dict": ("T = {}\nfor k in range(3):\n    T[k] = k\ndef measure(): return T", "range(3)", "range(4)"),
    "loop variable": ("for k in range(3): pass\ndef measure(): return k", "range(3)", "range(4)"),
    "branch": ("if len('a') == 1: K = 1\nelse: K = 2\ndef measure(): return K", "== 1", "== 2"),
    "try": ("try: K = 1\nexcept ValueError: K = 2\ndef measure(): return K", "K = 1", "K = 3"),
    "with": ("import contextlib\nwith contextlib.nullcontext(1) as K: pass\ndef measure(): return K", "(1)", "(2)"),
    "walrus": ("print(end=str(K := 1)[:0])\ndef measure(): return K", ":= 1", ":= 2"),
    "unpacked": ("a, (b, *c) = 1, (2, 3, 4)\ndef measure(): return c", "4", "5"),
    "augmented": ("a = 1\na += 2\ndef measure(): return a", "2", "3"),
    "order of changes": ("a = 1\na += 2\na *= 3\ndef measure(): return a", "a += 2\na *= 3", "a *= 3\na += 2"),
    "item": ("T = {}\nT['a'] = 1\ndef measure(): return T", "= 1", "= 2"),
    "item of an item": ("T = {'a': {}}\nT['a']['b'] = 1\ndef measure(): return T", "= 1", "= 2"),
    "attribute": ("class A: pass\na = A()\na.k = 1\ndef measure(): return a.k", "= 1", "= 2"),
    "attribute of a class": ("class A: k = 0\nA.k = 1\ndef measure(): return A.k", "= 1", "= 2"),
    "deleted": ("T = {'a': 1, 'b': 2}\ndel T['a']\ndef measure(): return T", "del T['a']", "del T['b']"),
    "update": ("T = {}\nT.update(a=1)\ndef measure(): return T", "a=1", "a=2"),
    "union": ("T = {1}\nT |= {2}\ndef measure(): return T", "{2}", "{3}"),
    "passed and changed": (
        "import random\nT = [1, 2]\nrandom.Random(1).shuffle(T)\ndef measure(): return T",
        "Random(1)",
        "Random(2)",
    ),
    "filled by a function": ("T = []\ndef fill(t, k): t.append(k)\nfill(T, 1)\ndef measure(): return T", "T, 1", "T, 2"),
    "weights": (
        "net = nn.Linear(2, 1)\nnn.init.constant_(net.weight, 1)\nnet.bias.data.fill_(3)\ndef measure(): return net",
        "(3)",
        "(4)",
    ),
    "library changed": ("attacks.mine = 1\ndef measure(): return attacks.mine", "= 1", "= 2"),
    "f-string": ("K = 1\ndef measure(): return f'{K:.{K}f}'", "K = 1", "K = 2"),
    "f-string's own text": ("def measure(x): return f'{x:.1f}'", ".1f", ".2f"),
    "nested function's global": ("K = 1\ndef measure():\n    def f(): return K\n    return f()", "K = 1", "K = 2"),
    "comprehension's global": ("K = 1\ndef measure(): return [x + K for x in range(3)]", "K = 1", "K = 2"),
    "lambda": ("measure = lambda: 1", "1", "2"),
    "lambda of several": ("", "[0]", "[1]", "[(lambda: 1), (lambda: 2)][0]"),
    "lambda in a lambda": ("", "()", "", "(lambda: (lambda: 1))()"),
    "lambda that is handed over": ("", "x + 1", "x + 2", "lambda x: x + 1"),
    "default of a lambda": ("k = 1\nf = [lambda k=k: k][0]", "k = 1", "k = 2", "f"),
    "lambda by its global": ("K = 1", "1", "2", "lambda x: x + K"),
    "data function": (
        "def measure(): return 1\ndef splits(): return 1",
        "splits(): return 1",
        "splits(): return 2",
        "measure, splits",
    ),
    "which comes first": ("def f(): return 1\ndef g(): return 2", "f, g", "g, f", "f, g"),
    "set": ("S = {'a', 'b'}\ndef measure(x): return x in S", "'b'", "'c'"),
    "a name of Python itself": ("def measure(x): return len(x)", "def", "def len(x): return 3\ndef"),
    "cell under a magic": ("%%time\ndef measure(): return 1", "return 1", "return 2"),
    "complex": ("", "1j", "2j", "partial(max, 1j)"),
    "path": ("from pathlib import Path", "'a'", "'b'", "partial(max, Path('a'))"),
    "dtype": ("", "float32", "float64", "partial(torch.zeros, 3, dtype=torch.float32)"),
    "named tuple": ("import collections\nP = collections.namedtuple('P', 'a b')", "P(1, 2)", "P(2, 1)", "partial(max, P(1, 2))"),
    "module of layers": ("", "ReLU", "Tanh", "nn.Sequential(nn.ReLU())"),
    "default dict": ("import collections", "int", "list", "partial(max, collections.defaultdict(int))"),
}
CHANGES["type of a number"] = ("", "0, 1", "0, 1.0", "partial(max, 0, 1)")
CHANGES["truth or a number"] = ("", "0, 1", "0, True", "partial(max, 0, 1)")


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_of_what_a_run_computes_by_changes_it(session, kind):
    cell, old, new, *given = CHANGES[kind]
    given = given[0] if given else "measure"
    changed, changed_given = cell.replace(old, new), given if old in cell else given.replace(old, new)
    assert (changed, changed_given) != (cell, given)
    first = session(cell, given=given)
    assert len(first) == 12 and first != session(changed, given=changed_given)
    assert first == session(cell, given=given), "in another session it is the same"


SAME = {
    "docstring": (["def measure(): return 1"], ["def measure():\n    'What it does.'\n    return 1"]),
    "docstring of a class": (
        ["class A:\n    k = 1\ndef measure(): return A"],
        ["class A:\n    'Says.'\n    k = 1\ndef measure(): return A"],
    ),
    "comment": (["def measure(): return 1"], ["# why\ndef measure():  # how\n    return 1  # what"]),
    "formatting": (
        ["T = {'a': 1, 'b': 2}\ndef measure(): return T"],
        ['T = {\n  "a": 1,\n  "b": 2,\n}\n\ndef measure():\n\n    return (T)'],
    ),
    "annotation": (["def measure(x): return x"], ["def measure(x: int) -> int: return x"]),
    "unrelated cell above": (["A = 1", "def measure(): return 1"], ["A = 2\ndef other(): return A", "def measure(): return 1"]),
    "cells in another order": (
        ["A = 1", "B = 2", "def measure(): return A + B"],
        ["B = 2", "def measure(): return A + B", "A = 1"],
    ),
    "cells put together": (["A = 1", "def measure(): return A"], ["A = 1\ndef measure(): return A"]),
    "cell run again": (["T = {}\nT['a'] = 1\ndef measure(): return T"], ["T = {}\nT['a'] = 1\ndef measure(): return T"] * 2),
    "change run again": (
        ["T = {}", "T['a'] = 1", "T['b'] = 2", "def measure(): return T"],
        ["T = {}", "T['a'] = 1", "T['b'] = 2", "def measure(): return T", "T['a'] = 1"],
    ),
    "edit undone": (
        ["def measure(): return 1"],
        ["def measure(): return 1", "def measure(): return 2", "def measure(): return 1"],
    ),
    "edit of an item": (
        ["T = {}", "T['a'] = 1", "T['b'] = 2", "def measure(): return T"],
        ["T = {}", "T['a'] = 7", "T['b'] = 2", "def measure(): return T", "T['a'] = 1"],
    ),
    "cache that a run fills": (
        ["C = {}\ndef measure(x=1):\n    C[x] = x\n    return C"],
        ["C = {}\ndef measure(x=1):\n    C[x] = x\n    return C", "done = measure(3)"],
    ),
    "counter": (
        ["n = 0\ndef measure():\n    global n\n    n += 1"],
        ["n = 0\ndef measure():\n    global n\n    n += 1", "done = measure()"],
    ),
    "cached function that was called": (
        ["@functools.cache\ndef measure(): return 1"],
        ["@functools.cache\ndef measure(): return 1", "one = measure()"],
    ),
    "instance that counts": (
        ["class A:\n    n = 0\n    def __call__(s): s.n += 1\nmeasure = A()"],
        ["class A:\n    n = 0\n    def __call__(s): s.n += 1\nmeasure = A()", "done = measure()"],
    ),
    "other name of the library": (["def measure(): return metrics.accuracy(1)"], ["def measure(): return accuracy(1)"]),
    "deeper name of the library": (
        ["from helpers.attacks import pgd\ndef measure(): return pgd"],
        ["from helpers.attacks.iterated import pgd\ndef measure(): return pgd"],
    ),
    "other path to a module": (["def measure(x): return F.relu(x)"], ["def measure(x): return torch.nn.functional.relu(x)"]),
    "parameters": (
        ["profile = 'smoke'\nseeds = None\ndef measure(): return profile, seeds"],
        ["profile = 'smoke'\nseeds = None\ndef measure(): return profile, seeds", "profile = 'cpu'\nseeds = '0-4'"],
    ),
    "the study": (
        ["class Study: pass\nstudy = Study()\nstudy.profile = 1\ndef measure(): return study"],
        ["class Study: pass\nstudy = Study()\nstudy.profile = 2\ndef measure(): return study"],
    ),
    "experiment": (
        ["class Experiment: pass\ntable = Experiment()\ndef measure(): return table"],
        ["class Experiment: pass\ndef other(): pass\ntable = Experiment()\ntable.x = 3\ndef measure(): return table"],
    ),
    "local of the same name": (
        ["x = y = 1\ndef measure(x): return [x for y in x]"],
        ["x = y = 2\ndef measure(x): return [x for y in x]"],
    ),
    "attribute of the same name": (
        ["norm = 1\ndef measure(x): return x.norm(norm=2)"],
        ["norm = 2\ndef measure(x): return x.norm(norm=2)"],
    ),
    "printed": (["T = [1]\ndef measure(): return T"], ["T = [1]\ndef measure(): return T", "print(T, end='')"]),
    "a bound name is bound again": (["A = 2\ndef measure(): return A"], ["A = 1\nA += 3", "A = 2\ndef measure(): return A"]),
    "use of a library": (
        ["def measure(): return torch.ones(1)"],
        ["def measure(): return torch.ones(1)", "torch.manual_seed(0)"],
    ),
    "magics": (["def measure(): return 1"], ["%precision 3\ndef measure(): return 1", "%time x = 1"]),
    "magic before the same cell": (["def measure(): return 1"], ["%%time\ndef measure(): return 1"]),
}


@pytest.mark.parametrize("kind", SAME)
def test_what_changes_no_value_changes_no_identity(session, kind):
    first, second = SAME[kind]
    assert session(*first) == session(*second)


def test_a_cell_that_does_not_parse_or_stops_is_no_obstacle(session):
    def tried(cell):
        return f"get_ipython().run_cell({cell!r}, store_history=True) and None"

    good = session("def measure(): return 1")
    assert (
        session(
            "import contextlib, io",
            "def measure(): return 1",
            "with contextlib.redirect_stdout(io.StringIO()):\n    " + tried("def measure(: return 2"),
        )
        == good
    )


@pytest.fixture
def recipes(monkeypatch):
    """(name, text) -> a module beside the chapters."""
    made = []

    def write(name, text):
        made.append(rows.ROOT / "book" / f"{name}.py")
        made[-1].write_text(text, encoding="utf-8")
        sys.modules.pop(name, None)
        importlib.invalidate_caches()

    monkeypatch.syspath_prepend(rows.ROOT / "book")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield write
    for path in made:
        path.unlink(missing_ok=True)
        sys.modules.pop(path.stem, None)


BUILD = "K = 3\ndef build(x):\n    return F.relu(x) + K + metrics.accuracy(x)\n"
BESIDE = "import torch.nn.functional as F\nfrom helpers import metrics\n" + BUILD


@pytest.mark.parametrize(
    ("imports", "use"),
    [
        ("from toy_recipe import build", "build"),
        ("import toy_recipe", "toy_recipe.build"),
        ("import toy_recipe as r", "r.build"),
        ("from toy_recipe import *", "build"),
    ],
)
def test_moving_a_function_to_a_module_beside_the_chapters_changes_nothing(session, recipes, imports, use):
    here = session(BUILD, "def measure(): return build(1)")
    recipes("toy_recipe", BESIDE)
    assert session(imports, f"def measure(): return {use}(1)") == here
    recipes("toy_recipe", BESIDE.replace("K = 3", "K = 4"))
    assert session(imports, f"def measure(): return {use}(1)") != here
    recipes("toy_recipe", BESIDE.replace("relu", "gelu"))
    assert session(imports, f"def measure(): return {use}(1)") != here
    recipes("toy_recipe", BESIDE + "OTHER = 1\n")
    assert session(imports, f"def measure(): return {use}(1)") == here


def test_one_module_beside_the_chapters_may_use_another(session, recipes):
    recipes("toy_inner", "def f(): return 1\n")
    recipes("toy_outer", "import toy_inner\ndef build(): return toy_inner.f()\n")
    first = session("from toy_outer import build", given="build")
    recipes("toy_inner", "def f(): return 2\n")
    sys.modules.pop("toy_outer")
    assert session("from toy_outer import build", given="build") != first
    assert session("def f(): return 2\ndef build(): return f()", given="build") == session(
        "from toy_outer import build", given="build"
    )


def executed(text):
    space = {"__name__": "__main__"}
    exec(text, space)
    return identity(space["measure"])


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("class A:\n    def __call__(self): return .3\ndef measure(): return A()()", ".3", ".5"),
        ("class B:\n    k = 1\nclass A(B): pass\ndef measure(): return A.k", "1", "2"),
        ("_K = 1\ndef measure(): return _K", "1", "2"),
        ("def f(): return 1\nT = {'a': [f]}\ndef measure(): return T", "1", "2"),
        ("def measure(k=1): return k", "1", "2"),
        ("def make(k): return lambda: k\nmeasure = make(1)", "(1)", "(2)"),
        ("import numpy as np\nT = np.arange(3)\ndef measure(): return T", "3", "4"),
        ("class A:\n    def __init__(s, k): s.k = k\na = A(1)\ndef measure(): return a", "A(1)", "A(2)"),
        ("def measure(x): return x.real", "real", "imag"),
        ("W = {'a', 'b', 'c'}\ndef measure(x): return x in W", "'c'", "'d'"),
    ],
)
def test_code_without_source_counts_as_it_was_compiled(text, old, new):
    assert executed(text) == executed(text) != executed(text.replace(old, new))


SCALE = 3


def at_the_top(x):
    return x * SCALE


def test_functions_of_a_module_count_by_its_source_and_nested_ones_by_what_they_close_over(monkeypatch):
    def make(k):
        def inner(x):
            return at_the_top(x) + k

        return inner

    assert identity(make(1)) == identity(make(1)) != identity(make(2))
    pair = [lambda: 1, lambda: 2, lambda: lambda: 1, lambda x=1: 1, lambda x=2: 1]
    assert len({identity(f) for f in pair}) == 5
    assert identity(pair[0]) == identity(lambda: 1)
    assert identity(at_the_top) != identity(make(1)) and identity(at_the_top) == identity(at_the_top)
    assert identity(functools.partial(at_the_top, 1)) != identity(functools.partial(at_the_top, 2))
    assert identity(attacks.pgd) != identity(attacks.fgsm)

    def counted(calls, k):
        def run(x):
            calls.append(x)
            return k

        return run

    calls = []
    first = counted(calls, 1)
    before = identity(first), identity(lambda: calls.append(1) or 2)
    first(3)
    assert before[0] == identity(first) == identity(counted(calls, 1)) != identity(counted(calls, 2)), "what a run fills"
    assert before[1] == identity(lambda: calls.append(1) or 2)
    table = {}
    table["self"] = table
    assert identity(make(table)) == identity(make(table)), "an object may hold itself"


def test_the_identity_is_the_same_in_every_process(session, tmp_path):
    cells = [
        "WORDS = {'one', 'two', 'three'}\nclass A:\n    k = {'x', 'y'}",
        "def measure(x): return x in WORDS or x in {'p', 'q'} or A",
    ]
    given = "measure, partial(max, {'a', 'b', 'c'}), A(), lambda: {'r', 's'}"
    script = tmp_path / "other.py"
    script.write_text(
        "from IPython.core.interactiveshell import InteractiveShell\nshell = InteractiveShell.instance()\n"
        f"for cell in {[IMPORTS, *cells, f'print(identity({given}))']!r}:\n    shell.run_cell(cell, store_history=True)\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(rows.ROOT), "IPYTHONDIR": str(tmp_path / "ipython")}
    done = subprocess.run([sys.executable, script], capture_output=True, encoding="utf-8", env=environment, check=True)
    assert done.stdout.split()[-1] == session(*cells, given=given)


@pytest.mark.parametrize(
    "body",
    ["def measure(): return k", "def measure(k=k): return k", "def measure(*, k=(k, 'x')): return k", "measure = lambda: k"],
)
def test_each_round_of_a_loop_is_code_of_its_own(session, body):
    loop = f"rounds = []\nfor k in (1, 2):\n    {body}\n    rounds.append(identity(measure))\nassert len(set(rounds)) == 2"
    session(loop, loop, given="1")


def test_cells_count_without_history_as_nbval_runs_them(session):
    cells = "k = 1", "def f(x): return x + k", "measure = partial(f, x=2)"
    without = session(*cells, history=False)
    assert without == session(*cells) != session("k = 2", *cells[1:], history=False)


def test_asking_an_object_is_no_change_of_it(session):
    cells = "cfg = {'a': 1}", "def measure(): return cfg['a']"
    asked = "print(cfg['a']); cfg.get('a'); len(cfg); cfg.keys(); cfg.copy(); _ = cfg.items()"
    assert session(*cells, asked) == session(*cells) != session(*cells, "cfg.pop('b', 0)")


def test_text_that_python_warns_of_says_nothing(session, recwarn):
    session("from pathlib import Path", "def measure(): return 1, '\\d'" + " is ()")
    assert {str(w.filename) for w in recwarn if "unknown" in str(w.filename) or "slice" in str(w.filename)} == set()


def test_it_is_quick_in_a_notebook_of_many_cells(session):
    cells = ["def f(x):\n    return x"] + [
        f"def f{i}(x):\n    return f{i - 1 or ''}(x) + torch.ones({i}) if x else metrics.accuracy(x)" for i in range(1, 80)
    ]
    watch = "import time\nstart = time.process_time()\nfor _ in range(20): identity(f79)\nspent = time.process_time() - start"
    assert session(*cells, "identity(f79)", watch, "assert spent < 20 * 0.03, spent", given="f79")
