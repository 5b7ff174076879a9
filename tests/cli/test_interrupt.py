"""The SIGINT watcher cancels while the main thread is busy outside the interpreter."""

import os
import signal
import threading

import pytest

from autoglm.cli.interrupt import cancel_on_interrupt


def test_cancel_is_called_on_sigint():
    is_cancelled = threading.Event()
    with pytest.raises(KeyboardInterrupt), cancel_on_interrupt(is_cancelled.set):
        os.kill(os.getpid(), signal.SIGINT)
        is_cancelled.wait(10)
    assert is_cancelled.is_set()


def test_nothing_is_cancelled_without_a_signal_and_the_thread_ends():
    calls = []
    with cancel_on_interrupt(lambda: calls.append(1)):
        pass
    assert calls == []
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == 1


def test_other_threads_leave_the_signal_set_up_alone():
    results = []

    def work():
        with cancel_on_interrupt(lambda: None):
            results.append("ran")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == ["ran"]
