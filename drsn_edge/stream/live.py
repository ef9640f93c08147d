"""Raw samples from stdin, a named pipe or a TCP socket: interleaved, little-endian, never waited for."""

from __future__ import annotations

import abc
import errno
import os
import socket
import stat
import sys

import numpy as np

from drsn_edge.errors import InputError
from drsn_edge.signals.contract import SignalContract
from drsn_edge.stream.source import Clock, Samples, Source, wanted_channels
from drsn_edge.stream.spec import SourceSpec

_WIDTH = {"int16": 2, "int24": 3, "float32": 4}
_PIECE = 1 << 16  # bytes at a time: what a pipe of Linux holds
_RETRY_S = (0.5, 10.0)  # first and longest pause between attempts to connect


def decode(data: bytes | bytearray, form: str, channels: int) -> Samples:
    """Whole frames of interleaved samples as `[channels, n]`; integers become -1 to 1, as wav readers have them."""
    if form == "float32":
        flat = np.frombuffer(data, "<f4").astype(np.float32, copy=False)
    elif form == "int16":
        flat = np.frombuffer(data, "<i2").astype(np.float32)
        flat *= np.float32(2.0**-15)
    else:
        # 24 bits into the upper three bytes of 32: the sign comes with them.
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        flat = (wide.view("<i4")[:, 0] * 2.0**-31).astype(np.float32)
    return flat.reshape(-1, channels).T


class RawSource(Source):
    """Frames out of a descriptor that gives bytes; what comes and goes is the subclasses' affair.

    Args:
        spec: With `format`.
        contract: Of the network.
        clock: When to try again.
        once: End when the other side closes, instead of waiting for its return.
    """

    def __init__(self, spec: SourceSpec, contract: SignalContract, *, clock: Clock, once: bool = False) -> None:
        super().__init__(spec, contract)
        assert spec.format is not None
        self._form = spec.format
        self._channels = spec.channels or len(contract.channels)
        self._places = wanted_channels(spec, contract, self._channels)
        self._all = self._places == list(range(self._channels))
        self._frame = self._channels * _WIDTH[self._form]
        self._clock = clock
        self._once = once
        self._rest = b""
        self._heard = False  # since it was there last
        self._been_here = False

    def poll(self, room: int) -> Samples | None:
        """See `Source`."""
        want = min(room * self._frame, max(_PIECE, self._frame)) - len(self._rest)
        if self.ended or want <= 0:
            return None
        data = self._read(want)
        if data is None:
            self.drained = True
            return None
        if data == b"":
            self._lost()
            return None
        self.drained = len(data) < want
        if not self._heard:
            self._heard = True
            if self._been_here:
                self.fresh = True
                self.event("back")
            self._been_here = True
        data = self._rest + data
        whole = len(data) // self._frame * self._frame
        self._rest = data[whole:]
        if not whole:
            return None
        samples = decode(data[:whole], self._form, self._channels)
        if not self._all:
            samples = samples[self._places]
        return samples if self.spec.scale == 1.0 else samples * np.float32(self.spec.scale)

    @property
    def away(self) -> bool:
        """See `Source`."""
        return self._been_here and not self._heard

    def _lost(self) -> None:
        """The other side has closed."""
        self.drained = True
        self.bytes_cut += len(self._rest)
        self._rest = b""
        if self._heard:
            self._heard = False
            self.event("gone")
        if self._once and self._been_here:
            self.ended = True

    @abc.abstractmethod
    def _read(self, size: int) -> bytes | None:
        """Bytes, None where there are none now, `b""` where the other side has closed."""


class StdinSource(RawSource):
    """Standard input; its end is the end."""

    def __init__(self, spec: SourceSpec, contract: SignalContract, *, clock: Clock, once: bool = False) -> None:
        del once  # it can end only once
        super().__init__(spec, contract, clock=clock, once=True)
        self._handle = sys.stdin.fileno()
        mode = os.fstat(self._handle).st_mode
        self._blocking = os.get_blocking(self._handle)
        if stat.S_ISCHR(mode) and os.isatty(self._handle):
            raise InputError("stdin is a terminal", got="a keyboard", expected="raw samples through a pipe or <")
        os.set_blocking(self._handle, False)

    def _read(self, size: int) -> bytes | None:
        try:
            data = os.read(self._handle, size)
        except BlockingIOError:
            return None
        if data == b"":
            self.ended = True
        return data

    def fileno(self) -> int | None:
        """See `Source`."""
        return None if self.ended else self._handle

    def close(self) -> None:
        """Leave stdin as it was found: a shell shares it."""
        os.set_blocking(self._handle, self._blocking)


class PipeSource(RawSource):
    """A named pipe. Writers may come and go."""

    def __init__(self, spec: SourceSpec, contract: SignalContract, *, clock: Clock, once: bool = False) -> None:
        super().__init__(spec, contract, clock=clock, once=once)
        # Without O_NONBLOCK it would wait here for a writer.
        self._handle = os.open(spec.place, os.O_RDONLY | os.O_NONBLOCK)

    def _read(self, size: int) -> bytes | None:
        try:
            return os.read(self._handle, size)
        except BlockingIOError:
            return None

    def fileno(self) -> int | None:
        """None while there is no writer: a pipe that nobody holds is readable all the time."""
        return self._handle if self._heard else None

    def close(self) -> None:
        """See `Source`."""
        os.close(self._handle)


class TcpSource(RawSource):
    """A TCP server that sends samples to whoever connects; connected again whenever it is lost."""

    def __init__(self, spec: SourceSpec, contract: SignalContract, *, clock: Clock, once: bool = False) -> None:
        super().__init__(spec, contract, clock=clock, once=once)
        host, _, port = spec.place.rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._socket: socket.socket | None = None
        self._connected = False
        self._next_try = 0.0
        self._pause = _RETRY_S[0]
        self._told = ""

    def _read(self, size: int) -> bytes | None:
        if not self._connect():
            return None
        assert self._socket is not None
        try:
            data = self._socket.recv(size)
        except BlockingIOError:
            return None
        except OSError as error:
            self._drop(error)
            return b""
        if data == b"":
            self._drop(None)
        else:
            self._pause = _RETRY_S[0]
        return data

    def _connect(self) -> bool:
        """Whether there is a connection; begins one when it is time to."""
        if self._connected:
            return True
        now = self._clock.steady()
        try:
            if self._socket is None:
                if now < self._next_try:
                    return False
                family, kind, number, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_STREAM)[0]
                self._socket = socket.socket(family, kind, number)
                self._socket.setblocking(False)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                self._address_now = address
                self._next_try = now + _RETRY_S[1]
            code = self._socket.connect_ex(self._address_now)
        except OSError as error:
            self._drop(error)
            return False
        if code in (0, errno.EISCONN):
            self._connected, self._told = True, ""
            return True
        if code not in (errno.EINPROGRESS, errno.EALREADY) or now >= self._next_try:
            self._drop(OSError(code, os.strerror(code)))
        return False

    def _drop(self, error: OSError | None) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._connected = None, False
        self._next_try = self._clock.steady() + self._pause
        self._pause = min(2 * self._pause, _RETRY_S[1])
        said = "" if error is None else str(error.strerror or error)
        if said and said != self._told:  # once, not at every attempt
            self._told = said
            self.event("unreachable", reason=said)

    def fileno(self) -> int | None:
        """See `Source`."""
        return self._socket.fileno() if self._socket is not None and self._connected else None

    def close(self) -> None:
        """See `Source`."""
        if self._socket is not None:
            self._socket.close()
