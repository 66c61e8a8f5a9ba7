"""What a function of a notebook does, as a short text: two cells that compute the same have the same fingerprint."""

import dis
import functools
import hashlib
from types import CodeType, FunctionType

PLAIN = (int, float, complex, str, bytes, bool, type(None))


def fingerprint(*functions) -> str:
    """12 hex digits over the functions' code and defaults, the notebook's functions that they use, by name or from a list or
    dict, and the plain values that they read. The same in every process.

    Code of installed modules counts by its name only: for the rest there is the commit.
    """
    digest, seen = hashlib.sha256(), set()

    def text(*words) -> None:
        digest.update("\0".join(map(str, words)).encode())

    def add(value, module: str | None) -> None:
        if isinstance(value, functools.partial):
            add([value.func, value.args, value.keywords], module)
        elif isinstance(value, FunctionType):
            if value in seen:
                return
            seen.add(value)
            if module not in (None, value.__module__):
                text(value.__module__, value.__qualname__)
                return
            closed = [cell.cell_contents for cell in value.__closure__ or ()]
            add([value.__defaults__, value.__kwdefaults__, [c for c in closed if callable(c)]], value.__module__)
            for name in sorted(add_code(value.__code__) & value.__globals__.keys()):
                text(name)
                add(value.__globals__[name], value.__module__)
        elif isinstance(value, dict):
            for key, item in value.items():
                text("key", repr(key))
                add(item, module)
        elif isinstance(value, list | tuple):
            text(len(value))
            for item in value:
                add(item, module)
        elif isinstance(value, set | frozenset):  # their order differs from one process to another
            text(*sorted(map(repr, value)))
        elif isinstance(value, PLAIN):
            text(repr(value))

    def add_code(code: CodeType) -> set[str]:
        """Add a code object; returns the globals that it and the code in it read."""
        digest.update(code.co_code)
        text(code.co_names, code.co_varnames)
        names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                names |= add_code(constant)
            else:
                add(constant, None)
        return names

    for f in functions:
        add(f, None)
    return digest.hexdigest()[:12]
