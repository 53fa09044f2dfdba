"""What systemd is told (sd_notify(3)), through the sdnotify library. Without NOTIFY_SOCKET every call is a no-op.

The variables are taken out of the environment: a child must not be mistaken for the daemon.
"""

from __future__ import annotations

import time
from collections.abc import MutableMapping

import sdnotify

SEND_TIME = 1.0
"""Seconds that a notification may take before it is given up: systemd is not to hang the master."""


class Notify:
    """Process: the master."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        # The library reads os.environ itself; without systemd it would leave a socket behind.
        self._notifier = sdnotify.SystemdNotifier() if environ.get("NOTIFY_SOCKET") else None
        environ.pop("NOTIFY_SOCKET", None)
        if self._notifier is not None and self._notifier.socket is not None:
            self._notifier.socket.settimeout(SEND_TIME)
        usec = int(environ.pop("WATCHDOG_USEC", "0") or 0)
        environ.pop("WATCHDOG_PID", None)
        self.watchdog_interval = usec / 2e6
        """Seconds between two pings; 0: there is no watchdog."""
        self._status = ""

    def ready(self) -> None:
        self._say("READY=1")

    def reloading(self) -> None:
        # Without MONOTONIC_USEC a Type=notify-reload service counts the reload as failed.
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._say("STOPPING=1")

    def status(self, line: str) -> None:
        """One human line for `systemctl status`; said when it changes."""
        if line != self._status:
            self._status = line
            # The library encodes as latin-1 and swallows what that cannot hold.
            self._say("STATUS=" + line.replace("\n", " ").encode("ascii", "replace").decode())

    def watchdog(self) -> None:
        self._say("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """We may need so long from now; systemd is to be patient."""
        self._say(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def close(self) -> None:
        if self._notifier is not None and self._notifier.socket is not None:
            self._notifier.socket.close()

    def _say(self, *lines: str) -> None:
        if self._notifier is not None:
            self._notifier.notify("\n".join(lines))
