"""Merging: rows and arrays that another clone, machine or cluster recorded are checked and brought into the book's results.

What the book has stays as it is, unless a run is named that is to be replaced.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers import incoming
from helpers import rows as storage
from helpers.arrays import encoded, load_arrays
from helpers.differences import differ, other_data
from helpers.incoming import Checked, File, Incoming
from helpers.rows import RowError
from helpers.scratch import locked

OUTCOMES = ("added", "the same", "replaced", "kept", "different", "refused")


@dataclass(frozen=True)
class Item:
    """A row, a whole file of rows, or a network of the zoo, and what became of it.

    paper, profile, run : where it belongs; of a network, `run` is its name in the zoo
    args : the row's arguments; "" where no single row is meant
    outcome : one of OUTCOMES; "kept" is a network of the book that is of a better profile
    why : what differs, or why it was refused; else ""
    """

    paper: str
    profile: str
    run: str
    args: str
    outcome: str
    why: str = ""


@dataclass(frozen=True)
class Merged:
    """What became of all that was there to be merged."""

    items: tuple[Item, ...]

    def of(self, outcome: str) -> tuple[Item, ...]:
        """The items with one of OUTCOMES."""
        return tuple(item for item in self.items if item.outcome == outcome)

    @property
    def counts(self) -> dict[str, int]:
        """How many items have each of OUTCOMES."""
        return {outcome: len(self.of(outcome)) for outcome in OUTCOMES}

    @property
    def papers(self) -> tuple[str, ...]:
        """The papers of which something was added or replaced: their chapters are to be executed again."""
        return tuple(sorted({item.paper for item in (*self.of("added"), *self.of("replaced"))}))

    @property
    def good(self) -> bool:
        """Whether nothing differs and nothing was refused."""
        return not self.of("different") + self.of("refused")


def merge(
    source: Path,
    target: Path,
    *,
    replace: Collection[str] = (),
    papers: Collection[str] = (),
    say: Callable[[str], None] = print,
) -> Merged:
    """Bring the rows under `source` into the results `target`, each with its arrays. Every file is checked before any is changed.

    source : a folder as $BOOK_RESULTS names one, with results/<paper>/<profile>/<run>.jsonl in it, or its folder `results`; a
        recorder may be writing to it
    replace : runs of which every row in `source` takes the place of the book's: "run", "paper/run" or "paper/profile/run". Any
        other row of `target` stays byte for byte
    papers : known ones, besides those with a folder in `target`
    say : gets a line for each run, and one for each row that differs or is refused

    A row is the same where its metrics lie within `reproduction.TOLERANCE`, its arrays have the same names and shapes, and of its
    images no larger share was right in only one of the two. The AUROC, a metric, stands for the scores. Values of other arrays
    are not compared: they make figures, and gradients, features and signs of projections differ between equally good networks.
    A row is refused where it was measured on other data than those that it would stand beside, and where its arrays are damaged
    or were left behind. Killed at any moment, nothing is lost, and the same call goes on.
    raises ValueError where `source` has no rows or `replace` names no run of it, RowError for a target that cannot be written
    """
    source, target = Path(source), Path(target)
    files = incoming.find(source)
    if target.exists() and files[0].folder.samefile(target):
        raise ValueError(f"{source} holds the very results that rows are to be added to: name the folder of another run")
    taken = _named(replace, files)
    known = {*papers, *(p.name for p in target.glob("*") if p.is_dir())}
    items: list[Item] = []
    with alone(target.resolve().parent, say):
        checked = []
        for file in files:
            try:
                checked.append(incoming.read(file, known, say))
            except (OSError, RowError) as error:
                items.append(Item(*file.place, "", "refused", str(error)))
                say(f"{file}: refused: {error}")
        incoming.mark_without_bits(checked, target)
        for there in checked:
            path = target / there.file.path.relative_to(there.file.folder)
            results = list(_merge_file(there, path, there.file in taken))
            tell(str(there.file), results, say)
            items += results
    return Merged(tuple(items))


@contextlib.contextmanager
def alone(home: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Of two merges into one book, let the second wait, so that it sees what the first has added."""
    lock = home / "_build" / "merge.lock"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(lock))
        except BlockingIOError:
            say("another merge is at work; this one waits for its end")
            stack.enter_context(locked(lock, wait=True))
        yield


