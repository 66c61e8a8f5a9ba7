"""Studies: rows are computed once, survive a kill at any moment, and `report` shows the best complete profile."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter

import numpy as np
import pytest
import torch

from helpers import rows as storage
from helpers import study as study_module
from helpers.rows import ROOT, RowError
from helpers.study import MissingRows, Study, parse_seeds

PROFILES = {"smoke": {"width": 2, "seeds": 2}, "cpu": {"width": 4, "seeds": 2}, "paper": {"width": 8, "seeds": 3}}


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book of its own: results/ and _build/ under tmp_path."""
    monkeypatch.delenv("BOOK_RESULTS", raising=False)
    monkeypatch.setattr(study_module, "ROOT", tmp_path)
    return tmp_path


def experiment(study, **options):
    return study.experiment("t", **{"version": 1, "axes": {"method": ["a", "b"]}, "data": lambda s: {}, **PROFILES, **options})


def counted(calls):
    def run(s, data, *, method, seed):
        calls.append((method, seed))
        return {"value": s["width"] + seed, "drawn": torch.rand(()).item()}

    return run


def test_a_row_is_computed_once_and_carries_its_provenance(book):
    calls = []
    frame = experiment(Study("p", "smoke", device="cpu")).grid(counted(calls))
    again = experiment(Study("p", "smoke", device="cpu")).grid(counted(calls))
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert frame.equals(again) and frame.value.tolist() == [2, 2, 3, 3]
    row = json.loads((book / "_build/smoke/results/p/smoke/t.jsonl").read_text().splitlines()[0])
    assert set(row) >= storage.FIELDS and row["settings"] == {"width": 2} and row["versions"]["torch"] == torch.__version__
    assert not (book / "results").exists()


def test_the_seed_decides_what_a_run_draws_and_the_global_generator_is_untouched(book):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    frame = experiment(Study("p", "smoke", device="cpu")).grid(counted([]))
    assert torch.equal(torch.rand(3), expected)
    by_seed = frame.groupby("seed").drawn.unique()
    assert [len(v) for v in by_seed] == [1, 1] and by_seed[0] != by_seed[1]


@pytest.mark.parametrize("change", [{"version": 2}, {"smoke": {"width": 3, "seeds": 2}}])
def test_other_settings_or_version_are_other_rows(book, change):
    calls = []
    experiment(Study("p", "smoke", device="cpu")).grid(counted(calls))
    experiment(Study("p", "smoke", device="cpu"), **change).grid(counted(calls))
    assert len(calls) == 8


def test_seeds_pick_among_an_experiments_own(book):
    calls = []
    frame = experiment(Study("p", "smoke", device="cpu", seeds="1-7")).grid(counted(calls))
    assert frame.seed.tolist() == [1, 1] and calls == [("a", 1), ("b", 1)]
    assert experiment(Study("p", "smoke", device="cpu", seeds="5")).grid(counted(calls)).seed.tolist() == [0, 0, 1, 1]
    assert len(calls) == 4


def test_a_changed_run_is_made_again_outside_the_record(book):
    def run(s, data, *, method, seed):
        return {"value": 1}

    def changed(s, data, *, method, seed):
        return {"value": 1, "my_attack": 2}

    assert "my_attack" not in experiment(Study("p", "smoke", device="cpu")).grid(run)
    assert experiment(Study("p", "smoke", device="cpu")).grid(changed).my_attack.tolist() == [2] * 4
    recorded = experiment(Study("p", "smoke", device="cpu", record=True)).grid(run)
    assert experiment(Study("p", "smoke", device="cpu", record=True)).grid(changed).equals(recorded)


def test_rows_of_other_data_are_not_mixed(book):
    from helpers.data import Split

    def split(n):
        return lambda s: {"test": Split("toy/test", torch.zeros(n, 1, 2, 2), torch.zeros(n, dtype=torch.int64), ("0",))}

    experiment(Study("p", "smoke", device="cpu", seeds="0"), data=split(3)).grid(counted([]))
    with pytest.raises(RowError, match="different versions of toy/test"):
        experiment(Study("p", "smoke", device="cpu"), data=split(4)).grid(counted([]))


