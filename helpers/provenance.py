"""Where a number comes from: the commit of the code, how the code differs from it, the device, versions of libraries."""

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

ROOT = Path(__file__).resolve().parent.parent


@cache
def commit() -> str:
    """The code's commit: $BOOK_COMMIT, which a recording run sets at its start and where there is no .git; else git's, 12 digits,
    with a `+` where the tree differs from it; "unknown" where the book has no git repository of its own."""
    if os.environ.get("BOOK_COMMIT"):
        return os.environ["BOOK_COMMIT"]
    try:
        head = _git("rev-parse", "--short=12", "HEAD").decode().strip()
        return head + ("+" if dirty() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def dirty() -> list[str]:
    """Files that differ from the commit, but for what recording itself writes: `results/` and the zoo.

    raises OSError or CalledProcessError where the book has no git repository of its own
    """
    outside = [".", ":!results", ":!helpers/weights"]
    lines = _git("status", "--porcelain", "--untracked-files=all", "--", *outside)
    return lines.decode(errors="replace").splitlines()


def deleted(folder: str) -> list[str]:
    """Files of a folder that the commit has and the tree has not; none where there is no git."""
    try:
        return _git("ls-files", "--deleted", "--", folder).decode(errors="replace").splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []


def changes() -> str:
    """A hash of how the tree, without `results/`, differs from its commit: of tracked files what changed, of files that git does
    not know their names and contents. Empty where it does not differ, or where there is no git."""
    try:
        diff = _git("diff", "HEAD", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--", ".", ":!results")
        names = _git("ls-files", "--others", "--exclude-standard", "-z", "--", ".", ":!results").split(b"\0")[:-1]
    except (OSError, subprocess.CalledProcessError):
        return ""
    if not diff and not names:
        return ""
    digest = hashlib.sha256(hashlib.sha256(diff).digest())
    for name in sorted(names):
        digest.update(hashlib.sha256(name).digest() + _content(ROOT / os.fsdecode(name)))
    return digest.hexdigest()[:12]


def _content(path: Path) -> bytes:
    """A hash of a file's content; of a link, of where it points to; nothing of a folder (a repository within this one)."""
    if path.is_symlink():
        return hashlib.sha256(os.fsencode(os.readlink(path))).digest()
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _git(*arguments: str) -> bytes:
    """What git says of the book's own repository: not of one around it, nor of one that the environment names."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}

    def say(*words: str) -> bytes:
        command = ["git", "--no-optional-locks", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, check=True, env=own).stdout

    top = os.fsdecode(say("rev-parse", "--show-toplevel").rstrip(b"\r\n"))
    if not (top and os.path.samefile(top, ROOT)):
        raise OSError(f"{ROOT} is no git repository of its own: it lies within {top}")
    return say(*arguments)


def device_name(device: torch.device) -> str:
    """What computes: the GPU's name, or the processor's and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))[1].strip()
    except (OSError, TypeError):
        model = platform.processor() or platform.machine()
    return f"{model}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of what a number depends on."""
    return {"python": ".".join(map(str, sys.version_info[:3])), "torch": torch.__version__, "numpy": np.__version__}
