"""sd_notify against a socket of ours."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from drsn_edge.runtime.notify import notify, watchdog_period_s, watched

if not hasattr(socket, "AF_UNIX"):
    pytest.skip("needs sockets of Unix", allow_module_level=True)


@pytest.mark.parametrize("abstract", [False, True])
def test_a_state_arrives(abstract: bool, tmp_path: Path) -> None:
    name = f"@drsn-edge-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        try:
            server.bind("\0" + name[1:] if abstract else name)
        except OSError as error:
            pytest.skip(f"no such sockets here: {error}")
        server.settimeout(5)
        assert notify("READY=1\nSTATUS=three sensors", environment={"NOTIFY_SOCKET": name})
        assert server.recv(100) == b"READY=1\nSTATUS=three sensors"


@pytest.mark.parametrize("address", [None, "", "relative", "/nowhere/socket"])
def test_nobody_listens(address: str | None) -> None:
    assert notify("READY=1", environment={} if address is None else {"NOTIFY_SOCKET": address}) is False


def test_the_period_of_the_watchdog() -> None:
    assert watchdog_period_s(environment={"WATCHDOG_USEC": "30000000"}) == 15.0
    mine = {"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}
    assert watchdog_period_s(environment=mine) == 1.0
    for nobody in ({}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, mine | {"WATCHDOG_PID": "1"}):
        assert watchdog_period_s(environment=nobody) is None


def test_a_loop_that_turns_says_so(tmp_path: Path) -> None:
    now, ended = [0.0], [False]
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(name)
        server.setblocking(False)

        def said() -> list[bytes]:
            found = []
            try:
                while True:
                    found.append(server.recv(100))
            except BlockingIOError:
                return found

        ask = watched(
            lambda: ended[0], environment={"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "4000000"}, clock=lambda: now[0]
        )
        assert said() == [], "not before the loop turns"
        assert ask() is False
        assert said() == [b"READY=1", b"WATCHDOG=1"]
        for now[0], expected in ((1.9, []), (2.0, [b"WATCHDOG=1"]), (2.1, []), (9.0, [b"WATCHDOG=1"])):
            assert ask() is False
            assert said() == expected
        ended[0] = True
        assert ask() is True
        assert said() == [b"STOPPING=1"]


def test_a_loop_that_nobody_watches() -> None:
    assert watched(lambda: True, environment={})() is True
