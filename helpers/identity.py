"""Identity of code: what a run computes by, as a short text, the same in every process and after a restart.

It is read from source: the statements of the notebook, and of modules beside the chapters, that a function depends on. What runs
do to objects is no part of it. Code of installed packages and of `helpers` counts by name only: for the rest there is the commit.
Values that were handed over and that no name stands for (closures, arguments of a partial) count by what they hold.
"""

import builtins
import enum
import functools
import hashlib
import importlib.util
import inspect
import re
import sys
from types import CellType, CodeType, FunctionType, MethodType, ModuleType

import numpy as np
import torch

from helpers.profiles import PARAMETERS  # they differ between runs of the same code
from helpers.slices import Space, installed, locate, space_of
from helpers.statements import Statement, into_modules, loaded

OPAQUE = ("Study", "Experiment")  # values that are no code: where to compute, and rows
HIDDEN = re.compile(r"In|Out|get_ipython|exit|quit|open|display|_+|_i*\d*|_[iod]h")  # what IPython adds to a notebook
FIXED = (tuple, frozenset, range, torch.dtype, torch.device)  # equal ones may be one object, whoever made them
SCALARS = (int, float, complex, str, bytes, bool, type(None), type(Ellipsis))
UNNAMED = ("__dict__", "__weakref__", "__module__", "__doc__", "__qualname__", "__firstlineno__", "__static_attributes__")
_MISSING = object()


def identity(*values) -> str:
    """12 hex digits over the code that `values` (functions, or anything else that is called) depend on.

    It changes with their source, the source of what they use, and what is bound to them. Docstrings, comments, formatting, an
    unrelated cell, and where a function is defined do not change it. Functions without source count by their compiled code.
    """
    code = _Code()
    given = [code.described(value) for value in values]
    return _digest((given, sorted(map(repr, code.groups))))[:12]


def _digest(tree) -> str:
    return hashlib.sha256(repr(tree).encode()).hexdigest()  # repr of nested tuples of texts: nothing runs together


def _lookup(namespace: dict, path: str):
    first, *rest = path.split(".")
    return functools.reduce(lambda value, name: getattr(value, name, _MISSING), rest, namespace.get(first, _MISSING))


