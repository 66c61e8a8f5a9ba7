"""A Dask cluster on this machine, for as long as a run takes."""

import contextlib
import logging
import sys
from collections.abc import Iterator

from helpers.environments import MALLOC, ONE_THREAD
from helpers.scratch import on_stop, private_folder

CONFIG = {
    "distributed.scheduler.allowed-failures": 2,  # the third death of a worker gives a task back
    "distributed.worker.profile.enabled": False,
    "distributed.deploy.lost-worker-timeout": "24h",  # else a worker that takes long to start again is given up for good
}


@contextlib.contextmanager
def local_cluster(workers: int, environment: dict[str, str]) -> Iterator[str]:
    """The address of a scheduler with so many worker processes of one thread each; it listens to this machine only.

    environment : of the workers, beside what makes them compute with one thread
    """
    import dask
    from distributed import LocalCluster

    # set whole: what Dask sets by itself has glibc give memory back after every layer, which costs 30 % of a training
    own = {"distributed.nanny.pre-spawn-environ": {**MALLOC, **ONE_THREAD, **environment}}
    logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")  # what a stopped run leaves, Python's own process clears
    with private_folder() as folder, dask.config.set({**CONFIG, **own, "temporary-directory": str(folder)}):
        options = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": None, "processes": True}
        here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
        try:
            cluster = LocalCluster(**options, **here, silence_logs=logging.CRITICAL + 1, local_directory=str(folder))
        except RuntimeError as error:
            raise OSError(f"the workers could not be started ({error}): start the run again, or with fewer WORKERS") from None
        with on_stop(lambda: _kill(cluster)):
            try:
                yield cluster.scheduler_address
            finally:
                with contextlib.suppress(Exception):  # what ends the run is said, and not that a worker was slow to end
                    cluster.close(timeout=5)
                _kill(cluster)


def _kill(cluster) -> None:
    for nanny in list(cluster.workers.values()):
        with contextlib.suppress(Exception):
            nanny.process.process.kill()