@pytest.mark.parametrize(
    ("result", "message"), [(None, "must return"), ({"points": np.array([np.nan])}, "points came out as NaN")]
)
def test_a_run_that_returns_something_else_is_refused(book, result, message):
    with pytest.raises((TypeError, ValueError), match=message):
        experiment(Study("p", "smoke", device="cpu")).grid(lambda s, d, *, method, seed: result)


def test_settings_without_seeds_are_refused(book):
    with pytest.raises(ValueError, match='need "seeds"'):
        experiment(Study("p", "smoke", device="cpu"), cpu={"width": 1})


def test_a_network_joins_the_zoo_only_when_recording_and_not_over_a_better_one(book, tmp_path, monkeypatch):
    from helpers import models

    monkeypatch.setattr(models, "WEIGHTS", tmp_path / "weights")
    about = {"architecture": {"name": "mlp", "arguments": {"inputs": 4, "hidden": [3], "classes": 2}}}

    def publish(profile, record):
        Study("p", profile, device="cpu", record=record).publish("p/net", models.mlp(4, [3], 2), about)
        return models.card("p/net")["profile"] if models.zoo() else None

    assert publish("smoke", False) is None
    assert publish("smoke", True) == "smoke" and publish("cpu", True) == "cpu"
    assert publish("smoke", True) == "cpu" and publish("cpu", True) == "cpu" and publish("paper", True) == "paper"


def test_an_opened_network_is_in_evaluation_mode_seeded_and_named_in_its_row(book):
    from helpers.data import Split
    from helpers.models import mlp

    data = Split("toy/train", torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64), ("0", "1"))
    study = Study("p", "smoke", device="cpu")

    def run(s, d, *, method, seed):
        handle = study.trained(
            "net",
            lambda s, *, seed: mlp(4, (3,), 2),
            lambda n, d, s, **_: [{"loss": 0.0, "seconds": 1.25}],
            settings={},
            data=data,
            seed=seed,
        )
        network = handle.open()
        assert not any(m.training for m in network.modules())
        again = handle.open()
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
        return {"weight": network[1].weight.sum().item()}

    e = experiment(study)
    frame = e.grid(run)
    assert frame[frame.seed == 0].weight.nunique() == 1 and frame.weight.nunique() == 2
    assert [len(row["networks"]) for row in e.rows] == [1] * 4 and "net-0-" in next(iter(e.rows[0]["networks"]))
    other = Split("toy/train", data.images + 0.1, data.labels, ("0", "1"))
    paths = {study.trained("net", mlp, mlp, settings={}, data=d, seed=0).path for d in (data, other)}
    assert len(paths) == 2


def test_a_loaded_network_has_the_whole_history_of_its_training(book):
    from helpers.data import Split
    from helpers.models import mlp

    data = Split("toy/train", torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64), ("0", "1"))
    history = [{"loss": 1.0 / i, "seconds": 0.5, "clean": i / 10} for i in (1, 2, 3)]

    def open_it(train):
        handle = Study("p", "smoke", device="cpu").trained(
            "net", lambda s, *, seed: mlp(4, (3,), 2), train, settings={}, data=data, seed=0
        )
        handle.open()
        return handle

    def train(n, d, s, **_):
        return history

    assert open_it(train).history == history == open_it(train).history
    assert open_it(lambda n, d, s, **_: history[:1]).history == history[:1], "a changed training is done again"


