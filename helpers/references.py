"""Functions of a notebook on their way back to it: a worker asks the notebook what code a function is.

A worker has copies of a chapter's functions, without the cells around them, so it cannot tell their identity. It sends what it
was given as a network's `build` and `train`. Functions of the notebook's top level travel by name, so that the notebook sees its
own; lambdas and functions within functions travel by value and are put back into the notebook's namespace.
"""

import hashlib
import importlib
import io
import pickle
import sys
from types import CellType, CodeType, FunctionType, ModuleType

import cloudpickle


def dump(functions: tuple) -> bytes:
    """What `load` reads, in a process that has copies of a notebook's functions."""
    file = io.BytesIO()
    _Pickler(file).dump(functions)
    return file.getvalue()


def by_value(value) -> tuple[bytes, "Originals"]:
    """A value pickled with the functions that it needs, and the code of these: what travels loses the name of its cell."""
    file = io.BytesIO()
    pickler = _Outward(file)
    pickler.dump(value)
    return file.getvalue(), pickler.codes


def load(content: bytes, codes: "Originals") -> tuple:
    """The functions, in the process whose notebook they come from. It unpickles: only for what the own cluster's workers send.

    codes : of the functions that were sent away
    raises LookupError where the notebook has redefined one meanwhile
    """
    reader = _Unpickler(io.BytesIO(content))
    functions = reader.load()
    for f in reader.made:
        f.__code__ = codes.get(f.__code__, f.__code__)
    return functions


Originals = dict[CodeType, CodeType]  # by what code does: one that has travelled is equal, but has lost the name of its cell


class _Outward(cloudpickle.Pickler):
    def __init__(self, file):
        super().__init__(file)
        self.codes: Originals = {}

    def reducer_override(self, value):
        if isinstance(value, FunctionType):
            self._keep(value.__code__)
        if isinstance(value, ModuleType) and type(value) is not ModuleType:  # torch.classes, wherever a function says `classes`
            return importlib.import_module, (value.__name__,)
        return super().reducer_override(value)

    def _keep(self, code: CodeType) -> None:
        self.codes[code] = code
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                self._keep(inner)


class _Pickler(cloudpickle.Pickler):
    def persistent_id(self, value):
        if not isinstance(value, FunctionType) or not _of_a_notebook(value) or _inner(value):
            return None
        return value.__module__, value.__qualname__, _digest(value.__code__)

    def reducer_override(self, value):
        if not isinstance(value, FunctionType) or not _of_a_notebook(value):
            return super().reducer_override(value)
        inside = value.__code__, value.__module__, value.__qualname__, len(value.__closure__ or ())
        cells = [_content(cell) for cell in value.__closure__ or ()]
        state = cells, value.__defaults__, value.__kwdefaults__, value.__dict__
        return _bare, inside, state, None, None, _fill  # filled when it is known: a function may hold itself


class _Unpickler(pickle.Unpickler):
    def __init__(self, file):
        super().__init__(file)
        self.made: list[FunctionType] = []

    def find_class(self, module, name):
        if (module, name) == (__name__, "_bare"):
            return self._make
        return super().find_class(module, name)

    def _make(self, *inside) -> FunctionType:
        self.made.append(_bare(*inside))
        return self.made[-1]

    def persistent_load(self, reference):
        module, path, digest = reference
        namespace = vars(sys.modules[module])
        first, *rest = path.split(".")
        found = namespace.get(first)
        for name in rest:
            found = getattr(found, name, None)
        candidates = [found, *namespace.values()]  # a decorated function goes by another name
        for f in candidates:
            if isinstance(f, FunctionType) and _digest(f.__code__) == digest:
                return f
        raise LookupError(f"{path} is not what it was when the row was sent away: run the cell of the experiment again")


def _of_a_notebook(f: FunctionType) -> bool:
    """Whether it came here by value: it is the notebook's, or of a module that lies beside the chapters."""
    return f.__module__ == "__main__" or f.__module__ not in sys.modules


def _inner(f: FunctionType) -> bool:
    return "<" in f.__qualname__  # <locals>, <lambda>


def _digest(code: CodeType) -> str:
    constants = [_digest(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return hashlib.sha256(repr((code.co_code, code.co_names, code.co_varnames, constants)).encode()).hexdigest()[:16]


def _content(cell: CellType) -> tuple:
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def _bare(code: CodeType, module: str, path: str, cells: int) -> FunctionType:
    f = FunctionType(code, vars(sys.modules[module]), code.co_name, None, tuple(CellType() for _ in range(cells)))
    f.__module__, f.__qualname__ = module, path
    return f


def _fill(f: FunctionType, state: tuple) -> None:
    cells, f.__defaults__, f.__kwdefaults__, more = state
    f.__dict__.update(more)
    for cell, content in zip(f.__closure__ or (), cells, strict=True):
        if content:
            (cell.cell_contents,) = content
