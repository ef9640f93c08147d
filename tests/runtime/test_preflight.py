from __future__ import annotations

import struct
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsn_edge.errors import InputError
from drsn_edge.extras import install_hint
from drsn_edge.runtime import preflight as module
from drsn_edge.runtime.driver import DeviceInfo, DeviceProbe
from drsn_edge.runtime.preflight import (
    BackendInfo,
    Here,
    PlanHeader,
    describe_here,
    installed_backends,
    preflight,
    read_plan_header,
)


def tensorrt_plan(*version: int) -> bytes:
    return b"ftrt" + struct.pack("<I", 0) + bytes(16) + bytes(version) + bytes(100)


def rtx_plan(mask: int) -> bytes:
    return b"vtrt" + bytes(20) + bytes((1, 7, 1, 116)) + bytes(4) + struct.pack("<Q", mask) + bytes(100)


def test_reads_tensorrts_header(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(tensorrt_plan(10, 16, 1, 11))
    header = read_plan_header(path)
    assert header == PlanHeader("tensorrt", "10.16.1.11")
    assert str(header) == "a plan of TensorRT 10.16.1.11"


def test_reads_rtxs_header_and_targets() -> None:
    header = read_plan_header(rtx_plan(0x0C))
    assert header == PlanHeader("tensorrt-rtx", "1.7.1.116", ("sm86", "sm89"))
    assert str(header) == "a plan of TensorRT for RTX 1.7.1.116 for sm86, sm89"


def test_first_bytes_are_enough() -> None:
    assert read_plan_header(tensorrt_plan(11, 4, 0, 106)[:64]).version == "11.4.0.106"


@pytest.mark.parametrize("content", [b"", b"ft", b"\x08\x07\x12", b"PK\x03\x04" + bytes(90)])
def test_unknown_stays_unknown(content: bytes) -> None:
    header = read_plan_header(content)
    assert (header.kind, header.version, header.targets) == ("unknown", None, None)
    assert "not with ftrt or vtrt" in str(header)


def test_a_header_that_is_cut_off_says_so() -> None:
    header = read_plan_header(b"ftrt" + bytes(10))
    assert header.version is None
    assert "cut off after 14 bytes" in str(header)


@pytest.mark.parametrize("plan", [tensorrt_plan(8, 6, 1, 6), b"ftrt" + struct.pack("<I", 7) + bytes(100)])
def test_a_layout_that_was_not_verified_gives_no_version(plan: bytes) -> None:
    header = read_plan_header(plan)
    assert (header.kind, header.version) == ("tensorrt", None)
    assert "version not readable" in str(header)


def test_absent_plan(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_plan_header(tmp_path / "none.engine")
    assert error.value.got == str(tmp_path / "none.engine")
    assert error.value.expected == "a TensorRT plan"


@given(st.binary(max_size=200))
def test_no_bytes_upset_the_reader(content: bytes) -> None:
    for plan in (content, b"ftrt" + content, b"vtrt" + content):
        assert str(read_plan_header(plan))


def here(
    tensorrt: str | None = "10.3.0",
    rtx: str | None = "1.7.1.116",
    sm: str | None = "sm87",
    problem: str | None = None,
) -> Here:
    device = None if sm is None else DeviceInfo("Orin", sm, "12.6", 1 << 30, integrated=True)
    return Here(
        backends={
            "tensorrt": BackendInfo("tensorrt", tensorrt, problem or (None if tensorrt else "it is not installed")),
            "tensorrt-rtx": BackendInfo("tensorrt-rtx", rtx, None if rtx else "it is not installed"),
        },
        device=DeviceProbe(device, None if device else "no CUDA driver"),
        platform="linux-aarch64",
    )


REBUILD = "rebuild it here with `drsn-edge build BUNDLE`"


@pytest.mark.parametrize(
    ("plan", "sidecar", "machine", "reasons"),
    [
        (tensorrt_plan(10, 3, 0, 26), {"sm": "sm87", "platform": "linux-aarch64"}, here(), []),
        (tensorrt_plan(10, 3, 0, 26), {}, here("10.3.0.26"), []),
        (
            tensorrt_plan(10, 16, 1, 11),
            {"sm": "sm87"},
            here(),
            [f"built for TensorRT 10.16.1.11 on sm87, here 10.3.0: {REBUILD}"],
        ),
        (
            tensorrt_plan(10, 3, 0, 26),
            {},
            here("10.3.0.30"),
            [f"built for TensorRT 10.3.0.26, here 10.3.0.30: {REBUILD}"],
        ),
        (tensorrt_plan(10, 3, 0, 26), {"sm": "sm86"}, here(), [f"built for sm86, here Orin is sm87: {REBUILD}"]),
        (
            tensorrt_plan(10, 3, 0, 26),
            {"platform": "linux-x86_64"},
            here(),
            [f"built on linux-x86_64, here linux-aarch64: {REBUILD}"],
        ),
        (tensorrt_plan(10, 3, 0, 26), {}, here(sm=None), ["needs an NVIDIA GPU: no CUDA driver"]),
        (
            tensorrt_plan(10, 3, 0, 26),
            {},
            here(problem="libcublas.so.12 is missing"),
            [f"built for TensorRT 10.3.0.26, but here libcublas.so.12 is missing: {install_hint('tensorrt')}"],
        ),
        (rtx_plan(0x04), {}, here(), [f"built for sm86, here Orin is sm87: {REBUILD}"]),
        (rtx_plan(0x04), {}, here(sm="sm86"), []),
        (
            rtx_plan(0x04),
            {},
            here(rtx=None, sm="sm86"),
            ["built for TensorRT for RTX 1.7.1.116, but here it is not installed: pip install 'drsn-edge[rtx]'"],
        ),
        # The header of TensorRT 8 says no version: the sidecar does.
        (tensorrt_plan(8, 6, 2, 3), {"version": "8.6.2"}, here("8.6.2"), []),
        (
            tensorrt_plan(8, 6, 2, 3),
            {"version": "8.5.2"},
            here("8.6.2"),
            [f"built for TensorRT 8.5.2, here 8.6.2: {REBUILD}"],
        ),
        (tensorrt_plan(8, 6, 2, 3), {}, here("8.6.2"), []),
        # An unknown header is no reason where the sidecar knows better.
        (b"????" + bytes(90), {"runner": "tensorrt", "version": "10.3.0"}, here(), []),
    ],
)
def test_reasons(plan: bytes, sidecar: dict[str, Any], machine: Here, reasons: list[str]) -> None:
    assert preflight(read_plan_header(plan), sidecar, machine) == reasons


def test_several_reasons_come_together() -> None:
    found = preflight(
        read_plan_header(tensorrt_plan(10, 16, 1, 11)), {"sm": "sm86", "platform": "linux-x86_64"}, here()
    )
    assert [reason.split(",")[0] for reason in found] == [
        "built on linux-x86_64",
        "built for TensorRT 10.16.1.11 on sm86",
        "built for sm86",
    ]


def test_no_plan_at_all_is_told() -> None:
    (reason,) = preflight(read_plan_header(b"PK\x03\x04" + bytes(90)), {}, here())
    assert "begins with 504b0304" in reason


@pytest.mark.parametrize(
    ("built", "installed", "fits"),
    [
        ("8.6.1", "8.6.2", True),
        ("8.6.1", "10.3.0", True),
        ("10.3.0", "11.4.0", True),
        ("8.6.1", "11.4.0", False),
        ("10.3.0", "10.2.0", False),
        ("10.3.0", "8.6.1", False),
    ],
)
def test_version_compatible_plans_go_one_step_forwards(built: str, installed: str, fits: bool) -> None:
    sidecar = {"flags": {"version_compatible": True}, "version": built}
    assert (preflight(PlanHeader("tensorrt"), sidecar, here(installed)) == []) is fits


@pytest.mark.parametrize(("sm", "fits"), [("sm87", True), ("sm75", False)])
def test_hardware_compatible_plans_run_from_ampere_on(sm: str, fits: bool) -> None:
    sidecar = {"flags": {"hardware_compatible": True}, "sm": "sm86"}
    assert (preflight(PlanHeader("tensorrt", "10.3.0.26"), sidecar, here(sm=sm)) == []) is fits


def test_backends_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = types.ModuleType("tensorrt_rtx")
    whole.__version__ = "1.7.1.116"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", whole)
    monkeypatch.setattr(module, "available", lambda name: name == "tensorrt_rtx")
    tensorrt, rtx = installed_backends()
    assert (tensorrt.kind, tensorrt.version, tensorrt.problem) == ("tensorrt", None, "tensorrt is not installed")
    assert "python3-libnvinfer" in str(tensorrt.hint)
    assert rtx == BackendInfo("tensorrt-rtx", "1.7.1.116")


def test_a_backend_that_is_there_but_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libcublas.so.12: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    tensorrt, _ = installed_backends()
    assert "libcublas.so.12" in str(tensorrt.problem)


def test_warnings_of_a_backend_stay_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("import warnings\nwarnings.warn('old')\n__version__ = '10.3.0'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    assert installed_backends()[0] == BackendInfo("tensorrt", "10.3.0")
    monkeypatch.delitem(sys.modules, "tensorrt")


def test_this_machine_can_be_described() -> None:
    found = describe_here()
    assert set(found.backends) == {"tensorrt", "tensorrt-rtx"}
    assert "-" in found.platform
    assert (found.device.device is None) == (found.device.reason is not None)
