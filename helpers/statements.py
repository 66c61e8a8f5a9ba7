"""Statements of source: what each binds, changes and reads, and its normalised text.

The text loses docstrings, comments and annotations of functions; names of modules before an attribute go as well
(`metrics.accuracy` reads `accuracy`), so that where a function lives is no part of it.
"""

import ast
import dis
import functools
import warnings
from types import CodeType, ModuleType

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
PLAIN = (*DEFINITIONS, ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom)
ASKING = {"copy", "count", "get", "head", "index", "items", "keys", "tail", "values"}  # methods that leave their object as it is
FILLING = {"add", "append", "clear", "extend", "insert", "pop", "remove", "setdefault", "update"}
RUNNING = {"time", "timeit", "capture", "prun"}  # magics whose text is code


def executed(node: ast.AST):
    """The nodes of a statement that run with it: not the bodies of functions and classes, nor a comprehension's own names."""
    yield node
    if isinstance(node, ast.Lambda):
        inner = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
    elif isinstance(node, ast.ClassDef):
        inner = [*node.decorator_list, *node.bases, *node.keywords]
    elif isinstance(node, DEFINITIONS):
        inner = [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
    elif isinstance(node, ast.comprehension):
        inner = [node.iter, *node.ifs]
    else:
        inner = ast.iter_child_nodes(node)
    for child in inner:
        yield from executed(child)


def root(node: ast.AST) -> str | None:
    """The name that a chain of attributes, items and calls starts from."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def names(node: ast.AST) -> list[str]:
    return [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]


def chain(node: ast.AST) -> tuple[str | None, tuple[str, ...]]:
    """`a.b.c` -> ("a", ("b", "c"))."""
    attributes = ()
    while isinstance(node, ast.Attribute):
        node, attributes = node.value, (node.attr, *attributes)
    return (node.id if isinstance(node, ast.Name) else None), attributes


def into_modules(module: ModuleType, attributes: tuple[str, ...]) -> tuple[ModuleType, tuple[str, ...]]:
    """Follow attributes as long as they are modules; returns the last module and the attributes that are left."""
    while attributes and isinstance(inner := getattr(module, attributes[0], None), ModuleType):
        module, attributes = inner, attributes[1:]
    return module, attributes


class Statement:
    """What one statement (or one function inside one) binds, changes and reads."""

    def __init__(self, node: ast.stmt):
        self.node, self._texts = node, {}
        self.binds, self.stores, self.calls, self.passes, self.callees = set(), set(), set(), [], set()
        reads = set()
        for n in executed(node):
            self._note(n, reads)
        plain = isinstance(node, PLAIN) and not (isinstance(node, ast.AnnAssign) and node.value is None)
        self.plain = self.binds - reads if plain else set()
        self.repeats = self.binds if isinstance(node, ast.For | ast.While | ast.AsyncFor) else set()
        self.imported = {}  # name: (module, name there)
        if isinstance(node, ast.ImportFrom):
            self.imported = {a.asname or a.name: ("." * node.level + (node.module or ""), a.name) for a in node.names}
        elif isinstance(node, ast.Import):
            self.imported = {a.asname or a.name.partition(".")[0]: (a.name, "") for a in node.names}
        # `TABLE["a"] = ...` takes the place of an earlier `TABLE["a"] = ...`
        only = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
        item = (
            isinstance(only, ast.Subscript | ast.Attribute)
            and names(only) == [root(only)]
            and root(only) not in names(node.value)
        )
        self.target = ast.unparse(only) if item else None

    def _note(self, n: ast.AST, reads: set[str]) -> None:
        if isinstance(n, ast.Name):
            {ast.Load: reads, ast.Store: self.binds, ast.Del: self.stores}[type(n.ctx)].add(n.id)
        elif isinstance(n, ast.Subscript | ast.Attribute) and not isinstance(n.ctx, ast.Load):
            self.stores.add(root(n))
        elif isinstance(n, ast.Import | ast.ImportFrom):
            self.binds |= {a.asname or a.name.partition(".")[0] for a in n.names}
        elif isinstance(n, DEFINITIONS):
            self.binds.add(n.name)
            for decorator in n.decorator_list:
                self._call(decorator.func if isinstance(decorator, ast.Call) else decorator, [])
        elif isinstance(n, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            self.binds |= {n.name} - {None}
        unused = isinstance(n, ast.Assign) and [ast.unparse(t) for t in n.targets] == ["_"]
        if (isinstance(n, ast.Expr) or unused) and isinstance(n.value, ast.Call):
            self._call(n.value.func, [*n.value.args, *(k.value for k in n.value.keywords)])

    def _call(self, function: ast.expr, arguments: list[ast.expr]) -> None:
        """A statement that is only a call, or a decorator: it may change its object, its arguments, or globals."""
        if isinstance(function, ast.Name):
            self.callees.add(function.id)
        elif not (isinstance(function, ast.Attribute) and function.attr in ASKING):
            self.calls.add(root(function))
        self.passes += [(function, a.id) for a in arguments if isinstance(a, ast.Name)]

    @functools.cached_property
    def loads(self) -> frozenset[str]:
        """Names of globals that it reads, also inside its functions."""
        try:
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            with warnings.catch_warnings(action="ignore"):  # the cell has warned by itself
                code = compile(ast.Module([self.node], []), "<slice>", "exec", flags, dont_inherit=True)
        except SyntaxError:  # `return` outside a function: the cell did not run
            return frozenset()
        return loaded(code)

    @functools.cached_property
    def chains(self) -> dict[str, set[tuple[str, ...]]]:
        """{name: attributes that are read from it}; () where it is read by itself."""
        found, stack = {}, [self.node]
        while stack:
            name, attributes = chain(node := stack.pop())
            if name:
                found.setdefault(name, set()).add(attributes)
            else:
                stack += ast.iter_child_nodes(node)
        return found

    def text(self, namespace: dict) -> str:
        """The normalised source."""
        modules = {n: namespace[n] for n in self.chains if isinstance(namespace.get(n), ModuleType) and n in self.loads}
        key = frozenset((n, id(m)) for n, m in modules.items())
        if key not in self._texts:
            self._texts[key] = ast.unparse(_without_modules(self.node, modules) if modules else self.node)
        return self._texts[key]

    @functools.cached_property
    def filled(self) -> set[str]:
        """Names of what a function fills or counts in: `cache[k] = v`, `calls.append(x)`, `nonlocal n`."""
        nodes = list(ast.walk(self.node))
        items = {root(n) for n in nodes if isinstance(n, ast.Subscript | ast.Attribute) and not isinstance(n.ctx, ast.Load)}
        calls = {n.func for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
        declared = {name for n in nodes if isinstance(n, ast.Global | ast.Nonlocal) for name in n.names}
        return items | {root(f) for f in calls if f.attr in FILLING} | declared

    @functools.cached_property
    def changes(self) -> set[str]:
        """Globals that the functions of this statement change when they are called."""
        nodes = list(ast.walk(self.node))
        calls = {root(n.value) for n in nodes if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)}
        declared = {name for n in nodes if isinstance(n, ast.Global) for name in n.names}
        return (self.filled | calls) & self.loads | declared


def _without_modules(node, modules: dict[str, ModuleType]):
    """A copy of a tree in which `module.a` reads `a`."""
    if isinstance(node, list):
        return [_without_modules(n, modules) for n in node]
    if not isinstance(node, ast.AST):
        return node
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        name, attributes = chain(node)
        if name in modules and (left := into_modules(modules[name], attributes)[1]):
            return ast.Name(".".join(left), ast.Load())
    copied = type(node)(**{field: _without_modules(value, modules) for field, value in ast.iter_fields(node)})
    copied.lineno = getattr(node, "lineno", 0)
    return copied


class _WithoutWords(ast.NodeTransformer):
    """Takes out docstrings, and annotations of parameters and results."""

    def visit(self, node):
        if isinstance(node, DEFINITIONS):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
            if not isinstance(node, ast.ClassDef):
                node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        return self.generic_visit(node)


def loaded(code: CodeType) -> frozenset[str]:
    """Names of globals that a code object, and the code in it, reads."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname.startswith(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT"))}
    return frozenset(names).union(*(loaded(c) for c in code.co_consts if isinstance(c, CodeType)))


def parsed(text: str) -> ast.Module:
    """The tree without docstrings and annotations; empty for text that is no Python."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.fix_missing_locations(_WithoutWords().visit(ast.parse(text)))
    except (SyntaxError, ValueError):
        return ast.Module([], [])


@functools.lru_cache(maxsize=4096)
def statements(text: str) -> tuple[Statement, ...]:
    """The top-level statements of a cell or module; () for text that is no Python. A magic counts where its text is code."""
    found = []
    for node in parsed(text).body:
        call = node.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
        if call and ast.unparse(call.func).startswith("get_ipython()."):
            words = [a.value for a in call.args if isinstance(a, ast.Constant)]
            found += statements(words[-1]) if len(words) > 1 and words[0] in RUNNING else ()
        else:
            found.append(Statement(node))
    return tuple(found)