def test_a_fingerprint_is_the_same_in_every_process_and_follows_functions_into_dicts(tmp_path):
    """In a notebook a dict of functions is a global like any other."""
    source = """
from helpers.fingerprint import fingerprint
def helper(x, k=1): return x + k
def other(x): return -x
TABLE = {"a": helper, "b": [other]}
WORDS = {"one", "two", "three", "four"}
norm = 1
def run(x): return TABLE["a"](x.norm()) if x in {"p", "q", "r"} or x in WORDS else x
print(fingerprint(run))
"""

    def printed(text, seed="1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=environment)
        return done.stdout.strip() or done.stderr

    first = printed(source)
    assert len(first) == 12 and printed(source, "2") == first
    assert printed(source.replace("norm = 1", "norm = 2")) == first, "an attribute is no global"
    changes = [("k=1", "k=2"), ("x + k", "x - k"), ("return -x", "return x"), ('"four"', '"five"'), ('"p"', '"z"')]
    assert len({first, *(printed(source.replace(*change)) for change in changes)}) == 6


def record(profile, calls=None, **options):
    return experiment(Study("p", profile, device="cpu", record=True, **options)).grid(counted([] if calls is None else calls))


def test_report_shows_the_best_complete_profile_and_mentions_a_better_partial_one(book):
    record("smoke")
    assert experiment(Study("p", device="cpu")).profile == "smoke"
    record("cpu")
    record("paper", seeds="0-1")
    shown = experiment(Study("p", device="cpu"))
    calls = []
    assert shown.profile == "cpu" and shown.grid(counted(calls)).value.tolist() == [4, 4, 5, 5] and not calls
    assert shown.status()["also there"] == "paper: 4 of 6 rows"
    record("paper")
    assert experiment(Study("p", device="cpu")).profile == "paper"


def test_report_without_rows_says_what_to_do(book):
    with pytest.raises(MissingRows, match="set profile=.smoke."):
        experiment(Study("p", device="cpu"))


def test_book_results_moves_rows_and_networks(book, tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_RESULTS", str(tmp_path / "drive"))
    record("smoke")
    assert (tmp_path / "drive/results/p/smoke/t.jsonl").exists() and not (book / "results").exists()


def test_arrays_stand_beside_their_row(book):
    def run(s, data, *, method, seed):
        return {"n": 1, "points": np.array([[1 / 3, 2.0]]), "label": np.array([3])}

    e = experiment(Study("p", "smoke", device="cpu"))
    arrays = e.arrays(next(e.grid(run).itertuples()))
    assert arrays["points"].tolist() == [[np.float32(0.3333), 2.0]] and arrays["label"].tolist() == [3]
    e.study.path("smoke", "t").with_name(f"t-{e.rows[0]['key']}.npz").write_bytes(b"PK damaged")
    with pytest.raises(RowError, match="damaged"):
        e.arrays(next(e.grid(run).itertuples()))


def test_a_nan_is_not_stored(book):
    with pytest.raises(ValueError, match="accuracy came out as NaN"):
        experiment(Study("p", "smoke", device="cpu")).grid(lambda s, d, *, method, seed: {"accuracy": float("nan")})
    assert not (book / "_build/smoke/results/p/smoke/t.jsonl").exists()


def test_settings_that_json_cannot_hold_are_refused(book):
    with pytest.raises(TypeError):
        experiment(Study("p", "smoke", device="cpu"), smoke={"f": print, "seeds": 1}).grid(counted([]))


@pytest.mark.parametrize(
    ("given", "seeds"),
    [("0-4", [0, 1, 2, 3, 4]), ("0,3", [0, 3]), (2, [0, 1]), ([4, 1], [4, 1]), (None, None), ("", None)],
)
def test_seeds(given, seeds):
    assert parse_seeds(given) == seeds


@pytest.mark.parametrize("given", ["x", "1-", "-3", "5-2", [1.5], {}])
def test_seeds_refused(given):
    with pytest.raises(ValueError, match="0-4 or 0,3"):
        parse_seeds(given)


def test_unknown_profile_is_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="report, smoke, cpu, paper"):
        Study("p", "gpu")


SCRIPT = textwrap.dedent("""
    import sys, time
    import torch
    from helpers import study as study_module, training
    from helpers.data import Split
    from helpers.models import mlp
    from helpers.study import Study

    training.CHECKPOINT_SECONDS = 0
    root, = sys.argv[1:]

    def note(*words):
        with open(root + "/log", "a") as file:
            file.write(" ".join(map(str, words)) + "\\n")

    g = torch.Generator().manual_seed(0)
    data = Split("toy/train", torch.rand(40, 1, 2, 2, generator=g), torch.randint(0, 2, (40,), generator=g), ("0", "1"))
    study = Study("p", "smoke", device="cpu")

    def build(s, *, seed):
        return mlp(4, (3,), 2)

    def train(network, data, s, *, seed, checkpoint):
        note("train", seed)
        def after(epoch):
            note("epoch", seed, epoch)
            time.sleep(0.05)
        return training.fit(network, data, lambda m, x, y: torch.nn.functional.cross_entropy(m(x), y), epochs=s["epochs"], lr=0.1,
                            batch_size=10, seed=seed, checkpoint=checkpoint, after_epoch=after)

    def run(s, d, *, seed):
        network = study.trained("net", build, train, settings=s, data=data, seed=seed).open()
        note("measure", seed)
        time.sleep(0.4)
        note("measured", seed)
        return {"weight": sum(p.sum().item() for p in network.parameters())}

    p = {"epochs": 6, "seeds": 3}
    e = study.experiment("t", version=1, axes={}, data=lambda s: {}, smoke=p, cpu=p, paper=p)
    e.grid(run)
    note("done")
""")


def _start(folder, *, kill_after: str | None):
    """Run SCRIPT; SIGKILL it as soon as its log holds the line `kill_after`. Returns the log's lines."""
    log = folder / "log"
    environment = {**os.environ, "BOOK_RESULTS": str(folder), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if kill_after and log.exists() and kill_after in log.read_text().splitlines():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return log.read_text().splitlines()
        time.sleep(0.01)
    assert process.wait(timeout=1) == 0, process.stderr.read()
    assert kill_after is None, "the process ended before it could be killed"
    return log.read_text().splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("moment", ["epoch 1 3", "measure 1"])
def test_sigkill_loses_what_was_in_flight_and_nothing_else(tmp_path, moment):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    _start(tmp_path / "whole", kill_after=None)
    _start(tmp_path / "killed", kill_after=moment)
    log = Counter(_start(tmp_path / "killed", kill_after=None))
    # computed twice: at most the epoch, or the measurement, that was in flight; lost: nothing that was finished
    assert all(log[f"measured {seed}"] == 1 for seed in range(3)) and log["done"] == 1
    repeated = [line for line, n in log.items() if n > 1]
    epochs = [line for line in repeated if line.startswith("epoch")]
    assert len(epochs) <= 1 and all(log[line] == 2 for line in repeated)
    if moment == "measure 1":
        assert repeated == ["measure 1"]
    else:
        assert set(repeated) <= {"train 1", "epoch 1 3", "epoch 1 4"}
    # and what comes out is what an uninterrupted run gives, to the last digit
    values = [
        [json.loads(line)["metrics"] for line in (tmp_path / name / "results/p/smoke/t.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    assert values[0] == values[1] and len(values[0]) == 3
    assert not list((tmp_path / "killed").rglob("*.part")) and not list((tmp_path / "killed").rglob("*.checkpoint"))


def test_a_damaged_network_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_RESULTS", str(tmp_path))
    from helpers.data import Split
    from helpers.models import mlp

    data = Split("toy/train", torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64), ("0", "1"))
    handle = Study("p", "smoke", device="cpu").trained(
        "net",
        lambda s, *, seed: mlp(4, (3,), 2),
        lambda n, d, s, **_: [{"loss": 0.0, "seconds": 1.25}],
        settings={},
        data=data,
        seed=0,
    )
    handle.open()
    handle.path.write_bytes(handle.path.read_bytes()[:50])
    with pytest.raises(RowError, match="delete it to train the network again"):
        handle.open()
