"""What a sentence claims, as comparisons of cells "row/column"."""

import re

FORMS = re.compile(r"(greater|equal|below)\(([^()]*)\)")
NUMBER = r"\d+(\.\d+)?"
MARGIN = "margin"  # in place of an amount: the smallest difference that matters, for words of size such as "greatly"


def parse_predicate(text: str, where: str = "predicate") -> list[tuple[str, list[str]]]:
    """ "greater(a, b); below(a, 0.5)" -> [("greater", ["a", "b"]), ...]; what stands twice counts once.

    greater(a, b) : a exceeds b; greater(a, b, by) : by at least that much, or by the "margin"; equal(a, b, margin) : they differ
    by no more; below(a, limit). a is a cell, b a cell or a number. raises ValueError, which begins with `where`, for another form
    """
    terms = []
    for part in text.split(";"):
        match = FORMS.fullmatch(part.strip())
        arguments = [a.strip() for a in match[2].split(",")] if match else []
        if not match or len(arguments) not in {"greater": (2, 3), "equal": (3,), "below": (2,)}[match[1]]:
            raise ValueError(f"{where}: {part.strip()!r} is none of greater(a, b[, by]), equal(a, b, margin), below(a, limit)")
        by = arguments[-1] if match[1] != "greater" or len(arguments) == 3 else "0"
        if not (re.fullmatch(NUMBER, by) or (match[1] == "greater" and by == MARGIN)):
            raise ValueError(f"{where}: {by!r} in {part.strip()!r} must be a plain number, at least 0")
        if match[1] == "equal" and float(by) == 0:
            raise ValueError(f"{where}: {part.strip()!r} allows no difference at all: no measurement could support it")
        if is_number(arguments[0]):
            raise ValueError(f"{where}: {part.strip()!r} must begin with a cell, not with a number")
        if (match[1], arguments) not in terms:
            terms.append((match[1], arguments))
    return terms


def is_number(argument: str) -> bool:
    """Whether an argument is a printed amount and no cell."""
    return re.fullmatch(NUMBER, argument) is not None
