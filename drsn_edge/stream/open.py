"""From source specifications to sensors."""

from __future__ import annotations

import math

from drsn_edge.signals.contract import SignalContract
from drsn_edge.stream.drift import DriftWatch, TelemetryRange
from drsn_edge.stream.files import FileSource, FolderSource, other_rate
from drsn_edge.stream.live import PipeSource, StdinSource, TcpSource
from drsn_edge.stream.resample import Resampler
from drsn_edge.stream.sensor import Sensor
from drsn_edge.stream.smoothing import Smoother, SmoothingOptions
from drsn_edge.stream.source import Clock, Source
from drsn_edge.stream.spec import SourceSpec

_RAW: dict[str, type[PipeSource | StdinSource | TcpSource]] = {
    "pipe": PipeSource,
    "stdin": StdinSource,
    "tcp": TcpSource,
}


def open_source(
    spec: SourceSpec, contract: SignalContract, *, clock: Clock, real_time: bool, resampling: bool, once: bool
) -> Source:
    """The source of a specification.

    Raises:
        ContractError: Another rate or number of channels than the network takes.
        InputError: It cannot be opened.
    """
    if spec.kind == "file":
        return FileSource(spec, contract, clock=clock, paced=real_time, resampling=resampling)
    if spec.kind == "folder":
        return FolderSource(spec, contract, clock=clock, resampling=resampling, once=once)
    if _differs(spec, contract) and not resampling:
        assert spec.rate is not None
        raise other_rate(spec.text, spec.rate, contract)
    return _RAW[spec.kind](spec, contract, clock=clock, once=once)


def open_sensor(
    spec: SourceSpec,
    contract: SignalContract,
    *,
    hop: int,
    smoothing: SmoothingOptions,
    known: TelemetryRange | None,
    drift_windows: int,
    clock: Clock,
    real_time: bool,
    resampling: bool,
    once: bool,
) -> Sensor:
    """A sensor around the source of a specification; errors as of `open_source`."""
    source = open_source(spec, contract, clock=clock, real_time=real_time, resampling=resampling, once=once)
    resampler = None
    if spec.live and _differs(spec, contract):
        assert spec.rate is not None
        resampler = Resampler(len(contract.channels), spec.rate, contract.sample_rate_hz)
    return Sensor(
        source,
        contract,
        hop=hop,
        smoother=Smoother(smoothing),
        drift=None if known is None else DriftWatch(known, windows=drift_windows),
        real_time=real_time,
        resampler=resampler,
    )


def _differs(spec: SourceSpec, contract: SignalContract) -> bool:
    return spec.rate is not None and not math.isclose(spec.rate, contract.sample_rate_hz, rel_tol=1e-6)
