"""In what our runs differ from what a paper declares of its settings, and the mark that stands beside every verdict."""

from dataclasses import dataclass

from helpers.claims.printed import facts

PAPERS, UNSTATED, ALTERED, SUBSTITUTED = "the paper's settings", "unstated", "altered", "substituted"
OTHER_THREAT = "another threat model"
MARKS = (PAPERS, UNSTATED, ALTERED, OTHER_THREAT, SUBSTITUTED)  # each outdoes those before it
UNJUDGED = (OTHER_THREAT, SUBSTITUTED)  # marks that leave no verdict
THREAT = ("eps", "norm")  # settings whose inequality makes it another question
NETWORKS = ("network", "networks", "architecture")
OTHERS = ("data", *NETWORKS)  # settings whose inequality makes it another network or dataset
NO_SETTINGS = ("averaged",)  # declared, and no setting of a run


@dataclass(frozen=True)
class Settings:
    """How a run's settings relate to the paper's.

    mark : one of MARKS; words : what is altered or substituted, e.g. "epochs: 10 instead of 50"; guessed : what the paper does
    not say; network : the name of another network that took the place of the paper's, else ""
    """

    mark: str
    words: tuple[str, ...]
    guessed: tuple[str, ...]
    network: str = ""


def declared(paper: str, source: str) -> dict:
    """What the paper declares of its settings for a source, {name: value}, from `[[declared]]` in `claims/<paper>.toml`.

    An entry names the sources that it holds for (`of`), or holds for all; the entry that names the source counts more. Every
    entry has its place in the paper. "averaged" is the number of runs that a printed number is the mean of; every other name is
    one of the settings, or "<role> images" or "<role> data", see `compare_settings`. raises ValueError for an entry that lacks
    name, value or place
    """
    found = {}  # in the order of the file
    for entry in facts(paper, "declared"):
        if {"name", "value", "place"} - entry.keys() or entry.keys() - {"name", "value", "place", "of"}:
            raise ValueError(f"claims/{paper}.toml: an entry has name, value, place and perhaps `of`, a list, not {entry}")
        if source in entry.get("of", [source]) and ("of" in entry or entry["name"] not in found):
            found[entry["name"]] = entry["value"]
    return found


def unstated(paper: str, source: str) -> tuple[str, ...]:
    """What a run needs and the paper does not say, from `[[unstated]]`: names of settings."""
    return tuple(dict.fromkeys(name for entry in facts(paper, "unstated", source) for name in entry["names"]))


def compare_settings(
    settings: dict, data: dict, declared: dict, guessed: tuple[str, ...] = (), *, strict: bool = True
) -> Settings:
    """The mark of a row, by its settings and its data {role: {name, size}}, against what the paper declares.

    Any inequality makes it *altered*, but more images or seeds; of ε or the norm, *another threat model*; of one that names
    a network or a dataset, *substituted*. Without one it is *unstated* if anything was guessed, or if nothing is declared;
    else *the paper's settings*.
    A name is looked up among the settings, then as "<role> images" or "<role> data" among the splits.
    strict : whether a name that is nowhere raises KeyError, unless another network or dataset explains it; else it is passed over
    """
    known = {f"{role} images": split["size"] for role, split in data.items()}
    known |= {f"{role} data": split["name"].split("/")[0].split(" ")[0] for role, split in data.items()}
    known |= _flat(settings)
    words, mark, network, compared, missing = [], PAPERS, "", 0, []
    for name, value in declared.items():
        if name in NO_SETTINGS:
            continue
        if name not in known:
            missing.append(name)
            continue
        mine, compared = known[name], compared + 1
        if not _differs(name, mine, value):
            continue
        its = SUBSTITUTED if name in OTHERS or name.endswith(" data") else OTHER_THREAT if name in THREAT else ALTERED
        mark = max(mark, its, key=MARKS.index)
        network = (mine if isinstance(mine, str) else ", ".join(map(str, mine))) if name in NETWORKS else network
        words.append(f"{name}: {_text(mine)} instead of {_text(value)}")
    if missing and strict and mark != SUBSTITUTED:  # another network has other settings
        raise KeyError(f"nothing named {missing[0]!r} among the settings or the data of the row")
    if mark == PAPERS and (guessed or not compared):
        mark = UNSTATED
    return Settings(mark, tuple(words), tuple(guessed), network)


def _flat(settings: dict) -> dict:
    """Settings with those of their groups, at any depth; what is named twice counts where it stands higher."""
    inner = {}
    for group in settings.values():
        if isinstance(group, dict):
            inner = _flat(group) | inner
    return inner | settings


def _differs(name: str, mine, value) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (mine, value))
    if numbers and (name.endswith("images") or name == "seeds"):
        return mine < value
    return mine != value


def _text(value) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