def _named(wanted: Collection[str], files: list[File]) -> set[File]:
    """The files of the runs that are named. raises ValueError for a name that fits none, or runs of several papers"""
    named = set()
    for name in wanted:
        fits = {f for f in files if name in (f.run, f"{f.paper}/{f.run}", f"{f.paper}/{f.profile}/{f.run}")}
        if not fits:
            there = ", ".join(sorted({f"{f.paper}/{f.run}" for f in files}))
            raise ValueError(f"there is no run {name!r} to take; there are: {there}")
        if len({f.paper for f in fits}) > 1:
            one = min(fits, key=str)
            raise ValueError(f"several papers have a run {name!r}: name it with its paper, such as {one.paper}/{one.run}")
        named |= fits
    return named


def _merge_file(there: Checked, path: Path, take: bool) -> Iterator[Item]:
    """Merge the rows of one file, one by one."""
    unreadable = ""
    try:
        ours = incoming.rows_of(path)[0]
    except (OSError, RowError) as error:
        ours, unreadable = {}, f"the book's own file cannot be read: {error}"
    refused = {key: r.refused or (r.lacks if take or key not in ours else "") for key, r in there.rows.items()}
    theirs = {key: r.row for key, r in there.rows.items() if not refused[key]}
    other = other_data([row for key, row in ours.items() if not (take and key in theirs)], list(theirs.values()))
    for key, row in there.rows.items():
        outcome, why = "refused", refused[key] or unreadable or other.get(key, "")
        if not why:
            outcome, why = _merge_row(row, path, ours, take)
        yield Item(*there.file.place, " ".join(map(str, row.row["args"].values())), outcome, why)


def _merge_row(theirs: Incoming, path: Path, ours: dict[str, dict], take: bool) -> tuple[str, str]:
    """Merge one row. Returns what became of it and, where the book does not have it now, why."""
    key = theirs.row["key"]
    try:
        arrays = theirs.arrays()
        if key not in ours:
            if storage.append(path, theirs.row, arrays):
                return "added", ""
            ours = {key: incoming.rows_of(path)[0][key]}  # another process was first
    except (incoming.Changed, KeyError):
        return "refused", "another process changed it while it was merged: merge again"
    beside = storage.arrays_path(path, ours[key])
    if take:
        content = beside.read_bytes() if beside.exists() else b""
        if _plain(ours[key]) == _plain(theirs.row) and content == (encoded(arrays) if arrays else b""):
            return "the same", ""
        storage.replace(path, theirs.row, arrays)
        return "replaced", ""
    try:
        mine = load_arrays(beside) if beside.exists() else {}
    except RowError as error:
        return "refused", f"the arrays of the book's own row cannot be read: {error}"
    why = differ(ours[key], mine, theirs.row, arrays)
    return ("different", why) if why else ("the same", "")


def _plain(row: dict) -> dict:
    """A row without the name of its file of arrays."""
    return {k: v for k, v in row.items() if k != "arrays"}


def tell(name: str, results: list[Item], say: Callable[[str], None]) -> None:
    """A line for a run, and one for each row that differs or is refused; rows with one reason share a line."""
    counts = Merged(tuple(results)).counts
    say(f"{name}: " + (", ".join(f"{n} {outcome}" for outcome, n in counts.items() if n) or "no rows"))
    alike: dict[tuple[str, str], list[Item]] = {}
    for item in results:
        if item.why:
            alike.setdefault((item.outcome, item.why), []).append(item)
    for (outcome, why), items in alike.items():
        more = f" and {len(items) - 1} more" if len(items) > 1 else ""
        say(f"  {items[0].run} {items[0].args}".rstrip() + f"{more}, {outcome}: {why}")
