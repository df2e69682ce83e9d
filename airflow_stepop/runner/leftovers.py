"""Waits for the threads and processes that a step has left running. Called after the outcome was written."""

from __future__ import annotations

import atexit
import sys
import threading

from .files import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GRACE_S = 10.0
SHORT_S = 0.2  # so long idle workers of a pool take to end; a thread that needs more is named in the log


def wait_for_threads(grace: str) -> None:
    """Wait, for a limited time, for what Python itself would wait for without a limit when it ends.

    These are threads that are no daemons, the workers of pools, and the children of multiprocessing.

    :param grace: seconds; empty: the default
    """
    helper = threading.Thread(target=_join_all, daemon=True)
    helper.start()
    helper.join(SHORT_S)
    if helper.is_alive():
        left = [f"thread {one.name!r}" for one in _threads()]
        left += [f"process {one.name!r}" for one in _children()]
        names = ", ".join(left[:5]) or "thread pool"  # the threads of a pool are daemons in Python 3.8
        limit_s = float(grace or GRACE_S)
        report(f"the step has ended; waiting up to {limit_s:g} s (thread_grace) for its {names}")
        helper.join(limit_s)
    if not helper.is_alive():
        threading._shutdown()  # type: ignore[attr-defined]
        return
    report("thread_grace is over; stopping what still runs")
    for child in _children():  # exit handlers would wait for it
        child.kill()
    for end_pool in _pool_ends():
        atexit.unregister(end_pool)


def _join_all() -> None:
    for end_pool in _pool_ends():
        end_pool()  # waits for the calls that were submitted, as Python does
    while threads := _threads():
        threads[0].join()
    for child in _children():
        child.join()


def _threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]


def _children() -> list[Any]:
    module = sys.modules.get("multiprocessing.process")
    return [] if module is None else [one for one in module.active_children() if not one.daemon]


def _pool_ends() -> list[Any]:
    """Return the functions that end the pools of threads and of processes."""
    if hasattr(threading, "_threading_atexits"):
        return threading._threading_atexits[::-1]  # type: ignore[no-any-return]
    pools = ("concurrent.futures.process", "concurrent.futures.thread")  # Python 3.8
    return [sys.modules[name]._python_exit for name in pools if name in sys.modules]
