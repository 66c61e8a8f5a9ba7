"""What a worker of a cluster does: it measures a row, or trains a network that rows wait for.

A worker never trains what it was not sent to train. A row, or a training, that meets a network which is not there ends at once
and names it; the client has it trained as a task of its own, and sends the first one again.
"""

import collections
import contextlib
import functools
import hashlib
import platform
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cloudpickle
import numpy as np
import torch
from distributed import get_worker

from helpers import provenance, references
from helpers.computing import described, make_row
from helpers.environments import environment

HELPERS = Path(__file__).resolve().parent
KEPT = 2  # experiments whose data a worker keeps
_experiments: collections.OrderedDict[str, tuple] = collections.OrderedDict()
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Job:
    """A row to measure, or, with a chain, the network at its end to train, for a row that wants it.

    args : the row's arguments; None: only say what the data are
    chain : stems of networks, each wanted by the training of the one before it
    codes : identities of code that the client has told before, by request
    splits : what the data have to be, as `described` says it; None: whatever they are
    """

    name: str
    key: str = ""
    args: dict | None = None
    chain: tuple[str, ...] = ()
    codes: dict[str, str] = field(default_factory=dict)
    splits: dict | None = None


class Ended(BaseException):
    """A task's end before its time, with its outcome. No `except Exception` of a chapter takes it for a fault."""

    def __init__(self, kind: str, *what):
        self.outcome = (kind, *what)


class Asks:
    """What `Trained` asks on a worker: may this network be trained here, and what code makes it?"""

    def __init__(self, job: Job):
        self.job, self.inside = job, ()

    def code_of(self, *functions) -> str:
        """The identity of code, which only the notebook's own process can tell. raises Ended where it has not told it yet"""
        request = references.dump(functions)
        known = self.job.codes.get(hashlib.sha256(request).hexdigest())
        if known is None:
            raise Ended("code", request)
        return known

    @contextlib.contextmanager
    def training(self, stem: str) -> Iterator[None]:
        """While a network is trained. raises Ended where this task is not for it, nor for one that its training wants"""
        chain = (*self.inside, stem)
        if self.job.chain[: len(chain)] != chain:
            raise Ended("missing", chain)
        before, self.inside = self.inside, chain
        try:
            yield
        finally:
            self.inside = before

    def trained(self) -> None:
        """A network was trained and stored. raises Ended where it was the one that this task is for"""
        if self.inside == self.job.chain:
            raise Ended("trained", self.job.chain[-1])

    def busy(self, stem: str) -> None:
        """Another process trains that network. raises Ended"""
        raise Ended("busy", stem)


def work(payload: bytes, job: Job, guard: "Guard", topic: str, task: str, commit: str) -> tuple:
    """Do one job. Returns its outcome: ("row", row, arrays), ("data", splits), ("trained", stem), ("missing", chain),
    ("code", request), ("busy", stem), ("refused", address, words) or ("error", words, traceback).

    payload : the experiment, pickled
    topic : where the client listens for what begins; task : its name there
    """
    if words := guard.refusal(get_worker()):
        return "refused", get_worker().address, words
    with _one_at_a_time, environment(BOOK_COMMIT=commit):  # a study holds what the present row uses
        provenance.commit.cache_clear()
        torch.set_num_threads(1)
        if torch.cuda.is_available():  # attacks and scores run in full float32
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        get_worker().log_event(topic, {"began": task})
        try:
            return _outcome(payload, job)
        except Ended as ended:
            return ended.outcome
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            return "error", words, "".join(traceback.format_exception(error))


def _outcome(payload: bytes, job: Job) -> tuple:
    key = hashlib.sha256(payload).hexdigest()
    x, data, splits, shared = _experiments.get(key) or (cloudpickle.loads(payload), None, None, None)
    if job.chain and (x.study.networks / f"{job.chain[-1]}.safetensors").exists():
        return "trained", job.chain[-1]
    x.study.asks = Asks(job)
    if data is None:
        x.study.opened = {}
        data = x.data(x.settings)
        splits, shared = described(data), x.study.opened
        _experiments[key] = x, data, splits, shared
        while len(_experiments) > KEPT:
            _experiments.popitem(last=False)
    _experiments.move_to_end(key)
    if job.splits not in (None, splits):
        return "refused", get_worker().address, "its datasets are not those of the other workers; see BOOK_DATA"
    if job.args is None:
        return "data", splits
    return "row", *make_row(x, job.key, job.args, data, splits, shared)


@functools.cache
def code() -> str:
    """A hash of the code that computes: these helpers, and the versions of Python and of what rounds numbers."""
    digest = hashlib.sha256()
    for path in sorted(HELPERS.rglob("*.py")):
        digest.update(path.relative_to(HELPERS).as_posix().encode() + b"\0" + path.read_bytes())
    made_by = platform.python_version_tuple()[:2], torch.__version__, np.__version__
    return hashlib.sha256(digest.digest() + repr(made_by).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Guard:
    """Refuses a worker that would compute something else: other code, another folder of networks, or several rows at a time.

    mark, said : a file in the folder that all have to see, and what it says; made_by : see `code`
    """

    mark: Path
    said: str
    made_by: str

    def refusal(self, worker) -> str:
        """Why a worker is refused, one line; empty where it is not."""
        if worker.state.nthreads != 1:
            return f"it has {worker.state.nthreads} threads; start it with --nthreads 1"
        if code() != self.made_by:
            return "it has another version of the book's code, of Python, torch or numpy"
        if not self.mark.exists() or self.mark.read_text(encoding="utf-8") != self.said:
            return f"it does not see the folder {self.mark.parent}; networks have to be in a shared one"
        return ""
