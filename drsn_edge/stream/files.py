"""Samples out of recordings: single files, and a folder that somebody else writes to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from drsn_edge.errors import ContractError, DrsnError
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.readers import READERS, read_signal
from drsn_edge.stream.resample import resample
from drsn_edge.stream.source import Clock, Samples, Source
from drsn_edge.stream.spec import SourceSpec

_SETTLED_S = 1.0  # a file that has not changed for so long is whole
_LOOK_S = 0.5  # how often a folder is listed


def load(path: Path, spec: SourceSpec, contract: SignalContract, *, resampling: bool) -> Samples:
    """A recording as the contract wants it.

    Raises:
        ContractError: Another sample rate without `resampling`, or another number of channels.
        InputError: Not a recording.
    """
    samples, rate, _ = read_signal(path, channel=spec.channel, sample_rate_hz=spec.rate)
    if len(samples) != len(contract.channels):
        raise ContractError(
            f"{path} has another number of channels than the contract", got=len(samples),
            expected=f"{len(contract.channels)} ({', '.join(contract.channels)})",
            hint="choose with SOURCE,channel=NAME or its number",
        )  # fmt: skip
    if rate is not None and not math.isclose(rate, contract.sample_rate_hz, rel_tol=1e-6):
        if not resampling:
            raise other_rate(str(path), rate, contract)
        samples = resample(samples, rate, contract.sample_rate_hz)
    return samples if spec.scale == 1.0 else samples * np.float32(spec.scale)


def other_rate(what: str, rate: float, contract: SignalContract) -> ContractError:
    """The error for samples of another rate than the network's."""
    return ContractError(
        f"{what} has another sample rate than the network",
        got=f"{rate:g} Hz",
        expected=f"{contract.sample_rate_hz:g} Hz",
        hint="add --resample, or give the rate that it really has: SOURCE,rate=HZ",
    )


class FileSource(Source):
    """One recording, read whole; paced by the clock if asked.

    Args:
        spec: A file.
        contract: Of the network.
        clock: For the pace.
        paced: Give samples no faster than a sensor would.
        resampling: Take other sample rates.
    """

    replayable: ClassVar[bool] = True

    def __init__(
        self, spec: SourceSpec, contract: SignalContract, *, clock: Clock, paced: bool, resampling: bool
    ) -> None:
        super().__init__(spec, contract)
        self._samples = load(Path(spec.place), spec, contract, resampling=resampling)
        self._clock = clock if paced else None
        self._at = 0
        self._began: tuple[float, int] | None = None

    def poll(self, room: int) -> Samples | None:
        """See `Source`."""
        stop = min(self._samples.shape[1], self._at + room)
        if self._clock is not None:
            now = self._clock.steady()
            self._began = self._began or (now, self._at)
            stop = min(stop, self._began[1] + int((now - self._began[0]) * self.contract.sample_rate_hz))
        piece = self._samples[:, self._at : stop]
        self._at = max(self._at, stop)
        self.ended = self._at >= self._samples.shape[1]
        return piece if piece.shape[1] else None

    def restore(self, position: int, cookie: dict[str, Any]) -> None:
        """See `Source`."""
        del cookie
        self._at = min(position, self._samples.shape[1])


class FolderSource(Source):
    """Recordings that appear in a folder, by name; each is a stretch of its own.

    A file counts once it has not changed for a second. Hidden files and those of other suffixes are left alone; one
    that cannot be used is reported and passed over.

    Args:
        spec: A folder.
        contract: Of the network.
        clock: For when to look.
        resampling: Take other sample rates.
        once: End when all that is there has been read.
    """

    replayable: ClassVar[bool] = True

    def __init__(
        self, spec: SourceSpec, contract: SignalContract, *, clock: Clock, resampling: bool, once: bool = False
    ) -> None:
        super().__init__(spec, contract)
        self._clock, self._resampling, self._once = clock, resampling, once
        self._done = ""  # the last name that was read: later files have later names
        self._current: Samples | None = None
        self._at = self._base = 0
        self._sizes: dict[str, tuple[int, int, float]] = {}  # name: size, mtime, since when
        self._look = -math.inf

    def poll(self, room: int) -> Samples | None:
        """See `Source`."""
        if self._current is None and not self._next():
            return None
        assert self._current is not None
        piece = self._current[:, self._at : self._at + room]
        self._at += piece.shape[1]
        if self._at >= self._current.shape[1]:
            self._base += self._current.shape[1]
            self._current, self._at = None, 0
        return piece if piece.shape[1] else None

    def _next(self) -> bool:
        """Open the next whole file."""
        now = self._clock.steady()
        if now < self._look:
            return False
        name = self._settled(now)
        if name is None:
            self._look = now + _LOOK_S
            return False
        first = not self._done
        self._done = name
        self._sizes.pop(name, None)
        try:
            self._current = load(Path(self.spec.place) / name, self.spec, self.contract, resampling=self._resampling)
        except (DrsnError, OSError) as error:
            self.event("unreadable", file=name, reason=error.what if isinstance(error, DrsnError) else str(error))
            return False
        self.fresh = self.fresh or not first
        self.event("file", file=name, samples=self._current.shape[1])
        return True

    def _settled(self, now: float) -> str | None:
        """Name of the next file that is whole."""
        names = sorted(
            path.name
            for path in Path(self.spec.place).iterdir()
            if path.suffix.lower() in READERS and not path.name.startswith(".") and path.name > self._done
        )
        self.ended = self._once and not names
        for name in names[:1]:
            try:
                info = (Path(self.spec.place) / name).stat()
            except OSError:  # moved away between listing and looking
                continue
            seen = self._sizes.get(name)
            if seen is None or seen[:2] != (info.st_size, info.st_mtime_ns):
                self._sizes = {name: (info.st_size, info.st_mtime_ns, now)}
                # Old files have been whole for long.
                if self._clock.wall() - info.st_mtime < _SETTLED_S:
                    continue
            elif now - seen[2] < _SETTLED_S:
                continue
            return name
        return None

    def cookie(self) -> dict[str, Any]:
        """The file that is being read, or the last one, and where it began."""
        return {"file": self._done, "base": self._base, "open": self._current is not None}

    def restore(self, position: int, cookie: dict[str, Any]) -> None:
        """See `Source`."""
        name, self._base = str(cookie.get("file", "")), int(cookie.get("base", position))
        self._done = name
        path = Path(self.spec.place) / name
        if not name or (position >= self._base and not cookie.get("open")):
            return
        if not path.is_file():
            self.event("unreadable", file=name, reason="it is gone since the last run")
            return
        self._current = load(path, self.spec, self.contract, resampling=self._resampling)
        if position < self._base:  # what the ring held was of this file, which had been read to its end
            self._base -= self._current.shape[1]
        self._at = min(max(0, position - self._base), self._current.shape[1])
