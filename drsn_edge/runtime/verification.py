"""Has this engine been shown to decide as its graph does, on this very machine? The key `verified` of `engine.json`.

An engine is used only after the golden windows went through it where it runs: a plan that loads can still be one that
decides otherwise. A verdict holds for one GPU, one driver and one version of the engine's library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from drsn_edge.runtime.preflight import Here


@dataclass(frozen=True)
class VerifiedOn:
    """What a verdict is bound to.

    Attributes:
        gpu: Name of the GPU.
        sm: Its compute capability.
        driver: The newest CUDA version that its driver serves.
        version: Of the library that ran the engine.
        platform: `linux-aarch64`.
    """

    gpu: str
    sm: str
    driver: str
    version: str
    platform: str

    @classmethod
    def here(cls, runner: str, here: Here) -> VerifiedOn | None:
        """This machine, for a runner; None without a GPU or without the runner's library."""
        device, backend = here.device.device, here.backends.get(runner)
        if device is None or backend is None or backend.version is None:
            return None
        return cls(device.name, device.sm, device.driver, backend.version, here.platform)


@dataclass(frozen=True)
class Verification:
    """One verdict.

    Attributes:
        passed: Whether every golden window stayed within the tolerance.
        device: Where.
        reason: What was out of tolerance; None where it passed.
        max_abs: Largest difference of logits from those that the graph gave; None where the engine gave none.
        top1_agreement: Share of golden windows that are decided alike; likewise.
        windows: How many were run.
        at: When, in ISO 8601 and UTC.
    """

    passed: bool
    device: VerifiedOn
    reason: str | None
    max_abs: float | None
    top1_agreement: float | None
    windows: int
    at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def to_json(self) -> dict[str, Any]:
        """The value of `verified` in `engine.json`."""
        return asdict(self)


def unverified(sidecar: Mapping[str, Any], here: Here) -> str | None:
    """Why an engine must not be used on this machine as far as its verification goes; None where it may.

    Args:
        sidecar: The content of `engine.json`; empty for a plan without one.
        here: This machine.
    """
    verdict = sidecar.get("verified")
    if not isinstance(verdict, Mapping):
        return "not verified on this device yet"
    if verdict.get("passed") is not True:
        return f"its verification failed: {verdict.get('reason')}"
    on, now = verdict.get("device"), VerifiedOn.here(str(sidecar.get("runner")), here)
    if now is None:
        return f"needs an NVIDIA GPU: {here.device.reason}" if here.device.device is None else "its library is absent"
    changed = [
        f"{name} {then}, here {value}"
        for name, value in asdict(now).items()
        if (then := on.get(name) if isinstance(on, Mapping) else None) != value
    ]
    return f"verified with {'; '.join(changed)}" if changed else None


def outdated(sidecar: Mapping[str, Any], here: Here) -> str | None:
    """What has changed on the device that an engine was built on: its TensorRT or its driver; None where nothing has.

    Engines for other GPUs and platforms, and those that were built without a GPU, are not out of date.

    Args:
        sidecar: The content of `engine.json`.
        here: This machine.
    """
    now = VerifiedOn.here(str(sidecar.get("runner")), here)
    if now is None or sidecar.get("platform") != now.platform or now.sm not in (sidecar.get("targets") or ()):
        return None
    changed = []
    if sidecar.get("version") != now.version:
        changed.append(f"{sidecar.get('runner')} {sidecar.get('version')}, here {now.version}")
    if sidecar.get("driver") not in (None, now.driver):
        changed.append(f"a driver for CUDA {sidecar['driver']}, here {now.driver}")
    return f"built with {' and '.join(changed)}" if changed else None
