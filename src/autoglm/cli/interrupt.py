"""Ctrl-C while native code runs: a watcher thread cancels the work at once.

Python delivers a signal only between byte codes, so a long prefill would otherwise finish first.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

INTERRUPTED = 130


@contextmanager
def cancel_on_interrupt(cancel: Callable[[], None]) -> Iterator[None]:
    """Call `cancel` from another thread when SIGINT arrives while the block runs.

    KeyboardInterrupt is still raised as soon as the main thread is back in Python.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(reader, True)
    watcher = threading.Thread(target=_watch, args=(reader, cancel), daemon=True)
    watcher.start()
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.close(writer)
        watcher.join()
        os.close(reader)


@contextmanager
def interrupt_on_termination() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C while the block runs, so that it puts its files in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def exit_on_interrupt() -> AbstractContextManager[None]:
    """End the process with 130 on SIGINT; for work that has nothing to put in order."""
    return cancel_on_interrupt(_exit)


def _exit() -> None:
    os.write(2, b"autoglm: interrupted\n")
    os._exit(INTERRUPTED)


def _watch(reader: int, cancel: Callable[[], None]) -> None:
    while numbers := os.read(reader, 16):
        if signal.SIGINT in numbers:
            cancel()
