"""Processes that the runner starts: they end when it ends, whatever ends it."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait

from helpers.scratch import clean_up, on_stop

STOP = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
PATIENCE = 3  # seconds until a process that was asked to end is killed


def stop_on_signals(message: str = "") -> None:
    """At Ctrl-C, SIGTERM or a closed terminal, end all that this process started, say `message` and exit with status 130."""

    def stop(*_):
        for number in STOP:  # a second Ctrl-C changes nothing
            signal.signal(number, signal.SIG_IGN)
        clean_up()
        if message:
            with contextlib.suppress(OSError):
                os.write(2, f"\n{message}\n".encode())  # print may have been interrupted in the middle of a line
        os._exit(130)

    for number in STOP:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup, or a shell's background job
            signal.signal(number, stop)


def end_with(parent: int) -> None:
    """Let this process end when the one that started it is killed: what it was at goes on when it is started again."""

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        clean_up()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def side_by_side(work: Callable, items: list[tuple], at_once: int) -> Iterator[tuple[tuple, object]]:
    """Call `work(*item)` in processes of their own, `at_once` at a time.

    yields an item and what its call returned, as they finish; None where the process died. The others end when the caller
    stops asking.
    """
    context, waiting, running = multiprocessing.get_context("spawn"), list(items), {}

    def end() -> None:
        for process in running.values():
            process.terminate()
        until = time.monotonic() + PATIENCE
        for process in running.values():
            process.join(max(0.0, until - time.monotonic()))
            process.kill()

    asked = {}
    with on_stop(end):
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    item = waiting.pop(0)
                    answer, process = _start(context, work, item)
                    running[answer], asked[answer] = process, item
                for answer in wait(list(running)):
                    try:
                        result = answer.recv()
                    except EOFError:
                        result = None
                    running.pop(answer).join()
                    yield asked.pop(answer), result
        finally:
            end()


def _start(context, work: Callable, item: tuple):
    """Start a process that calls `work`. Returns where its answer comes from, and the process."""
    answer, send = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(work, item, send, os.getpid()))
    mask = getattr(signal, "pthread_sigmask", lambda *_: None)
    mask(signal.SIG_BLOCK, {signal.SIGINT})  # while it imports; else Ctrl-C prints its traceback
    try:
        process.start()
    finally:
        mask(signal.SIG_UNBLOCK, {signal.SIGINT})
    send.close()
    return answer, process


def _call(work: Callable, item: tuple, send, parent: int) -> None:
    stop_on_signals()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    end_with(parent)
    send.send(work(*item))
