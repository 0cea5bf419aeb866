"""The end of a tab's process: with its pipe, its server or a signal, whatever the app is doing."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_PR_SET_PDEATHSIG = 1
#: Seconds the app has to put its things away; less than the server waits.
PATIENCE = 2.0


class Watch:
    """Ends the process: `ask` is called once, and when the patience is over nothing is asked any more."""

    def __init__(self, ask: Callable[[int], None], patience: float = PATIENCE) -> None:
        self._ask, self._patience = ask, patience
        self._once = threading.Lock()

    def end(self, code: int) -> None:
        """Asks the app to leave with a code, and sees to it that it does; from any thread, any number of times."""
        if not self._once.acquire(blocking=False):
            return
        limit = threading.Timer(self._patience, os._exit, (code,))
        limit.daemon = True
        limit.start()
        threading.Thread(target=self._try, args=(code,), name="leave", daemon=True).start()

    def _try(self, code: int) -> None:
        with contextlib.suppress(Exception):  # not running yet, or no longer: the limit holds
            self._ask(code)

    def on_signals(self) -> None:
        """Takes signals in a thread of its own: the app's loop may be stuck in a pipe that nobody reads.

        To be called before any other thread is started.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        threading.Thread(target=lambda: self.end(128 + signal.sigwait(_SIGNALS)), name="signals", daemon=True).start()


def die_with(server: int) -> None:
    """Has the system end this process when its parent, the server, is gone; elsewhere than on Linux the pipe tells."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != server:  # gone before it was said
        os._exit(1)
