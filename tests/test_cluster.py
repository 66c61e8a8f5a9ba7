"""Rows on a cluster: the same digits and the same networks as in a kernel, each once, whatever dies meanwhile."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from toy import ROOT, Book, write_chapter

pytest.importorskip("distributed", reason="the oldest versions are tried without Dask")

from helpers import chapters
from helpers import rows as storage
from helpers.chapters import Refused
from helpers.cluster import ClusterError, RowsLost, Tasks, connect, shared_mark
from helpers.local_cluster import local_cluster
from helpers.worker import Guard, Job, code

CHAPTER = """
import os, signal, time
from functools import partial
import torch
from torch import nn
from helpers.data import Split
from helpers.metrics import correct
from helpers.study import Study
from helpers.training import fit

study = Study("toy", profile, device="cpu")
WIDTH = 3

def log(word):
    with open(f"{FOLDER}/log", "a") as file:
        file.write(f"{word} {os.getpid()}\\n")

def splits(s):
    images = torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    data = Split("toy/all", images, (images.mean((1, 2, 3)) > 0.5).long(), ("0", "1"))
    return {"train": data[:32], "test": data[32:]}

def build(s, *, kind, seed):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2))

def objective(model, x, y):
    return nn.functional.cross_entropy(model(x), y)

def trained_by(slow):
    def train(network, data, s, *, kind, seed, checkpoint):
        log(f"train-{kind}-{seed}")
        if kind == "shifted":
            network.load_state_dict(handle(s, data, "base", seed).open().state_dict())
        slow(f"train-{kind}-{seed}")
        return fit(network, data, objective, epochs=2, lr=0.1, seed=seed, batch_size=8, checkpoint=checkpoint)
    return train

def slowly(word):
    with open(f"{FOLDER}/slow") as file:
        slow, _, seconds = file.read().partition(" ")
    end = time.monotonic() + float(seconds)
    while slow == word and time.monotonic() < end and not os.path.exists(f"{FOLDER}/go"):
        time.sleep(0.1)

def handle(s, data, kind, seed):
    return study.trained("net", build, trained_by(lambda word: slowly(word)), settings={}, data=data, kind=kind, seed=seed)

def measure(s, data, *, kind, seed):
    log(f"row-{kind}-{seed}")
    assert len(data["test"].classes) == 2  # `torch.classes` is a module that cannot be pickled
    network = handle(s, data["train"], kind, seed).open()
    slowly(f"row-{kind}-{seed}")
    if s["fault"] == f"{kind} {seed}":
        os.kill(os.getpid(), signal.SIGKILL) if s["deadly"] else 1 / 0
    return {"right": correct(network, *data["test"].xy), "drawn": torch.rand(()).item()}
"""
RUN = """
SETTINGS = {{"seeds": 2, "fault": {fault!r}, "deadly": {deadly}}}
t = study.run("t", measure, over={{"kind": ["shifted", "base"]}}, data=splits, smoke=SETTINGS, cpu=SETTINGS, paper=SETTINGS)
print(len(t.rows))
"""


@pytest.fixture(scope="module")
def cluster():
    """The address of a scheduler with two workers."""
    with local_cluster(2, {"PYTHONPATH": str(ROOT)}) as address:
        yield address


class Toy:
    """A chapter whose rows want networks, one of which wants another."""

    def __init__(self, folder, fault="", deadly=False, name="01_toy"):
        self.log, self.slow = folder / "log", folder / "slow"
        sources = f"FOLDER = {str(folder)!r}" + CHAPTER, RUN.format(fault=fault, deadly=deadly)
        self.path = write_chapter(folder / f"book/{name}.ipynb", *sources)

    def run(self, home, address=None, slow="", seconds=3):
        self.log.touch()
        self.slow.write_text(f"{slow} {seconds}", encoding="utf-8")
        variables = {"BOOK_RESULTS": str(home), "OMP_NUM_THREADS": "1", "BOOK_COMMIT": "toy"}
        variables |= {"BOOK_CLUSTER": address} if address else {}
        chapters.execute(self.path, home / "out.ipynb", {"profile": "smoke"}, **variables)

    def words(self):
        return [line.split()[0] for line in self.log.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Makes a chapter; the parameters of other profiles are `Study`'s."""
    monkeypatch.setattr(chapters, "BOOK", tmp_path / "book")
    return lambda **options: Toy(tmp_path, **options)


