"""The state of a machine from a recorded tree, and which states may be compared."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from drsn_edge.errors import InputError
from drsn_edge.runtime.device_state import DeviceState, peak_rss_bytes, read_device_state, unlike

STATE = DeviceState(
    platform="linux-aarch64", board="NVIDIA Jetson Orin Nano", cpu="ARM part 0xd42", cpus=6, gpu="Orin", sm="sm87",
    power_mode="15W", gpu_clock_mhz=306, gpu_max_clock_mhz=612, gpu_clock_locked=False, temperature_c=48.0,
    software={"numpy": "1.26"},
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"power_mode": "MAXN"}, "power mode: 15W there, MAXN here"),
        ({"gpu": "Thor"}, "GPU: Orin there, Thor here"),
        ({"cpus": 4}, "number of CPUs: 6 there, 4 here"),
        ({"gpu_clock_locked": True}, "locked GPU clock"),
        ({"gpu_max_clock_mhz": 1020}, "highest GPU clock: 612 there, 1020 here"),
        ({"temperature_c": 64.0}, "temperature: 48 C there, 64 C here"),
    ],
)
def test_unlike_states_say_what_differs(change: dict[str, Any], said: str) -> None:
    (found,) = unlike(STATE, dataclasses.replace(STATE, **change))
    assert said in found


@pytest.mark.parametrize(
    "change", [{"temperature_c": 62.0}, {"temperature_c": None}, {"gpu_clock_mhz": 612}, {"software": {"numpy": "2"}}]
)
def test_what_moves_by_itself_does_not_count(change: dict[str, Any]) -> None:
    assert unlike(STATE, dataclasses.replace(STATE, **change)) == ()


def test_json_and_back() -> None:
    assert DeviceState.from_json(STATE.to_json()) == STATE
    with pytest.raises(InputError, match="state of the device") as caught:
        DeviceState.from_json({"platform": "x"})
    assert "temperature_c" in str(caught.value)


def test_a_recorded_board(tmp_path: Path) -> None:
    for name, text in {
        "proc/cpuinfo": "processor\t: 0\nCPU part\t: 0xd42\n",
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=2 NAME=MODE_30W >",
        "sys/class/devfreq/17000000.gpu/cur_freq": "306000000",
        "sys/class/devfreq/17000000.gpu/min_freq": "306000000",
        "sys/class/devfreq/17000000.gpu/max_freq": "612000000",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": "51234",
        "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
        "sys/class/thermal/thermal_zone1/temp": "-256000",
        "sys/class/thermal/thermal_zone2/type": "tj-thermal",
        "sys/class/thermal/thermal_zone2/temp": "52500",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    state = read_device_state(tmp_path)
    assert (state.board, state.cpu) == ("NVIDIA Jetson AGX Orin Developer Kit", "ARM part 0xd42")
    assert (state.power_mode, state.cpu_governor) == ("MODE_30W", "schedutil")
    assert (state.gpu_clock_mhz, state.gpu_max_clock_mhz, state.gpu_clock_locked) == (306, 612, False)
    assert state.temperature_c == 52.5
    assert "power mode MODE_30W" in state.summary


def test_this_machine_is_like_itself() -> None:
    state = read_device_state()
    assert unlike(state, read_device_state()) == ()
    assert "numpy" in state.software
    assert DeviceState.from_json(state.to_json()) == state


def test_memory_of_this_process() -> None:
    block = bytearray(b"x") * (64 << 20)
    peak = peak_rss_bytes()
    assert peak is None or peak > len(block)
