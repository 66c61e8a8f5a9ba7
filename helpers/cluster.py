"""Rows as tasks of a Dask cluster, from the side of the chapter that wants them. It alone writes rows."""

import atexit
import contextlib
import functools
import hashlib
import itertools
import json
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cloudpickle
from distributed import Client, Future, KilledWorker, wait

from helpers import provenance, references
from helpers.identity import identity
from helpers.worker import Guard, Job, code, work

PATIENCE = 10  # seconds until a scheduler that does not answer is said not to be there
DEATHS = 3  # of workers at one row, before it is given up
ROUNDS = 20  # in which a row may ask for the identity of code
TRAINING, ROW = 0, 10  # priorities: a row that can be measured is stored early, one that lacks a network says so at once


class ClusterError(RuntimeError):
    """There is no such cluster, or it cannot be used; the message is one line."""


class RowFailed(RuntimeError):
    """What a run raised on a worker."""


class RowsLost(RuntimeError):
    """Rows at which worker after worker died; all others were computed."""


class Tasks:
    """Computes the rows of an experiment on a cluster; see `computing.Here`."""

    def __init__(self, x):
        self.x, (self.client, self.guard) = x, connect(x.study.cluster, x.study.home)
        self.payload, self.originals = _by_value(x)
        self.splits: dict | None = None  # what the data are, when the first worker has said it
        self.codes: dict[str, str] = {}  # identities that were told, by request
        self.topic, self.numbers = f"book-{secrets.token_hex(6)}", itertools.count()
        self.tasks: dict[str, Job] = {}  # what was sent, by the task's name, and has not come back
        self.began: set[str] = set()  # tasks that a worker has begun
        self.deaths: Counter[str] = Counter()  # of workers, by the job that they were at
        self.rounds: Counter[str] = Counter()  # how often a job has asked for the identity of code
        self.refused: set[str] = set()  # addresses of workers
        self.waited = time.monotonic()  # since when no worker has taken anything

    def __enter__(self) -> "Tasks":
        self.client.subscribe_topic(self.topic, self._listen)
        try:
            ((_, self.splits),) = self._outcomes([Job(f"{self.x.name} data")])
        except BaseException:
            self.client.unsubscribe_topic(self.topic)
            raise
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(Exception):  # the cluster may be gone
            self.client.unsubscribe_topic(self.topic)

    def rows(self, todo: dict[str, dict], progress) -> Iterator[tuple[dict, dict]]:
        """Each row of {key: arguments}, when it is known. raises RowFailed, and at the end RowsLost"""
        jobs = [Job(f"{self.x.name} {key}", key, args) for key, args in todo.items()]
        with contextlib.closing(self._outcomes(jobs, progress)) as outcomes:
            for _, row, arrays in outcomes:
                yield row, arrays

    def _listen(self, event) -> None:
        self.began.add(event[1]["began"])

    def _outcomes(self, jobs: list[Job], progress=None) -> Iterator[tuple]:
        """What the jobs come to, as ("row", row, arrays) or ("data", splits). Networks that they want are trained in between."""
        running: dict[Future, tuple[str, Job]] = dict(map(self._submit, jobs))
        waiting: dict[str, list[Job]] = {}  # jobs by the network that they wait for
        later: list[tuple[float, Job]] = []  # jobs that are sent again at a time
        lost: list[Job] = []
        try:
            while running or later:
                if progress:
                    progress.running(*self._at_work(running.values()))
                due = [job for at, job in later if at <= time.monotonic()]
                later = [(at, job) for at, job in later if at > time.monotonic()]
                running |= dict(map(self._submit, due))
                for future in self._done(running):
                    task, job = running.pop(future)
                    kind, *what = self._outcome(future, job)
                    again, begun = [], task in self.began
                    self.began.discard(task)
                    if kind in ("row", "data") and not job.chain:
                        yield kind, *what
                    elif kind == "code":
                        self._tell(what[0], job)
                        again = [job]
                    elif kind == "missing":
                        (chain,) = what
                        if chain[-1] not in waiting:
                            again = [replace(job, name=f"train {chain[-1]}", chain=chain)]
                        waiting.setdefault(chain[-1], []).append(job)
                    elif kind == "refused":
                        self._refuse(*what)
                        later.append((time.monotonic() + 0.2, job))
                    elif kind == "busy":
                        later.append((time.monotonic() + 1, job))
                    elif kind == "died":  # one that was not begun stood behind the one that killed its worker
                        self.deaths[job.name] += begun
                        again = [job] if self.deaths[job.name] < DEATHS else []
                        lost += [] if again else _rows_behind(job, waiting)
                    else:  # "trained"
                        again = waiting.pop(job.chain[-1], [])
                    running |= dict(map(self._submit, again))
        finally:
            with contextlib.suppress(Exception):  # the cluster may be gone
                self.client.cancel(list(running), force=True)
        if lost:
            words = "; ".join(sorted({str(job.args or "its data") for job in lost}))
            raise RowsLost(f"{self.x.name}: {DEATHS} workers died at {words}; often there is too little memory")

    def _tell(self, request: bytes, job: Job) -> None:
        """Keep the identity of code that a worker has asked for."""
        self.rounds[job.name] += 1
        if self.rounds[job.name] > ROUNDS:
            raise ClusterError(f"{self.x.name} {job.args}: what its network is built or trained by differs at each asking")
        self.codes[hashlib.sha256(request).hexdigest()] = identity(*references.load(request, self.originals))

    def _refuse(self, address: str, words: str) -> None:
        if address not in self.refused:
            print(f"worker {address} is refused: {words}", file=sys.stderr)
        self.refused.add(address)
        if not set(self.client.nthreads()) - self.refused:
            raise ClusterError(f"worker {address} is refused: {words}; there is no other worker")

    def _submit(self, job: Job) -> tuple[Future, tuple[str, Job]]:
        """Send a job. It goes to whatever worker is there; one that is refused gives it back at once."""
        task = f"{job.name} #{next(self.numbers)} {self.topic}"  # a name that is used twice would be the same task
        job = replace(job, codes=self.codes, splits=self.splits)
        arguments = self.payload, job, self.guard, self.topic, task, provenance.commit()
        here = sorted(set(self.client.nthreads()) - self.refused) if self.refused else None
        where = {"workers": here, "allow_other_workers": True} if here else {}
        future = self.client.submit(work, *arguments, key=task, pure=False, priority=TRAINING if job.chain else ROW, **where)
        return future, (task, job)

    def _done(self, running: dict) -> list[Future]:
        if not running:
            time.sleep(0.2)
            return []
        with contextlib.suppress(TimeoutError):
            wait(list(running), timeout=0.5, return_when="FIRST_COMPLETED")
        if self.client.status in ("closed", "closing"):
            raise ClusterError(f"the cluster at {self.x.study.cluster} is gone; what was finished is stored")
        if self.began or self.client.nthreads():
            self.waited = time.monotonic()
        elif time.monotonic() - self.waited > PATIENCE:
            print(f"no worker at {self.x.study.cluster}; waiting for one", file=sys.stderr)
            self.waited = time.monotonic() + 600  # said again only after a long time
        return [future for future in running if future.done()]

    def _outcome(self, future: Future, job: Job) -> tuple:
        if future.status == "finished":
            outcome = future.result()
            if outcome[0] == "error":
                _, words, trace = outcome
                print(trace, file=sys.stderr)
                raise RowFailed(f"{self.x.name} {job.args or 'data'}: {words}")
            return outcome
        error = None if future.cancelled() else future.exception()
        if isinstance(error, KilledWorker):
            return ("died",)
        raise ClusterError(f"{self.x.name} {job.args or 'data'}: the cluster gave it up ({error or future.status})")

    def _at_work(self, sent) -> tuple[int, int]:
        begun = [job for task, job in sent if task in self.began]
        training = sum(bool(job.chain) for job in begun)
        return len(begun) - training, training


