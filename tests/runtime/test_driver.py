from __future__ import annotations

import ctypes
from typing import Any

import pytest

from drsn_edge.errors import MissingDevice
from drsn_edge.runtime import driver
from drsn_edge.runtime.driver import DeviceInfo, DeviceProbe, probe_device, require_device


class FakeDriver:
    """libcuda of an Orin; `statuses` names functions that fail."""

    def __init__(self, *, count: int = 1, **statuses: int) -> None:
        self.count = count
        self.statuses = statuses

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            status = self.statuses.get(name, 0)
            if status == 0 and hasattr(type(self), f"_{name}"):
                getattr(self, f"_{name}")(*arguments)
            return status

        return call

    @staticmethod
    def _cuDriverGetVersion(version: Any) -> None:
        version._obj.value = 12060

    def _cuDeviceGetCount(self, count: Any) -> None:
        count._obj.value = self.count

    @staticmethod
    def _cuDeviceGetName(name: Any, size: int, device: Any) -> None:
        name.value = b"Orin"

    @staticmethod
    def _cuDeviceTotalMem_v2(size: Any, device: Any) -> None:
        size._obj.value = 61 << 30

    @staticmethod
    def _cuDeviceGetAttribute(value: Any, attribute: int, device: Any) -> None:
        value._obj.value = {75: 8, 76: 7, 18: 1}[attribute]

    @staticmethod
    def _cuGetErrorString(status: int, text: Any) -> None:
        text._obj.value = {999: b"unknown error", 3: b"not initialised"}.get(status)


def use(monkeypatch: pytest.MonkeyPatch, fake: FakeDriver | None) -> None:
    monkeypatch.setattr(driver, "_load_driver", lambda: fake)


def test_describes_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeDriver())
    expected = DeviceInfo("Orin", "sm87", "12.6", 61 << 30, integrated=True)
    assert probe_device() == DeviceProbe(expected)
    assert require_device(purpose="building") == expected


@pytest.mark.parametrize(
    ("fake", "reason"),
    [
        (None, "no CUDA driver"),
        (FakeDriver(cuInit=100), "a CUDA driver, but no GPU"),
        (FakeDriver(cuInit=999), "the CUDA driver does not start: unknown error"),
        (FakeDriver(cuInit=34), "the CUDA driver does not start: error 34"),
        (FakeDriver(cuDriverGetVersion=3), "the CUDA driver does not answer"),
        (FakeDriver(count=0), "no GPU number 0: 0 found"),
        (FakeDriver(cuDeviceTotalMem_v2=3), "the GPU does not answer: not initialised"),
    ],
)
def test_says_why_there_is_none(fake: FakeDriver | None, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, fake)
    assert probe_device() == DeviceProbe(None, reason)
    with pytest.raises(MissingDevice) as error:
        require_device(purpose="running an engine")
    assert error.value.exit_code == 3
    assert error.value.what == "running an engine needs an NVIDIA GPU"
    assert error.value.got == reason
    assert error.value.expected == "a GPU with its driver"


def test_another_gpu_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeDriver(count=1))
    assert probe_device(1).reason == "no GPU number 1: 1 found"


def test_no_driver_library_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert probe_device().reason == "no CUDA driver"
