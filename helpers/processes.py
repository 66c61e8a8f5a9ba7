"""Signals that end a run: what it started ends with it."""

import contextlib
import os
import signal

from helpers.scratch import clean_up

STOP = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


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
