"""What a function of a notebook does, as a short text: two cells that compute the same have the same fingerprint."""

import functools
import hashlib
from types import CodeType, FunctionType

PLAIN = (int, float, str, bool, tuple, list, dict, type(None))


def fingerprint(*functions) -> str:
    """12 hex digits over the functions' code, the notebook's functions that they call, and the plain values that they read.

    Code of installed modules does not count: for that there is the commit.
    """
    digest, seen = hashlib.sha256(), set()

    def add(f) -> None:
        if isinstance(f, functools.partial):
            digest.update(repr([a for a in (f.args, f.keywords) if isinstance(a, PLAIN)]).encode())
            f = f.func
        if not isinstance(f, FunctionType) or f in seen:
            return
        seen.add(f)
        names = _code(f.__code__)
        for name in sorted(names & f.__globals__.keys()):
            value = f.__globals__[name]
            if isinstance(value, FunctionType) and value.__module__ == f.__module__:
                add(value)
            elif isinstance(value, PLAIN):
                digest.update(f"{name}={value!r}".encode())

    def _code(code: CodeType) -> set[str]:
        digest.update(code.co_code)
        names = set(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                names |= _code(constant)
            else:
                digest.update(repr(constant).encode())
        digest.update(repr((code.co_names, code.co_varnames)).encode())
        return names

    for f in functions:
        add(f)
    return digest.hexdigest()[:12]
