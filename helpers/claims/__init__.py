"""What the papers print against what our runs gave: verdicts, as pure statistics on tables of numbers.

`printed` reads what a paper prints, `settings` what it declares; `numbers` judges a printed number, `sentences` a sentence drawn
from several, `defences` and `detectors` what stronger attacks leave. Their intervals come from `statistics`, and `deciding` says
what would decide what is undecided.
"""

from helpers.claims.compared import as_drops, compare, compare_drops
from helpers.claims.defences import Suite, survival
from helpers.claims.detectors import detection
from helpers.claims.numbers import Verdict, judge
from helpers.claims.predicates import parse_predicate
from helpers.claims.printed import CAP, COLUMNS, count, facts, margin_of, parse_number, read, value
from helpers.claims.sentences import judge_sentence, judge_sentences
from helpers.claims.settings import Settings, compare_settings, declared, unstated
from helpers.claims.statistics import interval, over_networks
from helpers.claims.terms import by_seed

__all__ = [
    "CAP",
    "COLUMNS",
    "Settings",
    "Suite",
    "Verdict",
    "as_drops",
    "by_seed",
    "compare",
    "compare_drops",
    "compare_settings",
    "count",
    "declared",
    "detection",
    "facts",
    "interval",
    "judge",
    "judge_sentence",
    "judge_sentences",
    "margin_of",
    "over_networks",
    "parse_number",
    "parse_predicate",
    "read",
    "survival",
    "unstated",
    "value",
]