def stored(home):
    return storage.read(home / "results/toy/smoke/t.jsonl")


def values(home):
    arrays = {p.name: storage.load_arrays(p) for p in (home / "results/toy/smoke").glob("*.npz")}
    bits = {name: {k: v.tolist() for k, v in a.items()} for name, a in arrays.items()}
    rows = {key: {k: row[k] for k in ("metrics", "data", "code", "settings", "threads")} for key, row in stored(home).items()}
    return rows, bits, {key: set(row["networks"]) for key, row in stored(home).items()}


def networks(home):
    return sorted(p.name for p in (home / "networks/toy").glob("*.safetensors"))


@pytest.fixture
def here(toy, tmp_path):
    """The values of the rows that a kernel computes by itself."""
    toy().run(tmp_path / "here")
    (tmp_path / "log").unlink()
    return tmp_path / "here"


def test_rows_on_two_workers_are_those_of_a_kernel_and_each_network_is_trained_once(toy, here, tmp_path, cluster):
    chapter = toy()
    chapter.run(tmp_path / "there", cluster)
    assert values(tmp_path / "there") == values(here) and networks(tmp_path / "there") == networks(here)
    count = Counter(chapter.words())
    # a shifted network's training begins twice: the first time it finds that its base is not there
    assert [count[f"train-base-{seed}"] for seed in (0, 1)] == [1, 1]
    assert all(count[f"train-shifted-{seed}"] <= 3 for seed in (0, 1))
    before = chapter.log.read_text(encoding="utf-8")
    chapter.run(tmp_path / "there", cluster)
    assert chapter.log.read_text(encoding="utf-8") == before, "nothing is computed twice"


@pytest.mark.long
@pytest.mark.parametrize("moment", ["train-base-0", "train-shifted-1", "row-base-1"])
def test_a_worker_that_is_killed_costs_a_retry(toy, here, tmp_path, cluster, moment):
    chapter = toy()

    def kill():
        end = time.monotonic() + 60
        while time.monotonic() < end:
            lines = [line.split() for line in chapter.log.read_text(encoding="utf-8").splitlines()]
            asked = [int(pid) for word, pid in lines if word == moment]
            if asked and (moment.startswith("row") or len(asked) >= ("shifted" in moment) + 1):
                time.sleep(0.5)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(asked[-1], signal.SIGKILL)
                return
            time.sleep(0.05)

    chapter.log.touch()
    thread = threading.Thread(target=kill)
    thread.start()
    chapter.run(tmp_path / "there", cluster, slow=moment)
    thread.join()
    assert values(tmp_path / "there") == values(here)


def test_what_a_run_raises_is_said_with_its_arguments_and_the_chapter(toy, tmp_path, cluster):
    with pytest.raises(Refused, match=r"01_toy stopped with RowFailed: t \{'kind': 'base', 'seed': 1\}: ZeroDivisionError"):
        toy(fault="base 1").run(tmp_path / "there", cluster)


@pytest.mark.long
def test_a_row_that_kills_its_workers_is_named_and_the_others_are_stored(toy, tmp_path, cluster):
    with pytest.raises(Refused, match=r"RowsLost: t: 3 workers died at \{'kind': 'shifted', 'seed': 0\}") as error:
        toy(fault="shifted 0", deadly=True).run(tmp_path / "there", cluster)
    assert error.value.others_go_on
    assert sorted((r["args"]["kind"], r["args"]["seed"]) for r in stored(tmp_path / "there").values()) == [
        ("base", 0),
        ("base", 1),
        ("shifted", 1),
    ]


@pytest.mark.long
def test_two_clients_on_one_folder_train_and_measure_everything_once(toy, here, tmp_path, cluster):
    chapter, home = toy(), tmp_path / "there"
    with ThreadPoolExecutor() as pool:
        both = chapter, Toy(tmp_path, name="02_toy")
        list(pool.map(lambda toy: toy.run(home, cluster, slow="train-base-0"), both))
    assert values(home) == values(here)
    count = Counter(chapter.words())
    assert [count[f"train-base-{seed}"] for seed in (0, 1)] == [1, 1]


# a scheduler and workers that were started by hand


def start(*words, **environment):
    command = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler" if words[0] == "scheduler" else "distributed.cli.dask_worker",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(
        [*command, *words[1:]], env=environment, cwd=tempfile.gettempdir(), **quiet
    )  # not in the book's folder


