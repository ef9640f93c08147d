"""Energy of a row of `bench`: sensors are too slow for single calls, so a row runs alone for some seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

from drsn_edge.errors import MissingDevice
from drsn_edge.pipeline.bench_result import BenchEnergy
from drsn_edge.runtime.power import MIN_SAMPLES, PowerMeter, PowerReading, PowerSensor


def idle_power(sensor: PowerSensor, seconds: float) -> PowerReading:
    """What the device takes while it does nothing: networks are loaded, nothing runs.

    Raises:
        MissingDevice: The sensor gave too few samples.
    """
    with PowerMeter(sensor) as meter:
        time.sleep(seconds)
    reading = meter.reading
    if reading is None:
        raise MissingDevice(
            "the power sensor does not answer often enough to tell the idle power",
            got=f"{sensor.name}: fewer than {MIN_SAMPLES} samples in {seconds:g} s",
            expected=f"at least {MIN_SAMPLES}",
            hint="leave --energy out, or measure at the plug",
        )
    return reading


def row_energy(
    call: Callable[[], object], batch: int, *, sensor: PowerSensor, idle: PowerReading, seconds: float
) -> BenchEnergy | None:
    """Run one row alone and integrate its power; None with too few samples.

    Args:
        call: Decides `batch` windows, and has ended when it returns.
        batch: Windows in a call.
        sensor: Of the power.
        idle: What the device takes without the row.
        seconds: How long.
    """
    calls, took = 0, 0.0
    with PowerMeter(sensor) as meter:
        began = time.monotonic()
        while took < seconds:
            call()
            calls += 1
            took = time.monotonic() - began
    reading = meter.reading
    if reading is None:
        return None
    windows, above = calls * batch, reading.watts - idle.watts
    return BenchEnergy(
        watts=reading.watts,
        idle_watts=idle.watts,
        joules_per_decision=above * took / windows if above > 0 else None,
        joules_per_decision_with_idle=reading.watts * took / windows,
        seconds=took,
        windows=windows,
        samples=reading.samples,
        rails=reading.rails,
        sensor=sensor.name,
    )
