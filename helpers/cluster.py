"""Rows as tasks of a Dask cluster, from the side of the chapter that wants them. It alone writes rows."""

import atexit
import contextlib
import functools
import hashlib
import itertools
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
        self.refused: set[str] = set()  # addresses of workers
        self.payload, self.originals = _by_value(x)
        self.codes: dict[str, str] = {}  # identities that were told, by request
        self.topic, self.numbers = f"book-{secrets.token_hex(6)}", itertools.count()
        self.began: Counter[str] = Counter()  # how often each job was begun
        self.busy: set[str] = set()  # jobs that are being done

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
        _, message = event
        self.began[message["began"]] += 1
        self.busy.add(message["began"])

    def _outcomes(self, jobs: list[Job], progress=None) -> Iterator[tuple]:
        """What the jobs come to, as ("row", row, arrays) or ("data", splits). Networks that they want are trained in between."""
        running: dict[Future, Job] = {self._submit(job): job for job in jobs}
        waiting: dict[str, list[Job]] = {}  # jobs by the network that they wait for
        later: list[tuple[float, Job]] = []  # jobs whose network another client has trained
        lost: list[Job] = []
        try:
            while running or later:
                if progress:
                    progress.running(*self._at_work(running.values()))
                for job in [job for due, job in later if due <= time.monotonic()]:
                    later = [entry for entry in later if entry[1] is not job]
                    running[self._submit(job)] = job
                for future in self._done(running):
                    job = running.pop(future)
                    kind, *what = self._outcome(future, job)
                    self.busy.discard(job.name)
                    again = []
                    if kind in ("row", "data") and not job.chain:
                        yield kind, *what
                    elif kind == "code":
                        self.codes[hashlib.sha256(what[0]).hexdigest()] = identity(*references.load(what[0], self.originals))
                        again = [job]
                    elif kind == "missing":
                        (chain,) = what
                        if chain[-1] not in waiting:
                            again = [replace(job, name=f"train {chain[-1]}", chain=chain)]
                        waiting.setdefault(chain[-1], []).append(job)
                    elif kind == "refused":
                        self._refuse(*what)
                        again = [job]
                    elif kind == "busy":
                        later.append((time.monotonic() + 1, job))
                    elif kind == "died":
                        if self.began[job.name] < DEATHS:  # it stood behind the one that killed its worker
                            again = [job]
                        else:
                            lost += waiting.pop(job.chain[-1], []) if job.chain else [job]
                    else:  # "trained"
                        again = waiting.pop(job.chain[-1], [])
                    running |= {self._submit(job): job for job in again}
        finally:
            with contextlib.suppress(Exception):  # the cluster may be gone
                self.client.cancel(list(running), force=True)
        if lost:
            words = "; ".join(sorted({str(job.args or "its data") for job in lost}))
            raise RowsLost(f"{self.x.name}: {DEATHS} workers died at {words}; often there is too little memory")

    def _refuse(self, address: str, words: str) -> None:
        if address not in self.refused:
            print(f"worker {address} is refused: {words}", file=sys.stderr)
        self.refused.add(address)

    def _submit(self, job: Job) -> Future:
        name = f"{job.name} #{next(self.numbers)} {self.topic}"  # a name that is used twice would be the same task
        job = replace(job, codes=self.codes)
        urgent = 10 if job.chain else 0
        arguments = self.payload, job, self.guard, self.topic, provenance.commit()
        allowed = set(self.client.nthreads()) - self.refused if self.refused else None
        if allowed == set():
            raise ClusterError(f"the cluster at {self.x.study.cluster} has no worker but those that are refused")
        return self.client.submit(work, *arguments, key=name, pure=False, priority=urgent, workers=allowed)

    def _done(self, running: dict) -> list[Future]:
        if not running:
            time.sleep(0.2)
            return []
        with contextlib.suppress(TimeoutError):
            wait(list(running), timeout=0.5, return_when="FIRST_COMPLETED")
        if self.client.status in ("closed", "closing"):
            raise ClusterError(f"the cluster at {self.x.study.cluster} is gone; what was finished is stored")
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

    def _at_work(self, jobs) -> tuple[int, int]:
        names = {job.name for job in jobs} & self.busy
        training = sum(name.startswith("train ") for name in names)
        return len(names) - training, training


@functools.cache
def connect(address: str, folder: Path) -> tuple[Client, Guard]:
    """The client of this process at a cluster whose workers see a folder, and what refuses a worker.

    address : tcp://host:port, tls://host:port, or a scheduler's file. TLS is set up in Dask's own configuration
    raises ClusterError where nothing answers, or a worker is refused
    """
    place = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    try:
        if address.endswith(".json") and not Path(address).exists():
            raise OSError("there is no such file")
        client = Client(**place, timeout=PATIENCE, name="book")
    except (OSError, ValueError, TimeoutError) as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ClusterError(f"no Dask scheduler answers at {address} ({said}); start one, or leave CLUSTER out") from None
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".shared-{secrets.token_hex(6)}"
    mark.touch()
    guard = Guard(f"book-{mark.name}", mark, code())

    def leave() -> None:
        with contextlib.suppress(Exception):  # the scheduler may be gone
            client.unregister_worker_plugin(guard.name)
        with contextlib.suppress(OSError):
            mark.unlink()
        with contextlib.suppress(Exception):
            client.close(timeout=1)

    atexit.register(leave)
    try:
        client.register_plugin(guard)
    except Exception as error:
        raise ClusterError(str(error).partition("\n")[0]) from None
    return client, guard


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