@pytest.fixture
def by_hand(tmp_path):
    """(the scheduler's file, a function that starts a worker)."""
    file, started = tmp_path / "scheduler.json", []
    quiet = ("--no-dashboard", "--scheduler-file", str(file))
    started.append(start("scheduler", "--host", "127.0.0.1", "--port", "0", *quiet))
    assert until(file.exists)

    def worker(*options, **environment):
        options = options or ("--nthreads", "1")
        where = ("--local-directory", str(tmp_path / "scratch"), "--scheduler-file", str(file), "--host", "127.0.0.1")
        started.append(start("worker", "--no-dashboard", *where, *options, **environment))
        return started[-1]

    yield file, worker
    for process in reversed(started):
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        process.kill()


@pytest.mark.long
@pytest.mark.parametrize("threads", [1, 2])
def test_a_worker_that_joins_late_is_used_unless_it_would_compute_otherwise(toy, here, tmp_path, by_hand, threads):
    file, worker = by_hand
    worker()
    chapter = toy()

    def join():
        while "train-base-0" not in chapter.words():
            time.sleep(0.05)
        worker("--nthreads", str(threads))
        if until(lambda: len(_workers_of(file)) == 2):
            (tmp_path / "go").touch()

    chapter.log.touch()
    thread = threading.Thread(target=join)
    thread.start()
    chapter.run(tmp_path / "there", str(file), slow="train-base-0", seconds=120)
    thread.join()
    assert values(tmp_path / "there") == values(here)
    assert len({line.split()[1] for line in chapter.log.read_text(encoding="utf-8").splitlines()}) == 3 - threads


@pytest.mark.long
@pytest.mark.parametrize(("options", "said"), [(("--nthreads", "2"), "it has 2 threads"), ((), "it has another version")])
def test_a_worker_that_would_compute_otherwise_is_refused_in_one_line(toy, tmp_path, by_hand, options, said):
    file, worker = by_hand
    other = Book(tmp_path / "other")
    (other.root / "helpers/extra.py").write_text("", encoding="utf-8")
    worker(*options, **({} if options else {"PYTHONPATH": str(other.root)}))
    assert until(lambda: _workers_of(file))
    with pytest.raises(Refused, match=f"ClusterError: worker tcp://.* is refused: {said}"):
        toy().run(tmp_path / "there", str(file))


