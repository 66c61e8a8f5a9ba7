"""Merging the zoo: trained networks with their cards, which another clone or machine recorded, checked and brought in."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch

from helpers import files, models
from helpers.incoming import check_plain
from helpers.merge import Item, Merged, alone, tell
from helpers.profiles import PROFILES
from helpers.reproduction import distances
from helpers.rows import RowError

LARGEST = 4_200_000  # bytes of a network's weights: the book is cloned with all of them
ON_A_CARD = {"architecture", "paper", "method", "profile", "seed", "commit", "test images"}


def merge_zoo(source: Path, *, target: Path | None = None, say: Callable[[str], None] = print) -> Merged:
    """Bring networks under `source` into the zoo `target`, each whole, weights and card, or not at all.

    source : a folder with weights/<paper>/<name>.json and .safetensors in it, or a clone of the book
    target : None: the book's own zoo, `models.WEIGHTS`
    say : gets a line for all, and one for each network that differs, is refused, or stays because it is of a better profile

    A network is added where the zoo has none of its name, and replaces one of a worse profile. Where the zoo's is of a better
    profile, or is the same (its card says the same of how it was made, and what was measured lies within
    `reproduction.TOLERANCE`), it stays; otherwise the two differ, and it stays too: delete its card to have the other.
    Everything is checked before anything is written: cards, weights (nothing is unpickled), and that the network loads.
    raises ValueError where there is no network in `source`
    """
    source, target = Path(source), Path(target or models.WEIGHTS)
    folder = next((f for f in (source / "weights", source / "helpers" / "weights") if f.is_dir()), None)
    cards = sorted(path for path in folder.rglob("*.json") if not path.name.startswith(".")) if folder else []
    if not cards:
        raise ValueError(f"there are no networks in {source}: name a folder with weights/<paper>/<name>.json in it")
    if target.exists() and folder.samefile(target):
        raise ValueError(f"{folder} is the very zoo that networks are to be added to: name the folder of another run")
    items, checked = [], {}
    with alone(target.resolve().parent.parent, say):
        for path in cards:
            name = path.relative_to(folder).with_suffix("").as_posix()
            try:
                checked[name] = _read(name, path)
            except (OSError, RowError) as error:
                items.append(_item(name, {}, "refused", str(error)))
        for name, (about, weights) in sorted(checked.items(), key=lambda entry: "before" in entry[1][0]):  # purifiers last
            items.append(_item(name, about, *_merge_one(name, about, weights, target, checked)))
    tell("zoo", items, say)
    return Merged(tuple(items))


def _item(name: str, about: dict, outcome: str, why: str) -> Item:
    return Item(name.partition("/")[0], about.get("profile", ""), name, "", outcome, why)


def _read(name: str, path: Path) -> tuple[dict, bytes]:
    """A card and its weights. raises RowError where they are not those of a network that can be loaded"""
    from safetensors.torch import load

    if not re.fullmatch(r"\w[\w-]*(/\w[\w.-]*)+", name):
        raise RowError(f"{path}: a network is named <paper>/<name>, by letters, digits, _, - and .")
    beside = path.with_suffix(".safetensors")
    for file in (path, beside):
        check_plain(file)
    if beside.stat().st_size > LARGEST:
        raise RowError(f"{beside} has more than {LARGEST:,} bytes: the zoo holds small networks only")
    text, weights = path.read_bytes(), beside.read_bytes()
    if not path.exists() or path.read_bytes() != text:  # whoever saves a network deletes its old card first
        raise RowError(f"{path} is being written: merge again")
    try:
        about = json.loads(text)
        _check_card(about, name)
        state = load(weights)
        models.built(about, state)
    except RowError as error:
        raise RowError(f"{path}: {error}") from None
    except Exception as error:  # a card can ask for anything
        raise RowError(f"{path} and its weights are not of a network of this book ({error}): save it again") from error
    if not all(v.dtype == torch.float16 and v.isfinite().all() for v in state.values() if v.is_floating_point()):
        raise RowError(f"{beside}: its weights are not all finite numbers of float16: save it again")
    return about, weights


def _check_card(about, name: str) -> None:
    if not isinstance(about, dict) or not about.keys() >= ON_A_CARD:
        missing = sorted(ON_A_CARD - about.keys()) if isinstance(about, dict) else sorted(ON_A_CARD)
        raise RowError(f"it is no card of a network: it lacks {', '.join(missing)}")
    if about["profile"] not in PROFILES:
        raise RowError(f"there is no profile {about['profile']!r}; there are: {', '.join(PROFILES)}")
    if about["paper"] != name.partition("/")[0]:
        raise RowError(f"it is of the paper {about['paper']!r}: put it into that folder")
    if not any(type(value) is float for value in about.values()):
        raise RowError("it names nothing that was measured of the network")


def _merge_one(name: str, about: dict, weights: bytes, target: Path, checked: dict) -> tuple[str, str]:
    """Merge one network. Returns what became of it and why the zoo does not have it now."""
    path = target / f"{name}.safetensors"
    there = _card(path)
    if there:
        mine, theirs = PROFILES.index(there["profile"]), PROFILES.index(about["profile"])
        if mine < theirs:
            return "kept", f"the zoo's is of the better profile {there['profile']}"
        if mine == theirs:
            why = _differ(there, about)
            return ("different", why) if why else ("the same", "")
    if "before" in about and (why := _without_its_network(about["before"], target, checked)):
        return "refused", why
    _write(path, weights, models.text_of(about).encode())
    return ("replaced" if there else "added"), ""


def _write(path: Path, weights: bytes, text: bytes) -> None:
    """Write weights and card. Both are on the disk before what was there goes; killed in between, no card has wrong weights."""
    card = path.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(card, text, before=lambda _: files.write(path, weights, before=lambda _: card.unlink(missing_ok=True)))


def _card(path: Path) -> dict:
    """The zoo's own card; {} where the network is not in the zoo, or not whole."""
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return about if path.exists() and about["profile"] in PROFILES else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _differ(ours: dict, theirs: dict) -> str:
    """What two cards of one profile say differently of how the network was made, and of how good it is; "" for nothing."""
    measured = [{k: v for k, v in about.items() if type(v) is float} for about in (ours, theirs)]
    off = distances(*measured)
    names = sorted({*ours, *theirs} - {"commit"} - off.keys())
    found = [name for name in names if ours.get(name) != theirs.get(name)] + sorted(name for name in off if off[name] > 1)
    return "; ".join(f"{name} is {ours.get(name)} in the zoo, {theirs.get(name)} there" for name in found)


def _without_its_network(before: str, target: Path, checked: dict) -> str:
    """Why a purifier cannot come: the network that it was measured before is not in the zoo, or is another one there."""
    path = target / f"{before}.safetensors"
    if not _card(path):
        return f"it stands before {before}, which is not in the zoo"
    if before in checked and path.read_bytes() != checked[before][1]:
        return f"it was measured before a {before} that is not the zoo's"
    return ""
