"""What signals mean in a child: TERM drains it, those that the master has a meaning for do no harm here.

Ctrl+C and `systemctl kill` reach the whole group: INT, QUIT, HUP, USR1 and USR2 are the master's business. All others
are the user's, who may add handlers to the loop. process.py calls reset() first, and catch_term() once there is a
runtime to drain.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

HARMLESS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
OURS = (signal.SIGTERM, *HARMLESS)


def reset() -> None:
    """Sheds the master's handlers and its mask. TERM keeps its default while the handler is imported: an import that
    hangs in C code could not be told otherwise, and there is nothing yet to drain."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for signum in HARMLESS:
        # Not SIG_IGN: that would survive an exec into the user's subprocesses.
        signal.signal(signum, lambda _signum, _frame: None)
        signal.siginterrupt(signum, False)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _release_forks()


def catch_term(terminate: Callable[[bool], None], master_pid: int) -> None:
    """Calls ``terminate(orphaned)`` at every TERM: somebody's, or the kernel's when the master has died.

    A plain handler and not the loop's: it runs between any two bytecodes, so that an orphan whose loop is blocked by
    user code is still ended. It leaves system calls interruptible: a read that the kernel restarts would never let the
    handler run.
    """
    signal.signal(signal.SIGTERM, lambda _signum, _frame: terminate(os.getppid() != master_pid))


def _release_forks() -> None:
    """A process that user code forks (multiprocessing) has signals of its own: terminate() must end it, and must not
    wake our loop, whose wakeup descriptor it shares. Masked meanwhile: a TERM right after the fork would be lost."""
    masks: list[set[int | signal.Signals]] = []

    def mask() -> None:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, OURS))

    def unmask() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop())

    def in_child() -> None:
        signal.set_wakeup_fd(-1)
        for signum in OURS:
            signal.signal(signum, signal.SIG_DFL)
        unmask()

    os.register_at_fork(before=mask, after_in_parent=unmask, after_in_child=in_child)