def until(condition, seconds=90):
    """Wait for a condition; returns what it came to."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)
    return condition()


def _workers_of(file) -> dict:
    from distributed import Client

    with Client(json.loads(file.read_text(encoding="utf-8"))["address"], set_as_default=False) as client:
        return client.scheduler_info()["workers"]


def test_workers_that_do_not_start_are_said_in_one_line(monkeypatch):
    def killed(*args, **kwargs):
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr("distributed.LocalCluster", killed)
    with (
        pytest.raises(OSError, match="the workers could not be started .Nanny failed.*: start the run again"),
        local_cluster(1, {}),
    ):
        pass


def test_a_worker_is_told_why_it_is_refused(tmp_path):
    mark, said = shared_mark(tmp_path / "shared")
    assert shared_mark(tmp_path / "shared") == (mark, said) and len(said) == 16, "of two clients on one folder"
    one, two = (SimpleNamespace(state=SimpleNamespace(nthreads=n)) for n in (1, 2))
    guard = Guard(mark, said, code())
    assert guard.refusal(one) == "" and guard.refusal(two).startswith("it has 2 threads")
    assert "another version" in Guard(mark, said, "other").refusal(one)
    assert "does not see the folder" in Guard(tmp_path / "elsewhere/mark", said, code()).refusal(one)
    mark.write_text("of another folder at the same place", encoding="utf-8")
    assert "does not see the folder" in guard.refusal(one)


@pytest.mark.parametrize("content", ["", '{"type": "Sch', "{}", "[]"])
def test_a_schedulers_file_that_is_not_whole_is_one_line(content, tmp_path):
    (tmp_path / "scheduler.json").write_text(content, encoding="utf-8")
    with pytest.raises(ClusterError, match="no Dask scheduler answers at .*scheduler.json") as error:
        connect(str(tmp_path / "scheduler.json"), tmp_path)
    assert len(str(error.value).splitlines()) == 1


class Fake(Tasks):
    """Tasks without a cluster: what each job comes to is prepared; futures are the jobs themselves."""

    def __init__(self, answers, workers=("w",)):
        self.x = SimpleNamespace(name="t", study=SimpleNamespace(cluster="fake"))
        self.answers, self.sent = {name: list(outcomes) for name, outcomes in answers.items()}, []
        self.began, self.deaths, self.rounds = set(), Counter(), Counter()
        self.refused, self.codes, self.originals = set(), {}, {}
        self.client = SimpleNamespace(cancel=lambda *_, **__: None, nthreads=lambda: dict.fromkeys(workers, 1))

    def _submit(self, job):
        self.sent.append(job.name)
        return object(), (f"{job.name} #{len(self.sent)}", job)

    def _done(self, running):
        return list(running)[:1]

    def _outcome(self, future, job):
        kind, *what = self.answers[job.name].pop(0)
        if kind == "dies":  # begun, unlike one that only stood behind it
            self.began.add(f"{job.name} #{len(self.sent)}")
        return ("died" if kind == "dies" else kind, *what)


def jobs(*names):
    return [Job(name, name, {"seed": name}) for name in names]


ROW = ("row", {}, {})


def test_only_deaths_of_what_was_begun_are_counted():
    tasks = Fake({"a": [*[("died",)] * 5, ROW]})
    assert list(tasks._outcomes(jobs("a"))) == [ROW]
    tasks = Fake({"a": [("dies",)] * 3})
    with pytest.raises(RowsLost, match="3 workers died at .*'a'"):
        list(tasks._outcomes(jobs("a")))


def test_all_rows_behind_a_network_that_is_lost_are_named():
    missing, deeper = ("missing", ("X",)), ("missing", ("X", "Y"))
    tasks = Fake({"a": [missing], "b": [missing], "train X": [deeper], "train Y": [("dies",)] * 3})
    with pytest.raises(RowsLost, match="'a'.*'b'"):
        list(tasks._outcomes(jobs("a", "b")))


def test_a_network_that_two_rows_want_is_asked_for_once():
    missing = ("missing", ("X",))
    tasks = Fake({"a": [missing, ROW], "b": [missing, ROW], "train X": [("trained", "X")]})
    assert list(tasks._outcomes(jobs("a", "b"))) == [ROW, ROW]
    assert Counter(tasks.sent) == {"a": 2, "b": 2, "train X": 1}


def test_a_row_goes_before_a_training():
    """So that in a long run what can be measured is stored early."""
    sent, tasks = {}, Fake({})
    tasks.client.submit = lambda f, *_, key, priority, **__: sent.update({key.partition(" #")[0]: priority})
    tasks.payload, tasks.guard, tasks.topic, tasks.splits, tasks.numbers = b"", None, "topic", None, iter(range(9))
    for job in (Job("a", "a", {}), Job("train X", "a", {}, chain=("X",))):
        Tasks._submit(tasks, job)
    assert sent.keys() == {"a", "train X"} and sent["a"] > sent["train X"]


def test_a_refused_worker_is_left_out_and_the_last_one_ends_the_run(capsys):
    tasks = Fake({"a": [("refused", "w", "it has 2 threads"), ROW]}, workers=("w", "v"))
    assert list(tasks._outcomes(jobs("a"))) == [ROW] and "worker w is refused: it has 2 threads" in capsys.readouterr().err
    with pytest.raises(ClusterError, match="worker w is refused: it has 2 threads; there is no other worker"):
        list(Fake({"a": [("refused", "w", "it has 2 threads")]})._outcomes(jobs("a")))


def test_code_that_differs_at_each_asking_ends(monkeypatch):
    monkeypatch.setattr("helpers.references.load", lambda *_: (len,))
    with pytest.raises(ClusterError, match="differs at each asking"):
        list(Fake({"a": [("code", b"?")] * 100})._outcomes(jobs("a")))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cluster", "tcp://127.0.0.1:1"], "no Dask scheduler answers at tcp://127.0.0.1:1"),
        (["--cluster", "nowhere.json"], "nowhere.json ([Errno 2] No such file or directory"),
        (["--workers", "0"], "WORKERS must be a whole number from 1 to 1024, not '0'"),
        (["--workers", "two"], "WORKERS must be a whole number"),
        (["--workers", "2", "--cluster", "x.json"], "give one of the two"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_line(arguments, said, tmp_path):
    book = Book(tmp_path / "checkout", _01_a="1")
    started = time.monotonic()
    done = book.run("--chapters", "01", *arguments)
    assert done.returncode == 1 and said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert time.monotonic() - started < 40 and not (book.root / "_build/reproduced").exists()