class _Code:
    """Collects what values depend on: `groups` holds each name with its statements, or with its value where it has no source."""

    def __init__(self):
        self.groups, self.seen, self.spaces, self.known = set(), set(), {}, {}

    # names

    def space(self, namespace: dict) -> Space | None:
        if id(namespace) not in self.spaces:
            self.spaces[id(namespace)] = namespace, space_of(namespace)
        return self.spaces[id(namespace)][1]

    def name(self, namespace: dict, name: str) -> None:
        """Add what a global name stands for."""
        value = namespace.get(name, _MISSING)
        if (id(namespace), name) in self.seen or type(value).__name__ in OPAQUE or not name.isidentifier():
            return
        self.seen.add((id(namespace), name))
        if name.startswith("__") or (name in PARAMETERS and namespace.get("__name__") == "__main__"):
            return
        space = self.space(namespace)
        if found := space.of(name, namespace) if space else []:
            texts = [text for s in found if (text := self.statement(namespace, s, name))]
            if texts:
                self.groups.add((name, *texts))
            if any(name in s.repeats for s in found):  # its text is the same in every round of the loop
                self.groups.add((name, "in this round", repr(self.round(value))))
        elif value is not _MISSING and not HIDDEN.fullmatch(name):
            found = self.described(value)
            if found != ("digest", _digest(("name", name))):  # by `import *`: its statements are there
                self.groups.add((name, found))
        elif not hasattr(builtins, name) and not HIDDEN.fullmatch(name):
            self.groups.add((name, "unbound"))

    def round(self, value):
        """What a name holds in the present round of a loop: a plain value, or what a function was given by default."""
        if isinstance(value, FunctionType):
            return "function", [self.round(v) for v in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())]
        if type(value) in (list, tuple):
            return type(value).__name__, [self.round(v) for v in value]
        return self.described(value) if type(value) in SCALARS else ("object", type(value).__name__)

    def statement(self, namespace: dict, s: Statement, name: str | None = None) -> str:
        """Add what a statement reads; returns its text. An import has none: what it imports is followed instead."""
        alias = s.imported.get(name)
        if alias and isinstance(namespace.get(name), ModuleType):
            return ""
        if alias:
            module, original = alias
            module = importlib.util.resolve_name(module, namespace.get("__package__")) if module.startswith(".") else module
            self.member(sys.modules.get(module, module), original)
            return "" if name == original else f"{name} = {original}"
        for n in sorted(s.loads):
            value = namespace.get(n)
            if isinstance(value, ModuleType):
                for attributes in sorted(s.chains.get(n, ())):
                    self.attribute(value, attributes)
            self.name(namespace, n)
        return s.text(namespace)

    def attribute(self, module: ModuleType, attributes: tuple[str, ...]) -> None:
        """Add what `module.a.b` stands for."""
        module, left = into_modules(module, attributes)
        space = None if installed(vars(module)) else self.space(vars(module))
        if left:
            self.member(module, left[0])
        elif space:
            for name in sorted(filter(None, space.index)):
                self.name(vars(module), name)
        else:
            self.groups.add(("module", module.__name__.rpartition(".")[2]))

    def member(self, module: ModuleType | str, name: str) -> None:
        """Add what a module has under a name: its statements, or the name alone where it is installed."""
        if isinstance(module, ModuleType) and not installed(vars(module)):
            self.name(vars(module), name)
        else:
            package = module if isinstance(module, str) else module.__name__
            self.groups.add(("library", package.partition(".")[0], name))

    # values

    def described(self, value):
        """A value as a nested tuple of texts."""
        if type(value) in SCALARS:
            return type(value).__name__, repr(value)
        if type(value).__name__ in OPAQUE:
            return "opaque", type(value).__name__
        if id(value) in self.known:
            return self.known[id(value)][1]
        self.known[id(value)] = value, ("inside itself", type(value).__name__)
        found = self._described(value)
        self.known[id(value)] = value, ("digest", _digest(found))
        return self.known[id(value)][1]

    def _described(self, value):
        if isinstance(value, FunctionType):
            return self.function(value)
        if isinstance(value, type):
            return self.a_class(value)
        if isinstance(value, ModuleType):
            return self.attribute(value, ()) or ("module", value.__name__.rpartition(".")[2])
        if isinstance(value, MethodType):
            return "method", self.described(value.__self__), value.__name__
        if isinstance(value, functools.partial):
            return "partial", *map(self.described, (value.func, value.args, value.keywords))
        if isinstance(value, functools._lru_cache_wrapper):
            return "cached", self.described(value.__wrapped__)
        if inspect.isbuiltin(value) or inspect.isroutine(value):
            owner = getattr(value, "__self__", None)
            bound = owner is not None and not isinstance(owner, ModuleType)
            return "library", value.__name__, self.described(owner) if bound else ""
        if isinstance(value, CellType):
            try:
                return "cell", self.described(value.cell_contents)
            except ValueError:
                return "cell", "empty"
        if isinstance(value, enum.Enum):
            return "enum", self.described(type(value)), value.name
        if isinstance(value, CodeType):
            fixed = [self.described(c) for c in value.co_consts]
            return "code", value.co_code.hex(), fixed, value.co_names, value.co_varnames, value.co_freevars
        return (not isinstance(value, FIXED) and self.named(value)) or self.held(value)

    def function(self, f: FunctionType):
        inner = inspect.unwrap(f)
        own = [g.__globals__ for g in (inner, f) if isinstance(g, FunctionType) and not installed(g.__globals__)]
        for namespace in own:
            if found := self.bound(namespace, f.__qualname__, f):
                return found
        if not own and "<locals>" not in f.__qualname__:
            return "library", f.__globals__["__name__"].partition(".")[0], f.__qualname__.rpartition(".")[2]
        s = None if installed(f.__globals__) else locate(f.__code__)
        free = zip(f.__code__.co_freevars, f.__closure__ or (), strict=True)
        inside = ["filled" if s and name in s.filled else self.described(cell) for name, cell in free]
        if installed(f.__globals__):
            return "library", f.__code__.co_qualname, inside
        given = [self.described(v) for v in (f.__defaults__, f.__kwdefaults__)]
        if s:
            return "function", self.statement(f.__globals__, s), given, inside
        for n in sorted(loaded(f.__code__)):
            self.name(f.__globals__, n)
        return "compiled", self.described(f.__code__), given, inside

    def bound(self, namespace: dict, path: str, value):
        """Add the top-level definition of a function or class, if that is what its qualified name stands for."""
        there = _lookup(namespace, path)
        same = there is value or (callable(there) and inspect.unwrap(there) is inspect.unwrap(value))
        first, file, code = path.partition(".")[0], namespace.get("__file__"), getattr(inspect.unwrap(value), "__code__", None)
        # `exec` in a module's globals: the file tells nothing of it
        elsewhere = file and code and code.co_filename.replace("\\", "/").split("/")[-1] != file.replace("\\", "/").split("/")[-1]
        space = self.space(namespace)
        if not same or elsewhere or not space or not space.of(first, namespace):
            return None
        self.name(namespace, first)
        return "name", path

    def a_class(self, c: type):
        module = sys.modules.get(c.__module__)
        if module is None or c.__module__ == "builtins" or (c.__module__ != "__main__" and installed(vars(module))):
            return "library", c.__module__.partition(".")[0], c.__qualname__.rpartition(".")[2]
        if found := self.bound(vars(module), c.__qualname__, c):
            return found
        parts = [(k, self.described(v)) for k, v in sorted(vars(c).items()) if k not in UNNAMED]
        return "class", c.__name__, [self.described(b) for b in c.__bases__], parts

    def named(self, value):
        """Add the first top-level name that is bound to this very object: a run may change what it holds, not its source."""
        own = sys.modules.get(type(value).__module__)
        for namespace in [*(n for n, _ in self.spaces.values()), vars(sys.modules["__main__"]), *([vars(own)] if own else [])]:
            space = None if installed(namespace) else self.space(namespace)
            names = [k for k, v in list(namespace.items()) if v is value and not HIDDEN.fullmatch(k)] if space else []
            if names := [k for k in space.index if k in names] if names else []:
                self.name(namespace, names[0])
                return "name", names[0]
        return None

    def held(self, value):
        """What plain data and instances hold."""
        kind = self.described(type(value))
        if isinstance(value, torch.Tensor):
            dense = value.detach().cpu().to_dense().resolve_conj().resolve_neg().contiguous()
            held = hashlib.sha256(dense.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
            return kind, str(value.dtype), tuple(value.shape), held
        if isinstance(value, np.ndarray | np.generic):
            plain = value.tolist() if value.dtype.hasobject else hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
            return kind, value.dtype.str, value.shape, self.described(plain)
        if type(value) is dict:
            return kind, [(self.described(k), self.described(v)) for k, v in value.items()]
        if type(value) in (list, tuple):
            return kind, [self.described(v) for v in value]
        if type(value) in (set, frozenset):
            return kind, sorted(repr(self.described(v)) for v in value)
        if isinstance(value, staticmethod | classmethod):
            return kind, self.described(value.__func__)
        if isinstance(value, property):
            return kind, [self.described(v) for v in (value.fget, value.fset, value.fdel)]
        try:
            parts = value.__reduce_ex__(4)
        except Exception:  # what cannot be copied: a lock, a file, a generator
            parts = getattr(value, "__dict__", None), None
        if isinstance(parts, str):
            return kind, parts
        return kind, [self.described(list(p) if hasattr(p, "__next__") else p) for p in parts]
