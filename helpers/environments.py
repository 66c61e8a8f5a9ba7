"""Environment variables of the processes that compute: kernels, workers, tests."""

import contextlib
import os
import platform
from collections.abc import Iterator

# glibc keeps big tensors instead of mapping and unmapping them at every step: up to a fifth of a training's time on a CPU
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "67108864",
}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def arithmetic(profile: str, *, one_thread: bool) -> dict[str, str]:
    """The environment that a run at a profile computes in, so far as it decides how sums are rounded.

    At `smoke`: one thread, and on every x86 processor the instructions that all of them have. Its short trainings amplify a last
    digit until a rate is another one. At other profiles: one thread where that is wanted, as for rows of the record.
    """
    threads = ONE_THREAD if one_thread or profile == "smoke" else {}
    if profile != "smoke" or platform.machine().lower() not in ("x86_64", "amd64"):
        return threads
    avx2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2", "OPENBLAS_CORETYPE": "Haswell"}
    return threads | avx2


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for what is started inside, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
