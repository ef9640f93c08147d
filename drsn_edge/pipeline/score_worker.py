"""One recording of an archive, scored in a worker: the very stream that `run` is, its result written by rename."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge._version import __version__
from drsn_edge.bundle import Bundle
from drsn_edge.errors import DrsnError, InputError
from drsn_edge.files import write_json
from drsn_edge.pipeline.run import StreamOptions, telemetry_of
from drsn_edge.pipeline.run_runner import choose_runner
from drsn_edge.runtime.runner import Runner
from drsn_edge.stream.drift import TelemetryRange
from drsn_edge.stream.loop import Stream
from drsn_edge.stream.open import open_sensor
from drsn_edge.stream.outbox import LineSink
from drsn_edge.stream.smoothing import SmoothingOptions
from drsn_edge.stream.source import Clock
from drsn_edge.stream.spec import SourceSpec

RESULT, LINES = ".json", ".jsonl"


@dataclass(frozen=True)
class Setup:
    """What is the same for all recordings.

    Attributes:
        bundle: Its folder, on whatever machine the worker is.
        digest: That it must have there.
        version: Of drsn-edge, likewise.
        runner, precision, allow_unverified: As for `run`.
        options, smoothing: Likewise.
        lines: Whether every decision is written down.
    """

    bundle: str
    digest: str
    version: str
    runner: str
    precision: str | None
    allow_unverified: bool
    options: StreamOptions
    smoothing: SmoothingOptions
    lines: bool


@dataclass(frozen=True)
class Job:
    """One recording.

    Attributes:
        setup: Of all.
        spec: Where it is and how it is read.
        archive, file: Its name.
        into: Where its result goes, without suffix.
        size, mtime_ns: That it had when it was found.
    """

    setup: Setup
    spec: SourceSpec
    archive: str
    file: str
    into: str
    size: int
    mtime_ns: int


class Opened:
    """A bundle with its runner, kept open from one recording to the next."""

    def __init__(self, setup: Setup) -> None:
        self.bundle = Bundle.open(setup.bundle)
        if (self.bundle.digest, __version__) != (setup.digest, setup.version):
            raise InputError(
                "a worker has another bundle or another drsn-edge",
                got=f"{setup.bundle} of digest {self.bundle.digest}, version {__version__}",
                expected=f"digest {setup.digest}, version {setup.version}",
                hint="give every machine the same of both",
            )
        chosen = choose_runner(
            self.bundle, runner=setup.runner, precision=setup.precision, allow_unverified=setup.allow_unverified
        )
        self.name = chosen.name
        self.known: TelemetryRange | None = telemetry_of(self.bundle)[0]
        self.runner: Runner = chosen.runner.__enter__()  # until the process ends
        self._turn = contextlib.nullcontext() if self.runner.concurrent else threading.Lock()

    def infer(self, x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Of one thread at a time, where the runner can do no more."""
        with self._turn:
            return self.runner.run({"window": x})


_OPENED: dict[Setup, Opened] = {}
_OPENING = threading.Lock()  # a worker of Dask may have several threads


def score_file(job: Job) -> dict[str, Any]:
    """Score it; what it says of it is in the file as well by then.

    Raises:
        DrsnError: The bundle or its runner cannot be used here: that is no fault of the recording.
        OSError: The result cannot be written.
    """
    with _OPENING:
        if job.setup not in _OPENED:
            _OPENED[job.setup] = Opened(job.setup)
    opened, began = _OPENED[job.setup], time.monotonic()
    row: dict[str, Any] = {
        "format_version": 1, "archive": job.archive, "file": job.file, "size": job.size, "mtime_ns": job.mtime_ns,
        "runner": opened.name,
    }  # fmt: skip
    into = Path(job.into)
    into.parent.mkdir(parents=True, exist_ok=True)
    # Two workers at one recording, as when Dask has lost sight of the first, are not in each other's way.
    hidden = into.with_name(f".{into.name}.{os.getpid()}-{threading.get_ident()}{LINES}")
    try:
        row |= {"status": "scored", "error": None, **_decide(job, opened, hidden)}
        if job.setup.lines:
            hidden.replace(into.with_name(into.name + LINES))
    except DrsnError as error:
        row |= {"status": "failed", "error": {"kind": type(error).__name__, "what": error.what, "text": str(error)}}
    finally:
        hidden.unlink(missing_ok=True)
    row["compute_s"] = round(time.monotonic() - began, 4)
    write_json(into.with_name(into.name + RESULT), row)
    return row


def _decide(job: Job, opened: Opened, lines: Path) -> dict[str, Any]:
    contract, options = opened.bundle.contract, job.setup.options
    try:
        sensor = open_sensor(
            job.spec, contract, hop=options.hop or contract.hop, smoothing=job.setup.smoothing, known=opened.known,
            drift_windows=options.drift_windows, clock=Clock(), real_time=False, resampling=options.resample, once=True,
        )  # fmt: skip
    except OSError as error:
        raise InputError("the recording cannot be read", got=error.strerror, expected="a file") from None
    sink = LineSink(str(lines)) if job.setup.lines else None
    if sink is not None:
        sink.open(resume_at=None, force=True)
    stream = Stream(
        [sensor], opened.infer, contract=contract, labels=opened.bundle.labels,
        temperature=float(opened.bundle.manifest["model"].get("temperature") or 1.0),
        max_batch=min(options.batch, opened.runner.max_batch or options.batch), sinks=() if sink is None else (sink,),
    )  # fmt: skip
    stream.run()
    if sink is not None and sink.lost:
        raise OSError(f"{lines.parent}: {sink.lost} lines could not be written: {sink.error}")
    counters = sensor.counters
    return {
        "samples": counters.samples,
        "seconds": round(counters.samples / sensor.rate, 3),
        "windows": counters.windows,
        "decided": counters.decided,
        "counts": {label: sensor.said[label] for label in opened.bundle.labels},
        "unknown": counters.unknown,
        "clipped": counters.clipped,
        "flat": counters.flat,
        "nan": counters.nan,
        "alarms": {kind: sensor.raised[kind] for kind in ("state", "drift", "input")},
        "state": sensor.smoother.state,
        "drift": None if sensor.drift is None else sensor.drift.outside,
    }
