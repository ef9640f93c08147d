"""What every source of samples looks like, and the clock that all of them read."""

from __future__ import annotations

import abc
import select
import time
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import ContractError
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.readers import pick, unnamed
from drsn_edge.stream.spec import SourceSpec

Samples = NDArray[np.float32]


class Clock:
    """Wall clock, steady clock, and waiting. Tests give another."""

    def wall(self) -> float:
        """Seconds since 1970; may jump."""
        return time.time()

    def steady(self) -> float:
        """Seconds that only go forwards."""
        return time.monotonic()

    def wait(self, descriptors: list[int], seconds: float) -> None:
        """Until one can be read, or some seconds."""
        select.select(descriptors, [], [], seconds)


class Source(abc.ABC):
    """Gives samples `[channels, n]` float32 in order, without ever waiting for them.

    Attributes:
        spec: As it was asked for.
        ended: There will be no more.
        fresh: What `poll` gave last does not continue what it gave before.
        drained: `poll` took all there was.
        events: What happened since somebody looked, as (event, details); whoever looks empties it.
        bytes_cut: Bytes of samples that a lost connection cut in two.
    """

    replayable: ClassVar[bool] = False

    def __init__(self, spec: SourceSpec, contract: SignalContract) -> None:
        self.spec = spec
        self.contract = contract
        self.ended = False
        self.fresh = False
        self.drained = True
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.bytes_cut = 0

    @abc.abstractmethod
    def poll(self, room: int) -> Samples | None:
        """At most `room` samples that are there now; None for none."""

    def fileno(self) -> int | None:
        """What to wait on for more; None where waiting means looking again."""
        return None

    @property
    def away(self) -> bool:
        """Whether the sensor is known to be gone."""
        return False

    @property
    def full_scale(self) -> float | None:
        """Largest magnitude that a sample can have; None where nobody knows."""
        integers = self.spec.format in ("int16", "int24") or self.spec.place.lower().endswith(".wav")
        return self.spec.full_scale or (self.spec.scale if integers else None)

    def close(self) -> None:  # noqa: B027 - not every source holds something
        """Give back what is held."""

    def cookie(self) -> dict[str, Any]:
        """What `restore` needs beside a position; of replayable sources only."""
        return {}

    def restore(self, position: int, cookie: dict[str, Any]) -> None:
        """Go on at a sample's number; of replayable sources only."""
        raise NotImplementedError

    def event(self, name: str, **details: Any) -> None:
        """Remember what happened; of a crowd of them the newest are dropped."""
        if len(self.events) < 100:
            self.events.append((name, details))


def wanted_channels(spec: SourceSpec, contract: SignalContract, count: int) -> list[int]:
    """Which of `count` interleaved channels are the contract's, by number.

    Raises:
        InputError: A channel that is not there.
        ContractError: Another number of channels than the network takes.
    """
    wanted = None if spec.channel is None else spec.channel.split("+")
    places = list(range(count)) if wanted is None else pick(unnamed(count), wanted, path=_Named(spec.text))  # type: ignore[arg-type]
    if len(places) != len(contract.channels):
        raise ContractError(
            f"{spec.text} has another number of channels than the contract",
            got=len(places),
            expected=f"{len(contract.channels)} ({', '.join(contract.channels)})",
            hint="say how many are interleaved and which are wanted: SOURCE,channels=4,channel=2",
        )
    return places


class _Named(str):
    """A source's text where messages have a path."""
