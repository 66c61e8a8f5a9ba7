"""Profiles and seeds as they are written by hand."""

import pytest

from helpers.profiles import parse_seeds, per_profile


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        ("0-4", [0, 1, 2, 3, 4]),
        ("0,3", [0, 3]),
        ("5-6,1", [5, 6, 1]),
        ("1,1", [1]),
        ("7", [7]),
        (2, [0, 1]),
        ([4, 1], [4, 1]),
        (None, None),
        ("", None),
    ],
)
def test_seeds(given, seeds):
    assert parse_seeds(given) == seeds


@pytest.mark.parametrize(
    "given",
    ["x", "1-", "-3", "5-2", "0-1-2", "1,,2", "0-99999999999", [1.5], [True], [-1], [], {}, 0, -1, True, False, 99_999_999, 1.5],
)
def test_seeds_refused(given):
    with pytest.raises(ValueError, match="0-4 or 0,3"):
        parse_seeds(given)


def test_settings_of_each_profile():
    assert per_profile(epochs=(1, 2, 3), data="mnist") == {
        "smoke": {"epochs": 1, "data": "mnist"},
        "cpu": {"epochs": 2, "data": "mnist"},
        "paper": {"epochs": 3, "data": "mnist"},
    }
    with pytest.raises(ValueError, match="epochs: a tuple needs one value for each"):
        per_profile(epochs=(1, 2))
