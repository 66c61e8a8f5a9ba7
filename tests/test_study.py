"""Studies: rows are computed once, survive a kill at any moment, and `report` shows the best complete profile."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import rows as storage
from helpers import study as study_module
from helpers import training
from helpers.data import Split
from helpers.models import mlp
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

    test = Split("toy/test", torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]), ("0", "1"))
    network = mlp(4, (3,), 2)

    def publish(profile, record):
        Study("p", profile, device="cpu", record=record).publish("p/net", network, test, about)
        return models.card("p/net")["profile"] if models.zoo() else None

    assert publish("smoke", False) is None
    assert publish("smoke", True) == "smoke" and publish("cpu", True) == "cpu"
    assert publish("smoke", True) == "cpu" and publish("cpu", True) == "cpu" and publish("paper", True) == "paper"
    assert models.card("p/net")["test images"] == ["toy/test", 3, test.digest]
    assert models.card("p/net")["clean accuracy"] == round(
        (network(test.images).argmax(1) == test.labels).double().mean().item(), 4
    )


def test_a_network_that_the_zoo_has_is_not_opened_to_be_published_again(book, tmp_path, monkeypatch):
    from helpers import models

    monkeypatch.setattr(models, "WEIGHTS", tmp_path / "weights")
    about = {"architecture": {"name": "mlp", "arguments": {"inputs": 4, "hidden": (3,), "classes": 2}}, "seed": 0}
    test, opened = Split("toy/test", torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]), ("0", "1")), []

    def publish(about, test=test):
        def network():
            opened.append(about)
            return mlp(4, (3,), 2)

        study = Study("p", "smoke", device="cpu", record=True)
        study.publish("p/net", network, test, about, lambda network, test: {"outputs": len(network(test.images)[0])})

    publish(about)
    publish(about)
    assert len(opened) == 1 and models.card("p/net")["outputs"] == 2 and "clean accuracy" not in models.card("p/net")
    publish({**about, "seed": 1})
    publish({**about, "seed": 1}, replace(test, images=1 - test.images))
    assert len(opened) == 3 and models.card("p/net")["seed"] == 1


def test_an_opened_network_is_in_evaluation_mode_seeded_and_named_in_its_row(book):
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
        def after(epoch, _):
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


# networks that train at once


class Interruption(Exception):
    pass


class Group:
    """Handles on seeds 0 to 3 of one small network; every call of `train` notes its seeds and every finished epoch its number."""

    def __init__(self, at_once: bool, *, record: bool = False):
        self.study = Study("p", "smoke", device="cpu", record=record)
        self.study.at_once = at_once
        self.calls, self.epochs, self.stop_at = [], [], None
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(0, 2, (20,), generator=generator)
        self.data = Split("toy/train", torch.rand(20, 1, 2, 2, generator=generator), labels, ("0", "1"))

    def handle(self, seed, *, together=(0, 1, 2, 3), epochs=4, width=3):
        def build(s, *, width, seed):
            return mlp(4, (width,), 2)

        def train(network, data, s, *, width, seed, checkpoint):
            self.calls.append((seed, type(network)))

            def after_epoch(epoch, _):
                if epoch == self.stop_at:
                    raise Interruption
                self.epochs.append(epoch)
                return {"clean": epoch / 10}

            options = {"epochs": s["epochs"], "lr": 0.1, "batch_size": 8, "seed": seed, "checkpoint": checkpoint}
            return training.fit(
                network, data, lambda m, x, y: torch.nn.functional.cross_entropy(m(x), y), after_epoch=after_epoch, **options
            )

        return self.study.trained(
            "net", build, train, settings={"epochs": epochs}, data=self.data, together=together, width=width, seed=seed
        )

    def open(self, seed, **options):
        """The network's values and the losses of its training."""
        handle = self.handle(seed, **options)
        values = torch.cat([v.flatten() for v in handle.open().state_dict().values()])
        assert [epoch["clean"] for epoch in handle.history] == [0.1, 0.2, 0.3, 0.4]
        return values, [epoch["loss"] for epoch in handle.history]

    def files(self):
        return sorted(p.name.split("-")[2] + p.suffix for p in self.study.networks.iterdir())


def one_by_one(tmp_path, monkeypatch):
    """What the seeds become when each trains alone, in another folder."""
    with monkeypatch.context() as patch:
        patch.setattr(study_module, "ROOT", tmp_path / "alone")
        group = Group(False)
        return [group.open(seed) for seed in range(4)]


def same(results, expected):
    for (values, losses), (expected_values, expected_losses) in zip(results, expected, strict=True):
        torch.testing.assert_close(values, expected_values, rtol=1e-4, atol=1e-6)
        assert losses == pytest.approx(expected_losses, rel=1e-5)
    return True


def test_the_first_network_that_is_opened_trains_all_that_are_missing_at_once(book, monkeypatch):
    group = Group(True)
    first = group.open(1)
    assert group.calls == [([0, 1, 2, 3], list)]
    assert group.files() == [f"{seed}.safetensors" for seed in range(4)], "all are stored, and no checkpoint is left"
    rest = [group.open(seed) for seed in (0, 1, 2, 3)]
    again = [Group(True).open(seed) for seed in (0, 1, 2, 3)]
    assert len(group.calls) == 1 and torch.equal(first[0], rest[1][0])
    assert all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(rest, again, strict=True))
    assert len({losses[-1] for _, losses in rest}) == 4
    assert same(rest, one_by_one(book, monkeypatch))


