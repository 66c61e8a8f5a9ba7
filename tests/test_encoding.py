"""Text is UTF-8 wherever it is read or written: a platform's own encoding has no α."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def without_encoding(source: str) -> list[int]:
    """Lines of calls that open, read or write text in the platform's encoding."""
    lines = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        named = {k.arg: k.value for k in call.keywords}
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        given = [a.value for a in (*call.args, *named.values()) if isinstance(a, ast.Constant)]
        modes = [v for v in given if isinstance(v, str) and v and set(v) <= set("rwxabt+")]
        text_mode = any("b" not in mode for mode in modes)
        text = (
            name in ("read_text", "write_text")
            or (name == "open" and isinstance(call.func, ast.Name) and not modes)
            or (name in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile") and text_mode)
            or (
                name in ("run", "Popen", "check_output")
                and any(True in given and k in named for k in ("text", "universal_newlines"))
            )
        )
        if text and "encoding" not in named:
            lines.append(call.lineno)
    return lines


@pytest.mark.parametrize("path", sorted([*ROOT.glob("helpers/**/*.py"), *ROOT.glob("tests/*.py")]), ids=lambda p: p.name)
def test_every_text_has_an_encoding(path):
    assert not without_encoding(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("open(p)", True),
        ("open(p, 'w')", True),
        ("open(p, 'rb')", False),
        ("open(p, encoding='utf-8')", False),
        ("p.open('a')", True),
        ("p.open(mode='wb')", False),
        ("network.open()", False),
        ("p.read_text()", True),
        ("p.write_text('rb')", True),
        ("subprocess.run(c, text=True)", True),
        ("subprocess.run(c, text=True, encoding='utf-8')", False),
        ("os.fdopen(f, 'w')", True),
        ("tempfile.NamedTemporaryFile()", False),
    ],
)
def test_the_search_finds_them(call, found):
    assert bool(without_encoding(call)) == found
