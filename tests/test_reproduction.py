"""A reproduction says which stored rows came out again, which did not, and which nobody made; it never passes with none."""

import csv

import pytest
from toy import row, store

from helpers import reproduction, rows


def of(seed: int = 0, **metrics) -> dict:
    return row(seed=seed, metrics=metrics or None)


def compared(stored, again, close):
    return reproduction.came_out_again({r["key"]: r for r in stored}, {r["key"]: r for r in again}, close=close)


def test_came_out_again_within_the_tolerance():
    inside, outside, new = compared(
        [of(0, a=0.5, b=0.9), of(1, a=0.5)], [of(0, a=0.52, b=0.9), of(1, a=0.6), of(2, a=0.1)], close=True
    )
    assert inside["verdict"] == "yes" and outside["verdict"] == "no" and new["verdict"] == "not stored"
    assert (outside["metric"], outside["stored"], outside["again"]) == ("a", 0.5, 0.6)


def test_came_out_again_inside_the_interval_of_the_seeds():
    stored = [of(seed, a=a) for seed, a in enumerate([0.50, 0.52, 0.48, 0.51, 0.49])]
    assert compared(stored, [of(0, a=0.53)], close=False)[0]["verdict"] == "yes"
    assert compared(stored, [of(0, a=0.60)], close=False)[0]["verdict"] == "no"


def test_rows_of_another_version_widen_nothing_and_a_lost_metric_is_told():
    stored = [of(seed, a=a) for seed, a in enumerate([0.50, 0.51, 0.49])]
    older = [{**r, "version": 0, "metrics": {"a": a}} for r, a in zip(stored, (0.1, 0.5, 0.9), strict=True)]
    older = [{**r, "key": rows.key_of(r["run"], r["args"], r["settings"], 0)} for r in older]
    assert compared(stored + older, [of(0, a=0.7)], close=False)[0]["verdict"] == "no"
    assert compared(stored, [of(0, b=0.5)], close=True)[0]["verdict"] == "no"
    assert compared([of(0, a=0.5, b=0.5)], [of(0, a=0.5)], close=True)[0]["verdict"] == "no"


@pytest.mark.parametrize("close", [True, False])
def test_what_is_measured_now_and_was_not_then_is_no_difference(close):
    stored = [of(0, a=0.5), of(1, a=0.52, b=0.1), of(2, a=0.51)]
    assert compared(stored, [of(0, a=0.5, b=0.9)], close=close)[0]["verdict"] == "yes"
    assert compared(stored, [of(0, a=0.9, b=0.9)], close=close)[0]["verdict"] == "no"


@pytest.fixture
def said(tmp_path, capsys):
    """A function that compares stored rows with those made again: (whether it is good, what it prints, the table's verdicts)."""

    def compare(stored: list[dict], again: list[dict], **options):
        store(tmp_path / "book", "huang2015", *stored)
        store(tmp_path / "again", "huang2015", *again)
        table = tmp_path / "table.csv"
        good = reproduction.compare(tmp_path / "book", [tmp_path / "again"], "smoke", table, **options)
        with table.open(encoding="utf-8", newline="") as file:
            verdicts = [line[3] for line in csv.reader(file)][1:]
        return good, capsys.readouterr().out, verdicts

    return compare


def test_all_rows_came_out_again(said):
    good, text, verdicts = said([of(0), of(1)], [of(0), of(1)])
    assert good and "huang2015 t: 2 of 2 of the book's smoke rows came out again" in text and verdicts == ["yes", "yes"]


@pytest.mark.parametrize("again", [[], [row("new")]])
def test_a_reproduction_that_compared_nothing_fails(said, again):
    good, text, _ = said([], again)
    assert not good and "nothing was compared" in text


def test_a_row_that_was_not_made_again_is_named_and_fails(said):
    stored = [row(method="LWA", seed=s) for s in (0, 1)]
    good, text, verdicts = said(stored, stored[:1])
    assert not good and "huang2015 t 1 LWA: stored, but not made again" in text and verdicts == ["yes", "not made again"]
    assert "1 of 1 of the book's smoke rows came out again, 1 not made again" in text


def test_rows_of_seeds_that_were_not_asked_for_do_not_count(said):
    stored = [of(seed) for seed in range(4)]
    good, text, verdicts = said(stored, stored[:2], seeds=[0, 1])
    assert good and "not made" not in text and verdicts == ["yes", "yes"]
    assert not said([], [], seeds=[0, 1, 3])[0]


@pytest.mark.parametrize("old", [row(settings={"epochs": 9}), row(version=0)])
def test_rows_that_the_chapter_no_longer_declares_are_told_and_do_not_fail(said, old):
    good, text, verdicts = said([old, of(1)], [of(1)])
    assert good and "1 stored rows have settings that their chapters no longer declare" in text
    assert verdicts == ["yes", "no longer declared"]


def test_a_run_that_was_not_made_at_all_counts_where_all_chapters_of_its_paper_were_asked_for(said):
    good, text, _ = said([of(0), row("figure2", eps=0.1)], [of(0)])
    assert good and "figure2" not in text, "another chapter of this paper may declare it"
    good, text, _ = said([], [], papers={"huang2015"})
    assert not good and "huang2015 figure2 0 0.1: stored, but not made again" in text


def test_other_profiles_and_papers_are_left_alone(said, tmp_path):
    store(tmp_path / "book", "huang2015", of(5), profile="cpu")
    store(tmp_path / "book", "picot2019", of(5))
    assert said([of(0)], [of(0)], papers={"huang2015"})[0]