def _rows_behind(job: Job, waiting: dict[str, list[Job]]) -> list[Job]:
    """The rows that wait for what a job was for, over however many networks; the job itself where it is a row."""
    if not job.chain:
        return [job]
    return [row for other in waiting.pop(job.chain[-1], []) for row in _rows_behind(other, waiting)]


@functools.cache
def connect(address: str, folder: Path) -> tuple[Client, Guard]:
    """The client of this process at a cluster whose workers see a folder, and what refuses a worker.

    address : tcp://host:port, tls://host:port, or a scheduler's file. TLS is set up in Dask's own configuration
    raises ClusterError where nothing answers
    """
    place = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    try:
        if address.endswith(".json"):
            json.loads(Path(address).read_text(encoding="utf-8"))["address"]  # Dask waits for what is not there
        client = Client(**place, timeout=PATIENCE, name="book")
    except (OSError, ValueError, KeyError, TypeError, TimeoutError) as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ClusterError(f"no Dask scheduler answers at {address} ({said}); start one, or leave CLUSTER out") from None
    atexit.register(client.close, timeout=1)
    return client, Guard(*shared_mark(folder), code())


def shared_mark(folder: Path) -> tuple[Path, str]:
    """A file in a folder, and what it says: a worker that reads the same there sees the same folder. It stays."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / ".shared"
    with contextlib.suppress(FileExistsError), mark.open("x", encoding="utf-8") as file:
        file.write(secrets.token_hex(8))
    for _ in range(100):  # another client may be writing it
        if said := mark.read_text(encoding="utf-8"):
            break
        time.sleep(0.05)
    return mark, said


def _by_value(x) -> tuple[bytes, references.Originals]:
    """An experiment with the functions of its notebook, and of modules that lie beside the chapters."""
    beside = [m for m in list(sys.modules.values()) if _is_beside(m, os.getcwd())]
    with contextlib.ExitStack() as stack:
        for module in beside:
            cloudpickle.register_pickle_by_value(module)
            stack.callback(cloudpickle.unregister_pickle_by_value, module)
        return references.by_value(x)


def _is_beside(module, folder: str) -> bool:
    file, name = getattr(module, "__file__", None), getattr(module, "__name__", "")
    if not file or name in ("__main__", "__mp_main__"):
        return False
    path = os.path.abspath(file)
    return path.startswith(os.path.join(folder, "")) and os.path.isfile(path)  # torch.classes names a file that is nowhere
