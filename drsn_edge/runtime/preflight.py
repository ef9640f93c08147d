"""Can this plan run here? Asked before anything of TensorRT is touched, and answered in words.

TensorRT has no such question: it deserializes, or returns nothing and logs a line. An engine that does not match the
device's TensorRT is the commonest failure in the field, so it gets a sentence and the command that mends it.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from drsn_edge.errors import MissingDependency
from drsn_edge.extras import available, install_hint, require
from drsn_edge.files import sha256_bytes, sha256_file
from drsn_edge.runtime.driver import DeviceProbe, probe_device
from drsn_edge.runtime.plan import PlanHeader, read_plan_header

__all__ = [
    "BackendInfo",
    "Here",
    "PlanHeader",
    "describe_device",
    "describe_here",
    "installed_backends",
    "preflight",
    "read_plan_header",
]

# kind of plan -> module, extra, what people call it. The order is that in which a runner is chosen.
BACKENDS = {
    "tensorrt": ("tensorrt", "tensorrt", "TensorRT"),
    "tensorrt-rtx": ("tensorrt_rtx", "rtx", "TensorRT for RTX"),
}


@dataclass(frozen=True)
class BackendInfo:
    """One engine library of this machine.

    Attributes:
        kind: `tensorrt` or `tensorrt-rtx`: the runner's name.
        version: None where it is not installed.
        problem: Why it cannot be used, although it may be installed.
        hint: What installs or mends it.
    """

    kind: str
    version: str | None
    problem: str | None = None
    hint: str | None = None


@dataclass(frozen=True)
class Here:
    """What this machine has: backends by kind, GPU or the reason why none, `system-machine`."""

    backends: Mapping[str, BackendInfo]
    device: DeviceProbe
    platform: str


def installed_backends() -> tuple[BackendInfo, ...]:
    """Which of TensorRT and TensorRT for RTX can be imported here, and which versions. Needs no GPU."""
    found = []
    for kind, (module, extra, _) in BACKENDS.items():
        if not available(module):
            found.append(BackendInfo(kind, None, f"{module} is not installed", install_hint(extra)))
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                version = str(require(module, purpose="running engines").__version__)
            found.append(BackendInfo(kind, version))
        except MissingDependency as error:
            # There, but broken: TensorRT 8.6's wheel without its cuDNN and cuBLAS, for one.
            found.append(BackendInfo(kind, _distribution_version(module), error.got, error.hint))
    return tuple(found)


def describe_device() -> DeviceProbe:
    """The GPU, or why there is none."""
    return probe_device()


def describe_here() -> Here:
    """All that `preflight` compares a plan with."""
    return Here(
        backends={backend.kind: backend for backend in installed_backends()},
        device=describe_device(),
        platform=this_platform(),
    )


def this_platform() -> str:
    """`linux-x86_64`, `linux-aarch64`, `windows-amd64`: plans never cross it."""
    return f"{platform.system()}-{platform.machine()}".lower()


def preflight(
    header: PlanHeader, sidecar: Mapping[str, Any], here: Here, *, plan: Path | bytes | None = None
) -> list[str]:
    """Reasons why a plan cannot run here; empty where none is known.

    Args:
        header: Of the plan; its word counts before the sidecar's.
        sidecar: The content of `engine.json`; may be empty, as for a plan made by trtexec.
        here: This machine.
        plan: The plan itself, to see whether it is whole and the one that the sidecar describes.
    """
    damage = [] if plan is None else _damage(header, sidecar, plan)
    if damage:
        return damage
    kind = header.kind if header.kind != "unknown" else str(sidecar.get("runner", "unknown"))
    if kind not in BACKENDS:
        return [f"{header}: give an engine that `drsn-edge build` or trtexec made"]
    reasons = []
    _, extra, title = BACKENDS[kind]
    built = header.version or sidecar.get("version")
    if sidecar.get("platform") not in (None, here.platform):
        reasons.append(f"built on {sidecar['platform']}, here {here.platform}: {_REBUILD}")
    set_flags = set(sidecar.get("flags", {}).get("set", ()))
    if "VERSION_COMPATIBLE" in set_flags and "EXCLUDE_LEAN_RUNTIME" not in set_flags:
        reasons.append(HOST_CODE)
    backend = here.backends.get(kind)
    if backend is None or backend.version is None or backend.problem is not None:
        problem = backend.problem if backend else "it is not installed"
        named = f"{title} {built}" if built else title
        reasons.append(f"built for {named}, but here {problem}: {(backend and backend.hint) or install_hint(extra)}")
    elif built and not _version_fits(str(built), backend.version, kind, sidecar):
        on = f" on {sidecar['sm']}" if sidecar.get("sm") else ""
        reasons.append(f"built for {title} {built}{on}, here {backend.version}: {_REBUILD}")
    device = here.device.device
    if device is None:
        reasons.append(f"needs an NVIDIA GPU: {here.device.reason}")
        return reasons
    targets = header.targets or tuple(sidecar.get("targets") or ()) or ((sidecar["sm"],) if sidecar.get("sm") else ())
    if targets and device.sm not in targets and not _hardware_compatible(device.sm, targets, sidecar):
        reasons.append(f"built for {', '.join(targets)}, here {device.name} is {device.sm}: {_REBUILD}")
    return reasons


def _damage(header: PlanHeader, sidecar: Mapping[str, Any], plan: Path | bytes) -> list[str]:
    """Whether a plan is whole, and the one that is described."""
    described = sidecar.get("plan") or {}
    size = len(plan) if isinstance(plan, bytes) else plan.stat().st_size
    for wanted in (header.size, described.get("size")):
        if wanted is not None and size != wanted:
            return [f"the plan has {size} bytes instead of {wanted}: copy it again, or {_REBUILD}"]
    if "sha256" in described:
        found = sha256_bytes(plan) if isinstance(plan, bytes) else sha256_file(plan)
        if found != described["sha256"]:
            other = f"sha256 {found[:12]} instead of {described['sha256'][:12]}"
            return [f"the plan is not the one that engine.json describes ({other}): copy both again, or {_REBUILD}"]
    return []


HOST_CODE = (
    "the plan holds native code (a lean runtime), which is not run: build it with `drsn-edge build "
    "--version-compatible`, or trtexec --versionCompatible --excludeLeanRuntime"
)
_REBUILD = "rebuild it here with `drsn-edge build BUNDLE`"


def _version_fits(built: str, installed: str, kind: str, sidecar: Mapping[str, Any]) -> bool:
    """Whether a library takes a plan; compared as far as both versions are written out."""
    one, other = _numbers(built), _numbers(installed)
    if kind == "tensorrt" and sidecar.get("flags", {}).get("version_compatible"):
        # Never backwards; across majors one step (8 to 10, 10 to 11) and no further: NVIDIA's support matrix.
        steps = {(8, 8), (8, 10), (10, 10), (10, 11), (11, 11)}
        return (one[0], other[0]) in steps and one <= other
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def _hardware_compatible(sm: str, targets: tuple[str, ...], sidecar: Mapping[str, Any]) -> bool:
    """AMPERE_PLUS plans run on every GPU from Ampere on."""
    wanted = bool(sidecar.get("flags", {}).get("hardware_compatible"))
    return wanted and all(int(name.removeprefix("sm")) >= 80 for name in (sm, *targets))


def _numbers(version: str) -> tuple[int, ...]:
    """`10.3.0.26` as numbers, up to the first part that is none."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _distribution_version(module: str) -> str | None:
    try:
        return metadata.version(module.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return None
