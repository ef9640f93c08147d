"""Power of a board from recorded trees, of a process, of NVML; what a piece of work costs."""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsn_edge.errors import MissingDevice, UsageError
from drsn_edge.runtime import power
from drsn_edge.runtime.nvml import Nvml
from drsn_edge.runtime.power import PowerMeter, find_sensor, integrate, total
from drsn_edge.runtime.power_sensors import HwmonSensor, NvmlSensor, TegrastatsSensor


def chip(root: Path, number: int, kind: str, **files: object) -> Path:
    folder = root / f"sys/class/hwmon/hwmon{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{kind}\n")
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


@pytest.fixture
def agx_orin(tmp_path: Path) -> Path:
    """As published for an AGX Orin: volts and amperes of two INA3221, channels without a load called NC."""
    chip(tmp_path, 0, "tmp451", temp1_input=41000)
    chip(
        tmp_path, 3, "ina3221", in1_label="VDD_GPU_SOC", in1_input=843, curr1_input=6170, in2_label="VDD_CPU_CV",
        in2_input=780, curr2_input=3437, in3_label="VIN_SYS_5V0", in3_input=4968, curr3_input=953, in7_label="sum",
        in7_input=9, curr4_input=1,
    )  # fmt: skip
    chip(
        tmp_path, 4, "ina3221", in1_label="NC", in1_input=0, curr1_input=0, in2_label="VDDQ_VDD2_1V8AO",
        in2_input=1800, curr2_input=341, in3_input=0, curr3_input=0,
    )  # fmt: skip
    return tmp_path


def test_rails_of_a_board(agx_orin: Path) -> None:
    rails = HwmonSensor(agx_orin).read()
    expected = {"VDD_GPU_SOC": 5.20131, "VDD_CPU_CV": 2.68086, "VIN_SYS_5V0": 4.734504, "VDDQ_VDD2_1V8AO": 0.6138}
    assert rails == pytest.approx(expected)
    # DDR hangs on the 5 V rail: counted once.
    watts, names = total(rails)
    assert watts == pytest.approx(5.20131 + 2.68086 + 4.734504)
    assert names == "VDD_CPU_CV + VDD_GPU_SOC + VIN_SYS_5V0"


def test_the_input_of_the_module_is_all_of_it(tmp_path: Path) -> None:
    chip(tmp_path, 1, "ina3221", in1_label="VDD_IN", in1_input=5000, curr1_input=1000, in2_label="VDD_SOC",
         in2_input=5000, curr2_input=300)  # fmt: skip
    assert total(HwmonSensor(tmp_path).read()) == (5.0, "VDD_IN")


def test_thor_has_a_chip_of_its_own_at_the_input(tmp_path: Path) -> None:
    chip(tmp_path, 1, "ina3221", in1_label="VDD_GPU", in1_input=800, curr1_input=-490)
    chip(tmp_path, 2, "ina238", in1_input=20000, curr1_input=840, power1_input=16802000)
    rails = HwmonSensor(tmp_path).read()
    assert rails == pytest.approx({"VDD_GPU": -0.392, "VIN": 16.802})
    assert total(rails)[1] == "VIN"


def test_a_channel_that_cannot_be_read_is_left_out(agx_orin: Path) -> None:
    sensor = HwmonSensor(agx_orin)
    (agx_orin / "sys/class/hwmon/hwmon3/curr1_input").write_text("")
    assert "VDD_GPU_SOC" not in sensor.read()
    assert "VDD_GPU_SOC" in sensor.rails


def test_a_running_tegrastats_is_followed_and_ended() -> None:
    line = "RAM 1/2MB cpu@40C VDD_IN 5000mW/4000mW"
    script = f"import time\nwhile True:\n    print({line!r}, flush=True)\n    time.sleep(0.01)"
    sensor = TegrastatsSensor((sys.executable, "-c", script))
    assert sensor.read() == {"VDD_IN": 5.0}
    process = sensor._process
    sensor.close()
    sensor.close()
    assert process is not None
    assert process.returncode is not None


def test_a_tegrastats_that_ends_or_is_absent_tells_nothing() -> None:
    ended = TegrastatsSensor((sys.executable, "-c", "print('no permission')"))
    assert ended.read() == {}
    ended.close()
    absent = TegrastatsSensor(("no-such-program",))
    assert absent.read() == {}
    absent.close()


