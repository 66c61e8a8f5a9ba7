"""What the runner starts ends with it, whatever ends it; two of it do not disturb each other."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy import ROOT, Book

from helpers import scratch

BUSY = """
import os, pathlib, time
folder = pathlib.Path(os.environ["BOOK_TEST"])
(folder / os.environ["BOOK_CHAPTER"]).write_text(str(os.getpid()))
until = time.monotonic() + 60
while time.monotonic() < until: time.sleep(0.1)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path("/proc").exists() or " Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")


def until(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


@pytest.fixture
def busy(tmp_path):
    """A book whose two chapters take long, and a function that waits for their kernels' process numbers."""
    book = Book(tmp_path / "checkout", _01_a=BUSY, _02_b=BUSY)
    (tmp_path / "kernels").mkdir()
    book.extra = {"BOOK_TEST": str(tmp_path / "kernels")}

    def kernels(n: int) -> list[int]:
        def files() -> list[Path]:
            return [p for p in sorted((tmp_path / "kernels").iterdir()) if p.read_text(encoding="utf-8")]

        assert until(lambda: len(files()) == n, 60)
        return [int(p.read_text(encoding="utf-8")) for p in files()]

    book.kernels = kernels
    return book


@pytest.mark.parametrize(("number", "chapters"), [(signal.SIGTERM, "01"), (signal.SIGINT, "01,02")])
def test_a_signal_ends_kernels_and_workers_with_one_line(busy, number, chapters):
    process = busy.start("--chapters", chapters, environment=busy.extra)
    kernels = busy.kernels(len(chapters.split(",")))
    started = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and time.monotonic() - started < 8
    assert "run: interrupted" in err.splitlines()[-1] and "Traceback" not in err
    assert not any(map(alive, kernels)) and not list(busy.temporary.iterdir())


def test_a_signal_ends_a_chapter_at_report(busy):
    process = busy.start("--profile", "report", "--chapters", "02", environment={**busy.extra, "BOOK_CHAPTER": "02_b"})
    kernels = busy.kernels(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err and not any(map(alive, kernels))


@pytest.mark.long
def test_a_killed_runner_leaves_no_kernels_and_the_next_start_clears_its_folders(busy):
    process = busy.start("--chapters", "01,02", environment=busy.extra)
    kernels = busy.kernels(2)
    process.kill()
    process.communicate(timeout=120)
    assert until(lambda: not any(map(alive, kernels)), 15)
    with scratch.private_folder(busy.temporary) as folder:
        assert [p for p in busy.temporary.iterdir() if p.name.startswith("book-")] == [folder]
    assert not list(busy.temporary.iterdir())


@pytest.mark.long
def test_one_dead_kernel_of_two_ends_the_other_with_one_line(busy):
    process = busy.start("--chapters", "01,02", environment=busy.extra)
    kernels = busy.kernels(2)
    started = time.monotonic()
    os.kill(kernels[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and time.monotonic() - started < 20
    assert "run: 01_a: its kernel died" in err and "Traceback" not in err
    assert until(lambda: not any(map(alive, kernels)), 3)


@pytest.mark.long
def test_a_second_reproduction_of_a_chapter_is_refused_and_disturbs_nothing(busy):
    first = busy.start("--chapters", "01", environment=busy.extra)
    (kernel,) = busy.kernels(1)
    second = busy.run("--chapters", "01,02", environment=busy.extra)
    assert second.returncode == 1 and "Traceback" not in second.stderr
    assert "run: another process is at 01_a in" in second.stderr.splitlines()[-1]
    assert alive(kernel) and first.poll() is None and (busy.root / "_build/reproduced/smoke/01_a/made-by").exists()
    first.terminate()
    first.communicate(timeout=120)


def test_a_lock_is_held_by_one_process_at_a_time(tmp_path):
    code = (
        f"from pathlib import Path\nfrom helpers.scratch import locked\nwith locked(Path({str(tmp_path / 'lock')!r})): print(1)"
    )
    with scratch.locked(tmp_path / "lock"):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", cwd=ROOT)
    assert "BlockingIOError" in other.stderr
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", cwd=ROOT)
    assert again.stdout == "1\n"


def test_folders_of_the_living_and_of_others_stay(tmp_path):
    (tmp_path / "book-notes").mkdir()
    with scratch.private_folder(tmp_path) as first, scratch.private_folder(tmp_path) as second:
        assert first != second and first.exists() and second.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["book-notes"]


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("before", encoding="utf-8")
    with pytest.raises(UnicodeEncodeError):
        scratch.write_whole(tmp_path / "a", "half \ud800")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "before" and [p.name for p in tmp_path.iterdir()] == ["a"]
    scratch.write_whole(tmp_path / "a", "α")
    assert (tmp_path / "a").read_bytes() == "α".encode()
