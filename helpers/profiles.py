"""Profiles and seeds: at what size an experiment runs, and over which independently trained networks."""

PROFILES = ("paper", "cpu", "smoke")  # best first
PARAMETERS = ("profile", "seeds", "device", "data_root", "record")  # of every chapter's parameters cell
MOST_SEEDS = 10_000  # a mistyped 0-99999999 is a mistake, not a wish


def parse_seeds(seeds: str | int | list[int] | None) -> list[int] | None:
    """ "0-4", "0,3", 5 (that many) or a list -> a list of seeds; None and "" stay None. raises ValueError for anything else."""
    if seeds is None or seeds == "":
        return None
    try:
        parsed = _parse(seeds)
    except (TypeError, ValueError):
        parsed = []
    if parsed and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in parsed):
        return list(dict.fromkeys(parsed))
    raise ValueError(f"seeds must look like 0-4 or 0,3, at most {MOST_SEEDS:,} of them, not {seeds!r}")


def _parse(seeds) -> list[int]:
    if isinstance(seeds, bool):
        return []
    if isinstance(seeds, int):
        return list(range(seeds)) if seeds <= MOST_SEEDS else []
    if not isinstance(seeds, str):
        return list(seeds)
    parsed = []
    for part in seeds.split(","):
        first, dash, last = part.partition("-")
        first, last = int(first), int(last if dash else first)
        if last - first >= MOST_SEEDS or last < first:
            return []
        parsed += range(first, last + 1)
    return parsed


def per_profile(**settings) -> dict[str, dict]:
    """{profile: settings} for `Study.run`; a tuple holds one value per profile, in the order smoke, cpu, paper.

    raises ValueError for a tuple of another length
    """

    def at(i: int) -> dict:
        return {k: v[i] if isinstance(v, tuple) else v for k, v in settings.items()}

    if wrong := [k for k, v in settings.items() if isinstance(v, tuple) and len(v) != len(PROFILES)]:
        raise ValueError(f"{', '.join(wrong)}: a tuple needs one value for each of smoke, cpu, paper")
    return {profile: at(i) for i, profile in enumerate(reversed(PROFILES))}