class FakeNvml:
    """One GPU; `failing` functions answer that they are not supported."""

    def __init__(self, failing: tuple[str, ...] = ()) -> None:
        self.failing, self.index = failing, -1
        self.values = {
            "nvmlDeviceGetPowerUsage": 71_300, "nvmlDeviceGetEnforcedPowerLimit": 700_000,
            "nvmlDeviceGetTemperature": 31, "nvmlDeviceGetClockInfo": 345, "nvmlDeviceGetMaxClockInfo": 1980,
        }  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            if name in self.failing:
                return 3  # NVML_ERROR_NOT_SUPPORTED
            if name == "nvmlDeviceGetHandleByIndex_v2":
                self.index = arguments[0]
            elif name == "nvmlDeviceGetMemoryInfo":
                arguments[-1]._obj.used = 5 << 20
            elif name in self.values:
                ctypes.cast(arguments[-1], ctypes.POINTER(ctypes.c_uint))[0] = self.values[name]
            return 0

        return call


def test_a_gpu_that_is_plugged_in() -> None:
    reading = Nvml(FakeNvml()).read()
    assert (reading.power_w, reading.power_limit_w, reading.temperature_c) == (71.3, 700.0, 31.0)
    assert (reading.clock_mhz, reading.max_clock_mhz, reading.memory_used_bytes) == (345, 1980, 5 << 20)
    assert NvmlSensor(Nvml(FakeNvml())).read() == {"GPU board": 71.3}


def test_what_a_gpu_does_not_tell_is_none() -> None:
    nvml = Nvml(FakeNvml(("nvmlDeviceGetPowerUsage", "nvmlDeviceGetMemoryInfo")))
    assert (nvml.read().power_w, nvml.read().memory_used_bytes, nvml.read().clock_mhz) == (None, None, 345)
    assert NvmlSensor(nvml).read() == {}


@pytest.mark.parametrize("failing", ["nvmlInit_v2", "nvmlDeviceGetHandleByIndex_v2"])
def test_no_gpu_is_no_sensor(failing: str) -> None:
    assert not Nvml(FakeNvml((failing,))).usable
    assert NvmlSensor(Nvml(FakeNvml((failing,)))).read() == {}


@pytest.mark.parametrize(("variable", "index"), [("2,0", 2), ("", 0), ("GPU-8f1c", 0)])
def test_the_gpu_is_the_one_that_cuda_uses(monkeypatch: pytest.MonkeyPatch, variable: str, index: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    library = FakeNvml()
    Nvml(library)
    assert library.index == index


def test_the_first_sensor_that_answers_counts(agx_orin: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert find_sensor(agx_orin).name == "hwmon"
    empty = tmp_path_factory.mktemp("empty")
    assert find_sensor(empty, nvml=Nvml(FakeNvml())).name == "nvml"


def test_a_machine_without_sensors_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingDevice, match="does not tell its power") as caught:
        find_sensor(tmp_path, nvml=Nvml(FakeNvml(("nvmlInit_v2",))))
    assert "INA3221" in str(caught.value)
    assert "a Jetson" in str(caught.value)


@given(
    watts=st.floats(-1, 100),
    times=st.lists(st.floats(0.001, 1), min_size=power.MIN_SAMPLES, max_size=40),
    slope=st.floats(-10, 10),
)
def test_the_mean_of_a_ramp_is_its_middle(watts: float, times: list[float], slope: float) -> None:
    at = [sum(times[:index]) for index in range(len(times))]
    reading = integrate([(moment, {"VIN": watts + slope * moment}) for moment in at])
    assert reading is not None
    assert reading.watts == pytest.approx(watts + slope * at[-1] / 2, abs=1e-6)
    assert reading.samples == len(times)


def test_few_samples_or_a_rail_that_comes_and_goes() -> None:
    assert integrate([(float(index), {"VIN": 1.0}) for index in range(power.MIN_SAMPLES - 1)]) is None
    samples = [(float(index), {"VDD_SOC": 2.0} | ({"VDD_GPU": 1.0} if index % 2 else {})) for index in range(20)]
    reading = integrate(samples)
    assert reading is not None
    assert reading.rails_w == {"VDD_SOC": 2.0}


def test_a_meter_samples_while_the_block_runs(agx_orin: Path) -> None:
    with PowerMeter(HwmonSensor(agx_orin), interval_s=0.001) as meter:
        deadline = time.monotonic() + 20
        while meter.reading is None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert meter.reading is not None
    assert meter.reading.watts == pytest.approx(5.20131 + 2.68086 + 4.734504)
    with pytest.raises(UsageError, match="interval"):
        PowerMeter(HwmonSensor(agx_orin), interval_s=0)
