"""Where a row comes from. (provisional)"""

import hashlib
import os
import platform
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch

from helpers.rows import ROOT


@cache
def commit() -> str:
    """The code's commit: $BOOK_COMMIT, which a recording run sets at its start and where there is no .git; else git's, 12 digits,
    with a `+` where the tree differs from it."""
    if os.environ.get("BOOK_COMMIT"):
        return os.environ["BOOK_COMMIT"]
    try:
        git = ["git", "-C", str(ROOT)]
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        return head + ("+" if dirty() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def dirty() -> list[str]:
    """Files that differ from the commit, but for what recording itself writes: `results/` and the zoo."""
    outside = [".", ":!results", ":!helpers/weights"]
    command = ["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=all", "--", *outside]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def changes() -> str:
    """A hash of how the code differs from its commit; empty where it does not, or where there is no git."""
    if not commit().endswith("+"):
        return ""
    diff = subprocess.run(
        ["git", "-C", str(ROOT), "diff", "HEAD", "--", ".", ":!results"], capture_output=True, check=True
    ).stdout
    return hashlib.sha256(diff + "".join(dirty()).encode()).hexdigest()[:12]


def device_name(device: torch.device) -> str:
    """What computes: the GPU's name, or the processor's and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())[1].strip()
    except (OSError, TypeError):
        model = platform.processor() or platform.machine()
    return f"{model}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of what a number depends on."""
    return {"python": ".".join(map(str, sys.version_info[:3])), "torch": torch.__version__, "numpy": np.__version__}
