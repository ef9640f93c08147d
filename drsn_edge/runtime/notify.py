"""Telling systemd how a service is: ready, alive, stopping. Nothing happens where systemd did not ask.

Source: sd_notify(3): one datagram of lines to the socket that NOTIFY_SOCKET names.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping


def notify(state: str, *, environment: Mapping[str, str] = os.environ) -> bool:
    """Send `READY=1`, `WATCHDOG=1`, `STOPPING=1` or `STATUS=text`.

    A service must not die of what only reports on it, so nothing is raised.

    Returns:
        Whether it was sent; false where nobody listens.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return False
    if address.startswith("@"):  # a name without a file
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)) as channel:
            channel.settimeout(1.0)
            channel.sendto(state.encode(), address)
    except OSError:
        return False
    return True


def watchdog_period_s(*, environment: Mapping[str, str] = os.environ) -> float | None:
    """How often `WATCHDOG=1` is due, half of what the unit allows; None where nobody watches this process."""
    microseconds, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or process not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 2e6


def watched(
    stop: Callable[[], bool],
    *,
    environment: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[], bool]:
    """A loop's `stop`, which also tells systemd that the loop turns: ready at the first turn, alive at every due one.

    Args:
        stop: Asked in every turn whether to end.
        environment: Of the process.
        clock: Seconds that never go back.
    """
    period = watchdog_period_s(environment=environment)
    due: list[float] = []  # empty until the first turn

    def ask() -> bool:
        now = clock()
        if not due:
            notify("READY=1", environment=environment)
            due.append(now)
        if period is not None and now >= due[0]:
            notify("WATCHDOG=1", environment=environment)
            due[0] = now + period
        if ended := stop():
            notify("STOPPING=1", environment=environment)
        return ended

    return ask