def test_a_network_that_was_just_trained_is_the_one_that_is_loaded_later(book):
    handle = Group(True).handle(2)
    network = handle.open()
    assert not any(m.training for m in network.modules())
    again = Group(True).handle(2)
    loaded = again.open()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), loaded.parameters(), strict=True))
    assert again.history == handle.history


def test_networks_that_are_there_are_not_trained_again_with_the_missing_ones(book, monkeypatch):
    group = Group(True)
    alone = [group.open(seed, together=()) for seed in (2, 0)]
    stored = {p: p.read_bytes() for p in group.study.networks.iterdir()}
    group.calls.clear()
    results = [group.open(seed) for seed in (3, 0, 1, 2)]
    assert group.calls == [([1, 3], list)]
    assert all(p.read_bytes() == content for p, content in stored.items())
    assert torch.equal(results[1][0], alone[1][0]) and torch.equal(results[3][0], alone[0][0])
    assert same([results[1], results[2], results[3], results[0]], one_by_one(book, monkeypatch))


def test_the_last_that_is_missing_trains_alone(book):
    group = Group(True)
    for seed in (0, 1, 3):
        group.open(seed, together=())
    group.calls.clear()
    group.open(2)
    assert [seed for seed, _ in group.calls] == [2] and group.calls[0][1] is not list


def test_the_group_is_of_the_same_settings_and_arguments(book):
    group = Group(True)
    group.open(0, width=5)
    group.open(0)
    assert group.calls == 2 * [([0, 1, 2, 3], list)]
    assert sorted(p.name.split("-")[1] for p in group.study.networks.iterdir()) == 4 * ["3"] + 4 * ["5"]


@pytest.mark.parametrize("record", [False, True])
def test_where_networks_do_not_train_at_once_each_is_trained_when_it_is_opened(book, record):
    assert Study("p", "smoke", device="cpu").at_once is False
    group = Group(False, record=record)
    group.open(1)
    assert group.files() == ["1.safetensors"]
    group.open(3)
    group.open(1)
    assert [seed for seed, _ in group.calls] == [1, 3] and group.files() == ["1.safetensors", "3.safetensors"]


def test_training_at_once_or_alone_leads_to_the_same_files(book):
    assert [Group(at_once).handle(seed).path for at_once in (True, False) for seed in range(4)] == 2 * [
        Group(True).handle(seed, together=()).path for seed in range(4)
    ]


def interrupted(monkeypatch):
    """A group whose training stopped while its third epoch was measured."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    group = Group(True)
    group.stop_at = 3
    with pytest.raises(Interruption):
        group.open(0)
    return group


def test_an_interrupted_group_continues_at_the_next_opening(book, monkeypatch):
    group = interrupted(monkeypatch)
    assert [p.name.rsplit(".", 2)[1:] for p in group.study.networks.iterdir()] == [["0-1-2-3", "checkpoint"]]
    later = Group(True)
    results = [later.open(seed) for seed in range(4)]
    assert later.calls == [([0, 1, 2, 3], list)] and later.epochs == [3] * 4 + [4] * 4
    assert later.files() == [f"{seed}.safetensors" for seed in range(4)]
    assert same(results, one_by_one(book, monkeypatch))


def test_an_interrupted_group_goes_on_as_it_was_begun_whoever_opens_first(book, monkeypatch):
    """Of the four that were begun, one has come from elsewhere since: it stays as it is."""
    group = interrupted(monkeypatch)
    group.stop_at = None
    group.open(2, together=())
    stored = group.handle(2).path.read_bytes()
    group.epochs.clear()
    results = [group.open(seed) for seed in (1, 0, 2, 3)]
    assert group.calls[2:] == [([0, 1, 2, 3], list)] and group.epochs == [3] * 4 + [4] * 4
    assert group.handle(2).path.read_bytes() == stored and group.files() == [f"{seed}.safetensors" for seed in range(4)]
    assert same([results[i] for i in (1, 0, 2, 3)], one_by_one(book, monkeypatch))


def test_only_the_seeds_that_are_asked_for_train_at_once(book):
    group = Group(True)
    group.study.seeds = [0, 2]
    group.open(0)
    assert group.calls == [([0, 2], list)]


def test_a_row_names_the_network_it_used_and_not_those_that_were_trained_with_it(book):
    group = Group(True)

    def run(s, d, *, method, seed):
        return {"weight": group.handle(seed).open()[1].weight.sum().item()}

    e = experiment(group.study)
    e.grid(run)
    assert [seed for seed, _ in group.calls] == [[0, 1, 2, 3]]
    assert [[name.split("-")[2] for name in row["networks"]] for row in e.rows] == [["0"], ["0"], ["1"], ["1"]]


@pytest.mark.parametrize("histories", [[[{"loss": 0.0, "seconds": 1.0}]], [{"loss": 0.0, "seconds": 1.0}] * 4])
def test_a_training_that_returns_another_number_of_histories_is_no_result(book, histories):
    group = Group(True)
    handle = group.handle(0)
    handle.train = lambda networks, data, s, **_: histories
    with pytest.raises(TypeError, match="must return a history, a list of dicts, for each of 4 networks"):
        handle.open()
    assert not group.study.networks.exists() or group.files() == []
