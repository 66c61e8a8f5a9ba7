"""Which experiments of a chapter a run computes, and what the kernel tells the runner about each of them."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

NAMES = "BOOK_EXPERIMENTS"  # comma-separated; set and empty: none
EVENTS = "BOOK_EVENTS"  # a file: one line of JSON for each event
KINDS = ("declared", "missing", "done", "failed", "left out")


@dataclass(frozen=True)
class Selection:
    """Names of experiments and seeds that are asked for; None: all."""

    names: frozenset[str] | None = None
    seeds: tuple[int, ...] | None = None

    @classmethod
    def of(cls, names: str | None, seeds: list[int] | None) -> "Selection":
        """From a comma-separated text, as $BOOK_EXPERIMENTS has it, and a list of seeds."""
        picked = None if names is None else frozenset(filter(None, map(str.strip, names.split(","))))
        return cls(picked, None if seeds is None else tuple(seeds))

    def has(self, name: str, own: range) -> bool:
        """Whether an experiment with these seeds of its own is asked for."""
        return (self.names is None or name in self.names) and bool(self.of_seeds(own))

    def of_seeds(self, own: range) -> list[int]:
        """Those of an experiment's own seeds that are asked for, in the order in which they are."""
        return list(own) if self.seeds is None else [seed for seed in self.seeds if seed in own]


def tell(kind: str, name: str, **more) -> None:
    """Tell the runner what became of an experiment; nobody else listens."""
    if path := os.environ.get(EVENTS):
        tell_at(Path(path), kind, name, **more)


def tell_at(path: Path, kind: str, name: str, **more) -> None:
    """Write an event into the file that it is read from."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": kind, "name": name, **more}) + "\n")


def told(path: Path, kind: str) -> list[dict]:
    """The events of a kind that a kernel told, in their order."""
    assert kind in KINDS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # a killed kernel's last line may be unfinished
    return [event for event in map(json.loads, lines) if event["kind"] == kind]
