"""The kernel that a chapter runs in: this interpreter and these helpers, whatever the user's Jupyter and environment say."""

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from traitlets import Dict, default
from traitlets.config import Config

from helpers.environments import MALLOC
from helpers.rows import ROOT
from helpers.scratch import on_stop, private_folder

LONGEST = 60  # characters of a temporary folder in which the path of a socket fits (103 bytes on macOS, 107 on Linux)

_all: list[set[int]] = []  # process numbers of each chapter's kernel
_ended = threading.Event()


class ChapterKernel(AsyncKernelManager):
    """Starts this `sys.executable`, whatever kernels are installed, with `environment` added to the process's."""

    environment = Dict().tag(config=True)
    running: set[int]  # process numbers of those that run; each `kernel_options` has its own

    @default("kernel_spec_manager")
    def _this_interpreter(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])

    async def start_kernel(self, **options) -> None:
        if _ended.is_set():
            raise RuntimeError("another chapter has stopped")
        await super().start_kernel(**{**options, "env": {**os.environ, **self.environment}})
        self.running.add(self.provisioner.pid)
        if _ended.is_set():  # while it was started
            _kill(self.running)

    async def cleanup_resources(self, restart: bool = False) -> None:
        await super().cleanup_resources(restart=restart)
        self.running.clear()


@contextlib.contextmanager
def kernel_options(**environment: str) -> Iterator[dict]:
    """Options of `NotebookClient` and of papermill for one kernel, which ends at the end, at the latest.

    Its sockets are files in a folder of their own, not TCP ports: no warning, and two runs at once do not meet.
    """
    short = [p for p in (tempfile.gettempdir(), "/tmp") if len(os.fsencode(p)) <= LONGEST and os.access(p, os.W_OK)]
    running: set[int] = set()
    kill = partial(_kill, running)
    with private_folder(short[0] if short else None) as folder, on_stop(kill):
        kernel = {
            "connection_file": str(folder / "kernel.json"),
            "environment": {**_environment(folder), **environment},
        }
        if short and sys.platform != "win32":
            kernel |= {"transport": "ipc", "ip": str(folder / "kernel")}
        _all.append(running)
        try:
            yield {
                "kernel_manager_class": type("OneChapterKernel", (ChapterKernel,), {"running": running}),
                "kernel_name": NATIVE_KERNEL_NAME,
                "config": Config({"ChapterKernel": kernel}),
            }
        finally:
            kill()
            _all[:] = [other for other in _all if other is not running]


def end() -> None:
    """Kill the kernels of this process, so that the chapters that they run end, and start no other one."""
    _ended.set()
    for running in list(_all):
        _kill(running)


def _kill(running: set[int]) -> None:
    """Kill the kernels that still run, with what they started."""
    for process in list(running):
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process, signal.SIGKILL)
            else:
                os.kill(process, signal.SIGTERM)
        running.discard(process)


def _environment(folder: Path) -> dict[str, str]:
    """Figures are drawn into the notebook whatever $MPLBACKEND is; a user's IPython start-up files are no part of a chapter."""
    paths = [str(ROOT), *(os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)]
    values = {
        **MALLOC,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    if not all(map(_usable, _matplotlib_folders())):
        values["MPLCONFIGDIR"] = str(folder / "matplotlib")
    return values


def _matplotlib_folders() -> list[str]:
    """Where matplotlib keeps its settings and its list of fonts; it complains on stderr where it cannot write them."""
    if given := os.environ.get("MPLCONFIGDIR"):
        return [given]
    if not sys.platform.startswith(("linux", "freebsd")):
        return ["~/.matplotlib"]
    bases = os.environ.get("XDG_CONFIG_HOME") or "~/.config", os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return [os.path.join(base, "matplotlib") for base in bases]


def _usable(folder: str) -> bool:
    try:
        path = Path(folder).expanduser()
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return True
    except (OSError, RuntimeError):  # RuntimeError: no home is known
        return False
