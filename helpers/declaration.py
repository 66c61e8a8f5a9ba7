"""What declares an experiment: its name, arguments and settings at each profile, checked before anything is computed."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from helpers import rows as storage
from helpers.profiles import PROFILES
from helpers.rows import canonical, key_of

RESERVED = {"seed", "key"}  # columns of every table of rows


@dataclass(frozen=True)
class Variant:
    """What the keys of an experiment's rows are made of: the present settings, or earlier ones whose rows are shown meanwhile."""

    version: int
    over: dict[str, list]
    profiles: dict[str, dict]
    why: str = ""  # why it was replaced; empty for the present one

    def arguments(self, profile: str, seeds: Iterable[int] | None = None) -> list[dict]:
        """The arguments of each row, seed by seed, so that an interrupted experiment has whole seeds."""
        return [
            dict(zip((*self.over, "seed"), (*values, seed), strict=True))
            for seed in (range(self.profiles[profile]["seeds"]) if seeds is None else seeds)
            for values in itertools.product(*self.over.values())
        ]

    def settings(self, profile: str) -> dict:
        """The settings that a key is made of: how many seeds there are does not change what one row measures."""
        return {k: v for k, v in self.profiles[profile].items() if k != "seeds"}

    def keys(self, name: str, profile: str, arguments: list[dict]) -> list[str]:
        """The key of the row of each of the arguments."""
        return [key_of(name, args, self.settings(profile), self.version) for args in arguments]


def check_declaration(name: str, over: dict, profiles: dict, version: int) -> None:
    """raises ValueError or TypeError for a name, arguments or settings that rows could not be kept by"""
    if not re.fullmatch(r"\w[\w-]*", name):
        raise ValueError(f"an experiment's name is a file's name: letters, digits, _ and -, not {name!r}")
    if set(profiles) != set(PROFILES):
        raise ValueError(f"{name}: settings are needed for {', '.join(PROFILES)}, not {', '.join(profiles)}")
    if not isinstance(version, int) or isinstance(version, bool):
        raise ValueError(f"{name}: the version is a whole number, not {version!r}")
    for profile, settings in profiles.items():
        seeds = settings.get("seeds") if isinstance(settings, dict) else None
        if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1:
            raise ValueError(f'{name}: the settings at {profile} need "seeds", a count of at least 1')
        canonical(settings)
    for argument, values in over.items():
        if argument in RESERVED or not argument.isidentifier():
            raise ValueError(f"{name}: {argument!r} cannot be an argument of the run")
        if not isinstance(values, list | tuple | range) or not len(values):
            raise ValueError(f"{name}: the values of {argument} must be a list that is not empty, not {values!r}")
        if not all(isinstance(v, str | int | float) or v is None for v in values):
            raise ValueError(f"{name}: the values of {argument} must be words, numbers or None, not {list(values)!r}")
        if len({canonical(v) for v in values}) < len(values):
            raise ValueError(f"{name}: {argument} has a value twice: {list(values)!r}")
    groups: dict[str, tuple] = {}
    for combination in itertools.product(*over.values()):
        anchor = storage.anchor(*combination)
        if groups.setdefault(anchor, combination) != combination:
            raise ValueError(f"{name}: {combination} and {groups[anchor]} would share the link {anchor}: name them otherwise")
