"""What a cluster gains and costs: python tests/bench_cluster.py [--data mnist]

Times are of the rows alone, without the start of kernels and workers; each is the smaller of two.
"""

import argparse
import tempfile
from pathlib import Path

from toy import said, write_chapter

from helpers import chapters
from helpers.environments import MALLOC, ONE_THREAD
from helpers.local_cluster import local_cluster

CHAPTER = """
import time
from helpers import models
from helpers.study import Study
from helpers.training import fit
from torch.nn.functional import cross_entropy
study = Study("bench", profile, device="cpu")

def splits(s):
    return {"train": study.load(s["data"], "train")} if s["data"] else {}

def build(s, *, seed):
    return models.mlp(784, 200, 10)

def train(network, data, s, *, seed, checkpoint):
    how = {"epochs": s["epochs"], "lr": 0.05, "seed": seed}
    return fit(network, data, lambda m, x, y: cross_entropy(m(x), y), **how, checkpoint=checkpoint)

def trains(s, data, *, seed):
    network = study.trained("mlp", build, train, settings=s, data=data["train"], seed=seed).open()
    return {"value": next(network.parameters()).sum().item()}

def sleeps(s, data, *, seed):
    time.sleep(s["seconds"])
    return {"value": 0.0}

def timed(name, measure, **settings):
    warm = {**settings, "epochs": 1, "seeds": 2}
    study.run(f"warm_{name}", measure, data=splits, **dict.fromkeys(("smoke", "cpu", "paper"), warm))
    started = time.monotonic()
    study.run(name, measure, data=splits, **dict.fromkeys(("smoke", "cpu", "paper"), settings))
    return time.monotonic() - started
"""


def seconds(call: str, address: str | None) -> float:
    """How long the rows of one call of `timed` take, in a new kernel."""
    found = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            chapters.BOOK = Path(folder)
            path = write_chapter(Path(folder) / "01_bench.ipynb", CHAPTER, f"print({call})")
            variables = {**ONE_THREAD, **MALLOC, "BOOK_RESULTS": folder} | ({"BOOK_CLUSTER": address} if address else {})
            chapters.execute(path, Path(folder) / "out.ipynb", {"profile": "smoke"}, **variables)
            found.append(float(said(Path(folder) / "out.ipynb").split()[-1]))
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", help="what is trained on: digits (embedded) or mnist")
    data = parser.parse_args().data
    trainings = f"timed('t', trains, data={data!r}, epochs={2 if data == 'mnist' else 60}, seeds=8)"
    sleeping = "timed('s', sleeps, data='', epochs=1, seconds=0.05, seeds=200)"
    alone = seconds(trainings, None)
    with local_cluster(2, {}) as address:
        two = seconds(trainings, address)
    with local_cluster(1, {}) as address:
        one, asleep = seconds(trainings, address), seconds(sleeping, address)
    print(f"eight trainings on {data}, one thread: {alone:.1f} s in a kernel, {one:.1f} s on one worker, {two:.1f} s on two")
    print(f"two workers: {alone / two:.2f} times as fast as the kernel")
    print(f"a row that sleeps 50 ms: {(asleep / 200 - 0.05) * 1000:.1f} ms more on a worker")


if __name__ == "__main__":
    main()
