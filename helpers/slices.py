"""Slices of source: the top-level statements that a name depends on, from the executed cells of a notebook or a module's file."""

import ast
import functools
import linecache
import sys
import sysconfig
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

from helpers.statements import DEFINITIONS, FUNCTIONS, Statement, loaded, parsed, root, statements

READING = {"print", "display", "repr", "len", "helpers", "matplotlib", "pandas"}  # calls that leave their arguments as they are
FIXED = (str, bytes, int, float, complex, bool, type(None), tuple, frozenset, range, FunctionType, ModuleType)
LIBRARY = tuple({str(Path(sysconfig.get_path(kind)).resolve()) for kind in ("stdlib", "platstdlib", "purelib", "platlib")})


def installed(namespace: dict) -> bool:
    """Whether a module's globals belong to the `helpers` package, an installed package or Python itself."""
    name, file = namespace.get("__name__"), namespace.get("__file__")
    if name in (None, "__main__", "__mp_main__"):
        return False
    if name.partition(".")[0] == "helpers":
        return True
    if not file:
        return vars(sys.modules[name]) is namespace if name in sys.modules else False
    return _in_library(file)


@functools.lru_cache(maxsize=4096)
def _in_library(file: str) -> bool:
    path = Path(file).resolve()
    return str(path).startswith(LIBRARY) or bool({"site-packages", "dist-packages"} & set(path.parts))


class Space:
    """The statements of one namespace, in the order in which they ran."""

    def __init__(self, texts: tuple[str, ...]):
        self.order = [s for text in texts for s in statements(text)]
        self.index: dict[str, list[tuple[Statement, str]]] = {}
        for s in self.order:
            for name in s.binds:
                self._add(name, s, "plain" if name in s.plain else "bind")
            for name in s.stores.union(*map(self._changed, s.callees)) - s.plain:
                self._add(name, s, "store")
            for name in s.calls:
                self._add(name, s, "call")
            for function, name in s.passes:
                self._add(name, s, ("pass", root(function)))

    def _add(self, name: str | None, statement: Statement, kind: str | None) -> None:
        self.index.setdefault(name, []).append((statement, kind))

    def _changed(self, function: str) -> set[str]:
        """Globals that a function defined before changes by itself: a decorator that fills a table, a set-up."""
        defined = [s for s, kind in self.index.get(function, ()) if kind == "plain" and isinstance(s.node, DEFINITIONS)]
        return defined[-1].changes if defined else set()

    def of(self, name: str, namespace: dict) -> list[Statement]:
        """The last statement that binds a name wholly, and all that bind it in part or change it since; [] if none does."""
        found = self.index.get(name, [])
        last = max((i for i, (_, kind) in enumerate(found) if kind == "plain"), default=0)
        imported = bool(found) and isinstance(found[last][0].node, ast.Import | ast.ImportFrom)
        kept = {}
        for s, kind in found[last:]:
            if kind in ("plain", "bind", "store") or (
                not imported and (kind == "call" or self._may_change(kind[1], name, namespace))
            ):
                kept[s.target or s.text(namespace)] = s  # run again: where it was
        return list(kept.values())

    def _may_change(self, function: str | None, argument: str, namespace: dict) -> bool:
        """Whether a call statement may change what is passed to it: `random.shuffle(order)`, not `print(order)`."""
        owner = namespace.get(function)
        package = owner.__name__ if isinstance(owner, ModuleType) else getattr(owner, "__module__", None) or function or "print"
        return package.partition(".")[0] not in READING and not isinstance(namespace.get(argument), FIXED)


_space = functools.lru_cache(maxsize=16)(Space)
_files: dict[str, tuple[tuple, str]] = {}


def space_of(namespace: dict) -> Space | None:
    """The source of a namespace: of a notebook its executed cells, of a module its file; None where there is neither."""
    shell = namespace["get_ipython"]() if callable(namespace.get("get_ipython")) else None
    if shell is not None and (namespace is shell.user_ns or namespace is shell.user_global_ns):
        return _space(_executed(shell))
    file = namespace.get("__file__")
    if not file or not str(file).endswith(".py") or not Path(file).is_file():
        return None
    loaded_as = tuple(map(id, namespace.values()))  # other objects: the module was loaded again
    if file not in _files or _files[file][0] != loaded_as:
        _files[file] = loaded_as, Path(file).read_text(encoding="utf-8")
    return _space((_files[file][1],))


def _executed(shell) -> tuple[str, ...]:
    """The cells that ran. nbval keeps them out of the history: then each text once, as the compiler keeps it for tracebacks."""
    history = tuple(shell.history_manager.input_hist_parsed)
    compiled = getattr(shell.compile, "_filename_map", ())
    return history if any(history) else tuple("".join(linecache.getlines(name)) for name in compiled)


@functools.lru_cache(maxsize=64)
def _functions(source: str) -> list[ast.AST]:
    return [n for n in ast.walk(parsed(source)) if isinstance(n, FUNCTIONS)]


def locate(code: CodeType) -> Statement | None:
    """The definition of a function or lambda whose source is known, by its line and columns; None where it is not."""

    def first(n):
        return min([n.lineno, *(d.lineno for d in getattr(n, "decorator_list", []))])

    nodes = _functions("".join(linecache.getlines(code.co_filename)))
    nodes = [n for n in nodes if first(n) == code.co_firstlineno and getattr(n, "name", "<lambda>") == code.co_name]
    spans = [(a, c, b, d) for a, b, c, d in code.co_positions() if None not in (a, b, c, d) and (a, c) != (b, d)]

    def inside(n):  # how much of the code lies in a lambda's body; of those around it the narrowest
        start, end = (n.body.lineno, n.body.col_offset), (n.body.end_lineno, n.body.end_col_offset)
        return sum(start <= s[:2] and s[2:] <= end for s in spans), start, (-end[0], -end[1])

    if not nodes:
        return None
    found = max(nodes, key=inside) if code.co_name == "<lambda>" else nodes[-1]
    statement = Statement(ast.Expr(found) if isinstance(found, ast.Lambda) else found)
    statement.loads = loaded(code)
    return statement
